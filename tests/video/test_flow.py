"""Flow finds known motion, and blending removes noise without leaving ghosts."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from adaconv_jax.video import steady
from adaconv_jax.video.flow import optical_flow, warp_cubic, warp_linear


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


@pytest.mark.parametrize("warp, order", [(warp_linear, 1), (warp_cubic, None)])
def test_warps_sample_where_the_flow_points(warp, order):
  rng = np.random.default_rng(0)
  y, x = np.mgrid[:20, :30]
  ramp = np.stack([y, x, y + x], -1).astype(np.float32)
  flow = rng.uniform(-2, 2, (2, 20, 30)).astype(np.float32)
  expected = np.stack([y + flow[0], x + flow[1], y + x + flow.sum(0)], -1)
  inner = np.s_[4:-4, 4:-4]  # both reproduce what is linear
  np.testing.assert_allclose(warp(ramp, flow)[inner], expected[inner], atol=1e-4)
  if order is not None:
    noise = rng.random((20, 30)).astype(np.float32)
    expected = ndimage.map_coordinates(noise, [y + flow[0], x + flow[1]], order=1, mode="nearest")
    np.testing.assert_allclose(warp(noise, flow), expected, atol=1e-4)


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
  mixture, _ = steady.blend(followed, noisy[0], jnp.asarray(noisy[1]), jnp.float32(0.5))
  inner = np.s_[12:-12, 12:-12]
  noise = (noisy[1] - clean[1])[inner].std()
  for picture in (followed.frame, mixture):  # two equal shares of independent noise: 0.71
    assert (np.asarray(picture) - clean[1])[inner].std() < 0.85 * noise


@pytest.mark.slow
def test_what_appears_leaves_no_ghost_of_what_was_there():
  before, now = colored(texture(0)), colored(texture(0))
  now = now.copy()
  now[30:70, 30:70] = 1.0 - now[30:70, 30:70]
  followed = two(before, now, 0.9)
  shown = steady.blend(followed, before, jnp.asarray(now), jnp.float32(0.9))
  for picture in (followed.frame, *shown):
    assert np.mean(np.abs(np.asarray(picture) - now)[36:64, 36:64]) < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("speed", [(0.0, 0.0), (1.4, -2.3), (-0.3, 0.1)])
def test_the_grid_moves_along_with_the_picture(speed):
  big = texture(0, 160)
  followed, places = None, []
  for t in range(8):
    frame = colored(moved(big, speed[0] * t, speed[1] * t)[32:128, 32:128])
    followed = (
      steady.begin(frame) if followed is None else steady.follow(followed, frame, jnp.float32(0.3))
    )
    padded = np.asarray(steady.on_grid(followed))
    np.testing.assert_allclose(steady.off_grid(followed, padded), followed.frame)
    # Where in the network's grid a mark is that was at 0 at first.
    at = np.asarray(followed.grid) + np.array(speed) * t
    places.append((at + 4) % 8 - 4)
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
