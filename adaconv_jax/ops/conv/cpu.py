"""How a CPU runs the 3x3 convolutions: the numbers of `conv.plain_conv`, up to rounding, sooner.

- XLA's CPU convolution is fast only with zero padding of its own, and to copy a feature map with
  mirrored borders costs as much as a layer of few channels. So the zero-padded convolution runs on
  the images as they are, and the outermost rows and columns are computed once more.
- A copy with mirrored borders, where one is needed, is a gather: it takes half the time of XLA's
  other forms, and a third of their compilation.
- With many channels, Winograd's F(4x4, 3x3) (Lavin & Gray, CVPR 2016) has a quarter of the
  products. With few, its transforms cost more than they save. It cuts the images into tiles, so
  mirrored borders cost nothing more.
- After a nearest-neighbor upsampling, three products per axis serve two output pixels, where
  the plain form has six: a quarter of the products in all.

Images are `[n, h, w, c]`, float32, at least 2 x 2 pixels; kernels `[3, 3, c_in, c_out]`. `dtype` is
that of the factors in matrix products: bfloat16 where the processor is faster in it and the model
computes in it, else that of the images. Winograd's form, which would lose digits, keeps the latter.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from adaconv_jax import host_cpu
from adaconv_jax.ops.conv.reference import DIMENSION_NUMBERS, reflect_pad

DType = Any  # what jnp.dtype takes
# Channels and pixels of an image from which Winograd's form wins. Half as many channels are enough
# where products take long and memory, of which it needs a lot, is there at once. The number of
# images has no part in this, so that an image alone gives the numbers that it gives in a batch.
WINOGRAD_CHANNELS = 128
WINOGRAD_PIXELS = 2**8
# With fewer channels, the kernel's gradient is a matrix product of shifted copies.
THIN_CHANNELS = 8
# The kernel's gradient takes at most this many pixels (of all images) at once, to bound its memory.
GRADIENT_PIXELS = 2**17

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
  np.float64,  # thirds are rounded once, to the dtype of the kernel
)
_OUT = np.array(
  [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]], np.float32
)

# Both axes of the taps at once: [36, 9], from (row, column) of the kernel to (column, row).
_TAPS_2D = np.einsum("xc,yr->xyrc", _TAPS, _TAPS).reshape(36, 9)


def conv(images: jax.Array, kernel: jax.Array, dtype: DType) -> jax.Array:
  """Convolves with reflect padding: `[n, h, w, c_in]` to `[n, h, w, c_out]`."""
  if _takes_winograd(images, kernel):
    return _winograd(_tiled_with_border(images), kernel, images.shape)
  return _with_edges(_zero_padded(images, kernel, dtype), images, kernel)


def image_gradient(kernel: jax.Array, gradient: jax.Array, dtype: DType) -> jax.Array:
  """The gradient of `conv` with respect to the images, from that of its output."""
  flipped = kernel[::-1, ::-1].swapaxes(2, 3)
  return _add_mirrored(_zero_padded(gradient, flipped, dtype), kernel, gradient)


def kernel_gradient(images: jax.Array, gradient: jax.Array, dtype: DType) -> jax.Array:
  """The gradient of `conv` with respect to the kernel, from that of its output.

  XLA's own was seen ten times slower than either form here, on some processors and at some sizes.
  """
  thin = min(images.shape[-1], gradient.shape[-1]) < THIN_CHANNELS
  if thin:
    return valid_kernel_gradient(reflect_pad(images, 1), gradient, 3, dtype)
  return _in_parts(_winograd_kernel_gradient, images, gradient)


def valid_kernel_gradient(
  images: jax.Array, gradient: jax.Array, size: int, dtype: DType
) -> jax.Array:
  """The kernel gradient of a convolution without padding, as matrix products.

  Args:
    images: `[n, h + size - 1, w + size - 1, c_in]`, as they were convolved.
    gradient: that of the output, `[n, h, w, c_out]`.
    size: height and width of the kernel.
    dtype: of the factors.

  Returns:
    `[size, size, c_in, c_out]`.
  """
  c_in, c_out = images.shape[-1], gradient.shape[-1]
  shifts = [(y, x) for y in range(size) for x in range(size)]
  if c_in < THIN_CHANNELS:  # all taps in one product, of copies side by side
    taps = _pixel_products(_shifted(images, shifts, gradient.shape), gradient, dtype)
    return taps.reshape(size, size, c_in, c_out)
  if c_out < THIN_CHANNELS:
    margin = (size - 1, size - 1)
    padded = jnp.pad(gradient, ((0, 0), margin, margin, (0, 0)))
    taps = _pixel_products(images, _shifted(padded, shifts[::-1], images.shape), dtype)
    return jnp.moveaxis(taps.reshape(c_in, size, size, c_out), 0, 2)
  copies = (_shifted(images, [shift], gradient.shape) for shift in shifts)
  taps = [_pixel_products(copy, gradient, dtype) for copy in copies]
  return jnp.stack(taps).reshape(size, size, c_in, c_out)


def _shifted(
  images: jax.Array, shifts: Iterable[tuple[int, int]], shape: tuple[int, ...]
) -> jax.Array:
  """Copies of `images`, cut to `shape` from each of `shifts` on, side by side as channels."""
  _, h, w, _ = shape
  return jnp.concatenate([images[:, y : y + h, x : x + w] for y, x in shifts], axis=-1)


def _pixel_products(first: jax.Array, second: jax.Array, dtype: DType) -> jax.Array:
  """Sums over all pixels the products of `[n, h, w, a]` and `[n, h, w, b]`: `[a, b]`."""
  first, second = (x.reshape(-1, x.shape[-1]) for x in (first, second))
  return _multiply(first.T, second, dtype)


def _winograd_kernel_gradient(images: jax.Array, gradient: jax.Array) -> jax.Array:
  """The adjoint of `conv` by `_winograd` in the kernel.

  Its passes are written down, because those of JAX's own transposition run three times longer.
  """
  _, h, w, c_out = gradient.shape
  rows, columns = -(-h // 4), -(-w // 4)
  fill = ((0, 0), (0, 4 * rows - h), (0, 4 * columns - w), (0, 0))
  tiles = _image_tiles(_tiled_with_border(images), rows, columns)
  outs = jnp.pad(gradient, fill)
  across = lax.optimization_barrier(_mix(_OUT.T, [outs[:, y::4] for y in range(4)]))
  products = lax.optimization_barrier(_mix(_OUT.T, [across[:, :, :, x::4] for x in range(4)]))
  tiles, products = (x.reshape(36, -1, x.shape[-1]) for x in (tiles, products))
  taps = lax.dot_general(tiles, products, (((1,), (1,)), ((0,), (0,))))
  kernel = _taps_2d(taps.dtype).T @ lax.optimization_barrier(taps.reshape(36, -1))
  return kernel.reshape(3, 3, -1, c_out)


def _in_parts(
  form: Callable[[jax.Array, jax.Array], jax.Array], images: jax.Array, gradient: jax.Array
) -> jax.Array:
  """Sums `form(images, gradient)` over parts of a large batch."""
  n, h, w, _ = gradient.shape
  size = max(GRADIENT_PIXELS // (h * w), 1)
  parts = [form(images[i : i + size], gradient[i : i + size]) for i in range(0, n, size)]
  return functools.reduce(jnp.add, parts)


def _takes_winograd(images: jax.Array, kernel: jax.Array) -> bool:
  _, h, w, _ = images.shape
  slow_products = host_cpu.memory_is_kept() and not host_cpu.has_wide_vectors()
  enough = WINOGRAD_CHANNELS // 2 if slow_products else WINOGRAD_CHANNELS
  return min(kernel.shape[2:]) >= enough and h * w >= WINOGRAD_PIXELS


def _zero_padded(images: jax.Array, kernel: jax.Array, dtype: DType) -> jax.Array:
  if _takes_winograd(images, kernel):
    _, h, w, _ = images.shape
    padded = jnp.pad(images, ((0, 0), (1, 1 + -h % 4), (1, 1 + -w % 4), (0, 0)))
    return _winograd(padded, kernel, images.shape)
  if dtype == jnp.bfloat16 and min(kernel.shape[2:]) >= THIN_CHANNELS:
    return _row_products(images, kernel, dtype)
  return _xla(images, kernel)


def _row_products(images: jax.Array, kernel: jax.Array, dtype: DType) -> jax.Array:
  """The zero-padded convolution as a product per row of the kernel, in `dtype`."""
  _, h, w, c_in = images.shape
  padded = jnp.pad(images.astype(dtype), ((0, 0), (1, 1), (1, 1), (0, 0)))
  copies = jnp.concatenate([padded[:, :, x : x + w] for x in range(3)], axis=-1)
  copies = lax.optimization_barrier(copies)
  taps = kernel.reshape(3, 3 * c_in, -1)
  rows = (_multiply(copies[:, y : y + h], taps[y], dtype) for y in range(3))
  return functools.reduce(jnp.add, rows)


def _multiply(first: jax.Array, second: jax.Array, dtype: DType) -> jax.Array:
  """`first @ second` of factors in `dtype`, summed up in at least float32."""
  total = np.promote_types(dtype, np.float32)
  return jnp.matmul(first.astype(dtype), second.astype(dtype), preferred_element_type=total)


def _xla(images: jax.Array, kernel: jax.Array, padding=((1, 1), (1, 1))) -> jax.Array:
  return lax.conv_general_dilated(
    images, kernel, (1, 1), padding, dimension_numbers=DIMENSION_NUMBERS
  )


def _winograd(padded: jax.Array, kernel: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """The convolution by F(4x4, 3x3): 36 products for 16 pixels, in place of 144.

  Args:
    padded: images with their border, filled up to whole tiles at the bottom and right:
      `[n, h + 2 (+ 3), w + 2 (+ 3), c_in]`.
    kernel: `[3, 3, c_in, c_out]`.
    shape: of the images, `[n, h, w, c_in]`.

  Returns:
    `[n, h, w, c_out]`.
  """
  n, h, w, c_in = shape
  rows, columns, c_out = -(-h // 4), -(-w // 4), kernel.shape[-1]
  # Barriers separate the passes, because XLA would otherwise recompute the first for every use, and
  # the taps of constant kernels while it compiles, for minutes.
  taps = _taps_2d(kernel.dtype) @ lax.optimization_barrier(kernel.reshape(9, -1))
  taps = lax.optimization_barrier(taps)
  tiles = _image_tiles(padded, rows, columns)
  products = tiles.reshape(36, -1, c_in) @ taps.reshape(36, c_in, c_out)
  products = lax.optimization_barrier(products.reshape(6, 6, n, rows, columns, c_out))
  across = _mix(_OUT, products, axis=4)
  across = lax.optimization_barrier(across.reshape(6, n, rows, 4 * columns, c_out))
  outs = _mix(_OUT, across, axis=2)
  return outs.reshape(n, 4 * rows, 4 * columns, c_out)[:, :h, :w]


def _taps_2d(dtype: DType) -> jax.Array:
  return jnp.asarray(_TAPS_2D, dtype)


def _image_tiles(padded: jax.Array, rows: int, columns: int) -> jax.Array:
  """The transformed 6 x 6 tiles of `[n, 4 rows + 2, 4 columns + 2, c]`, which overlap by 2.

  Returns:
    `[6, 6, n, rows, columns, c]`, by column and row of the tile.
  """
  pixels = [padded[:, y : y + 4 * rows - 3 : 4] for y in range(6)]
  down = lax.optimization_barrier(_mix(_IN, pixels))
  pixels = [down[:, :, :, x : x + 4 * columns - 3 : 4] for x in range(6)]
  return lax.optimization_barrier(_mix(_IN, pixels))


def _mix(matrix: np.ndarray, terms: Iterable[jax.Array], axis: int = 0) -> jax.Array:
  """The sums of `terms` weighed by each row of `matrix`, stacked along a new `axis`."""
  terms = list(terms)

  def combine(weights: np.ndarray) -> jax.Array:
    used = [(a, term) for a, term in zip(weights, terms, strict=True) if a]
    # Not `*` and `+`: JAX traces these as functions of their own, which takes many times as long.
    # A weight of the terms' own type, because in JAX's 64-bit mode a Python float has 64 bits.
    scaled = [term if a == 1 else lax.mul(term, term.dtype.type(a)) for a, term in used]
    return functools.reduce(lax.add, scaled)

  return jnp.stack([combine(weights) for weights in matrix], axis)


# --- the border ---


def _mirrored(size: int, *, multiple: int = 1) -> np.ndarray:
  """Indices of an axis with a mirrored pixel at both ends; whatever fills it up to a multiple."""
  filled = np.full(-size % multiple, size - 1)
  return np.concatenate([[1], np.arange(size), [size - 2], filled])


def _tiled_with_border(images: jax.Array) -> jax.Array:
  """The images with a mirrored border, filled up to whole tiles of 4 x 4 outputs.

  Returns:
    `[n, 4 rows + 2, 4 columns + 2, c]`; what fills is finite where the images are.
  """
  _, h, w, _ = images.shape
  padded = _take(_take(images, _mirrored(h, multiple=4), 1), _mirrored(w, multiple=4), 2)
  return lax.optimization_barrier(padded)


def _take(images: jax.Array, indices: np.ndarray, axis: int) -> jax.Array:
  places = (slice(None),) * axis + (indices,)
  return images.at[places].get(mode="promise_in_bounds")  # JAX's default checks every index


def _with_edges(out: jax.Array, images: jax.Array, kernel: jax.Array) -> jax.Array:
  """Replaces the outermost lines of a zero-padded convolution by those with reflect padding."""
  n, h, w, _ = images.shape

  def ends(axis: int) -> jax.Array:
    """The lines that the first output line is made from, and below as more images, the last's."""
    size = images.shape[axis]
    places = np.array([[1, 0, 1], [size - 2, size - 1, size - 2]])
    return jnp.concatenate([_take(images, lines, axis) for lines in places])

  rows, columns = _take(ends(1), _mirrored(w), 2), _take(ends(2), _mirrored(h), 1)
  rows, columns = lax.optimization_barrier((rows, columns))
  rows, columns = (_xla(lines, kernel, ((0, 0), (0, 0))) for lines in (rows, columns))
  for line, axis, index in (
    (rows[:n], 1, 0),
    (rows[n:], 1, h - 1),
    (columns[:n], 2, 0),
    (columns[n:], 2, w - 1),
  ):
    out = lax.dynamic_update_slice_in_dim(out, line, index, axis)
  return out


