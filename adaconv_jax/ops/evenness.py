"""Plain surfaces without halos. Not in the models' papers.

A decoder paints a sky by what it sees: within the reach of its convolutions from a roof or a tree
it gets another color than far away, and what stands before the sky seems to glow. Here the color of
plain places near structure becomes that of plain places far from it whose content is alike. Strokes
are finer than what is compared, and stay; so does whatever is far from structure.

All is decided on a map of one size, whatever the picture's, and ends at the content's own edges.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from adaconv_jax.ops.adain import at_least_float32
from adaconv_jax.ops.extent import Extent, resize_inside

# Height and width of the map, and of its cells, which are compared each with each.
MAP, CELLS = 192, 48
_PER_CELL = MAP // CELLS
# All of these are choices, by eye. Lengths are in units of the picture's shorter side.
_STRUCTURE = 1 / 150  # sigma at which deviations are structure
_REACH = 0.07  # sigma up to which structure is near; half a decoder's reach at 256 pixels
_ENOUGH = 1 / 5  # share of structure within it from which a place is near it
_STROKES = 1 / 75  # sigma of what is no stroke
_MOST_PIXELS = 6  # of the map, beyond which nothing counts as around: more than two sigmas
_BESIDE = 0.2  # sigma within which places are compared
# Units of RGB.
_PLAIN = 0.02  # deviation at which a place is hardly plain
_ALIKE = 0.08  # difference of colors at which places are hardly alike
# Of other guides, whose units are their own.
_APART = 0.3
# How many plain cells far from structure it takes to be half sure of their color.
_EVIDENCE = 0.5
# Near structure, plain places count so much less than far from it: where there are no others, they
# decide.
_LEAST = 1e-3
# Pixels that are done at once, which bounds the memory.
_AT_ONCE = 2**20
Sides = tuple[jax.Array, ...]  # height and width, float
# A key beyond the border, which is like no other.
_NOWHERE = 1e4


def even_out(
  pictures: jax.Array,
  content: jax.Array,
  evenness: float | jax.Array,
  extent: Extent | None = None,
  guides: jax.Array | None = None,
) -> jax.Array:
  """Gives plain surfaces near structure the color that they have far from it.

      out + evenness * near * alike * (far - local)

  where `near` is 1 beside structure of the content and 0 beyond a decoder's reach, `local` is the
  color of alike pixels around, without strokes, and `far` that of plain places of the content that
  are far from structure, alike and within about a fifth of the picture. `alike` is 1 for pixels
  whose color in the content is that of the plain place and 0 for others, so edges stay sharp.

  Args:
    pictures: what was made of the contents, RGB `[n, h, w, 3]`, float in [0, 1] or uint8.
    content: the contents, of the same shape, also float or uint8.
    evenness: 0 (`pictures` as they are) to 1, one number or what broadcasts to `[n, h, w, 1]`.
    extent: the valid region of both; None: all. What lies beyond has no influence on it.
    guides: in what else pixels must be alike, such as the masks of styles, `[n, h, w, m]`, float
      in [0, 1] or uint8.

  Returns:
    Like `pictures`, in [0, 1] if it is float.
  """
  n, h, w, _ = pictures.shape
  own = Extent(h, w) if extent is None else extent
  sides = tuple(jnp.asarray(side).astype(jnp.float32) for side in own)
  others = [content] if guides is None else [content, guides]
  small, *small_keys = (_to_map(x, extent) for x in (pictures, *others))
  maps = jax.vmap(_maps, (0, 0, None))(small, _keys(small_keys), sides)
  dtype = _float(pictures[:1, :1, :1]).dtype
  maps = _enlarge(maps.astype(dtype), 2, sides[1], w + 2, -1)
  around = [jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))) for x in others]
  strength = jnp.asarray(evenness, dtype)
  strength = strength.reshape((1,) * (4 - strength.ndim) + strength.shape)
  block = min(h, max(_AT_ONCE // w, 1))

  def part(index: jax.Array | int, done: jax.Array) -> jax.Array:
    start = jnp.minimum(index * block, h - block)

    def rows(x: jax.Array, count: int) -> jax.Array:
      return lax.dynamic_slice_in_dim(x, start, count, axis=1)

    keys = _keys([_float(rows(x, block + 2)).astype(dtype) for x in around])
    keys = jnp.where(_inside(block + 2, w + 2, start, own), keys, _NOWHERE)
    change, center, known = jnp.split(
      _enlarge(maps, 1, sides[0], block + 2, start - 1), (3, maps.shape[-1] - 1), -1
    )
    unlike = jnp.sum((keys - center / (known + 1e-6)) ** 2, -1, keepdims=True)
    # Pixels of an edge have a color in between, and would be left as a seam.
    unlike = lax.reduce_window(unlike, np.inf, lax.min, (1, 3, 3, 1), (1, 1, 1, 1), "VALID")
    change, known = change[:, 1:-1, 1:-1], known[:, 1:-1, 1:-1]
    # Beside an edge, only a part of the map's pixels around knows what is plain there.
    sure = known / (known + 0.05) * jnp.exp(-unlike)
    weight = rows(strength, block) if strength.shape[1] == h else strength
    made = _float(rows(pictures, block)) + weight * (sure * change / (known + 1e-6))
    made = jnp.clip(made, 0, 1)
    made = (jnp.round(made * 255) if done.dtype == jnp.uint8 else made).astype(done.dtype)
    return lax.dynamic_update_slice_in_dim(done, made, start, axis=1)

  if block == h:
    return part(0, pictures)
  # The last block is moved up, so that it is whole; what it has in common with the one before it is
  # the same.
  return lax.fori_loop(0, -(-h // block), part, pictures)


def _float(x: jax.Array) -> jax.Array:
  """Floats in [0, 1] of at least 32 bits, of whole numbers too."""
  return x.astype(jnp.float32) / 255 if x.dtype == jnp.uint8 else at_least_float32(x)


def _to_map(x: jax.Array, extent: Extent | None) -> jax.Array:
  """Resizes `[n, h, w, c]` to the map, float32."""
  n, h, w, channels = x.shape
  factor = min(h, w) // (4 * MAP)
  if extent is None and factor > 1:  # means first, whose memory is small
    x = x[:, : h // factor * factor, : w // factor * factor]
    split = x.reshape(n, h // factor, factor, w // factor, factor, channels)
    x = jnp.mean(_float(split).astype(jnp.float32), (2, 4))
  inside = Extent(*x.shape[1:3]) if extent is None else extent
  return resize_inside(_float(x), inside, MAP, MAP).astype(jnp.float32)


def _keys(parts: list[jax.Array]) -> jax.Array:
  """In which pixels must be alike, from the content and other guides, in units of likeness."""
  content, *guides = parts
  return jnp.concatenate([content / _ALIKE, *(guide / _APART for guide in guides)], -1)


def _inside(rows: int, columns: int, start: jax.Array, own: Extent) -> jax.Array:
  """Whether pixels are valid, `[1, rows, columns, 1]`, from a line before `start` and column 0."""
  y = (jnp.arange(rows) + start - 1).reshape(1, rows, 1, 1)
  x = (jnp.arange(columns) - 1).reshape(1, 1, columns, 1)
  return (y >= 0) & (y < own.height) & (x >= 0) & (x < own.width)


def _maps(pictures: jax.Array, keys: jax.Array, sides: Sides) -> jax.Array:
  """What has to be added where, `[MAP, MAP, 3 + m + 1]`.

  Args:
    pictures: in the size of the map, `[MAP, MAP, 3]`.
    keys: in which pixels must be alike, of which the first three are the content, `[MAP, MAP, m]`.
    sides: height and width of the pictures.

  Returns:
    Three factors of the last channel, which is 1 in plain places: what is added, the keys of these
    places, and 1.
  """
  content = keys[..., :3] * _ALIKE
  smooth = _blur(content, _STRUCTURE, sides)
  variance = jnp.sum(jnp.maximum(_blur(content**2, _STRUCTURE, sides) - smooth**2, 0), -1)
  plain = jnp.expand_dims(jnp.exp(-variance / _PLAIN**2), -1)
  # Grain is no structure; and a mast in the sky is enough to be near one.
  structure = jnp.maximum(1 - 2 * plain, 0)
  near = jnp.minimum(_blur(structure, _REACH, sides) / _ENOUGH, 1)
  weights = plain * (1 - near + _LEAST)
  share, counted = _pool(plain), _pool(weights)
  center = _pool(plain * keys) / (share + 1e-6)
  color, sure = _far_colors(_pool(weights * pictures) / (counted + 1e-9), center, counted, sides)
  around, alike = _spread(keys, share, jnp.concatenate([color, center, sure], -1))
  color, center, sure = jnp.split(around, (3, around.shape[-1] - 1), -1)
  some = jnp.sum(alike, -1, keepdims=True)
  known = alike[..., :1] / (alike[..., :1] + 0.05 * some + 1e-6) * some / (some + 0.02)
  local = _blur_alike(known * jnp.concatenate([pictures, jnp.ones_like(known)], -1), keys, sides)
  local = local[..., :3] / (local[..., 3:] + 1e-4)
  change = near * sure * (color - local)
  return known * jnp.concatenate([change, center, jnp.ones_like(known)], -1)


def _far_colors(
  colors: jax.Array, keys: jax.Array, counted: jax.Array, sides: Sides
) -> tuple[jax.Array, jax.Array]:
  """The colors of alike cells around each, `[CELLS, CELLS, 3]`, and how sure they are, 0 to 1."""
  side = jnp.minimum(*sides).astype(keys.dtype)
  places = jnp.stack(jnp.meshgrid(*[jnp.arange(CELLS) / CELLS] * 2, indexing="ij"), -1)
  scale = jnp.stack([length.astype(keys.dtype) for length in sides]) / side / _BESIDE
  points = jnp.concatenate([keys, places.astype(keys.dtype) * scale.reshape(1, 1, 2)], -1)
  points, amounts = points.reshape(CELLS**2, -1), counted.reshape(1, -1)
  apart = sum(
    (jnp.subtract.outer(line, line) ** 2 for line in points.T), start=jnp.zeros((1, 1), keys.dtype)
  )
  weights = jnp.exp(-apart) * amounts
  total = jnp.sum(weights, 1, keepdims=True)
  found = jnp.matmul(weights, colors.reshape(-1, 3), precision="highest") / (total + 1e-12)
  sure = total / (total + _EVIDENCE)
  return found.reshape(CELLS, CELLS, 3), sure.reshape(CELLS, CELLS, 1)


def _spread(keys: jax.Array, share: jax.Array, cells: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Means over the cells around each pixel of the map, of those whose keys are alike.

  Args:
    keys: `[MAP, MAP, m]`.
    share: of plain pixels in each cell, `[CELLS, CELLS, 1]`.
    cells: of which means are taken, `[CELLS, CELLS, 3 + m + 1]`; the keys are in the middle.

  Returns:
    The means `[MAP, MAP, 3 + m + 1]`; and how much there is of alike and of other cells.
  """
  reach = 2
  padded = jnp.pad(jnp.concatenate([share, cells], -1), ((reach, reach), (reach, reach), (0, 0)))
  offsets = np.mgrid[: 2 * reach + 1, : 2 * reach + 1].reshape(2, -1).T
  # Where a pixel is in its cell, from the middle.
  middle = (np.arange(MAP) % _PER_CELL + 0.5) / _PER_CELL - 0.5
  tents = np.maximum(1 - np.abs(np.arange(-reach, reach + 1)[:, None] - middle) / reach, 0)
  tents = jnp.asarray(tents, keys.dtype)

  def add(sums: tuple[jax.Array, jax.Array], offset: jax.Array):
    total, amounts = sums
    y, x = offset[0], offset[1]
    cut = lax.dynamic_slice(padded, (y, x, 0), (CELLS, CELLS, padded.shape[-1]))
    cut = jnp.repeat(jnp.repeat(cut, _PER_CELL, 0), _PER_CELL, 1)
    plain, values = cut[..., :1], cut[..., 1:]
    amount = plain * tents[y].reshape(MAP, 1, 1) * tents[x].reshape(1, MAP, 1)
    unlike = jnp.sum((keys - values[..., 3:-1]) ** 2, -1, keepdims=True)
    alike = amount * jnp.exp(-unlike)
    split = jnp.concatenate([alike, amount - alike], -1)
    return (total + alike * values, amounts + split), None

  start = jnp.zeros((MAP, MAP, cells.shape[-1]), keys.dtype), jnp.zeros((MAP, MAP, 2), keys.dtype)
  (total, amounts), _ = lax.scan(add, start, jnp.asarray(offsets))
  return total / (amounts[..., :1] + 1e-6), amounts


