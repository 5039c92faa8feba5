"""`stylize` for JAX code.

Pictures of similar sizes share programs: they are padded to sizes that have some already, see
`Rooms`. What is done with them then is in `stages.py`.
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
from adaconv_jax.files import absolute, expand, real, version_of
from adaconv_jax.models.canvas import check_stroke
from adaconv_jax.models.pictures import check_masks, check_pictures, is_on_host, on_device
from adaconv_jax.models.refinement import check_steps
from adaconv_jax.models.style_code import check_mix
from adaconv_jax.models.stylizer import Stylizer
from adaconv_jax.ops.color import check_color
from adaconv_jax.ops.extent import Extent
from adaconv_jax.rooms import Rooms, bucket, extent_of
from adaconv_jax.stages import (
  detail_weight,
  encode,
  evened,
  evenness_weight,
  goal_of,
  goal_side,
  in_palette,
  in_render,
  match,
  mix,
  over_content,
  padded_canvas,
  palette_of,
  palette_weight,
  refined,
  render,
  render_watched,
  sampled,
  split_map,
  style_weight,
)

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
      sizes = padded_canvas(stylizer, height, width, stroke, look_size)
      options |= dict(zip(("canvas_size", "canvas_extent"), sizes, strict=True))
  (weight, over), share = split_map(strengths[0]), strengths[1]
  arguments = (stylizer, contents, code, weight, share, masks)
  if progress is not None and concrete and extent is None:
    stylized = render_watched(progress, *arguments, **options)
  else:
    stylized = render(*arguments, **options)
  if even is not None:
    stylized = evened(stylized, contents, even, masks, weight, extent)
  if toward is not None:
    stylized = in_palette(stylized, palettes, toward, weights, masks, weight, extent)
  if over is not None:
    stylized = over_content(stylized, contents, _pad(over, size, axis=over.ndim - 2))
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
  return on_device(_pad(pictures, size)), extent_of((height, width))


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
