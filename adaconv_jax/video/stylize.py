"""Stylizes the frames of a video so that they do not flicker.

Frame by frame, a style transfer flickers for two reasons. AdaIN, and AdaConv at its four scales,
normalizes every frame by its own statistics, so that whatever enters the picture changes all of it.
Here the frames of a shot share theirs. And noise and motion change the marks on every surface; so
every frame is blended with those before it, moved along with what it shows (`steady.py`).

A palette is given to a shot, too: the colors of some of its frames, once they are painted, say how
those of all are moved. A style's code is refined for some frames of the whole video together.
"""

import collections
import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from adaconv_jax.checkpoints.load import DEFAULT_MODEL, load_model
from adaconv_jax.models.canvas import check_stroke, look_stroke
from adaconv_jax.models.networks import ContentStats
from adaconv_jax.models.pictures import check_pictures, from_float, on_device, to_float
from adaconv_jax.models.refinement import check_steps
from adaconv_jax.models.style_code import StyleCode, blend, check_mix, over_axes
from adaconv_jax.models.stylizer import Stylizer
from adaconv_jax.ops.adain import ChannelStats
from adaconv_jax.ops.evenness import even_out
from adaconv_jax.ops.palette import fit_colors, move_colors
from adaconv_jax.stages import (
  encode,
  evenness_weight,
  goal_of,
  goal_side,
  mix,
  palette_of,
  palette_weight,
  refined,
  sampled,
  style_weight,
)
from adaconv_jax.vgg.network import STRIDE
from adaconv_jax.video import steady
from adaconv_jax.video.shots import Cuts

STATISTICS = ("shot", "running", "frame")
# How many frames a code is refined for: memory grows by half a gigabyte with each.
REFINED_FOR = 4
# The statistics of a shot are those of every eighth frame.
EVERY = 8
# So many frames of a shot at most are painted to measure the colors that get the palette.
SAMPLES = 8
# They are measured at up to twice as many pixels per side.
_SAMPLED = 64
# Share of a new measurement in a running average, per frame.
PACE = 0.05
# Frames rendered before the first that is wanted, so that it is mixed.
WARM_UP = 3
# Frames rendered together on an accelerator; a CPU is busy with one.
BATCH = 8


class Measured(NamedTuple):
  """What normalization takes from frames, for each of the styles that the video fades between.

  Attributes:
    stats: what `Stylizer.render` normalizes with.
    own_style: the code of the frames as styles, which AdaConv's alpha needs, or None.
    own_stats: what normalizes the frames in their own style, or None.
  """

  stats: tuple[ContentStats, ...]
  own_style: StyleCode | None
  own_stats: ContentStats | None


class Palette(NamedTuple):
  """The colors that the styles have.

  Attributes:
    ends: from `measure_palette`, of each of the styles that the video fades between.
    strength: how far colors are moved to them.
  """

  ends: tuple[jax.Array, ...]
  strength: jax.Array


class Colors(NamedTuple):
  """How colors are moved; see `move_colors`.

  Attributes:
    measured: the colors of painted frames.
    wanted: those of the style.
  """

  measured: jax.Array
  wanted: jax.Array


class _Sizes(NamedTuple):
  """The size at which frames are painted, see `Stylizer.encode_content`."""

  stroke: float
  look_size: int | None


# Moves the colors of a painted frame, whose number is given, too.
_Recolor = Callable[[jax.Array, int], jax.Array]


class Refinement(NamedTuple):
  """What the codes of styles are refined for.

  Attributes:
    frames: from `sampled`, of some frames.
    side: of the styles that they are compared with, see `goal_side`.
    steps: how many.
  """

  frames: jax.Array
  side: int
  steps: int