def _pool(x: jax.Array) -> jax.Array:
  """Means over the pixels of the map in each cell."""
  return x.reshape(CELLS, _PER_CELL, CELLS, _PER_CELL, -1).mean((1, 3))


def _blur(x: jax.Array, sigma: float, sides: Sides) -> jax.Array:
  """Blurs `[MAP, MAP, c]` with a Gaussian; `sigma` is in units of the picture's shorter side."""
  side = jnp.minimum(*sides)
  for axis, length in enumerate(sides):
    pixels = jnp.maximum((sigma * MAP * side / length).astype(x.dtype), 0.3)
    line = jnp.arange(MAP, dtype=x.dtype)
    taps = jnp.exp(-0.5 * ((line.reshape(-1, 1) - line.reshape(1, -1)) / pixels) ** 2)
    taps /= jnp.sum(taps, 1, keepdims=True)
    x = jnp.moveaxis(jnp.tensordot(taps, x, (1, axis), precision="highest"), 0, axis)
  return x


def _blur_alike(x: jax.Array, keys: jax.Array, sides: Sides) -> jax.Array:
  """Blurs `[MAP, MAP, c]` by `_STROKES`, over pixels whose keys are alike, an axis at a time."""
  for axis, length in enumerate(sides):
    pixels = jnp.maximum((_STROKES * MAP * jnp.minimum(*sides) / length).astype(x.dtype), 0.3)
    x = _blur_alike_along(x, keys, axis, pixels)
  return x


