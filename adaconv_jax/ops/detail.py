"""The content's fine structure, put back into a stylized picture. Not in the models' papers.

relu4_1 keeps too little of faces and small lettering for any decoder to draw them again. Here their
brightness is taken from the content itself, and their color and broad forms stay the style's.
Tried and not better to the eye: several bands, each with its own ratio (a little more grain); the
ratio per region (grain and weaves of plain surfaces come up); low passes that keep edges (eyes and
lattices turn pale, because such a filter takes them for edges).
"""

import math

import jax
import jax.numpy as jnp

from adaconv_jax.ops.extent import Extent
from adaconv_jax.ops.filters import to_gray

# Of the shorter side: 4 pixels at 300, where eyes and lips are fine structure and a face is not.
SIGMA = 1 / 75
# In pixels. A narrower kernel would be a single pixel.
MIN_SIGMA = 1
# The blur's kernel ends here, in sigmas; 0.3 % of a Gaussian lie beyond.
_REACH = 3
# Pixels beyond that. 3 sigmas are a multiple of 1 / 25 pixel, so rounding, which differs between
# programs, does not decide whether the last weight belongs to the kernel.
_MARGIN = 0.02
# Rows that are blurred by one matrix product. Fewer are too few for a product to be fast; more
# multiply too many zeros.
_BLOCK = 256
# Added to mean squares: that of rounding to 8 bits, so a flat content has a finite ratio.
_EPS = 1e-6
# The largest factor on the content's structure; a nearly flat content would show only its grain.
_MOST = 4


def add_detail(
  pictures: jax.Array, content: jax.Array, detail: float | jax.Array, extent: Extent | None = None
) -> jax.Array:
  """Exchanges fine structure of pictures for their contents', by a share `detail`.

      out + detail * (s * high(luma(content)) - high(luma(out)))

  is computed for R, G and B alike, so differences between the channels stay. `high` is a picture
  minus its Gaussian blur, whose sigma is 1 / 75 of the shorter side, but at least a pixel. s is the
  ratio of the two structures' deviations over the picture, at most 4: the content's gets the
  contrast of the one that it replaces.

  Args:
    pictures: what was made of the contents, RGB `[n, h, w, 3]` in [0, 1].
    content: the contents, of the same shape.
    detail: 0 (`pictures` as they are) to 1 (none of their own fine structure), one number or
      `[n]`.
    extent: the valid region of both; None: all. What lies beyond has no influence on it.

  Returns:
    Like `pictures`; values may leave [0, 1].
  """
  _, h, w, _ = pictures.shape
  ours, theirs = to_gray(pictures), to_gray(content)
  ours, theirs = (
    _high(gray, Extent(h, w) if extent is None else extent) for gray in (ours, theirs)
  )
  energies = [jnp.sum(high**2, (1, 2), keepdims=True) for high in (ours, theirs)]
  count = jnp.asarray(h * w if extent is None else extent.height * extent.width, ours.dtype)
  mine, other = (energy / count + _EPS for energy in energies)
  scale = jnp.minimum(jnp.sqrt(mine / other), _MOST)
  weight = jnp.asarray(detail, ours.dtype).reshape(-1, 1, 1)
  return pictures + jnp.expand_dims(weight * (scale * theirs - ours), -1)


def _high(gray: jax.Array, extent: Extent) -> jax.Array:
  """Returns `[n, h, w]` minus its blur, and 0 beyond the extent."""
  _, h, w = gray.shape
  rows = (jnp.arange(h) < extent.height).reshape(1, h, 1)
  columns = (jnp.arange(w) < extent.width).reshape(1, 1, w)
  valid = rows & columns
  gray = jnp.where(valid, gray, 0)
  side = jnp.minimum(extent.height, extent.width).astype(gray.dtype)
  sigma = jnp.maximum(SIGMA * side, MIN_SIGMA)
  return gray - blur_inside(gray, extent, sigma, max(SIGMA * min(h, w), MIN_SIGMA))


def blur_inside(
  gray: jax.Array, extent: Extent, sigma: jax.Array | float, most: float
) -> jax.Array:
  """Blurs the valid region of `[n, h, w]` with a Gaussian; beyond it the result is 0.

  Args:
    gray: what is blurred.
    extent: its valid region.
    sigma: of the Gaussian, in pixels.
    most: the largest that sigma may be, static.
  """
  _, h, w = gray.shape
  rows = (jnp.arange(h) < extent.height).reshape(1, h, 1)
  columns = (jnp.arange(w) < extent.width).reshape(1, 1, w)
  valid = rows & columns
  radius = math.ceil(_REACH * most)
  blurred = jnp.where(valid, gray, 0)
  for axis, line in ((1, rows), (2, columns)):
    share = _blur(line.astype(gray.dtype), axis, sigma, radius)
    # At the border, the weights of the pixels inside are made to have the sum 1.
    blurred = _blur(blurred, axis, sigma, radius) / jnp.maximum(share, _EPS)
  return jnp.where(valid, blurred, 0)


def _blur(x: jax.Array, axis: int, sigma: jax.Array | float, radius: int) -> jax.Array:
  """Blurs along an axis with zeros beyond its ends.

  Sigma may be traced, and is larger in a large print than convolutions are made for; so blocks of
  lines are multiplied with a banded matrix.

  Args:
    x: `[n, h, w]`.
    axis: 1 or 2.
    sigma: of the Gaussian, in pixels, a scalar.
    radius: of its kernel, at least `_REACH` sigmas.
  """
  lines = x.shape[axis]
  block = min(_BLOCK, lines)
  blocks = -(-lines // block)
  window = block + 2 * radius
  distance = jnp.arange(window).reshape(1, -1) - radius - jnp.arange(block).reshape(-1, 1)
  distance = distance.astype(x.dtype)
  inside = jnp.abs(distance) <= _REACH * sigma + _MARGIN
  taps = jnp.where(inside, jnp.exp(-0.5 * (distance / sigma) ** 2), 0)
  taps = taps / jnp.sum(taps, 1, keepdims=True)
  x = jnp.moveaxis(x, axis, 1)
  x = jnp.pad(x, ((0, 0), (radius, blocks * block - lines + radius), (0, 0)))

  def blur(start: jax.Array | int) -> jax.Array:
    part = jax.lax.dynamic_slice_in_dim(x, start, window, axis=1)
    return jnp.einsum("bk,nkw->nbw", taps, part, precision="highest")

  if blocks == 1:
    blurred = blur(0)
  else:
    parts = jax.lax.map(blur, jnp.arange(blocks) * block)
    blurred = jnp.moveaxis(parts, 0, 1).reshape(x.shape[0], blocks * block, x.shape[2])
  return jnp.moveaxis(blurred[:, :lines], 1, axis)
