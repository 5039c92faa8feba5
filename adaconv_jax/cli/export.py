"""`adaconv export`: writes a trained model as one file, for this package or for another runtime."""

import argparse
import difflib
import re
from collections.abc import Sequence
from pathlib import Path

from adaconv_jax.checkpoints.bundle import save_bundle
from adaconv_jax.checkpoints.errors import CheckpointError
from adaconv_jax.checkpoints.load import (
  Trained,
  find_model,
  read_model,
  stylizer_of,
  vgg_goes_along,
)
from adaconv_jax.checkpoints.record import is_of_run
from adaconv_jax.cli.attempt import or_exit
from adaconv_jax.cli.options import (
  MODEL_HELP,
  SUFFIX,
  Parser,
  add_vgg_weights,
  check_file_name,
  check_output,
  format_of,
  path_text,
  to_path,
)
from adaconv_jax.compilation import keep_compiled
from adaconv_jax.exports import write as exports
from adaconv_jax.exports.verify import LIMIT
from adaconv_jax.files import Json, check_path, expand, printable, sha256, size_of

BUNDLE = "bundle"
FORMATS = (BUNDLE, *exports.FORMATS)
SUFFIXES = {SUFFIX: BUNDLE, **{f".{kind}": kind for kind in exports.FORMATS}}
# Sides that pictures of a fixed size may have.
LEAST_SIDE, MOST_SIDE = 16, 8192


def export(
  source: str | Path,
  path: str | Path,
  *,
  dtype: str = "float16",
  vgg_weights: str | Path | None = None,
) -> Json:
  """Writes a trained model as one file that says how it was trained; see `save_bundle`.

  Args:
    source: a workdir or checkpoint, as for `load_model`; or a bundle, to change its precision.
    path: where to. VGG weights beside a bundle are copied beside it.
    dtype: "float16" or "float32".
    vgg_weights: file with the VGG weights that the model was trained with, where they are not
      found by themselves.

  Returns:
    What the file says of the training: see `workdir.summarize`.

  Raises:
    ValueError: see `load_model` and `save_bundle`; a part of the workdir's record is damaged;
      `path` is a file that is read, one of the run's own, or cannot be written; or VGG weights of
      another model are beside it.
    FileNotFoundError: a part of the workdir or the VGG weights are missing.
    CheckpointError: no checkpoint can be used, or not the one asked for.
  """
  check_path("path", path, "a file to write, such as model.safetensors")
  check_file_name(path)
  path = expand(path)
  trained = _read(source, [path], vgg_weights)
  info = trained.info()
  stylizer = stylizer_of(trained, vgg_weights)
  with vgg_goes_along(trained, path):
    save_bundle(stylizer, path, dtype=dtype, info=info)
  return info


def export_graphs(
  source: str | Path,
  path: str | Path,
  kind: str,
  *,
  graphs: str = "one",
  dtype: str = "float16",
  size: tuple[int, int] | None = None,
  vgg_weights: str | Path | None = None,
) -> tuple[Json, float]:
  """Writes a trained model for another runtime, if it computes there what it computes in JAX.

  Args:
    source: a workdir, checkpoint or bundle, as for `load_model`.
    path: the file to write; with split graphs the folder.
    kind: "onnx", "stablehlo" or "tflite".
    graphs: "one" or "split"; see `exports.write`.
    dtype: of the weights in the file, "float16" or "float32".
    size: height and width of all pictures, for "tflite".
    vgg_weights: see `export`.

  Returns:
    What the file says of the training, and the largest difference from JAX in levels of 255.

  Raises:
    ValueError: see `export` and `exports.write`.
    FileNotFoundError: a part of the workdir or the VGG weights are missing.
    CheckpointError: no checkpoint can be used, or not the one asked for.
  """
  check_path("path", path, f"a file to write, such as model.{kind}")
  exports.check_options(kind, graphs, dtype, size)
  if graphs != "split":
    check_file_name(path)
  path = expand(path)
  if graphs == "split" and path.is_file():
    raise ValueError(f"{printable(path)}: expected a folder for split graphs, got a file")
  trained = _read(source, list(exports.paths_of(path, kind, graphs).values()), vgg_weights)
  info, stylizer = trained.info(), stylizer_of(trained, vgg_weights)
  options = {"graphs": graphs, "dtype": dtype, "size": size, "info": info}
  return info, exports.write(stylizer, path, kind, **options)


def _read(source: str | Path, outputs: Sequence[Path], vgg_weights: str | Path | None) -> Trained:
  """Reads a model, once the outputs are known to be none of the files that are read."""
  found = find_model(source)
  for path in outputs:
    check_output(path, found, vgg_weights)
  trained = read_model(found)
  for path in outputs:
    check_output(path, trained.vgg_file)
    if found.is_dir() and is_of_run(trained.path, path):
      raise ValueError(
        f"{printable(path)}: expected a file that is none of the training's in "
        f"{printable(trained.path)}; name another one"
      )
  return trained


