"""Clips of known motion, made of the photographs in `examples/`, with film grain.

The motion is exact, so the flow that warps a frame to another needs no estimate.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from PIL import Image
from scipy import ndimage

from benchmarks.inputs import ROOT

GRAIN = 0.03  # standard deviation of the noise of fast film, in a range of 1
GRAIN_SIZE = 0.7  # of the Gaussian that smooths it, in pixels
# Pixels beside the edge of a moving object are left out; their color is a mixture.
EDGE = 2

# Affine maps of pixels (x, y): a matrix `[2, 3]` from a frame to the photograph.
Motion = Callable[[int], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Clip:
  """Frames, and where every pixel was before.

  Attributes:
    name: what moves.
    frames: `[n, h, w, 3]`, uint8.
    layers: the motion of the photograph, and of an object before it.
    labels: which layer each pixel shows, `[n, h, w]`.
  """

  name: str
  frames: np.ndarray
  layers: tuple[Motion, ...]
  labels: np.ndarray

  def flow(self, earlier: int, later: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns where the pixels of a frame were in an earlier one.

    Returns:
      `[2, h, w]`, rows and columns in the earlier frame; and boolean `[h, w]`, where the pixel was
      visible there.
    """
    label = self.labels[later]
    h, w = label.shape
    y, x = np.mgrid[:h, :w].astype(float)
    places = np.zeros((2, h, w))
    for index, motion in enumerate(self.layers):
      m = _square(motion(earlier))
      total = np.linalg.inv(m) @ _square(motion(later))
      here = label == index
      places[1][here] = (total[0, 0] * x + total[0, 1] * y + total[0, 2])[here]
      places[0][here] = (total[1, 0] * x + total[1, 1] * y + total[1, 2])[here]
    inside = (places >= 0).all(0) & (places[0] <= h - 1) & (places[1] <= w - 1)
    there = [
      _sample(ndimage.minimum_filter(self.labels[earlier] == k, 2 * EDGE + 1), places)
      for k in range(len(self.layers))
    ]
    here = [ndimage.minimum_filter(label == k, 2 * EDGE + 1) for k in range(len(self.layers))]
    same = np.any([a & b for a, b in zip(there, here, strict=True)], axis=0)
    return places, inside & same


def _square(matrix: np.ndarray) -> np.ndarray:
  return np.vstack([matrix, [0, 0, 1]])


def _sample(mask: np.ndarray, places: np.ndarray) -> np.ndarray:
  return ndimage.map_coordinates(mask.astype(np.uint8), places, order=0).astype(bool)


def _pan(x: float, y: float, dx: float, dy: float) -> Motion:
  return lambda t: np.array([[1, 0, x + dx * t], [0, 1, y + dy * t]])


def _zoom(x: float, y: float, size: int, rate: float) -> Motion:
  def motion(t: int) -> np.ndarray:
    scale = rate**t
    offset = size / 2 * (1 - scale)
    return np.array([[scale, 0, x + offset], [0, scale, y + offset]])

  return motion


def make_clips(count: int, size: int, grain: float = GRAIN) -> list[Clip]:
  """Makes a pan, a zoom, and an object that moves before a pan.

  Args:
    count: frames of each.
    size: height and width.
    grain: standard deviation of the noise.
  """
  scale = size / 256
  palace, flower, cat = (_photo(name, size) for name in ("palace", "flower", "cat"))
  pan = _pan(20 * scale, 30 * scale, 2.3 * scale, 0.7 * scale)
  zoom = _zoom(60 * scale, 20 * scale, size, 0.992)
  mover = _pan(-20 * scale, -20 * scale, -3.4 * scale, 0.6 * scale)
  return [
    _film("pan", [(palace, pan)], count, size, grain, 0),
    _film("zoom", [(flower, zoom)], count, size, grain, 1),
    _film("object", [(palace, pan), (cat, mover)], count, size, grain, 2),
  ]


def _photo(name: str, size: int) -> Image.Image:
  image = Image.open(ROOT / "examples" / "content" / f"{name}.jpg").convert("RGB")
  # A margin to move in.
  factor = 1.4 * size / min(image.size)
  return image.resize([round(side * factor) for side in image.size], Image.Resampling.LANCZOS)


def _film(
  name: str,
  parts: list[tuple[Image.Image, Motion]],
  count: int,
  size: int,
  grain: float,
  seed: int,
) -> Clip:
  rng = np.random.default_rng(seed)
  frames, labels = [], []
  for t in range(count):
    frame = np.zeros((size, size, 3), np.float32)
    label = np.zeros((size, size), np.uint8)
    for index, (photo, motion) in enumerate(parts):
      picture = _look(photo, motion(t), size)
      where = np.ones((size, size), bool)
      if index:  # an ellipse around the middle of the photograph
        mask = Image.new("L", photo.size)
        mask.putdata((255 * _ellipse(photo.size)).ravel().tolist())
        where = _look(mask, motion(t), size) > 0.5
      frame[where], label[where] = picture[where], index
    noise = ndimage.gaussian_filter(rng.standard_normal(frame.shape), (GRAIN_SIZE, GRAIN_SIZE, 0))
    frame = frame + grain * noise / noise.std()
    frames.append(np.round(np.clip(frame, 0, 1) * 255).astype(np.uint8))
    labels.append(label)
  return Clip(name, np.stack(frames), tuple(motion for _, motion in parts), np.stack(labels))


def _ellipse(size: tuple[int, int]) -> np.ndarray:
  width, height = size
  y, x = np.mgrid[:height, :width]
  return ((x / width - 0.5) / 0.22) ** 2 + ((y / height - 0.5) / 0.3) ** 2 < 1


def _look(photo: Image.Image, matrix: np.ndarray, size: int) -> np.ndarray:
  # Pillow counts from the corner of the first pixel, a `Motion` from its middle.
  half = np.array([0.5, 0.5])
  shifted = matrix[:, 2] + half - matrix[:, :2] @ half
  data = [*matrix[0, :2], shifted[0], *matrix[1, :2], shifted[1]]
  made = photo.transform((size, size), Image.Transform.AFFINE, data, Image.Resampling.BICUBIC)
  return np.asarray(made, np.float32) / 255
