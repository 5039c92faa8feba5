"""The content's fine structure in place of the output's, against loops of NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adaconv_jax.ops import detail as module
from adaconv_jax.ops.detail import add_detail
from adaconv_jax.ops.extent import Extent

LUMA = np.array([0.299, 0.587, 0.114])
add = jax.jit(add_detail)


def noise(seed: int, *shape: int) -> Any:
  return np.random.default_rng(seed).random((*shape, 3)).astype(np.float32)


def high_of(gray, sigma: float):
  """`gray` minus the mean around each pixel with a Gaussian's weights, cut at 3 sigmas."""
  (h, w), reach = gray.shape, 3 * sigma + 0.02
  high = np.empty_like(gray)
  for y in range(h):
    for x in range(w):
      down, right = np.arange(h) - y, np.arange(w) - x
      rows = np.exp(-0.5 * (down / sigma) ** 2) * (np.abs(down) <= reach)
      columns = np.exp(-0.5 * (right / sigma) ** 2) * (np.abs(right) <= reach)
      weights = rows[:, None] * columns
      high[y, x] = gray[y, x] - (weights * gray).sum() / weights.sum()
  return high


def expected_of(picture, content, detail: float):
  picture, content = picture.astype(np.float64), content.astype(np.float64)
  sigma = max(min(picture.shape[:2]) / 75, 1)
  ours, theirs = high_of(picture @ LUMA, sigma), high_of(content @ LUMA, sigma)
  ratio = np.sqrt(np.mean(ours**2) / np.mean(theirs**2))
  return picture + detail * (ratio * theirs - ours)[..., None]


# Blocks of 256 lines, and of 16, so that several are put together.
@pytest.mark.parametrize("block", [256, 16])
@pytest.mark.parametrize("size", [pytest.param((100, 120), marks=pytest.mark.slow), (38, 150)])
def test_it_is_the_exchange_of_high_bands_of_an_independent_loop(size, block, monkeypatch):
  monkeypatch.setattr(module, "_BLOCK", block)
  pictures, contents = noise(0, 2, *size), noise(1, 2, *size) ** 2
  got = jax.jit(lambda *args: add_detail(*args))(pictures, contents, 0.7)
  for ours, picture, content in zip(got, pictures, contents, strict=True):
    np.testing.assert_allclose(ours, expected_of(picture, content, 0.7), atol=2e-5)


def test_every_content_may_have_its_own_detail():
  pictures, contents = noise(0, 3, 40, 30), noise(1, 3, 40, 30)
  got = add(pictures, contents, jnp.array([0.0, 0.5, 1.0]))
  for index, detail in enumerate((0.0, 0.5, 1.0)):
    alone = add(pictures[index : index + 1], contents[index : index + 1], detail)
    np.testing.assert_allclose(got[index], alone[0], atol=1e-6)
  np.testing.assert_array_equal(got[0], pictures[0])


def test_color_is_kept_and_brightness_alone_is_exchanged():
  picture, content = noise(0, 1, 50, 50), noise(1, 1, 50, 50)
  got = np.asarray(add(picture, content, 1.0))
  np.testing.assert_allclose(np.diff(got), np.diff(picture), atol=1e-6)
  gray = np.broadcast_to(content @ LUMA[:, None], content.shape).astype(np.float32)
  np.testing.assert_allclose(add(picture, gray, 1.0), got, atol=1e-5)


def test_the_whole_detail_has_the_contrast_of_the_output_s_own():
  picture, content = noise(0, 1, 90, 90), 0.4 * noise(1, 1, 90, 90)
  ours, got = (
    high_of(np.asarray(x[0]) @ LUMA, 90 / 75) for x in (picture, add(picture, content, 1.0))
  )
  # The high band's own blur is not all zero.
  assert 0.9 < got.std() / ours.std() < 1.1


def test_a_content_that_is_its_own_output_stays_as_it_is():
  picture = noise(0, 1, 64, 48)
  for detail in (0.3, 1.0):
    np.testing.assert_allclose(add(picture, picture, detail), picture, atol=1e-6)


def test_a_flat_content_takes_the_marks_away_and_adds_nothing():
  picture, flat = noise(0, 1, 80, 80), np.full((1, 80, 80, 3), 0.5, np.float32)
  got = np.asarray(add(picture, flat, 1.0))[0] @ LUMA
  expected = picture[0].astype(np.float64) @ LUMA
  np.testing.assert_allclose(got, expected - high_of(expected, 80 / 75), atol=1e-4)


def test_faint_grain_of_a_content_is_not_made_a_pattern():
  rng = np.random.default_rng(0)
  grain = np.repeat(0.5 + 0.002 * rng.standard_normal((1, 80, 80, 1), np.float32), 3, -1)
  marks = noise(1, 1, 80, 80)
  flat = np.full_like(grain, 0.5)
  difference = np.asarray(add(marks, grain, 1.0)) - np.asarray(add(marks, flat, 1.0))
  assert difference.std() < 4.1 * 0.002


def test_what_lies_beside_a_picture_has_no_influence():
  pictures, contents = noise(0, 2, 45, 38), noise(1, 2, 45, 38)
  expected = add(pictures, contents, 0.8)
  for filling in (0.0, 1e20, np.nan):
    padded = np.full((2, 2, 80, 64, 3), filling, np.float32)
    padded[0, :, :45, :38], padded[1, :, :45, :38] = pictures, contents
    got = np.asarray(add(*padded, 0.8, Extent(45, 38)))[:, :45, :38]
    np.testing.assert_allclose(got, expected, atol=2e-6)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (2, 3)])
def test_the_smallest_pictures_are_no_trouble(size):
  got = np.asarray(add(noise(0, 1, *size), noise(1, 1, *size), 1.0))
  assert np.isfinite(got).all()


@pytest.mark.slow
def test_gradients_are_those_of_small_steps_and_finite_on_flat_pictures():
  with jax.enable_x64(True):  # float32 would round the sums
    check_gradients(noise(2, 1, 40, 30).astype(float))


def check_gradients(weights) -> None:
  def loss(picture, content, detail):
    return (weights * add_detail(picture, content, detail)).sum()

  compiled = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))
  pictures = (jnp.asarray(noise(seed, 1, 40, 30), float) for seed in (0, 1))
  at = (*pictures, jnp.asarray(0.6))
  for index, gradient in enumerate(compiled(*at)[1]):
    step = 1e-4 * gradient / jnp.linalg.norm(gradient)
    there, back = (at[:index] + (at[index] + s,) + at[index + 1 :] for s in (step, -step))
    slope = (compiled(*there)[0] - compiled(*back)[0]) / 2e-4
    np.testing.assert_allclose(slope, jnp.linalg.norm(gradient), rtol=1e-4)
  flat = (jnp.full_like(at[0], 0.5), jnp.full_like(at[1], 0.5), at[2])
  assert all(np.isfinite(gradient).all() for gradient in compiled(*flat)[1])


def test_a_long_narrow_picture_takes_memory_in_proportion():
  """A matrix over all lines would have 10^10 numbers."""
  shape = jax.ShapeDtypeStruct((1, 100_000, 8, 3), jnp.float32)
  compiled = jax.jit(add_detail).lower(shape, shape, 0.5).compile()
  analysis = compiled.memory_analysis()
  assert analysis is not None
  assert analysis.temp_size_in_bytes < 20 * 100_000 * 8 * 3 * 4
