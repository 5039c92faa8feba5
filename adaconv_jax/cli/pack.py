"""`adaconv pack`: packs a large set of images, so that a training on it starts at once."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from adaconv_jax.bars import Bar
from adaconv_jax.cli.attempt import EXIT_DONE, EXIT_INTERRUPTED, EXIT_USAGE, report, report_skipped
from adaconv_jax.cli.options import Parser, in_range, path_text
from adaconv_jax.data.pack import Settings, pack
from adaconv_jax.data.packed import INDEX, is_begun, is_packed
from adaconv_jax.data.sources import open_source
from adaconv_jax.files import (
  described,
  expand,
  expand_named,
  is_same,
  naming_option,
  printable,
  unwritable,
)
from adaconv_jax.images import image_names
from adaconv_jax.lock import WorkdirInUse


def main(argv: Sequence[str] | None = None, *, prog: str = "adaconv pack") -> int:
  """Runs the command.

  Args:
    argv: its arguments; those of the process if None.
    prog: what help and errors call it.

  Returns:
    0 when the set is packed, 2 when the arguments are wrong or a folder cannot be used, 130 after
    Ctrl-C.
  """
  args = _parser(prog).parse_args(argv)
  try:
    with naming_option("--output"):
      output = expand(args.output)
      output.exists()  # raises if a bucket cannot be used, before the images are listed
    expand_named("--input", args.input)
    name = printable(output)
    if fault := unwritable(output):
      raise ValueError(f"--output: expected a folder to write to, got {name}: {fault}")
    # A folder with an index is read as the packed set, so images that are added to it later would
    # be ignored.
    if is_same(args.input, output):
      raise ValueError(f"--output: expected another folder than --input, got {name} for both")
    _check_has_no_others(output)
    source = open_source(args.input, role="--input")
    if left_out := getattr(source, "left_out", ""):
      report(f"--input: {left_out}")
    with Bar(desc="packing", total=len(source), unit="image") as bar:
      settings = Settings(args.size, args.quality)
      packed = pack(source, output, settings, workers=args.workers, progress=bar.update)
  except KeyboardInterrupt:
    print("interrupted; rerun the same command to resume", file=sys.stderr)
    return EXIT_INTERRUPTED
  except (ValueError, OSError, ImportError, WorkdirInUse) as error:
    report(f"error: {described(error)}")
    return EXIT_USAGE
  skipped = [f"{name}: {reason}" for name, reason in packed.skipped]
  report_skipped(skipped, f"; {printable(output / INDEX)} lists all of them")
  earlier = f", {packed.kept} of them by an earlier run" if packed.kept else ""
  print(
    f"{printable(output)}: {packed.images} images, {packed.bytes / 1e6:.0f} MB, "
    f"{len(packed.skipped)} skipped{earlier}"
  )
  return EXIT_DONE


def _check_has_no_others(output: Path) -> None:
  """Raises if a folder has images that a packed set in it would hide from trainings."""
  if output.is_dir() and not is_packed(output) and not is_begun(output):
    if names := list(image_names(output)[0]):
      raise ValueError(
        f"--output: expected an empty folder or a new one, got {printable(output)} with "
        f"{len(names)} images, such as {printable(names[0])}, which the packed set would hide"
      )


def _parser(prog: str = "adaconv pack") -> argparse.ArgumentParser:
  parser = Parser(
    prog=prog,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    description="Packs a large set of images into a few large files, for trainings.",
    epilog="""\
Every image is decoded, turned upright, converted to sRGB and, if it is larger than --size, scaled
down. JPEGs that need none of this are kept byte for byte. Images that cannot be read are skipped
and listed. The files are ArrayRecord files, with the index packed.json.

A training takes the folder in place of the images, and starts without checking them again:

  adaconv pack --input photos --output gs://BUCKET/photos
  adaconv train --config adaconv --workdir gs://BUCKET/runs/first \\
    --config.data.content=gs://BUCKET/photos --config.data.style=gs://BUCKET/paintings

Rerun the same command to resume. Exit code: 0 done; 2 wrong arguments or an unusable folder;
130 interrupted.
""",
  )
  add = parser.add_argument
  add(
    "--input",
    type=path_text,
    required=True,
    metavar="DIR",
    help="a folder with images, searched with all folders below, or tfds:DIR[:SPLIT]",
  )
  add(
    "--output",
    type=path_text,
    required=True,
    metavar="DIR",
    help="the folder for the packed set",
  )
  add(
    "--size",
    type=in_range(int, 1, 65_500),
    default=512,
    metavar="PX",
    help="scale larger images down to this many pixels on the shorter side; default: %(default)s",
  )
  add(
    "--quality",
    type=in_range(int, 1, 100),
    default=95,
    metavar="Q",
    help="of the JPEGs that are written, 1 to 100; default: %(default)s",
  )
  add(
    "--workers",
    type=in_range(int, 1),
    default=os.cpu_count() or 1,
    metavar="N",
    help="threads; the files do not depend on it; default: one for each core, %(default)s",
  )
  return parser
