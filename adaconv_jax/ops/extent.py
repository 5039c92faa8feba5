"""Pictures padded to larger arrays, in whose top left they are.

The true size of a picture, its `Extent`, can be an argument of a compiled program, so pictures of
many sizes share one. The padding does not influence the result, because networks take `Borders`:
these prepare the features for every convolution as if it padded at the picture's own border, and
give the mask over which to take statistics.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


class Extent(NamedTuple):
  """Height and width of the valid region of an array `[..., h, w, c]`, in its top left; traced."""

  height: int | jax.Array
  width: int | jax.Array

  def padded(self, multiple: int) -> "Extent":
    """Returns the extent of the array padded to a multiple."""
    return Extent(*(-(-side // multiple) * multiple for side in self))


class Borders(NamedTuple):
  """Where the pictures of a batch end within arrays of any scale.

  Attributes:
    extent: of the pictures at full scale; None: they fill their arrays, and nothing is changed.
    rows: height of the arrays at full scale. It is a multiple of the strides of smaller ones, whose
      extent is rounded down, as after poolings.
  """

  extent: Extent | None = None
  rows: int = 0

  def inside(self, features: jax.Array) -> jax.Array | None:
    """Returns which pixels of `[..., h, w, c]` are valid: `[..., h, w, 1]`; None if all are."""
    extent = self._at(features)
    return None if extent is None else _inside(features, extent)

  def mirror(self, features: jax.Array, *, enlarge: bool = False) -> jax.Array:
    """Prepares `[..., h, w, c]` for a reflect-padded 3x3 convolution.

    The row and the column after the border become what reflect padding would put there. Everything
    beyond becomes zero: it is only multiplied with zeros, but Winograd's form first adds it to
    valid pixels, and normalizing may have made it huge.

    Args:
      features: what is convolved. If the pictures reach the end of the array, there is no line
        after them, and the convolution's own padding is right.
      enlarge: the convolution doubles the features first, so the mirrored pixel after the last one
        is a copy of it.
    """
    extent = self._at(features)
    if extent is None:
      return features
    features = jnp.where(_inside(features, extent), features, 0)
    # One line each, written in place: a `jnp.where` over all pixels takes much longer.
    for axis, size in ((features.ndim - 3, extent.height), (features.ndim - 2, extent.width)):
      end = features.shape[axis]
      mirrored = size - 1 if enlarge else jnp.maximum(size - 2, 0)
      # An update at the end is clamped to the last line, which then must keep its values.
      line = lax.dynamic_slice_in_dim(features, jnp.where(size < end, mirrored, end - 1), 1, axis)
      features = lax.dynamic_update_slice_in_dim(features, line, size, axis)
    return features

  def fill(self, features: jax.Array, value: jax.Array | float) -> jax.Array:
    """Prepares `[n, h, w, c]` for a convolution that pads with `value`, by filling the rest."""
    valid = self.inside(features)
    return features if valid is None else jnp.where(valid, features, value).astype(features.dtype)

  def _at(self, features: jax.Array) -> Extent | None:
    """Returns the extent in an array of any scale."""
    if self.extent is None:
      return None
    stride = self.rows // features.shape[-3]
    return self.extent if stride == 1 else Extent(*(side // stride for side in self.extent))


UNPADDED = Borders()
# The least weight of valid pixels that is divided by.
_LEAST = 1e-3


def mirror_all(images: jax.Array, extent: Extent) -> jax.Array:
  """Fills `[n, h, w, c]` beyond the extent with mirrored pixels, as `np.pad` does."""
  for axis, size in ((1, extent.height), (2, extent.width)):
    period = jnp.maximum(2 * (size - 1), 1)
    index = jnp.arange(images.shape[axis]) % period
    images = jnp.take(images, jnp.minimum(index, period - index), axis, mode="clip")
  return images


def resize_inside(
  images: jax.Array,
  extent: Extent,
  height: int,
  width: int,
  to: Extent | None = None,
  method: str = "linear",
) -> jax.Array:
  """Applies `resize` to the valid region of `[n, h, w, c]` only.

  Args:
    images: what is resized.
    extent: its valid region.
    height: of the array that is returned.
    width: the same.
    to: the region of that array which becomes valid; None: all of it.
    method: as for `jax.image.resize`.
  """
  if to is None:
    to = Extent(height, width)
  channels = images.shape[-1]
  resized = jax.image.scale_and_translate(
    _with_weight(images, extent),
    (images.shape[0], height, width, channels + 1),
    (1, 2),
    jnp.stack([jnp.asarray(a / b, images.dtype) for a, b in zip(to, extent, strict=True)]),
    jnp.zeros(2, images.dtype),
    method,
    antialias=True,
  )
  return _without_weight(resized, channels)


def resize_middle(images: jax.Array, size: int, extent: Extent | None = None) -> jax.Array:
  """Resizes pictures to `size` on the shorter side, antialiased, and cuts out the middle square.

  Args:
    images: `[n, h, w, c]`.
    size: height and width of the square.
    extent: the valid region; None: all.

  Returns:
    `[n, size, size, c]`, all of it valid.
  """
  n, h, w, channels = images.shape
  if extent is None and h == w == size:
    return images
  inside = Extent(h, w) if extent is None else extent
  if extent is not None:
    images = _with_weight(images, extent)
  sides = [jnp.asarray(side, images.dtype) for side in inside]
  shorter = jnp.minimum(*sides)
  # In whole pixels, as torchvision's Resize and CenterCrop, which other programs train with.
  resized = [
    jnp.where(side == shorter, float(size), jnp.floor(size * side / shorter)) for side in sides
  ]
  cut = [jnp.round((side - size) / 2) for side in resized]
  squares = jax.image.scale_and_translate(
    images,
    (n, size, size, images.shape[-1]),
    (1, 2),
    jnp.stack([new / old for new, old in zip(resized, sides, strict=True)]),
    -jnp.stack(cut),
    "linear",
    antialias=True,
  )
  return squares if extent is None else _without_weight(squares, channels)


def _with_weight(images: jax.Array, extent: Extent) -> jax.Array:
  """Sets what is not valid to 0, and adds a channel that is 1 where pixels are valid."""
  valid = _inside(images, extent)
  known = jnp.where(valid, images, 0)
  valid = jnp.broadcast_to(valid.astype(images.dtype), (*images.shape[:3], 1))
  return jnp.concatenate([known, valid], axis=-1)


def _without_weight(resized: jax.Array, channels: int) -> jax.Array:
  """Divides by the last channel, which removes the weight of the zeros beyond the border."""
  weight = resized[..., channels:]
  # Pixels far beyond it have none.
  return resized[..., :channels] / jnp.where(jnp.abs(weight) > _LEAST, weight, 1)


def _inside(features: jax.Array, extent: Extent) -> jax.Array:
  """Returns which pixels of `[..., h, w, c]` are valid: `[..., h, w, 1]`, boolean.

  The leading axes have length 1, and arrays of different ranks are not combined, because users may
  set `jax_numpy_rank_promotion` to "raise".
  """
  h, w = features.shape[-3:-1]
  leading = (1,) * (features.ndim - 3)
  rows = jnp.arange(h).reshape(*leading, h, 1, 1)
  columns = jnp.arange(w).reshape(*leading, 1, w, 1)
  return (rows < extent.height) & (columns < extent.width)
