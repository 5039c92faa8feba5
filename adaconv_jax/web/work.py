"""What the page makes: from picture files and controls to a picture, within limits.

It pads pictures as `adaconv stylize` does, so pictures of similar sizes share compiled programs.
"""

import base64
import contextlib
import dataclasses
import io
import math
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from PIL import Image

from adaconv_jax import images
from adaconv_jax.checkpoints.load import load_model
from adaconv_jax.files import EXAMPLES
from adaconv_jax.models.canvas import look_stroke, usual_look_size
from adaconv_jax.models.refinement import MOST_STEPS
from adaconv_jax.models.style_code import StyleCode
from adaconv_jax.models.stylizer import Stylizer
from adaconv_jax.ops.color import COLORS
from adaconv_jax.ops.stroke import painted_size
from adaconv_jax.rooms import bucket, in_bucket, out_of_bucket
from adaconv_jax.stages import (
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
  sampled,
  split_map,
  style_weight,
)

# Choices of size, in pixels of the shorter side; None is the picture's own.
SIZES: dict[str, int | None] = {"512": 512, "1024": 1024, "2048": 2048, "full": None}
# Of styles, which need no more: AdaConv resizes them to 256 x 256.
STYLE_SIZE = 512
# Pixels of a result: those of a camera. Enlarging takes up to 100 bytes each.
MAX_RESULT_PIXELS = 25_000_000
MAX_UPLOAD_BYTES = 40 * 2**20
MAX_SECONDS = 120.0
# Longer side of the two pictures that are compared in the browser, and of what is painted on.
PREVIEW, BRUSH_SIDE = 1280, 640
# Seconds for a million painted pixels on two cores, until this machine's are known, for a million
# of the result when it is enlarged, and for a step of a refinement.
PACE, ENLARGING, REFINING = 8.0, 0.8, 0.7
# Compiled programs of so many kinds of pictures are kept in memory.
MAX_KINDS = 24


class Refused(ValueError):
  """A picture that the page does not make; the message is for its reader."""


def examples(role: str) -> dict[str, Path]:
  """Returns the packaged pictures by name; `role` is "content" or "style"."""
  return {path.stem: path for path in images.find_images(EXAMPLES / role)}


@dataclasses.dataclass(frozen=True)
class Wish:
  """One picture to make.

  Attributes:
    content: the picture's file.
    style: the style's file.
    model: a name that the studio knows.
    second: the file of a second style, or None.
    share: of the second style, 0 to 1.
    alpha: strength of the style, 0 to 1.
    detail: share of the content's fine structure, 0 to 1.
    palette: how far the colors are moved to the styles' own, 0 to 1; only with the color "style".
    evenness: how far plain surfaces have no halo, 0 to 1.
    refine: how many steps improve the styles for the content, 0 to 100.
    color: one of `ops.color.COLORS`.
    strokes: how coarse strokes are; 1 is the model's own at `usual_look_size`.
    size: pixels of the shorter side; smaller pictures stay as they are, as do all with None.
    brush: gray, white where the style is, stretched over the content; None: everywhere.

  Raises:
    Refused: a number is out of its range, or the color is unknown.
  """

  content: Path
  style: Path
  model: str
  second: Path | None = None
  share: float = 0.5
  alpha: float = 1.0
  detail: float = 0.0
  palette: float = 0.0
  evenness: float = 0.0
  refine: int = 0
  color: str = "style"
  strokes: float = 1.0
  size: int | None = 512
  brush: Image.Image | None = None

  def __post_init__(self):
    """Raises Refused for numbers that no slider has; JSON may have NaN."""
    for name in ("share", "alpha", "detail", "palette", "evenness"):
      if not 0 <= getattr(self, name) <= 1:
        raise Refused(f"{name}: expected a number in [0, 1], got {getattr(self, name)}.")
    if self.refine not in range(MOST_STEPS + 1):
      raise Refused(f"refine: expected a whole number from 0 to {MOST_STEPS}, got {self.refine}.")
    if not 0 < self.strokes < math.inf:
      raise Refused(f"strokes: expected a number above 0, got {self.strokes}.")
    if self.color not in COLORS:
      raise Refused(f"color: expected one of {', '.join(COLORS)}, got {self.color}.")


