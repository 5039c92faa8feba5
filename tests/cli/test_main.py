"""The command `adaconv`: which subcommand runs, and what each of them is called."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import adaconv_jax
from adaconv_jax.cli import main as command
from adaconv_jax.cli import stylize
from adaconv_jax.cli.main import COMMANDS, main

ROOT = Path(__file__).parents[2]
OF_ALL = ("vgg import", "vgg normalize", *COMMANDS)


def python(*arguments, cwd) -> subprocess.CompletedProcess:
  """Runs Python in another folder; the package is found, but this repository's files are not."""
  environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
  return subprocess.run(
    [sys.executable, *map(str, arguments)],
    cwd=cwd, env=environment, capture_output=True, text=True, timeout=120,
  )  # fmt: skip


WITHOUT_JAX = """
import sys
from adaconv_jax.cli.main import main
code = main(sys.argv[1:])
assert not {"jax", "flax", "numpy"} & set(sys.modules), "imported"
sys.exit(code)
"""


@pytest.mark.parametrize("option", ["--version", "--help", "-h"])
def test_version_and_help_need_no_jax(option, tmp_path):
  done = python("-c", WITHOUT_JAX, option, cwd=tmp_path)
  assert (done.returncode, done.stderr) == (0, "")
  if option == "--version":
    assert done.stdout == f"adaconv_jax {adaconv_jax.__version__}\n"
  else:
    assert all(re.search(f"^  {name} ", done.stdout, re.M) for name in COMMANDS)


@pytest.mark.parametrize(
  ("name", "guess"),
  [("train", None), ("trian", "train"), ("infer", ""), ("--verison", ""), ("evalute", "evaluate")],
)
def test_an_unknown_command_is_one_line_with_the_names_and_the_nearest(
  name, guess, capsys, monkeypatch
):
  monkeypatch.setattr(command, "run", lambda *args, **kwargs: 0)
  code = main([name])
  out, err = capsys.readouterr()
  assert not out
  if guess is None:
    assert (code, err) == (0, "")
  else:
    assert code == 2 and err.count("\n") == 1
    assert f"expected one of {', '.join(COMMANDS)}, got {name!r}" in err
    assert err.endswith(f"did you mean {guess}?\n" if guess else f"got {name!r}\n")


def test_without_a_command_the_help_is_an_error(capsys):
  assert main([]) == 2
  assert capsys.readouterr().err.startswith("usage: adaconv COMMAND")


def test_a_command_gets_the_other_arguments_and_its_code_is_returned(monkeypatch):
  calls = []
  monkeypatch.setattr(
    stylize, "main", lambda argv, *, prog: calls.append((list(argv), prog)) or 130
  )
  monkeypatch.setenv("ADACONV_COMPILATION_CACHE", "off")
  assert main(["stylize", "--size", "8", "--help"]) == 130
  assert calls == [(["--size", "8", "--help"], "adaconv stylize")]


def test_a_wrong_setting_of_the_environment_is_one_line_and_code_2(monkeypatch, capsys):
  monkeypatch.setenv("ADACONV_COMPILATION_CACHE", "no")
  monkeypatch.setattr(stylize, "main", None)
  assert main(["stylize"]) == 2
  assert capsys.readouterr().err.startswith("error: ADACONV_COMPILATION_CACHE: expected 'on'")


@pytest.mark.parametrize("name", OF_ALL)
def test_help_of_every_command_calls_it_by_its_name(name, capsys, monkeypatch):
  monkeypatch.setenv("ADACONV_COMPILATION_CACHE", "off")
  try:
    code = main([*name.split(), "--help"])
  except SystemExit as stopped:  # argparse's way
    code = stopped.code
  assert code == 0
  assert capsys.readouterr().out.startswith(f"usage: adaconv {name} ")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_parser_whose_program_can_be_named(name):
  module = importlib.import_module(f"adaconv_jax.cli.{name}")
  assert module._parser().prog == f"adaconv {name}"
  assert module._parser("python other.py").format_usage().startswith("usage: python other.py ")


@pytest.mark.parametrize("program", ["infer", "train"])
def test_the_programs_of_a_clone_call_themselves_by_their_names(program, tmp_path):
  done = python(ROOT / f"{program}.py", "--help", cwd=tmp_path)
  assert done.returncode == 0, done.stderr
  assert done.stdout.startswith(f"usage: python {program}.py ")


@pytest.mark.parametrize("name", ["stylize", "train"])
def test_files_of_the_user_named_infer_and_train_do_not_matter(name, tmp_path):
  for file in ("infer.py", "train.py", "configs.py"):
    (tmp_path / file).write_text("raise SystemExit('not this one')\n")
  done = python("-m", "adaconv_jax", name, "--help", cwd=tmp_path)
  assert done.returncode == 0, done.stderr
  assert done.stdout.startswith(f"usage: adaconv {name} ")
