"""Coarser strokes: a picture painted at a smaller size, and enlarged without getting soft.

What a model paints has one size in pixels. So a picture with strokes twice as coarse is painted at
half its size. Enlarging alone would blur it; so the edges of the content get back what they have
lost on the way, with the contrast that the painting has there.
"""

import jax
import jax.numpy as jnp

from adaconv_jax.ops.detail import blur_inside
from adaconv_jax.ops.extent import Extent, resize_inside
from adaconv_jax.ops.filters import to_gray

# The shorter side of a picture is painted with this many pixels at least: two of relu4_1.
LEAST = 16
# Largest picture that is enlarged to be painted: the largest that is read from a file.
MAX_PIXELS = 2**28 // 3
# Of the Gaussians, in pixels of what is painted: of its fine structure, and of the neighborhood in
# which the painting's contrast is compared with the content's.
_FINE, _AROUND = 1.0, 2.0
# Added to mean squares: that of rounding to 8 bits.
_EPS = 1e-5
# The largest factor on what the content has lost.
_MOST = 3.0
# How much the fine structure of strokes is raised, at most. More brings up grain and weaves.
_CRISP = 0.8


def painted_size(height: int, width: int, stroke: float) -> tuple[int, int]:
  """The size at which a picture is painted whose strokes are to be `stroke` times as coarse.

  Raises:
    ValueError: it is larger than the picture, and has more than `MAX_PIXELS`.
  """
  # Below this stroke, one pixel would become too many.
  smaller = max(min(stroke, max(min(height, width) / LEAST, 1)), 1 / MAX_PIXELS)
  painted = max(round(height / smaller), 1), max(round(width / smaller), 1)
  pixels = painted[0] * painted[1]
  if pixels > max(MAX_PIXELS, height * width):
    raise ValueError(
      f"stroke and look_size: {width} x {height} would be painted at {painted[1]} x {painted[0]}, "
      f"{pixels / 1e6:.0f} million pixels, over the limit of {MAX_PIXELS / 1e6:.0f} million; use a "
      "larger stroke or a smaller look_size"
    )
  return painted


def resize_from(
  images: jax.Array,
  extent: Extent | None,
  like: jax.Array | jax.ShapeDtypeStruct,
  to: Extent | None,
  method: str,
) -> jax.Array:
  """Resizes `[n, h, w, c]` to the size of `like`, and its valid region to that of `like`."""
  _, height, width, _ = like.shape
  if extent is not None:
    return resize_inside(images, extent, height, width, to, method)
  shape = (images.shape[0], height, width, images.shape[-1])
  return jax.image.resize(images, shape, method, antialias=True)


def enlarge(
  painted: jax.Array,
  canvas: jax.Array,
  content: jax.Array,
  keep: float | jax.Array = 0.0,
  canvas_extent: Extent | None = None,
  extent: Extent | None = None,
) -> jax.Array:
  """Resizes what was painted to the size of the content, with the content's sharp edges.

  The brightness gets back what the content has lost by becoming the canvas, with a factor at every
  place: how much of the canvas' fine structure is in the painting there (a regression, as in
  guided filters), times the share of the painting's own that this explains, the squared
  correlation. Where the painting has none of it, nothing comes back. Nor does a texture that is
  too fine for the canvas, such as the tiles of a roof, which strokes that follow nothing would
  raise to a fringe otherwise. Fine structure that is the painting's own is raised a little against
  the blur of enlarging.

  Args:
    painted: what was made of the canvas, RGB `[m, h', w', 3]`.
    canvas: the contents, resized, `[n, h', w', 3]`; m is a multiple of n.
    content: the contents, `[n, h, w, 3]`.
    keep: how much of the color that the content has lost comes back, a number or `[m, 1, 1, 1]`.
    canvas_extent: the valid region of painted and canvas; None: all.
    extent: the same of the content.

  Returns:
    `[m, h, w, 3]`; values may leave [0, 1]. If painted is the canvas and `keep` is 1, it is the
    content.
  """
  times = (painted.shape[0] // canvas.shape[0], 1, 1)
  inside, whole = (
    Extent(*x.shape[1:3]) if valid is None else valid
    for x, valid in ((canvas, canvas_extent), (content, extent))
  )
  ours, theirs = (to_gray(x) for x in (painted, canvas))
  ours, theirs = (x - blur_inside(x, inside, _FINE, _FINE) for x in (ours, theirs))
  theirs = jnp.tile(theirs, times)
  common, energy, own = (
    blur_inside(x, inside, _AROUND, _AROUND) + _EPS for x in (ours * theirs, theirs**2, ours**2)
  )
  explained = common**2 / (energy * own)
  factor = jnp.clip(explained * common / energy, -_MOST, _MOST)
  # A ratio of integers is 64 bits long in JAX's 64-bit mode.
  reduced = jnp.asarray(inside.height / whole.height, ours.dtype)
  crisp = jnp.clip(_CRISP * (1 - reduced), 0, _CRISP)
  raised = painted + jnp.expand_dims(crisp * (ours - factor * theirs), -1)
  both = jnp.concatenate([raised, jnp.expand_dims(factor, -1)], -1)
  larger = resize_from(both, canvas_extent, content, extent, "cubic")
  lost = content - resize_from(canvas, canvas_extent, content, extent, "cubic")
  lost = jnp.tile(lost, (*times, 1))
  gray = jnp.expand_dims(to_gray(lost), -1)
  return larger[..., :3] + larger[..., 3:] * gray + keep * (lost - gray)