class Made(NamedTuple):
  """A picture that was made.

  Attributes:
    before: the content at the result's size, `[h, w, 3]`, uint8.
    after: the result, `[h, w, 3]`, uint8.
    seconds: how long it took.
    compiled: whether programs were compiled for it.
  """

  before: np.ndarray
  after: np.ndarray
  seconds: float
  compiled: bool


class Studio:
  """The models, what is compiled for them, and how fast this machine is.

  Args:
    models: for each name that the page shows, what `load_model` takes.
    vgg_weights: for each name, the file of VGG weights if it is not found by itself.
    max_seconds: pictures that would take longer are refused.
  """

  def __init__(
    self,
    models: Mapping[str, str | Path],
    *,
    vgg_weights: Mapping[str, str | Path] | None = None,
    max_seconds: float = MAX_SECONDS,
  ):
    self.models = dict(models)
    self._vgg_weights = dict(vgg_weights or {})
    self._max_seconds = max_seconds
    self._loaded: dict[str, Stylizer] = {}
    self._kinds: set[tuple] = set()
    self._pace = PACE
    self._asked = threading.Event()

  def load(self, name: str) -> Stylizer:
    """Loads a model, once; raises as `load_model` does."""
    if name not in self._loaded:
      weights = self._vgg_weights.get(name)
      self._loaded[name] = load_model(self.models[name], vgg_weights=weights)
    return self._loaded[name]

  def compile_ahead(self, wish: Wish) -> threading.Thread:
    """Compiles what a picture needs in a thread, until the first picture is asked for.

    If that is of the same kind, it waits for the program at work, which JAX compiles once for all
    threads, and compiles the others itself. What fails here is reported to who asks for a picture.
    """

    def make() -> None:
      with contextlib.suppress(Exception):
        for _ in self._render(wish):
          if self._asked.is_set():
            return

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    return thread

  def render(self, wish: Wish) -> Iterator[str | Made]:
    """Makes a picture.

    Yields:
      What it does next, in words, before each step; at last the picture.

    Raises:
      Refused: the picture would be too large or take too long, or memory does not suffice.
      ImageError: a file is no picture that the package reads.
      OSError: a file cannot be read.
    """
    self._asked.set()
    yield from self._render(wish)

  def _render(self, wish: Wish) -> Iterator[str | Made]:
    yield "Reading the pictures."
    begin = time.monotonic()
    content = read(wish.content, wish.size, name="Your picture")
    paths = [wish.style]
    if wish.second is not None and wish.share > 0:
      paths.append(wish.second)
    styles = [read(path, STYLE_SIZE, name="The style") for path in paths]
    estimate = self.check(content.shape[:2], wish)
    if wish.model not in self._loaded:
      yield "Loading the model."
    stylizer = self.load(wish.model)
    kind = _kind(stylizer, content.shape[:2], [style.shape[:2] for style in styles], wish)
    new = kind not in self._kinds
    if new and len(self._kinds) >= MAX_KINDS:
      jax.clear_caches()
      self._kinds.clear()
    size = f"{content.shape[1]} x {content.shape[0]}"
    long = "a minute" if 0 < wish.alpha < 1 and wish.brush is None else "half a minute"
    wait = (
      f"Compiling for pictures of about this size, once, which can take {long}."
      if new
      else f"About {max(math.ceil(estimate), 1)} s in all."
    )
    try:
      painting = time.monotonic()
      for step in self._paint(stylizer, content, styles, wish):
        if isinstance(step, str):
          yield f"{step} ({size} pixels). {wait}"
        else:
          self._kinds.add(kind)
          if not new:
            self._learn(time.monotonic() - painting, estimate)
          yield Made(content, step, time.monotonic() - begin, new)
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
      raise Refused(
        f"There is not enough memory for {size} pixels; choose a smaller size."
      ) from error

  def check(self, size: tuple[int, int], wish: Wish) -> float:
    """Returns the seconds that a content of this height and width would take.

    Raises:
      Refused: too many, or too many pixels.
    """
    height, width = size
    pixels = height * width
    if pixels > MAX_RESULT_PIXELS:
      raise Refused(
        f"{width} x {height} is {pixels / 1e6:.0f} million pixels, and this page makes up to "
        f"{MAX_RESULT_PIXELS / 1e6:.0f} million; choose a smaller size."
      )
    painted = math.prod(painted_size(height, width, _stroke(height, width, wish.strokes)))
    decodings = 2 if 0 < wish.alpha < 1 and wish.brush is None else 1
    seconds = painted / 1e6 * self._pace * decodings
    if painted != pixels:
      seconds += pixels / 1e6 * ENLARGING
    steps = wish.refine * (1 if wish.second is None else 2)
    seconds += steps * REFINING * self._pace / PACE  # a slow machine is slow in both
    if seconds > self._max_seconds:
      way_out = "a smaller size or coarser strokes"
      if steps:
        way_out = "a smaller size, coarser strokes or less refinement"
      raise Refused(
        f"{width} x {height} pixels with these strokes would take about {seconds:.0f} s, and this "
        f"page allows {self._max_seconds:.0f}; choose {way_out}."
      )
    return seconds

  def _learn(self, seconds: float, estimate: float) -> None:
    """Moves the pace toward what a picture took."""
    factor = seconds / max(estimate, 0.1)
    self._pace = min(max(self._pace * min(max(factor, 0.5), 2) ** 0.5, 0.05), 60.0)

  def _paint(
    self, stylizer: Stylizer, content: np.ndarray, styles: list[np.ndarray], wish: Wish
  ) -> Iterator[str | np.ndarray]:
    height, width = content.shape[:2]
    padded, extent = in_bucket(stylizer, content)
    room = padded.shape[1:3]
    alpha = style_weight(wish.alpha)
    if wish.brush is not None:
      strength = np.float32(wish.alpha) * images.fit_mask(wish.brush, height, width)
      below, right = room[0] - height, room[1] - width
      alpha = style_weight(np.pad(strength, ((0, below), (0, right))), 1, room)
    alpha, over = split_map(alpha)
    for_alpha = alpha is not None
    look_size = usual_look_size(height, width)
    yield "1 of 3: looking at the picture"
    code = encode_content(stylizer, padded, extent, for_alpha, wish.strokes, look_size)
    jax.block_until_ready(code)
    yield "2 of 3: looking at the style"
    codes: list[StyleCode] = []
    palettes: list[jax.Array] = []
    toward = palette_weight(wish.palette, wish.color) if wish.color == "style" else None
    looks = (height, width), wish.strokes, look_size
    part = sampled(padded, extent, *looks) if wish.refine else None
    detail = detail_weight(wish.detail)
    for style in styles:
      fitted, style_extent = in_bucket(stylizer, style)
      if wish.color == "match":
        fitted = match(fitted, code.pictures, style_extent, code.extent)
      style_code = encode(stylizer, fitted, style_extent)
      if part is not None:
        goal = goal_of(stylizer, fitted, style_extent, goal_side(*looks))
        style_code = refined(stylizer, style_code, part, goal, int(wish.refine), detail)
      codes.append(style_code)
      if toward is not None:
        palettes.append(palette_of(fitted, style_extent))
    weights = None if len(codes) == 1 else (1 - wish.share, wish.share)
    mixed = mix(codes, weights)
    jax.block_until_ready(mixed)
    yield "3 of 3: painting"
    made = render_encoded(stylizer, code, mixed, alpha, detail, None, in_render(wish.color))
    if (even := evenness_weight(wish.evenness)) is not None:
      made = evened(made, code.pictures, even, None, alpha, code.extent)
    if toward is not None:
      made = in_palette(made, palettes, toward, weights, None, alpha, code.extent)
    if over is not None:
      made = over_content(made, code.pictures, over)
    yield images.to_uint8(out_of_bucket(code, made))


