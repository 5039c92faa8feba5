"""`ops/palette.py` against sorting, and its limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adaconv_jax.ops import palette as palette_module
from adaconv_jax.ops.extent import Extent
from adaconv_jax.ops.palette import SHARES, match_palette, measure_palette


def colors(seed, n=1, h=48, w=56, low=0.1, high=0.8):
  rng = np.random.default_rng(seed)
  mixed = rng.uniform(0, 1, (n, h, w, 3)) @ rng.uniform(0, 1, (3, 3)) / 3
  return jnp.asarray(low + (high - low) * mixed, jnp.float32)


def test_quantiles_are_those_of_sorted_colors():
  pictures = colors(0)
  found = np.asarray(measure_palette(pictures))[0]
  rgb = np.asarray(pictures).reshape(-1, 3)
  luma_like = rgb.sum(1) / np.sqrt(3)
  wanted = (np.arange(SHARES) + 0.5) / SHARES
  np.testing.assert_allclose(found[1], np.quantile(rgb, wanted, 0).T, atol=2e-3)
  np.testing.assert_allclose(found[0, 0], np.quantile(luma_like, wanted), atol=3e-3)


def test_colors_become_distributed_as_those_of_the_palette():
  ours, theirs = colors(1), colors(2, h=64, w=40)
  given = match_palette(ours, measure_palette(theirs))
  before, after = (
    np.abs(np.sort(np.asarray(x).reshape(-1, 3), 0)[::9][:200] - target[::9][:200]).mean()
    for target in [np.sort(np.asarray(theirs).reshape(-1, 3), 0)]
    for x in (ours[:, :, :53], given[:, :, :53])
  )
  assert after < 0.35 * before


def test_a_picture_keeps_its_own_palette():
  pictures = colors(3)
  np.testing.assert_allclose(
    match_palette(pictures, measure_palette(pictures)), pictures, atol=0.02
  )


def test_strength_is_the_share_of_the_way_and_zero_is_the_picture():
  ours, palette = colors(4, n=2), measure_palette(colors(5))
  whole = match_palette(ours, palette)
  half = match_palette(ours, palette, jnp.array([0.5, 0.0]).reshape(2, 1, 1, 1))
  np.testing.assert_allclose(half[0], (ours[0] + whole[0]) / 2, atol=1e-6)
  np.testing.assert_array_equal(half[1], ours[1])


@pytest.mark.slow
def test_pixels_without_a_weight_have_no_influence():
  ours, palette = colors(6), measure_palette(colors(7))
  where = jnp.zeros((1, 48, 56, 1)).at[:, :32, :40].set(1)
  alone = match_palette(ours[:, :32, :40], palette)
  np.testing.assert_allclose(
    match_palette(ours, palette, where=where)[:, :32, :40], alone, atol=6e-3
  )
  spoiled = jnp.where(where > 0, ours, 1.0)
  np.testing.assert_allclose(
    measure_palette(spoiled, where), measure_palette(ours[:, :32, :40]), atol=2e-3
  )


@pytest.mark.parametrize("value", [0.0, pytest.param(0.4, marks=pytest.mark.slow), 1.0])
def test_a_plain_picture_stays_plain_and_finite(value):
  plain = jnp.full((1, 16, 20, 3), value)
  given = np.asarray(match_palette(plain, measure_palette(colors(8))))
  assert np.isfinite(given).all()
  assert np.ptp(given, axis=(1, 2)).max() < 1e-5
  gradient = jax.grad(lambda x: match_palette(x, measure_palette(plain)).sum())(colors(9))
  assert np.isfinite(gradient).all()


def test_the_grain_of_a_plain_surface_grows_tenfold_at_most():
  rng = np.random.default_rng(0)
  gray = jnp.asarray(0.5 + rng.normal(0, 0.004, (1, 48, 48, 1)) * np.ones(3), jnp.float32)
  given = match_palette(gray, measure_palette(colors(10)))
  assert np.std(given, axis=(1, 2)).max() < 10 * 0.004


def test_a_large_picture_is_moved_in_parts_as_a_small_one(monkeypatch):
  ours, palette = colors(11), measure_palette(colors(12))
  whole = match_palette(ours, palette)
  monkeypatch.setattr(palette_module, "_AT_ONCE", 1000)
  np.testing.assert_allclose(match_palette(ours, palette), whole, atol=1e-6)


@pytest.mark.slow
def test_it_can_be_mapped_and_differentiated():
  ours, theirs = colors(13, n=2, h=16, w=16), colors(14, n=2, h=16, w=16)
  batch = match_palette(ours, measure_palette(theirs))
  mapped = jax.vmap(lambda x, y: match_palette(x[None], measure_palette(y[None]))[0])(ours, theirs)
  np.testing.assert_allclose(batch, mapped, atol=1e-6)
  loss = lambda x: jnp.sum(match_palette(x, measure_palette(theirs), 0.5) ** 2)  # noqa: E731
  direction = jnp.array([1.0, 0.5, -0.5]) * (ours + 0.2)  # colors keep their order
  step = 1e-3
  numeric = (loss(ours + step * direction) - loss(ours - step * direction)) / (2 * step)
  exact = jnp.sum(jax.grad(loss)(ours) * direction)
  np.testing.assert_allclose(exact, numeric, rtol=0.05)


def test_a_padded_picture_has_the_palette_of_its_inside_also_under_strict_promotion():
  inside = colors(4)
  padded = jnp.pad(inside, ((0, 0), (0, 16), (0, 8), (0, 0)), constant_values=0.9)
  everywhere = np.ones((1, 64, 64, 1), bool)
  with jax.numpy_dtype_promotion("strict"):
    extent = Extent(jnp.asarray(48), jnp.asarray(56))
    for where in (None, jnp.asarray(everywhere)):
      found = measure_palette(padded, where=where, extent=extent)
      np.testing.assert_allclose(found, measure_palette(inside), atol=1e-5)
