"""Every measure is large on a picture made to have its artifact, and small on one without it."""

import numpy as np
import pytest

from adaconv_jax.evaluation import artifacts
from adaconv_jax.ops.filters import to_gray

SIZE = 96


def smooth(seed=0, size=SIZE):
  """A picture of soft blobs, `[size, size, 3]` in [0.2, 0.8]."""
  rng = np.random.default_rng(seed)
  y, x = np.mgrid[:size, :size] / size
  waves = [
    np.sin(2 * np.pi * (a * x + b * y) + c) for a, b, c in rng.uniform(-2, 2, (6, 3)) * [1, 1, 9]
  ]
  image = np.stack([waves[0] + waves[1], waves[2] + waves[3], waves[4] + waves[5]], -1)
  return (0.5 + 0.15 * image).astype(np.float32)


def noisy(image, sigma, seed=1):
  return image + np.float32(sigma) * np.random.default_rng(seed).standard_normal(
    image.shape, np.float32
  )


CONTENT = noisy(smooth(), 0.01)  # a photograph has some grain
Y, X = np.mgrid[:SIZE, :SIZE]


# Checkerboard.


PATTERNS = {
  "horizontal": (-1.0) ** X,  # changes from column to column
  "vertical": (-1.0) ** Y,
  "both": (-1.0) ** (X + Y),
}


@pytest.mark.parametrize("direction", list(PATTERNS))
def test_a_pattern_of_period_2_raises_its_own_direction_only(direction):
  got = artifacts.checkerboard(CONTENT + 0.02 * PATTERNS[direction][..., None], CONTENT)
  assert getattr(got, direction) > 15
  rest = {name: float(value) for name, value in got._asdict().items() if name != direction}
  assert max(map(abs, rest.values())) < 1, rest


def test_checkerboard_is_the_energy_in_decibels_of_an_independent_loop():
  def energy(gray):
    # A bell of 17 pixels by repeated averaging of neighbors, with alternating signs across.
    bell = np.array([1.0])
    for _ in range(16):
      bell = np.convolve(bell, [0.5, 0.5])
    values = [
      np.sum(gray[y : y + 17, x : x + 17] * bell[:, None] * (bell * (-1.0) ** np.arange(17)))
      for y in range(SIZE - 16)
      for x in range(SIZE - 16)
    ]
    return np.mean(np.square(values))

  stylized = noisy(CONTENT, 0.05)
  grays = [image.astype(np.float64) @ [0.299, 0.587, 0.114] for image in (stylized, CONTENT)]
  ratio = (energy(grays[0]) + 1e-8) / (energy(grays[1]) + 1e-8)
  got = artifacts.checkerboard(stylized, CONTENT).horizontal
  np.testing.assert_allclose(got, 10 * np.log10(ratio), atol=0.02)


@pytest.mark.parametrize("period", [4, 8])
def test_coarser_stripes_are_no_checkerboard(period):
  stripes = 0.02 * np.sin(2 * np.pi * (X + 0.5) / period)  # sharp ones have edges, which add to it
  assert abs(artifacts.checkerboard(CONTENT + stripes[..., None], CONTENT).horizontal) < 1


def test_faint_grain_on_a_flat_picture_is_measured_against_rounding():
  flat = np.full_like(CONTENT, 0.5)
  got = artifacts.checkerboard(noisy(flat, 0.002), flat)
  # The grain's energy after luma and both filters, whose gain is C(32, 16) / 2^32 per axis.
  gain = (601080390 / 2**32) ** 2 * (0.299**2 + 0.587**2 + 0.114**2)
  np.testing.assert_allclose(got, 10 * np.log10(1 + 0.002**2 * gain / 1e-8), atol=1)  # of chance


# Border.


def frame(width=16):
  inside = np.zeros((SIZE, SIZE, 1), bool)
  inside[width:-width, width:-width] = True
  return ~inside


FLAT = np.full_like(CONTENT, 0.5)


def test_a_tinted_frame_is_its_shift_in_color_and_not_in_roughness():
  tint = np.array([0.12, 0, 0], np.float32)
  got = artifacts.border(FLAT + tint * frame(), FLAT)
  np.testing.assert_allclose(got.color, 0.12 / np.sqrt(3), rtol=1e-4)  # one of three channels
  np.testing.assert_allclose(got.roughness, 0, atol=1e-5)  # the step is between two bands
  # A content that is not flat has some of it too, and the squares add up.
  assert artifacts.border(CONTENT + tint * frame(), CONTENT).color > 0.02


def test_a_frame_on_one_side_has_a_quarter_of_the_squares():
  for turns in range(4):
    side = np.rot90(frame() & (Y < 16)[..., None], turns)
    got = artifacts.border(FLAT + np.float32(0.1) * side, FLAT)
    np.testing.assert_allclose(got.color, 0.1 / 2, rtol=0.01)  # its ends are in other bands