def stylize_frames(
  frames: Iterable[ArrayLike],
  style: ArrayLike | Sequence[ArrayLike],
  *,
  model: str | Path | Stylizer = DEFAULT_MODEL,
  alpha: ArrayLike = 1.0,
  palette: ArrayLike = 0.0,
  evenness: ArrayLike = 0.0,
  refine: int = 0,
  weights: Sequence[float] | None = None,
  mix_to: ArrayLike | Sequence[ArrayLike] | None = None,
  count: int | None = None,
  statistics: str | None = None,
  blending: float = steady.STEADY,
  stroke: float = 1.0,
  look_size: int | None = None,
  start: int = 0,
) -> Iterator[np.ndarray]:
  """Renders the frames of a video in a style, one after the other, without flicker.

      from adaconv_jax.video import open_video, stylize_frames
      for picture in stylize_frames(open_video("in.mp4"), style):
        ...

  Programs are compiled once per size of frame. A few frames are in memory at a time: the first of a
  shot is yielded when the four after it have been read, which take away its noise.

  Args:
    frames: RGB `[h, w, 3]`, float in [0, 1] or uint8, all of one shape and type. What can be
      iterated twice (a list, an array, a `Video`) is, which "shot" needs.
    style: a picture such as a frame, of any size, or a sequence of them, which are mixed.
    model: as for `stylize`.
    alpha: 0 (the frames themselves) to 1 (style). Toward 0, less is blended.
    palette: 0 (the model's own colors) to 1, how far the colors are moved to the style's own, as
      for `stylize`. All frames of a shot are moved alike; with other `statistics`, as a running
      average of them or the frame itself needs it.
    evenness: 0 to 1, how far plain surfaces near structure get the color that they have far from
      it, as for `stylize`.
    refine: how many steps of gradient descent improve the styles' codes, 0 to 100, for some frames
      of the video together; see `Stylizer.refine`. The frames must be such that can be iterated
      twice, and are, before this returns.
    weights: of the styles' codes, which sum to 1; None: equal ones.
    mix_to: a style or several, to which the video fades: all of `style` in the first frame, all of
      this in the last one.
    count: the number of frames, for `mix_to`; None: `len(frames)`.
    statistics: what normalizes a frame. "shot": the statistics of its shot, which a first pass over
      the frames collects; "running": a running average, for a stream; "frame": its own, as for
      single pictures. None: "shot" where the frames can be iterated twice, otherwise "running".
    blending: 0 to 1, how much of a frame comes from those before it, moved along with the
      picture, where they show the same; 0 turns it off.
    stroke: how coarse the strokes are, as for `stylize`.
    look_size: paint as at this many pixels on the shorter side, as for `stylize`; None: as at the
      frames' own size. Large frames are painted much faster at a smaller one.
    start: the first frame to yield; those before are skipped, almost without work. It is blended
      with the few before it, so its marks can differ from those of a rendering from the beginning.

  Yields:
    The stylized frames, of the shape and type of the frames.

  Raises:
    ValueError: a frame or a style is no such picture, frames differ in shape or type; the other
      arguments are out of their ranges, or do not fit together.
  """
  # Those of other libraries may have `__getitem__` alone, which is enough for `iter`.
  iterable = hasattr(frames, "__iter__") or hasattr(frames, "__getitem__")
  if isinstance(frames, str | bytes | os.PathLike) or not iterable:
    raise ValueError(
      f"frames: expected pictures, such as open_video(path) or a list of arrays, got {frames!r}"
    )
  once = iter(frames) is frames
  if statistics is None:
    statistics = "running" if once else "shot"
  if statistics not in STATISTICS:
    raise ValueError(f"statistics: expected one of {list(STATISTICS)}, got {statistics!r}")
  if once and statistics == "shot":
    raise ValueError(
      "statistics: 'shot' takes frames that can be iterated twice, such as a list; got an "
      "iterator, for which there is 'running'"
    )
  if not isinstance(blending, int | float | np.number) or not 0 <= blending < 1:
    raise ValueError(f"blending: expected a number from 0 to below 1, got {blending!r}")
  for name, value, least in (("start", start, 0), ("count", 1 if count is None else count, 1)):
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
      raise ValueError(f"{name}: expected a whole number of at least {least}, got {value!r}")
  if mix_to is not None and count is None:
    count = getattr(frames, "__len__", lambda: None)()
    if count is None:
      raise ValueError("count: expected the number of frames, which mix_to needs, got None")
  steps = check_steps("refine", refine)
  if steps and once:
    raise ValueError(
      f"refine: expected 0 for an iterator, whose frames are seen once, got {refine}; a list of "
      "frames can be refined"
    )
  for name, value in (("alpha", alpha), ("palette", palette), ("evenness", evenness)):
    if np.ndim(value):
      raise ValueError(f"{name}: expected one number in [0, 1] for all frames, got {value!r}")
  check_stroke(stroke, look_size)
  sizes = _Sizes(stroke, look_size)
  toward, even = palette_weight(palette, "style"), evenness_weight(evenness)
  strength = style_weight(alpha)
  stylizer = model if isinstance(model, Stylizer) else load_model(model)
  some = _some_frames(frames, steps, sizes) if steps else None
  ends = [mix_styles(stylizer, style, weights, refinement=some)]
  if mix_to is not None:
    ends.append(mix_styles(stylizer, mix_to, name="mix_to", refinement=some))
  aim = None
  if toward is not None:
    palettes = [_mix_palettes(style, weights)]
    if mix_to is not None:
      palettes.append(_mix_palettes(mix_to))
    aim = Palette(tuple(palettes), toward if strength is None else toward * strength)
  # Frames of a fade differ in their style, and others than those of a shot in their statistics.
  alike = statistics == "shot" and mix_to is None
  batch = BATCH if alike and jax.default_backend() != "cpu" else 1
  if even is not None and strength is not None:
    even *= strength
  if strength is not None:
    # What is blended has less of the frame's grain, of which alpha 0 has all; at a half, 0.94.
    blending *= 1 - (1 - float(strength)) ** 4
  painter = _Painter(stylizer, tuple(ends), strength, aim, even, count, batch, blending, sizes)
  return _stylize(frames, painter, statistics, start)