def _stroke(height: int, width: int, strokes: float) -> float:
  return look_stroke(height, width, strokes, usual_look_size(height, width))


def _kind(
  stylizer: Stylizer, size: tuple[int, int], styles: list[tuple[int, int]], wish: Wish
) -> tuple:
  """Returns what is the same for pictures that share all their programs."""
  painted = painted_size(*size, _stroke(*size, wish.strokes))
  strength = "map" if wish.brush is not None else "one" if wish.alpha == 1 else "number"
  return (
    wish.model,
    bucket(stylizer, *size) or size,
    None if painted == size else bucket(stylizer, *painted) or painted,
    tuple(sorted({bucket(stylizer, *style) or style for style in styles})),
    len(styles),
    strength,
    wish.detail > 0,
    wish.palette > 0,
    wish.evenness > 0,
    wish.refine > 0,
    wish.color,
  )


def read(path: Path, size: int | None, *, name: str) -> np.ndarray:
  """Reads a picture file, `[h, w, 3]`, uint8.

  Args:
    path: the file.
    size: scale larger pictures to this many pixels on the shorter side; None: do not scale.
    name: what to call it in errors.

  Raises:
    ImageError: it is no picture that the package reads.
    OSError: it cannot be read.
  """
  picture = images.decode(images.read_file(path, name=name), name=name, at_least=size)
  if size is not None and min(picture.size) > size:
    picture = images.resize_shorter(picture, size, name=name)
  return np.asarray(picture)


