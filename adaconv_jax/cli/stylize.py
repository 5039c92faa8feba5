"""`adaconv stylize`: renders picture files in the style of others."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from adaconv_jax import images
from adaconv_jax.checkpoints.errors import CheckpointError
from adaconv_jax.checkpoints.load import load_model
from adaconv_jax.cli.attempt import (
  EXIT_DONE,
  EXIT_INTERRUPTED,
  EXIT_SOME_FAILED,
  EXIT_USAGE,
  described,
  report,
)
from adaconv_jax.cli.masks import read_mask, read_masks
from adaconv_jax.cli.options import (
  Parser,
  add_alpha,
  add_detail,
  add_evenness,
  add_model,
  add_overwrite,
  add_palette,
  add_pictures,
  add_refine,
  add_sizes_of_strokes,
  add_vgg_weights,
  in_range,
  path_text,
)
from adaconv_jax.cli.pairs import find_inputs, join, plan_pairs
from adaconv_jax.cli.render_files import Look, render_pairs
from adaconv_jax.files import printable
from adaconv_jax.ops.color import COLORS

# Chosen by eye, over portraits, animals, cities, landscapes, still lifes, lettering, drawings and
# interiors in several styles.
DETAIL = 0.3
PALETTE = 0.6
EVENNESS = 1.0
REFINE = 3


def main(argv: Sequence[str] | None = None, *, prog: str = "adaconv stylize") -> int:
  """Runs the command.

  Args:
    argv: its arguments; those of the process if None.
    prog: what help and errors call it.

  Returns:
    0 when everything is done, 1 when some pairs failed or a bucket stopped answering, 2 when the
    arguments or the model are wrong and nothing was done, 130 after Ctrl-C.
  """
  args = _parser(prog).parse_args(argv)
  try:
    together = args.mix is not None or args.mask is not None
    contents, styles = find_inputs(args.content, args.style, args.output, repeated=together)
    look = _look(args, [style.path for style in styles])
    masks = [*(args.mask or ()), *([args.alpha_mask] if args.alpha_mask else ())]
    others = [*(look.together or ()), *masks]
    styles = styles if look.together is None else [join(styles)]
    pairs, kept = plan_pairs(contents, styles, args.output, overwrite=args.overwrite, others=others)
    for output in kept:
      print(f"kept, because it exists already (--overwrite replaces it): {printable(output)}")
    if not pairs:
      return EXIT_DONE
    stylizer = load_model(args.model, vgg_weights=args.vgg_weights)
  except (ValueError, OSError, CheckpointError) as error:
    report(f"error: {described(error)}")
    return EXIT_USAGE
  try:
    failed = render_pairs(
      stylizer,
      pairs,
      look=look,
      size=args.size,
      style_size=args.style_size,
      quality=args.quality,
      overwrite=args.overwrite,
    )
  except ConnectionError as error:
    report(f"error: {described(error)}")
    return EXIT_SOME_FAILED
  except KeyboardInterrupt:
    print("interrupted; what is written so far is whole", file=sys.stderr)
    return EXIT_INTERRUPTED
  made = len(pairs) - failed
  if len(pairs) == 1 and made:
    print(f"wrote {printable(pairs[0].output)}")
  elif made:
    print(f"wrote {made} picture{'s'[: made > 1]} to {printable(args.output)}")
  if failed:
    print(f"error: {failed} of {len(pairs)} failed", file=sys.stderr)
    return EXIT_SOME_FAILED
  return EXIT_DONE


def _look(args: argparse.Namespace, styles: list[Path]) -> Look:
  """Checks the options that belong together, and reads the masks.

  Raises:
    ValueError: options do not fit together; the message names them.
    OSError: a mask cannot be read.
  """
  if args.mix is not None and args.mask is not None:
    raise ValueError(
      "--mix and --mask: expected one of them; --mix mixes styles everywhere, --mask puts them "
      "side by side"
    )
  if args.mix is not None and (len(args.mix) != len(styles) or abs(sum(args.mix) - 1) > 1e-3):
    raise ValueError(
      f"--mix: expected {len(styles)} number(s) that sum to 1, one per --style, got "
      f"{' '.join(map(str, args.mix))}"
    )
  styled = args.color == COLORS[0]
  if args.palette and not styled:
    raise ValueError(
      "--palette and --color: expected --color style beside a --palette above 0, got "
      f"{args.color}, which keeps the content's colors"
    )
  palette = args.palette if args.palette is not None else PALETTE if styled else 0.0
  masks = None if args.mask is None else tuple(read_masks(args.mask, len(styles)))
  return Look(
    alpha=args.alpha,
    detail=args.detail,
    palette=palette,
    evenness=args.evenness,
    refine=args.refine,
    color=args.color,
    stroke=args.stroke,
    look_size=args.look_size,
    together=None if args.mix is None and masks is None else tuple(styles),
    weights=args.mix and tuple(args.mix),
    masks=masks,
    alpha_mask=None if args.alpha_mask is None else read_mask(args.alpha_mask, "--alpha-mask"),
  )


def _parser(prog: str = "adaconv stylize") -> argparse.ArgumentParser:
  parser = Parser(
    prog=prog,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    description="Renders content images in the style of other images.",
    epilog="""\
Folders are searched recursively. Every content is rendered in every style. With several pairs, the
outputs are named CONTENT--STYLE in the folder --output, in the content's format (PNG for a GIF).
Where two outputs would have the same name, the suffixes of the inputs are added. Earlier results in
--output are not used as inputs.

With several pairs, outputs that exist are kept: rerun the same command to resume. For a single
pair, an output that exists is an error. --overwrite replaces them.

A file that cannot be read is reported, and the rest is rendered. Exit code: 0 all rendered; 1 some
pairs failed; 2 nothing rendered, because of the arguments or the model; 130 interrupted.
""",
  )
  add = parser.add_argument
  add_pictures(parser)
  add(
    "--output",
    type=path_text,
    required=True,
    metavar="PATH",
    help=f"a file ({', '.join(images.SUFFIXES)}) for a single pair, or a folder; missing folders "
    "are made",
  )
  add_model(parser)
  add_alpha(parser)
  add(
    "--alpha-mask",
    type=path_text,
    metavar="FILE",
    help="a gray picture, stretched over the content: where it is white, or painted on a "
    "transparent ground, the strength is --alpha, where it is black the content stays",
  )
  add_detail(parser, DETAIL)
  add_palette(parser, None, f"{PALETTE}, or 0 beside another --color")
  add_evenness(parser, EVENNESS)
  add_refine(parser, REFINE)
  add(
    "--color",
    choices=COLORS,
    default=COLORS[0],
    help="whose colors: the style's; the content's, of which only the luminance is painted; or the "
    "style's, matched to the content's; default: %(default)s",
  )
  add(
    "--mix",
    nargs="+",
    type=in_range(float, 0, 1),
    metavar="W",
    help="mix all styles in every output, with these weights, one per style; their sum is 1",
  )
  add(
    "--mask",
    type=path_text,
    nargs="+",
    metavar="FILE",
    help="put all styles side by side in every output: gray pictures, one per style, white (or "
    "painted on a transparent ground) where the style is; or one picture whose colors, from dark "
    "to light, are the styles, and whose black is the content; stretched over the content",
  )
  add_sizes_of_strokes(parser, "each content's")
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
  add_overwrite(parser)
  add_vgg_weights(parser)
  return parser
