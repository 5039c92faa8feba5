"""`adaconv train`: the command line of the training."""

import argparse
import ast
import difflib
import logging
import os
import re
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

import jax
from absl import app, flags
from ml_collections import ConfigDict, config_flags

from adaconv_jax import configs
from adaconv_jax.checkpoints.errors import CheckpointError
from adaconv_jax.checkpoints.record import newest_step
from adaconv_jax.cli.attempt import quiet_libraries, report, show_log, shown
from adaconv_jax.data.batches import DataError
from adaconv_jax.files import described, expand_named
from adaconv_jax.lock import WorkdirInUse
from adaconv_jax.training import aot
from adaconv_jax.training.from_config import Config
from adaconv_jax.training.hosts import LOST, StopRequest, connect, is_lost, part
from adaconv_jax.training.loop import train_and_evaluate
from adaconv_jax.training.profile import Span

log = logging.getLogger(__name__)

EXIT_FAILED, EXIT_USAGE = 1, 2

# Errors that end a training with one line, besides OSError.
FAILURES = (
  ValueError,
  FloatingPointError,
  ImportError,
  CheckpointError,
  DataError,
  WorkdirInUse,
)

# Where `config_flags` looks for the settings `--config.X=Y`; `main` fills it.
_ARGV: list[str] = []

CONFIG = config_flags.DEFINE_config_file(
  "config",
  None,
  f"A packaged config ({', '.join(configs.names())}) or the path of a config file.",
  sys_argv=_ARGV,
)


class SettingError(Exception):
  """A setting on the command line does not exist, or cannot have its value."""


class _Parser(config_flags.config_flags.ConfigFileFlagParser):
  """Loads a config, and checks the settings on the command line, whose errors are hard to read."""

  def parse(self, path: Any) -> Any:
    """Returns the config of a file."""
    config = super().parse(path)
    if isinstance(config, ConfigDict):
      _check_given(config, _ARGV[1:])
    return config


flags.FLAGS["config"].parser = _Parser("config")
WORKDIR = flags.DEFINE_string(
  "workdir", None, "Folder for checkpoints, logs and samples; missing folders are made."
)
AOT = flags.DEFINE_string(
  "aot",
  None,
  "A TPU slice by name or shape, such as v5litepod-8 or v5e:2x4: compile the training step for it, "
  "report what it would need, and exit. Needs libtpu, but no TPU, no data and no --workdir.",
)
DISTRIBUTED = flags.DEFINE_enum(
  "distributed",
  "auto",
  ["auto", "on", "off"],
  "Train on several hosts together: auto does so on Cloud TPU; on needs a cluster that JAX knows, "
  "or the three options below. Default: auto.",
)
COORDINATOR = flags.DEFINE_string("coordinator", None, "Address and port of the first process.")
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Number of processes.")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "This process's number, from 0.")
PROFILE = flags.DEFINE_string(
  "profile", None, "Record these steps, such as 100:110, with JAX's profiler, to workdir/profile."
)

# The flags in the order of the help, and its names for their values.
_VALUES = {
  "config": "NAME|PATH",
  "workdir": "DIR",
  "aot": "SLICE",
  "distributed": "auto|on|off",
  "coordinator": "HOST:PORT",
  "num_processes": "N",
  "process_id": "N",
  "profile": "FIRST:LAST",
}


def compile_ahead(config: Config, topology: str) -> None:
  """Compiles the transfer step for a TPU topology and prints what it would need.

  Args:
    config: a ConfigDict as in `configs/`.
    topology: such as "v5e:2x4", or Cloud TPU's name of a slice, such as "v5litepod-8".

  Raises:
    ValueError: a setting is impossible, there is no such topology, or the step does not fit.
    FileNotFoundError: the TPU compiler is not installed.
  """
  tpu = aot.Slice.parse(topology)
  needs = aot.needs(aot.compile_config(config, tpu))
  print(aot.report(needs, tpu, config.batch_size))
  aot.check_fit(needs, tpu.memory)


