"""The 3x3 convolution that every network here is made of: reflect padding, stride 1.

Reflect padding keeps the borders of a picture free of the dark frames that zero padding leaves
(both papers use it). `conv` takes a batch of images; `conv_per_sample` is made to be `vmap`ped over
images and kernels. Each platform runs the form that is fastest there, with gradients of its own:
`reference.py`, which defines the numbers, `cpu.py`, or on TPU, for a kernel per image, `tpu.py`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import cast

import jax
import jax.numpy as jnp
from jax import lax

from adaconv_jax import host_cpu
from adaconv_jax.ops.conv import cpu as conv_cpu
from adaconv_jax.ops.conv import tpu as conv_tpu
from adaconv_jax.ops.conv.reference import plain_conv, reflect_pad, upsample
from adaconv_jax.ops.extent import Extent, mirror_border

# Images below this height or width are convolved plainly on CPU too: they take no time, and the
# faster forms take longer to compile.
SMALLEST_ON_CPU = 12


def conv(
  images: jax.Array,
  kernel: jax.Array,
  bias: jax.Array | None = None,
  *,
  enlarge: bool = False,
  extent: Extent | None = None,
) -> jax.Array:
  """Convolves with reflect padding, so that the output is as large as the input.

  It can be differentiated in reverse mode only.

  Args:
    images: `[n, h, w, c_in]`.
    kernel: `[k, k, c_in, c_out]`, k odd.
    bias: `[c_out]`, or None.
    enlarge: `upsample` the images first, at a fraction of the cost of doing it apart.
    extent: what counts of the images, at whose border they are mirrored; k is 3 then. None: all.

  Returns:
    `[n, h, w, c_out]`, or with `enlarge` `[n, 2 h, 2 w, c_out]`, in the dtype of `images`.
  """
  if extent is not None:
    images = mirror_border(images, extent, enlarge=enlarge)
  out = cast(jax.Array, _conv(images, kernel.astype(images.dtype), enlarge))
  # Added in the bias' dtype, so that its gradient is summed in it as well.
  return out if bias is None else (out + bias).astype(images.dtype)


def conv_per_sample(
  image: jax.Array, kernel: jax.Array, bias: jax.Array | None = None, *, enlarge: bool = False
) -> jax.Array:
  """Convolves one image with its own kernel; made to be `vmap`ped over both.

  A vmapped convolution becomes one grouped convolution, whose backward pass XLA's CPU backend
  runs ten to thirty times slower than that of separate ones. Here `vmap` becomes separate
  convolutions on CPU, and stays one grouped convolution elsewhere, on TPU with gradients that are
  written down. When all images share one kernel it is an ordinary convolution. It can be
  differentiated in reverse mode only.

  Args:
    image: `[h, w, c_in]`.
    kernel: `[k, k, c_in, c_out]`, k odd.
    bias: `[c_out]`, or None.
    enlarge: `upsample` the image first.

  Returns:
    `[h, w, c_out]`, or with `enlarge` `[2 h, 2 w, c_out]`, in the dtype of `image`.
  """
  # The bias is added in here: behind [0], a TPU would add it in another pass over the images.
  return conv(image[None], kernel, bias, enlarge=enlarge)[0]


# --- the form for each platform, and its gradients ---


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv(images: jax.Array, kernel: jax.Array, enlarge: bool) -> jax.Array:
  return _forward(enlarge)(images, kernel)


def _conv_fwd(images, kernel, enlarge):
  return _conv(images, kernel, enlarge), (images, kernel)


def _conv_bwd(enlarge, saved, gradient):
  images, kernel = saved
  to_images = _image_gradient(enlarge)(kernel, gradient)
  return to_images, _kernel_gradient(enlarge, kernel.shape[0])(images, gradient)


_conv.defvjp(_conv_fwd, _conv_bwd)


@functools.cache
def _forward(enlarge: bool) -> Callable[..., jax.Array]:
  def plain(images, kernel):
    return plain_conv(images, kernel, enlarge)

  def cpu(images, kernel, dtype):
    if not _has_cpu_form(images.shape, kernel.shape[0], enlarge):
      return plain(images, kernel)
    return (conv_cpu.enlarged_conv if enlarge else conv_cpu.conv)(images, kernel, dtype)

  def tpu(images, kernels):
    if not _has_tpu_form(images.shape, kernels.shape[1], enlarge):
      return jax.vmap(plain)(images, kernels)
    return conv_tpu.conv(jax.vmap(upsample)(images) if enlarge else images, kernels)

  return _per_platform(cpu, plain, tpu, merge=1)


@functools.cache
def _image_gradient(enlarge: bool) -> Callable[..., jax.Array]:
  scale = 2 if enlarge else 1

  def plain(kernel, gradient):
    n, h, w, _ = gradient.shape
    shape = (n, h // scale, w // scale, kernel.shape[2])
    images = jax.ShapeDtypeStruct(shape, gradient.dtype)
    return jax.linear_transpose(lambda x: plain_conv(x, kernel, enlarge), images)(gradient)[0]

  def cpu(kernel, gradient, dtype):
    n, h, w, _ = gradient.shape
    if not _has_cpu_form((n, h // scale, w // scale), kernel.shape[0], enlarge):
      return plain(kernel, gradient)
    form = conv_cpu.enlarged_image_gradient if enlarge else conv_cpu.image_gradient
    return form(kernel, gradient, dtype)

  def tpu(kernels, gradient):
    n, b, h, w, _ = gradient.shape
    shape = (n, b, h // scale, w // scale, kernels.shape[3])
    if not _has_tpu_form(shape, kernels.shape[1], enlarge):
      return jax.vmap(plain)(kernels, gradient)
    to_images = conv_tpu.image_gradient(kernels, gradient)
    if not enlarge:
      return to_images
    images = jax.ShapeDtypeStruct(shape, gradient.dtype)
    return jax.linear_transpose(jax.vmap(upsample), images)(to_images)[0]

  return _per_platform(cpu, plain, tpu, merge=0)


@functools.cache
def _kernel_gradient(enlarge: bool, size: int) -> Callable[..., jax.Array]:
  def plain(images, gradient):
    shape = (size, size, images.shape[-1], gradient.shape[-1])
    kernel = jax.ShapeDtypeStruct(shape, gradient.dtype)
    return jax.linear_transpose(lambda k: plain_conv(images, k, enlarge), kernel)(gradient)[0]

  def cpu(images, gradient, dtype):
    if not _has_cpu_form(images.shape, size, enlarge):
      padded = reflect_pad(upsample(images) if enlarge else images, size // 2)
      return conv_cpu.valid_kernel_gradient(padded, gradient, size, dtype)
    form = conv_cpu.enlarged_kernel_gradient if enlarge else conv_cpu.kernel_gradient
    return form(images, gradient, dtype)

  def tpu(images, gradient):
    if not _has_tpu_form(images.shape, size, enlarge):
      return jax.vmap(plain)(images, gradient)
    return conv_tpu.kernel_gradient(jax.vmap(upsample)(images) if enlarge else images, gradient)

  return _per_platform(cpu, plain, tpu)


def _has_cpu_form(shape: Sequence[int], size: int, enlarge: bool) -> bool:
  smallest = SMALLEST_ON_CPU // (2 if enlarge else 1)
  return size == 3 and min(shape[1:3]) >= smallest


def _has_tpu_form(shape: Sequence[int], size: int, enlarge: bool) -> bool:
  return size == 3 and (enlarge or min(shape[2:4]) >= 2)


def _per_platform(
  cpu: Callable[..., jax.Array],
  plain: Callable[..., jax.Array],
  tpu: Callable[..., jax.Array],
  *,
  merge: int | None = None,
) -> Callable[..., jax.Array]:
  """Makes a function of two arrays that is `cpu` on CPUs and `plain` elsewhere.

  Under `vmap` it becomes a Python loop on CPUs, `tpu` on TPUs, and the vmapped `plain` elsewhere.
  Where the kernel is not mapped, it is one call for all images everywhere.

  Args:
    cpu: takes and returns float32 (or float64); its third argument is the dtype of the factors in
      matrix products.
    plain: takes any float.
    tpu: takes any float, both arrays with one more leading axis.
    merge: which argument is the kernel; None if there is none.
  """

  def wide(*arrays: jax.Array) -> jax.Array:
    # XLA's CPU convolutions gain nothing from shorter types, and Winograd's would lose digits.
    dtype = arrays[0].dtype
    long = jnp.promote_types(dtype, jnp.float32)
    short = dtype == jnp.bfloat16 and host_cpu.multiplies_bfloat16()
    factors = dtype if short else long
    return cpu(*(array.astype(long) for array in arrays), factors).astype(dtype)

  @jax.custom_batching.custom_vmap
  def function(first: jax.Array, second: jax.Array) -> jax.Array:
    return lax.platform_dependent(first, second, cpu=wide, default=plain)

  @function.def_vmap
  def rule(count: int, batched: Sequence[bool], *arrays: jax.Array):
    if merge is not None and not batched[merge]:
      merged = [
        a.reshape(-1, *a.shape[2:]) if b else a for a, b in zip(arrays, batched, strict=True)
      ]
      out = function(*merged)
      return out.reshape(count, -1, *out.shape[1:]), True

    def one_by_one(*arrays: jax.Array) -> jax.Array:
      # Calling `function` again keeps this rule alive for a further vmap around this one.
      pairs = (
        [a[i] if b else a for a, b in zip(arrays, batched, strict=True)] for i in range(count)
      )
      return jnp.stack([function(*pair) for pair in pairs])

    together = jax.vmap(plain, in_axes=tuple(0 if b else None for b in batched))
    # An image that all kernels share stays one, as the input of one ordinary convolution.
    on_tpu = tpu if all(batched) else together
    return lax.platform_dependent(*arrays, cpu=one_by_one, tpu=on_tpu, default=together), True

  return function
