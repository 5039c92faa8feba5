"""`adaconv vgg`: imports VGG weights that others publish, and rescales them."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from adaconv_jax.cli.attempt import or_exit, report, report_skipped
from adaconv_jax.cli.options import Parser, check_output, check_suffix, to_file, to_path
from adaconv_jax.files import described, local_copy, printable
from adaconv_jax.images import ImageError, describe_empty, describe_unread, list_images
from adaconv_jax.vgg import convert as vgg_import
from adaconv_jax.vgg.file import read_file, to_params, to_tensors, write_file
from adaconv_jax.vgg.network import BLOCKS
from adaconv_jax.vgg.normalize import normalize, photograph, photographs
from adaconv_jax.vgg.weights import scaling

# Fewer photographs than this get a warning.
FEW_IMAGES = 100


def main(argv: Sequence[str] | None = None, *, prog: str = "adaconv vgg") -> int:
  """Runs the command.

  Args:
    argv: its arguments; those of the process if None.
    prog: what help and errors call it.

  Returns:
    0, when the file is written.

  Raises:
    SystemExit: with one message, if a file cannot be used or written.
  """
  args = _parser(prog).parse_args(argv)
  with or_exit(OSError, ValueError, ImportError):
    check_output(args.output, args.file)
    check_suffix(args.output)
    print(printable(f"{args.output}: {args.run(args)}"))
  return 0


def _parser(prog: str = "adaconv vgg") -> argparse.ArgumentParser:
  parser = Parser(
    prog=prog, description="Imports VGG weights that others publish, and rescales them."
  )
  commands = parser.add_subparsers(dest="command", metavar="import|normalize", required=True)
  command = commands.add_parser(
    "import",
    help="convert VGG weights that others publish",
    description="Converts VGG weights that others publish.",
  )
  command.add_argument(
    "file", type=to_path, metavar="FILE", help=".pth, .safetensors or Keras's .h5"
  )
  command.add_argument(
    "--arch", required=True, choices=sorted(BLOCKS), help="the network that FILE holds"
  )
  _add_output(command)
  command.set_defaults(run=_import)
  command = commands.add_parser(
    "normalize",
    help="rescale every filter to a mean activation of 1",
    description="Rescales every filter to a mean activation of 1 over photographs.",
  )
  command.add_argument("file", type=to_path, metavar="FILE", help="from `adaconv vgg import`")
  command.add_argument(
    "--images",
    required=True,
    type=to_path,
    metavar="DIR",
    help="a folder with some hundred photographs",
  )
  _add_output(command)
  command.set_defaults(run=_normalize)
  return parser


def _add_output(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--output",
    required=True,
    type=to_file,
    metavar="FILE",
    help="the file to write, such as vgg19.safetensors",
  )


def _import(args: argparse.Namespace) -> str:
  with local_copy(args.file) as file:
    tensors, metadata = vgg_import.convert(file, args.arch)
  write_file(args.output, tensors, metadata)
  return f"{metadata['arch']} up to {metadata['last']}, from {metadata['source']}"


def _normalize(args: argparse.Namespace) -> str:
  tensors, info = read_file(args.file)
  images, unread = list_images(args.images)
  if unread:
    report(describe_unread(args.images, unread))
  if not images:
    raise ValueError(f"--images: {describe_empty(args.images)}")
  if len(images) < FEW_IMAGES:
    report(
      f"warning: --images: the mean activations of {len(images)} photographs are rough; "
      f"{FEW_IMAGES} or more are better"
    )
  if before := scaling(info):
    report(f"warning: {args.file} was normalized before ({before})")
  skipped: list[str] = []

  def read(path: Path) -> np.ndarray | None:
    try:
      return photograph(path)
    except ConnectionError:
      raise  # a bucket that does not answer is no broken image
    except (OSError, ImageError) as error:
      skipped.append(described(error))
      return None

  try:
    params = normalize(to_params(tensors), photographs(images, read), info["arch"])
  except ValueError as error:
    if len(skipped) < len(images):
      raise
    raise ValueError(
      f"--images: none of the {len(images)} images in {printable(args.images)} can be read, the "
      f"first: {skipped[0]}"
    ) from error
  report_skipped(skipped)
  metadata = {name: value for name, value in info.items() if name not in ("path", "file_sha256")}
  metadata["scaled"] = f"mean activation 1 over {len(images) - len(skipped)} images"
  write_file(args.output, to_tensors(params), metadata)
  left_out = f", {len(skipped)} skipped" if skipped else ""
  return f"{metadata['arch']} up to {metadata['last']}, {metadata['scaled']}{left_out}"
