"""How a CPU runs the 3x3 convolutions: the numbers of `conv.plain_conv`, up to rounding, sooner.

- XLA's CPU convolution is fast only with zero padding of its own, and to copy a feature map with
  mirrored borders costs as much as a layer of few channels. So the zero-padded convolution runs on
  the images as they are, and what the mirrored pixels add to the outermost rows and columns is
  added there.
- With many channels, Winograd's F(4x4, 3x3) (Lavin & Gray, CVPR 2016) has a quarter of the
  products. With few, its transforms cost more than they save.
- Behind a nearest-neighbour upsampling, three products per axis serve two output pixels, where
  the plain form has six: a quarter of the products in all.

Images are `[n, h, w, c]`, float32, at least 2 x 2 pixels; kernels `[3, 3, c_in, c_out]`.
"""

import functools
from collections.abc import Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from adaconv_jax.ops.conv.reference import DIMENSION_NUMBERS

# Channels and pixels (of all images) from which on Winograd's form wins, measured with images of
# 256 and 512 pixels; with fewer pixels, the transformed kernels are not worth their memory.
WINOGRAD_CHANNELS = 128
WINOGRAD_PIXELS = 2**12
# The same for the kernel's gradient.
WINOGRAD_GRADIENT_CHANNELS = 256
WINOGRAD_GRADIENT_PIXELS = 2**13
# With more pixels, XLA's kernel gradient takes twice as long as for each image alone.
KERNEL_GRADIENT_PIXELS = 2**15

# F(4, 3) with the points 0, 1, -1, 2, -2, infinity: 4 outputs = OUT ((IN 6 pixels) * (TAPS 3 taps))
_IN = np.array(
  [
    [4, 0, -5, 0, 1, 0],
    [0, -4, -4, 1, 1, 0],
    [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0],
    [0, 2, -1, -2, 1, 0],
    [0, 4, 0, -5, 0, 1],
  ],
  np.float32,
)
_TAPS = np.array(
  [
    [1 / 4, 0, 0],
    [-1 / 6, -1 / 6, -1 / 6],
    [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6],
    [0, 0, 1],
  ],
  np.float32,
)
_OUT = np.array(
  [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]], np.float32
)

# Both axes of the taps at once: [36, 9], from (row, column) of the kernel to (column, row).
_TAPS_2D = np.einsum("xc,yr->xyrc", _TAPS, _TAPS).reshape(36, 9)


def conv(images: jax.Array, kernel: jax.Array) -> jax.Array:
  """Convolves with reflect padding: `[n, h, w, c_in]` to `[n, h, w, c_out]`."""
  return _add_to_lines(_zero_padded(images, kernel), _border(_lines(images, 1), kernel), 0)


def image_gradient(kernel: jax.Array, gradient: jax.Array) -> jax.Array:
  """The gradient of `conv` with respect to the images, from that of its output."""
  flipped = kernel[::-1, ::-1].swapaxes(2, 3)
  n, h, w, _ = gradient.shape
  images = jax.ShapeDtypeStruct((n, h, w, kernel.shape[2]), gradient.dtype)
  lines = jax.eval_shape(lambda images: _lines(images, 1), images)
  border = jax.linear_transpose(lambda lines: _border(lines, kernel), lines)
  return _add_to_lines(_zero_padded(gradient, flipped), border(_lines(gradient, 0))[0], 1)


def kernel_gradient(images: jax.Array, gradient: jax.Array) -> jax.Array:
  """The gradient of `conv` with respect to the kernel, from that of its output."""
  lines = _lines(images, 1)
  of_border = _transpose_kernel(lambda kernel: _border(lines, kernel), images, gradient)
  total = of_border(_lines(gradient, 0))
  n, h, w, c_in = images.shape
  channels = min(c_in, gradient.shape[-1])
  if channels >= WINOGRAD_GRADIENT_CHANNELS and n * h * w >= WINOGRAD_GRADIENT_PIXELS:
    adjoint = _transpose_kernel(functools.partial(_winograd, images), images, gradient)
    return total + adjoint(gradient)
  for some, their_gradient in _parts(images, gradient):
    total += _transpose_kernel(functools.partial(_xla, some), some, gradient)(their_gradient)
  return total


def _transpose_kernel(function, images: jax.Array, gradient: jax.Array):
  """The adjoint of a linear function of the kernel between `images` and `gradient`."""
  kernel = jax.ShapeDtypeStruct((3, 3, images.shape[-1], gradient.shape[-1]), images.dtype)
  adjoint = jax.linear_transpose(function, kernel)
  return lambda gradient: adjoint(gradient)[0]


