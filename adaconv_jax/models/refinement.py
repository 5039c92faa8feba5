"""Refinement: gradient descent on a style's code, for one content.

A model predicts a style's code in one pass. For a style it was not trained on, that code is only
about right, and the decoder can do better: a few steps that move the code, and nothing else, down
the loss of training bring the output much closer to the style. The decoder stays as it is, so there
is no room for the noise that optimized pixels have (Gatys et al., CVPR 2016). Pictures are compared
at a small size, because a code holds for any size. Not in AdaIN's and AdaConv's papers.
"""

import numbers
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from adaconv_jax.models.pictures import to_float
from adaconv_jax.models.style_code import StyleCode, for_each
from adaconv_jax.models.transfer_model import Params, TransferModel
from adaconv_jax.ops.adain import ChannelStats
from adaconv_jax.ops.extent import Extent, resize_inside
from adaconv_jax.ops.losses import (
  DETAIL_LAYERS,
  content_loss,
  detail_loss,
  layer_stats,
  palette,
  palette_loss,
  self_similarity_loss,
  statistics_loss,
)
from adaconv_jax.ops.resize import resize
from adaconv_jax.ops.tiling import one_by_one
from adaconv_jax.vgg.network import ENCODER_LAYER, VGG, VGGParams

# Of the squares that pictures are resized to for it, so that all share a program.
SIDE = 256
# More steps than these change nothing that can be seen.
MOST_STEPS = 100

_STYLE_LAYERS = {"relu1_1": 1.0, "relu2_1": 1.0, "relu3_1": 1.0, "relu4_1": 1.0}
_LAYERS = tuple(dict.fromkeys((*_STYLE_LAYERS, *DETAIL_LAYERS, ENCODER_LAYER)))
# The terms of the loss that adaconv_plus was trained with. More weight on the style leads to a
# style loss that a viewer does not see, and costs faces.
_STYLE, _SELF_SIMILARITY, _PALETTE, _DETAIL = 8.0, 100.0, 300.0, 20.0
# Adam's, for few steps.
_RATE, _BETA1, _BETA2 = 0.04, 0.8, 0.95


class Goal(NamedTuple):
  """What the outputs are compared with.

  Attributes:
    content: `_LAYERS` of the contents, by name, `[n, h, w, c]`.
    target: what relu4_1 of the outputs should be, `[n, h, w, 512]`.
    stats: the styles' channel statistics, by layer.
    palette: the styles' colors, see `losses.palette`.
  """

  content: dict[str, jax.Array]
  target: jax.Array
  stats: dict[str, ChannelStats]
  palette: jax.Array


def check_steps(name: str, steps: Any) -> int:
  """Returns the number of steps of a refinement.

  Raises:
    ValueError: no whole number from 0 to 100.
  """
  whole = isinstance(steps, numbers.Integral) and not isinstance(steps, bool)
  if whole and 0 <= int(steps) <= MOST_STEPS:
    return int(steps)
  raise ValueError(f"{name}: expected a whole number from 0 to {MOST_STEPS}, got {steps!r}")


def squeeze(pictures: jax.Array, extent: Extent | None = None) -> jax.Array:
  """Resizes pictures to what codes are refined with, without keeping the aspect ratio.

  Args:
    pictures: `[n, h, w, 3]`, float in [0, 1] or uint8.
    extent: their valid region; None: all.

  Returns:
    Float in [0, 1], `[n, 256, 256, 3]`, all of it valid.
  """
  pictures = to_float(pictures)
  if extent is not None:
    return resize_inside(pictures, extent, SIDE, SIDE)
  return resize(pictures, SIDE, SIDE)


def refine_code(
  model: TransferModel,
  vgg: VGG,
  params: Params,
  vgg_params: VGGParams,
  code: StyleCode,
  contents: jax.Array,
  styles: jax.Array,
  steps: int | jax.Array,
) -> StyleCode:
  """Moves codes down the loss of the contents' renderings.

  Adam (Kingma & Ba 2015) with a rate that falls as half a cosine; every array of a code moves in
  units of its own root mean square.

  Args:
    model: the trained part.
    vgg: encoder and loss network.
    params: of the model.
    vgg_params: of the VGG.
    code: of n styles, one for each content, or of one, for all contents together.
    contents: `[n, h, w, 3]`, RGB in [0, 1], sides a multiple of 8.
    styles: that the code is of, `[n, h', w', 3]` or `[1, h', w', 3]`, RGB in [0, 1].
    steps: how many; may be unknown when the program is compiled.

  Returns:
    Like `code`. Its derivative is that of `code`: the steps are taken for constant.
  """
  fixed = jax.lax.stop_gradient((code, params, vgg_params, contents, styles))
  start, params, vgg_params, contents, styles = fixed

  def descend(code: StyleCode, contents: jax.Array, styles: jax.Array) -> StyleCode:
    return _descend(model, vgg, params, vgg_params, code, contents, styles, steps)

  if jax.tree.leaves(code)[0].shape[0] == contents.shape[0]:
    styles = for_each(contents.shape[0], styles)
    refined = one_by_one(descend, start, contents, styles, size=(SIDE, SIDE))
  else:
    refined = descend(start, contents, styles)
  return jax.tree.map(lambda old, first, last: old + (last - first), code, start, refined)


