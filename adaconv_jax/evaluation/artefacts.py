"""What people complain of in stylized pictures, as numbers.

Each is a pure function of images `[h, w, 3]`, RGB in [0, 1], of one size (a style may have
another), at least `MIN_SIZE` pixels high and wide. They are measured against the content or the
style, because strokes, dark styles and sharp photographs have much of the same on their own. The
definitions are this project's; where a constant is a choice and not derived, the text says so.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from adaconv_jax.ops.filters import Array, separable, to_gray

MIN_SIZE = 64  # holds the frames of `border` and the profiles of `halo` with room between them

# Binomial coefficients: a bell of 17 pixels; in frequency cos(w / 2)^16, which is a half at a
# period of 11 pixels. With alternating signs it moves to the Nyquist frequency (a period of 2) and
# is a half at a period of 2.5.
_LOW = np.array([math.comb(16, k) for k in range(17)]) / 2**16
_NYQUIST = _LOW * (-1.0) ** np.arange(17)
# What rounding to 8 bits leaves behind these filters: (1 / 255)^2 / 12 times their gain and LUMA's.
_ROUNDING_ENERGY = 1e-8

# `halo`: the content's step that makes an edge, and the overshoot that it may have there; distances
# from it, in pixels. All are choices.
_EDGE, _PLAIN = 0.2, 0.05
_NEAR, _FAR = range(3, 7), range(9, 15)


class Checkerboard(NamedTuple):
  """Decibels per direction; see `checkerboard`."""

  horizontal: jax.Array
  vertical: jax.Array
  both: jax.Array


class Border(NamedTuple):
  """How far a frame stands out; see `border`."""

  color: jax.Array
  roughness: jax.Array


class Dullness(NamedTuple):
  """Differences from the style; see `dullness`."""

  saturation: jax.Array
  contrast: jax.Array


def checkerboard(stylized: Array, content: Array) -> Checkerboard:
  """Energy of grey at the Nyquist frequencies against the content's, in decibels.

      10 log10((E(stylized) + e) / (E(content) + e)),  E = mean square of the filtered grey

  The filter keeps periods of 2 pixels: in horizontal direction (vertical stripes) and slow in the
  other, in vertical direction, or in both at once (a checkerboard). e is about what rounding to 8
  bits leaves. Upsampling in decoders makes such patterns.

  Returns:
    0 where the stylized picture has as much as the content, 10 and 20 for ten and a hundred times
    as much. Strokes raise all of it somewhat, so compare models on the same pairs.
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
  """How far a frame at the border stands out, beyond what it does in the content.

  On each of the four sides three bands of `width` pixels are compared: the frame, the one inside
  of it, and the one inside of that: x is (frame - band) - (band - inside), which is 0 of anything
  that is alike everywhere or changes evenly. The same of the content is subtracted. Padding in
  encoder or decoder makes frames.

  Returns:
    color: x of the mean RGB, its root mean square over sides and channels, in units of [0, 1].
    roughness: x of the log2 of the root mean square difference of neighbouring grey pixels, its
      mean over sides: 1 is a frame twice as rough, -1 half as rough as it would be.
    Both are negative where the output has less of it than the content, as a flat output has.
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
  return jnp.sqrt(squares + 1 / 255**2)  # a step of 8 bits, so that flat parts have a logarithm


def dullness(stylized: Array, style: Array) -> Dullness:
  """How grey and how flat the stylized picture is against its style: stylized minus style.

  Returns:
    saturation: of the mean of max(R, G, B) - min(R, G, B).
    contrast: of the standard deviation of grey.
    Both in units of [0, 1]; negative values are a grey veil, positive ones are garish.
  """

  def saturation(image: Array) -> jax.Array:
    return jnp.mean(jnp.max(image, -1) - jnp.min(image, -1))

  return Dullness(
    saturation(stylized) - saturation(style), to_gray(stylized).std() - to_gray(style).std()
  )


def halo(stylized: Array, content: Array) -> jax.Array:
  """Overshoot of the output beside strong edges of the content that have none themselves.

  An edge is a local maximum, along a row or a column, of the content's grey difference over 5
  pixels, of at least 0.2. Across it, on both sides, grey is averaged near (3 to 6 pixels away) and
  far (9 to 14). Overshoot is by how much the near averages leave the range that the far ones span,
  as a bright or dark seam does and a blurred edge does not. Edges where the content itself
  overshoots by more than 0.05 are left out. Outlines and strokes that belong to a style count as
  well, so compare models on the same pairs and look at the pictures.

  Returns:
    The mean over all these edges, 0 or more, in units of [0, 1]; NaN if there is none.
  """
  total, count = jnp.zeros(()), jnp.zeros(())
  gray, reference = to_gray(stylized), to_gray(content)
  for output, photo in ((gray, reference), (gray.T, reference.T)):
    edges = _edges(photo) & (_overshoot(photo) <= _PLAIN)
    total += jnp.sum(_overshoot(output) * edges)
    count += jnp.sum(edges)
  return total / count  # 0 / 0 is NaN


def _shifted(gray: jax.Array, by: int) -> jax.Array:
  """`gray[y, x + by]` for the columns x whose whole profile is inside of the picture."""
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
  """Share of pixels that have a channel at 0 or 1, or beyond; there details are lost."""
  return jnp.mean(jnp.any((stylized <= 0) | (stylized >= 1), -1))
