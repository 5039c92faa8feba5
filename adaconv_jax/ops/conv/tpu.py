"""3x3 convolutions with a kernel per image for TPU: `conv.plain_conv`, with less memory traffic.

- A feature map with mirrored borders is a copy, whose height and width are rounded up to the chip's
  tiles again. Its gradient folds the borders back one by one, each in a pass over the whole map. So
  the convolution here pads with zeros, and the contribution of the mirrored pixels to the outermost
  rows and columns is added where the output is written.
- `vmap` of a convolution's transpose becomes a product with a block-diagonal gradient: n times
  the operations for n kernels. Here the kernels are a spatial axis instead.

Images are `[n, b, h, w, c]`, b for each of n kernels, of at least 2 x 2 pixels; kernels
`[n, 3, 3, c_in, c_out]`.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from adaconv_jax.ops.conv.reference import DIMENSION_NUMBERS

TILE = 8  # columns that a TPU keeps together


@jax.vmap
def conv(images: jax.Array, kernel: jax.Array) -> jax.Array:
  """Convolves with reflect padding: `[n, b, h, w, c_in]` to `[n, b, h, w, c_out]`."""
  return _add_to_lines(_zero_padded(images, kernel), _border(_lines(images, 1), kernel), 0)


@jax.vmap
def image_gradient(kernel: jax.Array, gradient: jax.Array) -> jax.Array:
  """The gradient of `conv` with respect to the images, from that of its output."""
  flipped = kernel[::-1, ::-1].swapaxes(2, 3)
  images = jax.ShapeDtypeStruct((*gradient.shape[:3], kernel.shape[2]), gradient.dtype)
  lines = jax.eval_shape(functools.partial(_lines, distance=1), images)
  border = jax.linear_transpose(lambda lines: _border(lines, kernel), lines)
  return _add_to_lines(_zero_padded(gradient, flipped), border(_lines(gradient, 0))[0], 1)


def kernel_gradient(images: jax.Array, gradient: jax.Array) -> jax.Array:
  """The gradient of `conv` with respect to the kernels, from that of its output."""
  n = images.shape[0]
  # The images are at every n-th place and the gradients at n adjacent ones; in steps of n - 1, each
  # image meets its own gradient. XLA itself writes a batched product this way.
  inside = lax.conv_general_dilated(
    images,
    gradient,
    (max(n - 1, 1), 1, 1),
    ((0, 0), (1, 1), (1, 1)),
    lhs_dilation=(n, 1, 1),
    dimension_numbers=("DCHWN", "DIHWO", "DHWNC"),
  )
  return inside + jax.vmap(_border_kernel_gradient)(images, gradient)


def _border_kernel_gradient(images: jax.Array, gradient: jax.Array) -> jax.Array:
  lines = _lines(images, 1)
  kernel = jax.ShapeDtypeStruct((3, 3, images.shape[-1], gradient.shape[-1]), gradient.dtype)
  adjoint = jax.linear_transpose(lambda kernel: _border(lines, kernel), kernel)
  return adjoint(_lines(gradient, 0))[0]


def _zero_padded(images: jax.Array, kernel: jax.Array) -> jax.Array:
  padding = ((1, 1), (1, 1))
  return lax.conv_general_dilated(
    images, kernel, (1, 1), padding, dimension_numbers=DIMENSION_NUMBERS
  )


# --- the border, for one kernel ---

Lines = tuple[jax.Array, jax.Array, jax.Array, jax.Array]  # top, bottom, left, right


def _lines(images: jax.Array, distance: int) -> Lines:
  """The rows `[b, w, c]` and columns `[b, h, c]` at `distance` from the edges."""
  _, h, w, _ = images.shape
  size = min(TILE, w)

  def column(columns: jax.Array, index: int) -> jax.Array:
    # To slice out one column, XLA would first change the layout of all images.
    return jnp.sum(jnp.where(jnp.arange(size).reshape(1, 1, -1, 1) == index, columns, 0), axis=2)

  left = column(images[:, :, :size], distance)
  right = column(images[:, :, w - size :], size - 1 - distance)
  return images[:, distance], images[:, h - 1 - distance], left, right


def _add_to_lines(images: jax.Array, lines: Lines, distance: int) -> jax.Array:
  """Adds the adjoint of `_lines` to `images`; XLA fuses this into the convolution."""
  _, h, w, _ = images.shape
  top, bottom, left, right = lines
  row, column = jnp.arange(h).reshape(1, -1, 1, 1), jnp.arange(w).reshape(1, 1, -1, 1)
  total = images + jnp.where(row == distance, top[:, None], 0)
  total += jnp.where(row == h - 1 - distance, bottom[:, None], 0)
  total += jnp.where(column == distance, left[:, :, None], 0)
  return total + jnp.where(column == w - 1 - distance, right[:, :, None], 0)


def _border(lines: Lines, kernel: jax.Array) -> Lines:
  """Computes what the mirrored pixels add to the outermost lines of a zero-padded convolution.

  Args:
    lines: the mirrored ones, at distance 1 from the edges.
    kernel: of the convolution.
  """
  top, bottom, left, right = lines
  return (
    _conv_line(top, kernel[0], "reflect"),  # the corners of the padded image belong to its rows
    _conv_line(bottom, kernel[2], "reflect"),
    _conv_line(left, kernel[:, 0], "constant"),
    _conv_line(right, kernel[:, 2], "constant"),
  )


def _conv_line(line: jax.Array, kernel: jax.Array, padding: str) -> jax.Array:
  """Convolves `[b, l, c_in]` with `[3, c_in, c_out]`, as one product."""
  padded = jnp.pad(line, ((0, 0), (1, 1), (0, 0)), mode=padding)
  shifted = [padded[:, i : i + line.shape[1]] for i in range(3)]
  return jnp.concatenate(shifted, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])
