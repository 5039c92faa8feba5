"""The perceptual losses of AdaIN and AdaConv: pure functions of VGG feature maps.

Both papers minimize

    L = content_weight * ||phi_4(g) - target||^2
      + style_weight * sum_i w_i (||mu(phi_i(g)) - mu(phi_i(s))||^2
                                  + ||sigma(phi_i(g)) - sigma(phi_i(s))||^2)

over layers i = relu1_1 ... relu4_1 (Huang & Belongie 2017, eq. 11 to 13). The target is AdaIN's
output t for AdaIN and the content's own features for AdaConv. Squared norms are means over all
elements, the convention for which the published style weight is 10.
"""

import itertools
from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from adaconv_jax.ops.adain import (
  EPS,
  ChannelStats,
  at_least_float32,
  channel_stats,
  instance_norm,
)
from adaconv_jax.ops.filters import separable

# Binomial: in frequency cos(w / 2)^4 and sin(w / 2)^4. The second passes all of a period of 2
# pixels, a quarter of one of 4, and almost nothing of longer ones.
_LOW = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
_NYQUIST = (1 / 16, -4 / 16, 6 / 16, -4 / 16, 1 / 16)

PALETTE_SHARES = 64
# `evenness_loss`: pixels of a block, distances in blocks, the difference of colors at which places
# are hardly alike, in units of RGB, and a small variance: with much less, the loss would rather
# raise the contrast. All are choices.
_BLOCK = 4
_APART = (1, 2, 4, 8, 16)
_ALIKE = 0.04
_LEAST_VARIANCE = 0.03
_AXES = [(1, 0, 0), (0, 1, 0), (0, 0, 1)]
_FACES = [(1, 1, 0), (1, -1, 0), (1, 0, 1), (1, 0, -1), (0, 1, 1), (0, 1, -1)]
_CUBE = [(1, 1, 1), (1, 1, -1), (1, -1, 1), (-1, 1, 1)]
_DIRECTIONS = np.array(
  [np.array(direction) / np.linalg.norm(direction) for direction in (*_AXES, *_FACES, *_CUBE)],
  np.float32,
)


def content_loss(features: jax.Array, target: jax.Array) -> jax.Array:
  """Mean squared difference of two feature maps `[n, h, w, c]`, a scalar."""
  # A mean over a million squares in bfloat16 would be noise.
  return jnp.mean((at_least_float32(features) - at_least_float32(target)) ** 2)


# Layers whose places of fine structure `detail_loss` compares.
DETAIL_LAYERS = ("relu2_1", "relu3_1")
# Of the normalized VGG weights, where every channel has a mean of 1: a channel that is nearly flat
# stays so.
_NORM_EPS = 0.1


def structure_loss(features: jax.Array, target: jax.Array) -> jax.Array:
  """Compares feature maps whatever the means and deviations of their channels.

      ||norm(phi(g)) - norm(phi(c))||^2,     norm(x) = (x - mu) / sqrt(sigma^2 + 0.1)

  The papers' content loss also asks for the content's own statistics (AdaConv), against the style
  loss. Not in the papers; SANet (Park & Lee, CVPR 2019) compares contents so.

  Args:
    features: the output's map of one layer, `[n, h, w, c]`.
    target: the content's.

  Returns:
    A scalar, below 2 if the maps are not opposites of each other.
  """
  return content_loss(_norm(features), _norm(target))


def _norm(features: jax.Array) -> jax.Array:
  return instance_norm(at_least_float32(features), eps=_NORM_EPS)


def detail_loss(
  features: Mapping[str, jax.Array], content_features: Mapping[str, jax.Array]
) -> jax.Array:
  """Compares where the fine structure of two pictures is, whatever its contrast and its colors.

      sum_i ||norm(phi_i(g)) - norm(phi_i(c))||^2,     norm(x) = (x - mu) / sqrt(sigma^2 + 0.1)

  over `DETAIL_LAYERS`, with the mean and the variance of every channel. Not in the papers, whose
  content loss sees relu4_1 alone, which has a position for 8 x 8 pixels.

  Args:
    features: the output's VGG feature maps by layer name, each `[n, h, w, c]`.
    content_features: the content's.

  Returns:
    A scalar, below 2 for each layer if they are not opposites of each other.
  """
  return sum(
    (structure_loss(features[i], content_features[i]) for i in DETAIL_LAYERS),
    start=jnp.float32(0),
  )


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
    layer_weights: weight of each layer to compare, by name; (1, 1, 1, 1) as published.
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
  """Computes the channel statistics of `layers`, by name, which `statistics_loss` compares."""
  return {layer: channel_stats(features[layer], eps=eps) for layer in layers}


