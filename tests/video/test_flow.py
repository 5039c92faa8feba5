"""Flow finds known motion, and blending removes noise without leaving ghosts."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from adaconv_jax.video import steady
from adaconv_jax.video.flow import compose, optical_flow, warp_linear, warp_spline


def texture(seed, size=96):
  noise = np.random.default_rng(seed).standard_normal((size, size))
  smooth = ndimage.gaussian_filter(noise, 2.5)
  return np.clip(0.5 + 0.2 * smooth / smooth.std(), 0, 1).astype(np.float32)


def moved(picture, dy, dx):
  return ndimage.shift(picture, (dy, dx), order=3, mode="reflect")


@pytest.mark.parametrize(
  "motion",
  [
    pytest.param((0.4, -0.3), marks=pytest.mark.slow),
    (2.6, 1.3),
    pytest.param((-7.0, 4.5), marks=pytest.mark.slow),
  ],
)
def test_flow_of_a_shift_is_the_shift_back(motion):
  picture = texture(0)
  flow = np.asarray(optical_flow(picture, jnp.asarray(moved(picture, *motion))))[:, 16:-16, 16:-16]
  errors = np.hypot(flow[0] + motion[0], flow[1] + motion[1])
  assert np.median(errors) < 0.1


@pytest.mark.parametrize(("warp", "order"), [(warp_linear, 1), (warp_spline, 3)])
def test_warps_sample_splines_where_the_flow_points(warp, order):
  rng = np.random.default_rng(0)
  y, x = np.mgrid[:20, :30]
  flow = rng.uniform(-2, 2, (2, 20, 30)).astype(np.float32)
  noise = rng.random((20, 30, 3)).astype(np.float32)
  places = [y + flow[0], x + flow[1]]
  expected = np.stack(
    [
      ndimage.map_coordinates(c, places, order=order, mode="mirror")
      for c in noise.transpose(2, 0, 1)
    ],
    -1,
  )
  inner = np.s_[4:-4, 4:-4]  # where no place is beyond the border
  np.testing.assert_allclose(warp(noise, flow)[inner], expected[inner], atol=1e-3)
  np.testing.assert_allclose(warp(noise[..., 0], flow), warp(noise, flow)[..., 0], atol=1e-5)
  plain = np.full((20, 30), 0.7, np.float32)
  np.testing.assert_allclose(warp(plain, flow), plain, atol=1e-6)


def test_composed_flows_lead_where_one_after_the_other_leads():
  first, second = (jnp.full((2, 9, 12), step) for step in (1.5, -0.25))
  np.testing.assert_allclose(compose(first, second), first + second, atol=1e-6)
  y = jnp.broadcast_to(jnp.arange(9.0)[:, None], (9, 12))
  grows = jnp.stack([y, 0 * y])  # from row y to row 2 y
  np.testing.assert_allclose(compose(grows, second)[0, 2:-2], (y - 0.5)[2:-2], atol=1e-5)


def colored(picture):
  return np.repeat(picture[..., None], 3, -1)


def two(before, now, share: Any = 0.5):
  first = steady.begin(jnp.asarray(before))
  return steady.follow(first, jnp.asarray(now), jnp.float32(share))


@pytest.mark.slow
def test_noise_is_averaged_along_the_motion_in_frames_and_in_pictures():
  still, rng = texture(0), np.random.default_rng(0)
  clean = [colored(picture) for picture in (still, moved(still, 1.5, -2.0))]
  noisy = [np.clip(x + rng.normal(0, 0.04, x.shape), 0, 1).astype(np.float32) for x in clean]
  followed = two(*noisy)
  last = steady.Painted(jnp.asarray(noisy[0]), jnp.asarray(noisy[0]))
  painted, _ = steady.blend(followed, last, jnp.asarray(noisy[1]), jnp.float32(0.5))
  inner = np.s_[12:-12, 12:-12]
  noise = (noisy[1] - clean[1])[inner].std()
  for picture in (followed.frame, painted.mixture):  # two equal shares of independent noise: 0.71
    assert (np.asarray(picture) - clean[1])[inner].std() < 0.85 * noise


@pytest.mark.parametrize("period", [8, 17])
def test_what_surrounds_a_frame_goes_on_without_a_ridge(period):
  y, x = np.meshgrid(np.arange(60), np.arange(80), indexing="ij")
  sky = colored(np.float32(0.8 - 0.004 * y + 0.001 * x))
  padded = np.asarray(steady.on_grid(steady.begin(jnp.asarray(sky)), period))
  np.testing.assert_array_equal(padded[:60, :80], sky)
  # A mirrored sky would become lighter again: by the same, where this becomes darker.
  below = padded[60:, 20:60].mean((1, 2))
  assert np.all(np.diff(below) < 0) and below[-1] < sky[-1, 20:60].mean() - 0.002 * period


@pytest.mark.slow
def test_the_motion_is_that_of_what_has_structure():
  rng = np.random.default_rng(0)
  picture = rng.normal(0.5, 0.01, (96, 160)).astype(np.float32)
  picture[:, 110:] = texture(0, 96)[:, :50]
  picture[40:44, :100] = 0.9  # along a line, its motion cannot be seen
  frames = [picture, np.roll(picture, -3, 1)]
  followed = two(*(colored(frame) for frame in frames))
  np.testing.assert_allclose(followed.drift, (0, -3), atol=0.3)


def test_what_moves_along_a_border_is_followed_up_to_it():
  h, w = 60, 80
  before = now = jnp.full((h, w, 3), 0.5)
  for y, x in ((-0.3, 0.2), (0.4, -0.4)):
    flow = jnp.broadcast_to(jnp.array([[[y]], [[x]]], jnp.float32), (2, h, w))
    same = np.asarray(steady.agreement(before, now, flow))
    for line in (same[0], same[-1], same[:, 0], same[:, -1]):
      assert np.median(line) > 0.9
  away = jnp.broadcast_to(jnp.array([[[0.0]], [[6.0]]], jnp.float32), (2, h, w))
  assert np.asarray(steady.agreement(before, now, away))[:, -5:].max() == 0


@pytest.mark.slow
def test_what_appears_leaves_no_ghost_of_what_was_there():
  before, now = colored(texture(0)), colored(texture(0))
  now = now.copy()
  now[30:70, 30:70] = 1.0 - now[30:70, 30:70]
  followed = two(before, now, 0.9)
  painted, shown = steady.blend(
    followed,
    steady.Painted(jnp.asarray(before), jnp.asarray(before)),
    jnp.asarray(now),
    jnp.float32(0.9),
  )
  for picture in (followed.frame, painted.mixture, shown):
    assert np.mean(np.abs(np.asarray(picture) - now)[36:64, 36:64]) < 0.02


@pytest.mark.slow
def test_marks_move_along_with_the_picture_for_many_frames_and_stay_sharp():
  big, rng, speed = texture(0, 160), np.random.default_rng(0), np.array([0.6, -1.3])
  followed, last, frames, mixtures = None, None, [], []
  for t in range(26):
    frame = jnp.asarray(colored(moved(big, *(speed * t))[32:128, 32:128]))
    followed = (
      steady.begin(frame) if followed is None else steady.follow(followed, frame, jnp.float32(0.9))
    )
    # Every frame is painted with marks of its own.
    picture = jnp.asarray(rng.random((96, 96, 3)), jnp.float32)
    last = steady.Painted(picture, picture) if last is None else last
    last, _ = steady.blend(followed, last, picture, jnp.float32(0.9))
    frames.append(frame)
    mixtures.append(last.mixture)
  inner = np.s_[16:-16, 36:-36]
  for first, later in ((5, 15), (15, 25)):  # an anchor is replaced in between
    shift = speed * (later - first)
    back = jnp.broadcast_to(jnp.asarray(-shift, jnp.float32).reshape(2, 1, 1), (2, 96, 96))
    for pictures, least in ((frames, 0.99), (mixtures, 0.8)):
      warped = np.asarray(warp_spline(pictures[first], back))[inner].ravel()
      assert np.corrcoef(warped, np.asarray(pictures[later])[inner].ravel())[0, 1] > least
  marks = [np.asarray(mixture)[inner].std() for mixture in mixtures]
  assert marks[25] > 0.55 * marks[0]  # of white noise, the finest marks there are


@pytest.mark.slow
@pytest.mark.parametrize("period", [8, 17, 5])
@pytest.mark.parametrize("speed", [(0.0, 0.0), (1.4, -2.3), (-0.3, 0.1)])
def test_the_grid_moves_along_with_the_picture(speed, period):
  big = texture(0, 160)
  followed, places = None, []
  for t in range(8):
    frame = colored(moved(big, speed[0] * t, speed[1] * t)[32:128, 32:128])
    followed = (
      steady.begin(frame)
      if followed is None
      else steady.follow(followed, frame, jnp.float32(0.3), period)
    )
    padded = np.asarray(steady.on_grid(followed, period))
    assert padded.shape == (96 + period, 96 + period, 3)
    np.testing.assert_allclose(steady.off_grid(followed, padded), followed.frame)
    # Where in the network's grid a mark is that was at 0 at first.
    at = np.asarray(followed.grid) + np.array(speed) * t
    places.append((at + period / 2) % period - period / 2)
  assert np.abs(places).max() < 1.3


@pytest.mark.slow
def test_pale_marks_get_the_contrast_of_the_picture_and_others_stay():
  picture = jnp.asarray(colored(texture(1)))
  mean = np.mean(picture)
  pale = mean + 0.7 * (picture - mean)
  assert np.abs(steady.restore_contrast(picture, picture) - picture).max() < 1e-5
  shown = steady.restore_contrast(pale, picture)
  contrasts = [float((x - x.mean()).std()) for x in (shown, pale, picture)]
  assert contrasts[1] < contrasts[0] <= 1.05 * contrasts[2]