@pytest.mark.parametrize("factor", [4, 0.25])
def test_a_frame_of_other_roughness_is_the_log_of_it(factor):
  grain = noisy(np.zeros_like(CONTENT), 0.1)
  framed = FLAT + grain * np.where(frame(), factor, 1).astype(np.float32)
  got = artifacts.border(framed, FLAT + grain)
  np.testing.assert_allclose(got.roughness, np.log2(factor), atol=0.1)  # the floor takes a little
  assert abs(got.color) < 0.02


def test_what_is_alike_everywhere_is_no_frame():
  for stylized in (CONTENT + 0.1, 1 - CONTENT):
    got = artifacts.border(stylized, CONTENT)
    np.testing.assert_allclose(got, 0, atol=1e-5)
  gradient = np.repeat((0.2 + 0.6 * X / SIZE)[..., None], 3, -1).astype(np.float32)
  np.testing.assert_allclose(artifacts.border(gradient, FLAT).color, 0, atol=1e-5)
  own = CONTENT + np.float32(0.1) * frame()  # the photograph's own frame is not included
  assert artifacts.border(own, own).color == 0


# Gray and washed out.


def test_a_gray_veil_is_negative_and_the_style_itself_is_zero():
  style = smooth(3)
  veiled = 0.5 + 0.3 * (style - 0.5)
  got = artifacts.dullness(veiled, style)
  saturation = np.mean(style.max(-1) - style.min(-1))
  np.testing.assert_allclose(got.saturation, -0.7 * saturation, rtol=1e-4)
  np.testing.assert_allclose(got.contrast, -0.7 * np.std(np.asarray(to_gray(style))), rtol=1e-4)
  assert artifacts.dullness(style, style) == (0, 0)


def test_a_gray_output_with_the_contrast_of_the_style_lacks_saturation_only():
  style = smooth(3)
  gray = np.broadcast_to(np.asarray(to_gray(style))[..., None], style.shape)
  got = artifacts.dullness(gray, style)
  assert got.saturation < -0.1 and abs(got.contrast) < 1e-4


def test_the_style_may_have_another_size_than_the_output():
  style = smooth(3)
  assert abs(artifacts.dullness(np.tile(style, (2, 1, 1)), style).contrast) < 1e-5


# Halos.


def step(position=48, low=0.3, high=0.7, vertical=False):
  image = np.where(X < position, low, high).astype(np.float32)
  return np.repeat((image.T if vertical else image)[..., None], 3, -1)


@pytest.mark.parametrize("vertical", [False, True])
@pytest.mark.parametrize(("band", "by"), [((50, 55), 0.1), ((41, 46), -0.1)])
def test_a_seam_beside_an_edge_is_its_height(vertical, band, by):
  seam = by * ((band[0] <= X) & (X < band[1]))
  seam = (seam.T if vertical else seam)[..., None]
  content = step(vertical=vertical)
  got = artifacts.halo((content + seam).astype(np.float32), content)
  # All four columns around the edge are its maximum, and some of them do not reach the seam.
  assert 0.06 < got < 0.1
  assert artifacts.halo(content, content) == 0


def test_blurred_lowered_and_turned_edges_are_no_halo():
  content = step()
  blurred = np.asarray(content)
  for _ in range(6):
    padded = np.pad(blurred, ((0, 0), (1, 1), (0, 0)), "edge")
    blurred = (padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]) / 3
  for stylized in (blurred, 0.5 + 0.2 * (content - 0.5), 1 - content):
    assert abs(artifacts.halo(stylized.astype(np.float32), content)) < 1e-3


def test_edges_that_have_a_seam_in_the_photograph_itself_do_not_count():
  sharpened = (step() + 0.1 * ((50 <= X) & (X < 55))[..., None]).astype(np.float32)
  assert np.isnan(artifacts.halo(sharpened, sharpened))


def test_a_content_without_strong_edges_has_no_number():
  assert np.isnan(artifacts.halo(CONTENT, smooth()))


# Clipping.


def test_clipped_is_the_share_of_pixels_with_any_channel_at_its_end():
  image = np.full((10, 10, 3), 0.5, np.float32)
  assert artifacts.clipped(image) == 0
  image[0, :, 0], image[1, :, 1], image[1, :3, 2] = 1, 0, -0.2
  np.testing.assert_allclose(artifacts.clipped(image), 0.2)


# Plain surfaces.

WIDE = 160
COLUMN = np.broadcast_to(np.arange(WIDE), (WIDE, WIDE))[..., None]
# Structure on the left, nothing on the right.
PAPER = np.where(COLUMN < 30, noisy(np.full((WIDE, WIDE, 3), 0.5, np.float32), 0.2), 0.5)
PAPER = np.clip(PAPER, 0, 1).astype(np.float32)
TAPS = np.exp(-0.5 * (np.arange(-10, 11) / 4) ** 2)
TAPS = TAPS / TAPS.sum()


