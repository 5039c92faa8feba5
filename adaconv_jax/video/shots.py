"""Shots: where a video cuts to another picture."""

import collections
import statistics

import numpy as np

GRID = 16  # a frame is compared by the means of this many fields down and across
# Mean difference of two frames, in a range of 1, from which on there may be a cut; and how many
# times that of the frames before it has to be, because a fast pan has large ones all the time.
LEAST = 0.08
TIMES = 4
# Frames whose differences are the usual ones.
MEMORY = 8


class Cuts:
  """Finds cuts in frames that come one after the other."""

  def __init__(self):
    self._last: np.ndarray | None = None
    self._usual = collections.deque([LEAST / TIMES], maxlen=MEMORY)

  def at(self, frame: np.ndarray) -> bool:
    """Whether a shot begins with this frame `[h, w, 3]`, uint8 or float in [0, 1].

    The first frame begins one. A flash counts as two cuts, and a very fast pan begins with one.
    """
    small = _shrink(frame)
    last, self._last = self._last, small
    if last is None:
      return True
    difference = float(np.abs(small - last).mean())
    usual = statistics.median(self._usual)
    self._usual.append(difference)
    return difference > max(LEAST, TIMES * usual)


def _shrink(frame: np.ndarray) -> np.ndarray:
  """Means over fields of the frame, in a range of 1."""
  sides = [max(side // GRID, 1) for side in frame.shape[:2]]
  # Every fourth line is enough for a mean over a large field.
  strides = [max(side // 8, 1) for side in sides]
  h, w = (min(GRID * side, size) for side, size in zip(sides, frame.shape[:2], strict=True))
  part = frame[: h - h % sides[0] : strides[0], : w - w % sides[1] : strides[1]]
  small = part.astype(np.float32)
  rows, columns = (max(n // GRID, 1) for n in small.shape[:2])
  small = small[: small.shape[0] // rows * rows, : small.shape[1] // columns * columns]
  small = small.reshape(small.shape[0] // rows, rows, small.shape[1] // columns, columns, 3)
  return small.mean((1, 3)) / (255 if frame.dtype == np.uint8 else 1)
