"""Videos as upright RGB frames with time stamps: files that FFmpeg reads, folders of pictures.

Files need PyAV (`pip install 'adaconv_jax[video]'`). One frame at a time is in memory.
"""

import dataclasses
import os
import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from adaconv_jax import images
from adaconv_jax.files import check_regular, expand, is_remote, printable
from adaconv_jax.video import hdr

INSTALL = "pip install 'adaconv_jax[video]'"
FOLDER_RATE = Fraction(25)
# Of FFmpeg's AVColorSpace.
_RGB, _BT709, _UNSPECIFIED, _BT601 = 0, 1, 2, 5
_MATRICES = {_BT709, 4, _BT601, 7, 9}  # those of swscale, which has the same numbers
_SAME_AS_BT601 = 6
_FULL_RANGE = 2
# Without a tag, players take this for the matrix of large pictures.
_HD_HEIGHT = 720
# Of a file, of which a frame at a time is read.
_ANY_SIZE = 2**62
_SCALED = "frames of another size are scaled to the first one's"


class VideoError(ValueError):
  """A video cannot be read or written; the message has its name and the reason."""


class Frame(NamedTuple):
  """A picture of a video.

  Attributes:
    rgb: `[h, w, 3]`, uint8, upright.
    pts: when it is shown, in units of the video's time base.
    duration: for how long, in the same units; 0 if it is not known.
  """

  rgb: np.ndarray
  pts: int
  duration: int


@dataclasses.dataclass(frozen=True)
class Color:
  """How YUV is to be understood, in FFmpeg's numbers; 2 (range: 0) if the file does not say."""

  matrix: int
  full_range: bool
  range_tag: int
  matrix_tag: int
  primaries_tag: int
  transfer_tag: int


# What pictures become: they have no YUV of their own.
OF_PICTURES = Color(_BT709, False, 1, _BT709, 1, 1)


@dataclasses.dataclass
class Video:
  """What is known of a video before its frames are decoded; iterate it for the pictures.

  It can be iterated any number of times. `frames` gives the time stamps, too.

  Attributes:
    path: the file or folder.
    width: of the upright frames.
    height: of the upright frames.
    time_base: seconds per unit of `Frame.pts`.
    rate: average frames per second.
    count: frames, an estimate; None if the file does not say.
    end: `Frame.pts` of the end, an estimate; None if the file does not say.
    rotation: degrees counterclockwise by which players turn what is stored, which was done here.
    aspect: width of a stored pixel by its height.
    color: how its YUV is to be understood, as it should be written again.
    has_sound: whether there is a sound track.
    notes: what was converted or left out, as sentences; grows while frames are read.
  """

  path: Path
  width: int
  height: int
  time_base: Fraction
  rate: Fraction
  count: int | None
  end: int | None
  rotation: int = 0
  aspect: Fraction = Fraction(1)
  color: Color = OF_PICTURES
  has_sound: bool = False
  notes: list[str] = dataclasses.field(default_factory=list)
  read: Callable[[], Iterator[Frame]] = dataclasses.field(default=lambda: iter(()), repr=False)

  def frames(self) -> Iterator[Frame]:
    """Decodes the frames, in the order in which they are shown.

    Raises:
      VideoError: there is none, or a picture of a folder has another size or cannot be read.
    """
    frame = None
    for frame in self.read():
      yield frame
    if frame is None:
      raise VideoError(
        f"{printable(self.path)}: expected a video, got no frame that can be decoded"
      )

  def __iter__(self) -> Iterator[np.ndarray]:
    return (frame.rgb for frame in self.frames())

  def note(self, sentence: str) -> None:
    """Adds to the notes, once."""
    if sentence not in self.notes:
      self.notes.append(sentence)


def open_video(path: str | os.PathLike[str], *, rate: Fraction | None = None) -> Video:
  """Opens a file that FFmpeg reads, or a folder of pictures in the order of their names.

  Numbers in names are compared as numbers, so 2.png is before 10.png.

  10-bit and deeper frames become 8-bit, and HDR (PQ, HLG) becomes SDR with BT.709's colors; `notes`
  says so. Packets that cannot be decoded are left out, and counted in `notes`.

  Args:
    path: the file or the folder.
    rate: frames per second of a folder; None: 25. A file has its own.

  Raises:
    VideoError: there is no video stream or no frame, the file is no video or broken, a folder has
      no pictures, or PyAV is missing.
    OSError: the file is missing or not readable.
  """
  path = check_on_disk(path)
  if path.is_dir():
    return _open_folder(path, FOLDER_RATE if rate is None else rate)
  if rate is not None:
    raise VideoError(
      f"--rate: expected it for a folder of pictures only, because a video has its own, got "
      f"{float(rate):g} for {printable(path)}"
    )
  return _open_file(path)