def _parts(images: jax.Array, gradient: jax.Array) -> Iterator[tuple[jax.Array, jax.Array]]:
  """Splits a batch that is too large for a fast kernel gradient, into at most eight parts."""
  n, h, w, _ = images.shape
  thin = min(images.shape[-1], gradient.shape[-1]) <= 3  # already limited by memory
  size = n if thin or n * h * w <= KERNEL_GRADIENT_PIXELS else -(-n // 8)
  for i in range(0, n, size):
    yield images[i : i + size], gradient[i : i + size]


def _zero_padded(images: jax.Array, kernel: jax.Array) -> jax.Array:
  n, h, w, _ = images.shape
  if min(kernel.shape[2:]) >= WINOGRAD_CHANNELS and n * h * w >= WINOGRAD_PIXELS:
    return _winograd(images, kernel)
  return _xla(images, kernel)


def _xla(images: jax.Array, kernel: jax.Array, padding=((1, 1), (1, 1))) -> jax.Array:
  return lax.conv_general_dilated(
    images, kernel, (1, 1), padding, dimension_numbers=DIMENSION_NUMBERS
  )


def _winograd(images: jax.Array, kernel: jax.Array) -> jax.Array:
  """The zero-padded convolution by F(4x4, 3x3): 36 products for 16 pixels, in place of 144."""
  n, h, w, c_in = images.shape
  rows, columns, c_out = -(-h // 4), -(-w // 4), kernel.shape[-1]
  # Between the passes stand barriers, because XLA would compute the first anew for every use; and
  # the taps of constant kernels while it compiles, for minutes.
  taps = _TAPS_2D @ lax.optimization_barrier(kernel.reshape(9, -1))
  taps = lax.optimization_barrier(taps)
  padded = jnp.pad(images, ((0, 0), (1, 4 * rows - h + 1), (1, 4 * columns - w + 1), (0, 0)))
  pixels = [padded[:, y : y + 4 * rows - 3 : 4] for y in range(6)]
  down = lax.optimization_barrier(_mix(_IN, pixels))
  pixels = [down[:, :, :, x : x + 4 * columns - 3 : 4] for x in range(6)]
  tiles = lax.optimization_barrier(_mix(_IN, pixels))
  products = tiles.reshape(36, -1, c_in) @ taps.reshape(36, c_in, c_out)
  products = lax.optimization_barrier(products.reshape(6, 6, n, rows, columns, c_out))
  across = _mix(_OUT, products, axis=4)
  across = lax.optimization_barrier(across.reshape(6, n, rows, 4 * columns, c_out))
  outs = _mix(_OUT, across, axis=2)
  return outs.reshape(n, 4 * rows, 4 * columns, c_out)[:, :h, :w]


def _mix(matrix: np.ndarray, terms: Iterable[jax.Array], axis: int = 0) -> jax.Array:
  """The sums of `terms` weighed by each row of `matrix`, stacked along a new `axis`."""
  terms = list(terms)

  def combine(weights: np.ndarray) -> jax.Array:
    used = [(float(a), term) for a, term in zip(weights, terms, strict=True) if a]
    return sum((a * term for a, term in used[1:]), start=used[0][0] * used[0][1])

  return jnp.stack([combine(weights) for weights in matrix], axis)


# --- the border ---

Lines = tuple[jax.Array, jax.Array, jax.Array, jax.Array]  # top, bottom, left, right


def _lines(images: jax.Array, distance: int) -> Lines:
  """The rows `[n, 1, w, c]` and columns `[n, h, 1, c]` at `distance` from the edges."""
  _, h, w, _ = images.shape
  top, bottom = (lax.slice_in_dim(images, y, y + 1, axis=1) for y in (distance, h - 1 - distance))
  left, right = (lax.slice_in_dim(images, x, x + 1, axis=2) for x in (distance, w - 1 - distance))
  return top, bottom, left, right


def _add_to_lines(images: jax.Array, lines: Lines, distance: int) -> jax.Array:
  """The adjoint of `_lines`, added to `images`; without another pass over all of them."""
  _, h, w, _ = images.shape
  places = ((1, distance), (1, h - 1 - distance), (2, distance), (2, w - 1 - distance))
  for line, (axis, index) in zip(lines, places, strict=True):
    there = lax.slice_in_dim(images, index, index + 1, axis=axis)
    images = lax.dynamic_update_slice_in_dim(images, there + line, index, axis)
  return images


def _border(lines: Lines, kernel: jax.Array) -> Lines:
  """What the mirrored pixels add to the outermost lines of a zero-padded convolution.

  Args:
    lines: those that are mirrored, at distance 1 from the edges.
    kernel: of the convolution.
  """
  top, bottom, left, right = lines
  none, one = (0, 0), (1, 1)
  # The corners of the padded image belong to its rows.
  top, bottom = (jnp.pad(x, (none, none, one, none), mode="reflect") for x in (top, bottom))
  return (
    _xla(top, kernel[:1], (none, none)),
    _xla(bottom, kernel[2:], (none, none)),
    _xla(left, kernel[:, :1], (one, none)),
    _xla(right, kernel[:, 2:], (one, none)),
  )


# --- behind an upsampling ---


def enlarged_conv(images: jax.Array, kernel: jax.Array) -> jax.Array:
  """Upsamples x2 (nearest neighbour) and convolves with reflect padding, in one.

  Along one axis, with taps a, b, c and pixels x, the two outputs at pixel i are

      a x[i-1] + (b + c) x[i] = (a + b + c) x[i] - a (x[i] - x[i-1])
      (a + b) x[i] + c x[i+1] = (a + b + c) x[i] + c (x[i+1] - x[i])

  and a mirrored border makes the outermost differences zero.

  Returns:
    `[n, 2 h, 2 w, c_out]`.
  """
  n, h, w, _ = images.shape
  # Written as additions, which XLA runs several times faster here than sums over an axis.
  by_rows = jnp.stack([-kernel[0], kernel[0] + kernel[1] + kernel[2], kernel[2]])
  left, middle, right = by_rows[:, 0], by_rows[:, 1], by_rows[:, 2]
  taps = jnp.stack([-left, left + middle + right, right], axis=1)  # [3, 3, c_in, c_out]
  taps = lax.optimization_barrier(taps)

  def products(pixels: jax.Array, rows: tuple[int, ...], columns: tuple[int, ...]) -> jax.Array:
    """Each pixel times `taps[y, x]`: `[n, h, w, rows, columns, c_out]`."""
    chosen = jnp.concatenate([taps[y, x] for y in rows for x in columns], axis=-1)
    return (pixels @ chosen).reshape(*pixels.shape[:3], len(rows), len(columns), -1)

  across = jnp.pad(jnp.diff(images, axis=2), ((0, 0), (0, 0), (1, 1), (0, 0)))
  down = jnp.pad(jnp.diff(images, axis=1), ((0, 0), (1, 1), (0, 0), (0, 0)))
  both = jnp.pad(jnp.diff(across, axis=1), ((0, 0), (1, 1), (0, 0), (0, 0)))
  same = products(images, (1,), (1,))[:, :, :, 0, 0]
  across = products(across, (1,), (0, 2))[:, :, :, 0]
  down = products(down, (0, 2), (1,))[:, :, :, :, 0]
  both = products(both, (0, 2), (0, 2))

  def output(y: int, x: int) -> jax.Array:
    """The output pixels at (2 i + y, 2 j + x)."""
    part = same + across[:, :, x : x + w, x] + down[:, y : y + h, :, y]
    return part + both[:, y : y + h, x : x + w, y, x]

  rows = [jnp.stack([output(y, x) for x in (0, 1)], axis=3) for y in (0, 1)]
  return jnp.stack(rows, axis=2).reshape(n, 2 * h, 2 * w, -1)


def enlarged_image_gradient(kernel: jax.Array, gradient: jax.Array) -> jax.Array:
  """The gradient of `enlarged_conv` with respect to the images, from that of its output."""
  n, h, w, _ = gradient.shape
  images = jax.ShapeDtypeStruct((n, h // 2, w // 2, kernel.shape[2]), gradient.dtype)
  return jax.linear_transpose(lambda images: enlarged_conv(images, kernel), images)(gradient)[0]


def enlarged_kernel_gradient(images: jax.Array, gradient: jax.Array) -> jax.Array:
  """The gradient of `enlarged_conv` with respect to the kernel, from that of its output."""
  parts = (
    _transpose_kernel(functools.partial(enlarged_conv, some), some, gradient)(their_gradient)
    for some, their_gradient in _parts(images, gradient)
  )
  return functools.reduce(jnp.add, parts)