def mix_styles(
  stylizer: Stylizer,
  style: ArrayLike | Sequence[ArrayLike],
  weights: Sequence[float] | None = None,
  *,
  name: str = "style",
  refinement: Refinement | None = None,
) -> StyleCode:
  """Encodes styles, and returns the mean of their codes.

  Args:
    stylizer: the model.
    style: one picture, or a list or tuple of them.
    weights: one per style, which sum to 1; None: equal ones.
    name: what errors call `style`.
    refinement: what the codes are refined for; None: they are not.

  Raises:
    ValueError: no style, or weights that do not fit.
  """
  styles: Any = list(style) if isinstance(style, list | tuple) else [style]
  if not styles:
    raise ValueError(f"{name}: expected at least one, got none")
  check_mix(weights, len(styles))
  pictures = [on_device(check_pictures(name, picture)) for picture in styles]
  if any(picture.ndim != 3 for picture in pictures):
    raise ValueError(f"{name}: expected pictures [h, w, 3], got a batch; several styles are a list")
  codes = []
  for picture in pictures:
    picture = jnp.expand_dims(picture, 0)
    code = encode(stylizer, picture)
    if refinement is not None:
      goal = goal_of(stylizer, picture, None, refinement.side)
      some = refinement.frames, goal, refinement.steps
      code = refined(stylizer, code, *some, together=True)
    codes.append(code)
  return mix(codes, weights)