def statistics_loss(
  stats: Mapping[str, ChannelStats],
  style_stats: Mapping[str, ChannelStats],
  layer_weights: Mapping[str, float],
) -> jax.Array:
  """Computes `style_loss` from known statistics, such as those of a style that is used often.

  Args:
    stats: the output's channel statistics by layer name.
    style_stats: the style's.
    layer_weights: weight of each layer to compare, by name.

  Returns:
    A scalar.
  """
  total = jnp.float32(0)  # not of 64 bits in JAX's 64-bit mode
  for layer, weight in layer_weights.items():
    ours, theirs = stats[layer], style_stats[layer]
    difference = jnp.mean((ours.mean - theirs.mean) ** 2) + jnp.mean((ours.std - theirs.std) ** 2)
    total = total + weight * difference
  return total


def self_similarity_loss(features: jax.Array, target: jax.Array, *, eps: float = EPS) -> jax.Array:
  """Mean absolute difference of two matrices of cosine distances, a scalar.

  The matrix of a feature map has the cosine distance of every position to every other one (after
  STROTSS, Kolkin et al. 2019, section 2.2, which normalizes it by its sums). Where the content is
  plain its positions are alike, and a decoder that fills a sky with marks makes them differ. A
  change that all positions share, such as another style's, costs little. Not in AdaIN's and
  AdaConv's papers.

  Args:
    features: the output's feature map `[n, h, w, c]`.
    target: the content's, of the same shape.
    eps: added to the squared lengths inside the roots, so that empty positions have finite
      gradients.

  Returns:
    A scalar in [0, 2]; of features after a ReLU, in [0, 1].

  Raises:
    ValueError: the shapes differ.
  """
  if features.shape != target.shape:
    raise ValueError(f"features: expected the target's shape {target.shape}, got {features.shape}")

  def similarities(maps: jax.Array) -> jax.Array:
    n, h, w, c = maps.shape
    maps = at_least_float32(maps).reshape(n, h * w, c)
    length = jnp.sqrt(jnp.sum(maps**2, axis=-1, keepdims=True) + eps)
    unit = maps / length
    return unit @ unit.swapaxes(1, 2)

  # The distances are 1 minus these, so their differences are the same.
  return jnp.mean(jnp.abs(similarities(features) - similarities(target)))