def main(argv: Sequence[str] | None = None, *, prog: str = "adaconv export") -> int:
  """Runs the command.

  Args:
    argv: its arguments; those of the process if None.
    prog: what help and errors call it.

  Returns:
    0, when the file is written.

  Raises:
    SystemExit: with one message, if the model cannot be used or the file cannot be written, or an
      exported graph differs from JAX.
  """
  args = _parser(prog).parse_args(argv)
  target, args.file = args.file, to_path(args.file)
  beside = ""
  with or_exit(ValueError, OSError, CheckpointError):
    if args.graphs != "split":
      check_file_name(target)
    args.file.exists()  # raises if a bucket cannot be used, before the model is loaded
    kind = _kind(args)
    if kind == BUNDLE:
      files = [args.file]
      info = export(args.model, target, dtype=args.dtype, vgg_weights=args.vgg_weights)
    else:
      keep_compiled()
      files = list(exports.paths_of(args.file, kind, args.graphs).values())
      options = {"graphs": args.graphs, "dtype": args.dtype, "size": args.size}
      options["vgg_weights"] = args.vgg_weights
      info, difference = export_graphs(args.model, target, kind, **options)
      beside = f", at most {difference:.2g} of 255 levels from JAX"
  for file in files:
    size = size_of(file) / 1e6
    summary = f"step {info.get('steps')}, {size:.1f} MB, sha256 {sha256(file)}{beside}"
    print(f"{printable(file)}: {summary}")
  return 0


def _kind(args: argparse.Namespace) -> str:
  """Returns the format: the one that was named, otherwise that of the file's suffix.

  A name without the suffix of a format fits every format, and is a bundle's if none is named. The
  folder of split graphs may have any suffix that is not another export's.

  Raises:
    ValueError: suffix and format differ, or other options do not fit the format.
  """
  suffix = format_of(expand(args.file))
  name, got = printable(args.file), printable(suffix)
  kind = args.format or SUFFIXES.get(suffix, BUNDLE)
  is_folder = args.graphs == "split" and suffix not in SUFFIXES
  if suffix and SUFFIXES.get(suffix) != kind and not is_folder:
    if args.format:
      expected = next(known for known, of in SUFFIXES.items() if of == kind)
      raise ValueError(
        f"{name}: expected a name that ends in {expected}, or has no suffix, for --format {kind}, "
        f"got {got}"
      )
    close = difflib.get_close_matches(suffix, SUFFIXES, 1)
    guess = f"; did you mean {close[0]}?" if close else ""
    raise ValueError(
      f"{name}: expected a name that ends in {SUFFIX} (a bundle), "
      f"{', '.join(f'.{known}' for known in exports.FORMATS)}, or has no suffix, got {got}{guess}"
    )
  if kind == BUNDLE and (args.graphs != "one" or args.size):
    option = "--size" if args.size else "--graphs split"
    raise ValueError(f"{option}: expected --format {', '.join(exports.FORMATS)}, got {kind}")
  return kind


def _target(text: str) -> str:
  """An argparse type: as `to_path`, but with a slash at the end as it was given."""
  to_path(text)
  return text


def _size(text: str) -> tuple[int, int]:
  """An argparse type: HEIGHTxWIDTH."""
  match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
  size = (int(match[1]), int(match[2])) if match else (0, 0)
  if not all(LEAST_SIDE <= side <= MOST_SIDE for side in size):
    raise argparse.ArgumentTypeError(
      f"expected height x width, such as 512x768, from {LEAST_SIDE} to {MOST_SIDE}, got {text!r}"
    )
  return size


def _parser(prog: str = "adaconv export") -> argparse.ArgumentParser:
  parser = Parser(
    prog=prog,
    description="Writes a trained model as one file, with a summary of its training. Of a workdir, "
    "it takes the newest whole checkpoint. A bundle is for this package; onnx, stablehlo and "
    f"tflite run without it, and are kept if they differ from JAX by at most {LIMIT:g} of 255 "
    "levels on three pictures.",
  )
  add = parser.add_argument
  add("model", type=path_text, metavar="MODEL", help=MODEL_HELP)
  add(
    "file",
    type=_target,
    metavar="FILE",
    help="the file to write, such as model.safetensors or model.onnx; a folder for split graphs",
  )
  add(
    "--format",
    choices=FORMATS,
    help="default: that of FILE's suffix (.safetensors, .onnx, .stablehlo, .tflite), or a bundle "
    "if it has none of these",
  )
  add(
    "--graphs",
    choices=[*exports.CHOICES],
    default="one",
    help="one: content, style and alpha to a picture, in one file; split: style.* (style to code) "
    "and content.* (content, code and alpha to a picture), so that a style is encoded once; not "
    "for bundles; default: %(default)s",
  )
  add(
    "--size",
    type=_size,
    metavar="HxW",
    help="height and width of all pictures, for tflite; the other formats take any size",
  )
  add(
    "--dtype",
    choices=["float16", "float32"],
    default="float16",
    help="of the weights in the file; default: %(default)s",
  )
  add_vgg_weights(parser)
  return parser
