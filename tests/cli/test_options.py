"""Options that several commands have are called and described alike."""

import argparse
import importlib

import pytest

from adaconv_jax.cli.main import COMMANDS
from adaconv_jax.cli.options import Parser, in_range


def actions(parser: argparse.ArgumentParser):
  """The options of a command, and of the commands in it."""
  for action in parser._actions:
    if isinstance(action, argparse._SubParsersAction):
      for below in action.choices.values():
        yield from actions(below)
    else:
      yield action


def described() -> dict[str, dict[str, str]]:
  """By option, its help by the commands that have it."""
  found: dict[str, dict[str, str]] = {}
  for name in COMMANDS:
    for action in actions(importlib.import_module(f"adaconv_jax.cli.{name}")._parser()):
      for option in action.option_strings:
        found.setdefault(option, {})[name] = action.help or ""
  return found


@pytest.mark.parametrize("option", ["--content", "--style", "--vgg-weights", "--overwrite"])
def test_an_option_of_several_commands_has_one_help(option):
  texts = described()[option]
  texts.pop("video", None)  # which mixes its styles, and takes no folders of them
  assert len(texts) >= 2 and len(set(texts.values())) == 1


def test_a_model_is_described_alike_everywhere():
  texts = described()["--model"].values()
  assert len({text.partition(";")[0] for text in texts}) == 1


def test_every_option_has_a_help_and_results_go_to_output():
  found = described()
  assert not [option for option, texts in found.items() if not all(texts.values())]
  assert "--out" not in found
  writing = {"stylize", "video", "evaluate", "import", "hub", "pack", "vgg"}
  assert found["--output"].keys() == writing


def test_hyphens_separate_the_words_of_an_option():
  assert not [option for option in described() if "_" in option]


@pytest.mark.parametrize(
  ("kind", "low", "high", "good", "bad", "message"),
  [
    (int, 1, float("inf"), "1", "0", "a whole number of at least 1, got '0'"),
    (int, 1, 100, "100", "101", "a whole number from 1 to 100, got '101'"),
    (float, 0, 1, "0.5", "nan", "a number from 0 to 1, got 'nan'"),
    (int, 1, float("inf"), "2147483647", "1" + "0" * 400, "a .* 1, and at most 2147483647, got .*"),
  ],
)
def test_a_number_is_taken_in_its_range_only(kind, low, high, good, bad, message):
  parse = in_range(kind, low, high)
  assert parse(good) == kind(good)
  with pytest.raises(argparse.ArgumentTypeError, match=f"^expected {message}$"):
    parse(bad)


def single_options(parser: argparse.ArgumentParser):
  """Options with one value, each with its parser and a value that it takes."""
  for action in parser._actions:
    if isinstance(action, argparse._SubParsersAction):
      for below in action.choices.values():
        yield from single_options(below)
    elif action.option_strings and action.nargs is None:
      values = action.choices or ("1", "0.5", "64", "64x64")
      yield parser, action.option_strings[0], next(v for v in values if takes(action, v))


def takes(action: argparse.Action, value: str) -> bool:
  try:
    return not callable(action.type) or (action.type(value), True)[1]
  except (argparse.ArgumentTypeError, ValueError):
    return False


# absl parses those of `train`, which its own tests try.
@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "train"])
def test_an_option_with_one_value_is_refused_by_name_if_it_is_given_twice(command, capsys):
  found = list(single_options(importlib.import_module(f"adaconv_jax.cli.{command}")._parser()))
  assert found
  for parser, option, value in found:
    with pytest.raises(SystemExit) as ended:
      parser.parse_args([option, value, f"{option}={value}"])
    assert ended.value.code == 2
    assert f"argument {option}: expected once, got '" in capsys.readouterr().err


def test_an_option_may_be_given_again_to_the_next_call_and_by_an_abbreviation_is_the_same(capsys):
  parser = two_options()
  for alpha in (0.5, 1):
    parsed = parser.parse_args(["--content", "a", "--content", "b", f"--alpha={alpha}"])
    assert (parsed.content, parsed.alpha) == (["a", "b"], alpha)
  with pytest.raises(SystemExit):
    parser.parse_args(["--content", "a", "--alpha=1", "--alp=0"])
  assert "--alpha: expected once, got '1.0' and '0.0'" in capsys.readouterr().err
  with pytest.raises(SystemExit):
    parser.parse_args(["--content", "a", "--mix", "1", "2", "--mix", "3"])
  way_out = "--mix: expected once, got '1 2' and '3'; name all after one --mix"
  assert way_out in capsys.readouterr().err


@pytest.mark.parametrize(
  ("unknown", "guess"), [("--alhpa", "; did you mean --alpha?"), ("--detail", "")]
)
def test_the_guess_of_an_unknown_option_is_like_it_in_more_than_the_dashes(capsys, unknown, guess):
  parser = two_options()
  parser.add_argument("--model")
  with pytest.raises(SystemExit):
    parser.parse_args(["--content", "a", unknown, "1"])
  assert capsys.readouterr().err.endswith(f"unknown option {unknown}{guess}\n")


def two_options() -> Parser:
  parser = Parser(prog="p")
  parser.add_argument("--content", nargs="+", action="extend", required=True)
  parser.add_argument("--alpha", type=float)
  parser.add_argument("--mix", nargs="+", type=int)
  return parser


@pytest.mark.parametrize(
  ("argument", "message"),
  [
    ("--contnet", "unknown option --contnet; did you mean --content?"),
    ("--contnet=a.png", "unknown option --contnet; did you mean --content?"),
    ("--zzz", "unknown option --zzz\n"),
  ],
)
def test_an_unknown_option_is_named_before_the_required_one_that_is_missing(
  argument, message, capsys
):
  with pytest.raises(SystemExit) as ended:
    two_options().parse_args([argument, "a.png"])
  assert ended.value.code == 2
  assert message in capsys.readouterr().err


def test_abbreviations_and_values_with_a_space_are_no_unknown_options():
  parsed = two_options().parse_args(["--cont", "a.png", "--a b.png", "--alpha=-1"])
  assert (parsed.content, parsed.alpha) == (["a.png", "--a b.png"], -1)


def test_the_options_of_a_subcommand_are_known_to_it_only(capsys):
  parser = Parser(prog="p")
  parser.add_subparsers(dest="command").add_parser("sub").add_argument("--arch")
  assert parser.parse_args(["sub", "--arch", "x"]).arch == "x"
  with pytest.raises(SystemExit):
    parser.parse_args(["sub", "--arhc", "x"])
  assert "p sub: error: unknown option --arhc; did you mean --arch?" in capsys.readouterr().err
