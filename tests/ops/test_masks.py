"""Regions: shares of styles and statistics within masks, against NumPy in double precision."""

import jax
import jax.numpy as jnp
import numpy as np

from adaconv_jax.ops.adain import channel_stats
from adaconv_jax.ops.masks import region_stats, shares_of, shrink

stats_of = jax.jit(region_stats)


def noise(seed: int, *shape: int) -> np.ndarray:
  return np.random.default_rng(seed).random(shape, np.float32)


def test_shares_are_the_masks_over_their_sum_and_the_cover_is_the_sum_up_to_1():
  masks = noise(0, 2, 3, 5, 7)
  shares, cover = shares_of(jnp.asarray(masks))
  np.testing.assert_allclose(shares, masks / masks.sum(1, keepdims=True), rtol=1e-5)
  np.testing.assert_allclose(cover, np.minimum(masks.sum(1), 1), rtol=1e-5)


def test_without_any_mask_shares_are_equal_and_nothing_is_covered():
  shares, cover = shares_of(jnp.zeros((4, 5, 7)))
  assert (np.asarray(shares) == 0.25).all() and not cover.any()


def test_shrinking_averages_blocks():
  masks = noise(1, 2, 8, 12, 1)
  got = shrink(jnp.asarray(masks), 4)
  assert got.shape == (2, 2, 3, 1)
  np.testing.assert_allclose(got[1, 1, 2, 0], masks[1, 4:8, 8:12].mean(), rtol=1e-5)


def test_statistics_within_a_region_are_weighted_moments():
  features, region = 3 * noise(2, 2, 9, 8, 5) - 1, noise(3, 2, 9, 8, 1) ** 3
  got = stats_of(features, region)
  for index in range(2):
    pixels = features[index].reshape(-1, 5).astype(np.float64)
    weights = region[index].reshape(-1).astype(np.float64)
    mean = np.average(pixels, 0, weights)
    variance = np.average((pixels - mean) ** 2, 0, weights)
    np.testing.assert_allclose(got.mean[index], mean, atol=1e-5)
    np.testing.assert_allclose(got.std[index], np.sqrt(variance + 1e-5), rtol=1e-4)


def test_a_region_of_everything_or_of_nothing_has_the_statistics_of_the_picture():
  features = noise(4, 1, 6, 7, 3)
  for value in (1.0, 0.3, 0.0):
    for got, expected in zip(
      stats_of(features, jnp.full((1, 6, 7, 1), value)),
      channel_stats(jnp.asarray(features)),
      strict=True,
    ):
      np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_pixels_beyond_the_picture_have_no_influence():
  features, region = noise(5, 1, 6, 7, 3), noise(6, 1, 6, 7, 1)
  pads = ((0, 0), (0, 2), (0, 1), (0, 0))
  filled = [np.pad(x, pads, constant_values=np.nan) for x in (features, region)]
  where = np.pad(np.ones((6, 7, 1), bool), pads[1:])
  got = jax.jit(lambda f, r: region_stats(f, r, where=jnp.asarray(where)))(*filled)
  for ours, theirs in zip(got, stats_of(features, region), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)


def test_a_flat_region_does_not_make_the_rest_of_the_picture_huge():
  features = noise(7, 1, 8, 8, 3)
  features[:, :4] = 0.5
  region = np.zeros((1, 8, 8, 1), np.float32)
  region[:, :4] = 1
  mean, std = stats_of(features, region)
  normalized = (features - np.asarray(mean)[:, None, None]) / np.asarray(std)[:, None, None]
  assert np.sqrt((normalized**2).mean((1, 2))).max() < 8.01
