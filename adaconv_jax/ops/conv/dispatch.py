"""The 3x3 convolution that all networks here use: reflect padding, stride 1.

Reflect padding keeps the borders of a picture free of the dark frames that zero padding leaves
(both papers use it). `conv` takes a batch of images; `conv_per_sample` is meant to be `vmap`ped
over images and kernels. Each platform runs the form that is fastest there, with its own gradients:
`reference.py`, which defines the correct result, `cpu.py`, or on TPU, for a kernel per image,
`tpu.py`.
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from adaconv_jax import host_cpu
from adaconv_jax.ops.conv import cpu as conv_cpu
from adaconv_jax.ops.conv import tpu as conv_tpu
from adaconv_jax.ops.conv.reference import (
  plain_conv,
  plain_image_gradient,
  reflect_pad,
  upsample,
)

# Images below this height or width use the plain form on CPU too: they take almost no time, and the
# faster forms take longer to compile.
SMALLEST_ON_CPU = 12

# How a kernel per image is run: "loop", a convolution per image; "grouped", one convolution with a
# group per image; "tpu", the same as `tpu.py` writes it. `benchmarks/gpu_forms.py` compares them
# for GPUs. Read when a program is compiled; a platform that is not here is "grouped".
PER_IMAGE = {"cpu": "loop", "cuda": "grouped", "rocm": "grouped", "tpu": "tpu"}

_only_shapes = contextvars.ContextVar("only_shapes", default=False)


@contextlib.contextmanager
def only_shapes() -> Iterator[None]:
  """Makes `conv` return zeros, where only shapes are wanted, because tracing it takes long.

  Call no function in it that `jax.jit` keeps, or that would return zeros from then on.
  """
  token = _only_shapes.set(True)
  try:
    yield
  finally:
    _only_shapes.reset(token)


def conv(
  images: jax.Array,
  kernel: jax.Array,
  bias: jax.Array | None = None,
  *,
  enlarge: bool = False,
) -> jax.Array:
  """Convolves with reflect padding, so the output has the size of the input.

  It can be differentiated in reverse mode only.

  Args:
    images: `[n, h, w, c_in]`.
    kernel: `[k, k, c_in, c_out]`, k odd.
    bias: `[c_out]`, or None.
    enlarge: `upsample` the images first, at a fraction of the cost of a separate step.

  Returns:
    `[n, h, w, c_out]`, or with `enlarge` `[n, 2 h, 2 w, c_out]`, in the dtype of `images`.
  """
  if _only_shapes.get():
    n, h, w, _ = images.shape
    scale = 2 if enlarge else 1
    return jnp.zeros((n, scale * h, scale * w, kernel.shape[-1]), images.dtype)
  out = cast(jax.Array, _conv(images, kernel.astype(images.dtype), enlarge))
  # Added in the dtype of the bias, so that its gradient is summed in that too.
  return out if bias is None else (out + bias.reshape(1, 1, 1, -1)).astype(images.dtype)


def conv_per_sample(
  image: jax.Array, kernel: jax.Array, bias: jax.Array | None = None, *, enlarge: bool = False
) -> jax.Array:
  """Convolves one image with its own kernel; meant to be `vmap`ped over both.

  A vmapped convolution becomes one grouped convolution, whose backward pass XLA's CPU backend
  runs ten to thirty times slower than that of separate ones. Here `vmap` becomes separate
  convolutions on CPU, and one grouped convolution elsewhere, on TPU with explicit gradients. If all
  images share one kernel, it is an ordinary convolution. It can be differentiated in reverse mode
  only.

  Args:
    image: `[h, w, c_in]`.
    kernel: `[k, k, c_in, c_out]`, k odd.
    bias: `[c_out]`, or None.
    enlarge: `upsample` the image first.

  Returns:
    `[h, w, c_out]`, or with `enlarge` `[2 h, 2 w, c_out]`, in the dtype of `image`.
  """
  # The bias is added in `conv`: after [0], a TPU would need another pass over the images.
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
    return plain_image_gradient(kernel, gradient, enlarge)

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
  If the kernel is not mapped, it is one call for all images on every platform.

  Args:
    cpu: takes and returns float32 (or float64); its third argument is the dtype of the factors in
      matrix products.
    plain: takes any float.
    tpu: takes any float; both arrays have another leading axis.
    merge: index of the argument that is the kernel; None if there is none.
  """

  def wide(*arrays: jax.Array) -> jax.Array:
    # XLA's CPU convolutions are no faster with shorter types, and Winograd's would lose digits.
    dtype = arrays[0].dtype
    long = np.promote_types(dtype, np.float32)
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
    # An image that all kernels share is not repeated: it is the input of one ordinary convolution.
    forms = {"loop": one_by_one, "grouped": together, "tpu": tpu if all(batched) else together}
    chosen = {platform: forms[form] for platform, form in PER_IMAGE.items()}
    return lax.platform_dependent(*arrays, default=together, **chosen), True

  return function