def _add_mirrored(images: jax.Array, kernel: jax.Array, gradient: jax.Array) -> jax.Array:
  """Adds the gradient of mirrored pixels to the lines that they mirror, next to the outermost.

  As products of matrices: for convolutions of single lines, XLA writes loops of its own, one for
  each line and layer, which take longer to compile and to run.

  Args:
    images: the gradient of the zero-padded convolution, `[n, h, w, c_in]`.
    kernel: of the convolution.
    gradient: of its output, `[n, h, w, c_out]`.
  """
  _, h, w, _ = gradient.shape

  def outermost(axis: int) -> jax.Array:
    """The first and the last line: `[2, n, length, c_out]`."""
    size = gradient.shape[axis]
    ends = (lax.index_in_dim(gradient, index, axis, keepdims=False) for index in (0, size - 1))
    return jnp.stack(list(ends))

  rows = _line_gradient(outermost(1), jnp.stack([kernel[0], kernel[2]]), corners=True)
  columns = _line_gradient(outermost(2), jnp.stack([kernel[:, 0], kernel[:, 2]]), corners=False)
  rows, columns = lax.optimization_barrier((rows, columns))
  for lines, axis, size in ((rows, 1, h), (columns, 2, w)):
    for line, index in zip(lines, (1, size - 2), strict=True):
      there = lax.slice_in_dim(images, index, index + 1, axis=axis)
      added = there + jnp.expand_dims(line, axis)
      images = lax.dynamic_update_slice_in_dim(images, added, index, axis)
  return images


