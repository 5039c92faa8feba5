"""Luma and separable filters, which the measures of pictures use.

Pure functions of one image. Filters return only the pixels whose whole window is inside the
picture, so nothing is invented at the border.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array | np.ndarray

# Rec. 601, as in the published uses of SSIM.
LUMA = (0.299, 0.587, 0.114)


def to_gray(image: Array) -> jax.Array:
  """Returns the luma of RGB `[..., 3]` in [0, 1], without the last axis."""
  return jnp.matmul(image, jnp.asarray(LUMA, jnp.float32), precision="highest")


def gaussian(sigma: float, radius: int) -> np.ndarray:
  """Returns `2 * radius + 1` samples of a Gaussian, with sum 1."""
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
    filtered = sum(
      (float(t) * x for t, x in zip(taps, parts, strict=True)), start=jnp.zeros((), filtered.dtype)
    )
  return filtered