def main(argv: Sequence[str] | None = None, *, prog: str = "adaconv train") -> int:
  """Runs the command.

  Args:
    argv: its arguments; those of the process if None.
    prog: what help and errors call it.

  Returns:
    0, after --help.

  Raises:
    SystemExit: otherwise. The code is 0 when the training is done, and 128 plus the signal's number
      when a signal stopped it. With one message, it is 1 when a setting or the data are impossible,
      and 2 when the options are wrong.
  """
  arguments = list(sys.argv[1:] if argv is None else argv)
  if {"--help", "-h", "-help", "--helpshort"} & set(arguments):
    print(_parser(prog).format_help(), end="")
    return 0
  # A config of the user's may import others from the current folder, but nothing of ours is to be
  # found there.
  sys.path.append(os.getcwd())
  try:
    _ARGV[:] = [prog, *_translated(arguments)]
  except ValueError as error:
    _exit_usage(error, prog)
  app.run(_train, argv=_ARGV, flags_parser=_parse_flags)
  raise AssertionError("app.run does not return")


def _parser(prog: str = "adaconv train") -> argparse.ArgumentParser:
  """Describes the options; absl parses them, because `config_flags` is a part of it."""
  parser = argparse.ArgumentParser(
    prog=prog,
    usage=f"{prog} --config NAME|PATH --workdir DIR [--config.KEY=VALUE ...] [options]",
    formatter_class=argparse.RawDescriptionHelpFormatter,
    description="Trains AdaIN or AdaConv. Rerun the same command to resume.",
    epilog=f"""\
Every setting of the config is an option: --config.batch_size=4, --config.data.content=DIR. The file
of a config describes them; the packaged ones are in
{configs.FOLDER}

For example:

  {prog} --config quickstart --workdir runs/first
  {prog} --config adaconv --workdir runs/adaconv --config.data.content=PHOTOS \\
    --config.data.style=PAINTINGS

Exit code: 0 done; 130 stopped by Ctrl-C; 143 by SIGTERM; 129 by SIGHUP; 1 impossible settings or
data; 2 wrong options.
""",
  )
  for name, value in _VALUES.items():
    option = f"--{name.replace('_', '-')}"
    parser.add_argument(option, metavar=value, help=_help(name))
    if name == "config":
      text = "Another value for a setting of the config; may be repeated."
      parser.add_argument("--config.KEY", metavar="VALUE", help=text)
  return parser


def _help(name: str) -> str:
  """Returns a flag's help without the choices that absl puts before it; `_VALUES` has them."""
  return re.sub(r"^<[^>]*>: ", "", flags.FLAGS[name].help or "")


def _translated(arguments: Sequence[str]) -> list[str]:
  """Spells flags with underscores, and puts the path of a packaged config for its name.

  Raises:
    ValueError: there is no such config.
  """
  translated: list[str] = []
  rest = iter(arguments)
  for argument in rest:
    if argument == "--":
      return [*translated, argument, *rest]
    dashes, name, equals, value = _split(argument)
    if dashes and name == "config":
      if any(earlier.startswith("--config=") for earlier in translated):
        raise ValueError("--config: expected one config, got several")
      value = value if equals else next(rest, "")
      path, colon, parameter = value.partition(":")  # which a config's `get_config` may take
      translated.append(f"--config={configs.find(path)}{colon}{parameter}")
    elif dashes and name.replace("-", "_") in _VALUES:
      translated.append(f"--{name.replace('-', '_')}{equals}{value}")
    else:
      translated.append(argument)
  return translated


def _split(argument: str) -> tuple[str, str, str, str]:
  """Splits "--name=value" into its four parts; "" for those that it has not."""
  name, equals, value = argument.partition("=")
  bare = name.removeprefix("-").removeprefix("-")
  return name[: len(name) - len(bare)], bare, equals, value