def _line_gradient(lines: jax.Array, taps: jax.Array, *, corners: bool) -> jax.Array:
  """The gradient of mirrored lines, from the outputs that are made from them.

  Args:
    lines: the outputs' gradient, of two borders, `[2, n, length, c_out]`.
    taps: the kernel's line that meets each, `[2, 3, c_in, c_out]`.
    corners: whether the lines have a mirrored pixel at both ends, whose gradient is that of the
      pixel it mirrors.

  Returns:
    `[2, n, length, c_in]`.
  """
  ends, n, length, c_out = lines.shape
  flat = taps.reshape(ends, -1, c_out)
  products = lax.dot_general(lines.reshape(ends, -1, c_out), flat, (((2,), (2,)), ((0,), (0,))))
  products = lax.optimization_barrier(products.reshape(ends, n, length, 3, -1))
  # With a zero at both ends, all parts of the sum are slices of one array. XLA makes a loop of its
  # own of every `pad`, which takes long to compile.
  zero = np.zeros((), products.dtype)
  padded = lax.pad(products, zero, ((0, 0, 0), (0, 0, 0), (1, 1, 0), (0, 0, 0), (0, 0, 0)))
  total = padded[:, :, 1:-1, 1] + padded[:, :, 2:, 0] + padded[:, :, :-2, 2]
  if not corners:
    return total
  place = np.arange(length).reshape(length, 1)
  total = jnp.where(place == 1, total + products[:, :, :1, 0], total)
  return jnp.where(place == length - 2, total + products[:, :, -1:, 2], total)


