"""Stylizes picture files: the command line around `stylize`."""

import argparse
import sys

from adaconv_jax import images
from adaconv_jax.checkpoints.errors import CheckpointError
from adaconv_jax.checkpoints.load import DEFAULT_MODEL, load_model, shipped_models
from adaconv_jax.cli.command_line import (
  EXIT_DONE,
  EXIT_INTERRUPTED,
  EXIT_SOME_FAILED,
  EXIT_USAGE,
  in_range,
  run,
)
from adaconv_jax.cli.pairs import find_pictures, plan_pairs
from adaconv_jax.cli.render_files import render_pairs
from adaconv_jax.inference import check_alpha


def main(argv: list[str] | None = None) -> int:
  """Runs the command line.

  Returns:
    0 when everything is done, 1 when some pairs failed, 2 when the arguments or the model are
    wrong and nothing was done, 130 after Ctrl-C.
  """
  args = _parser().parse_args(argv)
  try:
    contents, styles = (
      find_pictures("--content", args.content),
      find_pictures("--style", args.style),
    )
    pairs, kept = plan_pairs(contents, styles, args.output, overwrite=args.overwrite)
    for output in kept:
      print(f"kept, because it exists already (--overwrite replaces it): {output}")
    if not pairs:
      return EXIT_DONE
    stylizer = load_model(args.model, vgg_weights=args.vgg_weights)
  except (ValueError, OSError, CheckpointError) as error:
    print(f"error: {error}", file=sys.stderr)
    return EXIT_USAGE
  try:
    failed = render_pairs(
      stylizer,
      pairs,
      alpha=check_alpha(args.alpha),
      size=args.size,
      style_size=args.style_size,
      quality=args.quality,
    )
  except KeyboardInterrupt:
    print("interrupted; what is written so far is whole", file=sys.stderr)
    return EXIT_INTERRUPTED
  if failed:
    print(f"error: {failed} of {len(pairs)} failed", file=sys.stderr)
    return EXIT_SOME_FAILED
  return EXIT_DONE


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    formatter_class=argparse.RawDescriptionHelpFormatter,
    description="Renders content images in the style of other images.",
    epilog="""\
Several contents or styles, or folders (searched with all folders below), make all pairs, named
CONTENT--STYLE in the folder --output; the format is the content's (PNG for a GIF).

Of several pairs, those whose output exists are kept and not made again, so that an interrupted run
goes on with the same command. For a single pair that is an error. --overwrite makes all.

A file that cannot be read is reported, and the rest is done. Exit code: 0 all done; 1 some failed;
2 nothing done, because of the arguments or the model.
""",
  )
  add = parser.add_argument
  add("--content", nargs="+", required=True, metavar="PATH", help="image files or folders")
  add("--style", nargs="+", required=True, metavar="PATH", help="image files or folders")
  add(
    "--output",
    required=True,
    metavar="PATH",
    help=f"a file ({', '.join(images.SUFFIXES)}) for a single pair, or a folder, which is made",
  )
  add(
    "--model",
    default=DEFAULT_MODEL,
    metavar="NAME|PATH",
    help="a shipped model (in this version: "
    f"{', '.join(shipped_models()) or 'none'}); or a workdir of train.py, a checkpoint in it, or "
    "a file from save_bundle; default: %(default)s",
  )
  add(
    "--alpha",
    type=in_range(float, 0, 1),
    default=1.0,
    metavar="A",
    help="strength of the style, 0 to 1; default: %(default)s",
  )
  add(
    "--size",
    type=in_range(int, 1),
    metavar="PX",
    help="scale the contents to this many pixels on the shorter side; default: as they are",
  )
  add("--style-size", type=in_range(int, 1), metavar="PX", help="the same for the styles")
  add(
    "--quality",
    type=in_range(int, 1, 100),
    default=95,
    metavar="Q",
    help="of JPEG and WebP outputs, 1 to 100; default: %(default)s",
  )
  add("--overwrite", action="store_true", help="replace outputs that exist")
  add(
    "--vgg-weights",
    metavar="FILE",
    help="the VGG weights that the model was trained with, where they are not found by themselves",
  )
  return parser


def cli() -> None:
  """Entry point of the console command."""
  run(main)


if __name__ == "__main__":
  cli()
