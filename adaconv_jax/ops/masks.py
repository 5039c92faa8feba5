"""Regions of a picture: masks as shares of styles, and statistics within them.

Masks are soft and may overlap. Pure functions of arrays.
"""

import jax
import jax.numpy as jnp

from adaconv_jax.ops.adain import (
  EPS,
  ChannelStats,
  at_least_float32,
  channel_stats,
  widen_stats,
)

# Below this, a sum of masks is none.
_NONE = 1e-6
# The largest root of the mean square that a channel of the whole picture may have, normalized by
# the statistics of a region. A region that is flat, such as a sky, would make it huge elsewhere,
# and convolutions reach a few pixels over the seam.
_MOST = 8.0


def shares_of(masks: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Splits a picture among styles.

  Args:
    masks: `[..., K, h, w]`, at least 0.

  Returns:
    Shares `[..., K, h, w]` in [0, 1] with the sum 1, in proportion to the masks (equal ones where
    there is no mask), and how much of the picture is covered, `[..., h, w]`: the sum of the masks,
    at most 1.
  """
  total = jnp.sum(masks, -3, keepdims=True)
  covered = total > _NONE
  even = jnp.full_like(masks, 1 / masks.shape[-3])
  shares = jnp.where(covered, masks / jnp.where(covered, total, 1), even)
  return shares, jnp.squeeze(jnp.minimum(total, 1), -3)


def shrink(masks: jax.Array, factor: int) -> jax.Array:
  """Averages `[n, h, w, 1]` over blocks of `factor` x `factor`, of which h and w are multiples."""
  n, h, w, _ = masks.shape
  blocks = masks.reshape(n, h // factor, factor, w // factor, factor, 1)
  return jnp.mean(blocks, (2, 4))


def region_stats(
  features: jax.Array, region: jax.Array, *, where: jax.Array | None = None
) -> ChannelStats:
  """Computes mean and deviation of the channels within regions.

  Args:
    features: `[n, h, w, c]`.
    region: the weight of every position, `[n, h, w, 1]`, at least 0. One that is nothing but zeros
      gets the statistics of the whole picture.
    where: the valid pixels, boolean `[..., h, w, 1]`; None: all.

  Returns:
    `ChannelStats` of `[n, c]`.
  """
  axes = (1, 2)
  features = at_least_float32(features)
  region = region.astype(features.dtype)
  if where is not None:
    region = jnp.where(where, region, 0)
    features = jnp.where(where, features, 0)
  whole = channel_stats(features, where=where)
  total = jnp.sum(region, axes)
  some = total > _NONE
  total = jnp.where(some, total, 1)
  mean = jnp.sum(features * region, axes) / total
  centered = features - mean[:, None, None, :]
  std = jnp.sqrt(jnp.sum(centered**2 * region, axes) / total + EPS)
  inside = widen_stats(ChannelStats(mean, std), whole, limit=_MOST)
  return ChannelStats(*(jnp.where(some, a, b) for a, b in zip(inside, whole, strict=True)))
