"""Runs a network of convolutions over parts of a large batch: images one by one, and in strips.

Memory does not grow with the number of images on CPU, and with their height anywhere. A strip is
cut with as many rows more on either side as the network looks beyond its own, and what it makes of
those is dropped. The first and the last strip end at the image's own border, where the convolutions
pad as they would in the whole image. So the result is that of the whole image, up to rounding.
Statistics of the whole image have to be computed before.
"""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax

T = TypeVar("T")  # a pytree

# Images of which the largest feature map is below this are run whole, which is faster.
WHOLE_BYTES = 2**29
STRIP_BYTES = 2**28
# From this on, the images of a batch follow one another on CPU: 256 x 256 pixels. With fewer, the
# forms of convolutions for many pixels would be lost.
ALONE_BYTES = 2**24
WIDTH = 64  # channels of VGG's first convolutions, whose feature maps are the largest


def image_bytes(height: int, width: int) -> int:
  """Bytes of the largest feature map of an image, that of VGG's and the decoder's 64 channels."""
  return 4 * height * width * WIDTH


def one_by_one(function: Callable[..., T], *batch: object, size: tuple[int, int]) -> T:
  """Computes `function(*batch)`, on CPU for one image after the other if they are large.

  Eight pairs of 256 x 256 take a fifth less time so, because feature maps stay in caches and in
  memory that is in use already. Other platforms need the whole batch to be busy.

  Args:
    function: from pytrees whose leaves lead with the batch axis to such a pytree; what it makes of
      an image must not depend on the others. Kernels' gradients are slow inside of it.
    batch: its arguments.
    size: height and width of the images.
  """
  count = jax.tree.leaves(batch)[0].shape[0]
  if count == 1 or image_bytes(*size) < ALONE_BYTES:
    return function(*batch)

  def alone(one):
    made = function(*jax.tree.map(lambda x: x[None], one))
    return jax.tree.map(lambda x: x[0], made)

  def apart(*batch):
    return lax.map(alone, batch)

  return lax.platform_dependent(*batch, cpu=apart, default=function)


def by_strips(
  function: Callable[[jax.Array], jax.Array],
  images: jax.Array,
  *,
  reach: int,
  row_bytes: int,
  scale: Fraction = Fraction(1),
  whole: bool = False,
) -> jax.Array:
  """Computes `function(images)`, in strips if the images are large.

  Args:
    function: convolutions, poolings and what acts on pixels alone, from `[n, h, w, c]` to
      `[n, scale h, scale w, c']`. It is traced once for all strips, which have one shape.
    images: `[n, h, w, c]`; where `scale` is below 1, h divides by 1 / scale.
    reach: rows of the images above and below an output row that it depends on, at most.
    row_bytes: bytes of the largest feature map inside of `function`, per row of the images.
    scale: rows of the output per row of the images.
    whole: run them whole, however large; for `function`s that treat rows by their place.

  Returns:
    `[n, scale h, scale w, c']`.
  """
  if whole:
    return function(images)
  n, height, _, _ = images.shape
  step = scale.denominator
  rows = max(STRIP_BYTES // (row_bytes * step), 1) * step
  margin = math.ceil(reach / step) * step
  window = rows + 2 * margin
  if height * row_bytes <= WHOLE_BYTES or window >= height:
    return function(images)
  shape = jax.eval_shape(function, images[:, :window]).shape
  out_rows = int(rows * scale)

  def add_strip(index: jax.Array, out: jax.Array) -> jax.Array:
    # The last strip is moved up to end with the image, and makes some rows again.
    first = jnp.minimum(index * rows, height - rows)
    start = jnp.clip(first - margin, 0, height - window)
    made = function(lax.dynamic_slice_in_dim(images, start, window, axis=1))
    offset = (first - start) * scale.numerator // step
    made = lax.dynamic_slice_in_dim(made, offset, out_rows, axis=1)
    return lax.dynamic_update_slice_in_dim(out, made, first * scale.numerator // step, axis=1)

  out = jnp.zeros((n, int(height * scale), *shape[2:]), images.dtype)
  return lax.fori_loop(0, math.ceil(height / rows), add_strip, out)