def _some_frames(frames: Iterable[ArrayLike], steps: int, sizes: _Sizes) -> Refinement | None:
  """Looks at some frames of all the video; None: there are none."""
  samples = _Samples()
  for frame in _checked(frames):
    samples.add(frame)
  chosen = samples.frames[:: -(-len(samples.frames) // REFINED_FOR) or 1]
  if not chosen:
    return None
  parts = [sampled(frame[None], None, None, *sizes) for frame in chosen]
  # Always as many, of which there is a program then.
  some = jnp.concatenate([parts[index % len(parts)] for index in range(REFINED_FOR)])
  return Refinement(some, goal_side(chosen[0].shape[:2], *sizes), steps)


def _mix_palettes(
  style: ArrayLike | Sequence[ArrayLike], weights: Sequence[float] | None = None
) -> jax.Array:
  """The palette `[1, 5, 3, 16]` of styles that `mix_styles` has checked."""
  styles: Any = list(style) if isinstance(style, list | tuple) else [style]
  palettes = [palette_of(jnp.expand_dims(on_device(check_pictures("", one)), 0)) for one in styles]
  return mix(palettes, weights)


class _Painter:
  """The model, the styles, alpha, palette and evenness, and what they make of frames."""

  def __init__(
    self,
    stylizer: Stylizer,
    ends: tuple[StyleCode, ...],
    alpha: jax.Array | None,
    palette: Palette | None,
    evenness: jax.Array | None,
    count: int | None,
    batch: int,
    blending: float,
    sizes: _Sizes,
  ):
    self.sizes = sizes
    self.stylizer, self.ends, self.alpha, self.count = stylizer, ends, alpha, count
    self.palette, self.evenness = palette, evenness
    self.batch, self.blending = batch, blending

  def is_blended(self, frame: np.ndarray) -> bool:
    """Whether frames such as this one are blended with those before."""
    return self.blending > 0 and min(frame.shape[:2]) >= steady.LEAST_SIDE

  def lattice(self, frame: np.ndarray) -> tuple[_Sizes, int]:
    """Returns how blended frames are painted, and after how many pixels the grid repeats then.

    That is a whole number of them, so their strokes are a multiple of an eighth.
    """
    height, width = frame.shape[:2]
    stroke = look_stroke(height, width, *self.sizes)
    period = max(round(STRIDE * stroke), 1)
    return _Sizes(period / STRIDE, None), period

  def measure(self, frame: np.ndarray) -> Measured:
    """What normalization takes from this frame."""
    return _measure(self.stylizer, frame[None], self.ends, self.alpha, self.sizes)

  def paint(
    self,
    frames: Sequence[np.ndarray | jax.Array],
    index: int,
    measured: Measured | None,
    sizes: _Sizes | None = None,
  ) -> jax.Array:
    """Renders up to `batch` frames, of which `index` is the first one's number; float."""
    share = self._share(index)
    padded = [*frames, *[frames[-1]] * (self.batch - len(frames))]  # one shape, one program
    look = (share, self.alpha, self.evenness)
    return _render(self.stylizer, tuple(padded), self.ends, *look, measured, sizes or self.sizes)

  def wanted(self, index: int) -> jax.Array:
    """The palette that this frame gets."""
    assert self.palette is not None
    ends, share = self.palette.ends, self._share(index)
    return ends[0] if share is None else _between(ends[0], ends[1], share)

  def fit(self, picture: jax.Array, index: int) -> Colors:
    """Measures the colors of a painted frame."""
    wanted = self.wanted(index)
    return Colors(_fit(picture, wanted), wanted)

  def fit_shot(self, frames: Sequence[np.ndarray], index: int, measured: Measured) -> Colors:
    """Measures the colors of up to `SAMPLES` frames, painted as if they were frame `index`."""
    thin = []
    for start in range(0, len(frames), self.batch):
      some: Sequence[Any] = frames[start : start + self.batch]
      sizes = None
      if self.is_blended(some[0]):  # as for the rendering, so that one program does both
        sizes, period = self.lattice(some[0])
        some = [steady.on_grid(steady.begin(frame), period) for frame in some]
      thin += [_thin(picture) for picture in self.paint(some, index, measured, sizes)[: len(some)]]
    seen = np.float32(np.arange(SAMPLES) < len(thin))
    thin += [thin[-1]] * (SAMPLES - len(thin))
    wanted = self.wanted(index)
    return Colors(_fit_pooled(tuple(thin), wanted, seen), wanted)

  def move(self, picture: jax.Array, colors: Colors) -> jax.Array:
    """Moves the colors of a painted frame."""
    assert self.palette is not None
    return _move(picture, colors, self.palette.strength)

  def _share(self, index: int) -> jax.Array | None:
    """Of the style that the video fades to, at this frame."""
    if self.count is None or len(self.ends) == 1:
      return None
    return jnp.float32(min(index / max(self.count - 1, 1), 1))


@functools.partial(jax.jit, static_argnames="sizes")
def _measure(
  stylizer: Stylizer,
  frames: jax.Array,
  ends: tuple[StyleCode, ...],
  alpha: jax.Array | None,
  sizes: _Sizes,
) -> Measured:
  content = stylizer.encode_content(frames, for_alpha=alpha is not None, **sizes._asdict())
  own, own_stats = content.own_style, None
  if own is not None and alpha is not None:
    ends = tuple(blend(own, code, alpha) for code in ends)
    own_stats = stylizer.content_stats(content, own)
  stats = tuple(stylizer.content_stats(content, code) for code in ends)
  return Measured(stats, own, own_stats)


@functools.partial(jax.jit, static_argnames="sizes")
def _render(
  stylizer: Stylizer,
  frames: tuple[jax.Array, ...],
  ends: tuple[StyleCode, ...],
  share: jax.Array | None,
  alpha: jax.Array | None,
  evenness: jax.Array | None,
  measured: Measured | None,
  sizes: _Sizes,
) -> jax.Array:
  pictures = jnp.stack([to_float(frame) for frame in frames])
  code = ends[0] if share is None else blend(ends[0], ends[1], share)
  alone = stylizer.model.alpha_needs_own_style and measured is not None
  for_alpha = alpha is not None and not alone
  content = stylizer.encode_content(pictures, for_alpha=for_alpha, **sizes._asdict())
  if measured is not None:
    stats = measured.stats
    own, stats = measured.own_style, stats[0] if share is None else blend(stats[0], stats[1], share)
    content = dataclasses.replace(content, own_style=own, stats=stats)
    if alone and alpha is not None:
      canvas, _ = content.painted()
      alike = dataclasses.replace(content, pictures=canvas, canvas=None, stats=measured.own_stats)
      content = dataclasses.replace(content, lost=canvas - stylizer.render(alike, own))
  made = stylizer.render(content, code, 1.0 if alpha is None else alpha)
  return made if evenness is None else even_out(made, pictures, over_axes(evenness, 4))


@jax.jit
def _between(start: Any, end: Any, share: jax.Array) -> Any:
  return blend(start, end, share)


@jax.jit
def _thin(picture: jax.Array) -> jax.Array:
  h, w = picture.shape[:2]
  return picture[:: max(h // _SAMPLED, 1), :: max(w // _SAMPLED, 1)]


@jax.jit
def _fit(picture: jax.Array, wanted: jax.Array) -> jax.Array:
  return fit_colors(picture[None], wanted)


@jax.jit
def _fit_pooled(pictures: tuple[jax.Array, ...], wanted: jax.Array, seen: jax.Array) -> jax.Array:
  return fit_colors(jnp.stack(pictures), wanted, seen.reshape(-1, 1, 1, 1), pooled=True)


@jax.jit
def _move(picture: jax.Array, colors: Colors, strength: jax.Array) -> jax.Array:
  return move_colors(picture[None], colors.measured, colors.wanted, strength)[0]


def _recolor_shot(
  painter: _Painter, frames: Sequence[np.ndarray], first: int, last: int, measured: Measured
) -> _Recolor | None:
  """Moves the colors of all frames of a shot alike, or in a fade from those of its ends on."""
  if painter.palette is None:
    return None
  places = (first, last)[: len(painter.ends)]
  ends = [painter.fit_shot(frames, index, measured) for index in places]

  def recolor(picture: jax.Array, index: int) -> jax.Array:
    colors = ends[0]
    if len(ends) == 2:
      colors = _between(ends[0], ends[1], jnp.float32((index - first) / max(last - first, 1)))
    return painter.move(picture, colors)

  return recolor


def _recolor_running(painter: _Painter) -> _Recolor | None:
  """Moves colors by a running average of what the frames of a shot need."""
  if painter.palette is None:
    return None
  measured, target, age = None, None, 0

  def recolor(picture: jax.Array, index: int) -> jax.Array:
    nonlocal measured, target, age
    if target is None or age % EVERY == 0:
      target = painter.fit(picture, index).measured
    measured = target if measured is None else _approach(measured, target)
    age += 1
    return painter.move(picture, Colors(measured, painter.wanted(index)))

  return recolor


def _recolor_frame(painter: _Painter) -> _Recolor | None:
  if painter.palette is None:
    return None
  return lambda picture, index: painter.move(picture, painter.fit(picture, index))


class _Samples:
  """Some of the frames that are added, spread evenly, however many come."""

  def __init__(self):
    self.frames: list[np.ndarray] = []
    self._step, self._added = 1, 0

  def add(self, frame: np.ndarray) -> None:
    if self._added % self._step == 0:
      if len(self.frames) == SAMPLES:
        self.frames, self._step = self.frames[::2], 2 * self._step
      if self._added % self._step == 0:
        self.frames.append(frame)
    self._added += 1


class _Pool:
  """The statistics of all pixels of several frames, from those of each."""

  def __init__(self):
    self._count, self._sum = 0, None

  def add(self, measured: Measured) -> None:
    moments = _to_moments(measured)
    self._sum = moments if self._sum is None else jax.tree.map(jnp.add, self._sum, moments)
    self._count += 1

  def result(self) -> Measured:
    return _from_moments(jax.tree.map(lambda x: x / self._count, self._sum))


@jax.jit
def _to_moments(measured: Measured) -> Measured:
  """Replaces deviations by mean squares, which can be averaged over frames."""
  return _for_stats(lambda s: ChannelStats(s.mean, s.std**2 + s.mean**2), measured)


@jax.jit
def _from_moments(moments: Measured) -> Measured:
  return _for_stats(
    lambda s: ChannelStats(s.mean, jnp.sqrt(jnp.maximum(s.std - s.mean**2, 1e-5))), moments
  )


def _for_stats(function: Callable[[ChannelStats], ChannelStats], measured: Measured) -> Measured:
  """Applies a function to the statistics, and leaves the code of the frames as it is."""
  stats, own_stats = jax.tree.map(
    function,
    (measured.stats, measured.own_stats),
    is_leaf=lambda x: isinstance(x, ChannelStats),
  )
  return measured._replace(stats=stats, own_stats=own_stats)


class _Group(NamedTuple):
  """Frames that go together.

  Attributes:
    index: the number of the first.
    batch: the frames.
    measured: what normalizes them; None: each by itself.
    cut: whether a shot begins.
    recolor: how colors are moved; None: they are not.
  """

  index: int
  batch: list[np.ndarray]
  measured: Measured | None
  cut: bool
  recolor: _Recolor | None


def _stylize(
  frames: Iterable[ArrayLike], painter: _Painter, statistics: str, start: int
) -> Iterator[np.ndarray]:
  first = max(start - WARM_UP, 0)  # what is rendered first
  share, followed, painted = jnp.float32(painter.blending), None, None
  groups = _GROUPS[statistics](frames, painter, first)
  for group, beginning in _with_beginnings(groups, painter):
    index, batch, measured, _, recolor = group
    dtype = batch[0].dtype
    if not painter.is_blended(batch[0]):
      pictures = painter.paint(batch, index, measured)
      shown = [pictures[offset] for offset in range(len(batch))]
      if recolor is not None:
        shown = [recolor(picture, index + offset) for offset, picture in enumerate(shown)]
    else:
      chain = []
      sizes, period = painter.lattice(batch[0])
      for offset, frame in enumerate(batch):
        if beginning and not offset:
          followed = steady.begin(steady.without_noise(beginning, share, period))
        else:
          assert followed is not None
          followed = steady.follow(followed, frame, share, period)
        chain.append(followed)
      padded = [steady.on_grid(one, period) for one in chain]
      pictures = painter.paint(padded, index, measured, sizes)
      shown = []
      for offset, (one, picture) in enumerate(zip(chain, pictures, strict=False)):
        picture = steady.off_grid(one, picture)
        if recolor is not None:
          picture = recolor(picture, index + offset)
        if painted is None:
          painted = steady.Painted(picture, picture)
        painted, steadied = steady.blend(one, painted, picture, share)
        shown.append(steadied)
    for offset, picture in enumerate(shown):
      if index + offset >= start:
        shown_as = jax.dtypes.canonicalize_dtype(dtype)  # JAX may have no 64 bits
        yield np.asarray(from_float(picture, shown_as)).astype(dtype, copy=False)


def _with_beginnings(
  groups: Iterator[_Group], painter: _Painter
) -> Iterator[tuple[_Group, list[np.ndarray]]]:
  """Looks ahead: with the first group of a shot come the first frames of it, if they are blended.

  An error of the frames comes when those before it have been yielded.
  """
  waiting: collections.deque[_Group] = collections.deque()
  fault: Exception | None = None

  def another() -> bool:
    nonlocal fault
    if fault is None:
      try:
        group = next(groups, None)
      except Exception as error:
        fault, group = error, None
      if group is not None:
        waiting.append(group)
        return True
    return False

  new = True
  while waiting or another():
    group, beginning = waiting.popleft(), []
    if (new or group.cut) and painter.is_blended(group.batch[0]):
      beginning, known = [*group.batch], 0
      while len(beginning) <= steady.AHEAD and (known < len(waiting) or another()):
        if waiting[known].cut:
          break
        beginning += waiting[known].batch
        known += 1
    new = False
    yield group, beginning[: steady.AHEAD + 1]
  if fault is not None:
    raise fault


def _by_shot(frames: Iterable[ArrayLike], painter: _Painter, first: int) -> Iterator[_Group]:
  checked, index = _checked(frames), 0
  for length, measured, samples in _measure_shots(frames, painter):
    shot = itertools.islice(checked, length)
    cut, skipped, end = True, min(max(first - index, 0), length), index + length
    recolor = None
    if skipped < length:
      recolor = _recolor_shot(painter, samples, index, end - 1, measured)
    for _ in itertools.islice(shot, skipped):
      pass
    index += skipped
    while batch := list(itertools.islice(shot, painter.batch)):
      yield _Group(index, batch, measured, cut, recolor)
      index += len(batch)
      cut = False


def _measure_shots(
  frames: Iterable[ArrayLike], painter: _Painter
) -> Iterator[tuple[int, Measured, list[np.ndarray]]]:
  """Runs ahead of the rendering, to the end of each shot."""
  cuts, pool, samples, length = Cuts(), _Pool(), _Samples(), 0
  for frame in _checked(frames):
    if cuts.at(frame) and length:
      yield length, pool.result(), samples.frames
      pool, samples, length = _Pool(), _Samples(), 0
    if length % EVERY == 0:
      pool.add(painter.measure(frame))
      if painter.palette is not None:
        samples.add(frame)
    length += 1
  if length:
    yield length, pool.result(), samples.frames


def _by_running(frames: Iterable[ArrayLike], painter: _Painter, first: int) -> Iterator[_Group]:
  cuts, moments, target, age, recolor = Cuts(), None, None, 0, None
  for index, frame in enumerate(_checked(frames)):
    cut = cuts.at(frame)
    if index < first:
      continue
    if cut or moments is None:
      moments, age, recolor = None, 0, _recolor_running(painter)
    if age % EVERY == 0:
      target = _to_moments(painter.measure(frame))
    moments = target if moments is None else _approach(moments, target)
    age += 1
    yield _Group(index, [frame], _from_moments(moments), cut, recolor)


@jax.jit
def _approach(average: Any, target: Any) -> Any:
  return jax.tree.map(lambda a, b: a + PACE * (b - a), average, target)


def _by_frame(frames: Iterable[ArrayLike], painter: _Painter, first: int) -> Iterator[_Group]:
  cuts, recolor = Cuts(), _recolor_frame(painter)
  for index, frame in enumerate(_checked(frames)):
    cut = cuts.at(frame)
    if index >= first:
      yield _Group(index, [frame], None, cut, recolor)


_GROUPS = {"shot": _by_shot, "running": _by_running, "frame": _by_frame}


def _checked(frames: Iterable[ArrayLike]) -> Iterator[np.ndarray]:
  expected = None
  for index, given in enumerate(frames):
    frame = np.asarray(check_pictures(f"frames[{index}]", given))
    if frame.ndim != 3:
      raise ValueError(f"frames[{index}]: expected one picture [h, w, 3], got {list(frame.shape)}")
    if expected is None:
      expected = frame.shape, frame.dtype
    if (frame.shape, frame.dtype) != expected:
      raise ValueError(
        f"frames[{index}]: expected the shape and type of the first frame, {list(expected[0])} "
        f"{expected[1]}, got {list(frame.shape)} {frame.dtype}"
      )
    yield frame