# --- after an upsampling ---


def enlarged_conv(images: jax.Array, kernel: jax.Array, dtype: DType) -> jax.Array:
  """Upsamples x2 (nearest neighbor) and convolves with reflect padding, in one.

  Along one axis, with taps a, b, c and pixels x, the two outputs at pixel i are

      a x[i-1] + (b + c) x[i] = (a + b + c) x[i] - a (x[i] - x[i-1])
      (a + b) x[i] + c x[i+1] = (a + b + c) x[i] + c (x[i+1] - x[i])

  and a mirrored border makes the outermost differences zero.

  Returns:
    `[n, 2 h, 2 w, c_out]`.
  """
  n, h, w, _ = images.shape
  same, across, down, both = (
    _multiply(pixels, taps, dtype)
    for pixels, taps in zip(_differences(images), _difference_taps(kernel), strict=True)
  )
  across, down = (x.reshape(*x.shape[:3], 2, -1) for x in (across, down))
  both = both.reshape(*both.shape[:3], 2, 2, -1)

  def output(y: int, x: int) -> jax.Array:
    """The output pixels at (2 i + y, 2 j + x)."""
    part = same + across[:, :, x : x + w, x] + down[:, y : y + h, :, y]
    return part + both[:, y : y + h, x : x + w, y, x]

  rows = [jnp.stack([output(y, x) for x in (0, 1)], axis=3) for y in (0, 1)]
  return jnp.stack(rows, axis=2).reshape(n, 2 * h, 2 * w, -1)