def check_on_disk(path: str | os.PathLike[str]) -> Path:
  """Returns the path with `~` expanded, if it is on a disk, where FFmpeg reads and writes.

  Raises:
    VideoError: it is in a bucket.
  """
  expanded = expand(path)
  if is_remote(expanded):
    raise VideoError(
      f"{printable(path)}: expected a path on a disk, because videos are neither read from buckets "
      "nor written to them; copy the file, for example with `gcloud storage cp`"
    )
  return expanded


def import_av() -> Any:
  """Imports PyAV.

  Raises:
    VideoError: it is not installed.
  """
  try:
    import av  # pyright: ignore[reportMissingImports]
  except ImportError as error:
    raise VideoError(f"videos need PyAV, which is not installed: {INSTALL}") from error
  return av


def pictures_of(folder: Path) -> list[Path]:
  """Lists the frames in a folder, by name, with numbers as numbers: 2.png is before 10.png."""
  return _list_pictures(folder)[0]


def _list_pictures(folder: Path) -> tuple[list[Path], list[str]]:
  """Lists the frames in a folder, and says what is no frame of it."""
  found, unread = images.list_images(folder)
  files = [file for file in found if file.parent == folder]
  unread = [file for file in unread if file.parent == folder]
  notes = [images.describe_unread(folder, unread)] if unread else []
  if deeper := len(found) - len(files):
    notes.append(
      f"{printable(folder)}: left out {deeper} picture(s) in the folders below; frames are the "
      "pictures in the folder itself"
    )
  return sorted(files, key=lambda file: _by_number(file.name)), notes


def _by_number(name: str) -> tuple[list[str | int], str]:
  # Texts and numbers take turns, so that texts are compared with texts only.
  parts = re.split("([0-9]+)", name)
  return [int(part) if index % 2 else part for index, part in enumerate(parts)], name


def _open_folder(path: Path, rate: Fraction) -> Video:
  files, notes = _list_pictures(path)
  if not files:
    name = printable(path)
    also = [note.removeprefix(f"{name}: ") for note in notes]
    raise VideoError("; ".join([f"{name}: expected a folder of pictures, found none", *also]))
  width, height = _read_picture(files[0]).size
  count = len(files)
  video = Video(path, width, height, 1 / rate, rate, count, count, notes=notes)

  def read() -> Iterator[Frame]:
    for index, file in enumerate(files):
      picture = _read_picture(file)
      if picture.size != (width, height):
        video.note(_SCALED)
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
      yield Frame(np.asarray(picture), index, 1)

  video.read = read
  return video


def _read_picture(path: Path) -> Image.Image:
  return images.decode(images.read_file(path), name=str(path))


def _open_file(path: Path) -> Video:
  av = import_av()
  with _container(path) as container:
    stream = _video_stream(container)
    if stream is None:
      raise VideoError(f"{printable(path)}: expected a video, found no video stream")
    first = next(_decode(container, stream, lambda error: None), None)
    if first is None:
      raise VideoError(f"{printable(path)}: expected a video, got no frame that can be decoded")
    turned = first.rotation % 360
    size = (first.height, first.width) if turned in (90, 270) else (first.width, first.height)
    rate = stream.average_rate or stream.guessed_rate or FOLDER_RATE
    start = first.pts or 0
    length = None
    if stream.duration:
      length = stream.duration
    elif container.duration:
      length = round(Fraction(container.duration, av.time_base) / stream.time_base)
    count = stream.frames or (length and round(length * stream.time_base * rate)) or None
    video = Video(
      path,
      *size,
      time_base=stream.time_base,
      rate=rate,
      count=count,
      end=None if length is None else start + length,
      rotation=turned,
      aspect=stream.sample_aspect_ratio or Fraction(1),
      color=_color(first),
      has_sound=bool(container.streams.audio),
    )
    if turned % 90:
      raise VideoError(f"{printable(path)}: expected a rotation by quarters, got {turned} degrees")
    if hdr.is_hdr(first.color_trc):
      video.note(
        f"{hdr.name(first.color_trc)} (HDR) is converted to 8-bit SDR with BT.709's colors"
      )
    elif max(c.bits for c in first.format.components) > 8:
      video.note(f"{first.format.name} is converted to 8 bits per channel")
  video.read = lambda: _read_file(video)
  return video


