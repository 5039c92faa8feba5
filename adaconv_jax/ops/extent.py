"""Pictures of many sizes in arrays of few sizes, so that few programs are compiled.

A picture lies in the top left of a larger array, and its true size, the `Extent`, is an argument of
the compiled program. What lies beyond has no influence: a 3x3 convolution looks one pixel beyond
the border, and finds there what reflect padding would have put (`mirror_border`); statistics are
taken over what is `inside`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# Sides from one power of two to the next: at most an eighth is added, 5 % in the mean.
STEPS_PER_OCTAVE = 8


class Extent(NamedTuple):
  """Height and width of what counts in an array `[..., h, w, c]`, in its top left; traced."""

  height: int | jax.Array
  width: int | jax.Array

  def times(self, factor: int) -> "Extent":
    """That of the array enlarged by `factor`."""
    return Extent(self.height * factor, self.width * factor)

  def over(self, stride: int) -> "Extent":
    """That of the array behind poolings, which drop odd last rows and columns."""
    return Extent(self.height // stride, self.width // stride)

  def padded(self, multiple: int) -> "Extent":
    """That of the array padded to a multiple."""
    return Extent(*(-(-side // multiple) * multiple for side in self))


def bucket_side(side: int, multiple: int) -> int:
  """The least height or width of a bucket that holds `side`: a multiple of `multiple`."""
  step = max(2 ** (side - 1).bit_length() // (2 * STEPS_PER_OCTAVE), multiple)
  return -(-side // step) * step


def put_in(picture: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
  """Puts a picture `[h, w, c]` in the top left of zeros, `[*shape, c]`."""
  below, right = (there - here for there, here in zip(shape, picture.shape, strict=False))
  return np.pad(picture, ((0, below), (0, right), (0, 0)))


def inside(features: jax.Array, extent: Extent) -> jax.Array:
  """Tells which pixels of `[..., h, w, c]` count: `[h, w, 1]`, boolean."""
  h, w = features.shape[-3:-1]
  rows, columns = jnp.arange(h)[:, None, None], jnp.arange(w)[None, :, None]
  return (rows < extent.height) & (columns < extent.width)


def mirror_border(features: jax.Array, extent: Extent, *, enlarge: bool = False) -> jax.Array:
  """Prepares `[..., h, w, c]` for a reflect-padded 3x3 convolution.

  The row and the column behind the extent become what reflect padding would put there. All that is
  farther away becomes zero: it is multiplied with zeros only, but by Winograd's form after sums
  with what counts, and normalizing may have made it huge.

  Args:
    features: what is convolved. Where the extent reaches its end, there is no line behind it, and
      the convolution's own padding is right.
    extent: what counts of it.
    enlarge: the convolution doubles the features first, so that the mirrored pixel behind the last
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
