"""Resizing, antialiased; in training and at inference the same."""

import jax
import jax.numpy as jnp

from adaconv_jax.ops.extent import Extent, inside


def resize(images: jax.Array, height: int, width: int) -> jax.Array:
  """Resizes `[n, h, w, 3]`, antialiased; in training and at inference the same."""
  if images.shape[1:3] == (height, width):
    return images
  return jax.image.resize(images, (images.shape[0], height, width, 3), "linear", antialias=True)


def resize_inside(images: jax.Array, extent: Extent, height: int, width: int) -> jax.Array:
  """`resize`s the valid region of `[n, h, w, 3]`, and nothing else."""
  valid = inside(images, extent)
  known = jnp.where(valid, images, 0)
  valid = jnp.broadcast_to(valid.astype(images.dtype), (*images.shape[:3], 1))
  resized = jax.image.scale_and_translate(
    jnp.concatenate([known, valid], axis=-1),
    (images.shape[0], height, width, 4),
    (1, 2),
    jnp.array([height / extent.height, width / extent.width], images.dtype),
    jnp.zeros(2, images.dtype),
    "linear",
    antialias=True,
  )
  # At the border some of the weights are those of zeros.
  return resized[..., :3] / resized[..., 3:]
