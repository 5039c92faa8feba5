"""`stylize` for JAX code, and the compiled programs that it and the command line run.

Each is compiled once per shape and type; images are float in [0, 1] or uint8. So that pictures of
similar sizes share them, they are padded to buckets, arrays of a few standard sizes: the command
line takes the next one of a fine series, and `stylize` one that has a program already, see
`Rooms`.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from adaconv_jax.checkpoints.bundle import vgg_beside
from adaconv_jax.checkpoints.load import DEFAULT_MODEL, find_model, load_model
from adaconv_jax.compilation import quick_jit
from adaconv_jax.files import absolute, expand, real, version_of
from adaconv_jax.models.canvas import Canvas, check_stroke, look_stroke
from adaconv_jax.models.pictures import (
  check_masks,
  check_pictures,
  check_weight,
  from_float,
  is_on_host,
  on_device,
  to_float,
)
from adaconv_jax.models.refinement import SIDE, StyleGoal, check_steps, sample, square, style_side
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
from adaconv_jax.ops.tiling import WHOLE_BYTES, image_bytes, reporting, watch
from adaconv_jax.programs import kept
from adaconv_jax.rooms import Rooms
from adaconv_jax.vgg.network import STRIDE

# Sides of buckets from one power of two to the next: at most an eighth is added, 5 % on average.
STEPS_PER_OCTAVE = 8
# What `stylize` has compiled in this process.
_ROOMS = Rooms()


def stylize(
  content: ArrayLike,
  style: ArrayLike | Sequence[ArrayLike],
  *,
  model: str | Path | Stylizer = DEFAULT_MODEL,
  alpha: ArrayLike = 1.0,
  detail: ArrayLike = 0.0,
  palette: ArrayLike = 0.0,
  evenness: ArrayLike = 0.0,
  refine: int = 0,
  color: str = "style",
  weights: ArrayLike | Sequence[float] | None = None,
  masks: ArrayLike | None = None,
  stroke: float = 1.0,
  look_size: int | None = None,
  progress: Callable[[int, int], None] | None = None,
) -> jax.Array:
  """Renders contents in the style of other images.

  Pure JAX: it can be part of `jit`, `vmap` and `grad` (reverse mode, with respect to content,
  style, alpha, detail, palette, weights and masks). Inside of these, values are not known, and
  NaN and ranges are not checked. A model given by name or path is kept in memory, and loaded again
  when its files change; under `jit` it becomes a constant of the compiled function.

  Outside of these, pictures are padded to a few standard sizes, so similar sizes share a compiled
  program; a size that comes often gets its own. The result is the same up to rounding (5e-4, or
  one level). `keep_compiled` keeps the programs for the next process.

      from adaconv_jax import stylize
      stylized = stylize(content, style)  # with adaconv_plus

  Args:
    content: RGB `[h, w, 3]` or `[n, h, w, 3]`, float in [0, 1] or uint8, any size.
    style: RGB `[h', w', 3]` or `[n, h', w', 3]`, float in [0, 1] or uint8; one style is used for
      all contents. A list or tuple of K of these, of any sizes, is K styles: mixed by `weights`, or
      side by side by `masks`.
    model: the name of a shipped model, the path of a workdir, checkpoint or bundle, or a
      `Stylizer` from `load_model`.
    alpha: from 0 (the content itself) to 1 (style): one number, one for each content, or a map,
      `[h, w]` for all contents or `[n, h, w]`. Below 1 pictures take up to twice as long; an alpha
      that is unknown, as under `jit`, or an array of several is never taken for 1. By a map, the
      picture at alpha 1 is mixed with the content, in no more time.
    detail: from 0 (the model's own output, as in the papers) to 1, one number or one for each
      content: how much of the content's fine structure, such as faces and small lettering,
      replaces the output's own. The colors and broad forms stay the style's.
    palette: from 0 (the model's own colors, as in the papers) to 1, one number or one for each
      content: how far the colors are moved to the style's own, see `match_palette`; at 1, their
      distribution is about the style's. With alpha below 1 it is as much less. Only with the
      color "style".
    evenness: from 0 (as in the papers) to 1, one number or one for each content: how far plain
      surfaces near structure, such as a sky around a roof, get the color that they have far from
      it, in place of a halo; see `even_out`. With alpha below 1 it is as much less.
    refine: how many steps of gradient descent improve the style's code for each content, 0 (none,
      as in the papers) to 100; see `Stylizer.refine`. 8 bring most of what can be gained, in
      the time of some 30 renderings of 256 x 256, whatever the sizes. With several styles, each
      is refined by itself. Gradients take the steps for constant.
    color: whose colors the output has. "style": the style's; "luminance": the content's, of which
      only the luma becomes that of the output; "match": the style's, after they got the mean and
      the covariance of the content's.
    weights: of the styles in a mix, K numbers that sum to 1; None: equal ones.
    masks: where each of K styles is, `[K, h, w]` for all contents or `[n, K, h, w]`: float in
      [0, 1], boolean or uint8. They may be soft and overlap, then they are divided by their sum;
      where no mask is, the content stays. Takes K times as long.
    stroke: how coarse the strokes are: 2 makes them twice as coarse, at the same size of picture.
      A plain number, for each of which a program is compiled.
    look_size: paint as at this many pixels on the shorter side, so that a preview and a print have
      the same strokes; `stroke` applies in addition. A plain number; None: the contents' own size.
    progress: called after every strip of contents that are rendered in strips (two megapixels and
      more), with the number of strips done and that of all; from another thread. Not under `jit`.

  Returns:
    The stylized contents, of the shape and type of `content` (uint8 is rounded; float64 without
    JAX's 64-bit mode becomes float32).

  Raises:
    ValueError: content or style is not RGB of one of these shapes and types, is empty, has NaN or
      values outside of [0, 1]; there are more styles than one and not one per content; alpha,
      detail, palette or evenness is not in [0, 1], or has another number than there are contents;
      refine is not a whole number from 0 to 100; color is none of these, or not "style" beside a
      palette;
      weights or masks are not what is described, or do not fit the styles; stroke or look_size is
      not a number above 0, or they would paint more than 89 million pixels; progress is no
      function; there is no such model, or it cannot be used (see `load_model`).
  """
  content = check_pictures("content", content)
  contents = _as_batch(content)
  count, height, width, _ = contents.shape
  several = isinstance(style, list | tuple)
  styles = _check_styles(style, count)
  strengths = style_weight(alpha, count, (height, width)), detail_weight(detail, count)
  toward, even = palette_weight(palette, color, count), evenness_weight(evenness, count)
  check_together(len(styles), several, weights, masks)
  check_stroke(stroke, look_size)
  refine = check_steps("refine", refine)
  if progress is not None and not callable(progress):
    raise ValueError(f"progress: expected a function of two numbers, or None, got {progress!r}")
  if masks is not None:
    masks = check_masks(masks, len(styles), count, (height, width))
  stylizer = model if isinstance(model, Stylizer) else _load(model)
  matched = check_color(color) == "match"

  concrete = _are_concrete(stylizer, contents, styles, strengths, toward, even, masks, weights)
  kind = *(None if x is None else np.ndim(x) for x in (*strengths, masks)), in_render(color)
  kind = (*kind, *(x.shape[0] for x in styles), stroke == 1 and look_size is None)
  contents, extent = _in_room(stylizer, contents, concrete, "content", kind)
  size = contents.shape[1:3]
  masks = None if masks is None else on_device(_pad(masks, size, axis=2))
  own, looks = (height, width), (stroke, look_size)
  part = sampled(contents, extent, own, *looks) if refine else None
  codes, palettes = [], []
  for index, picture in enumerate(styles):
    picture, inside = _in_room(stylizer, picture, concrete, "style", matched)
    if matched:
      # Not by `[]`, which transfers the index, as a guard forbids.
      region = None if masks is None else jax.lax.index_in_dim(masks, index, 1, keepdims=False)
      picture = match(picture, contents, inside, extent, region)
    code = encode(stylizer, picture, inside)
    if part is not None:
      goal = goal_of(stylizer, picture, inside, goal_side(own, *looks))
      code = refined(stylizer, code, part, goal, refine, strengths[1])
    codes.append(code)
    if toward is not None:
      palettes.append(palette_of(picture, inside))
  code = codes if masks is not None else mix(codes, weights)
  options: dict[str, Any] = {"color": in_render(color), "stroke": stroke, "look_size": look_size}
  if extent is not None:
    options = {"color": in_render(color), "extent": extent}
    if stroke != 1 or look_size is not None:
      sizes = _padded_canvas(stylizer, height, width, stroke, look_size)
      options |= dict(zip(("canvas_size", "canvas_extent"), sizes, strict=True))
  weight, share = strengths
  if weight is not None and is_map(weight):
    weight = _pad(weight, size, axis=weight.ndim - 2)
  arguments = (stylizer, contents, code, weight, share, masks)
  if progress is not None and concrete and extent is None:
    stylized = render_watched(progress, *arguments, **options)
  else:
    stylized = render(*arguments, **options)
  if even is not None:
    stylized = evened(stylized, contents, even, masks, weight, extent)
  if toward is not None:
    stylized = in_palette(stylized, palettes, toward, weights, masks, weight, extent)
  return _cut(stylized, height, width, one=content.ndim == 3)


def _are_concrete(*arguments: Any) -> bool:
  """Whether all arrays are known here, and none is on a mesh, over which XLA divides the work."""
  if isinstance(jax.device_put(np.zeros((), np.float32)), Tracer):
    return False  # within `jit`, where even what is computed from constants is traced
  return not any(
    isinstance(leaf, Tracer)
    or isinstance(leaf, jax.Array)
    and (isinstance(leaf.sharding, jax.sharding.NamedSharding) or len(leaf.devices()) > 1)
    for leaf in jax.tree.leaves(arguments)
  )


def _as_batch(pictures: Any) -> Any:
  if pictures.ndim == 4:
    return pictures
  if is_on_host(pictures):  # where NumPy needs no program for every size
    return _put_like(jax.device_get(pictures)[None], pictures)
  return pictures[None]


def _in_room(
  stylizer: Stylizer, pictures: jax.Array | np.ndarray, concrete: bool, *kind: Any
) -> tuple[jax.Array, Extent | None]:
  """Pads pictures `[n, h, w, 3]`, so that similar sizes share a program.

  Args:
    stylizer: the model that takes them.
    pictures: on the host or on a device.
    concrete: whether they are known here.
    kind: what else programs differ in.

  Returns:
    The pictures on the device, and their extent there; None: they keep their size.
  """
  count, height, width, _ = pictures.shape
  least = bucket(stylizer, height, width) if concrete else None
  if least is None:
    return on_device(pictures), None
  place = str(getattr(pictures, "sharding", None))
  key = (jax.tree.structure(stylizer), count, str(pictures.dtype), place, *kind)
  size = _ROOMS.find(key, count, *least)
  return on_device(_pad(pictures, size)), _extent((height, width))


def _extent(size: tuple[int, int]) -> Extent:
  # Transferred explicitly, which transfer guards allow.
  # Of the type that `jnp.arange` has, which in JAX's 64-bit mode is a longer one.
  integer = jax.dtypes.canonicalize_dtype(np.int64)
  return Extent(*jax.device_put(tuple(map(integer.type, size))))


def _pad(array: Any, size: Sequence[int], axis: int = 1) -> Any:
  """Pads two axes, from `axis` on, with zeros at their ends."""
  after = [there - here for there, here in zip(size, array.shape[axis:], strict=False)]
  if not any(after):
    return array
  ends = [(0, 0)] * axis + [(0, added) for added in after] + [(0, 0)] * (array.ndim - axis - 2)
  if isinstance(array, jax.Array) and not is_on_host(array):
    return jnp.pad(array, ends)
  return _put_like(np.pad(jax.device_get(array), ends), array)


def _cut(stylized: jax.Array, height: int, width: int, *, one: bool) -> jax.Array:
  """Returns the pictures in the top left of `[n, h', w', 3]`, or the only one of them."""
  if is_on_host(stylized):
    pictures = jax.device_get(stylized)[:, :height, :width]
    return _put_like(pictures[0] if one else pictures, stylized)
  if stylized.shape[1:3] != (height, width):
    stylized = stylized[:, :height, :width]
  return jnp.squeeze(stylized, 0) if one else stylized


def _put_like(array: np.ndarray, like: Any) -> jax.Array:
  """Puts an array where another one is, committed to that device if the other one is."""
  committed = isinstance(like, jax.Array) and like.committed
  return jax.device_put(array, like.sharding if committed else None)


def _check_styles(style: ArrayLike | Sequence[ArrayLike], contents: int) -> list[Any]:
  """Returns styles as batches, one for a style that is no list."""
  named: dict[str, Any] = {"style": style}
  if isinstance(style, list | tuple):
    named = {f"style[{index}]": one for index, one in enumerate(style)}
  if not named:
    raise ValueError("style: expected at least one picture, got an empty list")
  checked = []
  for name, one in named.items():
    one = _as_batch(check_pictures(name, one))
    if one.shape[0] not in (1, contents):
      raise ValueError(
        f"{name}: expected one style, or one for each of the {contents} contents, got "
        f"{one.shape[0]}; for every pair, call stylize once per style"
      )
    checked.append(one)
  return checked


def check_together(
  styles: int, several: bool, weights: ArrayLike | Sequence[float] | None, masks: ArrayLike | None
) -> None:
  """Checks arguments that belong to several styles.

  Raises:
    ValueError: weights or masks are beside a style that is no list, or beside each other, or the
      weights do not fit.
  """
  given = [name for name, value in (("weights", weights), ("masks", masks)) if value is not None]
  if len(given) == 2:
    raise ValueError(
      "weights and masks: expected one of them: weights mix styles everywhere, masks put them side "
      "by side"
    )
  if given and not several:
    raise ValueError(
      f"{given[0]} and style: expected a list of styles beside {given[0]}, got one picture or batch"
    )
  if weights is not None:
    check_mix(weights, styles)


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


def _load(model: str | Path) -> Stylizer:
  # Not resolved: VGG weights are looked for beside the link that a file may be.
  path = expand(absolute(find_model(model)))
  # Of a workdir, saving a checkpoint changes the time of the folder that it is saved to.
  watched = [path, vgg_beside(path)]
  if not path.is_file():
    watched = [path, path / "config.json", path / "checkpoints"]
  return _load_once(path, (real(path), *map(version_of, watched)))


@functools.lru_cache(maxsize=4)
def _load_once(path: Path, modified: tuple[Any, ...]) -> Stylizer:
  del modified  # a part of the key only
  with jax.ensure_compile_time_eval():  # the first call may be inside a jit; tracers must not stay
    return load_model(path)


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
    alpha: what the pictures were rendered with, as for `render`.
    extent: the valid region of the pictures; None: all.
    seen: how visible the pixels are, `[n, h, w]`; None: all are.

  Returns:
    Like `pictures`.
  """

  def moved(pictures, contents, strength, masks, alpha, extent, seen):
    n, h, w, _ = pictures.shape
    guides = []
    if masks is not None:
      guides.append(jnp.moveaxis(to_float(masks), 1, -1))
    if seen is not None:
      guides.append(jnp.expand_dims(seen, -1))
    if alpha is not None and is_map(alpha):
      guides.append(alpha.reshape(-1, h, w, 1))
    guides = [jnp.broadcast_to(guide, (n, h, w, guide.shape[-1])) for guide in guides]
    beside = jnp.concatenate(guides, -1) if guides else None
    return even_out(pictures, contents, _by_alpha(strength, alpha, h, w), extent, beside)

  return automatic(moved, pictures, contents, strength, masks, alpha, extent, seen)


@kept()
def palette_of(styles: jax.Array, extent: Extent | None = None) -> jax.Array:
  """Measures the palettes of styles `[n, h, w, 3]`, where they are valid; see `measure_palette`."""

  def measured(styles, extent):
    styles = to_float(styles)
    return measure_palette(styles, Borders(extent, styles.shape[1]).inside(styles))

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
    alpha: what the pictures were rendered with, as for `render`.
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
    given, (n, h, w, _) = to_float(pictures), pictures.shape
    inside = Borders(extent, h).inside(given)
    if seen is not None:
      visible = jnp.expand_dims(seen, -1)
      inside = visible if inside is None else visible * inside
    strength = _by_alpha(strength, alpha, h, w)
    if masks is None:
      weighed = [weight * palette for weight, palette in zip(weights, palettes, strict=True)]
      mixed = functools.reduce(jnp.add, weighed)
      return from_float(match_palette(given, mixed, strength, inside), pictures.dtype)
    shares, cover = shares_of(jnp.broadcast_to(to_float(masks), (n, *masks.shape[1:])))
    regions = jnp.moveaxis(shares * jnp.expand_dims(cover, 1), 1, 0)[..., None]
    # What a region gets is added in proportion, so nothing is moved where no mask is.
    done = given
    for region, palette in zip(regions, palettes, strict=True):
      where = region if inside is None else region * inside
      done += region * (match_palette(given, palette, strength, where) - given)
    return from_float(done, pictures.dtype)

  return automatic(moved, pictures, palettes, strength, weights, masks, alpha, extent, seen)


def _by_alpha(strength: Any, alpha: jax.Array | None, height: int, width: int) -> Any:
  """How far pictures of an alpha are changed, what broadcasts to `[n, h, w, 1]`."""
  strength = over_axes(strength, 4)
  if alpha is None:
    return strength
  return strength * (alpha.reshape(-1, height, width, 1) if is_map(alpha) else over_axes(alpha, 4))


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
  if report:
    with reporting([]):
      return _render(stylizer, contents, code, alpha, detail, masks, color, stroke, look_size)
  sizes = (stroke, look_size, extent, canvas_size, canvas_extent)
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
  for_alpha = alpha is not None and not is_map(alpha)
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
  size, canvas = _padded_canvas(stylizer, *sides, stroke, look_size)
  return _encode_content(
    stylizer, contents, extent, for_alpha, canvas_size=size, canvas_extent=canvas
  )


def _padded_canvas(
  stylizer: Stylizer, height: int, width: int, stroke: float, look_size: int | None
) -> tuple[tuple[int, int], Extent]:
  """Pads what is painted, too, so that similar sizes and strokes share a program."""
  painted = painted_size(height, width, look_stroke(height, width, stroke, look_size))
  height, width = (-(-side // STRIDE) * STRIDE for side in painted)
  return bucket(stylizer, *painted) or (height, width), _extent(painted)


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


def in_bucket(stylizer: Stylizer, picture: np.ndarray) -> tuple[np.ndarray, Extent | None]:
  """Pads a picture to one of a few standard sizes, so that similar sizes share a program.

  Args:
    stylizer: the model that takes it.
    picture: `[h, w, 3]`.

  Returns:
    `[1, h', w', 3]` with the picture in the top left, and the picture's extent in it; the picture
    alone and None where it has no `bucket`.
  """
  size = bucket(stylizer, *picture.shape[:2])
  if size is None:
    return picture[None], None
  below, right = (there - here for there, here in zip(size, picture.shape, strict=False))
  return np.pad(picture, ((0, below), (0, right), (0, 0)))[None], Extent(*picture.shape[:2])


def out_of_bucket(content: ContentCode, stylized: jax.Array) -> np.ndarray:
  """Returns the picture `[h, w, 3]` that `render_encoded` made of one from `in_bucket`."""
  height, width = map(int, content.extent or content.pictures.shape[1:3])
  return np.asarray(stylized)[0, :height, :width]


def bucket(stylizer: Stylizer, height: int, width: int) -> tuple[int, int] | None:
  """The height and width to which a picture can be padded.

  Returns:
    The size; None where the picture must keep its own, because it is rendered in strips, styles of
    its size are enlarged, or the model's kernels are larger than 3 x 3.
  """
  h, w = (bucket_side(side, STRIDE) for side in (height, width))
  large = image_bytes(h, w) > WHOLE_BYTES
  wide = stylizer.model.kernel_size > 3
  return None if large or wide or min(height, width) < 2 * STRIDE else (h, w)


def bucket_side(side: int, multiple: int) -> int:
  """The smallest height or width of a bucket that holds `side`: a multiple of `multiple`."""
  step = max(2 ** (side - 1).bit_length() // (2 * STEPS_PER_OCTAVE), multiple)
  return -(-side // step) * step
