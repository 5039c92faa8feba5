"""Resizing a part of an array."""

from typing import Any

import jax
import numpy as np
import pytest

from adaconv_jax.ops.extent import Extent
from adaconv_jax.ops.resize import resize, resize_inside


def pictures(n: int, h: int, w: int, seed: int = 0) -> Any:
  """Blurred noise with a colour cast of its own for each picture, in [0, 1]."""
  rng = np.random.default_rng([seed, n, h, w])
  noise = rng.random((n, h, w, 3)) + rng.uniform(-0.5, 0.5, (n, 1, 1, 3))
  for axis in (1, 2):
    noise = (noise + np.roll(noise, 1, axis)) / 2
  return np.clip(noise, 0, 1).astype(np.float32)


def in_array(images, garbage: Any = 0.0):
  n, h, w, _ = images.shape
  padded = np.empty((n, 40, 40, 3), images.dtype)
  padded[:] = garbage
  padded[:, :h, :w] = images
  return padded, Extent(h, w)


@pytest.mark.parametrize("size", [(16, 16), (17, 39), (40, 40)])
@pytest.mark.parametrize("fitted", [(8, 12), (64, 64)])
def test_a_valid_region_is_resized_as_if_alone(size, fitted):
  images = pictures(2, *size)
  got = jax.jit(lambda x, extent: resize_inside(x, extent, *fitted))(*in_array(images, np.nan))
  np.testing.assert_allclose(got, resize(images, *fitted), rtol=0, atol=2e-6)
