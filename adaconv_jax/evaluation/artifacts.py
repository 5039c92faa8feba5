"""Scores of common artifacts in stylized pictures.

Each is a pure function of images `[h, w, 3]`, RGB in [0, 1], of one size (a style may have another
size), at least `MIN_SIZE` pixels high and wide. They compare with the content or the style, because
strokes, dark styles and sharp photographs have similar features themselves. The definitions are
this project's own. Comments mark constants that are choices, not derived.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from adaconv_jax.ops.filters import Array, gaussian, separable, to_gray

MIN_SIZE = 64  # leaves room between the frames of `border` and between the profiles of `halo`

# Binomial coefficients: a bell of 17 pixels; in frequency cos(w / 2)^16, which is one half at a
# period of 11 pixels. Alternating signs move it to the Nyquist frequency (a period of 2), where it
# is one half at a period of 2.5.
_LOW = np.array([math.comb(16, k) for k in range(17)]) / 2**16
_NYQUIST = _LOW * (-1.0) ** np.arange(17)
# Energy of rounding to 8 bits after these filters: (1 / 255)^2 / 12 times their gain and LUMA's.
_ROUNDING_ENERGY = 1e-8

# `halo`: the content's step that makes an edge, and the overshoot that the content may have there;
# distances from the edge, in pixels. All are choices.
_EDGE, _PLAIN = 0.2, 0.05
_NEAR, _FAR = range(3, 7), range(9, 15)

# `plain`: structure with periods up to about 25 pixels, which dashes and strokes have; the RMS of
# it in the content up to which it is plain, 2.5 levels of 255; the least share of the picture that
# a mean is taken over; displacements in which marks repeat, of which every period up to 24 has a
# multiple; and distances from structure, in pixels. All are choices.
_BAND = gaussian(4, 10)
_PLAIN_RMS = 0.01
_LEAST_SHARE = 0.01
_LAGS = range(8, 25)
_BESIDE, _AWAY = 12, 24
# `palette`: colors per channel. Neighboring ones share the pixels between them.
_COLORS = 8


class Checkerboard(NamedTuple):
  """Decibels per direction; see `checkerboard`."""

  horizontal: jax.Array
  vertical: jax.Array
  both: jax.Array


class Border(NamedTuple):
  """How much a frame differs from the rest; see `border`."""

  color: jax.Array
  roughness: jax.Array


class Dullness(NamedTuple):
  """Differences from the style; see `dullness`."""

  saturation: jax.Array
  contrast: jax.Array


class Plain(NamedTuple):
  """What is painted where the content is plain; see `plain`."""

  marks: jax.Array
  rows: jax.Array
  halo: jax.Array


def checkerboard(stylized: Array, content: Array) -> Checkerboard:
  """Compares the energy of gray at the Nyquist frequencies with the content's, in decibels.

      10 log10((E(stylized) + e) / (E(content) + e)),  E = mean square of the filtered gray

  The filter keeps periods of 2 pixels in horizontal direction (vertical stripes), in vertical
  direction, or in both at once (a checkerboard). e is about the energy of rounding to 8 bits.
  Upsampling in decoders makes such patterns.

  Returns:
    0 if the stylized picture has as much as the content, 10 and 20 for ten and a hundred times as
    much. Strokes raise all three somewhat, so compare models on the same pairs.
  """
  directions = ((_LOW, _NYQUIST), (_NYQUIST, _LOW), (_NYQUIST, _NYQUIST))
  energies = [
    [jnp.mean(separable(to_gray(image) - 0.5, *taps) ** 2) for taps in directions]
    for image in (stylized, content)
  ]
  ratios = [
    10 * jnp.log10((ours + _ROUNDING_ENERGY) / (theirs + _ROUNDING_ENERGY))
    for ours, theirs in zip(*energies, strict=True)
  ]
  return Checkerboard(*ratios)


def border(stylized: Array, content: Array, *, width: int = 16) -> Border:
  """Measures how much a frame at the border differs from the rest, more than in the content.

  On each of the four sides, three adjacent bands of `width` pixels are compared, from outside to
  inside: frame, band and inside. x is (frame - band) - (band - inside), which is 0 if nothing
    changes from one to the next, or if it changes evenly. The same value for the content is
    subtracted. Padding in encoder or decoder makes frames.

  Returns:
    color: x of the mean RGB, as root mean square over sides and channels, in units of [0, 1].
    roughness: x of the log2 of the root mean square difference of neighboring gray pixels, as
      mean over sides: 1 is a frame twice as rough as expected, -1 half as rough.
    Both are negative if the output has less of it than the content, as a flat output does.
  """
  ours, theirs = _frame(stylized, width), _frame(content, width)
  return Border(ours.color - theirs.color, ours.roughness - theirs.roughness)


def _frame(image: Array, width: int) -> Border:
  colors, roughness = [], []
  for turns in range(4):
    side = jnp.rot90(image, turns)[: 3 * width, width:-width]
    bands = side.reshape(3, width, *side.shape[1:])
    colors.append(jnp.diff(bands.mean((1, 2)), 2, axis=0))
    roughness.append(jnp.diff(jnp.log2(jnp.stack([_roughness(band) for band in bands])), 2))
  return Border(jnp.sqrt(jnp.mean(jnp.stack(colors) ** 2)), jnp.mean(jnp.stack(roughness)))


def _roughness(image: Array) -> jax.Array:
  gray = to_gray(image)
  squares = jnp.mean(jnp.diff(gray, axis=0) ** 2) + jnp.mean(jnp.diff(gray, axis=1) ** 2)
  return jnp.sqrt(squares + 1 / 255**2)  # a step of 8 bits, so flat parts have a finite logarithm


def dullness(stylized: Array, style: Array) -> Dullness:
  """Measures how gray and how flat the stylized picture is: its values minus the style's.

  Returns:
    saturation: of the mean of max(R, G, B) - min(R, G, B).
    contrast: of the standard deviation of gray.
    Both are in units of [0, 1]. Negative values mean a gray veil, positive ones garish colors.
  """

  def saturation(image: Array) -> jax.Array:
    return jnp.mean(jnp.max(image, -1) - jnp.min(image, -1))

  return Dullness(
    saturation(stylized) - saturation(style), to_gray(stylized).std() - to_gray(style).std()
  )


def halo(stylized: Array, content: Array) -> jax.Array:
  """Measures the output's overshoot at strong edges of the content that have none themselves.

  An edge is a local maximum, along a row or a column, of the content's gray difference over 5
  pixels, of at least 0.2. Across it, on both sides, gray is averaged near (3 to 6 pixels away) and
  far (9 to 14). Overshoot is how far the near averages are outside the range of the far ones, as
  for a bright or dark seam, but not for a blurred edge. Edges where the content itself overshoots
  by more than 0.05 are excluded. Outlines and strokes that belong to a style also raise it, so
  compare models on the same pairs and look at the pictures.

  Returns:
    The mean over all these edges, at least 0, in units of [0, 1]; NaN if there are none.
  """
  total, count = jnp.zeros(()), jnp.zeros(())
  gray, reference = to_gray(stylized), to_gray(content)
  for output, photo in ((gray, reference), (gray.T, reference.T)):
    edges = _edges(photo) & (_overshoot(photo) <= _PLAIN)
    total += jnp.sum(_overshoot(output) * edges)
    count += jnp.sum(edges)
  return total / count  # 0 / 0 is NaN


def _shifted(gray: jax.Array, by: int) -> jax.Array:
  """Returns `gray[y, x + by]` for the columns x whose whole profile is inside the picture."""
  margin = _FAR[-1]
  return gray[:, margin + by : gray.shape[1] - margin + by]


def _edges(gray: jax.Array) -> jax.Array:
  def step(by: int) -> jax.Array:
    return jnp.abs(_shifted(gray, by + 2) - _shifted(gray, by - 2))

  here = step(0)
  largest = jnp.stack([step(by) for by in (-2, -1, 1, 2)]).max(0)
  return (here >= _EDGE) & (here >= largest)


def _overshoot(gray: jax.Array) -> jax.Array:
  def sides(distances: range) -> jax.Array:
    return jnp.stack(
      [sum(_shifted(gray, sign * d) for d in distances) / len(distances) for sign in (-1, 1)]
    )

  near, far = sides(_NEAR), sides(_FAR)
  above = jnp.maximum(near.max(0) - far.max(0), 0)
  below = jnp.maximum(far.min(0) - near.min(0), 0)
  return above + below


def clipped(stylized: Array) -> jax.Array:
  """Returns the share of pixels with a channel at or beyond 0 or 1, where details are lost."""
  return jnp.mean(jnp.any((stylized <= 0) | (stylized >= 1), -1))


def plain(stylized: Array, content: Array) -> Plain:
  """Measures what is painted on plain surfaces of the content, such as skies, walls and paper.

  Structure is gray minus its blur with a sigma of 4 pixels. A pixel is plain if the content's
  structure around it is at most 0.01 as root mean square.

  Returns:
    marks: root mean square of the output's structure over plain pixels, minus the content's, in
      units of [0, 1]. A style's brush marks raise it, too; compare models on the same pairs.
    rows: how far these marks repeat, as rows of dashes do: the largest correlation of the output's
      structure with itself, 8 to 24 pixels further right or down. 1 is a perfect pattern, 0 none;
      marks below a level of 255 count as none.
    halo: difference in mean color between plain pixels within 12 pixels of structure and those
      beyond 24, minus the content's, as root mean square over the channels, in units of [0, 1].
    NaN where less than a hundredth of the picture is plain, or near, or far.
  """
  ours, theirs = (_structure(to_gray(image)) for image in (stylized, content))
  energy = separable(theirs**2, _LOW, _LOW)
  flat = energy <= _PLAIN_RMS**2
  ours, theirs = (_cut(high, flat) for high in (ours, theirs))
  marks = [jnp.sqrt(_mean_over(high**2, flat)) for high in (ours, theirs)]
  rows = jnp.stack([_repetition(*turned) for turned in ((ours, flat), (ours.T, flat.T))]).max()
  beside = flat & _within(~flat, _BESIDE)
  away = flat & ~_within(~flat, _AWAY)
  halos = [
    jnp.stack([_mean_over(c, beside) - _mean_over(c, away) for c in jnp.moveaxis(cut, -1, 0)])
    for cut in (_cut(jnp.asarray(image), flat) for image in (stylized, content))
  ]
  halo = jnp.sqrt(jnp.mean((halos[0] - halos[1]) ** 2))
  return Plain(marks[0] - marks[1], jnp.where(jnp.isnan(marks[0]), jnp.nan, rows), halo)


def _structure(gray: jax.Array) -> jax.Array:
  return _cut(gray, blurred := separable(gray, _BAND, _BAND)) - blurred


def _cut(image: jax.Array, inner: jax.Array) -> jax.Array:
  """Returns the middle of `[h, w, ...]` that filters have left in `inner`."""
  top, left = ((there - here) // 2 for there, here in zip(image.shape, inner.shape, strict=False))
  return image[top : top + inner.shape[0], left : left + inner.shape[1]]


def _mean_over(values: jax.Array, where: jax.Array) -> jax.Array:
  enough = jnp.mean(where) >= _LEAST_SHARE
  return jnp.where(enough, jnp.sum(values * where) / jnp.maximum(jnp.sum(where), 1), jnp.nan)


def _repetition(high: jax.Array, flat: jax.Array) -> jax.Array:
  """Returns the largest correlation of plain pixels with those to their right, at least 0."""
  found = [jnp.zeros(())]
  for lag in _LAGS:
    pairs = flat[:, lag:] & flat[:, :-lag]
    left, right = (jnp.where(pairs, x, 0) for x in (high[:, :-lag], high[:, lag:]))
    # A level of 255 is added to the deviations, so rounding has no pattern.
    deviation = jnp.sqrt(jnp.sum(left**2) * jnp.sum(right**2)) + jnp.sum(pairs) / 255**2
    correlation = jnp.sum(left * right) / jnp.maximum(deviation, 1e-12)
    found.append(jnp.where(jnp.mean(pairs) >= _LEAST_SHARE, correlation, 0))
  return jnp.stack(found).max()


def _within(mask: jax.Array, distance: int) -> jax.Array:
  """Returns which pixels have one of `mask` within a square of that many pixels around them."""
  window = (2 * distance + 1,) * 2
  grown = jax.lax.reduce_window(mask.astype(jnp.float32), 0.0, jax.lax.max, window, (1, 1), "SAME")
  return grown > 0


def palette(stylized: Array, style: Array) -> jax.Array:
  """Compares the colors of the output with the style's, wherever they are in the picture.

  Both have a histogram of 8 x 8 x 8 colors; a pixel between them is shared out in proportion.

  Returns:
    Half the sum of the absolute differences: 0 for the same colors in the same shares, 1 if they
    have none in common.
  """
  ours, theirs = _histogram(stylized), _histogram(style)
  return jnp.sum(jnp.abs(ours - theirs)) / 2


def _histogram(image: Array) -> jax.Array:
  pixels = jnp.clip(jnp.asarray(image).reshape(-1, 3), 0, 1) * (_COLORS - 1)
  distance = jnp.abs(pixels[..., None] - jnp.arange(_COLORS, dtype=pixels.dtype)[None, None])
  red, green, blue = jnp.moveaxis(jnp.maximum(1 - distance, 0), 1, 0)
  counts = jnp.einsum("pr,pg,pb->rgb", red, green, blue, precision="highest")
  return counts / pixels.shape[0]


def flicker(stylized: Array, again: Array) -> jax.Array:
  """Mean absolute difference of two outputs whose contents differ by noise, in units of [0, 1]."""
  return jnp.mean(jnp.abs(jnp.asarray(stylized) - jnp.asarray(again)))
