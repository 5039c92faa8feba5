"""A style's palette, given to stylized pictures. Not in the models' papers.

A decoder that was trained for a short time mixes colors: gold turns khaki, and a blue and a yellow
turn olive. Here the colors of the output are moved until their distribution is the style's. The
distributions are compared along the axes of several bases of RGB, in turn (Pitie, Kokaram & Dahyot
2007); along one axis, a monotone curve through quantiles does it. What a picture shows stays where
it is.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adaconv_jax.ops.adain import at_least_float32
from adaconv_jax.ops.extent import Extent

# Quantiles along each axis: few enough that a curve does not follow noise.
SHARES = 16
# Colors are measured at up to twice as many pixels per side, spread evenly.
_SAMPLES = 64
# The steepest that a curve may be: five follow each other, and plain surfaces would show grain.
_STEEPEST = 1.5
# Pixels that are moved at once, which bounds the memory.
_AT_ONCE = 2**20


def _bases() -> np.ndarray:
  """Five bases of RGB: opponent colors, R, G and B, and that turned by 45 degrees about each."""
  opponent = np.array([[1, 1, 1], [1, -1, 0], [1, 1, -2]]) / np.sqrt([[3], [2], [6]])
  turned = []
  for axis in range(3):
    first, second = (other for other in range(3) if other != axis)
    basis = np.eye(3)
    basis[first, first] = basis[first, second] = basis[second, first] = np.sqrt(0.5)
    basis[second, second] = -np.sqrt(0.5)
    turned.append(basis)
  return np.stack([opponent, np.eye(3), *turned]).astype(np.float32)


_BASES = _bases()
# Of a palette.
SHAPE = (*_BASES.shape[:2], SHARES)


def measure_palette(
  pictures: jax.Array, where: jax.Array | None = None, extent: Extent | None = None
) -> jax.Array:
  """Measures how the colors of pictures are distributed.

  The average of two results is between the two palettes.

  Args:
    pictures: RGB `[n, h, w, 3]` in [0, 1].
    where: the weights of the pixels, `[n, h, w, 1]`, boolean or at least 0; None: all alike. Where
      all are 0, the result is of no use.
    extent: the valid region of the pictures, of which the result is that of the region alone; None:
      all.

  Returns:
    `[n, 5, 3, 16]`: for each axis of five bases of RGB, 16 quantiles of the colors along it.
  """
  axes = _BASES.reshape(-1, 3)
  measure = jax.vmap(lambda colors, weights: _quantiles(_along(colors.T, axes), weights))
  return measure(*_sample(pictures, where, extent)).reshape(-1, *SHAPE)


def match_palette(
  pictures: jax.Array,
  palette: jax.Array,
  strength: float | jax.Array = 1.0,
  where: jax.Array | None = None,
  extent: Extent | None = None,
) -> jax.Array:
  """Gives pictures a palette, or a share of it.

  Args:
    pictures: RGB `[n, h, w, 3]` in [0, 1].
    palette: from `measure_palette`, of n pictures or of one for all.
    strength: 0 (`pictures` as they are) to 1, one number or what broadcasts to `[n, h, w, 1]`.
    where: the pixels whose colors get that palette, as for `measure_palette`. All are moved.
    extent: the valid region of the pictures; None: all.

  Returns:
    Like `pictures`, float in [0, 1].
  """
  fitted = fit_colors(pictures, palette, where, extent)
  return move_colors(pictures, fitted, palette, strength)


def fit_colors(
  pictures: jax.Array,
  palette: jax.Array,
  where: jax.Array | None = None,
  extent: Extent | None = None,
  *,
  pooled: bool = False,
) -> jax.Array:
  """The first half of `match_palette`: measures the colors that are moved to a palette.

  Args:
    pictures: RGB `[n, h, w, 3]` in [0, 1].
    palette: from `measure_palette`, of n pictures or of one for all.
    where: the weights of the pixels, as for `measure_palette`.
    extent: the valid region of the pictures; None: all.
    pooled: measure the colors of all pictures together.

  Returns:
    `[n, 5, 3, 16]`, or `[1, 5, 3, 16]` if they are pooled: the quantiles along the axes of every
    basis, once the colors are moved along those before it.
  """
  colors, weights = _sample(pictures, where, extent)
  if pooled:
    colors = colors.reshape(1, -1, 3)
    weights = None if weights is None else weights.reshape(1, -1)
  palette = _for_each(palette, colors)

  def one(colors: jax.Array, weights: jax.Array | None, target: jax.Array) -> jax.Array:
    def measure(colors, basis_and_target):
      basis, wanted = basis_and_target
      along = _along(colors, basis)
      ours = _quantiles(along, weights)
      return _along(_bend(along, _curve(ours, wanted)), basis.T), ours

    # A loop, because unrolled it takes several times as long to compile.
    return jax.lax.scan(measure, colors.T, (jnp.asarray(_BASES, colors.dtype), target))[1]

  return jax.vmap(one)(colors, weights, palette)


def move_colors(
  pictures: jax.Array,
  measured: jax.Array,
  palette: jax.Array,
  strength: float | jax.Array = 1.0,
) -> jax.Array:
  """The second half of `match_palette`: moves every pixel by its color alone.

  Args:
    pictures: RGB `[n, h, w, 3]` in [0, 1].
    measured: from `fit_colors`, of n pictures or of one for all.
    palette: what that was given.
    strength: as for `match_palette`.

  Returns:
    Like `pictures`, float in [0, 1].
  """
  pictures = at_least_float32(pictures)
  measured, palette = _for_each(measured, pictures), _for_each(palette, pictures)

  def one(picture: jax.Array, ours: jax.Array, wanted: jax.Array) -> jax.Array:
    steps = jnp.asarray(_BASES, picture.dtype), jax.vmap(_curve)(ours, wanted)

    def move(pixels, basis_and_curve):
      basis, curve = basis_and_curve
      return _along(_bend(_along(pixels, basis), curve), basis.T), None

    moved = _in_parts(lambda part: jax.lax.scan(move, part, steps)[0], picture.reshape(-1, 3).T)
    return moved.T.reshape(picture.shape)

  moved = jax.vmap(one)(pictures, measured, palette)
  return jnp.clip(pictures + strength * (moved - pictures), 0, 1)


def _for_each(quantiles: jax.Array, pictures: jax.Array) -> jax.Array:
  quantiles = quantiles.astype(pictures.dtype)
  return jnp.broadcast_to(quantiles, (pictures.shape[0], *quantiles.shape[1:]))


def _sample(
  pictures: jax.Array, where: jax.Array | None, extent: Extent | None
) -> tuple[jax.Array, jax.Array | None]:
  """Takes evenly spread pixels `[n, p, 3]`, and their weights `[n, p]`; None: all alike."""
  n, h, w, _ = pictures.shape
  weights = None if where is None else jnp.broadcast_to(where, (n, h, w, 1))
  if extent is None:
    rows, columns = (slice(None, None, max(side // _SAMPLES, 1)) for side in (h, w))
    pictures = pictures[:, rows, columns]
    weights = None if weights is None else weights[:, rows, columns]
  else:  # the same pixels, at places that are not known yet
    inside: Any = jnp.ones((n, 1, 1, 1), np.float32)
    for axis, (own, side) in enumerate(zip(extent, (h, w), strict=True), 1):
      places = jnp.arange(min(side, 2 * _SAMPLES)) * jnp.maximum(own // _SAMPLES, 1)
      pictures = jnp.take(pictures, places, axis, mode="clip")
      weights = None if weights is None else jnp.take(weights, places, axis, mode="clip")
      inside = inside * jnp.expand_dims(places < own, (0, 3, 3 - axis)).astype(np.float32)
    weights = inside if weights is None else inside * weights.astype(np.float32)
  colors = at_least_float32(pictures).reshape(n, -1, 3)
  return colors, None if weights is None else weights.reshape(n, -1).astype(colors.dtype)


# Below, pixels are the last axis, so that they are computed on in vectors.


def _along(colors: jax.Array, basis: jax.Array | np.ndarray) -> jax.Array:
  return jnp.matmul(jnp.asarray(basis, colors.dtype), colors, precision="highest")


def _quantiles(values: jax.Array, weights: jax.Array | None) -> jax.Array:
  """The quantiles `[a, 16]` of `[a, p]`, in the middles of equal shares of the weights `[p]`."""
  wanted = jnp.asarray((np.arange(SHARES) + 0.5) / SHARES, values.dtype)

  def one(row: jax.Array) -> jax.Array:
    shares = jnp.ones_like(row)
    if weights is not None:  # what has no weight is put at the end, as if it were not there
      seen = weights > 0
      row = jnp.where(seen, row, jnp.max(jnp.where(seen, row, -1)))
      shares = weights
    ordered, shares = jax.lax.sort((row, shares), num_keys=1)
    total = _running_sum(shares)
    middle = (total - shares / 2) / jnp.maximum(total[-1], 1e-6)
    # What `jnp.interp` does takes three times as long to compile, and so do sums of integers.
    count = jnp.sum((middle[None] < wanted[:, None]).astype(row.dtype), 1)
    # With 64 bits, JAX would not index by these under strict promotion.
    after = jnp.minimum(count.astype(np.int32), row.size - 1)
    before = jnp.maximum(after - 1, 0)
    span = middle[after] - middle[before]
    share = jnp.clip((wanted - middle[before]) / jnp.where(span > 0, span, 1), 0, 1)
    return ordered[before] + share * (ordered[after] - ordered[before])

  return jax.vmap(one)(values)


def _running_sum(values: jax.Array) -> jax.Array:
  """Sums `[p]` up to each place; `jnp.cumsum` takes several times as long to compile."""
  side = math.isqrt(values.size - 1) + 1
  rows = jnp.pad(values, (0, side * side - values.size)).reshape(side, side)
  up_to = jnp.tri(side, dtype=values.dtype).T
  own = jnp.matmul(rows, up_to, precision="highest")
  before = jnp.matmul(own[:, -1], up_to, precision="highest") - own[:, -1]
  return (own + before[:, None]).reshape(-1)[: values.size]


# Of a curve along each of three axes: where its pieces begin `[3, 15]`, how wide and how steep they
# are, and its value at the first and the position of the last end `[3]`.
_Curve = tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]


def _curve(ours: jax.Array, wanted: jax.Array) -> _Curve:
  """The curve from quantiles `[3, 16]` to others, as steep as `_STEEPEST` at most."""
  widths = ours[:, 1:] - ours[:, :-1]
  rises = jnp.minimum(wanted[:, 1:] - wanted[:, :-1], _STEEPEST * widths + 1e-4)
  # Less steep, but around the same color: each rise is in all of the values after it.
  after = jnp.asarray(np.arange(SHARES - 1, 0, -1)[None] / SHARES, rises.dtype)
  first = jnp.mean(wanted, 1) - jnp.sum(after * rises, 1)
  return ours[:, :-1], widths, rises / (widths + 1e-6), first, ours[:, -1]


def _bend(values: jax.Array, curve: _Curve) -> jax.Array:
  """Moves `[3, p]` along the curves; beyond their ends, all by the same."""
  begins, widths, slopes, first, end = (part.reshape(3, -1) for part in curve)
  moved = first + jnp.minimum(values - begins[:, :1], 0) + jnp.maximum(values - end, 0)
  # A sum of ramps, because a search for the piece of each value takes longer; term by term, because
  # a reduction over them takes ten times as long on CPUs.
  for k in range(SHARES - 1):
    ramp = jnp.clip(values - begins[:, k : k + 1], 0, widths[:, k : k + 1])
    moved = moved + ramp * slopes[:, k : k + 1]
  return moved


def _in_parts(move: Callable[[jax.Array], jax.Array], pixels: jax.Array) -> jax.Array:
  count = pixels.shape[1]
  if count <= _AT_ONCE:
    return move(pixels)
  parts = -(-count // _AT_ONCE)
  padded = jnp.pad(pixels, ((0, 0), (0, parts * _AT_ONCE - count)))
  moved = jax.lax.map(move, jnp.moveaxis(padded.reshape(3, parts, _AT_ONCE), 1, 0))
  return jnp.moveaxis(moved, 0, 1).reshape(3, -1)[:, :count]
