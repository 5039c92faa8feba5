"""Stylizes images: `stylize` for JAX code, and the command line around it.

    python infer.py --model runs/first --content photo.jpg --style painting.jpg --output out.jpg
    python infer.py --content photos --style paintings --output stylized --size 512

`python infer.py --help` tells the rest.
"""

import argparse
import functools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from adaconv_jax import images
from adaconv_jax.checkpoints.load import DEFAULT_MODEL, find_model, load_model, shipped_models
from adaconv_jax.checkpoints.orbax import CheckpointError
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
from adaconv_jax.inference import encode, render
from adaconv_jax.models.stylizer import Stylizer

# How far values may be outside of [0, 1]: more than rounding, less than a wrong range.
TOLERANCE = 1e-3


def stylize(
  content: ArrayLike,
  style: ArrayLike,
  *,
  model: str | Path | Stylizer = DEFAULT_MODEL,
  alpha: ArrayLike = 1.0,
) -> jax.Array:
  """Renders contents in the style of other images.

  Pure JAX, compiled once per shape: it can be part of `jit`, `vmap` and `grad` (reverse mode, with
  respect to content, style and alpha). What can only be told from values (NaN, ranges) is checked
  outside of these. A model given by name or path is kept in memory, and loaded again when its
  files change; under `jit` it becomes a constant of the compiled function.

  Args:
    content: RGB `[h, w, 3]` or `[n, h, w, 3]`, float in [0, 1] or uint8, any size.
    style: RGB `[h', w', 3]` or `[n, h', w', 3]`, float in [0, 1] or uint8; one style is used for
      all contents.
    model: the name of a shipped model, the path of a workdir, checkpoint or bundle, or what
      `adaconv_jax.load_model` has returned.
    alpha: a number from 0 (content) to 1 (style).

  Returns:
    The stylized contents, of the shape and type of `content` (uint8 is rounded; float64 without
    JAX's 64-bit mode becomes float32).

  Raises:
    ValueError: content or style is not RGB of one of these shapes and types, is empty, has NaN or
      values outside of [0, 1]; there are more styles than one and not one per content; alpha is
      not in [0, 1]; there is no such model, or it cannot be used (see `load_model`).
  """
  content, style = _check_images("content", content), _check_images("style", style)
  contents, styles = (x if x.ndim == 4 else x[None] for x in (content, style))
  if styles.shape[0] not in (1, contents.shape[0]):
    raise ValueError(
      f"style: expected one style, or one for each of the {contents.shape[0]} contents, got "
      f"{styles.shape[0]}; for every pair, call stylize once per style"
    )
  weight = _check_alpha(alpha)
  stylizer = model if isinstance(model, Stylizer) else _load(model)
  stylized = render(stylizer, contents, encode(stylizer, styles), weight)
  return stylized if content.ndim == 4 else stylized[0]


def _check_images(name: str, value: ArrayLike) -> jax.Array | np.ndarray:
  batch = value if isinstance(value, jax.Array) else np.asarray(value)
  if batch.ndim not in (3, 4) or batch.shape[-1] != 3:
    raise ValueError(
      f"{name}: expected RGB of the shape [h, w, 3] or [n, h, w, 3], got {list(batch.shape)}; grey "
      "pictures and those with alpha have to be converted to RGB first"
    )
  if 0 in batch.shape:
    raise ValueError(f"{name}: expected at least one pixel, got the shape {list(batch.shape)}")
  if batch.dtype == jnp.uint8:
    return batch
  if not jnp.issubdtype(batch.dtype, jnp.floating):
    raise ValueError(f"{name}: expected float in [0, 1] or uint8, got {batch.dtype}")
  if isinstance(batch, Tracer):
    return batch
  values = np.asarray(batch)  # NumPy, because a JAX operation would be traced under an outer jit
  with np.errstate(invalid="ignore"):  # bfloat16 warns of NaN
    low, high = float(values.min()), float(values.max())
  if np.isnan(low) or np.isnan(high):
    raise ValueError(f"{name}: expected values in [0, 1], got NaN")
  if low < -TOLERANCE or high > 1 + TOLERANCE:
    raise ValueError(
      f"{name}: expected float values in [0, 1], got {low:g} to {high:g}; divide by the maximum of "
      "their type, or clip what resizing has overshot"
    )
  return batch


def _check_alpha(alpha: ArrayLike) -> jax.Array | None:
  """Returns None for a plain 1, else an array, so that another number compiles nothing anew."""
  value = alpha if isinstance(alpha, jax.Array) else np.asarray(alpha)
  if value.shape != () or not jnp.issubdtype(value.dtype, jnp.number):
    raise ValueError(f"alpha: expected one number in [0, 1], got {value.dtype}{list(value.shape)}")
  if not isinstance(value, Tracer):
    number = float(value)
    if not 0 <= number <= 1:
      raise ValueError(f"alpha: expected a number in [0, 1], got {number:g}")
    if number == 1:
      return None
  return jnp.asarray(value, jnp.float32)


def _load(model: str | Path) -> Stylizer:
  path = find_model(model).resolve()
  # Of a workdir, saving a checkpoint changes the time of the folder that it is saved to.
  watched = [path] if path.is_file() else [path, path / "config.json", path / "checkpoints"]
  return _load_once(path, tuple(part.stat().st_mtime_ns for part in watched if part.exists()))


@functools.lru_cache(maxsize=4)
def _load_once(path: Path, modified: tuple[int, ...]) -> Stylizer:
  del modified  # a part of the key only
  with jax.ensure_compile_time_eval():  # the first call may be inside a jit; tracers must not stay
    return load_model(path)


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
      alpha=_check_alpha(args.alpha),
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
