"""The perceptual losses of AdaIN and AdaConv: pure functions of VGG feature maps.

Both papers minimize

    L = content_weight * ||phi_4(g) - target||^2
      + style_weight * sum_i w_i (||mu(phi_i(g)) - mu(phi_i(s))||^2
                                  + ||sigma(phi_i(g)) - sigma(phi_i(s))||^2)

over layers i = relu1_1 ... relu4_1 (Huang & Belongie 2017, eq. 11 to 13). The target is AdaIN's
output t for AdaIN and the content's own features for AdaConv. Squared norms are means over all
elements, the convention with which the published style weight is 10.
"""

from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp

from adaconv_jax.ops.adain import EPS, ChannelStats, at_least_float32, channel_stats
from adaconv_jax.ops.filters import separable

# Binomial: in frequency cos(w / 2)^4 and sin(w / 2)^4. The second has all of a period of 2 pixels,
# a quarter of one of 4 and next to nothing of the longer ones.
_LOW = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
_NYQUIST = (1 / 16, -4 / 16, 6 / 16, -4 / 16, 1 / 16)


def content_loss(features: jax.Array, target: jax.Array) -> jax.Array:
  """Mean squared difference of two feature maps `[n, h, w, c]`, a scalar."""
  # A mean over a million squares in bfloat16 would be noise.
  return jnp.mean((at_least_float32(features) - at_least_float32(target)) ** 2)


def style_loss(
  features: Mapping[str, jax.Array],
  style_features: Mapping[str, jax.Array],
  layer_weights: Mapping[str, float],
  *,
  eps: float = EPS,
) -> jax.Array:
  """Weighted sum over layers of the mean squared differences of channel means and deviations.

  Args:
    features: the output's VGG feature maps by layer name, each `[n, h, w, c]`.
    style_features: the style's; their spatial sizes may differ.
    layer_weights: weight of each layer that counts, by name; (1, 1, 1, 1) as published.
    eps: added to the variances inside the roots, so that flat channels have finite gradients.

  Returns:
    A scalar.

  Raises:
    ValueError: a layer of `layer_weights` is missing.
  """
  for layer in layer_weights:
    if layer not in features or layer not in style_features:
      raise ValueError(
        f"layer_weights: {layer!r} is not among the features {sorted(features)} and "
        f"{sorted(style_features)}"
      )
  ours, theirs = (layer_stats(maps, layer_weights, eps=eps) for maps in (features, style_features))
  return statistics_loss(ours, theirs, layer_weights)


def layer_stats(
  features: Mapping[str, jax.Array], layers: Iterable[str], *, eps: float = EPS
) -> dict[str, ChannelStats]:
  """Computes what `statistics_loss` compares: the channel statistics of `layers`, by name."""
  return {layer: channel_stats(features[layer], eps=eps) for layer in layers}


def statistics_loss(
  stats: Mapping[str, ChannelStats],
  style_stats: Mapping[str, ChannelStats],
  layer_weights: Mapping[str, float],
) -> jax.Array:
  """`style_loss` where the statistics of the feature maps are known, as of a style met often.

  Args:
    stats: the output's channel statistics by layer name.
    style_stats: the style's.
    layer_weights: weight of each layer that counts, by name.

  Returns:
    A scalar.
  """
  total = jnp.zeros(())
  for layer, weight in layer_weights.items():
    ours, theirs = stats[layer], style_stats[layer]
    difference = jnp.mean((ours.mean - theirs.mean) ** 2) + jnp.mean((ours.std - theirs.std) ** 2)
    total = total + weight * difference
  return total


def pixel_loss(images: jax.Array, target: jax.Array) -> jax.Array:
  """Mean squared difference of two batches of images `[n, h, w, 3]`, a scalar."""
  return jnp.mean((images - target) ** 2)


def checkerboard_loss(images: jax.Array) -> jax.Array:
  """Mean square of what `[n, h, w, 3]` have at periods of about 2 pixels, a scalar.

  The sum over vertical stripes, horizontal stripes and checkerboards. Not in the papers. The style
  loss asks for contrast of any period, and what a decoder draws most easily behind its last
  upsampling is a weave of 2 pixels; this makes it choose longer ones.
  """
  directions = ((_LOW, _NYQUIST), (_NYQUIST, _LOW), (_NYQUIST, _NYQUIST))
  filtered = (
    jax.vmap(lambda image, taps=taps: separable(image, *taps))(images) for taps in directions
  )
  return sum((jnp.mean(part**2) for part in filtered), start=jnp.zeros(()))
