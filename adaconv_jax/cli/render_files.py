"""`adaconv stylize` at work: from picture files to picture files."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from PIL import Image

from adaconv_jax import images
from adaconv_jax.bars import Bar
from adaconv_jax.cli.attempt import attempt, in_options
from adaconv_jax.cli.options import look_size_for
from adaconv_jax.cli.pairs import Pair
from adaconv_jax.files import printable
from adaconv_jax.host_cpu import return_memory
from adaconv_jax.models.canvas import look_stroke
from adaconv_jax.models.pictures import on_device
from adaconv_jax.models.refinement import StyleGoal
from adaconv_jax.models.style_code import StyleCode
from adaconv_jax.models.stylizer import ContentCode, Stylizer
from adaconv_jax.ops.color import COLORS
from adaconv_jax.ops.extent import Extent
from adaconv_jax.ops.stroke import painted_size
from adaconv_jax.results import saved_in
from adaconv_jax.rooms import in_bucket, out_of_bucket
from adaconv_jax.stages import (
  compile_in_palette,
  compile_refined,
  compile_render_encoded,
  detail_weight,
  encode,
  encode_content,
  evened,
  evenness_weight,
  goal_of,
  goal_side,
  in_palette,
  in_render,
  match,
  mix,
  over_content,
  palette_of,
  palette_weight,
  refined,
  render_encoded,
  render_watched,
  sampled,
  split_map,
  style_weight,
)

T = TypeVar("T")

# Contents with more pixels are encoded again for every style: then what is encoded need not stay
# in memory. Their strips are shown, for which a program is compiled anew in every process.
HUGE = 2**24


@dataclasses.dataclass(frozen=True)
class Look:
  """How outputs are to look: the options of `stylize`, as the command line has them.

  Attributes:
    alpha: strength of the style.
    detail: share of the contents' fine structure.
    palette: how far the outputs' colors are moved to the styles' own.
    evenness: how far plain surfaces have no halo around what stands before them.
    refine: how many steps improve a style's code for each content.
    color: whose colors the outputs have, one of `COLORS`.
    stroke: how coarse strokes are.
    look_size: pixels on the shorter side that give the strokes, as `look_size_for` takes it.
    together: styles that are all in every output; None: one style per output.
    weights: of these, if they are mixed; None: equal ones.
    masks: of these, if they are side by side, one each; they are resized to every content.
    alpha_mask: where alpha applies, or None: everywhere.
  """

  alpha: float = 1.0
  detail: float = 0.0
  palette: float = 0.0
  evenness: float = 0.0
  refine: int = 0
  color: str = COLORS[0]
  stroke: float = 1.0
  look_size: int | None = None
  together: tuple[Path, ...] | None = None
  weights: tuple[float, ...] | None = None
  masks: tuple[Image.Image, ...] | None = None
  alpha_mask: Image.Image | None = None


def render_pairs(
  stylizer: Stylizer,
  pairs: list[Pair],
  *,
  look: Look,
  size: int | None,
  style_size: int | None,
  quality: int,
  overwrite: bool = True,
) -> int:
  """Makes all pairs, and reports those that cannot be made.

  Args:
    stylizer: the model.
    pairs: from `plan_pairs`; those of one content follow each other.
    look: how the outputs are to look.
    size: pixels on the contents' shorter side; None leaves them as they are.
    style_size: the same for styles.
    quality: of JPEG and WebP, 1 to 100.
    overwrite: whether an output that exists is replaced; one that another process has made
      meanwhile fails otherwise.

  Returns:
    How many failed.
  """
  # By their place, too, where matched colors are those of its region; None: the style cannot be
  # used, and that was reported.
  codes: dict[tuple[Path, int], _Style | None] = {}
  failed, saving = 0, (quality, overwrite)
  # A file may be a content and a style, or a style several times.
  trying = functools.partial(_attempt, set())
  with (
    Bar(total=len(pairs), unit="image", disable=len(pairs) == 1) as bar,
    ThreadPoolExecutor(1) as beside,
    ThreadPoolExecutor(1) as longer,
  ):
    # The first content and the first style compile a program each: both at once take less time. So
    # do rendering and what a palette needs, and the steps of a refinement beside all of these.
    detail = detail_weight(look.detail)
    steps = longer.submit(compile_refined, stylizer, detail) if look.refine else None
    first = (look.together or (pairs[0].style.path,))[0]
    started = None
    if look.color != "match":
      started = beside.submit(_read_style, first, style_size, stylizer, None, look, 0, beside)
    for path, group in itertools.groupby(pairs, lambda pair: pair.content.path):
      group = list(group)
      # With an alpha, if all outputs can have one.
      cutout = all(p.output.suffix.lower() in images.ALPHA_SUFFIXES for p in group)
      content = trying(path, _read_content, size, stylizer, look, cutout)
      compiled = None
      if content is not None and (look.evenness or look.palette or look.alpha_mask):
        compiled = beside.submit(_compile_after, content, look)
      if look.color == "match":  # a style is another one for each content
        codes = {key: code for key, code in codes.items() if code is None}
      for pair in group:
        done = None
        if content is not None:
          styles = look.together or (pair.style.path,)
          keys = [(s, k if look.color == "match" else 0) for k, s in enumerate(styles)]
          for style, index in keys:
            if (style, index) not in codes:
              if started is not None and style == first:
                codes[style, index] = trying(style, _result, started)
                continue
              arguments = (style_size, stylizer, content, look, index, beside)
              codes[style, index] = trying(style, _read_style, *arguments)
          found = [codes[key] for key in keys]
          if all(code is not None for code in found):
            futures = steps, compiled
            done = trying(pair.output, _make, stylizer, content, found, futures, look, *saving)
        failed += done is None
        bar.update()
  return failed


class _Style(NamedTuple):
  """A style.

  Attributes:
    code: what the model needs of it.
    palette: its colors, which another thread measures; None: they are not needed.
    goal: what its code is refined toward, for contents of a `goal_side`; None: it is not.
  """

  code: StyleCode
  palette: "Future[jax.Array] | None"
  goal: Callable[[int], StyleGoal] | None


class _Content(NamedTuple):
  """A content, and the masks in its size and its bucket.

  Attributes:
    pictures: `[1, h, w, 3]`.
    extent: the valid region of these; None: all.
    code: what is computed of them once; None: it is computed for every style.
    alpha: strength of the style, see `style_weight`.
    over: the same as a map, see `split_map`.
    masks: `[K, h, w]`, or None.
    part: what codes are refined for, from `sampled`, or None where they are not.
    side: of the styles that it is compared with, see `goal_side`.
    opacity: the alpha of the file, `[h, w]`, uint8, which the outputs get; None: they are opaque.
  """

  pictures: jax.Array
  extent: Extent | None
  code: ContentCode | None
  alpha: jax.Array | None
  over: jax.Array | None
  masks: np.ndarray | None
  part: jax.Array | None
  side: int
  opacity: np.ndarray | None = None


def _attempt(reported: set[str], path: Path, action: Callable[..., T], *args: Any) -> T | None:
  hint = "--size or --style-size"
  return attempt(path, action, path, *args, memory_hint=hint, reported=reported)


def _read(path: Path, size: int | None) -> np.ndarray:
  """Reads an image file as `[h, w, 3]`, uint8."""
  picture = images.decode(images.read_file(path), name=str(path), at_least=size)
  return np.asarray(
    picture if size is None else images.resize_shorter(picture, size, name=str(path))
  )


def _read_cutout(path: Path, size: int | None) -> tuple[np.ndarray, np.ndarray | None]:
  """Reads an image file with its alpha, `[h, w, 3]` and `[h, w]` or None, uint8.

  Pixels that are not to be seen get the mean of the others: they should have no influence, and a
  white ground or the colors that a file hides would have some.
  """
  data = images.read_file(path)
  picture, alpha = images.decode_cutout(data, name=str(path), at_least=size)
  if alpha is not None:
    picture.putalpha(alpha)
  if size is not None:
    picture = images.resize_shorter(picture, size, name=str(path))  # weighted with the alpha
  if alpha is None:
    return np.asarray(picture), None
  opacity = np.array(picture.getchannel("A"))
  pixels, seen = np.array(picture.convert("RGB")), opacity > 0
  pixels[~seen] = np.round(pixels[seen].mean(0)) if seen.any() else 255
  return pixels, opacity


def _read_content(
  path: Path, size: int | None, stylizer: Stylizer, look: Look, cutout: bool
) -> _Content:
  picture, opacity = _read_cutout(path, size) if cutout else (_read(path, size), None)
  _check_painted(path, picture, look)
  padded, extent = in_bucket(stylizer, picture)
  room = padded.shape[1:3]
  alpha, masks = style_weight(look.alpha), None
  if look.alpha_mask is not None:
    strength = np.float32(look.alpha) * _fit(look.alpha_mask, picture.shape, room)
    alpha = style_weight(strength, 1, room)
  alpha, over = split_map(alpha)
  if look.masks is not None:
    masks = np.stack([_fit(mask, picture.shape, room) for mask in look.masks])
  look_size = look_size_for(look.look_size, *picture.shape[:2])
  looks = picture.shape[:2], look.stroke, look_size
  part, side = sampled(padded, extent, *looks) if look.refine else None, goal_side(*looks)
  if extent is None and picture.shape[0] * picture.shape[1] > HUGE:
    return _Content(on_device(padded), extent, None, alpha, over, masks, part, side, opacity)
  code = encode_content(stylizer, padded, extent, alpha is not None, look.stroke, look_size)
  return _Content(code.pictures, extent, code, alpha, over, masks, part, side, opacity)


def _check_painted(path: Path, picture: np.ndarray, look: Look) -> None:
  """Raises ImageError where a content would be painted at too many pixels."""
  height, width, _ = picture.shape
  try:
    look_size = look_size_for(look.look_size, height, width)
    painted_size(height, width, look_stroke(height, width, look.stroke, look_size))
  except ValueError as error:
    message = in_options(str(error), "stroke", "look_size")
    raise images.ImageError(f"{path}: {message}") from error


def _fit(mask: Image.Image, size: Sequence[int], room: Sequence[int]) -> np.ndarray:
  """Resizes a mask to a content of this size, padded to its bucket."""
  fitted = images.fit_mask(mask, *size[:2])
  return np.pad(fitted, [(0, b - a) for a, b in zip(fitted.shape, room, strict=True)])


def _read_style(
  path: Path,
  size: int | None,
  stylizer: Stylizer,
  content: _Content | None,
  look: Look,
  index: int,
  beside: ThreadPoolExecutor,
) -> _Style:
  style, extent = in_bucket(stylizer, _read(path, size))
  if look.color == "match":
    assert content is not None  # whose colors the style gets
    region = _visible_region(content, index)
    style = match(style, content.pictures, extent, content.extent, region)
  code = encode(stylizer, style, extent)
  palette = beside.submit(palette_of, style, extent) if look.palette else None
  toward = functools.cache(lambda side: goal_of(stylizer, style, extent, side))
  return _Style(code, palette, toward if look.refine else None)


def _visible(content: _Content) -> np.ndarray | None:
  """Returns how visible the pixels are, `[1, h, w]`; None: all are."""
  if content.opacity is None:
    return None
  opacity = np.float32(content.opacity / 255)
  ends = zip(opacity.shape, content.pictures.shape[1:3], strict=True)
  return np.pad(opacity, [(0, padded - own) for own, padded in ends])[None]


def _visible_region(content: _Content, index: int) -> np.ndarray | None:
  """Returns the weights of the pixels whose colors a style gets, `[1, h, w]`; None: all alike."""
  region = None if content.masks is None else content.masks[index : index + 1]
  opacity = _visible(content)
  if opacity is None:
    return region
  return opacity if region is None else region * opacity


def _result(path: Path, started: "Future[_Style]") -> _Style:
  del path  # the error has it
  return started.result()


def _make(
  output: Path,
  stylizer: Stylizer,
  content: _Content,
  styles: list[_Style],
  compiled: "tuple[Future[None] | None, Future[None] | None]",
  look: Look,
  quality: int,
  overwrite: bool,
) -> Path:
  """Makes one image, and puts it at `output` whole or not at all."""
  steps, compiled_after = compiled
  detail = detail_weight(look.detail)
  arguments = (content.alpha, detail, content.masks, in_render(look.color))
  goals = [style.goal and style.goal(content.side) for style in styles]
  if steps is not None:
    if content.code is not None and not steps.done():  # what takes longest; this needs no code
      count = None if content.masks is None else len(styles)
      compile_render_encoded(stylizer, content.code, count, *arguments)
    steps.result()
  codes = [
    refined(stylizer, style.code, content.part, goal, look.refine, detail)
    for style, goal in zip(styles, goals, strict=True)
  ]
  code = codes if content.masks is not None else mix(codes, look.weights)
  if content.code is None:
    sizes = (look.stroke, look_size_for(look.look_size, *content.pictures.shape[1:3]))
    made = _render_huge(output, stylizer, content.pictures, code, *arguments, *sizes)
    return_memory()  # what follows would take some gigabytes beside it
  else:
    made = render_encoded(stylizer, content.code, code, *arguments)
  if compiled_after is not None:
    compiled_after.result()
  where = _where(content)
  if (even := evenness_weight(look.evenness)) is not None:
    made = evened(made, content.pictures, even, *where)
  if (strength := palette_weight(look.palette, look.color)) is not None:
    palettes = [style.palette.result() for style in styles if style.palette is not None]
    made = in_palette(made, palettes, strength, look.weights, *where)
  if content.over is not None:
    made = over_content(made, content.pictures, content.over)
  stylized = np.asarray(made)[0] if content.code is None else out_of_bucket(content.code, made)
  save = functools.partial(images.save, image=stylized, quality=quality, alpha=content.opacity)
  with saved_in(output.parent, overwrite=overwrite) as put:
    put(output.name, save)
  return output


def _where(content: _Content) -> tuple[Any, ...]:
  """What says where pictures are changed: the last arguments of `evened` and `in_palette`."""
  masks = None if content.masks is None else content.masks[None]
  return masks, content.alpha, content.extent, _visible(content)


def _compile_after(content: _Content, look: Look) -> None:
  """Compiles what is done to a picture once it is rendered."""
  where = _where(content)
  if (even := evenness_weight(look.evenness)) is not None:
    evened.prepare(content.pictures, content.pictures, even, *where)
  if (strength := palette_weight(look.palette, look.color)) is not None:
    count = len(look.together or (None,))
    compile_in_palette(content.pictures, count, strength, look.weights, *where)
  if content.over is not None:
    over_content.prepare(content.pictures, content.pictures, content.over)


def _render_huge(output: Path, stylizer: Stylizer, *arguments: Any) -> jax.Array:
  """Renders one content, and shows how many of its strips are done."""
  with Bar(unit="strip", desc=printable(output.name), leave=False) as bar:

    def show(done: int, total: int) -> None:
      bar.total = total
      bar.update(done - bar.n)

    contents, code, alpha, detail, masks, color, stroke, look_size = arguments
    options = {"color": color, "stroke": stroke, "look_size": look_size}
    return render_watched(show, stylizer, contents, code, alpha, detail, masks, **options)