def _blur_alike_along(x: jax.Array, keys: jax.Array, axis: int, sigma: jax.Array) -> jax.Array:
  ends = [(0, 0)] * 3
  ends[axis] = (_MOST_PIXELS, _MOST_PIXELS)
  padded, others = jnp.pad(x, ends), jnp.pad(keys, ends, constant_values=_NOWHERE)

  def add(total: jax.Array, start: jax.Array) -> tuple[jax.Array, None]:
    there, other = (lax.dynamic_slice_in_dim(y, start, MAP, axis) for y in (padded, others))
    unlike = jnp.sum((keys - other) ** 2, -1, keepdims=True)
    off = (start - _MOST_PIXELS).astype(x.dtype) / sigma
    return total + jnp.exp(-unlike - off**2 / 2) * there, None

  return lax.scan(add, jnp.zeros_like(x), jnp.arange(2 * _MOST_PIXELS + 1))[0]


def _enlarge(
  maps: jax.Array, axis: int, side: jax.Array, size: int, start: jax.Array | int = 0
) -> jax.Array:
  """Interpolates an axis of the map to `size` pixels, from `start`, of a picture with `side`."""
  middles = (jnp.arange(size) + start).astype(maps.dtype) + 0.5
  places = jnp.clip(middles * (MAP / side.astype(maps.dtype)) - 0.5, 0, MAP - 1)
  first = jnp.minimum(places.astype(jnp.int32), MAP - 2)
  shape = tuple(size if k == axis else 1 for k in range(maps.ndim))
  share = (places - first.astype(maps.dtype)).reshape(shape)
  before, after = (jnp.take(maps, first + k, axis, mode="clip") for k in (0, 1))
  return before + share * (after - before)