def _container(path: Path) -> Any:
  av = import_av()
  try:
    check_regular(path, at_most=_ANY_SIZE)
  except ValueError as error:
    raise VideoError(printable(error)) from error
  try:
    return av.open(ffmpeg_name(path))
  except (FileNotFoundError, PermissionError):
    raise
  except av.error.FFmpegError as error:
    raise VideoError(
      f"{printable(path)}: expected a video, got a file that FFmpeg cannot read; it may be cut off"
    ) from error


def ffmpeg_name(path: Path) -> str:
  """Returns what FFmpeg takes for this file.

  It takes other names for the inputs that it knows besides files, such as `pipe:0` or `a:b`.
  """
  return os.path.abspath(path)


def _video_stream(container: Any) -> Any | None:
  av = import_av()
  for stream in container.streams.video:
    # The cover of a song is one, too.
    if not stream.disposition & av.stream.Disposition.attached_pic:
      stream.thread_type = "AUTO"
      return stream
  return None


def _decode(container: Any, stream: Any, failed: Callable[[Exception], None]) -> Iterator[Any]:
  """Decodes what can be decoded, and reports each packet that cannot."""
  av = import_av()
  packets = container.demux(stream)
  while True:
    try:
      packet = next(packets, None)
    except av.error.FFmpegError as error:
      failed(error)
      return
    if packet is None:
      return
    try:
      frames = packet.decode()
    except av.error.FFmpegError as error:
      failed(error)
      continue
    yield from frames


def _read_file(video: Video) -> Iterator[Frame]:
  failures = 0

  def failed(error: Exception) -> None:
    nonlocal failures
    failures += 1

  last = None
  with _container(video.path) as container:
    for decoded in _decode(container, _video_stream(container), failed):
      pts = decoded.pts
      if pts is None or (last is not None and pts <= last):
        step = max(round(1 / (video.rate * video.time_base)), 1)
        pts = 0 if last is None else last + (step if pts is None else 1)
      last = pts
      yield Frame(_to_rgb(decoded, video), pts, decoded.duration or 0)
  if failures:
    video.note(f"{failures} broken packet(s) could not be decoded and are left out")


def _to_rgb(frame: Any, video: Video) -> np.ndarray:
  """Converts a decoded frame to upright RGB `[h, w, 3]`, uint8, of the video's size."""
  turned = video.rotation in (90, 270)
  width, height = (video.height, video.width) if turned else (video.width, video.height)
  if (frame.width, frame.height) != (width, height):
    video.note(_SCALED)
  color = _color(frame)
  deep = hdr.is_hdr(frame.color_trc)
  clear = any(component.is_alpha for component in frame.format.components)
  clear = (clear or frame.format.has_palette) and not deep
  rgb = frame.reformat(
    width=width,
    height=height,
    format="rgb48le" if deep else "rgba" if clear else "rgb24",
    # Flags that round correctly and interpolate chroma fully.
    interpolation=import_av().video.reformatter.Interpolation["BICUBIC"] | 0x2000 | 0x40000,
    src_colorspace=_own_matrix(frame),
    dst_colorspace=None,
    src_color_range=2 if color.full_range else 1,
    dst_color_range=_FULL_RANGE,
  ).to_ndarray()
  if deep:
    rgb = hdr.to_sdr(rgb, frame.color_trc)
  if clear:
    rgb = _on_white(rgb, video)
  return np.ascontiguousarray(np.rot90(rgb, video.rotation // 90))


def _on_white(rgba: np.ndarray, video: Video) -> np.ndarray:
  """Composites `[h, w, 4]`, uint8, as pictures are where their alpha is not kept."""
  rgb, alpha = rgba[..., :3], rgba[..., 3:]
  if alpha.min() == 255:
    return rgb
  video.note("transparent pixels become white")
  mixed = 255 + (rgb - np.float32(255)) * (alpha / np.float32(255))
  return np.round(mixed).astype(np.uint8)


def _own_matrix(frame: Any) -> int | None:
  if frame.format.is_rgb:
    return None
  tag = _BT601 if frame.colorspace == _SAME_AS_BT601 else frame.colorspace
  if tag in _MATRICES:
    return tag
  return _BT709 if frame.height >= _HD_HEIGHT else _BT601


def _color(frame: Any) -> Color:
  """How the frame's YUV is to be understood, and written again."""
  matrix = _own_matrix(frame)
  if matrix is None or hdr.is_hdr(frame.color_trc):
    return OF_PICTURES
  full = frame.color_range == _FULL_RANGE or frame.format.name.startswith("yuvj")
  tag = frame.color_range or (_FULL_RANGE if full else 0)
  return Color(matrix, full, tag, frame.colorspace, frame.color_primaries, frame.color_trc)
