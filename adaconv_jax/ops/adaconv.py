"""Adaptive convolutions (Chandran et al., CVPR 2021): the operation.

Where AdaIN multiplies each channel of the content by one number and adds another, AdaConv
convolves it with whole kernels that a network predicts from the style, so that structure is
transferred as well as color. The paper applies a depthwise-separable pair of convolutions per
image. Both are linear and follow each other directly, so we multiply the two kernels first and run
one convolution: the same result, less memory, and a fast backward pass.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from adaconv_jax.ops.adain import EPS, instance_norm
from adaconv_jax.ops.conv import conv_per_sample, reflect_pad, upsample


def adaconv(
  features: jax.Array,
  spatial_kernel: jax.Array,
  pointwise_kernel: jax.Array,
  bias: jax.Array,
  *,
  groups: int,
  enlarge: bool = False,
  eps: float = EPS,
) -> jax.Array:
  """Convolves the normalized features of one image with its own kernels (paper, eq. 3 and 4).

      AdaConv(x; p, f, b) = p * (f * (x - mu_x) / sigma_x) + b       (* convolves)

  Both convolutions are grouped, with `groups` groups; f pads by reflection. For a batch,
  `jax.vmap` it over images and kernels. It can be differentiated in reverse mode only.

  Args:
    features: `[h, w, c_in]`, not normalized.
    spatial_kernel: f, `[k, k, c_in / groups, c_out]`, k odd, HWIO.
    pointwise_kernel: p, `[1, 1, c_out / groups, c_out]`.
    bias: b, `[c_out]`.
    groups: number of groups, a divisor of c_in and c_out.
    enlarge: first repeat every pixel of the features twice in both directions, as the decoder does
      between two scales; cheaper here than as a separate step.
    eps: added to the biased variance inside the root.

  Returns:
    `[h, w, c_out]`, or with `enlarge` `[2 h, 2 w, c_out]`, in the dtype of `features`.

  Raises:
    ValueError: a shape does not match the others or `groups`.
  """
  _check_shapes(features, spatial_kernel, pointwise_kernel, bias, groups)
  normalized = instance_norm(features, eps=eps)
  return apply_kernels(
    normalized, spatial_kernel, pointwise_kernel, bias, groups=groups, enlarge=enlarge
  )


def apply_kernels(
  normalized: jax.Array,
  spatial_kernel: jax.Array,
  pointwise_kernel: jax.Array,
  bias: jax.Array,
  *,
  groups: int,
  enlarge: bool = False,
) -> jax.Array:
  """Runs `adaconv` on features that are normalized already, as those of a part of an image."""
  k, _, _, c_out = spatial_kernel.shape
  if groups == normalized.shape[-1] == c_out:
    images = upsample(normalized[None]) if enlarge else normalized[None]
    kernel = spatial_kernel[:, :, 0] * pointwise_kernel[:, :, 0]
    out = _depthwise(reflect_pad(images, k // 2)[0], kernel)
    return (out + bias.reshape(1, 1, -1)).astype(normalized.dtype)
  kernel = compose_kernels(spatial_kernel, pointwise_kernel, groups)
  return conv_per_sample(normalized, kernel, bias, enlarge=enlarge)


def compose_kernels(
  spatial_kernel: jax.Array, pointwise_kernel: jax.Array, groups: int
) -> jax.Array:
  """Multiplies a grouped spatial and a grouped pointwise kernel into one dense kernel.

  Args:
    spatial_kernel: `[k, k, c_in / groups, c_out]`.
    pointwise_kernel: `[1, 1, c_out / groups, c_out]`.
    groups: number of groups of both.

  Returns:
    `[k, k, c_in, c_out]`, block-diagonal: zero wherever input and output channel are in
    different groups.
  """
  return lax.platform_dependent(
    spatial_kernel,
    pointwise_kernel,
    tpu=functools.partial(_compose_in_lanes, groups=groups),
    default=functools.partial(_compose_by_groups, groups=groups),
  )


def _compose_by_groups(
  spatial_kernel: jax.Array, pointwise_kernel: jax.Array, groups: int
) -> jax.Array:
  k, _, group_in, c_out = spatial_kernel.shape
  group_out = c_out // groups
  spatial = spatial_kernel.reshape(k, k, group_in, groups, group_out)
  pointwise = pointwise_kernel.reshape(group_out, groups, group_out)
  composed = jnp.einsum("xyigm,mgo->xyigo", spatial, pointwise)
  diagonal = jnp.eye(groups, dtype=bool).reshape(1, 1, groups, 1, groups, 1)
  dense = jnp.where(diagonal, composed[:, :, None], 0)  # [k, k, h, i, g, o], none but h = g
  return dense.reshape(k, k, groups * group_in, c_out)


def _compose_in_lanes(
  spatial_kernel: jax.Array, pointwise_kernel: jax.Array, groups: int
) -> jax.Array:
  """The same, with all output channels in the last axis throughout, which a TPU stores densely.

  A TPU pads a last axis to 128 numbers: axes of groups cost 650 MB of traffic instead of 62 for
  8 kernels of 3 x 3 x 256 x 256.
  """
  group_in, c_out = spatial_kernel.shape[2:]
  of_output = jnp.arange(c_out) // (c_out // groups)  # the group of each output channel
  c_in = group_in * groups
  tiled = jnp.tile(pointwise_kernel[0, 0], (groups, 1))
  pointwise = jnp.where(of_output[:, None] == of_output[None], tiled, 0)
  composed = jnp.einsum("xyim,mo->xyio", spatial_kernel, pointwise)
  of_group = jnp.arange(c_in)[:, None] % group_in
  repeat = (of_group == jnp.arange(group_in)[None]).astype(composed.dtype)
  dense = jnp.einsum("hi,xyio->xyho", repeat, composed)
  same_group = (jnp.arange(c_in) // group_in)[:, None] == of_output[None]
  return jnp.where(same_group[None, None], dense, 0)


def _depthwise(padded: jax.Array, kernel: jax.Array) -> jax.Array:
  """One kernel `[k, k, c]` per channel, as shifted products; convs with groups of 1 are slow."""
  k = kernel.shape[0]
  h, w = padded.shape[0] - k + 1, padded.shape[1] - k + 1
  taps = kernel[:, :, None, None]
  shifted = (padded[y : y + h, x : x + w] * taps[y, x] for y in range(k) for x in range(k))
  return sum(shifted, start=jnp.zeros((), padded.dtype))


def _check_shapes(features, spatial_kernel, pointwise_kernel, bias, groups) -> None:
  arrays = {
    "features": features,
    "spatial_kernel": spatial_kernel,
    "pointwise_kernel": pointwise_kernel,
    "bias": bias,
  }
  for name, array in arrays.items():
    if not hasattr(array, "shape"):
      raise ValueError(f"{name}: expected an array, got {type(array).__name__}")
  if features.ndim != 3:
    raise ValueError(
      f"features: expected one image's [h, w, c_in], got {features.shape}; vmap over a batch"
    )
  c_in = features.shape[-1]
  if spatial_kernel.ndim != 4 or spatial_kernel.shape[0] != spatial_kernel.shape[1]:
    raise ValueError(
      f"spatial_kernel: expected [k, k, c_in / groups, c_out], got {spatial_kernel.shape}"
    )
  k, c_out = spatial_kernel.shape[0], spatial_kernel.shape[-1]
  if k % 2 == 0:
    raise ValueError(f"spatial_kernel: expected an odd size, got {spatial_kernel.shape}")
  if groups < 1 or c_in % groups or c_out % groups:
    raise ValueError(f"groups: expected a divisor of c_in {c_in} and c_out {c_out}, got {groups}")
  expected = {
    "spatial_kernel": (spatial_kernel.shape, (k, k, c_in // groups, c_out)),
    "pointwise_kernel": (pointwise_kernel.shape, (1, 1, c_out // groups, c_out)),
    "bias": (bias.shape, (c_out,)),
  }
  for name, (got, wanted) in expected.items():
    if got != wanted:
      raise ValueError(f"{name}: expected {wanted} for groups={groups}, got {got}")