def _check_given(config: ConfigDict, arguments: Sequence[str]) -> None:
  """Checks settings such as --config.data.content=DIR before `config_flags` takes them.

  Raises:
    SettingError: there is no such setting, or its value has another type.
  """
  for index, argument in enumerate(arguments):
    if argument == "--":
      return
    dashes, name, equals, text = _split(argument)
    if not dashes or not name.startswith("config."):
      continue
    value = _find_setting(config, name)
    if not equals:
      if isinstance(value, bool) or index + 1 == len(arguments):
        continue  # absl reports a value that is missing
      text = arguments[index + 1]
    for kind, words, parser in _KINDS:
      if isinstance(value, kind):
        try:
          parser(text)
        except (TypeError, ValueError, SyntaxError):
          raise SettingError(f"{name}: expected {words}, got {text!r}") from None
        break


def _find_setting(config: ConfigDict, name: str) -> Any:
  """Returns the value of a setting such as "config.data.content"."""
  value, where = config, "config"
  for step in name.split(".")[1:]:
    key, bracket, _ = step.partition("[")
    if not isinstance(value, ConfigDict):
      raise SettingError(f"{name}: there is no such setting; {where} is one, without others below")
    if key not in value:
      close = difflib.get_close_matches(key, list(value), 1)
      guess = f"did you mean {where}.{close[0]}?" if close else f"{where} has {', '.join(value)}"
      raise SettingError(f"{name}: there is no such setting; {guess}")
    value, where = value[key], f"{where}.{key}"
    if bracket:
      raise SettingError(
        f"{name}: expected a setting without an index; give it as a whole, as "
        f"--{where}={str(value)!r}"
      )
  return value


def _group(text: str) -> None:
  if not isinstance(ast.literal_eval(text), dict):
    raise ValueError


# By the type of a setting, what it takes, and what raises an error for a text that it is not.
_KINDS = (
  (bool, "true or false", flags.BooleanParser().parse),
  (int, "a whole number", flags.IntegerParser().parse),
  (float, "a number", flags.FloatParser().parse),
  (ConfigDict, "one of the settings below it, with their own names", _group),
)


def _check_once() -> None:
  """Raises where a flag was given several times, of which the last would win."""
  for name in flags.FLAGS:
    flag = flags.FLAGS[name]
    ours = name in _VALUES or name.startswith("config.")
    if ours and flag.present > 1 and not isinstance(flag, flags.MultiFlag):
      name = name if name.startswith("config.") else f"--{name.replace('_', '-')}"
      raise ValueError(f"{name}: expected once, got it {flag.present} times")


def _parse_flags(argv: list[str]) -> list[str]:
  logging.getLogger("absl").setLevel(logging.ERROR)
  try:
    rest = flags.FLAGS(argv)
    _check_once()
    if len(rest) > 1:
      raise ValueError(f"expected options only, got {' '.join(rest[1:])!r}")
    if flags.FLAGS["config"].present and isinstance(CONFIG.value, dict | type(None)):
      raise ValueError(
        f"--config: expected get_config() to return a ConfigDict, got {type(CONFIG.value).__name__}"
      )
    if CONFIG.value is None:
      raise ValueError(
        f"--config: expected a packaged config ({', '.join(configs.names())}) or the path of a "
        "config file; it is missing"
      )
    if not WORKDIR.value and AOT.value is None:
      raise ValueError(
        "--workdir: expected a folder for checkpoints, logs and samples; it is missing or empty"
      )
    if AOT.value is not None:
      aot.Slice.parse(AOT.value)
    if PROFILE.value is not None:
      Span.parse(PROFILE.value)
    CONFIG.value.to_dict()  # raises OSError if the file could not be read
  except flags.UnrecognizedFlagError as error:
    hint = "" if "Did you mean" in str(error) else _hint(error.flagname)
    _exit_usage(ValueError(f"{error}{hint}"), argv[0])
  except SettingError as error:
    _exit_usage(error, argv[0])
  except (flags.Error, ValueError) as error:
    if "Traceback (most" in str(error):  # which `config_flags` adds to some errors of a config
      sys.exit(shown(f"error: --config: {_innermost(str(error))}"))
    _exit_usage(error, argv[0])
  except (AttributeError, KeyError, TypeError, OSError, ImportError) as error:
    # ConfigDict raises these for unknown keys and wrong types; the text suggests the right name.
    text = str(error)
    # The AttributeError of a ConfigDict has its KeyError as argument. As a string, a KeyError is
    # the repr of its message.
    cause = error.args[0] if error.args and isinstance(error.args[0], KeyError) else error
    if isinstance(cause, KeyError) and cause.args:
      text = f"there is no {'. '.join(str(cause.args[0]).splitlines())}"
    if "has no attribute 'get_config'" in text:
      text = "expected a file with a function get_config() that returns a ConfigDict, it has none"
    sys.exit(shown(f"error: --config: {' '.join(text.split())}"))
  except Exception as error:  # the file of a config is a program, which may raise anything
    sys.exit(shown(f"error: --config: {_place(error)}{' '.join(str(error).split())}"))
  return rest


