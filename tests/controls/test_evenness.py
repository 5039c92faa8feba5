"""`evenness` in `stylize`; what it does to a halo is tested beside `ops/evenness.py`."""

import jax
import numpy as np
import pytest
from small_models import picture, small_stylizer

from adaconv_jax import stylize
from adaconv_jax.ops.evenness import even_out

STYLE = picture(1, 24, 24) ** 3
# A plain sky beside structure.
CONTENT = picture(0, 48, 64)
CONTENT[:, :40] = [0.6, 0.7, 0.9]


@pytest.fixture(scope="module")
def adain():
  return small_stylizer("adain")


def test_it_is_done_to_the_picture_and_0_is_none(adain):
  plain = stylize(CONTENT, STYLE, model=adain)
  np.testing.assert_array_equal(stylize(CONTENT, STYLE, model=adain, evenness=0), plain)
  made = stylize(CONTENT, STYLE, model=adain, evenness=0.8)
  assert np.abs(made - plain).max() > 0.01
  expected = jax.jit(even_out)(plain[None], CONTENT[None], 0.8)[0]
  np.testing.assert_allclose(made, expected, atol=2e-3)


@pytest.mark.slow
def test_alpha_0_is_the_content(adain):
  made = stylize(CONTENT, STYLE, model=adain, evenness=1, alpha=0)
  np.testing.assert_allclose(made, CONTENT, atol=1e-5)


@pytest.mark.slow
def test_where_a_map_leaves_the_content_nothing_changes(adain):
  alpha = np.zeros((48, 64), np.float32)
  alpha[:24] = 1
  made = stylize(CONTENT, STYLE, model=adain, evenness=1, alpha=alpha)
  np.testing.assert_allclose(made[24:], CONTENT[24:], atol=1e-5)
  plain = stylize(CONTENT, STYLE, model=adain, evenness=1)
  np.testing.assert_allclose(made[:24], plain[:24], atol=1e-5)


@pytest.mark.slow
def test_what_no_mask_covers_stays_the_content(adain):
  masks = np.zeros((1, 48, 64), np.float32)
  masks[:, :24] = 1
  made = stylize(CONTENT, [STYLE], model=adain, evenness=1, masks=masks)
  np.testing.assert_allclose(made[24:], CONTENT[24:], atol=1e-5)
  assert np.abs(made - stylize(CONTENT, [STYLE], model=adain, masks=masks))[:24].max() > 0.01


@pytest.mark.slow
def test_a_mask_of_ones_and_every_number_of_a_batch(adain):
  made = stylize(CONTENT, STYLE, model=adain, evenness=1)
  masks = np.ones((1, 48, 64))
  masked = stylize(CONTENT, [STYLE], model=adain, evenness=1, masks=masks)
  np.testing.assert_allclose(masked, made, atol=2e-3)
  both = stylize(np.stack([CONTENT] * 2), STYLE, model=adain, evenness=np.array([0.0, 1.0]))
  np.testing.assert_allclose(both[0], stylize(CONTENT, STYLE, model=adain), atol=1e-3)
  np.testing.assert_allclose(both[1], made, atol=2e-3)


@pytest.mark.slow
def test_under_jit_and_grad(adain):
  made = stylize(CONTENT, STYLE, model=adain, evenness=0.7)
  render = jax.jit(lambda x, e: stylize(x, STYLE, model=adain, evenness=e))
  np.testing.assert_allclose(render(CONTENT, 0.7), made, atol=2e-3)
  slope = jax.grad(lambda e: stylize(CONTENT, STYLE, model=adain, evenness=e).sum())(0.7)
  assert np.isfinite(slope) and slope != 0


@pytest.mark.parametrize("evenness", [-0.1, 1.1, float("nan"), [0.5, 0.5], "much"])
def test_what_is_no_share_is_refused(adain, evenness):
  with pytest.raises(ValueError, match="^evenness: expected"):
    stylize(CONTENT, STYLE, model=adain, evenness=evenness)


@pytest.mark.slow
@pytest.mark.parametrize(
  "option",
  [
    ("jax_numpy_dtype_promotion", "strict"),
    ("jax_numpy_rank_promotion", "raise"),
    ("jax_enable_x64", True),
  ],
)
def test_under_other_settings_of_jax(adain, option):
  name, value = option
  expected, before = stylize(CONTENT, STYLE, model=adain, evenness=1), jax.config.values[name]
  try:
    jax.config.update(name, value)
    made = stylize(CONTENT, STYLE, model=adain, evenness=1)
  finally:
    jax.config.update(name, before)
  np.testing.assert_allclose(made, expected, atol=1e-4)