def grating(period, down=False):
  wave = np.sin(2 * np.pi * COLUMN / period) * (COLUMN >= 30)
  return (np.swapaxes(wave, 0, 1) if down else wave).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize("period", [6, 11, 23])
def test_a_grating_on_paper_is_its_own_strength_and_repeats_wholly(period, down):
  got = artifacts.plain(PAPER + np.float32(0.1) * grating(period, down), PAPER)
  gain = 1 - np.sum(TAPS * np.cos(2 * np.pi * np.arange(-10, 11) / period))
  if not down:  # else it has structure on the left, too, where nothing is measured
    np.testing.assert_allclose(got.marks, 0.1 / np.sqrt(2) * gain, rtol=0.03)
  assert 0.9 < got.rows <= 1


@pytest.mark.slow
def test_grain_on_paper_is_marks_that_do_not_repeat():
  got = artifacts.plain(noisy(PAPER, 0.05, 2), PAPER)
  # The energy of a single pixel minus its blur, after luma.
  gain = np.sqrt(
    (1 - 2 * TAPS[10] ** 2 + np.sum(TAPS**2) ** 2) * np.sum(np.square([0.299, 0.587, 0.114]))
  )
  np.testing.assert_allclose(got.marks, 0.05 * gain, rtol=0.05)
  assert got.rows < 0.15


@pytest.mark.slow
def test_paper_that_stays_paper_has_no_marks_whatever_is_beside_it():
  for stylized in (PAPER, 1 - PAPER, np.where(COLUMN < 20, 0.9, PAPER), PAPER * [0.5, 1, 0.2]):
    got = artifacts.plain(np.asarray(stylized, np.float32), PAPER)
    np.testing.assert_allclose(got.marks, 0, atol=2e-3)
    assert got.rows < 0.1


@pytest.mark.slow
def test_marks_that_cannot_be_seen_do_not_repeat():
  assert artifacts.plain(PAPER + np.float32(2e-4) * grating(12), PAPER).rows < 0.1


def test_a_halo_is_its_difference_in_color():
  # Plain pixels begin about 6 columns after the structure, near ones end 12 further on, and those
  # that are away begin another 12 further on.
  glow = (COLUMN < 30 + 30) * np.array([0.3, 0, 0], np.float32)
  got = artifacts.plain(np.asarray(PAPER + glow, np.float32), PAPER)
  np.testing.assert_allclose(got.halo, 0.3 / np.sqrt(3), rtol=0.05)
  np.testing.assert_allclose(artifacts.plain(PAPER + np.float32(0.2), PAPER).halo, 0, atol=1e-5)
  own = np.asarray(PAPER + glow * 0.01, np.float32)  # what the photograph has itself
  np.testing.assert_allclose(artifacts.plain(own, own).halo, 0, atol=1e-5)


def test_a_content_without_plain_surfaces_has_no_numbers():
  busy = noisy(np.full((WIDE, WIDE, 3), 0.5, np.float32), 0.1)
  assert all(np.isnan(value) for value in artifacts.plain(busy, busy))
  flat = np.full_like(PAPER, 0.5)
  got = artifacts.plain(flat, flat)  # nothing is near structure
  assert got.marks == 0 and got.rows == 0 and np.isnan(got.halo)


# Palette and flicker.


def test_palettes_differ_by_the_share_of_pixels_of_other_colors():
  style = np.zeros((20, 20, 3), np.float32)
  for share in (0, 0.25, 1):
    stylized = style.copy()
    stylized.reshape(-1, 3)[: int(400 * share)] = 1, 0, 1
    np.testing.assert_allclose(artifacts.palette(stylized, style), share, atol=1e-6)
    turned = np.tile(stylized[::-1], (2, 3, 1))  # neither place nor size matters
    np.testing.assert_allclose(artifacts.palette(turned, style), share, atol=1e-6)


def test_a_color_between_two_is_shared_by_them():
  style, stylized = np.full((2, 8, 8, 3), 3 / 7, np.float32)
  stylized[..., 1] = 3.25 / 7
  np.testing.assert_allclose(artifacts.palette(stylized, style), 0.25, atol=1e-5)
  np.testing.assert_allclose(artifacts.palette(style, stylized), 0.25, atol=1e-5)


def test_flicker_is_the_mean_difference_of_two_outputs():
  first, second = np.full((2, 4, 4, 3), 0.5, np.float32)
  second[:2] += 0.1
  np.testing.assert_allclose(artifacts.flicker(first, second), 0.05, rtol=1e-5)
