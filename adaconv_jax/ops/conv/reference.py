"""The plain form of the convolutions, which defines the correct result."""

import jax
import jax.numpy as jnp
from jax import lax

DIMENSION_NUMBERS = ("NHWC", "HWIO", "NHWC")


def reflect_pad(images: jax.Array, size: int) -> jax.Array:
  """Pads height and width of `images` `[n, h, w, c]` by `size` mirrored pixels on every side."""
  if size == 0:
    return images
  return jnp.pad(images, ((0, 0), (size, size), (size, size), (0, 0)), mode="reflect")


def reflect_pad_to_multiple(images: jax.Array, multiple: int) -> jax.Array:
  """Pads `images` `[n, h, w, c]` at the bottom and right until both sizes divide by `multiple`."""
  _, h, w, _ = images.shape
  pad = ((0, 0), (0, -h % multiple), (0, -w % multiple), (0, 0))
  return jnp.pad(images, pad, mode="reflect")


def upsample(features: jax.Array) -> jax.Array:
  """Doubles height and width of `[n, h, w, c]` by repeating pixels (nearest neighbor)."""
  n, h, w, c = features.shape
  repeated = jnp.broadcast_to(features[:, :, None, :, None, :], (n, h, 2, w, 2, c))
  return repeated.reshape(n, h * 2, w * 2, c)


def plain_conv(images: jax.Array, kernel: jax.Array, enlarge: bool = False) -> jax.Array:
  """Computes `conv` plainly: upsample, pad, convolve."""
  padded = reflect_pad(upsample(images) if enlarge else images, kernel.shape[0] // 2)
  return conv_valid(padded, kernel)


def plain_image_gradient(
  kernel: jax.Array, gradient: jax.Array, enlarge: bool = False
) -> jax.Array:
  """Computes the gradient of `plain_conv` with respect to the images, from that of its output.

  JAX's own transposition of reflect padding passes over all features four times, which was a
  seventh of the memory traffic of a training step on a TPU; this passes once.
  """
  size = kernel.shape[0]
  n, h, w, _ = gradient.shape
  if min(h, w) <= size // 2:  # mirrored more than once
    scale = 2 if enlarge else 1
    images = jax.ShapeDtypeStruct((n, h // scale, w // scale, kernel.shape[2]), gradient.dtype)
    return jax.linear_transpose(lambda x: plain_conv(x, kernel, enlarge), images)(gradient)[0]
  flipped = kernel[::-1, ::-1].swapaxes(2, 3)
  border = (size - 1, size - 1)
  padded = lax.conv_general_dilated(
    gradient, flipped, (1, 1), (border, border), dimension_numbers=DIMENSION_NUMBERS
  )
  folded = _fold(_fold(padded, size // 2, 1), size // 2, 2)
  if not enlarge:
    return folded
  return folded.reshape(n, h // 2, 2, w // 2, 2, -1).sum((2, 4))


def _fold(padded: jax.Array, size: int, axis: int) -> jax.Array:
  """The adjoint of mirroring `size` pixels at both ends of an axis: adds them where they are of."""
  length = padded.shape[axis] - 2 * size
  folded = lax.slice_in_dim(padded, size, size + length, axis=axis)
  shape = [1] * padded.ndim
  shape[axis] = length
  index = jnp.arange(length).reshape(shape)
  for distance in range(1, size + 1):
    places = ((size - distance, distance), (size + length - 1 + distance, length - 1 - distance))
    for source, target in places:
      line = lax.slice_in_dim(padded, source, source + 1, axis=axis)
      folded += jnp.where(index == target, line, 0)
  return folded


def conv_valid(images: jax.Array, kernel: jax.Array) -> jax.Array:
  """Convolves `[n, h, w, c_in]` with an HWIO `kernel`, without padding, stride 1.

  XLA's CPU backend runs a convolution without padding about three times slower than one with some,
  so on CPU we ask for one additional zero row and drop the output row that results. The numbers are
  the same; other platforms get the plain convolution.
  """
  height = images.shape[1] - kernel.shape[0] + 1

  def with_spare_row(images: jax.Array, kernel: jax.Array) -> jax.Array:
    padding = ((0, 1), (0, 0))
    out = lax.conv_general_dilated(
      images, kernel, (1, 1), padding, dimension_numbers=DIMENSION_NUMBERS
    )
    return out[:, :height]

  def plain(images: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(
      images, kernel, (1, 1), "VALID", dimension_numbers=DIMENSION_NUMBERS
    )

  return lax.platform_dependent(images, kernel, cpu=with_spare_row, default=plain)
