"""The content's colors kept, against NumPy in double precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adaconv_jax.ops.color import check_color, keep_chroma, match_colors

LUMA = np.array([0.299, 0.587, 0.114])
# To YCbCr, by its definition.
TO_CHROMA = np.array([[-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
match = jax.jit(match_colors)


def noise(seed: int, *shape: int) -> np.ndarray:
  return np.random.default_rng(seed).random((*shape, 3), np.float32)


def colored(seed: int, *shape: int, spread: float = 0.1) -> np.ndarray:
  """Noise whose channels are correlated, inside of [0, 1]."""
  mixing = np.random.default_rng(seed + 100).random((3, 3)) - 0.3
  return np.clip(0.5 + spread * (noise(seed, *shape) - 0.5) @ mixing, 0, 1).astype(np.float32)


def moments(picture, weights=None):
  pixels = np.asarray(picture, np.float64).reshape(-1, 3)
  weights = None if weights is None else np.asarray(weights, np.float64).reshape(-1)
  return np.average(pixels, 0, weights), np.cov(pixels.T, bias=True, aweights=weights)


def test_the_luma_is_the_pictures_and_the_chroma_the_contents():
  pictures, content = 0.4 + 0.2 * noise(0, 2, 9, 11), 0.4 + 0.2 * noise(1, 2, 9, 11)
  got = np.asarray(keep_chroma(jnp.asarray(pictures), jnp.asarray(content)))
  np.testing.assert_allclose(got @ LUMA, pictures @ LUMA, atol=1e-6)
  np.testing.assert_allclose(got @ TO_CHROMA.T, content @ TO_CHROMA.T, atol=1e-6)


def test_where_luma_and_chroma_are_no_color_only_the_chroma_gives_way():
  pictures, content = 1.4 * noise(0, 30, 30) - 0.2, noise(1, 30, 30)
  got = np.asarray(keep_chroma(jnp.asarray(pictures), jnp.asarray(content)), np.float64)
  assert got.min() >= 0 and got.max() <= 1
  np.testing.assert_allclose(got @ LUMA, np.clip(pictures, 0, 1) @ LUMA, atol=2e-6)
  ours, theirs = got @ TO_CHROMA.T, content @ TO_CHROMA.T
  np.testing.assert_allclose(
    ours[..., 0] * theirs[..., 1], ours[..., 1] * theirs[..., 0], atol=1e-5
  )
  shares = np.linalg.norm(ours, axis=-1) / np.linalg.norm(theirs, axis=-1)
  assert (shares < 0.99).any() and (shares > 0.999).any() and shares.max() < 1.001


def test_a_content_in_its_own_luma_is_itself():
  content = jnp.asarray(noise(2, 9, 11))
  np.testing.assert_allclose(keep_chroma(content, content), content, atol=1e-6)


def test_a_matched_style_has_the_mean_and_covariance_of_the_content():
  styles, contents = colored(3, 2, 30, 20, spread=0.4), colored(4, 2, 25, 40, spread=0.3)
  got = match(styles, contents)
  for style, content in zip(got, contents, strict=True):
    for ours, theirs in zip(moments(style), moments(content), strict=True):
      np.testing.assert_allclose(ours, theirs, atol=3e-4)


def test_of_all_maps_with_these_moments_it_is_the_symmetric_one():
  style, content = colored(3, 30, 20, spread=0.4), colored(4, 25, 40, spread=0.3)
  got = np.asarray(match(style, content), np.float64).reshape(-1, 3)
  pixels = style.reshape(-1, 3).astype(np.float64)
  gain = np.linalg.lstsq(pixels - pixels.mean(0), got - got.mean(0))[0]
  np.testing.assert_allclose(gain, gain.T, atol=2e-3)
  assert np.linalg.eigvalsh((gain + gain.T) / 2).min() > 0


def test_a_style_with_the_contents_colors_stays_as_it_is():
  style = noise(5, 12, 14)
  np.testing.assert_allclose(match(style, style[::-1]), style, atol=1e-4)


def test_one_style_is_matched_to_every_content():
  style, contents = noise(6, 1, 12, 14), noise(7, 3, 10, 9) ** 2
  together = match(style, contents)
  assert together.shape == (3, 12, 14, 3)
  for got, content in zip(together, contents, strict=True):
    np.testing.assert_allclose(got, match(style[0], content), atol=1e-5)


def test_pixels_beyond_a_picture_have_no_influence():
  style, content = noise(8, 12, 14), noise(9, 10, 9) ** 2
  pads = ((0, 3), (0, 2), (0, 0))
  filled = [np.pad(x, pads, constant_values=np.nan) for x in (style, content)]
  where = [np.pad(np.ones((*x.shape[:2], 1), bool), pads) for x in (style, content)]
  got = match(*filled, style_where=where[0], content_where=where[1])[:12, :14]
  np.testing.assert_allclose(got, match(style, content), atol=1e-5)


def test_weights_may_be_any():
  style, content = colored(3, 30, 20, spread=0.4), colored(4, 25, 40, spread=0.3)
  weights = noise(10, 25, 40)[..., :1]
  got = match(style, content, content_where=weights)
  for ours, theirs in zip(moments(got), moments(content, weights), strict=True):
    np.testing.assert_allclose(ours, theirs, atol=3e-4)


@pytest.mark.slow
def test_gradients_are_finite_for_gray_and_flat_pictures():
  gray = jnp.broadcast_to(noise(11, 8, 8)[..., :1], (8, 8, 3))
  weights = noise(12, 8, 8)
  for style in (gray, jnp.full((8, 8, 3), 0.5)):
    for function in (match_colors, keep_chroma):
      loss = jax.jit(lambda s, c, f=function: (weights * f(s, c)).sum())
      for gradient in jax.jit(jax.grad(loss, argnums=(0, 1)))(style, gray):
        assert np.isfinite(gradient).all()


def test_gradients_are_those_of_small_steps():
  style, content = colored(3, 6, 5, spread=0.4), colored(4, 4, 7, spread=0.3)
  weights = noise(13, 6, 5)
  loss = jax.jit(lambda s, c: (weights * match_colors(s, c)).sum())
  for index, gradient in enumerate(jax.grad(loss, argnums=(0, 1))(style, content)):
    at = [jnp.asarray(style), jnp.asarray(content)]
    step = 1e-2 * gradient / jnp.linalg.norm(gradient)
    there, back = ([x + s * step if i == index else x for i, x in enumerate(at)] for s in (1, -1))
    slope = (loss(*there) - loss(*back)) / 2e-2
    np.testing.assert_allclose(slope, jnp.linalg.norm(gradient), rtol=0.02)


def test_another_color_is_refused():
  with pytest.raises(ValueError, match=r"^color: expected one of \['style', .*, got 'content'$"):
    check_color("content")
  with pytest.raises(ValueError, match="^color: .*, got 'match'; match_colors changes a style"):
    check_color("match", ("style", "luminance"))
