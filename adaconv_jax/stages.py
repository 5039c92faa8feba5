"""The stages of a stylization, each a compiled program, for `stylize`, the commands and the page.

Each is compiled once per shape and type; images are float in [0, 1] or uint8.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from adaconv_jax.compilation import quick_jit
from adaconv_jax.models.canvas import Canvas, look_stroke
from adaconv_jax.models.pictures import check_weight, from_float, to_float
from adaconv_jax.models.refinement import SIDE, StyleGoal, sample, square, style_side
from adaconv_jax.models.style_code import (
  StyleCode,
  check_mix,
  for_each,
  is_map,
  mix_codes,
  over_axes,
)
from adaconv_jax.models.stylizer import ContentCode, Stylizer
from adaconv_jax.ops.color import check_color, match_colors
from adaconv_jax.ops.conv import only_shapes
from adaconv_jax.ops.evenness import even_out
from adaconv_jax.ops.extent import Borders, Extent
from adaconv_jax.ops.masks import shares_of
from adaconv_jax.ops.palette import SHAPE as PALETTE_SHAPE
from adaconv_jax.ops.palette import match_palette, measure_palette
from adaconv_jax.ops.sharding import automatic
from adaconv_jax.ops.stroke import painted_size
from adaconv_jax.ops.tiling import reporting, watch
from adaconv_jax.programs import kept
from adaconv_jax.rooms import bucket, extent_of
from adaconv_jax.vgg.network import STRIDE


def mix(codes: list[StyleCode], weights: ArrayLike | Sequence[float] | None) -> StyleCode:
  """Mixes codes as `mix_codes` does, compiled."""
  if len(codes) == 1:
    return codes[0]
  weights = check_mix(weights, len(codes))
  if not isinstance(weights, jax.Array):
    weights = jax.device_put(weights.astype(np.float32))
  return _mix(codes, weights)


@quick_jit()
def _mix(codes: list[StyleCode], weights: jax.Array) -> StyleCode:
  return mix_codes(codes, weights)


def style_weight(
  alpha: ArrayLike, contents: int | None = None, size: tuple[int, int] | None = None
) -> jax.Array | None:
  """Returns None for a single 1, else an array, so that another number needs no compilation.

  Args:
    alpha: what is checked.
    contents: their number; None: not known yet.
    size: height and width of the contents, if alpha may be a map.

  Raises:
    ValueError: neither one number in [0, 1] nor one for each content, nor such a map.
  """
  return _unless(1, check_weight("alpha", alpha, contents, size=size))


def detail_weight(detail: ArrayLike, contents: int | None = None) -> jax.Array | None:
  """Does for detail, where None is 0, what `style_weight` does for alpha."""
  return _unless(0, check_weight("detail", detail, contents))


def palette_weight(palette: ArrayLike, color: str, contents: int | None = None) -> jax.Array | None:
  """Does for palette, where None is 0, what `style_weight` does for alpha.

  Raises:
    ValueError: not such a weight, or not 0 beside colors that are not the style's.
  """
  weight = _unless(0, check_weight("palette", palette, contents))
  if weight is not None and check_color(color) != "style":
    raise ValueError(
      f"palette and color: expected the color 'style' beside a palette above 0, got {color!r}, "
      "which keeps the content's colors"
    )
  return weight


def evenness_weight(evenness: ArrayLike, contents: int | None = None) -> jax.Array | None:
  """Does for evenness, where None is 0, what `style_weight` does for alpha."""
  return _unless(0, check_weight("evenness", evenness, contents))


def _unless(default: int, value: jax.Array | np.ndarray) -> jax.Array | None:
  known = not isinstance(value, Tracer) and value.ndim == 0
  if known and float(jax.device_get(value)) == default:
    return None
  if isinstance(value, jax.Array):
    return value.astype(jnp.float32)
  return jax.device_put(value.astype(np.float32))


def encode(stylizer: Stylizer, styles: ArrayLike, extent: Extent | None = None) -> StyleCode:
  """Encodes `[n, h, w, 3]`; for AdaConv, another size of style costs only a new resize."""
  fitted = _fit_style(stylizer, styles, extent)
  # A style that was resized is valid everywhere.
  return _encode_fitted(stylizer, fitted, extent if stylizer.model.style_size is None else None)


def refined(
  stylizer: Stylizer,
  code: StyleCode,
  contents: jax.Array | None,
  goal: StyleGoal | None,
  steps: int | jax.Array,
  detail: jax.Array | None = None,
  *,
  together: bool = False,
) -> StyleCode:
  """Refines codes for contents; see `Stylizer.refine`.

  Args:
    stylizer: the model.
    code: of n styles, or of one.
    contents: n of them, from `sampled`; None where there are no steps.
    goal: of the code's styles, from `goal_of`, or None.
    steps: how many; 0 returns the code as it is. Another number needs no compilation.
    detail: what the codes will be rendered with, from `detail_weight`.
    together: refine the code of one style for all contents together; it becomes one for each
      content otherwise.
  """
  if contents is None or goal is None or isinstance(steps, int) and steps == 0:
    return code
  if isinstance(steps, int):
    steps = jax.device_put(np.int32(steps))
  return _refined(stylizer, code, contents, goal, steps, detail, together)


def compile_refined(stylizer: Stylizer, detail: jax.Array | None) -> None:
  """Compiles what `refined` runs for one content, so that a thread does so beside other work."""
  picture = jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), np.float32)
  with only_shapes():
    goal = jax.eval_shape(lambda model, styles: model.style_goal(styles), stylizer, picture)
  steps = jax.ShapeDtypeStruct((), np.int32)
  _refined.prepare(stylizer, stylizer.code_shapes(), picture, goal, steps, detail, False)


def sampled(
  contents: ArrayLike,
  extent: Extent | None = None,
  size: tuple[int, int] | None = None,
  stroke: float = 1.0,
  look_size: int | None = None,
) -> jax.Array:
  """Takes what codes are refined for, compiled by itself; see `sample`.

  Args:
    contents: `[n, h, w, 3]`.
    extent: their valid region; None: all.
    size: its height and width, or None.
    stroke: how coarse the strokes are.
    look_size: the size that gives the strokes.
  """
  height, width = _painted(size or np.shape(contents)[1:3], stroke, look_size)
  painted = jax.device_put((np.float32(height), np.float32(width)))
  return _sampled(contents, painted, extent)


def goal_side(size: tuple[int, ...], stroke: float = 1.0, look_size: int | None = None) -> int:
  """Returns the side of styles that contents of this height and width are compared with."""
  return style_side(*_painted(size, stroke, look_size))


def goal_of(stylizer: Stylizer, styles: ArrayLike, extent: Extent | None, side: int) -> StyleGoal:
  """Measures what outputs should have of styles `[n, h, w, 3]`; `side` is from `goal_side`."""
  return _goal_of(stylizer, _square(styles, side, extent))


def _painted(size: tuple[int, ...], stroke: float, look_size: int | None) -> tuple[int, int]:
  height, width = size
  return painted_size(height, width, look_stroke(height, width, stroke, look_size))


@kept()
def _sampled(contents: jax.Array, painted: tuple[Any, Any], extent: Extent | None) -> jax.Array:
  return automatic(sample, contents, painted, extent, by_image=True)


@kept("side")
def _square(styles: jax.Array, side: int, extent: Extent | None) -> jax.Array:
  return automatic(lambda x, inside: square(x, side, inside), styles, extent, by_image=True)


@kept()
def _goal_of(stylizer: Stylizer, styles: jax.Array) -> StyleGoal:
  return automatic(lambda x, s: s.style_goal(x), styles, stylizer, by_image=True)


@kept("together")
def _refined(
  stylizer: Stylizer,
  code: StyleCode,
  contents: jax.Array,
  goal: StyleGoal,
  steps: jax.Array,
  detail: jax.Array | None,
  together: bool,
) -> StyleCode:
  def moved(code, stylizer, contents, goal, steps, detail):
    code = code if together else for_each(contents.shape[0], code)
    share = 0.0 if detail is None else detail
    return stylizer.refine_sampled(code, contents, goal, steps, share)

  return automatic(moved, code, stylizer, contents, goal, steps, detail, by_image=True)


@quick_jit()
def match(
  styles: jax.Array,
  contents: jax.Array,
  extent: Extent | None = None,
  content_extent: Extent | None = None,
  region: jax.Array | None = None,
) -> jax.Array:
  """Gives styles `[n, h, w, 3]` the colors of the contents; see `match_colors`.

  Args:
    styles: n of them, or one.
    contents: n of them, or one.
    extent: the valid region of the styles; None: all.
    content_extent: the same of the contents.
    region: whose colors are meant, the weights of the contents' pixels, `[n, h, w]` or `[1, h, w]`;
      None: all alike.
  """

  def matched(styles, contents, extent, content_extent, region):
    styles, contents = to_float(styles), to_float(contents)
    inside = Borders(extent, styles.shape[1]).inside(styles)
    where = Borders(content_extent, contents.shape[1]).inside(contents)
    if region is not None:
      weights = jnp.expand_dims(to_float(region), -1)
      where = weights if where is None else jnp.where(where, weights, 0)
    return match_colors(styles, contents, style_where=inside, content_where=where)

  return automatic(matched, styles, contents, extent, content_extent, region, by_image=True)


@kept()
def evened(
  pictures: jax.Array,
  contents: jax.Array,
  strength: jax.Array,
  masks: jax.Array | np.ndarray | None = None,
  alpha: jax.Array | None = None,
  extent: Extent | None = None,
  seen: jax.Array | np.ndarray | None = None,
) -> jax.Array:
  """Gives plain surfaces of stylized pictures no halo; see `even_out`.

  Args:
    pictures: `[n, h, w, 3]`.
    contents: what they were made of.
    strength: a number or `[n]`.
    masks: where the styles are, `[n, K, h, w]` or `[1, K, h, w]`, or None.
    alpha: what the pictures were rendered with, a number or `[n]`; None: 1.
    extent: the valid region of the pictures; None: all.
    seen: how visible the pixels are, `[n, h, w]`; None: all are.

  Returns:
    Like `pictures`.
  """

  def moved(pictures, contents, strength, masks, alpha, extent, seen):
    n, h, w, _ = pictures.shape
    guides, weight = [], _by_alpha(strength, alpha)
    if masks is not None:
      guides.append(jnp.moveaxis(to_float(masks), 1, -1))
      weight *= jnp.expand_dims(_regions_of(masks, n)[1], -1)
    if seen is not None:
      guides.append(jnp.expand_dims(seen, -1))
    guides = [jnp.broadcast_to(guide, (n, h, w, guide.shape[-1])) for guide in guides]
    beside = jnp.concatenate(guides, -1) if guides else None
    return even_out(pictures, contents, weight, extent, beside)

  return automatic(moved, pictures, contents, strength, masks, alpha, extent, seen)


@kept()
def palette_of(styles: jax.Array, extent: Extent | None = None) -> jax.Array:
  """Measures the palettes of styles `[n, h, w, 3]`, where they are valid; see `measure_palette`."""

  def measured(styles, extent):
    return measure_palette(to_float(styles), extent=extent)

  return automatic(measured, styles, extent, by_image=True)


def in_palette(
  pictures: jax.Array,
  palettes: Sequence[jax.Array],
  strength: jax.Array,
  weights: ArrayLike | Sequence[float] | None = None,
  masks: jax.Array | np.ndarray | None = None,
  alpha: jax.Array | None = None,
  extent: Extent | None = None,
  seen: jax.Array | np.ndarray | None = None,
) -> jax.Array:
  """Gives stylized pictures the palettes of their styles; see `match_palette`.

  Args:
    pictures: `[n, h, w, 3]`.
    palettes: of K styles, from `palette_of`.
    strength: how far their colors are moved, a number or `[n]`.
    weights: of the K styles in a mix; None: equal ones.
    masks: where the styles are, `[n, K, h, w]` or `[1, K, h, w]`; then the weights have no meaning.
    alpha: what the pictures were rendered with, a number or `[n]`; None: 1.
    extent: the valid region of the pictures; None: all.
    seen: how visible the pixels are, `[n, h, w]`; others have no influence. None: all are.

  Returns:
    Like `pictures`.
  """
  shares = _shares(weights, len(palettes))
  return _in_palette(pictures, list(palettes), strength, shares, masks, alpha, extent, seen)


def compile_in_palette(
  pictures: jax.Array,
  styles: int,
  strength: jax.Array,
  weights: ArrayLike | Sequence[float] | None,
  *arguments: Any,
) -> None:
  """Compiles what `in_palette` runs for such arguments, so that a thread does so beside other work.

  Args:
    pictures: any of their shape and type.
    styles: the number of palettes.
    strength: as for `in_palette`.
    weights: the same.
    *arguments: the others of `in_palette`.
  """
  palettes = [jax.ShapeDtypeStruct((1, *PALETTE_SHAPE), np.float32)] * styles
  shares = _shares(weights, styles)
  _in_palette.prepare(pictures, palettes, strength, shares, *arguments)


def _shares(weights: ArrayLike | Sequence[float] | None, styles: int) -> jax.Array:
  shares = check_mix(weights, styles)
  return shares if isinstance(shares, jax.Array) else jax.device_put(shares.astype(np.float32))


@kept()
def _in_palette(pictures, palettes, strength, weights, masks, alpha, extent, seen):
  def moved(pictures, palettes, strength, weights, masks, alpha, extent, seen):
    given, strength = to_float(pictures), _by_alpha(strength, alpha)
    where = None if seen is None else jnp.expand_dims(seen, -1)
    if masks is None:
      weighed = [weight * palette for weight, palette in zip(weights, palettes, strict=True)]
      mixed = functools.reduce(jnp.add, weighed)
      done = match_palette(given, mixed, strength, where, extent)
      return from_float(done, pictures.dtype)
    shares, cover = _regions_of(masks, given.shape[0])
    regions = jnp.moveaxis(shares * jnp.expand_dims(cover, 1), 1, 0)[..., None]
    # What a region gets is added in proportion, so nothing is moved where no mask is.
    done = given
    for region, palette in zip(regions, palettes, strict=True):
      here = region if where is None else region * where
      done += region * (match_palette(given, palette, strength, here, extent) - given)
    return from_float(done, pictures.dtype)

  return automatic(moved, pictures, palettes, strength, weights, masks, alpha, extent, seen)


def _regions_of(masks: jax.Array, n: int) -> tuple[jax.Array, jax.Array]:
  """Does as `shares_of` for masks of n pictures, or for those of one."""
  return shares_of(jnp.broadcast_to(to_float(masks), (n, *masks.shape[1:])))


def _by_alpha(strength: Any, alpha: jax.Array | None) -> Any:
  """How far pictures of an alpha are changed, what broadcasts to `[n, h, w, 1]`."""
  strength = over_axes(strength, 4)
  return strength if alpha is None else strength * over_axes(alpha, 4)


def split_map(alpha: jax.Array | None) -> tuple[jax.Array | None, jax.Array | None]:
  """Returns alpha for the stages, and for `over_content`, which comes last, if it is a map.

  So a picture is the plain one wherever a map is 1, whatever its colors are made of.
  """
  return (None, alpha) if alpha is not None and is_map(alpha) else (alpha, None)


@kept()
def over_content(pictures: jax.Array, contents: jax.Array, alpha: jax.Array) -> jax.Array:
  """Mixes pictures `[n, h, w, 3]` with their contents, by a map `[h, w]` or `[n, h, w]`."""

  def mixed(pictures, contents, alpha):
    _, h, w, _ = pictures.shape
    given, below = to_float(pictures), to_float(contents)
    share = alpha.reshape(-1, h, w, 1).astype(given.dtype)
    return from_float(share * given + (1 - share) * below, pictures.dtype)

  return automatic(mixed, pictures, contents, alpha)


def in_render(color: str) -> str:
  """Returns what rendering has to do for `color`; colors are matched before, in the styles."""
  return "style" if color == "match" else color


@kept()
def _fit_style(stylizer: Stylizer, styles: jax.Array, extent: Extent | None) -> jax.Array:
  return stylizer.fit_style(styles, extent)


@kept()
def _encode_fitted(stylizer: Stylizer, styles: jax.Array, extent: Extent | None) -> StyleCode:
  return stylizer.encode_style(styles, extent)


@quick_jit("color", "stroke", "look_size", "canvas_size", "report")
def render(
  stylizer: Stylizer,
  contents: jax.Array,
  code: StyleCode,
  alpha: jax.Array | None,
  detail: jax.Array | None = None,
  masks: jax.Array | None = None,
  color: str = "style",
  stroke: float = 1.0,
  look_size: int | None = None,
  extent: Extent | None = None,
  canvas_size: tuple[int, int] | None = None,
  canvas_extent: Extent | None = None,
  report: bool = False,
) -> jax.Array:
  """Stylizes `[n, h, w, 3]`; None is an alpha of 1, which takes half the time, a detail of 0.

  With an extent, the valid region of the contents, a canvas is in place of stroke and look_size.
  With `report`, strips are reported, see `render_watched`.
  """
  sizes = (stroke, look_size, extent, canvas_size, canvas_extent)
  with reporting([] if report else None):
    return _render(stylizer, contents, code, alpha, detail, masks, color, *sizes)


def render_watched(
  progress: Callable[[int, int], None],
  stylizer: Stylizer,
  contents: jax.Array,
  *arguments: Any,
  **options: Any,
) -> jax.Array:
  """Does as `render`, and calls `progress` after every strip that a large picture is rendered in.

  Such a program is compiled anew in every process, because it calls Python.

  Args:
    progress: takes the number of strips that are done, and that of all.
    stylizer: the model.
    contents: `[n, h, w, 3]`.
    *arguments: the others of `render`.
    **options: the others of `render`, without an extent.

  Raises:
    BaseException: what `progress` raised, which ends the rendering.
  """
  planned: list[int] = []
  with reporting(planned):
    jax.eval_shape(functools.partial(_render, **options), stylizer, contents, *arguments)
  total, done = sum(planned), 0
  if not total:
    return render(stylizer, contents, *arguments, **options)

  def listen() -> None:
    nonlocal done
    done = min(done + 1, total)
    progress(done, total)

  with watch(listen):
    return jax.block_until_ready(render(stylizer, contents, *arguments, **options, report=True))


def _render(
  stylizer: Stylizer,
  contents: jax.Array,
  code: StyleCode,
  alpha: jax.Array | None,
  detail: jax.Array | None = None,
  masks: jax.Array | None = None,
  color: str = "style",
  stroke: float = 1.0,
  look_size: int | None = None,
  extent: Extent | None = None,
  canvas_size: tuple[int, int] | None = None,
  canvas_extent: Extent | None = None,
) -> jax.Array:
  weight, share = 1.0 if alpha is None else alpha, 0.0 if detail is None else detail
  options = {"detail": share, "color": color, "masks": masks}
  if extent is None:
    return stylizer.stylize(contents, code, weight, stroke=stroke, look_size=look_size, **options)
  for_alpha = alpha is not None
  canvas = _canvas(canvas_size, canvas_extent)
  content = stylizer.encode_content(contents, for_alpha=for_alpha, extent=extent, canvas=canvas)
  return stylizer.render(content, code, weight, **options)


def encode_content(
  stylizer: Stylizer,
  contents: ArrayLike,
  extent: Extent | None,
  for_alpha: bool,
  stroke: float = 1.0,
  look_size: int | None = None,
) -> ContentCode:
  """The first half of `render`.

  Args:
    stylizer: the model.
    contents: `[n, h, w, 3]`.
    extent: their valid region; None: all.
    for_alpha: keep what an `alpha` below 1 needs.
    stroke: how coarse the strokes are.
    look_size: the size that gives the strokes.
  """
  if stroke == 1 and look_size is None:
    return _encode_content(stylizer, contents, extent, for_alpha)
  if extent is None:
    return _encode_content(stylizer, contents, None, for_alpha, stroke, look_size)
  sides = int(extent.height), int(extent.width)
  size, canvas = padded_canvas(stylizer, *sides, stroke, look_size)
  return _encode_content(
    stylizer, contents, extent, for_alpha, canvas_size=size, canvas_extent=canvas
  )


def padded_canvas(
  stylizer: Stylizer, height: int, width: int, stroke: float, look_size: int | None
) -> tuple[tuple[int, int], Extent]:
  """Pads what is painted, too, so that similar sizes and strokes share a program."""
  painted = painted_size(height, width, look_stroke(height, width, stroke, look_size))
  height, width = (-(-side // STRIDE) * STRIDE for side in painted)
  return bucket(stylizer, *painted) or (height, width), extent_of(painted)


def _canvas(size: tuple[int, int] | None, extent: Extent | None) -> Canvas | None:
  return None if size is None or extent is None else Canvas(size, extent)


@kept("for_alpha", "stroke", "look_size", "canvas_size")
def _encode_content(
  stylizer: Stylizer,
  contents: jax.Array,
  extent: Extent | None,
  for_alpha: bool,
  stroke: float = 1.0,
  look_size: int | None = None,
  canvas_size: tuple[int, int] | None = None,
  canvas_extent: Extent | None = None,
) -> ContentCode:
  canvas = _canvas(canvas_size, canvas_extent)
  sizes = {"stroke": stroke, "look_size": look_size, "canvas": canvas}
  return stylizer.encode_content(contents, for_alpha=for_alpha, extent=extent, **sizes)


@kept("color")
def render_encoded(
  stylizer: Stylizer,
  content: ContentCode,
  code: StyleCode,
  alpha: jax.Array | None,
  detail: jax.Array | None = None,
  masks: jax.Array | None = None,
  color: str = "style",
) -> jax.Array:
  """The second half of `render`, for contents that meet many styles."""
  weight, share = 1.0 if alpha is None else alpha, 0.0 if detail is None else detail
  return stylizer.render(content, code, weight, detail=share, color=color, masks=masks)


def compile_render_encoded(
  stylizer: Stylizer, content: ContentCode, styles: int | None, *arguments: Any
) -> None:
  """Compiles what `render_encoded` runs for one content, before its code is known.

  Args:
    stylizer: the model.
    content: any of its shape and type.
    styles: the number of codes in a list; None: one code, in no list.
    *arguments: the others of `render_encoded`.
  """
  code = stylizer.code_shapes()
  render_encoded.prepare(stylizer, content, code if styles is None else [code] * styles, *arguments)
