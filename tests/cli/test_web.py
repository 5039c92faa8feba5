"""`adaconv web` where it does not start."""

import importlib.util
import socket

import pytest

from adaconv_jax.checkpoints.load import shipped_models
from adaconv_jax.cli import web
from adaconv_jax.cli.web import main


def run(capsys, *arguments):
  code = main(list(arguments))
  printed = capsys.readouterr()
  assert printed.out == "" and printed.err.count("\n") == 1
  return code, printed.err


@pytest.fixture
def with_gradio(monkeypatch):
  monkeypatch.setattr(web.importlib.util, "find_spec", lambda name: True)


def test_without_gradio_one_line_names_the_extra(capsys, monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  code, line = run(capsys)
  assert code == 2 and line.endswith("pip install 'adaconv_jax[web]'\n")


def test_a_port_in_use_is_one_line_that_names_the_option(capsys, with_gradio):
  with socket.socket() as taken:
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    port = taken.getsockname()[1]
    code, line = run(capsys, "--port", str(port))
  assert code == 2
  assert line.startswith(f"error: --port: expected one that is free, got {port} on 127.0.0.1")


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 70, "a..b", "192.0.2.1"])
def test_a_host_that_is_none_of_this_machine_is_one_line(capsys, with_gradio, host):
  code, line = run(capsys, "--host", host)
  assert code == 2 and line.startswith("error: --host: expected an address or a name")


def test_a_wrong_model_is_one_line(capsys, with_gradio):
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = str(probe.getsockname()[1])
  code, line = run(capsys, "--port", port, "--model", "no-such-model")
  assert code == 2 and "no-such-model" in line


def test_the_page_shows_the_name_of_ones_own_model_and_not_its_folder():
  args = web._parser().parse_args(["--model", "/home/somebody/runs/first.safetensors"])
  studio, name = web._studio(args)
  assert name == "first.safetensors" and list(studio.models) == [name, *shipped_models()]
  assert studio.models[name] == "/home/somebody/runs/first.safetensors"


def test_only_this_machine_can_open_the_page_unless_asked():
  args = web._parser().parse_args([])
  assert args.host == "127.0.0.1" and args.share is False


def test_settings_of_gradio_are_quiet(monkeypatch, tmp_path):
  for name in ("GRADIO_ANALYTICS_ENABLED", "GRADIO_TEMP_DIR", "HF_HUB_DISABLE_TELEMETRY"):
    monkeypatch.setenv(name, "before")
  monkeypatch.setenv("NO_PROXY", "a")
  monkeypatch.delenv("no_proxy", raising=False)
  web.quiet_environment(tmp_path, "127.0.0.1")
  assert web.os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
  assert web.os.environ["GRADIO_TEMP_DIR"] == str(tmp_path)
  assert (
    web.os.environ["NO_PROXY"].split(",")[0] == "a" and "127.0.0.1" in web.os.environ["NO_PROXY"]
  )
