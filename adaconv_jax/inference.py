"""`stylize` for JAX code, and the compiled programs that it and the command line run.

Each is compiled once per shape; images are float in [0, 1] or uint8.
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike, DTypeLike

from adaconv_jax.checkpoints.load import DEFAULT_MODEL, find_model, load_model
from adaconv_jax.models.style_code import StyleCode
from adaconv_jax.models.stylizer import ContentCode, Stylizer
from adaconv_jax.ops.extent import Extent
from adaconv_jax.ops.tiling import WHOLE_BYTES, image_bytes
from adaconv_jax.vgg.network import STRIDE

# How far values may be outside of [0, 1]: more than rounding, less than a wrong range.
TOLERANCE = 1e-3

# Sides of buckets from one power of two to the next: at most an eighth is added, 5 % in the mean.
STEPS_PER_OCTAVE = 8


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
  weight = check_alpha(alpha)
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


def check_alpha(alpha: ArrayLike) -> jax.Array | None:
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


def encode(stylizer: Stylizer, styles: ArrayLike, extent: Extent | None = None) -> StyleCode:
  """Encodes `[n, h, w, 3]`; for AdaConv, another size of style costs only a new resize."""
  fitted = _fit_style(stylizer, styles, extent)
  # A style that was resized is valid everywhere.
  return _encode_fitted(stylizer, fitted, extent if stylizer.model.style_size is None else None)


@jax.jit
def _fit_style(stylizer: Stylizer, styles: jax.Array, extent: Extent | None) -> jax.Array:
  return stylizer.fit_style(_to_float(styles), extent)


@jax.jit
def _encode_fitted(stylizer: Stylizer, styles: jax.Array, extent: Extent | None) -> StyleCode:
  return stylizer.encode_style(styles, extent)


@jax.jit
def render(
  stylizer: Stylizer, contents: jax.Array, code: StyleCode, alpha: jax.Array | None
) -> jax.Array:
  """Stylizes `[n, h, w, 3]`; `alpha` None is 1, which AdaConv does in half the time."""
  stylized = stylizer.stylize(_to_float(contents), code, 1.0 if alpha is None else alpha)
  return _from_float(stylized, contents.dtype)


@functools.partial(jax.jit, static_argnames="for_alpha")
def encode_content(
  stylizer: Stylizer, contents: jax.Array, extent: Extent | None, for_alpha: bool
) -> ContentCode:
  """The first half of `render`; `for_alpha` keeps what an `alpha` below 1 needs."""
  return stylizer.encode_content(_to_float(contents), for_alpha=for_alpha, extent=extent)


@jax.jit
def render_encoded(
  stylizer: Stylizer, content: ContentCode, code: StyleCode, alpha: jax.Array | None
) -> jax.Array:
  """The second half of `render`, for contents that meet many styles; returns uint8."""
  stylized = stylizer.render(content, code, 1.0 if alpha is None else alpha)
  return _from_float(stylized, jnp.uint8)


def _from_float(stylized: jax.Array, dtype: DTypeLike) -> jax.Array:
  if dtype == jnp.uint8:
    stylized = jnp.round(stylized * 255)
  return stylized.astype(dtype)


def _to_float(batch: jax.Array) -> jax.Array:
  scale = 255 if batch.dtype == jnp.uint8 else 1
  return batch.astype(jnp.float32) / scale


def in_bucket(stylizer: Stylizer, picture: np.ndarray) -> tuple[np.ndarray, Extent | None]:
  """Puts a picture in the top left of an array of one of a few sizes, which share programs.

  Args:
    stylizer: the model that is going to take it.
    picture: `[h, w, 3]`.

  Returns:
    `[1, h', w', 3]`, and the picture's extent in it; the picture alone and None where it has no
    `bucket`.
  """
  size = bucket(stylizer, *picture.shape[:2])
  if size is None:
    return picture[None], None
  below, right = (there - here for there, here in zip(size, picture.shape, strict=False))
  return np.pad(picture, ((0, below), (0, right), (0, 0)))[None], Extent(*picture.shape[:2])


def bucket(stylizer: Stylizer, height: int, width: int) -> tuple[int, int] | None:
  """The height and width to which a picture can be padded.

  Returns:
    The size; None where the picture has to keep its own, because it is rendered in strips or
    styles of its size are enlarged, or the model's kernels are larger than 3 x 3.
  """
  h, w = (bucket_side(side, STRIDE) for side in (height, width))
  large = image_bytes(h, w) > WHOLE_BYTES
  wide = stylizer.model.kernel_size > 3
  return None if large or wide or min(height, width) < 2 * STRIDE else (h, w)


def bucket_side(side: int, multiple: int) -> int:
  """The least height or width of a bucket that holds `side`: a multiple of `multiple`."""
  step = max(2 ** (side - 1).bit_length() // (2 * STEPS_PER_OCTAVE), multiple)
  return -(-side // step) * step
