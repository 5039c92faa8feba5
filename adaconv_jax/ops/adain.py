"""Adaptive instance normalization (Huang & Belongie, ICCV 2017).

Pure functions of arrays. Statistics are per image and channel, over height and width, with the
biased variance, and `eps` inside the root: a flat channel then has finite gradients. They are
computed in float32 even of features in bfloat16, which keep their dtype when they are normalized.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from adaconv_jax.ops.extent import Extent, inside

EPS = 1e-5


class ChannelStats(NamedTuple):
  """Mean and standard deviation per image and channel, each `[n, c]`."""

  mean: jax.Array
  std: jax.Array


def channel_stats(
  features: jax.Array, *, extent: Extent | None = None, eps: float = EPS
) -> ChannelStats:
  """Computes mean and standard deviation over space of `features` `[..., h, w, c]`.

  With `extent`, over what counts of them.

  Returns:
    `ChannelStats` of `[..., c]` arrays, at least float32; `std = sqrt(var + eps)`.
  """
  features = at_least_float32(features)
  mean = _mean(features, extent)
  centered = features - mean[..., None, None, :]
  return ChannelStats(mean, jnp.sqrt(_mean(centered**2, extent) + eps))


def _mean(features: jax.Array, extent: Extent | None) -> jax.Array:
  if extent is None:
    return jnp.mean(features, axis=(-3, -2))
  total = jnp.sum(jnp.where(inside(features, extent), features, 0), axis=(-3, -2))
  return total / (extent.height * extent.width)


def instance_norm(
  features: jax.Array,
  stats: ChannelStats | None = None,
  *,
  extent: Extent | None = None,
  eps: float = EPS,
) -> jax.Array:
  """Normalizes every channel of every image in `[..., h, w, c]` to mean 0 and deviation 1.

  With `stats`, each `[..., c]`, it uses these; for a part of an image. With `extent`, the
  statistics are those of what counts.
  """
  mean, std = channel_stats(features, extent=extent, eps=eps) if stats is None else stats
  normalized = (features - mean[..., None, None, :]) / std[..., None, None, :]
  return normalized.astype(features.dtype)


def at_least_float32(features: jax.Array) -> jax.Array:
  """Lengthens shorter floats, whose sums over many elements would be noise."""
  return features.astype(jnp.promote_types(features.dtype, jnp.float32))


def apply_stats(
  content: jax.Array,
  style_stats: ChannelStats,
  *,
  extent: Extent | None = None,
  eps: float = EPS,
) -> jax.Array:
  """Renormalizes `content` to given channel statistics (Huang & Belongie 2017, eq. 8).

      AdaIN(x, y) = sigma(y) * (x - mu(x)) / sigma(x) + mu(y)

  Args:
    content: feature map `[n, h, w, c]`.
    style_stats: mu(y) and sigma(y), each `[n, c]`, or `[1, c]` for one style on all images.
    extent: what counts of `content`; None: all.
    eps: added to the biased variance of `content` inside the root.

  Returns:
    `[n, h, w, c]`.
  """
  scale = style_stats.std[:, None, None, :]
  shift = style_stats.mean[:, None, None, :]
  normalized = instance_norm(at_least_float32(content), extent=extent, eps=eps)
  return (normalized * scale + shift).astype(content.dtype)


def adain(content: jax.Array, style: jax.Array, *, eps: float = EPS) -> jax.Array:
  """Renormalizes `content` to the channel statistics of `style` (Huang & Belongie 2017, eq. 8).

  Args:
    content: VGG feature map of the content images `[n, h, w, c]`, relu4_1 in the paper.
    style: VGG feature map of the style images `[n, h_s, w_s, c]`; its spatial size is free.
    eps: added to the biased variances inside the roots.

  Returns:
    `[n, h, w, c]`.

  Raises:
    ValueError: batch sizes or channel counts differ.
  """
  if content.shape[0] != style.shape[0] or content.shape[-1] != style.shape[-1]:
    raise ValueError(
      "content and style: expected [n, h, w, c] feature maps with equal n and c, "
      f"got {content.shape} and {style.shape}"
    )
  return apply_stats(content, channel_stats(style, eps=eps), eps=eps)