def _place(error: Exception) -> str:
  """Returns where and which error a config raised; that of the syntax says itself where."""
  kind = type(error).__name__
  if isinstance(error, SyntaxError):
    return f"{kind}: "
  frame = traceback.extract_tb(error.__traceback__)[-1]
  return f"{frame.filename}, line {frame.lineno}: {kind}: "


def _hint(name: str) -> str:
  """Shows how a setting is given, because `--num_steps=3` looks right."""
  return f". A setting of the config is given as --config.{name}"


def _innermost(text: str) -> str:
  """Returns the last place and the last line of a traceback."""
  last = text.strip().splitlines()[-1]
  if "get_config() " in last and "positional argument" in last:
    return (
      f"expected get_config() to take no argument, or one as in --config=FILE:ARGUMENT ({last})"
    )
  places = re.findall(r'File "(.+)", (line \d+)', text)
  return ", ".join(places[-1]) + ": " + last


def _exit_usage(error: Exception, prog: str) -> NoReturn:
  report(f"error: {error} (`{prog} --help` describes the options)")
  sys.exit(EXIT_USAGE)


def _train(argv: list[str]) -> None:
  """Trains as the flags say; settings that are impossible end it with one message."""
  del argv  # checked
  quiet_libraries()
  show_log(logging.INFO)
  # Never closed: a signal is noticed until the process has ended.
  stop = StopRequest()
  try:
    if AOT.value is not None:
      stop.doing = "while compiling; nothing is written"
      return compile_ahead(CONFIG.value, AOT.value)
    workdir = expand_named("--workdir", str(WORKDIR.value))
    num_steps = CONFIG.value.get("num_steps", 0)
    stop.at(newest_step(workdir), num_steps)
    connect(DISTRIBUTED.value, COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
    stop.listen()  # with several processes, JAX has taken SIGTERM
    span = None if PROFILE.value is None else Span.parse(PROFILE.value)
    step = train_and_evaluate(CONFIG.value, workdir, stop, span)
  except (OSError, *FAILURES) as error:
    _fail(stop, described(error))
  except jax.errors.JaxRuntimeError as error:
    if not is_lost(error):
      raise
    _fail(stop, LOST)
  if step < num_steps:
    with stop.leaving(stop.exit_code):
      log.warning("%s", stop.describe())
    sys.exit(stop.exit_code)
  with stop.leaving(0):
    if not stop.nothing_to_do:
      log.info("done: %d steps in %s", step, workdir)


def _fail(stop: StopRequest, error: object) -> NoReturn:
  """Ends the process, and others that train together with it, with one message."""
  with stop.leaving(EXIT_FAILED):
    report(f"error: {error}")
  part(EXIT_FAILED)
  sys.exit(EXIT_FAILED)
