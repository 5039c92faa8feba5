"""Options that several commands have, with one name and one help text each."""

import argparse
import difflib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from adaconv_jax import images
from adaconv_jax.checkpoints.load import DEFAULT_MODEL, shipped_models
from adaconv_jax.cli.attempt import shown
from adaconv_jax.files import expand, is_same, printable, unwritable
from adaconv_jax.models.canvas import LOOK_SIZE, usual_look_size
from adaconv_jax.models.refinement import MOST_STEPS

_TRAINED = (
  "the workdir of a training, a checkpoint in it, a file from `adaconv export`, or "
  "hf://USER/NAME on the Hugging Face Hub"
)
# Of a single model and of several.
MODEL_HELP = (
  f"a shipped model (in this version: {', '.join(shipped_models()) or 'none'}); or {_TRAINED}"
)


# Largest whole number that an option takes.
MOST = 2**31 - 1
# The --look-size that is each picture's own size.
OWN = 0
# Of bundles and VGG weights, which are files of one format.
SUFFIX = ".safetensors"
# Of files of other formats, for which an output would be taken.
_FORMATS = (
  *images.SUFFIXES, *images.UNREAD_SUFFIXES,
  SUFFIX, ".onnx", ".stablehlo", ".tflite", ".mlir", ".pb",
  ".bin", ".ckpt", ".gguf", ".h5", ".hdf5", ".keras", ".msgpack", ".npy", ".npz", ".pkl", ".pt",
  ".pt2", ".pth", ".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv",
  ".csv", ".doc", ".docx", ".htm", ".html", ".ipynb", ".json", ".jsonl", ".log", ".md", ".pdf",
  ".py", ".toml", ".txt", ".xml", ".yaml", ".yml", ".7z", ".gz", ".tar", ".tgz", ".zip",
)  # fmt: skip
# How similar a misspelled suffix is, such as .pgn and .safetensor.
_SIMILAR = 0.75


class _Once(argparse.Action):
  """Stores a value, and refuses a second one, which would otherwise silently win."""

  def __call__(
    self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: str | None = None
  ) -> None:
    """Stores the value of an option or argument."""
    assert isinstance(parser, Parser)
    if self.dest in parser.given:
      both = getattr(namespace, self.dest), values
      texts = [" ".join(map(str, x)) if isinstance(x, list) else str(x) for x in both]
      way_out = f"; name all after one {option}" if isinstance(values, list) else ""
      got = " and ".join(map(repr, texts))
      raise argparse.ArgumentError(self, f"expected once, got {got}{way_out}")
    parser.given.add(self.dest)
    setattr(namespace, self.dest, values)


class Parser(argparse.ArgumentParser):
  """A parser whose errors can be shown, and that names an unknown option before what is missing.

  A misspelled option that is required is otherwise only reported as missing. An option with one
  value may be given once.

  Attributes:
    given: names of the options with one value that were given so far.
  """

  def __init__(self, *args: Any, **kwargs: Any):
    super().__init__(*args, **kwargs)
    self.given: set[str] = set()
    for action in (None, "store"):
      self.register("action", action, _Once)

  def error(self, message: str) -> NoReturn:
    """Ends the command with usage and message, which is shown as `shown` does."""
    super().error(shown(message))

  def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
    """Does as the base class, after a search for unknown options."""
    arguments = list(sys.argv[1:] if args is None else args)
    self.given.clear()
    if self._subparsers is None:  # otherwise some options are those of a subcommand
      self._refuse_unknown(arguments)
    return super().parse_known_args(arguments, namespace)

  def _refuse_unknown(self, arguments: list[str]) -> None:
    known = [option for option in self._option_string_actions if option.startswith("--")]
    for argument in arguments:
      if argument == "--":
        return
      name = argument.partition("=")[0]
      # As argparse has it, what has a space is a value.
      if not name.startswith("--") or " " in argument:
        continue
      if not any(option.startswith(name) for option in known):  # it takes abbreviations
        names = [option.removeprefix("--") for option in known]
        close = difflib.get_close_matches(name.removeprefix("--"), names, 1)
        guess = f"; did you mean --{close[0]}?" if close else ""
        self.error(f"unknown option {name}{guess}")


