"""Antialiased resizing, the same in training and inference."""

import jax


def resize(images: jax.Array, height: int, width: int) -> jax.Array:
  """Resizes `[n, h, w, 3]`, antialiased."""
  if images.shape[1:3] == (height, width):
    return images
  return jax.image.resize(images, (images.shape[0], height, width, 3), "linear", antialias=True)
