"""Stylizes images: `stylize` for JAX code, and the command line around it.

    python infer.py --model runs/first --content photo.jpg --style painting.jpg --output out.jpg
    python infer.py --content photos --style paintings --output stylized --size 512

`python infer.py --help` tells the rest.
"""

import argparse
import functools
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from tqdm import tqdm

from adaconv_jax import images
from adaconv_jax.atomic import replacing
from adaconv_jax.buckets import Extent, put_in
from adaconv_jax.checkpoint import CheckpointError
from adaconv_jax.command_line import (
  EXIT_DONE,
  EXIT_INTERRUPTED,
  EXIT_SOME_FAILED,
  EXIT_USAGE,
  attempt,
  in_range,
  run,
)
from adaconv_jax.models import StyleCode
from adaconv_jax.pairs import Pair, find_pictures, plan_pairs
from adaconv_jax.stylizer import ContentCode, Stylizer
from adaconv_jax.trained import DEFAULT_MODEL, find_model, load_model, shipped_models

# How far values may be outside of [0, 1]: more than rounding, less than a wrong range.
TOLERANCE = 1e-3

T = TypeVar("T")


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
  stylized = _render(stylizer, contents, _encode(stylizer, styles), weight)
  return stylized if content.ndim == 4 else stylized[0]


def _encode(stylizer: Stylizer, styles: ArrayLike, extent: Extent | None = None) -> StyleCode:
  """Encodes `[n, h, w, 3]`; for AdaConv, another size of style costs only a new resize."""
  fitted = _fit_style(stylizer, styles, extent)
  # Of a style that was resized, all counts.
  return _encode_fitted(stylizer, fitted, extent if stylizer.model.style_size is None else None)


@jax.jit
def _fit_style(stylizer: Stylizer, styles: jax.Array, extent: Extent | None) -> jax.Array:
  return stylizer.fit_style(_to_float(styles), extent)


@jax.jit
def _encode_fitted(stylizer: Stylizer, styles: jax.Array, extent: Extent | None) -> StyleCode:
  return stylizer.encode_style(styles, extent)


@jax.jit
def _render(
  stylizer: Stylizer, contents: jax.Array, code: StyleCode, alpha: jax.Array | None
) -> jax.Array:
  """Stylizes `[n, h, w, 3]`; `alpha` None is 1, which AdaConv does in half the time."""
  stylized = stylizer.stylize(_to_float(contents), code, 1.0 if alpha is None else alpha)
  return _from_float(stylized, contents.dtype)


@functools.partial(jax.jit, static_argnames="for_alpha")
def _encode_content(
  stylizer: Stylizer, contents: jax.Array, extent: Extent | None, for_alpha: bool
) -> ContentCode:
  return stylizer.encode_content(_to_float(contents), for_alpha=for_alpha, extent=extent)


@jax.jit
def _render_encoded(
  stylizer: Stylizer, content: ContentCode, code: StyleCode, alpha: jax.Array | None
) -> jax.Array:
  """The second half of `_render`, for contents that meet many styles; returns uint8."""
  stylized = stylizer.render(content, code, 1.0 if alpha is None else alpha)
  return _from_float(stylized, jnp.uint8)


def _from_float(stylized: jax.Array, dtype: Any) -> jax.Array:
  if dtype == jnp.uint8:
    stylized = jnp.round(stylized * 255)
  return stylized.astype(dtype)


def _to_float(batch: jax.Array) -> jax.Array:
  scale = 255 if batch.dtype == jnp.uint8 else 1
  return batch.astype(jnp.float32) / scale


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
    failed = _run(stylizer, pairs, args)
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


def _run(stylizer: Stylizer, pairs: list[Pair], args: argparse.Namespace) -> int:
  """Makes all pairs and reports those that cannot be made; returns their number."""
  alpha = _check_alpha(args.alpha)
  codes: dict[Path, StyleCode | None] = {}  # None: the style cannot be used, and that was reported
  failed = 0
  with tqdm(total=len(pairs), unit="image", disable=len(pairs) == 1) as bar:
    for content, group in itertools.groupby(pairs, lambda pair: pair.content):
      picture = _attempt(content.path, _read_content, args.size, stylizer, alpha is not None)
      for pair in group:
        style = pair.style.path
        if picture is not None and style not in codes:
          codes[style] = _attempt(style, _read_style, args.style_size, stylizer)
        code = codes.get(style)
        if picture is not None and code is not None:
          done = _attempt(pair.output, _make, stylizer, picture, code, alpha, args.quality)
        else:
          done = None
        failed += done is None
        bar.update()
  return failed


def _attempt(path: Path, action: Callable[..., T], *args: Any) -> T | None:
  return attempt(path, action, path, *args, memory_hint="--size or --style-size")


def _read(path: Path, size: int | None) -> np.ndarray:
  """Reads an image file as `[h, w, 3]`, uint8."""
  picture = images.decode(path.read_bytes(), name=str(path), at_least=size)
  return np.asarray(picture if size is None else images.resize_shorter(picture, size))


def _in_bucket(stylizer: Stylizer, picture: np.ndarray) -> tuple[np.ndarray, Extent | None]:
  """Makes `[1, h', w', 3]` of `[h, w, 3]`, so that pictures of many sizes share programs."""
  bucket = stylizer.bucket(*picture.shape[:2])
  if bucket is None:
    return picture[None], None
  return put_in(picture, bucket)[None], Extent(*picture.shape[:2])


def _read_content(path: Path, size: int | None, stylizer: Stylizer, for_alpha: bool) -> ContentCode:
  return _encode_content(stylizer, *_in_bucket(stylizer, _read(path, size)), for_alpha)


def _read_style(path: Path, size: int | None, stylizer: Stylizer) -> StyleCode:
  return _encode(stylizer, *_in_bucket(stylizer, _read(path, size)))


def _make(
  output: Path,
  stylizer: Stylizer,
  content: ContentCode,
  code: StyleCode,
  alpha: jax.Array | None,
  quality: int,
) -> Path:
  """Makes one image, and puts it to `output` at once or not at all."""
  stylized = np.asarray(_render_encoded(stylizer, content, code, alpha))[0]
  if content.extent is not None:
    height, width = map(int, content.extent)
    stylized = stylized[:height, :width]
  with replacing(output) as temporary:
    images.save(temporary, stylized, quality=quality)
  return output


def cli() -> None:
  """Entry point of the console command."""
  run(main)


if __name__ == "__main__":
  cli()
