"""The 3x3 convolution that every network here is made of: reflect padding, stride 1.

Reflect padding keeps the borders of a picture free of the dark frames that zero padding leaves
(both papers use it). `conv` is the plain function; `ReflectConv` is the Flax layer around it.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

DIMENSION_NUMBERS = ("NHWC", "HWIO", "NHWC")


def reflect_pad(images: jax.Array, size: int) -> jax.Array:
  """Pads height and width of `images` `[n, h, w, c]` by `size` mirrored pixels on every side."""
  if size == 0:
    return images
  return jnp.pad(images, ((0, 0), (size, size), (size, size), (0, 0)), mode="reflect")


def reflect_pad_to_multiple(images: jax.Array, multiple: int) -> jax.Array:
  """Pads `images` `[n, h, w, c]` at the bottom and right until both sizes divide by `multiple`."""
  _, h, w, _ = images.shape
  pad = ((0, 0), (0, -h % multiple), (0, -w % multiple), (0, 0))
  return jnp.pad(images, pad, mode="reflect")


def conv_valid(images: jax.Array, kernel: jax.Array) -> jax.Array:
  """Convolves `[n, h, w, c_in]` with an HWIO `kernel`, without padding, stride 1.

  XLA's CPU backend runs a convolution without any padding of its own about three times slower
  than one with some, so on CPU we ask for one zero row more and drop the output row that it
  makes. The numbers are the same; other platforms get the plain convolution.
  """
  height = images.shape[1] - kernel.shape[0] + 1

  def with_spare_row(images: jax.Array, kernel: jax.Array) -> jax.Array:
    padding = ((0, 1), (0, 0))
    out = lax.conv_general_dilated(
      images, kernel, (1, 1), padding, dimension_numbers=DIMENSION_NUMBERS
    )
    return out[:, :height]

  def plain(images: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(
      images, kernel, (1, 1), "VALID", dimension_numbers=DIMENSION_NUMBERS
    )

  return lax.platform_dependent(images, kernel, cpu=with_spare_row, default=plain)


def conv(images: jax.Array, kernel: jax.Array, bias: jax.Array | None = None) -> jax.Array:
  """Convolves with reflect padding, so that the output is as large as the input.

  Args:
    images: `[n, h, w, c_in]`.
    kernel: `[k, k, c_in, c_out]`, k odd.
    bias: `[c_out]`, or None.

  Returns:
    `[n, h, w, c_out]`, in the dtype of `images`.
  """
  kernel = kernel.astype(images.dtype)
  out = conv_valid(reflect_pad(images, kernel.shape[0] // 2), kernel)
  # Added in the bias' dtype, so that its gradient is summed in it as well.
  return out if bias is None else (out + bias).astype(images.dtype)


@jax.custom_vjp
def conv_per_sample(image: jax.Array, kernel: jax.Array) -> jax.Array:
  """Convolves one padded image with its own kernel; made to be `vmap`ped over both.

  A vmapped convolution becomes one grouped convolution, whose backward pass XLA's CPU backend
  runs ten to thirty times slower than that of separate ones. Here `vmap` becomes separate
  convolutions on CPU, and stays one grouped convolution elsewhere. When all images share one
  kernel it is an ordinary convolution. Only reverse-mode differentiation is defined.

  Args:
    image: `[h + k - 1, w + k - 1, c_in]`.
    kernel: `[k, k, c_in, c_out]`.

  Returns:
    `[h, w, c_out]`.
  """
  return _forward(image, kernel)


def _conv_one(image: jax.Array, kernel: jax.Array) -> jax.Array:
  return conv_valid(image[None], kernel)[0]


def _one_by_one_on_cpu(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
  """Makes `vmap` of `function` (two array arguments) a Python loop on CPU."""
  mapped = jax.custom_batching.custom_vmap(function)

  @mapped.def_vmap
  def rule(size, batched, first, second):
    axes = tuple(0 if b else None for b in batched)

    def loop(first, second):
      # Calling `mapped` again keeps the rule alive for a further vmap around this one.
      outs = [
        mapped(first[i] if batched[0] else first, second[i] if batched[1] else second)
        for i in range(size)
      ]
      return jnp.stack(outs)

    together = jax.vmap(function, in_axes=axes)
    if function is _conv_one and not batched[1]:
      return together(first, second), True
    return lax.platform_dependent(first, second, cpu=loop, default=together), True

  return mapped


def _image_gradient(kernel: jax.Array, gradient: jax.Array) -> jax.Array:
  k, _, c_in, _ = kernel.shape
  h, w, _ = gradient.shape
  image = jax.ShapeDtypeStruct((h + k - 1, w + k - 1, c_in), gradient.dtype)
  return jax.linear_transpose(lambda image: _conv_one(image, kernel), image)(gradient)[0]


def _kernel_gradient(image: jax.Array, gradient: jax.Array) -> jax.Array:
  k = image.shape[0] - gradient.shape[0] + 1
  kernel = jax.ShapeDtypeStruct((k, k, image.shape[-1], gradient.shape[-1]), gradient.dtype)
  return jax.linear_transpose(lambda kernel: _conv_one(image, kernel), kernel)(gradient)[0]


_forward = _one_by_one_on_cpu(_conv_one)
_backward_image = _one_by_one_on_cpu(_image_gradient)
_backward_kernel = _one_by_one_on_cpu(_kernel_gradient)


def _conv_per_sample_fwd(image, kernel):
  return _forward(image, kernel), (image, kernel)


def _conv_per_sample_bwd(saved, gradient):
  image, kernel = saved
  return _backward_image(kernel, gradient), _backward_kernel(image, gradient)


conv_per_sample.defvjp(_conv_per_sample_fwd, _conv_per_sample_bwd)


class ReflectConv(nn.Module):
  """A learned convolution with reflect padding and stride 1.

  Attributes:
    features: number of output channels.
    kernel_size: height and width of the kernel, odd.
    kernel_init: initializer of the kernel; Xavier is what AdaConv's implementations train with.
    bias_init: initializer of the bias.
  """

  features: int
  kernel_size: int = 3
  kernel_init: Callable[..., jax.Array] = nn.initializers.xavier_uniform()
  bias_init: Callable[..., jax.Array] = nn.initializers.zeros

  @nn.compact
  def __call__(self, images: jax.Array) -> jax.Array:
    """Convolves `[n, h, w, c]` to `[n, h, w, features]`."""
    shape = (self.kernel_size, self.kernel_size, images.shape[-1], self.features)
    kernel = self.param("kernel", self.kernel_init, shape)
    bias = self.param("bias", self.bias_init, (self.features,))
    return conv(images, kernel, bias)
