"""Adaptive instance normalization (Huang & Belongie, ICCV 2017).

Pure functions of arrays. Statistics are per image and channel, over height and width, with the
biased variance, and `eps` inside the root: a flat channel then has finite gradients. They are
computed in float32 even of features in bfloat16, which keep their dtype when they are normalized.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

EPS = 1e-5


class ChannelStats(NamedTuple):
  """Mean and standard deviation per image and channel, each `[n, c]`."""

  mean: jax.Array
  std: jax.Array


def channel_stats(
  features: jax.Array, *, where: jax.Array | None = None, eps: float = EPS
) -> ChannelStats:
  """Computes mean and standard deviation over space of `features` `[..., h, w, c]`.

  Args:
    features: the feature maps.
    where: the pixels that the statistics are taken over, boolean `[..., h, w, 1]`; None: all.
    eps: added to the biased variance inside the root.

  Returns:
    `ChannelStats` of `[..., c]` arrays, at least float32; `std = sqrt(var + eps)`.
  """
  features = at_least_float32(features)
  mean = _mean(features, where)
  centered = features - mean[..., None, None, :]
  return ChannelStats(mean, jnp.sqrt(_mean(centered**2, where) + eps))


def _mean(features: jax.Array, where: jax.Array | None) -> jax.Array:
  axes = (-3, -2)
  if where is None:
    return jnp.mean(features, axes)
  # Unlike `jnp.mean`, this counts the pixels once, and not for every image and channel.
  return jnp.sum(features, axes, where=where) / jnp.sum(where, axes)


def instance_norm(
  features: jax.Array,
  stats: ChannelStats | None = None,
  *,
  where: jax.Array | None = None,
  eps: float = EPS,
) -> jax.Array:
  """Normalizes every channel of every image in `[..., h, w, c]` to mean 0 and deviation 1.

  The statistics are `stats`, each `[..., c]`, where these are given, as for a part of an image;
  else those of `channel_stats(features, where=where, eps=eps)`.
  """
  mean, std = channel_stats(features, where=where, eps=eps) if stats is None else stats
  normalized = (features - mean[..., None, None, :]) / std[..., None, None, :]
  return normalized.astype(features.dtype)


def at_least_float32(features: jax.Array) -> jax.Array:
  """Lengthens shorter floats, whose sums over many elements would be noise."""
  return features.astype(jnp.promote_types(features.dtype, jnp.float32))


def apply_stats(
  content: jax.Array,
  style_stats: ChannelStats,
  *,
  where: jax.Array | None = None,
  eps: float = EPS,
) -> jax.Array:
  """Renormalizes `content` to given channel statistics (Huang & Belongie 2017, eq. 8).

      AdaIN(x, y) = sigma(y) * (x - mu(x)) / sigma(x) + mu(y)

  Args:
    content: feature map `[n, h, w, c]`.
    style_stats: mu(y) and sigma(y), each `[n, c]`, or `[1, c]` for one style on all images.
    where: the pixels that the statistics of `content` are taken over, see `channel_stats`.
    eps: added to the biased variance of `content` inside the root.

  Returns:
    `[n, h, w, c]`.
  """
  scale = style_stats.std[:, None, None, :]
  shift = style_stats.mean[:, None, None, :]
  normalized = instance_norm(at_least_float32(content), where=where, eps=eps)
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
