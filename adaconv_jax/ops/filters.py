"""Grey and separable filters: what the measures of pictures are made of.

Pure functions of one image. Filters give only the pixels that they cover whole, so that nothing at
a picture's border is invented.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array | np.ndarray

# Rec. 601, as in the published uses of SSIM.
LUMA = (0.299, 0.587, 0.114)


def to_gray(image: Array) -> jax.Array:
  """Luma of `[..., 3]` RGB in [0, 1], without the last axis."""
  return jnp.asarray(image) @ jnp.asarray(LUMA, jnp.float32)


def gaussian(sigma: float, radius: int) -> np.ndarray:
  """`2 * radius + 1` samples of a Gaussian, with sum 1."""
  taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
  return taps / taps.sum()


def separable(
  image: Array, vertical: Sequence[float] | np.ndarray, horizontal: Sequence[float] | np.ndarray
) -> jax.Array:
  """Correlates `[h, w, ...]` with `vertical[i] * horizontal[j]`.

  Returns:
    `[h - len(vertical) + 1, w - len(horizontal) + 1, ...]`.
  """
  filtered = jnp.asarray(image)
  for axis, taps in enumerate((vertical, horizontal)):
    size = filtered.shape[axis] - len(taps) + 1
    parts = [jax.lax.slice_in_dim(filtered, k, k + size, axis=axis) for k in range(len(taps))]
    filtered = sum((float(t) * x for t, x in zip(taps, parts, strict=True)), start=jnp.zeros(()))
  return filtered