def _descend(
  model: TransferModel,
  vgg: VGG,
  params: Params,
  vgg_params: VGGParams,
  start: StyleCode,
  contents: jax.Array,
  styles: jax.Array,
  steps: int | jax.Array,
) -> StyleCode:
  goal = _goal(model, vgg, params, vgg_params, start, contents, styles)
  count = jax.tree.leaves(start)[0].shape[0]
  units = jax.tree.map(_root_mean_square, start)

  def loss(code: StyleCode) -> jax.Array:
    # The losses are means over the contents; a code of each should not move less for that.
    return count * _loss(model, vgg, params, vgg_params, code, goal)

  def step(index: jax.Array, state: tuple[StyleCode, StyleCode, StyleCode]) -> Any:
    code, means, squares = state
    gradient = jax.tree.map(jnp.multiply, jax.grad(loss)(code), units)
    means = jax.tree.map(lambda m, g: _BETA1 * m + (1 - _BETA1) * g, means, gradient)
    squares = jax.tree.map(lambda v, g: _BETA2 * v + (1 - _BETA2) * g**2, squares, gradient)
    rate = _RATE * (1 + jnp.cos(jnp.pi * index / steps)) / 2
    bias1, bias2 = 1 - _BETA1 ** (index + 1), 1 - _BETA2 ** (index + 1)

    def moved(x, mean, square, unit):
      return x - rate * unit * (mean / bias1) / (jnp.sqrt(square / bias2) + 1e-12)

    return jax.tree.map(moved, code, means, squares, units), means, squares

  zeros = jax.tree.map(jnp.zeros_like, start)
  return jax.lax.fori_loop(0, steps, step, (start, zeros, zeros))[0]


def _root_mean_square(array: jax.Array) -> jax.Array:
  """Of each code in `[n, ...]`, with all axes kept."""
  axes = tuple(range(1, array.ndim))
  return jnp.sqrt(jnp.mean(array**2, axis=axes, keepdims=True)) + 1e-6


def _goal(
  model: TransferModel,
  vgg: VGG,
  params: Params,
  vgg_params: VGGParams,
  code: StyleCode,
  contents: jax.Array,
  styles: jax.Array,
) -> Goal:
  seen: Any = vgg.apply({"params": vgg_params}, contents, _LAYERS)
  wanted: Any = vgg.apply({"params": vgg_params}, styles, tuple(_STYLE_LAYERS))
  target = model.apply({"params": params}, seen[ENCODER_LAYER], code, method="content_target")
  return Goal(seen, target, layer_stats(wanted, _STYLE_LAYERS), palette(styles))


def _loss(
  model: TransferModel,
  vgg: VGG,
  params: Params,
  vgg_params: VGGParams,
  code: StyleCode,
  goal: Goal,
) -> jax.Array:
  content = goal.content[ENCODER_LAYER]
  target = model.apply({"params": params}, content, code, method="content_target")
  skips = tuple(goal.content[layer] for layer in model.content_layers)
  given = (skips,) if skips else ()  # a model that is never given any need not take them
  output = model.apply({"params": params}, target, code, *given, method="decode")
  seen: Any = vgg.apply({"params": vgg_params}, output, _LAYERS)
  style = statistics_loss(layer_stats(seen, _STYLE_LAYERS), goal.stats, _STYLE_LAYERS)
  return (
    content_loss(seen[ENCODER_LAYER], goal.target)
    + _STYLE * style
    + _SELF_SIMILARITY * self_similarity_loss(seen[ENCODER_LAYER], content)
    + _PALETTE * palette_loss(palette(output), goal.palette)
    + _DETAIL * detail_loss(seen, goal.content)
  )
