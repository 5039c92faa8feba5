"""What stands behind the border of a picture in a bucket, against NumPy's reflect padding."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adaconv_jax.ops.extent import Extent, inside, mirror_all, mirror_border


def random(*shape: int) -> Any:
  return np.random.default_rng(shape).normal(size=shape).astype(np.float32)


def reflected(picture, below: int, right: int):
  return np.pad(picture, ((0, 0), (0, below), (0, right), (0, 0)), mode="reflect")


mirror = jax.jit(mirror_border, static_argnames="enlarge")  # with a traced extent


def test_an_extent_follows_its_array_through_scales():
  extent = Extent(13, 16)
  assert (extent.times(2), extent.over(8)) == (Extent(26, 32), Extent(1, 2))
  assert (extent.padded(8), extent.padded(1)) == (Extent(16, 16), extent)
  counts = np.zeros((20, 18, 1), bool)
  counts[:13, :16] = True
  np.testing.assert_array_equal(inside(jnp.zeros((2, 20, 18, 3)), extent), counts)


@pytest.mark.parametrize("leading", [(), (2,)])
@pytest.mark.parametrize("size", [(1, 1), (2, 5), (7, 6), (1, 8), (8, 7), (8, 8)])
def test_the_line_behind_the_border_is_mirrored_and_the_rest_zero(size, leading):
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
