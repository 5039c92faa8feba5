"""From a video file to a stylized one: what `adaconv video` does."""

import contextlib
import hashlib
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.typing import ArrayLike

from adaconv_jax.models.stylizer import Stylizer
from adaconv_jax.signals import handled
from adaconv_jax.video.reader import Video, pictures_of
from adaconv_jax.video.steady import STEADY
from adaconv_jax.video.stylize import stylize_frames
from adaconv_jax.video.writer import CODEC, CRF, Log, write_video

# Raise when what is encoded, or how, changes: older logs then cannot be continued.
VERSION = 6


def convert(
  video: Video,
  output: Path,
  stylizer: Stylizer,
  styles: Sequence[np.ndarray],
  *,
  alpha: float = 1.0,
  palette: float = 0.0,
  evenness: float = 0.0,
  refine: int = 0,
  weights: Sequence[float] | None = None,
  mix_to: Sequence[np.ndarray] | None = None,
  statistics: str = "shot",
  blending: float = STEADY,
  stroke: float = 1.0,
  look_size: int | None = None,
  codec: str = CODEC,
  crf: int = CRF,
  resume: bool = False,
  overwrite: bool = True,
  progress: Callable[[int], None] = lambda done: None,
) -> int:
  """Stylizes a video file.

  The output appears when it is whole, or, with the frames made so far, on Ctrl-C and where a frame
  of the input cannot be read. Until all are made, what is encoded is also kept in a hidden file
  beside it, `.NAME.resume`.

  Args:
    video: the input, from `open_video`.
    output: the file to write, from `check_output`.
    stylizer: the model.
    styles: pictures of the styles.
    alpha: see `stylize_frames`; so are `palette`, `weights`, `mix_to`, `statistics`, `blending`,
      `stroke` and `look_size`.
    palette: how far colors are moved to the styles' own.
    evenness: how far plain surfaces have no halo.
    refine: how many steps improve the styles' codes for the video.
    weights: of the styles.
    mix_to: styles to fade to.
    statistics: what normalizes the frames.
    blending: of the frames over time.
    stroke: how coarse the strokes are.
    look_size: the size at which frames are painted.
    codec: see `write_video`; so is `crf`.
    crf: quality.
    resume: go on where an earlier call with the same arguments was stopped; without one, begin.
    overwrite: whether a file that is at `output` at the end is replaced.
    progress: called with the number of frames done, after each.

  Returns:
    The number of frames.

  Raises:
    VideoError: the video cannot be read or written; or, with `resume`, what was begun is something
      else.
    FileExistsError: there is a file at `output`, and `overwrite` is not set.
    KeyboardInterrupt: once what was made is written.
  """
  about = {
    "version": VERSION,
    "IN": _identity(video),
    "--rate": str(video.rate) if video.path.is_dir() else None,  # a file has its own
    "--model": _digest(jax.tree.leaves(stylizer.params)),
    "--vgg-weights": _digest(jax.tree.leaves(stylizer.vgg_params)),
    "--style or --style-size": _digest(styles),
    "--mix-to or --style-size": mix_to and _digest(mix_to),
    "--alpha": alpha,
    "--palette": palette,
    "--evenness": evenness,
    "--refine": refine,
    "--mix": weights and list(weights),
    "--statistics": statistics,
    "--blending": blending,
    "--stroke": stroke,
    "--look-size": look_size,
    "--codec": codec,
    "--crf": crf,
    "suffix of --output": output.suffix.lower(),
    "sound": "kept" if video.has_sound else "left out",
  }
  log = Log(output.with_name(f".{output.name}.resume"), about)
  done = log.read() if resume and log.path.exists() else []
  output.parent.mkdir(parents=True, exist_ok=True)
  stamped = _Stamped(video)
  pictures = stylize_frames(
    stamped,
    list(styles),
    model=stylizer,
    alpha=alpha,
    palette=palette,
    evenness=evenness,
    refine=refine,
    weights=weights,
    mix_to=mix_to and list(mix_to),
    count=_count_frames(video) if mix_to else None,
    statistics=statistics,
    blending=blending,
    stroke=stroke,
    look_size=look_size,
    start=len(done),
  )
  with (
    contextlib.closing(log),
    write_video(output, video, log, codec=codec, crf=crf, overwrite=overwrite) as writer,
  ):
    log.start(done)
    made = len(done)
    for packet in done:
      writer.copy(packet)
    progress(made)
    fault: Exception | None = None
    with _Interrupt() as interrupt:
      while not interrupt.came:
        try:
          picture = next(pictures, None)
        except (ValueError, OSError) as error:
          if not made:
            raise
          fault = error
          break
        if picture is None:
          break
        writer.write(picture, *stamped.stamps[made])
        made += 1
        interrupt.can_wait = True
        progress(made)
      writer.finish(all_sound=not interrupt.came and fault is None)
  if fault is not None:
    raise fault
  if interrupt.came:
    raise KeyboardInterrupt
  log.remove()
  return made


class _Stamped:
  """The pictures of a video, with the times of those that were read so far."""

  def __init__(self, video: Video):
    self._video = video
    self.stamps: list[tuple[int, int]] = []

  def __iter__(self) -> Iterator[np.ndarray]:
    for index, frame in enumerate(self._video.frames()):
      if index == len(self.stamps):
        self.stamps.append((frame.pts, frame.duration))
      yield frame.rgb


class _Interrupt:
  """Ctrl-C, which waits for the present frame, so that no encoded picture is lost.

  Attributes:
    came: whether it came.
    can_wait: until this is set, and the second time, it is a `KeyboardInterrupt` as usual.
  """

  def __init__(self):
    self.came = self.can_wait = False

  def __enter__(self) -> "_Interrupt":
    # Python allows handlers in the main thread only.
    self._main = threading.current_thread() is threading.main_thread()
    if self._main:
      self._before = signal.signal(signal.SIGINT, self._handle)
      handled.add(signal.SIGINT)  # which would end the process before the video is whole
    return self

  def __exit__(self, *error: object) -> None:
    if self._main:
      handled.discard(signal.SIGINT)
      signal.signal(signal.SIGINT, self._before)

  def _handle(self, number: int, frame: object) -> None:
    if self.came or not self.can_wait:
      raise KeyboardInterrupt
    self.came = True


def _count_frames(video: Video) -> int:
  # `video.count` is an estimate, which a longer sound track or variable times make far too large.
  return sum(1 for _ in video.frames())


def _identity(video: Video) -> str:
  """What changes when the input does; the output may be in a folder of pictures, and is not it."""
  digest = hashlib.sha256()  # a folder may have any number of files
  for file in pictures_of(video.path) if video.path.is_dir() else [video.path]:
    status = file.stat()
    digest.update(f"{file.name!r} {status.st_size} {status.st_mtime_ns}\n".encode())
  return digest.hexdigest()


def _digest(arrays: Iterable[ArrayLike]) -> str:
  digest = hashlib.sha256()
  for array in map(np.asarray, arrays):
    digest.update(f"{array.dtype.str} {array.shape}\n".encode())
    digest.update(np.ascontiguousarray(array).data)
  return digest.hexdigest()