def path_text(text: str) -> str:
  """An argparse type: a path that is not empty, which would mean the current folder."""
  if not text:
    raise argparse.ArgumentTypeError("expected a path, got an empty text")
  return text


def text_of(what: str) -> Callable[[str], str]:
  """Makes an argparse type: a text that is not empty; the error calls it `what`."""

  def parse(text: str) -> str:
    if not text.strip():
      raise argparse.ArgumentTypeError(f"expected {what}, got an empty text")
    return text

  return parse


def to_path(text: str) -> Path:
  """An argparse type: a path on a disk, with `~` expanded, or in a bucket; not empty."""
  try:
    return expand(path_text(text))
  except ValueError as error:  # whose message argparse would leave out
    raise argparse.ArgumentTypeError(str(error)) from None


def to_file(text: str) -> Path:
  """An argparse type: as `to_path`, of a file to write."""
  path = to_path(text)
  try:
    check_file_name(text)
  except ValueError as error:
    raise argparse.ArgumentTypeError(str(error)) from None
  return path


def check_file_name(path: str | Path) -> None:
  """Checks that a path, as it was given, is not written like that of a folder.

  Raises:
    ValueError: it ends in a slash, which `expand` drops.
  """
  if str(path).endswith(("/", os.sep)):
    raise ValueError(
      f"{printable(path)}: expected the name of a file to write, got that of a folder; put the "
      "file's name behind it, or leave out the slash"
    )


def check_output(path: Path, *inputs: str | Path | None) -> None:
  """Checks that a file can be written, and is none of those that are read, before it is made.

  Args:
    path: the file to write.
    *inputs: files that are read; None and "" are left out.

  Raises:
    ValueError: it is one of them, or there can be no file.
  """
  name = printable(path)
  for source in filter(None, inputs):
    if is_same(source, path):
      raise ValueError(
        f"{name}: expected another file than {printable(source)}, which is read and would be lost"
      )
  if path.is_dir():
    raise ValueError(f"{name}: expected a file to write, got a folder")
  if fault := unwritable(path.parent):
    raise ValueError(f"{name}: expected a file that can be written, but {fault}")


def format_of(path: Path) -> str:
  """Returns the suffix of a name in lower case, if it is that of a format, maybe misspelled.

  Otherwise "": the .2 of model-1.2 and the .final of photos.final are parts of a name.
  """
  suffix = path.suffix.lower()
  if suffix in _FORMATS:
    return suffix
  # With a digit, it is a version, rather than a misspelled .h5.
  misspelled = not any(map(str.isdigit, suffix))
  return suffix if misspelled and difflib.get_close_matches(suffix, _FORMATS, 1, _SIMILAR) else ""


def check_suffix(path: Path) -> None:
  """Checks that the name of a bundle or of VGG weights is not that of another format.

  Raises:
    ValueError: it has the suffix of another format than `SUFFIX`.
  """
  if format_of(path) not in ("", SUFFIX):
    raise ValueError(
      f"{printable(path)}: expected a name that ends in {SUFFIX}, the format that is written, or "
      f"has no suffix, got {printable(path.suffix)}"
    )


def add_pictures(parser: argparse.ArgumentParser) -> None:
  """Adds --content and --style, which may be repeated: all pictures are used."""
  for role in ("content", "style"):
    parser.add_argument(
      f"--{role}",
      type=path_text,
      nargs="+",
      action="extend",
      required=True,
      metavar="PATH",
      help="image files or folders; may be repeated",
    )


