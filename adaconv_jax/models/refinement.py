"""Refinement: gradient descent on a style's code, for one content.

A model predicts a style's code in one pass. For a style it was not trained on, that code is only
about right, and the decoder can do better: a few steps that move the code, and nothing else, down
the loss of training bring the output much closer to the style. The decoder stays as it is, so there
is no room for the noise that optimized pixels have (Gatys et al., CVPR 2016). Not in AdaIN's and
AdaConv's papers.

Statistics of VGG are those of a scale: a code that is refined for a reduced content does little
for the whole one. So it is refined for a sample of the content's pixels as they are, of one size
for all contents, and toward the style at about the content's size.
"""

import math
import numbers
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from adaconv_jax.models.networks import Networks
from adaconv_jax.models.pictures import to_float
from adaconv_jax.models.style_code import StyleCode, for_each, is_zero
from adaconv_jax.ops.adain import ChannelStats
from adaconv_jax.ops.detail import add_detail
from adaconv_jax.ops.extent import Extent, resize_inside
from adaconv_jax.ops.losses import (
  DETAIL_LAYERS,
  content_loss,
  detail_loss,
  evenness_loss,
  layer_stats,
  palette,
  palette_loss,
  self_similarity_loss,
  statistics_loss,
)
from adaconv_jax.ops.resize import resize
from adaconv_jax.ops.tiling import one_by_one
from adaconv_jax.vgg.network import ENCODER_LAYER, VGG, VGGParams

# Of a sample, which has two by two tiles. All contents have one size then, and share a program.
SIDE = 256
# More steps than these change nothing that can be seen.
MOST_STEPS = 100

_STYLE_LAYERS = {"relu1_1": 1.0, "relu2_1": 1.0, "relu3_1": 1.0, "relu4_1": 1.0}
_LAYERS = tuple(dict.fromkeys((*_STYLE_LAYERS, *DETAIL_LAYERS, ENCODER_LAYER)))
# The terms of the loss that adaconv_plus was trained with. More weight on the style leads to a
# style loss that a viewer does not see, and costs faces.
_STYLE, _SELF_SIMILARITY, _PALETTE, _DETAIL = 8.0, 100.0, 300.0, 20.0
# Without this one, skies get a halo around what stands before them.
_EVENNESS = 250.0
# Adam's, for few steps.
_RATE, _BETA1, _BETA2 = 0.04, 0.8, 0.95


class StyleGoal(NamedTuple):
  """What outputs should have of n styles.

  Attributes:
    stats: the channel statistics, by layer of VGG, each `[n, c]`.
    palette: the colors, see `losses.palette`.
  """

  stats: dict[str, ChannelStats]
  palette: jax.Array


class ContentGoal(NamedTuple):
  """What outputs should keep of n contents.

  Attributes:
    pictures: the contents, `[n, h, w, 3]`.
    seen: `_LAYERS` of them, by name, `[n, h, w, c]`.
    target: what relu4_1 of the outputs should be, `[n, h, w, 512]`.
    detail: share of the contents' fine structure in the outputs, `[n]`, or a plain 0.
  """

  pictures: jax.Array
  seen: dict[str, jax.Array]
  target: jax.Array
  detail: float | jax.Array


def check_steps(name: str, steps: Any) -> int:
  """Returns the number of steps of a refinement.

  Raises:
    ValueError: no whole number from 0 to 100.
  """
  whole = isinstance(steps, numbers.Integral) and not isinstance(steps, bool)
  if whole and 0 <= int(steps) <= MOST_STEPS:
    return int(steps)
  way_out = ""
  if isinstance(steps, jax.Array):  # whose value a program need not know
    way_out = "; pass a plain int, which `jit` has to take as static"
  raise ValueError(
    f"{name}: expected a whole number from 0 to {MOST_STEPS}, got {steps!r}{way_out}"
  )


def sample(
  pictures: jax.Array, painted: tuple[Any, Any] | None = None, extent: Extent | None = None
) -> jax.Array:
  """Takes a sample of pixels, as what pictures are refined for.

  Two by two tiles of 128 x 128, from the middles of the picture's quarters. A picture of 256 x 256
  is its sample. Smaller ones are enlarged to that, in each direction by itself.

  Args:
    pictures: `[n, h, w, 3]`, float in [0, 1] or uint8.
    painted: height and width at which they are painted, see `painted_size`; None: their own.
    extent: their valid region; None: all.

  Returns:
    Float in [0, 1], `[n, 256, 256, 3]`, all of it valid.
  """
  pictures = to_float(pictures)
  own = pictures.shape[1:3] if extent is None else extent
  lines = (_lines(own[axis], (painted or own)[axis], pictures.dtype) for axis in (0, 1))
  for axis, (scale, starts) in zip((1, 2), lines, strict=True):
    pictures = jnp.concatenate(
      [_part(pictures, axis, scale, start, own[axis - 1]) for start in starts], axis
    )
  return pictures


