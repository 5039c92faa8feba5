"""`adaconv import`: converts a trained model of another program."""

import argparse
import contextlib
from collections.abc import Sequence

from adaconv_jax.checkpoints.bundle import vgg_beside
from adaconv_jax.checkpoints.pytorch import READABLE, read_pytorch
from adaconv_jax.cli.attempt import or_exit
from adaconv_jax.cli.options import Parser, check_output, check_suffix, to_file, to_path
from adaconv_jax.files import local_copy, printable, size_of
from adaconv_jax.models.build import model_settings


def main(argv: Sequence[str] | None = None, *, prog: str = "adaconv import") -> int:
  """Runs the command.

  Args:
    argv: its arguments; those of the process if None.
    prog: what help and errors call it.

  Returns:
    0, when the files are written.

  Raises:
    SystemExit: with one message, if a file cannot be used or written.
  """
  args = _parser(prog).parse_args(argv)
  with or_exit(OSError, ValueError, ImportError), contextlib.ExitStack() as stack:
    check_output(args.output, *args.file)
    check_output(vgg_beside(args.output), *args.file)
    check_suffix(args.output)
    model = read_pytorch([stack.enter_context(local_copy(file)) for file in args.file])
    vgg = model.save(args.output, dtype=args.dtype)
  size = size_of(args.output) / 1e6
  described = model_settings(model.model)
  settings = ", ".join(f"{name} {value}" for name, value in described["settings"].items())
  kind = described["transform"] + (f" ({settings})" if settings else "")
  print(printable(f"{args.output}: {kind} of {model.info['imported']['from']}, {size:.1f} MB"))
  print(printable(f"{vgg}: its VGG weights, which load_model finds beside it"))
  return 0


def _parser(prog: str = "adaconv import") -> argparse.ArgumentParser:
  parser = Parser(
    prog=prog,
    description=f"Converts a trained model of another program: {READABLE}. No code in a file is "
    "run.",
  )
  add = parser.add_argument
  add("file", type=to_path, nargs="+", metavar="FILE", help="the files of one model")
  add(
    "--output",
    required=True,
    type=to_file,
    metavar="FILE",
    help="the file to write, such as model.safetensors; the model's VGG weights are written beside "
    "it, as model.vgg.safetensors",
  )
  add(
    "--dtype",
    choices=["float16", "float32"],
    default="float32",
    help="of the trained weights in the file; default: %(default)s",
  )
  return parser
