"""`palette` in `stylize`: whose share of the colors, and with which other controls."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import picture, small_stylizer

from adaconv_jax import stages, stylize
from adaconv_jax.ops.extent import Extent
from adaconv_jax.ops.palette import match_palette, measure_palette

CONTENT, STYLE, OTHER = picture(0, 24, 32), picture(1, 24, 24) ** 3, 1 - 0.5 * picture(2, 24, 24)


@pytest.fixture(scope="module")
def adain():
  return small_stylizer("adain")


def test_the_colors_are_moved_to_those_of_the_style(adain):
  plain = stylize(CONTENT, STYLE, model=adain)
  given = stylize(CONTENT, STYLE, model=adain, palette=0.7)
  expected = match_palette(plain[None], measure_palette(jnp.asarray(STYLE)[None]), 0.7)[0]
  np.testing.assert_allclose(given, expected, atol=2e-3)  # a padded one has other samples
  assert np.abs(given - plain).mean() > 0.02


def test_palette_0_and_alpha_0_are_what_they_are_without_it(adain):
  np.testing.assert_array_equal(
    stylize(CONTENT, STYLE, model=adain, palette=0.0), stylize(CONTENT, STYLE, model=adain)
  )
  photograph = stylize(CONTENT, STYLE, model=adain, palette=1.0, alpha=0.0)
  np.testing.assert_allclose(photograph, CONTENT, atol=1e-4)


def test_uint8_becomes_the_same_to_a_level(adain):
  content, style = (np.round(255 * x).astype(np.uint8) for x in (CONTENT, STYLE))
  given = stylize(content, style, model=adain, palette=0.5)
  expected = stylize(content / np.float32(255), style / np.float32(255), model=adain, palette=0.5)
  assert given.dtype == np.uint8
  # The picture is rounded before its colors are moved.
  assert np.abs(np.asarray(given, int) - np.round(255 * np.asarray(expected))).max() <= 6


@pytest.mark.slow
def test_an_alpha_map_limits_the_palette_to_where_there_is_style(adain):
  alpha = np.zeros((24, 32), np.float32)
  alpha[:, 16:] = 1
  given = stylize(CONTENT, STYLE, model=adain, palette=1.0, alpha=alpha)
  np.testing.assert_allclose(given[:, :16], CONTENT[:, :16], atol=1e-5)
  plain = stylize(CONTENT, STYLE, model=adain, palette=1.0)
  np.testing.assert_allclose(given[:, 16:], plain[:, 16:], atol=1e-5)


def test_a_mix_with_weight_1_has_the_first_palette(adain):
  first = stylize(CONTENT, STYLE, model=adain, palette=0.8)
  mixed = stylize(CONTENT, [STYLE, OTHER], model=adain, palette=0.8, weights=(1.0, 0.0))
  np.testing.assert_allclose(mixed, first, atol=1e-4)


@pytest.mark.slow
def test_every_region_gets_the_palette_of_its_style(adain):
  masks = np.zeros((2, 24, 32), np.float32)
  masks[0, :, :16] = masks[1, :, 16:] = 1
  plain = stylize(CONTENT, [STYLE, OTHER], model=adain, masks=masks)
  given = stylize(CONTENT, [STYLE, OTHER], model=adain, masks=masks, palette=1.0)
  for columns, style in ((slice(0, 16), STYLE), (slice(16, 32), OTHER)):
    target = measure_palette(jnp.asarray(style)[None])
    expected = match_palette(plain[None, :, columns], target)[0]
    np.testing.assert_allclose(given[:, columns], expected, atol=6e-3)
  covered = stylize(CONTENT, [STYLE], model=adain, masks=0 * masks[:1], palette=1.0)
  np.testing.assert_allclose(covered, CONTENT, atol=1e-5)


@pytest.mark.slow
def test_a_padded_picture_has_the_colors_of_one_under_jit(adain):
  content = np.random.default_rng(3).random((146, 200, 3), np.float32)  # more than one per sample
  padded = stylize(content, STYLE, model=adain, palette=1.0)
  function = lambda content: stylize(content, STYLE, model=adain, palette=1.0)  # noqa: E731
  np.testing.assert_allclose(jax.jit(function)(content), padded, atol=5e-4)


@pytest.mark.slow
def test_under_jit_vmap_and_grad(adain):
  given = stylize(CONTENT, STYLE, model=adain, palette=0.5)
  function = lambda content, palette: stylize(content, STYLE, model=adain, palette=palette)  # noqa: E731
  np.testing.assert_allclose(jax.jit(function)(CONTENT, 0.5), given, atol=2e-3)
  mapped = jax.vmap(function)(np.stack([CONTENT, CONTENT]), jnp.array([0.5, 0.0]))
  np.testing.assert_allclose(mapped[0], given, atol=2e-3)
  gradient = jax.grad(lambda share: jnp.mean(function(CONTENT, share)))(0.5)
  assert np.isfinite(gradient) and gradient != 0


@pytest.mark.parametrize("color", ["luminance", "match"])
def test_beside_the_contents_colors_it_is_refused(adain, color):
  with pytest.raises(ValueError, match="palette and color: expected the color 'style' beside a"):
    stylize(CONTENT, STYLE, model=adain, palette=0.5, color=color)


@pytest.mark.parametrize("palette", [-0.1, 1.5, float("nan"), "1", [0.5, 0.5]])
def test_what_is_no_share_is_refused_by_name(adain, palette):
  with pytest.raises(ValueError, match="palette"):
    stylize(CONTENT, STYLE, model=adain, palette=palette)


def test_what_is_compiled_beforehand_is_what_gives_the_palette(caplog):
  """Also with an extent, weights and a map of alpha, as the command line has them."""
  pictures = np.zeros((1, 40, 48, 3), np.uint8)
  alpha = stages.style_weight(np.full((40, 48), 0.5, np.float32), 1, (40, 48))
  strength: Any = stages.palette_weight(0.5, "style")
  where = (None, alpha, Extent(37, 45), None)
  palettes = [stages.palette_of(jnp.asarray(pictures))] * 2
  stages.compile_in_palette(jnp.asarray(pictures), 2, strength, (0.3, 0.7), *where)
  with jax.log_compiles():
    stages.in_palette(jnp.asarray(pictures), palettes, strength, (0.3, 0.7), *where)
  assert not [record for record in caplog.records if "ompiling" in record.getMessage()]
  with jax.log_compiles():
    stages.in_palette(jnp.asarray(pictures), palettes, strength, (0.3, 0.7), None, None, None)
  assert [record for record in caplog.records if "ompiling" in record.getMessage()]
