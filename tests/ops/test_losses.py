"""The losses against NumPy loops, what they ignore, and their gradients."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adaconv_jax.ops.losses import (
  checkerboard_loss,
  content_loss,
  detail_loss,
  evenness_loss,
  palette,
  palette_loss,
  pixel_loss,
  self_similarity_loss,
  structure_loss,
  style_loss,
)

WEIGHTS = {"relu1_1": 1.0, "relu2_1": 0.25}


def random(*shape: int, seed: int = 0) -> Any:
  return np.random.default_rng([seed, *shape]).normal(0.3, 1.5, shape).astype(np.float32)


def features(seed: int, size: int = 4, n: int = 2) -> dict[str, Any]:
  return {
    "relu1_1": random(n, size, size + 1, 3, seed=seed),
    "relu2_1": random(n, size // 2, size // 2, 5, seed=seed),
  }


def style_loss_loops(ours, theirs, weights, eps: float = 1e-5) -> float:
  total = 0.0
  for layer, weight in weights.items():
    n, _, _, c = ours[layer].shape
    for i, ch in np.ndindex(n, c):
      a, b = (m[layer][i, :, :, ch].astype(np.float64).ravel() for m in (ours, theirs))
      mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
      std_a = np.sqrt(sum((a - mean_a) ** 2) / len(a) + eps)
      std_b = np.sqrt(sum((b - mean_b) ** 2) / len(b) + eps)
      total += weight * ((mean_a - mean_b) ** 2 + (std_a - std_b) ** 2) / (n * c)
  return total


@jax.jit
def style_gradient(ours, theirs):
  return jax.grad(style_loss)(ours, theirs, WEIGHTS)


@pytest.mark.parametrize("loss", [content_loss, pixel_loss])
def test_content_and_pixel_loss_are_means_of_squares_over_all_elements(loss):
  a, b = random(2, 3, 4, 3), random(2, 3, 4, 3, seed=1)
  expected = sum((float(a[i]) - float(b[i])) ** 2 for i in np.ndindex(*a.shape)) / a.size
  assert loss(a, b).shape == ()
  np.testing.assert_allclose(loss(a, b), expected, rtol=1e-5)
  np.testing.assert_allclose(jax.grad(loss)(a, b), 2 * (a - b) / a.size, rtol=1e-5)


@pytest.mark.parametrize("style_size", [4, 6])
def test_style_loss_equals_loops_for_any_style_size(style_size):
  ours, theirs = features(0), features(1, style_size)
  got = style_loss(ours, theirs, WEIGHTS)
  assert got.shape == ()
  np.testing.assert_allclose(got, style_loss_loops(ours, theirs, WEIGHTS), rtol=1e-5)


def test_losses_of_equal_inputs_are_zero():
  ours = features(0)
  assert style_loss(ours, ours, WEIGHTS) == 0
  assert content_loss(ours["relu1_1"], ours["relu1_1"]) == 0
  assert pixel_loss(ours["relu1_1"], ours["relu1_1"]) == 0


def test_style_loss_ignores_where_the_pixels_are():
  ours, theirs, rng = features(0), features(1), np.random.default_rng(0)
  shuffled = {}
  for name, value in ours.items():
    n, h, w, c = value.shape
    shuffled[name] = rng.permuted(value.reshape(n, h * w, 1, c), axis=1).reshape(n, w, h, c)
  # Each channel is shuffled separately: the loss ignores relations between channels too.
  np.testing.assert_allclose(
    style_loss(shuffled, theirs, WEIGHTS), style_loss(ours, theirs, WEIGHTS), rtol=1e-5
  )


def test_style_loss_of_shifted_and_of_stretched_features():
  ours = {"relu1_1": random(2, 8, 8, 3)}
  # A mean that differs by 2 everywhere costs 4; the deviations are equal.
  shifted = {"relu1_1": ours["relu1_1"] + 2}
  np.testing.assert_allclose(style_loss(ours, shifted, {"relu1_1": 1.0}), 4, rtol=1e-4)
  mean = ours["relu1_1"].mean((1, 2), keepdims=True)
  stretched = {"relu1_1": (ours["relu1_1"] - mean) * 3 + mean}
  expected = np.mean((2 * ours["relu1_1"].std((1, 2))) ** 2)
  np.testing.assert_allclose(style_loss(ours, stretched, {"relu1_1": 1.0}), expected, rtol=1e-4)


def test_only_weighted_layers_count():
  ours, theirs = features(0), features(1)
  one = {"relu2_1": 0.5}
  expected = style_loss_loops(ours, theirs, one)
  np.testing.assert_allclose(style_loss(ours, theirs, one), expected, rtol=1e-5)
  ours["relu1_1"] = theirs["relu1_1"] = np.full_like(ours["relu1_1"], np.nan)
  np.testing.assert_allclose(style_loss(ours, theirs, one), expected, rtol=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.7])
def test_gradients_are_finite_on_flat_features(value):
  ours = jax.tree.map(lambda x: jnp.full_like(x, value), features(0))
  for theirs in (ours, features(1)):
    gradients = style_gradient(ours, theirs)
    assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(gradients))


def test_gradient_equals_differences_of_the_loops():
  ours, theirs = features(0), features(1)
  gradients = style_gradient(ours, theirs)
  for layer, gradient in gradients.items():
    for index in [(0, 0, 0, 0), (0, 1, 1, 2)]:
      values = []
      for step in (1e-4, -1e-4):
        moved = {name: value.astype(np.float64) for name, value in ours.items()}
        moved[layer][index] += step
        values.append(style_loss_loops(moved, theirs, WEIGHTS))
      slope = (values[0] - values[1]) / 2e-4
      np.testing.assert_allclose(gradient[index], slope, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("missing_in", [0, 1])
def test_a_missing_layer_is_an_error(missing_in):
  maps = [features(0), features(1)]
  del maps[missing_in]["relu2_1"]
  with pytest.raises(ValueError, match=r"layer_weights: 'relu2_1' is not among .*\['relu1_1'\]"):
    style_loss(maps[0], maps[1], WEIGHTS)


@pytest.mark.parametrize("direction", ["columns", "rows", "both"])
@pytest.mark.parametrize(("period", "share"), [(2, 1.0), (4, 1 / 16), (8, np.sin(np.pi / 8) ** 8)])
def test_checkerboard_loss_is_the_energy_of_patterns_of_two_pixels(direction, period, share):
  y, x = np.mgrid[:36, :36]  # after the filter of 5 pixels, whole periods
  wave = lambda at: np.cos(2 * np.pi * at / period)  # noqa: E731
  pattern = {"columns": wave(x), "rows": wave(y), "both": wave(x) * wave(y)}[direction]
  images = np.stack([np.full((36, 36), 0.5), 0.5 + 0.1 * pattern])[..., None].repeat(3, -1)
  energy = 0.1**2 * np.mean(pattern[:32, :32] ** 2)
  if (
    direction == "both"
  ):  # its own filter passes `share` twice; the two others also pass what is slow
    share = share**2 + 2 * share * np.cos(np.pi / period) ** 8
  got = checkerboard_loss(jnp.asarray(images, jnp.float32))
  np.testing.assert_allclose(got, energy * share / 2, rtol=1e-4)


def self_similarity_loops(ours, theirs) -> float:
  """The definition, pair by pair, in float64."""
  n, h, w, c = ours.shape
  total = 0.0
  for i in range(n):
    a, b = (m[i].astype(np.float64).reshape(h * w, c) for m in (ours, theirs))
    for j, k in np.ndindex(h * w, h * w):
      distances = [1 - x[j] @ x[k] / np.linalg.norm(x[j]) / np.linalg.norm(x[k]) for x in (a, b)]
      total += abs(distances[0] - distances[1])
  return total / (n * (h * w) ** 2)


def test_detail_loss_equals_loops_over_images_and_channels():
  ours, theirs = (
    {"relu2_1": random(2, 4, 6, 3, seed=i), "relu3_1": random(2, 2, 3, 5, seed=i)} for i in (0, 1)
  )
  expected = 0.0
  for layer, content in theirs.items():
    n, _, _, c = content.shape
    for i, channel in np.ndindex(n, c):
      a, b = (x[i, :, :, channel].astype(np.float64) for x in (ours[layer], content))
      a, b = ((x - x.mean()) / np.sqrt(x.var() + 0.1) for x in (a, b))
      expected += np.mean((a - b) ** 2) / (n * c)
  np.testing.assert_allclose(detail_loss(ours, theirs), expected, rtol=1e-5)


def test_detail_loss_is_the_structure_loss_of_each_of_its_layers():
  ours, theirs = (
    {"relu2_1": random(2, 4, 6, 3, seed=i), "relu3_1": random(2, 2, 3, 5, seed=i)} for i in (0, 1)
  )
  parts = [structure_loss(ours[layer], theirs[layer]) for layer in theirs]
  assert min(parts) > 0.1
  np.testing.assert_allclose(detail_loss(ours, theirs), sum(parts), rtol=1e-6)


def test_detail_loss_ignores_contrast_and_brightness_and_flat_channels_have_gradients():
  content = {"relu2_1": 50 * random(1, 4, 4, 3), "relu3_1": 50 * random(1, 2, 2, 3)}
  moved = jax.tree.map(lambda x: 2 * x + 7, content)
  assert detail_loss(moved, content) < 1e-5
  inverted = jax.tree.map(lambda x: -x, content)
  np.testing.assert_allclose(detail_loss(inverted, content), 8, rtol=1e-2)
  flat = jax.tree.map(jnp.ones_like, content)
  for gradient in jax.tree.leaves(jax.grad(detail_loss)(flat, content)):
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0


def test_self_similarity_loss_equals_loops_over_pairs_of_positions():
  ours, theirs = random(2, 3, 4, 5), random(2, 3, 4, 5, seed=1)
  got = self_similarity_loss(ours, theirs)
  assert got.shape == ()
  np.testing.assert_allclose(got, self_similarity_loops(ours, theirs), rtol=1e-5)


def test_self_similarity_ignores_what_all_positions_share_and_sees_marks_on_plain_surfaces():
  content, plain = random(1, 6, 6, 8), np.ones((1, 6, 6, 8), np.float32)
  rotation = np.linalg.qr(random(8, 8))[0]
  np.testing.assert_allclose(self_similarity_loss(3 * content @ rotation, content), 0, atol=1e-5)
  marked = plain.copy()
  marked[:, ::2, :, :4] = 0
  assert self_similarity_loss(jnp.asarray(marked), jnp.asarray(plain)) > 0.1


def test_self_similarity_gradient_is_finite_where_features_are_empty():
  empty = jnp.zeros((1, 4, 4, 3))
  assert np.isfinite(jax.grad(self_similarity_loss)(empty, jnp.asarray(random(1, 4, 4, 3)))).all()


def test_self_similarity_loss_refuses_other_shapes():
  with pytest.raises(ValueError, match=r"features: expected the target's shape \(1, 4, 4, 3\)"):
    self_similarity_loss(jnp.zeros((1, 2, 4, 3)), jnp.zeros((1, 4, 4, 3)))


def evenness_loops(images, contents) -> float:
  ours, theirs = (
    np.array([[[x[i : i + 4, j : j + 4].mean((0, 1)) for j in range(0, x.shape[1] - 3, 4)]
               for i in range(0, x.shape[0] - 3, 4)] for x in pictures.astype(np.float64)])
    for pictures in (images, contents)
  )  # fmt: skip
  losses = []
  for g, c in zip(ours, theirs, strict=True):
    means = []
    for apart in (1, 2, 4, 8, 16):
      for down, right in ((apart, 0), (0, apart)):
        costs = []
        for i, j in np.ndindex(max(g.shape[0] - down, 0), max(g.shape[1] - right, 0)):
          alike = np.exp(-np.sum((c[i, j] - c[i + down, j + right]) ** 2) / 0.04**2)
          costs += [alike * np.sum((g[i, j] - g[i + down, j + right]) ** 2)]
        means += [np.mean(costs)] if costs else []
    losses += [np.mean(means)]
  variances = [sum(np.var(x[..., k].astype(np.float64)) for k in range(3)) for x in images]
  losses = [loss / (variance + 0.03) for loss, variance in zip(losses, variances, strict=True)]
  return float(np.mean(losses))


@pytest.mark.parametrize(("height", "width"), [(72, 38), (23, 8)])
def test_evenness_loss_equals_loops_over_pairs_of_places(height, width):
  images = random(2, height, width, 3)
  contents = 0.5 + 0.02 * random(2, height, width, 3, seed=1)
  got = jax.jit(evenness_loss)(images, contents)
  assert got.shape == ()
  np.testing.assert_allclose(got, evenness_loops(images, contents), rtol=1e-5)


def test_evenness_loss_sees_dashes_and_halos_on_plain_surfaces_and_no_strokes_and_edges():
  sky = np.full((1, 64, 64, 3), 0.6, np.float32)
  content = sky.copy()
  content[:, :, 40:] = 0.1
  dashes, halo, strokes, edge = (content.copy() for _ in range(4))
  dashes[:, :, 4:12:8], dashes[:, :, 20:28] = 0.8, 0.8
  halo[:, :, 24:40] = 0.8
  strokes[:, :, 0:40:2] += 0.2
  edge[:, :, 40:] = 0.9
  loss = jax.jit(evenness_loss)
  dashes, halo, strokes, edge = (
    float(loss(jnp.asarray(x), jnp.asarray(content))) for x in (dashes, halo, strokes, edge)
  )
  assert max(strokes, edge) < 1e-8
  assert min(dashes, halo) > 1e-3


def test_evenness_loss_does_not_ask_for_less_contrast():
  images = jnp.asarray(random(1, 32, 32, 3))
  contents = jnp.full((1, 32, 32, 3), 0.5)
  loss = jax.jit(evenness_loss)
  full, half = (float(loss(c * images, contents)) for c in (1.0, 0.5))
  assert half > 0.8 * full


def test_evenness_gradient_is_finite_where_all_colors_are_equal():
  flat = jnp.full((1, 16, 16, 3), 0.5)
  gradients = jax.jit(jax.grad(evenness_loss, argnums=(0, 1)))(flat, flat)
  assert np.isfinite(gradients).all()


@pytest.mark.parametrize("shape", [(1, 16, 20, 3), (1, 7, 16, 3)])
def test_evenness_loss_refuses_other_shapes_and_small_ones(shape):
  contents = (1, 16, 16, 3) if shape[1] > 7 else shape
  with pytest.raises(ValueError, match=r"images: expected the contents' shape \(1, "):
    evenness_loss(jnp.zeros(shape), jnp.zeros(contents))


def test_palette_is_the_means_of_64_equal_shares_of_the_colors_along_13_directions():
  images = np.random.default_rng(0).random((2, 32, 17, 3)).astype(np.float32)  # odd: cut to 16
  got = palette(jnp.asarray(images))
  assert got.shape == (2, 13, 64)
  colors = images[:, :, :16].reshape(2, 16, 2, 8, 2, 3).mean((2, 4)).reshape(2, 128, 3)
  directions = {0: (1, 0, 0), 4: (1, -1, 0), 9: (1, 1, 1), 12: (-1, 1, 1)}
  for index, direction in directions.items():
    along = np.sort(colors @ (np.array(direction) / np.linalg.norm(direction)), axis=1)
    np.testing.assert_allclose(got[:, index], along.reshape(2, 64, 2).mean(-1), atol=1e-6)


def test_palette_keeps_the_mean_where_pixels_do_not_divide_by_the_shares():
  images = np.random.default_rng(1).random((1, 20, 22, 3)).astype(np.float32)
  means = np.asarray(palette(jnp.asarray(images))).mean(-1)[0]
  np.testing.assert_allclose(means[:3], images.mean((0, 1, 2)), rtol=1e-5)


def test_palette_loss_ignores_places_and_sizes_and_sees_which_colors_there_are():
  rng = np.random.default_rng(2)
  blocks = rng.random((1, 16, 16, 3)).astype(np.float32).repeat(2, 1).repeat(2, 2)
  moved = blocks[:, ::-1, :, :].swapaxes(1, 2)
  larger = blocks.repeat(2, 1).repeat(2, 2)
  # Gold and blue in halves against their mean with the same deviation of every channel.
  gold, blue = (0.9, 0.7, 0.1), (0.1, 0.2, 0.8)
  halves = np.concatenate([np.full((1, 32, 16, 3), c, np.float32) for c in (gold, blue)], axis=2)
  mixed = halves.copy()
  mixed[:, ::4], mixed[:, 1::4] = (gold[0], blue[1], gold[2]), (blue[0], gold[1], blue[2])
  mixed[:, 2::4], mixed[:, 3::4] = gold, blue

  def loss(a, b):
    return palette_loss(palette(jnp.asarray(a)), palette(jnp.asarray(b)))

  assert loss(blocks, moved) < 1e-10
  assert loss(blocks, larger) < 1e-10
  assert loss(halves, mixed) > 1e-2


def test_palette_gradient_is_finite_and_reaches_every_pixel():
  images = jnp.asarray(np.random.default_rng(3).random((1, 8, 8, 3)), jnp.float32)
  gradient = jax.grad(lambda x: palette_loss(palette(x), jnp.zeros((1, 13, 64))))(images)
  assert np.isfinite(gradient).all()
  assert (gradient != 0).all()
