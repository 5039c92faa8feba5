"""Adaptive instance normalization (Huang & Belongie, ICCV 2017).

Pure functions of arrays. Statistics are per image and channel, over height and width, with the
biased variance, and `eps` inside the root: a flat channel then has finite gradients. They are
computed in float32 even if the features are bfloat16; normalized features keep their dtype.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

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
    where: the pixels to take the statistics over, boolean `[..., h, w, 1]`; None: all.
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
  # Unlike `jnp.mean`, this counts the valid pixels only once, not for every image and channel.
  return jnp.sum(features, axes, where=where) / jnp.sum(where, axes, dtype=features.dtype)


def widen_stats(stats: ChannelStats, own: ChannelStats, *, limit: float = 2.0) -> ChannelStats:
  """Raises deviations by which features would be normalized to more than `limit`.

  Statistics of other frames than the one that is normalized are a danger: a channel that is flat in
  these has a deviation of nearly zero, by which a single mark in this one becomes huge. By its own
  statistics, the mean square of a normalized channel is 1.

  Args:
    stats: the statistics to normalize with, each `[..., c]`.
    own: those of the features themselves.
    limit: the largest root of the mean square that a normalized channel may have.

  Returns:
    `stats` where they are within the limit.
  """
  around = jnp.sqrt(own.std**2 + (own.mean - stats.mean) ** 2)
  return ChannelStats(stats.mean, jnp.maximum(stats.std, around / limit))


def instance_norm(
  features: jax.Array,
  stats: ChannelStats | None = None,
  *,
  where: jax.Array | None = None,
  eps: float = EPS,
) -> jax.Array:
  """Normalizes every channel of every image in `[..., h, w, c]` to mean 0 and deviation 1.

  The statistics are `stats`, each `[..., c]`, if these are given, as for a part of an image;
  otherwise those of `channel_stats(features, where=where, eps=eps)`.
  """
  mean, std = channel_stats(features, where=where, eps=eps) if stats is None else stats
  normalized = (features - mean[..., None, None, :]) / std[..., None, None, :]
  return normalized.astype(features.dtype)


def at_least_float32(features: jax.Array) -> jax.Array:
  """Converts shorter floats to float32; their sums over many elements would be noise."""
  return features.astype(np.promote_types(features.dtype, np.float32))


def apply_stats(
  content: jax.Array,
  style_stats: ChannelStats,
  *,
  content_stats: ChannelStats | None = None,
  where: jax.Array | None = None,
  eps: float = EPS,
) -> jax.Array:
  """Renormalizes `content` to given channel statistics (Huang & Belongie 2017, eq. 8).

      AdaIN(x, y) = sigma(y) * (x - mu(x)) / sigma(x) + mu(y)

  Args:
    content: feature map `[n, h, w, c]`.
    style_stats: mu(y) and sigma(y), each `[n, c]`, or `[1, c]` for one style on all images.
    content_stats: mu(x) and sigma(x), each `[n, c]` or `[1, c]`, such as those of all frames of a
      video; None computes them.
    where: the pixels to take the statistics of `content` over, see `channel_stats`.
    eps: added to the biased variance of `content` inside the root.

  Returns:
    `[n, h, w, c]`.
  """
  scale = style_stats.std[:, None, None, :]
  shift = style_stats.mean[:, None, None, :]
  normalized = instance_norm(at_least_float32(content), content_stats, where=where, eps=eps)
  return (normalized * scale + shift).astype(content.dtype)


def adain(content: jax.Array, style: jax.Array, *, eps: float = EPS) -> jax.Array:
  """Renormalizes `content` to the channel statistics of `style` (Huang & Belongie 2017, eq. 8).

  Args:
    content: VGG feature map of the content images `[n, h, w, c]`, relu4_1 in the paper.
    style: VGG feature map of the style images `[n, h_s, w_s, c]`, of any spatial size.
    eps: added to the biased variances inside the roots.

  Returns:
    `[n, h, w, c]`.

  Raises:
    ValueError: one is no such array, or batch sizes or channel counts differ.
  """
  for name, features in (("content", content), ("style", style)):
    shape = getattr(features, "shape", None)
    if shape is None or len(shape) != 4:
      got = type(features).__name__ if shape is None else list(shape)
      raise ValueError(
        f"{name}: expected an array of feature maps [n, h, w, c], got {got}; give a single one a "
        "leading axis: features[None]"
      )
  if content.shape[0] != style.shape[0] or content.shape[-1] != style.shape[-1]:
    raise ValueError(
      "content and style: expected [n, h, w, c] feature maps with equal n and c, "
      f"got {content.shape} and {style.shape}"
    )
  return apply_stats(content, channel_stats(style, eps=eps), eps=eps)
