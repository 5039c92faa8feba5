"""Imports VGG weights that others publish, and rescales them.

python -m adaconv_jax.cli.vgg import FILE --arch vgg19 --output OUT.safetensors
python -m adaconv_jax.cli.vgg normalize FILE --images DIR --output OUT.safetensors
"""

import argparse
import sys
from pathlib import Path

from adaconv_jax.images import find_images
from adaconv_jax.vgg import convert as vgg_import
from adaconv_jax.vgg.file import read_file, to_params, to_tensors, write_file
from adaconv_jax.vgg.network import BLOCKS
from adaconv_jax.vgg.normalize import normalize, photographs


def main(argv: list[str] | None = None) -> None:
  """Runs the command line; what is wrong with a file ends it with one message."""
  parser = argparse.ArgumentParser(prog="python -m adaconv_jax.cli.vgg")
  commands = parser.add_subparsers(dest="command", required=True)
  command = commands.add_parser("import", help="convert VGG weights that others publish")
  command.add_argument("file", type=Path, metavar="FILE", help=".pth, .safetensors or Keras's .h5")
  command.add_argument("--arch", required=True, choices=sorted(BLOCKS))
  command.add_argument("--output", required=True, type=Path)
  command.set_defaults(run=_import)
  command = commands.add_parser("normalize", help="rescale every filter to a mean activation of 1")
  command.add_argument("file", type=Path, metavar="FILE", help="what `import` has written")
  command.add_argument(
    "--images", required=True, type=Path, help="folder; some hundred photographs"
  )
  command.add_argument("--output", required=True, type=Path)
  command.set_defaults(run=_normalize)
  args = parser.parse_args(argv)
  try:
    print(f"{args.output}: {args.run(args)}")
  except (OSError, ValueError, ImportError) as error:
    sys.exit(f"error: {error}")


def _import(args: argparse.Namespace) -> str:
  tensors, metadata = vgg_import.convert(args.file, args.arch)
  write_file(args.output, tensors, metadata)
  return f"{metadata['arch']} up to {metadata['last']}, from {metadata['source']}"


def _normalize(args: argparse.Namespace) -> str:
  tensors, info = read_file(args.file)
  images = find_images(args.images)
  params = normalize(to_params(tensors), photographs(images), info["arch"])
  metadata = {name: value for name, value in info.items() if name not in ("path", "file_sha256")}
  metadata["scaled"] = f"mean activation 1 over {len(images)} images"
  write_file(args.output, to_tensors(params), metadata)
  return f"{metadata['arch']} up to {metadata['last']}, {metadata['scaled']}"


if __name__ == "__main__":
  main()
