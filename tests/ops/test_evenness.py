"""`ops/evenness.py` on painted skies whose halo is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adaconv_jax.ops import evenness as module
from adaconv_jax.ops.extent import Extent

even_out = jax.jit(module.even_out)
H, W = 120, 160
SKY, PAINT = np.array([0.6, 0.7, 0.9]), np.array([0.5, 0.25, 0.2])
ROWS, COLUMNS = np.mgrid[:H, :W]
# How far pixels are from a block of structure in the middle; 0 in it.
AWAY = np.hypot(np.maximum(abs(ROWS - 60) - 20, 0), np.maximum(abs(COLUMNS - 80) - 15, 0))
BLOCK = AWAY == 0
NEAR, FAR = (AWAY > 2) & (AWAY < 9), AWAY > 40


def scene(halo=0.4, seed=0):
  """A content, and what a decoder made of it: the sky is lighter around the block."""
  noise = np.random.default_rng(seed).uniform(0.1, 0.5, (H, W, 3))
  content = np.where(BLOCK[..., None], noise, SKY)
  glow = halo * np.exp(-AWAY / 8)[..., None]
  painted = np.where(BLOCK[..., None], noise[::-1], PAINT + glow)
  return jnp.asarray(painted[None], jnp.float32), jnp.asarray(content[None], jnp.float32)


def unevenness(pictures) -> float:
  pictures = np.asarray(pictures)[0]
  return float(np.abs(pictures[NEAR].mean(0) - pictures[FAR].mean(0)).max())


def test_a_halo_goes_and_the_rest_stays():
  painted, content = scene()
  made = np.asarray(even_out(painted, content, 1.0))
  assert unevenness(made) < 0.25 * unevenness(painted)
  np.testing.assert_allclose(made[0][FAR], np.asarray(painted)[0][FAR], atol=0.01)
  np.testing.assert_allclose(
    made[0][AWAY > 20], np.broadcast_to(PAINT, (H, W, 3))[AWAY > 20], atol=0.04
  )
  inner = np.hypot(np.maximum(abs(ROWS - 60) - 17, 0), np.maximum(abs(COLUMNS - 80) - 12, 0)) == 0
  np.testing.assert_array_equal(made[0][inner], np.asarray(painted)[0][inner])


def test_a_share_of_it_takes_a_share_of_the_halo():
  painted, content = scene()
  half = even_out(painted, content, 0.5)
  expected = (painted + even_out(painted, content, 1.0)) / 2
  np.testing.assert_allclose(half, expected, atol=1e-6)
  np.testing.assert_array_equal(even_out(painted, content, 0.0), painted)


@pytest.mark.slow
def test_every_picture_of_a_batch_may_have_its_own():
  pairs = [scene(seed=seed) for seed in range(2)]
  painted, content = (jnp.concatenate(parts) for parts in zip(*pairs, strict=True))
  made = even_out(painted, content, jnp.array([0.0, 1.0]).reshape(2, 1, 1, 1))
  np.testing.assert_array_equal(made[:1], painted[:1])
  np.testing.assert_allclose(made[1:], even_out(*pairs[1], 1.0), atol=1e-5)


def test_strokes_stay():
  painted, content = scene()
  strokes = 0.05 * np.sin(2 * np.pi * COLUMNS / 3)[..., None]
  made = np.asarray(even_out(painted + strokes, content, 1.0))[0]
  plain = np.asarray(even_out(painted, content, 1.0))[0]
  drawn = np.broadcast_to(strokes, made.shape)[NEAR]
  slope = np.sum((made - plain)[NEAR] * drawn) / np.sum(drawn**2)
  assert 0.9 < slope < 1.1


def test_another_plain_place_keeps_its_own_color():
  painted, content = (np.array(x) for x in scene())
  content[:, 80:], painted[:, 80:] = [0.2, 0.3, 0.1], [0.1, 0.6, 0.3]  # a lawn, without a halo
  made = np.asarray(even_out(jnp.asarray(painted), jnp.asarray(content), 1.0))
  np.testing.assert_allclose(made[:, 83:], painted[:, 83:], atol=0.02)
  near_sky = NEAR & (ROWS < 77)
  assert (
    np.abs(made[0][near_sky] - PAINT).mean() < 0.3 * np.abs(painted[0][near_sky] - PAINT).mean()
  )


def test_colors_do_not_cross_the_guides():
  """As of the masks of two styles, whose seam runs through one sky."""
  painted, content = (np.array(x) for x in scene(halo=0.0))
  left = np.broadcast_to((COLUMNS < 80)[None, ..., None], (1, H, W, 1)).astype(np.float32)
  painted = np.where((left > 0) | BLOCK[..., None], painted, [0.2, 0.3, 0.7])
  painted, guides = jnp.asarray(painted, jnp.float32), jnp.asarray(left)
  without = even_out(painted, jnp.asarray(content), 1.0)
  made = even_out(painted, jnp.asarray(content), 1.0, guides=guides)
  assert np.abs(without - painted).max() > 0.05
  changed = np.abs(made - painted)[0]
  assert changed[AWAY > 2].max() < 0.02 and changed.mean() < 1e-3


def test_padding_has_no_influence():
  painted, content = scene()
  expected = even_out(painted, content, 1.0)
  rng = np.random.default_rng(1)
  padded, around = rng.uniform(size=(2, 1, H + 8, W + 24, 3)).astype(np.float32)
  padded[:, :H, :W], around[:, :H, :W] = painted, content
  made = even_out(jnp.asarray(padded), jnp.asarray(around), 1.0, Extent(H, W))
  np.testing.assert_allclose(made[:, :H, :W], expected, atol=1e-3)


def test_large_pictures_are_done_in_blocks_with_the_same_result(monkeypatch):
  painted, content = scene()
  expected = even_out(painted, content, 1.0)
  monkeypatch.setattr(module, "_AT_ONCE", 37 * W)
  made = jax.jit(lambda *args: module.even_out(*args))(painted, content, 1.0)
  np.testing.assert_allclose(made, expected, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.uint8, jnp.bfloat16])
def test_other_types_are_kept(dtype):
  painted, content = scene()
  scale = 255 if dtype == np.uint8 else 1
  given = jnp.round(painted * scale).astype(dtype) if scale > 1 else painted.astype(dtype)
  made = even_out(given, content, 1.0)
  assert made.dtype == dtype
  expected = even_out(given.astype(jnp.float32) / scale, content, 1.0)
  np.testing.assert_allclose(made.astype(jnp.float32) / scale, expected, atol=4e-3)


@pytest.mark.slow
def test_a_large_picture_looks_as_its_reduced_one():
  painted, content = (jnp.repeat(jnp.repeat(x, 16, 1), 16, 2) for x in scene())
  expected = jnp.repeat(jnp.repeat(even_out(*scene(), 1.0), 16, 1), 16, 2)
  made = even_out(painted, content, 1.0)
  assert np.abs(made - expected).mean() < 0.005


@pytest.mark.parametrize("kind", ["plain", "structure"])
def test_nothing_is_near_in_a_plain_picture_and_nothing_plain_in_structure(kind):
  rng = np.random.default_rng(2)
  painted = jnp.asarray(rng.uniform(0.2, 0.8, (1, H, W, 3)), jnp.float32)
  content = painted if kind == "structure" else jnp.full((1, H, W, 3), 0.5)
  np.testing.assert_allclose(even_out(painted, content, 1.0), painted, atol=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1, 1), (2, 200), (200, 2), (3, 5)])
def test_extreme_pictures_stay_finite_and_in_range(size):
  painted = jnp.asarray(np.random.default_rng(3).uniform(size=(1, *size, 3)), jnp.float32)
  for content in (jnp.zeros_like(painted), jnp.ones_like(painted), painted):
    made = np.asarray(even_out(painted, content, 1.0))
    assert np.isfinite(made).all() and made.min() >= 0 and made.max() <= 1


@pytest.mark.slow
def test_gradients_are_those_of_differences():
  painted, content = scene()
  direction = jnp.asarray(np.random.default_rng(4).normal(size=painted.shape), jnp.float32)

  @jax.jit
  def total(x):
    return jnp.sum(even_out(x, content, 1.0) ** 2)

  slope = jnp.vdot(jax.grad(total)(painted), direction)
  step = 1e-2
  difference = (total(painted + step * direction) - total(painted - step * direction)) / (2 * step)
  np.testing.assert_allclose(slope, difference, rtol=0.02)
  slopes = jax.jit(jax.grad(lambda x: jnp.sum(even_out(painted, x, 1.0))))(content)
  assert np.isfinite(slopes).all()
