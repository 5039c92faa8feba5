"""The padding of a picture in a bucket, against NumPy's reflect padding."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adaconv_jax.ops.extent import UNPADDED, Borders, Extent, mirror_all, resize_inside
from adaconv_jax.ops.resize import resize


def random(*shape: int) -> Any:
  return np.random.default_rng(shape).normal(size=shape).astype(np.float32)


def reflected(picture, below: int, right: int):
  return np.pad(picture, ((0, 0), (0, below), (0, right), (0, 0)), mode="reflect")


@functools.partial(jax.jit, static_argnames="enlarge")
def mirror(features, extent, enlarge=False):  # with a traced extent
  return Borders(extent, features.shape[-3]).mirror(features, enlarge=enlarge)


def test_an_extent_is_padded_to_a_multiple():
  extent = Extent(13, 16)
  assert (extent.padded(8), extent.padded(1)) == (Extent(16, 16), extent)


@pytest.mark.parametrize(
  "stride, height, width", [(1, 13, 16), (2, 6, 8), (4, 3, 4), (8, 1, 2)], ids=str
)
def test_borders_follow_their_array_through_scales(stride, height, width):
  borders, shape = Borders(Extent(13, 16), 24), (24 // stride, 32 // stride, 1)
  valid = np.zeros(shape, bool)
  valid[:height, :width] = True
  np.testing.assert_array_equal(borders.inside(jnp.zeros((2, *shape[:2], 3))), valid[None])
  filled = borders.fill(jnp.ones((2, *shape[:2], 3), jnp.bfloat16), jnp.float32(0.5))
  assert filled is not None and filled.dtype == jnp.bfloat16
  np.testing.assert_array_equal(filled[1, ..., 2:], np.where(valid, 1, 0.5))
  moved = mirror(jnp.ones((2, *shape[:2], 3)), Extent(height, width))
  np.testing.assert_array_equal(borders.mirror(jnp.ones((2, *shape[:2], 3))), moved)


def test_a_picture_that_fills_its_array_is_left_alone():
  features = jnp.ones((2, 6, 5, 3))
  assert UNPADDED.inside(features) is None
  assert UNPADDED.mirror(features) is UNPADDED.fill(features, 0) is features


@pytest.mark.parametrize("leading", [(), (2,)])
@pytest.mark.parametrize("size", [(1, 1), (2, 5), (7, 6), (1, 8), (8, 7), (8, 8)])
def test_the_line_after_the_border_is_mirrored_and_the_rest_zero(size, leading):
  h, w = size
  features = np.full((2, 8, 8, 3), np.nan, np.float32)  # which must not stay
  features[:, :h, :w] = random(2, h, w, 3)
  expected = np.zeros((2, 9, 9, 3), np.float32)
  expected[:, : h + 1, : w + 1] = reflected(features[:, :h, :w], 1, 1)
  if not leading:
    features, expected = features[0], expected[0]
  got = mirror(features, Extent(h, w))
  np.testing.assert_array_equal(got, expected[..., :8, :8, :])


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (8, 7)])
def test_before_an_enlargement_the_last_line_is_repeated(size):
  h, w = size
  features = np.full((1, 8, 8, 3), 1e30, np.float32)
  features[:, :h, :w] = random(1, h, w, 3)
  expected = np.zeros((1, 9, 9, 3), np.float32)
  pad = ((0, 0), (0, 1), (0, 1), (0, 0))
  expected[:, : h + 1, : w + 1] = np.pad(features[:, :h, :w], pad, mode="edge")
  got = mirror(features, Extent(h, w), enlarge=True)
  np.testing.assert_array_equal(got, expected[:, :8, :8])


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (9, 5), (4, 16), (10, 16)])
def test_all_can_be_filled_with_the_mirrored_picture(size):
  h, w = size
  images = np.full((2, 10, 16, 3), np.nan, np.float32)
  images[:, :h, :w] = random(2, h, w, 3)
  got = jax.jit(mirror_all)(images, Extent(h, w))
  np.testing.assert_array_equal(got, reflected(images[:, :h, :w], 10 - h, 16 - w))


# Resizing.


def pictures(n: int, h: int, w: int, seed: int = 0) -> Any:
  """Blurred noise with a color cast of its own for each picture, in [0, 1]."""
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
