"""`adaconv train`: its options, before any training. `tests/test_train.py` trains."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from adaconv_jax import configs
from adaconv_jax.cli import train
from adaconv_jax.configs import adaconv

ROOT = Path(__file__).parents[2]
NAMES = [
  *("adaconv", "adaconv_plus", "adain", "finetune"),
  *("pretrained_adaconv", "pretrained_adain", "quickstart"),
]


def run(*arguments, cwd, **environment) -> subprocess.CompletedProcess:
  """Runs `python -m adaconv_jax train` in a process: absl takes flags once."""
  environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"} | environment
  return subprocess.run(
    [sys.executable, "-m", "adaconv_jax", "train", *map(str, arguments)],
    cwd=cwd, env=environment, capture_output=True, text=True, timeout=120,
  )  # fmt: skip


def one_error(done: subprocess.CompletedProcess) -> str:
  assert "Traceback" not in done.stderr
  (line,) = done.stderr.splitlines()
  assert line.startswith("error: ")
  return line


def test_flags_may_be_written_with_hyphens_and_configs_by_name(monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  Path("num-processes").touch()
  arguments = (
    "--num-processes=2", "--process-id", "0", "-coordinator", "host-1:80", "--config", "quickstart",
    "--config.data.content", "a-b", "--config.data.min-size=3", "--workdir=my-run", "--aot=v5e:2x4",
  )  # fmt: skip
  assert train._translated(arguments) == [
    "--num_processes=2", "--process_id", "0", "--coordinator", "host-1:80",
    f"--config={configs.FOLDER / 'quickstart.py'}",
    "--config.data.content", "a-b", "--config.data.min-size=3", "--workdir=my-run", "--aot=v5e:2x4",
  ]  # fmt: skip


@pytest.mark.parametrize("form", ["name", "path", "home"])
def test_a_config_is_a_name_or_a_path_and_may_have_a_parameter(form, monkeypatch, tmp_path):
  monkeypatch.setenv("HOME", str(tmp_path))
  monkeypatch.chdir(tmp_path)
  Path("adain.py").touch()
  given, path = {
    "name": ("adain", configs.FOLDER / "adain.py"),
    "path": ("adain.py", tmp_path / "adain.py"),
    "home": ("~/adain.py", tmp_path / "adain.py"),
  }[form]
  assert train._translated([f"--config={given}"]) == [f"--config={path}"]
  assert train._translated(["--config", f"{given}:small"]) == [f"--config={path}:small"]


def test_help_lists_every_flag_of_the_command_and_the_packaged_configs(capsys):
  assert train.main(["--config", "quickstart", "--help"]) == 0
  text = capsys.readouterr().out
  own = train.flags.FLAGS.get_key_flags_for_module(train.__name__)
  assert len(own) == 8
  for flag in own:
    assert re.search(rf"^  --{flag.name.replace('_', '-')} ", text, re.M), flag.name
  assert ", ".join(NAMES) in " ".join(text.split())
  assert "<auto|on|off>" not in text  # which absl puts before the help
  assert "--flagfile" not in text and "absl" not in text


LOADED = """
import sys
from adaconv_jax.cli import train
from adaconv_jax.configs import adaconv
train._train = lambda argv: print(train.CONFIG.value.batch_size, train.WORKDIR.value, sep="|")
train.main(sys.argv[1:])
"""


@pytest.mark.slow
def test_a_config_of_the_repository_loads_from_any_folder_whatever_is_called_configs_there(
  tmp_path,
):
  (tmp_path / "configs").mkdir()
  for name in ("__init__", "adain", "adaconv"):
    (tmp_path / "configs" / f"{name}.py").write_text("raise SystemExit('not this one')")
  environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
  for config in (ROOT / "configs" / "quickstart.py", "quickstart"):
    done = subprocess.run(
      [sys.executable, "-c", LOADED, "--config", str(config), "--config.batch_size=3",
       "--workdir=w-1"],
      cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "3|w-1\n"), done.stderr


# Every second one only among the slow tests: each takes a process of its own.
WRONG: list[Any] = [
  ([], "--config: expected a packaged config .*; it is missing"),
  (["--config", "quickstart"], "--workdir: expected a folder .*; it is missing"),
  (["--config"], "--config: .*, got ''"),
  (["--config=quikstart"], "--config: expected .*, got 'quikstart'"),
  (["--config", "no/such.py", "--workdir=w"], "--config: expected .*, got 'no/such.py'"),
  (["--config=adain", "--wrkdir=w"], "Unknown command line flag 'wrkdir'. Did you mean: workdir"),
  (
    ["--config=adain", "--workdir=w", "--num_steps=3"],
    "Unknown command line flag 'num_steps'. A setting .* is given as --config.num_steps ",
  ),
  (
    ["--config=adain", "--aot=banana"],
    "--aot: expected a TPU slice, such as v5litepod-8 .*, got 'banana'",
  ),
  (
    ["--config=adain", "--workdir=w", "--profile=9"],
    "--profile: expected the first and the last step .*, got '9'",
  ),
  (["--config=adain", "--workdir=w", "more"], "expected options only, got 'more'"),
  (["--config=adain", "--workdir=w", "--process-id=x"], "flag --process_id=x: .*"),
  (
    ["--config=adain", "--workdir=w", "--config.seed=x"],
    r"config\.seed: expected a whole number, got 'x' ",
  ),
  (
    ["--config=adain", "--workdir=w", "--workdir", "v"],
    "--workdir: expected once, got it 2 times",
  ),
  (
    ["--config=adain", "--workdir=w", "--config.seed=1", "--config.seed", "2"],
    r"config\.seed: expected once, got it 2 times",
  ),
]


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    *WRONG[::4],
    *(pytest.param(*case, marks=pytest.mark.slow) for case in WRONG if case not in WRONG[::4]),
  ],
)
def test_wrong_options_are_one_line_and_code_2(arguments, message, tmp_path):
  done = run(*arguments, cwd=tmp_path)
  assert done.returncode == 2
  error = one_error(done)
  assert re.match(f"error: {message}", error)
  assert error.endswith("(`adaconv train --help` describes the options)")
  assert not list(tmp_path.iterdir())


def test_an_unknown_config_lists_the_packaged_ones_and_that_a_path_is_possible(tmp_path):
  error = one_error(run("--config", "adaconf", "--workdir", "w", cwd=tmp_path))
  assert ", ".join(NAMES) in error and "the path of a config file, such as ./mine.py" in error


def test_a_misspelt_setting_is_one_line_with_a_suggestion(tmp_path):
  done = run("--config=adain", "--workdir=w", "--config.data.contents=c", cwd=tmp_path)
  assert done.returncode == 2
  assert one_error(done) == (
    "error: config.data.contents: there is no such setting; did you mean config.data.content? "
    "(`adaconv train --help` describes the options)"
  )


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--config.num_steps=many"], "config.num_steps: expected a whole number, got 'many'"),
    (["--config.num_steps", "1e3"], "config.num_steps: expected a whole number, got '1e3'"),
    (
      ["--config.num_steps.x=1"],
      "config.num_steps.x: there is no such setting; config.num_steps is",
    ),
    (["--config.loss.style_weight=x"], "config.loss.style_weight: expected a number, got 'x'"),
    (["--config.keys=1"], "config.keys: there is no such setting; config has batch_size, "),
    (["--config.lss.style_weight=1"], "config.lss.style_weight: .*did you mean config.loss"),
    (["--config.=1"], "config.: there is no such setting; config has "),
    (["--config.data=5"], "config.data: expected one of the settings below it, .*got '5'"),
    (
      ["--config.model.settings.groups[9]=1"],
      r"config.model.settings.groups\[9\]: .*, as --config.model.settings.groups='\(512, ",
    ),
  ],
)
def test_an_error_of_a_setting_names_it_what_was_expected_and_what_came(arguments, message):
  with pytest.raises(train.SettingError, match=message):
    train._check_given(adaconv.get_config(), ["--config=x", *arguments])


def test_settings_of_their_types_are_taken():
  config = adaconv.get_config()
  arguments = ["--config.num_steps=5", "-config.ema_decay", "0.5", "--config.data.content=--x=1"]
  arguments += ["--config.model.settings.groups=1", "--config.data={'content': 'x'}", "--aot=x"]
  train._check_given(config, [*arguments, "--config.seed"])
  train._check_given(config, ["--", "--config.none=1"])