def add_model(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
  """Adds --model; with `several` it takes more than one, may be repeated, and has no default."""
  if several:
    parser.add_argument(
      "--model",
      type=path_text,
      nargs="+",
      action="extend",
      required=True,
      metavar="NAME|PATH",
      help=f"{MODEL_HELP}; may be repeated, to compare several",
    )
  else:
    parser.add_argument(
      "--model",
      type=path_text,
      default=DEFAULT_MODEL,
      metavar="NAME|PATH",
      help=f"{MODEL_HELP}; default: %(default)s",
    )


def add_alpha(parser: argparse.ArgumentParser) -> None:
  """Adds --alpha."""
  _add_share(parser, "alpha", 1.0, "strength of the style, from 0 (the content itself) to 1")


def add_detail(parser: argparse.ArgumentParser, default: float) -> None:
  """Adds --detail."""
  text = "how much of the content's fine structure (faces, lettering) replaces that of the model"
  _add_share(parser, "detail", default, f"{text}, {_FROM_PAPERS}")


def add_palette(parser: argparse.ArgumentParser, default: float | None, shown: str) -> None:
  """Adds --palette; `shown` is the default in words."""
  text = f"how far the colors are moved to the style's own, {_FROM_PAPERS}"
  _add_share(parser, "palette", default, text, shown)


def add_evenness(parser: argparse.ArgumentParser, default: float) -> None:
  """Adds --evenness."""
  text = (
    "how far skies and walls keep their color up to what stands before them, in place of a halo"
  )
  _add_share(parser, "evenness", default, f"{text}, {_FROM_PAPERS}")


_FROM_PAPERS = "from 0 (the papers' result) to 1"


def _add_share(
  parser: argparse.ArgumentParser,
  name: str,
  default: float | None,
  text: str,
  shown: str = "%(default)s",
) -> None:
  """Adds an option from 0 to 1; `shown` is the default in words."""
  parser.add_argument(
    f"--{name}",
    type=in_range(float, 0, 1),
    default=default,
    metavar=name[0].upper(),
    help=f"{text}; default: {shown}",
  )


def add_refine(parser: argparse.ArgumentParser, default: int) -> None:
  """Adds --refine."""
  parser.add_argument(
    "--refine",
    type=in_range(int, 0, MOST_STEPS),
    default=default,
    metavar="N",
    help="how many steps improve the style for the content: 0 (the papers' one pass) to "
    f"{MOST_STEPS}; each takes as long as about 4 pictures of 256 x 256; default: %(default)s",
  )


def add_sizes_of_strokes(parser: argparse.ArgumentParser, whose: str) -> None:
  """Adds --stroke and --look-size; `whose` own size is meant, such as "the video's"."""
  parser.add_argument(
    "--stroke",
    type=in_range(float, 0.25, 16),
    default=1.0,
    metavar="S",
    help="how coarse the strokes are: 2 for twice as coarse; default: %(default)s",
  )
  parser.add_argument(
    "--look-size",
    type=_look_size,
    metavar="PX",
    help="paint as at this many pixels on the shorter side, so that a preview and a print have the "
    f"same strokes, or 'own': as at {whose} own size; default: own, but at most {LOOK_SIZE}",
  )


def _look_size(text: str) -> int:
  if text == "own":
    return OWN
  try:
    return in_range(int, 16)(text)
  except argparse.ArgumentTypeError as error:
    raise argparse.ArgumentTypeError(f"{error}; or 'own'") from None


def look_size_for(option: int | None, height: int, width: int) -> int | None:
  """Returns the `look_size` that --look-size means for a picture of this size."""
  if option is None:
    return usual_look_size(height, width)
  return None if option == OWN else option


def add_vgg_weights(parser: argparse.ArgumentParser) -> None:
  """Adds --vgg-weights."""
  parser.add_argument(
    "--vgg-weights",
    type=path_text,
    metavar="FILE",
    help="the VGG weights that the model was trained with, if they are not found automatically",
  )


def add_overwrite(parser: argparse.ArgumentParser) -> None:
  """Adds --overwrite."""
  parser.add_argument(
    "--overwrite", action="store_true", help="replace earlier results that are in --output"
  )


def in_range(kind: type, low: float, high: float = float("inf")) -> Callable[[str], Any]:
  """Makes an argparse type: a number of `kind`, int or float, from `low` to `high`."""
  words = {int: "a whole number", float: "a number"}[kind]
  words += f" of at least {low}" if high == float("inf") else f" from {low} to {high}"
  # Those of Python have no largest; more pixels or pairs than this are not meant.
  limit = min(high, MOST) if kind is int else high

  def parse(text: str):
    try:
      value = kind(text)
    except ValueError:
      value = None
    if value is None or not low <= value <= high:
      raise argparse.ArgumentTypeError(f"expected {words}, got {text!r}")
    if value > limit:
      raise argparse.ArgumentTypeError(f"expected {words}, and at most {limit}, got {text!r}")
    return value

  return parse
