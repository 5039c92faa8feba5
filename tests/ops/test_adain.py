"""AdaIN against NumPy loops, and the identities that define it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adaconv_jax.ops.adain import (
  EPS,
  ChannelStats,
  adain,
  apply_stats,
  channel_stats,
  instance_norm,
  widen_stats,
)


def random(*shape: int, seed: int = 0) -> Any:
  """Maps whose channels differ in mean and deviation."""
  rng = np.random.default_rng([seed, *shape])
  c = shape[-1]
  return (rng.normal(size=shape) * rng.uniform(0.2, 4, c) + rng.normal(size=c)).astype(np.float32)


def stats_loops(features: np.ndarray, eps: float) -> tuple[np.ndarray, np.ndarray]:
  """Mean and deviation of every `[h, w]` plane of `[n, h, w, c]`, pixel by pixel."""
  n, h, w, c = features.shape
  mean, std = np.zeros((2, n, c), np.result_type(features, np.float64))
  for i, ch in np.ndindex(n, c):
    plane = [features[i, y, x, ch].astype(mean.dtype) for y, x in np.ndindex(h, w)]
    mean[i, ch] = sum(plane) / (h * w)
    std[i, ch] = np.sqrt(sum((p - mean[i, ch]) ** 2 for p in plane) / (h * w) + eps)
  return mean, std


def adain_loops(content: np.ndarray, style: np.ndarray, eps: float) -> np.ndarray:
  mean, std = stats_loops(content, eps)
  style_mean, style_std = stats_loops(style, eps)
  out = np.zeros(content.shape, np.result_type(mean, style_mean))
  for i, y, x, ch in np.ndindex(*content.shape):
    normalized = (content[i, y, x, ch] - mean[i, ch]) / std[i, ch]
    out[i, y, x, ch] = style_std[i, ch] * normalized + style_mean[i, ch]
  return out


@pytest.mark.parametrize("eps", [EPS, 0.5])
def test_statistics_are_those_of_loops_with_the_biased_variance(eps):
  features = random(2, 3, 5, 4)
  got = channel_stats(features, eps=eps)
  mean, std = stats_loops(features, eps)
  assert isinstance(got, ChannelStats) and got.mean.shape == got.std.shape == (2, 4)
  np.testing.assert_allclose(got.mean, mean, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(got.std, std, rtol=1e-5)


@pytest.mark.parametrize("size", [(3, 5), (1, 1), (6, 7)])
def test_statistics_of_a_part_are_those_of_the_part_alone(size):
  features, style = random(2, *size, 4), ChannelStats(random(2, 4), random(2, 4) ** 2)
  padded: Any = np.full((2, 6, 7, 4), np.nan, np.float32)
  padded[:, : size[0], : size[1]] = features
  where: Any = np.zeros((6, 7, 1), bool)
  where[: size[0], : size[1]] = True
  mean, std = jax.jit(lambda x, where: channel_stats(x, where=where))(padded, where)
  for got, expected in zip((mean, std), stats_loops(features, EPS), strict=True):
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
  for function in (instance_norm, lambda x, **where: apply_stats(x, style, **where)):
    got = function(padded, where=where)[:, : size[0], : size[1]]
    np.testing.assert_allclose(got, function(features), rtol=1e-4, atol=1e-4)


def test_leading_axes_are_free():
  features = random(2, 3, 4, 5, 2)
  mean, std = channel_stats(features)
  norm = instance_norm(features)
  for index in np.ndindex(2, 3):
    one = channel_stats(features[index])
    np.testing.assert_allclose(mean[index], one.mean, rtol=1e-6)
    np.testing.assert_allclose(std[index], one.std, rtol=1e-6)
    np.testing.assert_allclose(norm[index], instance_norm(features[index]), rtol=1e-5, atol=1e-6)


def test_a_flat_channel_has_the_deviation_of_the_root_of_eps():
  _, std = channel_stats(jnp.full((1, 3, 3, 2), 0.25), eps=1e-4)
  np.testing.assert_allclose(std, np.full((1, 2), 1e-2), rtol=1e-6)


def test_instance_norm_has_mean_zero_and_deviation_one():
  got = np.asarray(instance_norm(random(2, 6, 5, 3)), np.float64)
  np.testing.assert_allclose(got.mean((1, 2)), 0, atol=1e-6)
  # eps takes EPS / 2 of the deviation for a variance of 1; these variances are above 0.04.
  np.testing.assert_allclose(got.std((1, 2)), 1, atol=EPS / 0.04)


@pytest.mark.parametrize("eps", [EPS, 0.5])
@pytest.mark.parametrize("style_size", [(3, 5), (1, 1), (7, 2)])
def test_adain_equals_loops_for_any_style_size(style_size, eps):
  content, style = random(2, 3, 5, 4), random(2, *style_size, 4, seed=1)
  expected = adain_loops(content, style, eps)
  np.testing.assert_allclose(adain(content, style, eps=eps), expected, rtol=1e-4, atol=1e-4)


def test_adain_of_a_map_with_itself_is_that_map():
  x = random(2, 5, 3, 4)
  # Both roots hold the same eps, so they cancel and only rounding is left.
  np.testing.assert_allclose(adain(x, x), x, rtol=1e-5, atol=1e-5)


def test_output_has_style_statistics():
  content, style = random(2, 6, 5, 4), random(2, 4, 9, 4, seed=1)
  got = np.asarray(adain(content, style), np.float64)
  np.testing.assert_allclose(got.mean((1, 2)), style.mean((1, 2)), rtol=1e-4, atol=1e-4)
  # eps in the content's root shortens the output's deviation by EPS / (2 var), var > 0.04.
  np.testing.assert_allclose(got.std((1, 2)), style.std((1, 2)), rtol=EPS / 0.04)


def test_scale_and_shift_of_the_content_do_not_matter():
  content, style = random(2, 6, 5, 4), random(2, 4, 4, 4, seed=1)
  other = content * np.array([3, 0.7, 2, 5], np.float32) + np.array([1, -2, 3, 0], np.float32)
  np.testing.assert_allclose(adain(other, style), adain(content, style), rtol=1e-3, atol=1e-3)


def test_the_order_of_the_style_pixels_does_not_matter():
  content, style = random(1, 3, 4, 2), random(1, 4, 6, 2, seed=1)
  shuffled: Any = np.random.default_rng(0).permutation(style.reshape(24, 2)).reshape(1, 3, 8, 2)
  np.testing.assert_allclose(adain(content, shuffled), adain(content, style), rtol=1e-5, atol=1e-5)


def test_a_flat_content_channel_becomes_the_style_mean():
  style = random(1, 4, 4, 3)
  got = adain(jnp.full((1, 2, 3, 3), 7.0), style)
  np.testing.assert_allclose(got, np.broadcast_to(style.mean((1, 2)), (1, 2, 3, 3)), rtol=1e-5)


def test_one_style_serves_all_images():
  content, style = random(3, 4, 5, 2), random(1, 3, 3, 2, seed=1)
  repeated = adain(content, style.repeat(3, axis=0))
  np.testing.assert_allclose(apply_stats(content, channel_stats(style)), repeated, rtol=1e-6)


def test_gradients_equal_the_complex_step_derivatives_of_the_loops():
  content, style, weights = random(1, 2, 3, 2), random(1, 3, 2, 2, seed=1), random(1, 2, 3, 2)
  content[..., 1] = 0.5  # a flat channel is no exception
  loss = lambda c, s: (adain(c, s) * weights).sum()  # noqa: E731
  for argnum, got in enumerate(jax.jit(jax.grad(loss, (0, 1)))(content, style)):
    for index in np.ndindex(*got.shape):
      maps = [content.astype(complex), style.astype(complex)]
      maps[argnum][index] += 1e-30j
      slope = (adain_loops(maps[0], maps[1], EPS) * weights).sum().imag / 1e-30
      # The slope at a flat channel is 1 / sqrt(EPS) = 316 times that of others.
      np.testing.assert_allclose(got[index], slope, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("size", [(4, 4), (1, 1)])
def test_gradients_are_finite_on_flat_maps(size):
  flat = jnp.zeros((2, *size, 3))
  loss = lambda c, s: (adain(c, s) ** 2).sum() + channel_stats(c).std.sum()  # noqa: E731
  for gradient in jax.jit(jax.grad(loss, (0, 1)))(flat, flat + 1):
    assert jnp.isfinite(gradient).all()


@pytest.mark.parametrize("style_shape", [(3, 4, 4, 4), (2, 4, 4, 5), (1, 4, 4, 4)])
def test_unequal_batches_or_channels_are_errors(style_shape):
  message = rf"content and style: .*\(2, 3, 3, 4\) and \({', '.join(map(str, style_shape))}\)"
  with pytest.raises(ValueError, match=message):
    adain(jnp.zeros((2, 3, 3, 4)), jnp.zeros(style_shape))


@pytest.mark.parametrize(
  ("value", "got"), [(np.zeros((8, 8, 4)), r"\[8, 8, 4\]"), (None, "NoneType")]
)
def test_what_is_no_batch_of_feature_maps_is_refused_by_name(value, got):
  features = jnp.zeros((1, 8, 8, 4))
  with pytest.raises(ValueError, match=f"^content: expected an array of .*, got {got}; .*None"):
    adain(value, value)
  with pytest.raises(ValueError, match=f"^style: expected an array of .*, got {got}"):
    adain(features, value)


def test_given_content_statistics_replace_the_content_s_own():
  content, other, style = random(2, 6, 5, 4), random(1, 7, 7, 4), random(1, 3, 9, 4)
  mean, std = channel_stats(other)
  target = channel_stats(style)
  made = apply_stats(content, target, content_stats=ChannelStats(mean, std))
  expected = (content - mean[:, None, None]) / std[:, None, None]
  expected = expected * target.std[:, None, None] + target.mean[:, None, None]
  np.testing.assert_allclose(made, expected, rtol=1e-4, atol=1e-4)
  own = apply_stats(content, target, content_stats=channel_stats(content))
  np.testing.assert_allclose(own, apply_stats(content, target), atol=1e-5)


def test_widened_statistics_bound_normalized_features_and_leave_usual_ones():
  content = random(1, 6, 5, 4)
  own = channel_stats(content)
  flat = ChannelStats(own.mean + 1.0, own.std * 1e-3)
  normalized = instance_norm(content, widen_stats(flat, own))
  np.testing.assert_allclose((normalized**2).mean((1, 2)), 4, rtol=1e-3)
  usual = ChannelStats(own.mean + 0.1 * own.std, own.std * 0.8)
  for given, kept in zip(widen_stats(usual, own), usual, strict=True):
    np.testing.assert_array_equal(given, kept)
