"""What the convolutions compute, written down: the form that defines the numbers."""

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
  """Doubles height and width of `[n, h, w, c]` by repeating pixels (nearest neighbour)."""
  n, h, w, c = features.shape
  repeated = jnp.broadcast_to(features[:, :, None, :, None, :], (n, h, 2, w, 2, c))
  return repeated.reshape(n, h * 2, w * 2, c)


def plain_conv(images: jax.Array, kernel: jax.Array, enlarge: bool = False) -> jax.Array:
  """What `conv` computes, written down: upsample, pad, convolve."""
  padded = reflect_pad(upsample(images) if enlarge else images, kernel.shape[0] // 2)
  return conv_valid(padded, kernel)


def conv_valid(images: jax.Array, kernel: jax.Array) -> jax.Array:
  """Convolves `[n, h, w, c_in]` with an HWIO `kernel`, without padding, stride 1.

  XLA's CPU backend runs a convolution without any padding of its own about three times slower
  than one with some, so on CPU we ask for one zero row more and drop the output row that it
  makes. The numbers are the same; other platforms get the plain convolution.
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
