"""The clips of `benchmarks.flicker` move as they say, and the measure sees what flickers."""

import numpy as np
import pytest

from benchmarks.clips import make_clips
from benchmarks.flicker import Flows, dis_flow, exact_flow, warp


@pytest.fixture(scope="module")
def clips():
  return make_clips(14, 64, grain=0)


def test_warped_frames_equal_later_ones_where_these_show_the_same(clips):
  for clip in clips:
    for distance in (3, 10):  # the zoom's motion from one frame to the next is below a pixel's half
      places, seen = clip.flow(2, 2 + distance)
      assert 0.3 < seen.mean() <= 1
      here, later = (clip.frames[k] / 255 for k in (2, 2 + distance))
      moved = np.abs(warp(here, places) - later)[seen].mean()
      assert moved < 0.6 * np.abs(here - later)[seen].mean()


def test_what_an_object_hides_is_left_out(clips):
  clip = clips[2]
  assert clip.labels.any() and not clip.labels.all()
  _, seen = clip.flow(0, 10)
  hidden = (clip.labels[10] == 0) & ~seen
  assert hidden.sum() > 20


def test_flicker_is_measured_and_motion_is_not(clips):
  clip = clips[0]
  still = Flows(clip, exact_flow)
  frames = clip.frames / 255
  flashing = frames * (1 - 0.2 * (np.arange(len(frames)) % 3 == 0)).reshape(-1, 1, 1, 1)
  calm, flicker = still.errors(frames), still.errors(flashing)
  assert flicker[0] > 2 * calm[0]
  gray = np.full_like(frames, 0.5)
  assert still.errors(gray) == (0, 0)


def test_estimated_flow_is_near_the_exact_one():
  pytest.importorskip("cv2", reason="DIS is OpenCV's")
  clip = make_clips(3, 128, grain=0)[0]
  estimated, seen = dis_flow(clip, 0, 1)
  exact, _ = clip.flow(0, 1)
  assert np.median(np.abs(estimated - exact).max(0)[seen]) < 0.3
