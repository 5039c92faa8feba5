"""Tools for the pictures of `make_styles.py`: noise, masks, lighting, brush strokes.

Colors are RGB in [0, 1]; pictures are float arrays [h, w, 3], maps [h, w]. x and y are in units
of the picture's height.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

Array = np.ndarray


def grid(width: int, height: int) -> tuple[Array, Array]:
  """Returns the coordinates x in [0, width / height] and y in [0, 1], top to bottom."""
  y, x = np.mgrid[0:height, 0:width] / height
  return x, y


def hexes(*codes: str) -> Array:
  """Turns color codes such as "ffcc00" into RGB rows."""
  return np.array([[int(code[i : i + 2], 16) / 255 for i in (0, 2, 4)] for code in codes])


def ramp(values: Array, colors: Array) -> Array:
  """Looks up `values` in [0, 1] on a smooth scale through `colors`."""
  stops = np.linspace(0, 1, len(colors))
  return np.stack([np.interp(values, stops, colors[:, c]) for c in range(3)], -1)


def mix(below: Array, above: Array, mask: Array) -> Array:
  """Lays the color or picture `above` over `below` where `mask` is 1."""
  return below + (above - below) * mask[..., None]


def noise(
  rng: np.random.Generator, shape: tuple[int, int], cells: float, octaves: int = 4
) -> Array:
  """Returns smooth noise of about zero mean and unit deviation, `cells` waves to the height."""
  total = np.zeros(shape)
  for octave in range(octaves):
    rows = max(2, int(cells * 2**octave))
    coarse = rng.standard_normal((rows, max(2, rows * shape[1] // shape[0]))).astype(np.float32)
    size = (shape[1], shape[0])
    total += np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)) / 2**octave
  return (total - total.mean()) / total.std()


def blur(values: Array, radius: float) -> Array:
  """Blurs a map with a Gaussian."""
  reach = int(3 * radius) + 1
  weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / radius) ** 2)
  weights /= weights.sum()
  for axis in (0, 1):
    pad = [(reach, reach) if axis == k else (0, 0) for k in (0, 1)]
    padded, size = np.pad(values, pad, mode="edge"), values.shape[axis]
    values = sum(wt * np.take(padded, range(k, k + size), axis) for k, wt in enumerate(weights))
  return values


def smoothstep(values: Array, low: float, high: float) -> Array:
  """Rises from 0 at `low` to 1 at `high`."""
  t = np.clip((values - low) / (high - low), 0, 1)
  return t * t * (3 - 2 * t)


def to_image(rgb: Array) -> Image.Image:
  """Rounds RGB in [0, 1] to a picture."""
  return Image.fromarray((np.clip(rgb, 0, 1) * 255 + 0.5).astype(np.uint8))


def to_array(image: Image.Image) -> Array:
  """The inverse of `to_image`."""
  return np.asarray(image, np.float64) / 255


def code(color: Array) -> tuple[int, ...]:
  """Turns RGB in [0, 1] into Pillow's color."""
  return tuple(int(v) for v in np.clip(color, 0, 1) * 255 + 0.5)


def relief(rgb: Array, height: Array, strength: float) -> Array:
  """Lights the surface `height` from the upper left."""
  dy, dx = np.gradient(height)
  return rgb * (1 + strength * np.clip(dx + dy, -1.2, 1.2)[..., None])


def canvas(rng: np.random.Generator, rgb: Array, strength: float = 0.03) -> Array:
  """Adds the weave of a linen canvas."""
  h, w = rgb.shape[:2]
  y, x = np.mgrid[0:h, 0:w]
  weave = np.sin(x * 1.3) * np.sin(y * 1.3) + 0.7 * noise(rng, (h, w), h / 6, 1)
  return rgb * (1 + strength * weave[..., None])


def paint(
  rng: np.random.Generator,
  target: Array,
  angle: Array,
  layers: Sequence[tuple[float, float, float]],
  jitter: float = 0.06,
  strength: float = 1.6,
) -> Array:
  """Paints `target` with bristled strokes that follow the directions `angle`.

  Args:
    rng: source of the stroke positions and colors.
    target: the picture to paint.
    angle: direction of the strokes at every pixel, in radians.
    layers: (width, length, density) of each layer of strokes, coarse to fine, in pixels; at
      density 1 the strokes just cover the picture.
    jitter: deviation of the strokes' colors.
    strength: how strongly the relief of the paint is lit.
  """
  h, w = angle.shape
  image, depth = to_image(target * 0.75), Image.new("L", (w, h), 90)
  draw, draw_depth = ImageDraw.Draw(image), ImageDraw.Draw(depth)
  for width, length, density in layers:
    for _ in range(int(density * w * h / (width * length))):
      x, y = rng.uniform(0, w), rng.uniform(0, h)
      color = target[int(y), int(x)] + jitter * (rng.standard_normal() + rng.standard_normal(3))
      points = [(x, y)]
      for _ in range(6):
        theta = angle[min(max(int(y), 0), h - 1), min(max(int(x), 0), w - 1)]
        x, y = x + np.cos(theta) * length / 6, y + np.sin(theta) * length / 6
        points.append((x, y))
      path = np.array(points)
      normal = np.array([-np.sin(theta), np.cos(theta)])
      bristles = max(3, int(width / 2))
      for offset in np.linspace(-0.5, 0.5, bristles):
        shade = color + 0.6 * jitter * rng.standard_normal()
        start = int(rng.integers(0, 2))
        line = [
          tuple(p) for p in path[start : 7 - int(rng.integers(0, 2))] + normal * offset * width
        ]
        thick = max(1, round(width / bristles + 1))
        draw.line(line, fill=code(shade), width=thick, joint="curve")
        draw_depth.line(line, fill=int(rng.integers(60, 220)), width=thick, joint="curve")
  return relief(to_array(image), blur(to_array(depth), 1.0) * 1.0, strength)