def _lines(own: Any, painted: Any, dtype: Any) -> tuple[jax.Array, list[jax.Array]]:
  """By how much one direction is scaled, and where its two tiles begin then."""
  size = jnp.maximum(jnp.asarray(painted, dtype), SIDE)
  starts = [jnp.floor(size * (2 * k + 1) / 4) - SIDE // 4 for k in (0, 1)]
  return size / jnp.asarray(own, dtype), starts


def _part(
  pictures: jax.Array, axis: int, scale: jax.Array, start: jax.Array, own: Any
) -> jax.Array:
  """Returns `SIDE // 2` lines from `start` on, of pictures of which `own` lines are scaled."""
  # Triangles as wide as a line of the coarser of both grids, which is antialiased.
  lines = jnp.arange(SIDE // 2, dtype=pictures.dtype)
  middles = (start + lines + 0.5) / scale - 0.5
  given = jnp.arange(pictures.shape[axis], dtype=pictures.dtype)
  wide = jnp.maximum(1 / scale, 1)
  weights = jnp.maximum(1 - jnp.abs(middles[:, None] - given[None]) / wide, 0)
  weights = jnp.where(given[None] < jnp.asarray(own, pictures.dtype), weights, 0)
  weights /= jnp.sum(weights, 1, keepdims=True)
  part = jnp.tensordot(pictures, weights, (axis, 1), precision=jax.lax.Precision.HIGHEST)
  return jnp.moveaxis(part, -1, axis)


def style_side(height: float, width: float) -> int:
  """Returns the side of the square at which styles are compared with contents painted so large.

  The contents' shorter side, from 256 to 512, in steps of 64.
  """
  step = SIDE // 4
  return min(max(math.floor(min(height, width) / step + 0.5) * step, SIDE), 2 * SIDE)


def square(styles: jax.Array, side: int, extent: Extent | None = None) -> jax.Array:
  """Resizes styles `[n, h, w, 3]` to squares, float in [0, 1], without keeping the aspect ratio."""
  styles = to_float(styles)
  if extent is not None:
    return resize_inside(styles, extent, side, side)
  return resize(styles, side, side)


def style_goal(vgg: VGG, vgg_params: VGGParams, styles: jax.Array) -> StyleGoal:
  """Measures what outputs should have of styles, from `square`."""
  seen: Any = vgg.apply({"params": vgg_params}, styles, tuple(_STYLE_LAYERS))
  return StyleGoal(layer_stats(seen, _STYLE_LAYERS), palette(styles))


def refine_code(
  networks: Networks,
  code: StyleCode,
  contents: jax.Array,
  goal: StyleGoal,
  steps: int | jax.Array,
  detail: float | jax.Array = 0.0,
) -> StyleCode:
  """Moves codes down the loss of the contents' renderings.

  Adam (Kingma & Ba 2015) with a rate that falls as half a cosine; every array of a code moves in
  units of its own root mean square.

  Args:
    networks: what renders and compares.
    code: of n styles, one for each content, or of one, for all contents together.
    contents: `[n, 256, 256, 3]`, from `sample`.
    goal: of the styles, from `style_goal`: of n, or of one.
    steps: how many; may be unknown when the program is compiled.
    detail: of `add_detail`, which outputs go through before they are compared: one number, or `[n]`
      for the contents. What a picture will be given, its code should allow for.

  Returns:
    Like `code`. Its derivative is that of `code`: the steps are taken for constant. Where the
    loss ended above the one that it began with, or is not finite, it is the best code on the way,
    such as the first one.
  """
  shares: tuple[jax.Array, ...] = ()  # none for a plain 0, which needs no program for detail
  if not is_zero(detail):
    shares = (jnp.broadcast_to(jnp.asarray(detail, contents.dtype), contents.shape[:1]),)
  fixed = code, networks.params, networks.vgg_params, contents, goal, shares
  start, params, vgg_params, contents, goal, shares = jax.lax.stop_gradient(fixed)
  networks = Networks(networks.model, networks.vgg, params, vgg_params)

  def descend(
    code: StyleCode, contents: jax.Array, goal: StyleGoal, *detail: jax.Array
  ) -> StyleCode:
    return _descend(networks, code, contents, goal, steps, *detail)

  if jax.tree.leaves(code)[0].shape[0] == contents.shape[0]:
    goal = for_each(contents.shape[0], goal)
    refined = one_by_one(descend, start, contents, goal, *shares, size=(SIDE, SIDE))
  else:
    refined = descend(start, contents, goal, *shares)
  return jax.tree.map(lambda old, first, last: old + (last - first), code, start, refined)


def _descend(
  networks: Networks,
  start: StyleCode,
  contents: jax.Array,
  goal: StyleGoal,
  steps: int | jax.Array,
  detail: float | jax.Array = 0.0,
) -> StyleCode:
  seen = networks.see(contents, _LAYERS)
  target = networks.apply(seen[ENCODER_LAYER], start, method="content_target")
  kept = ContentGoal(contents, seen, target, detail)
  count = jax.tree.leaves(start)[0].shape[0]
  first = _flat(start)
  units = _flat(jax.tree.map(_root_mean_square, start))

  def loss(code: StyleCode) -> tuple[jax.Array, jax.Array]:
    losses = _losses(networks, code, kept, goal)
    losses = losses.reshape(count, -1).mean(1)  # of each code, over the contents that it is for
    return losses.sum(), losses.astype(jnp.float32)

  def step(index: jax.Array, state: _State) -> _State:
    gradients, losses = jax.grad(loss, has_aux=True)(_like(start, state.code))
    gradient = _flat(gradients) * units
    mean = _BETA1 * state.mean + (1 - _BETA1) * gradient
    square = _BETA2 * state.square + (1 - _BETA2) * gradient**2
    # An integer becomes 64 bits long in JAX's 64-bit mode, and no float under strict promotion.
    done, of = (jnp.asarray(number, jnp.float32) for number in (index, steps))
    numbers = (
      _RATE * (1 + jnp.cos(jnp.pi * done / of)) / 2,
      1 - _BETA1 ** (done + 1),
      1 - _BETA2 ** (done + 1),
    )
    rate, bias1, bias2 = (number.astype(first.dtype) for number in numbers)
    return _State(
      state.code - rate * units * (mean / bias1) / (jnp.sqrt(square / bias2) + 1e-12),
      mean,
      square,
      _choose(losses < state.least, state.code, state.best),
      jnp.where(index == 0, losses, state.first),
      jnp.fmin(losses, state.least),
      losses,
    )

  zeros = jnp.zeros_like(first)
  unknown = jnp.full(count, jnp.inf, jnp.float32)
  state = _State(first, zeros, zeros, first, unknown, unknown, unknown)
  last = jax.lax.fori_loop(0, steps, step, state)
  # What the last step leads to is not rendered, but it is a short one.
  good = (last.last <= last.first) & jnp.isfinite(last.code).all(1)
  return _like(start, _choose(good, last.code, last.best))


class _State(NamedTuple):
  """What a step knows, of n codes.

  All arrays of a code are one here, from `_flat`: every operation would be a loop for each of them,
  which takes long to compile.

  Attributes:
    code: where it starts, `[n, d]`.
    mean: of the gradients, as Adam has it.
    square: the mean of their squares.
    best: the code with the least loss so far.
    first: the losses of each code before any step, `[n]`.
    least: those of `best`.
    last: those before the step that led to `code`.
  """

  code: jax.Array
  mean: jax.Array
  square: jax.Array
  best: jax.Array
  first: jax.Array
  least: jax.Array
  last: jax.Array


def _flat(code: StyleCode) -> jax.Array:
  """Returns all arrays of n codes as one, `[n, d]`."""
  return jnp.concatenate([x.reshape(x.shape[0], -1) for x in jax.tree.leaves(code)], 1)


def _like(code: StyleCode, flat: jax.Array) -> StyleCode:
  """Returns codes like `code` of what `_flat` returned."""
  leaves, tree = jax.tree.flatten(code)
  ends = np.cumsum([math.prod(x.shape[1:]) for x in leaves])
  parts = jnp.split(flat, ends[:-1], 1)
  return jax.tree.unflatten(tree, [p.reshape(x.shape) for p, x in zip(parts, leaves, strict=True)])


def _choose(which: jax.Array, yes: jax.Array, no: jax.Array) -> jax.Array:
  """Takes codes from `yes` where `which`, `[n]`, holds, otherwise from `no`."""
  return jnp.where(jnp.expand_dims(which, 1), yes, no)


def _root_mean_square(array: jax.Array) -> jax.Array:
  """Of each code in `[n, ...]`, for every number in it."""
  axes = tuple(range(1, array.ndim))
  value = jnp.sqrt(jnp.mean(array**2, axis=axes, keepdims=True)) + 1e-6
  return jnp.broadcast_to(value, array.shape)


def _losses(
  networks: Networks, code: StyleCode, content: ContentGoal, style: StyleGoal
) -> jax.Array:
  """Of each content's rendering, `[n]`."""
  features = content.seen[ENCODER_LAYER]
  target = networks.apply(features, code, method="content_target")
  skips = tuple(content.seen[layer] for layer in networks.model.content_layers)
  given = (skips,) if skips else ()  # a model that is never given any need not take them
  output = networks.apply(target, code, *given, method="decode")
  if not is_zero(content.detail):
    output = add_detail(output, content.pictures, content.detail)
  seen = networks.see(output, _LAYERS)
  # The losses are means over their pictures.
  content = content._replace(detail=None)
  every = seen, output, content, for_each(features.shape[0], style)
  return jax.vmap(_compare)(*jax.tree.map(lambda x: jnp.expand_dims(x, 1), every))


def _compare(
  seen: dict[str, jax.Array], output: jax.Array, content: ContentGoal, style: StyleGoal
) -> jax.Array:
  missed = statistics_loss(layer_stats(seen, _STYLE_LAYERS), style.stats, _STYLE_LAYERS)
  return (
    content_loss(seen[ENCODER_LAYER], content.target)
    + _STYLE * missed
    + _SELF_SIMILARITY * self_similarity_loss(seen[ENCODER_LAYER], content.seen[ENCODER_LAYER])
    + _PALETTE * palette_loss(palette(output), style.palette)
    + _DETAIL * detail_loss(seen, content.seen)
    + _EVENNESS * evenness_loss(output, content.pictures)
  )