def check_upload(path: Path, *, name: str) -> Image.Image:
  """Decodes an upload, so that a bad one is known at once.

  Returns:
    It, small.

  Raises:
    ImageError: it is no picture that the package reads.
    OSError: it cannot be read.
  """
  picture = images.decode(images.read_file(path, name=name), name=name, at_least=BRUSH_SIDE)
  return small(picture, BRUSH_SIDE)


def small(picture: Image.Image, side: int) -> Image.Image:
  """Scales a picture down to at most `side` pixels on its longer side."""
  scale = side / max(picture.size)
  if scale >= 1:
    return picture
  width, height = (max(round(length * scale), 1) for length in picture.size)
  return picture.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)


def data_uri(picture: Image.Image, quality: int = 88) -> str:
  """Returns a picture as text that a page can show without another request."""
  file = io.BytesIO()
  picture.save(file, "JPEG", quality=quality)
  return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def painted_mask(layer: bytes) -> Image.Image | None:
  """Returns where something is painted in a transparent picture, gray; None: nowhere.

  Raises:
    ImageError: the layer is no picture.
  """
  picture, alpha = images.decode_cutout(layer, name="The brush")
  mask = Image.new("L", picture.size, 255) if alpha is None else alpha
  return mask if mask.getbbox() else None


def save(folder: Path, name: str, picture: np.ndarray) -> dict[str, Path]:
  """Writes a result as PNG and JPEG into a new folder in `folder`; returns them by suffix."""
  parts = "".join(c if c.isalnum() or c in "-_.+" else "_" for c in name) or "picture"
  parts = parts.encode()[:120].decode(errors="ignore")  # file systems allow 255 bytes, some fewer
  own = folder / f"result-{time.time_ns():x}"
  own.mkdir(parents=True)
  paths = {suffix: own / f"{parts}{suffix}" for suffix in (".png", ".jpg")}
  try:
    for path in paths.values():
      images.save(path, picture)
  except BaseException:
    for path in paths.values():
      with contextlib.suppress(OSError):
        path.unlink()
    raise
  return paths