def enlarged_image_gradient(kernel: jax.Array, gradient: jax.Array, dtype: DType) -> jax.Array:
  """The gradient of `enlarged_conv` with respect to the images, from that of its output."""
  parts = tuple(
    _multiply(outputs, taps.T, dtype)
    for outputs, taps in zip(_product_gradients(gradient), _difference_taps(kernel), strict=True)
  )
  adjoint = jax.linear_transpose(_differences, jax.ShapeDtypeStruct(parts[0].shape, parts[0].dtype))
  return adjoint(parts)[0]


def enlarged_kernel_gradient(images: jax.Array, gradient: jax.Array, dtype: DType) -> jax.Array:
  """The gradient of `enlarged_conv` with respect to the kernel, from that of its output."""

  def form(images: jax.Array, gradient: jax.Array) -> jax.Array:
    parts = zip(_differences(images), _product_gradients(gradient), strict=True)
    return _taps_of_differences(*(_pixel_products(*part, dtype) for part in parts))

  return _in_parts(form, images, gradient)


Parts = tuple[jax.Array, jax.Array, jax.Array, jax.Array]  # same, across, down, both


def _differences(images: jax.Array) -> Parts:
  """The images, and the differences of neighbors across, down and in both directions.

  These are zero at the borders, and one longer than the images.
  """
  across = jnp.pad(jnp.diff(images, axis=2), ((0, 0), (0, 0), (1, 1), (0, 0)))
  down = jnp.pad(jnp.diff(images, axis=1), ((0, 0), (1, 1), (0, 0), (0, 0)))
  both = jnp.pad(jnp.diff(across, axis=1), ((0, 0), (1, 1), (0, 0), (0, 0)))
  return images, across, down, both


