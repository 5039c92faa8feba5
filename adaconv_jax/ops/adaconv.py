"""Adaptive convolutions (Chandran et al., CVPR 2021): the operation.

Where AdaIN multiplies each channel of the content by one number and adds another, AdaConv
convolves it with whole kernels that a network predicts from the style, so that structure is
transferred as well as colour. The paper writes a depthwise-separable pair of convolutions per
image. Both are linear and nothing stands between them, so we multiply the two kernels first and
run one convolution: the same result, less memory, and a fast backward pass.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from adaconv_jax.ops.adain import EPS, ChannelStats, instance_norm
from adaconv_jax.ops.conv import conv_per_sample, reflect_pad, upsample
from adaconv_jax.ops.extent import Extent, inside, mirror_border


def adaconv(
  features: jax.Array,
  spatial_kernel: jax.Array,
  pointwise_kernel: jax.Array,
  bias: jax.Array,
  *,
  groups: int,
  enlarge: bool = False,
  stats: ChannelStats | None = None,
  extent: Extent | None = None,
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
      between two scales; cheaper here than apart.
    stats: mu_x and sigma_x, each `[c_in]`, where the features are a part of an image; None computes
      them.
    extent: the valid region of the features, for k up to 3; None: all.
    eps: added to the biased variance inside the root.

  Returns:
    `[h, w, c_out]`, or with `enlarge` `[2 h, 2 w, c_out]`, in the dtype of `features`.

  Raises:
    ValueError: a shape does not fit the others or `groups`; k is larger than 3, with an extent.
  """
  _check_shapes(features, spatial_kernel, pointwise_kernel, bias, groups)
  k, _, _, c_out = spatial_kernel.shape
  normalized = instance_norm(features, stats, where=inside(features, extent), eps=eps)
  if extent is not None:
    if k > 3:
      raise ValueError(f"extent: expected None for kernels larger than 3 x 3, got {k} x {k}")
    normalized = mirror_border(normalized, extent, enlarge=enlarge)
  if groups == features.shape[-1] == c_out:
    images = upsample(normalized[None]) if enlarge else normalized[None]
    kernel = spatial_kernel[:, :, 0] * pointwise_kernel[0, 0, 0]
    out = _depthwise(reflect_pad(images, k // 2)[0], kernel)
    return (out + bias).astype(features.dtype)
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
  diagonal = jnp.eye(groups, dtype=bool)[:, None, :, None]
  dense = jnp.where(diagonal, composed[:, :, None], 0)  # [k, k, h, i, g, o], none but h = g
  return dense.reshape(k, k, groups * group_in, c_out)


def _compose_in_lanes(
  spatial_kernel: jax.Array, pointwise_kernel: jax.Array, groups: int
) -> jax.Array:
  """The same with all output channels in the last axis throughout, which a TPU stores densely.

  It pads a last axis to 128 numbers: axes of groups cost 650 MB of traffic in place of 62 for
  8 kernels of 3 x 3 x 256 x 256.
  """
  group_in, c_out = spatial_kernel.shape[2:]
  of_output = jnp.arange(c_out) // (c_out // groups)  # the group of each output channel
  c_in = group_in * groups
  tiled = jnp.tile(pointwise_kernel[0, 0], (groups, 1))
  pointwise = jnp.where(of_output[:, None] == of_output, tiled, 0)
  composed = jnp.einsum("xyim,mo->xyio", spatial_kernel, pointwise)
  repeat = (jnp.arange(c_in)[:, None] % group_in == jnp.arange(group_in)).astype(composed.dtype)
  dense = jnp.einsum("hi,xyio->xyho", repeat, composed)
  return jnp.where((jnp.arange(c_in) // group_in)[:, None] == of_output, dense, 0)


def _depthwise(padded: jax.Array, kernel: jax.Array) -> jax.Array:
  """One kernel `[k, k, c]` per channel, as shifted products: a conv's groups of one are slow."""
  k = kernel.shape[0]
  h, w = padded.shape[0] - k + 1, padded.shape[1] - k + 1
  shifted = (padded[y : y + h, x : x + w] * kernel[y, x] for y in range(k) for x in range(k))
  return sum(shifted, start=jnp.zeros((), padded.dtype))


def _check_shapes(features, spatial_kernel, pointwise_kernel, bias, groups) -> None:
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
