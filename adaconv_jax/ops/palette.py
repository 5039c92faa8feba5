"""A style's palette, given to stylized pictures. Not in the models' papers.

A decoder that was trained for a short time mixes colors: gold turns khaki, and a blue and a yellow
turn olive. Here the colors of the output are moved until their distribution is the style's. The
distributions are compared along the axes of several bases of RGB, in turn (Pitie, Kokaram & Dahyot
2007); along one axis, a monotone curve through quantiles does it. What a picture shows stays where
it is.
"""

import jax
import jax.numpy as jnp
import numpy as np

from adaconv_jax.ops.adain import at_least_float32

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


def measure_palette(pictures: jax.Array, where: jax.Array | None = None) -> jax.Array:
  """Measures how the colors of pictures are distributed.

  The average of two results is between the two palettes.

  Args:
    pictures: RGB `[n, h, w, 3]` in [0, 1].
    where: the weights of the pixels, `[n, h, w, 1]`, boolean or at least 0; None: all alike. Where
      all are 0, the result is of no use.

  Returns:
    `[n, 5, 3, 16]`: for each axis of five bases of RGB, 16 quantiles of the colors along it.
  """
  axes = _BASES.reshape(-1, 3)
  measure = jax.vmap(lambda colors, weights: _quantiles(_along(colors, axes), weights))
  return measure(*_sample(pictures, where)).reshape(-1, *_BASES.shape[:2], SHARES)


def match_palette(
  pictures: jax.Array,
  palette: jax.Array,
  strength: float | jax.Array = 1.0,
  where: jax.Array | None = None,
) -> jax.Array:
  """Gives pictures a palette, or a share of it.

  Args:
    pictures: RGB `[n, h, w, 3]` in [0, 1].
    palette: from `measure_palette`, of n pictures or of one for all.
    strength: 0 (`pictures` as they are) to 1, one number or what broadcasts to `[n, h, w, 1]`.
    where: the pixels whose colors get that palette, as for `measure_palette`. All are moved.

  Returns:
    Like `pictures`, float in [0, 1].
  """
  pictures = at_least_float32(pictures)
  n, h, w, _ = pictures.shape
  palette = jnp.broadcast_to(palette.astype(pictures.dtype), (n, *palette.shape[1:]))

  def one(picture: jax.Array, colors: jax.Array, weights: jax.Array | None, target: jax.Array):
    def measure(colors, basis_and_target):
      basis, wanted = basis_and_target
      along = _along(colors, basis)
      curve = _curve(_quantiles(along, weights), wanted)
      return _bend(along, curve) @ basis, (basis, curve)

    def move(pixels, basis_and_curve):
      basis, curve = basis_and_curve
      return _bend(_along(pixels, basis), curve) @ basis, None

    # Loops, because unrolled they take several times as long to compile.
    _, curves = jax.lax.scan(measure, colors, (jnp.asarray(_BASES, colors.dtype), target))
    pixels = picture.reshape(-1, 3)
    return _in_parts(lambda part: jax.lax.scan(move, part, curves)[0], pixels).reshape(h, w, 3)

  moved = jax.vmap(one)(pictures, *_sample(pictures, where), palette)
  return jnp.clip(pictures + strength * (moved - pictures), 0, 1)


def _sample(pictures: jax.Array, where: jax.Array | None) -> tuple[jax.Array, jax.Array | None]:
  """Takes evenly spread pixels `[n, p, 3]`, and their weights `[n, p]`."""
  n, h, w, _ = pictures.shape
  rows, columns = max(h // _SAMPLES, 1), max(w // _SAMPLES, 1)
  colors = at_least_float32(pictures[:, ::rows, ::columns]).reshape(n, -1, 3)
  if where is None:
    return colors, None
  where = jnp.broadcast_to(where, (n, h, w, 1))
  return colors, where[:, ::rows, ::columns].reshape(n, -1).astype(colors.dtype)


def _along(colors: jax.Array, basis: jax.Array | np.ndarray) -> jax.Array:
  return jnp.matmul(colors, jnp.asarray(basis, colors.dtype).T, precision="highest")


def _quantiles(values: jax.Array, weights: jax.Array | None) -> jax.Array:
  """The quantiles `[a, 16]` of `[p, a]`, in the middles of equal shares of the weights `[p]`."""
  wanted = (np.arange(SHARES) + 0.5) / SHARES

  def one(column: jax.Array) -> jax.Array:
    shares = jnp.ones_like(column)
    if weights is not None:  # what has no weight is put at the end, as if it were not there
      seen = weights > 0
      column = jnp.where(seen, column, jnp.max(jnp.where(seen, column, -1)))
      shares = weights
    ordered, shares = jax.lax.sort((column, shares), num_keys=1)
    total = jnp.cumsum(shares)
    middle = (total - shares / 2) / jnp.maximum(total[-1], 1e-6)
    return jnp.interp(jnp.asarray(wanted, column.dtype), middle, ordered)

  return jax.vmap(one, in_axes=1)(values)


# Of a curve along each of three axes: where its pieces begin `[3, 15]`, how wide and how steep they
# are, and its value at the first and the position of the last end `[3]`.
_Curve = tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]


def _curve(ours: jax.Array, wanted: jax.Array) -> _Curve:
  """The curve from quantiles `[3, 16]` to others, as steep as `_STEEPEST` at most."""
  widths = jnp.diff(ours)
  rises = jnp.minimum(jnp.diff(wanted), _STEEPEST * widths + 1e-4)
  heights = jnp.concatenate([jnp.zeros_like(rises[:, :1]), jnp.cumsum(rises, 1)], 1)
  first = jnp.mean(wanted, 1) - jnp.mean(heights, 1)  # less steep, but around the same color
  return ours[:, :-1], widths, rises / (widths + 1e-6), first, ours[:, -1]


def _bend(values: jax.Array, curve: _Curve) -> jax.Array:
  """Moves `[p, 3]` along the curves; beyond their ends, all by the same."""
  begins, widths, slopes, first, end = curve
  # A sum of ramps, because a search for the piece of each value takes longer.
  ramps = jnp.clip(values[..., None] - begins, 0, widths) * slopes
  outside = jnp.minimum(values - begins[:, 0], 0) + jnp.maximum(values - end, 0)
  return first + jnp.sum(ramps, -1) + outside


def _in_parts(move, pixels: jax.Array) -> jax.Array:
  count = pixels.shape[0]
  if count <= _AT_ONCE:
    return move(pixels)
  parts = -(-count // _AT_ONCE)
  padded = jnp.pad(pixels, ((0, parts * _AT_ONCE - count), (0, 0)))
  return jax.lax.map(move, padded.reshape(parts, _AT_ONCE, 3)).reshape(-1, 3)[:count]
