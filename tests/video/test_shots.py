"""Cuts are found, and motion and noise are none."""

import numpy as np
import pytest

from adaconv_jax.video.shots import Cuts


def cuts_in(frames):
  cuts = Cuts()
  return [index for index, frame in enumerate(frames) if cuts.at(frame)]


def picture(seed, height=90, width=120):
  rng = np.random.default_rng(seed)
  coarse = rng.integers(0, 255, (6, 8, 3))
  return np.kron(coarse, np.ones((height // 6, width // 8, 1))).astype(np.uint8)


def pan(seed, count, speed):
  wide = np.concatenate([picture(seed + k) for k in range(3)], axis=1)
  return [wide[:, speed * k : speed * k + 120] for k in range(count)]


def noisy(frame, seed):
  noise = np.random.default_rng(seed).normal(0, 12, frame.shape)
  return np.clip(frame + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("speed", [0, 1, 3])
def test_a_cut_is_found_in_motion_and_noise_and_nothing_else_is(speed):
  frames = pan(0, 12, speed) + pan(50, 12, speed)
  assert cuts_in(noisy(frame, k) for k, frame in enumerate(frames)) == [0, 12]


def test_a_fast_pan_is_at_most_one_cut_after_its_begin():
  assert len(cuts_in(pan(0, 18, 12))) <= 2


def test_a_fade_to_black_is_no_cut():
  frames = [(picture(0) * (1 - k / 24)).astype(np.uint8) for k in range(25)]
  assert cuts_in(frames) == [0]


def test_an_object_that_enters_is_no_cut():
  frames = [picture(0).copy() for _ in range(12)]
  for k, frame in enumerate(frames):
    frame[20:60, : 4 * k] = 255
  assert cuts_in(frames) == [0]


def test_floats_and_bytes_have_the_same_cuts():
  frames = pan(0, 4, 1) + pan(50, 4, 1)
  assert cuts_in(frames) == cuts_in([f.astype(np.float32) / 255 for f in frames]) == [0, 4]


@pytest.mark.parametrize("shape", [(1, 1), (3, 40), (17, 16), (1080, 1920)])
def test_frames_of_any_size_are_compared(shape):
  black, white = np.zeros((*shape, 3), np.uint8), np.full((*shape, 3), 255, np.uint8)
  assert cuts_in([black, black, white, white, black]) == [0, 2, 4]