def _difference_taps(kernel: jax.Array) -> Parts:
  """What each of the `_differences` is multiplied by, for the outputs that it has a part in.

  Returns:
    `[c_in, c_out]`, `[c_in, 2 c_out]` (left, right output), `[c_in, 2 c_out]` (upper, lower) and
    `[c_in, 4 c_out]`.
  """
  # Written as additions, which XLA runs several times faster here than sums over an axis.
  by_rows = jnp.stack([-kernel[0], kernel[0] + kernel[1] + kernel[2], kernel[2]])
  left, middle, right = by_rows[:, 0], by_rows[:, 1], by_rows[:, 2]
  taps = jnp.stack([-left, left + middle + right, right], axis=1)  # [3, 3, c_in, c_out]
  taps = lax.optimization_barrier(taps)
  places = ([(1, 1)], [(1, 0), (1, 2)], [(0, 1), (2, 1)], [(0, 0), (0, 2), (2, 0), (2, 2)])
  same, across, down, both = (jnp.concatenate([taps[p] for p in some], -1) for some in places)
  return same, across, down, both


def _taps_of_differences(
  same: jax.Array, across: jax.Array, down: jax.Array, both: jax.Array
) -> jax.Array:
  """The adjoint of `_difference_taps`: `[3, 3, c_in, c_out]`."""

  def taps(before: jax.Array, sum_of_all: jax.Array, after: jax.Array) -> jax.Array:
    """Three taps a, b, c along one axis, from the gradients of -a, a + b + c and c."""
    return jnp.stack([sum_of_all - before, sum_of_all, sum_of_all + after])

  left, right = jnp.split(across, 2, -1)
  upper, lower = jnp.split(down, 2, -1)
  upper_left, upper_right, lower_left, lower_right = jnp.split(both, 4, -1)
  upper_row = taps(upper_left, upper, upper_right)
  lower_row = taps(lower_left, lower, lower_right)
  return taps(upper_row, taps(left, same, right), lower_row)


def _product_gradients(gradient: jax.Array) -> Parts:
  """The gradients of the four products in `enlarged_conv`, from that of its output."""
  n, h, w, c = gradient.shape
  outputs = gradient.reshape(n, h // 2, 2, w // 2, 2, c)
  # The second output meets the difference that lies one further.
  sides = ((0, 1), (1, 0))

  def pad(pixels: jax.Array, rows: tuple[int, int], columns: tuple[int, int]) -> jax.Array:
    return jnp.pad(pixels, ((0, 0), rows, columns, (0, 0)))

  by_row = [outputs[:, :, y, :, 0] + outputs[:, :, y, :, 1] for y in (0, 1)]
  by_column = [outputs[:, :, 0, :, x] + outputs[:, :, 1, :, x] for x in (0, 1)]
  across = [pad(by_column[x], (0, 0), sides[x]) for x in (0, 1)]
  down = [pad(by_row[y], sides[y], (0, 0)) for y in (0, 1)]
  both = [pad(outputs[:, :, y, :, x], sides[y], sides[x]) for y in (0, 1) for x in (0, 1)]
  across, down, both = (
    lax.optimization_barrier(jnp.concatenate(some, -1)) for some in (across, down, both)
  )
  return by_row[0] + by_row[1], across, down, both