def palette(images: jax.Array) -> jax.Array:
  """Quantiles of the colors of images, along several directions of RGB.

  Two pictures have the same palette when their colors have the same distribution, and that is so
  when its projections on all directions are the same (Pitie et al. 2007). Here they are 13: the
  axes, the diagonals of faces, and the diagonals of the cube.

  Args:
    images: `[n, h, w, 3]`, RGB in [0, 1], any size from 2 x 2 on.

  Returns:
    `[n, 13, 64]`: for each direction the means of 64 equal shares of the pixels in their order,
    in units of RGB. Colors are averaged over 2 x 2 pixels first.
  """
  n, h, w, _ = images.shape
  even = images[:, : h // 2 * 2, : w // 2 * 2].reshape(n, h // 2, 2, w // 2, 2, 3)
  colors = at_least_float32(even).mean((2, 4)).reshape(n, -1, 3)
  ordered = jnp.sort(jnp.einsum("npc,dc->ndp", colors, _DIRECTIONS), axis=-1)
  if ordered.shape[-1] % PALETTE_SHARES:
    return ordered @ _shares(ordered.shape[-1])
  # The same, without a matrix of megabytes in the program.
  return ordered.reshape(n, len(_DIRECTIONS), PALETTE_SHARES, -1).mean(-1)


def _shares(count: int) -> np.ndarray:
  """Weights `[count, PALETTE_SHARES]` of the means over equal shares of `count` values in order.

  The share k is from k * count / 64 to (k + 1) * count / 64; a value at its end belongs to it by
  the part that lies inside.
  """
  ends = np.linspace(0, count, PALETTE_SHARES + 1)
  first = np.arange(count)[:, None]
  overlap = np.minimum(first + 1, ends[1:]) - np.maximum(first, ends[:-1])
  return (np.maximum(overlap, 0) * PALETTE_SHARES / count).astype(np.float32)


def palette_loss(ours: jax.Array, theirs: jax.Array) -> jax.Array:
  """Mean squared difference of two results of `palette`, a scalar.

  It is the sliced 2-Wasserstein distance of the two pictures' colors, squared (Bonneel et al.
  2015). Not in AdaIN's and AdaConv's papers, whose style loss sees the mean and the deviation of
  each channel but not which colors there are.
  """
  return jnp.mean((ours - theirs) ** 2)


def evenness_loss(images: jax.Array, contents: jax.Array) -> jax.Array:
  """How unlike the output's colors are where the content's are alike, a scalar.

      mean of a(p, q) |g(p) - g(q)|^2 / (Var(g) + 0.03),   a(p, q) = exp(-|c(p) - c(q)|^2 / 0.04^2)

  over pairs of places p and q that are 4, 8, 16, 32 or 64 pixels apart in a row or a column, of
  colors averaged over 4 x 4 pixels; strokes finer than that are free. Where a sky is plain, dashes
  cost something, and so does a halo around what stands before it. Less contrast hardly costs less,
  because of the variance. Not in AdaIN's and AdaConv's papers.

  Args:
    images: `[n, h, w, 3]`, RGB in [0, 1], at least 8 x 8.
    contents: of the same shape.

  Raises:
    ValueError: the shapes differ, or are smaller.
  """
  if images.shape != contents.shape or min(images.shape[1:3]) < 2 * _BLOCK:
    raise ValueError(
      f"images: expected the contents' shape {contents.shape}, of at least {2 * _BLOCK} x "
      f"{2 * _BLOCK} pixels, got {images.shape}"
    )
  ours, theirs = _blocks(images), _blocks(contents)
  total, kinds = jnp.zeros(ours.shape[0], ours.dtype), 0
  for axis, apart in itertools.product((1, 2), _APART):
    if apart < ours.shape[axis]:
      unlike = jnp.sum(_difference(ours, axis, apart) ** 2, -1)
      alike = jnp.exp(-jnp.sum(_difference(theirs, axis, apart) ** 2, -1) / _ALIKE**2)
      total, kinds = total + jnp.mean(alike * unlike, (1, 2)), kinds + 1
  variance = jnp.sum(jnp.var(at_least_float32(images), (1, 2)), -1)
  return jnp.mean(total / kinds / (variance + _LEAST_VARIANCE))


def _blocks(images: jax.Array) -> jax.Array:
  """Means of 4 x 4 pixels, without what is left over."""
  n, h, w, c = images.shape
  rows, columns = h // _BLOCK, w // _BLOCK
  even = at_least_float32(images[:, : rows * _BLOCK, : columns * _BLOCK])
  return even.reshape(n, rows, _BLOCK, columns, _BLOCK, c).mean((2, 4))


def _difference(maps: jax.Array, axis: int, apart: int) -> jax.Array:
  size = maps.shape[axis]
  later = jax.lax.slice_in_dim(maps, apart, size, axis=axis)
  return later - jax.lax.slice_in_dim(maps, 0, size - apart, axis=axis)


def pixel_loss(images: jax.Array, target: jax.Array) -> jax.Array:
  """Mean squared difference of two batches of images `[n, h, w, 3]`, a scalar."""
  return jnp.mean((images - target) ** 2)


def checkerboard_loss(images: jax.Array) -> jax.Array:
  """Mean square of patterns with a period of about 2 pixels in `[n, h, w, 3]`, a scalar.

  It is the sum over vertical stripes, horizontal stripes and checkerboards. Not in the papers. The
  style loss asks for contrast of any period, and a weave of 2 pixels is what a decoder draws most
  easily after its last upsampling; this loss makes it choose longer periods.
  """
  directions = ((_LOW, _NYQUIST), (_NYQUIST, _LOW), (_NYQUIST, _NYQUIST))
  filtered = (
    jax.vmap(lambda image, taps=taps: separable(image, *taps))(images) for taps in directions
  )
  return sum((jnp.mean(part**2) for part in filtered), start=jnp.float32(0))
