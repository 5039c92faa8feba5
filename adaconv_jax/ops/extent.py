"""Pictures in the top left of larger arrays.

The true size of a picture, its `Extent`, may be an argument of a compiled program, so that pictures
of many sizes share one. What lies beyond has no influence: a 3x3 convolution looks one pixel beyond
the border, and finds there what reflect padding would have put (`mirror_border`); statistics are
taken where the picture is (`inside`).
"""

from typing import NamedTuple, overload

import jax
import jax.numpy as jnp
from jax import lax


class Extent(NamedTuple):
  """Height and width of the valid region of an array `[..., h, w, c]`, in its top left; traced."""

  height: int | jax.Array
  width: int | jax.Array

  def times(self, factor: int) -> "Extent":
    """That of the array enlarged by `factor`."""
    return Extent(self.height * factor, self.width * factor)

  def over(self, stride: int) -> "Extent":
    """That of the array after poolings, which drop odd last rows and columns."""
    return Extent(self.height // stride, self.width // stride)

  def padded(self, multiple: int) -> "Extent":
    """That of the array padded to a multiple."""
    return Extent(*(-(-side // multiple) * multiple for side in self))


@overload
def inside(features: jax.Array, extent: Extent) -> jax.Array: ...
@overload
def inside(features: jax.Array, extent: Extent | None) -> jax.Array | None: ...
def inside(features: jax.Array, extent: Extent | None) -> jax.Array | None:
  """Which pixels of `[..., h, w, c]` are valid: `[h, w, 1]`, boolean; None if all are."""
  if extent is None:
    return None
  h, w = features.shape[-3:-1]
  rows, columns = jnp.arange(h)[:, None, None], jnp.arange(w)[None, :, None]
  return (rows < extent.height) & (columns < extent.width)


def mirror_border(features: jax.Array, extent: Extent, *, enlarge: bool = False) -> jax.Array:
  """Prepares `[..., h, w, c]` for a reflect-padded 3x3 convolution.

  The row and the column after the extent become what reflect padding would put there. All that is
  farther away becomes zero: it is multiplied with zeros only, but by Winograd's form after sums
  with valid pixels, and normalizing may have made it huge.

  Args:
    features: what is convolved. Where the extent reaches its end, there is no line after it, and
      the convolution's own padding is right.
    extent: its valid region.
    enlarge: the convolution doubles the features first, so that the mirrored pixel after the last
      one is its copy.
  """
  features = jnp.where(inside(features, extent), features, 0)
  # One line each, written in place: to select between all pixels and the lines takes much longer.
  for axis, size in ((features.ndim - 3, extent.height), (features.ndim - 2, extent.width)):
    end = features.shape[axis]
    mirrored = size - 1 if enlarge else jnp.maximum(size - 2, 0)
    # An update at the end is clamped to the last line, which then has to stay as it is.
    line = lax.dynamic_slice_in_dim(features, jnp.where(size < end, mirrored, end - 1), 1, axis)
    features = lax.dynamic_update_slice_in_dim(features, line, size, axis)
  return features


def mirror_all(images: jax.Array, extent: Extent) -> jax.Array:
  """Fills all of `[n, h, w, c]` beyond the extent with the mirrored rest, as `np.pad` does."""
  for axis, size in ((1, extent.height), (2, extent.width)):
    period = jnp.maximum(2 * (size - 1), 1)
    index = jnp.arange(images.shape[axis]) % period
    images = jnp.take(images, jnp.minimum(index, period - index), axis, mode="clip")
  return images
