"""Writes videos: stylized pictures with the time stamps, the tags and the sound of the original.

Encoded pictures are also kept in a log beside the output, so that a run that was stopped, by Ctrl-C
or by a power cut, goes on where it was: `Log`.
"""

import bisect
import contextlib
import json
import os
import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from adaconv_jax.files import Json, naming, printable, replacing
from adaconv_jax.video.reader import (
  Video,
  VideoError,
  check_on_disk,
  ffmpeg_name,
  import_av,
)

SUFFIXES = (".mp4", ".mov", ".mkv", ".webm")
CODEC, CRF = "h264", 18
# Frames from one key frame to the next, at most: as many are lost by a power cut.
GROUP = 60
# Encoders by the names of --codec.
CODECS = {
  "h264": "libx264",
  "hevc": "libx265",
  "vp9": "libvpx-vp9",
  "av1": "libsvtav1",
}
# The largest that they take.
MOST_CRF = {"h264": 51, "hevc": 51, "vp9": 63, "av1": 63}
# So many pictures at most, shown before a later one, may come after it.
REORDERED = 2
# libx265 writes outside of its memory where a side is shorter.
_LEAST_HEVC = 64
_HASH = 64  # characters of a hash, which says nothing to people
_QUALITY = {"libvpx-vp9": {"b": "0"}, "libx265": {"x265-params": "log-level=error"}}


class Packet(NamedTuple):
  """An encoded picture; times in the video's time base."""

  pts: int
  dts: int
  duration: int
  is_key: bool
  data: bytes


class Log:
  """Encoded pictures on disk, readable up to where writing stopped.

  A line of JSON, which says what they are pictures of, then the packets in the encoder's order,
  each after its times and size.

  Args:
    path: the file.
    about: what the pictures depend on, by what errors call it, and the "version" of all that.
  """

  _HEADER = struct.Struct("<qqqBI")

  def __init__(self, path: Path, about: Json):
    self.path = path
    self.about = about
    self._file = None

  def read(self) -> list[Packet]:
    """Returns what can be continued: whole groups of pictures, or everything after `finish`.

    That of so few pictures that none was reordered leaves no time for those that would come.

    Raises:
      VideoError: the log is of something else.
      OSError: there is none, or it is not readable.
    """
    with self.path.open("rb") as file:
      try:
        about = json.loads(file.readline(2**16))
      except ValueError:
        about = None
      if about != self.about:
        raise VideoError(
          f"--resume: expected the options of the run that made {printable(self.path)}, got "
          f"{self._differences(about)}; give the same again, or start anew with --overwrite in "
          "place of --resume"
        )
      packets, complete = [], False
      while len(header := file.read(self._HEADER.size)) == self._HEADER.size:
        pts, dts, duration, is_key, size = self._HEADER.unpack(header)
        data = file.read(size)
        if len(data) < size:
          break
        complete = not size  # an empty packet is the mark of `finish`
        if size:
          packets.append(Packet(pts, dts, duration, bool(is_key), data))
    if (
      not complete
    ):  # later pictures of the last group may be missing, although they are shown first
      while packets and not packets.pop().is_key:
        pass
    return packets if len(packets) > REORDERED else []

  def _differences(self, about: object) -> str:
    if not isinstance(about, dict) or about.get("version") != self.about.get("version"):
      return "the log of another version of adaconv_jax"
    found = []
    for name, now in self.about.items():
      if (then := about.get(name)) == now:
        continue
      values = f" ({_shown(now)} rather than {_shown(then)})"
      found.append(f"another {name}{values if len(values) < _HASH else ''}")
    return ", ".join(found)

  def start(self, packets: list[Packet]) -> None:
    """Writes the log anew, with these packets; until all are written, the earlier one is kept."""
    with replacing(self.path) as temporary:
      self._file = temporary.open("wb")
      self._file.write(json.dumps(self.about).encode() + b"\n")
      for packet in packets:
        self.append(packet)
      self._file.close()
    self._file = self.path.open("ab")

  def append(self, packet: Packet) -> None:
    """Adds a packet."""
    assert self._file is not None
    header = (packet.pts, packet.dts, packet.duration, packet.is_key, len(packet.data))
    with naming(self.path):
      self._file.write(self._HEADER.pack(*header) + packet.data)
      if packet.is_key:
        self._file.flush()

  def finish(self) -> None:
    """Marks that the encoder was emptied, and closes the file."""
    self.append(Packet(0, 0, 0, False, b""))
    self.close()

  def close(self) -> None:
    """Closes the file."""
    if self._file is not None:
      with naming(self.path):
        self._file.close()

  def remove(self) -> None:
    """Deletes the log, whose video is whole."""
    self.close()
    self.path.unlink(missing_ok=True)


def _shown(value: Any) -> str:
  values = value if isinstance(value, list) else [value]
  return "none" if value is None else " ".join(map(str, values))


class Writer:
  """Encodes pictures and copies the sound; from `write_video`."""

  def __init__(self, container: Any, stream: Any, source: Video, log: Log, sound: "Sound"):
    self._container, self._stream, self._source = container, stream, source
    self._log, self._sound = log, sound
    self._last_dts: int | None = None
    # When the pictures are shown, in order, and how many packets there are, also of earlier runs.
    self._shown: list[int] = []
    self._count, self._resumed = 0, False
    # How long pictures are shown that are in the encoder, by their time; it forgets that.
    self._durations: dict[int, int] = {}
    # Of all pictures so far: where the first begins in both orders, and where the last ends.
    self._starts: tuple[int, int] | None = None
    self._end = 0

  def write(self, picture: np.ndarray, pts: int, duration: int) -> None:
    """Encodes the upright picture `[h, w, 3]`, uint8, that is shown at `pts`."""
    av, color = import_av(), self._source.color
    stored = np.rot90(picture, -self._source.rotation // 90)
    # 4:2:0 has one color for 2 x 2 pixels.
    below, right = (side % 2 for side in stored.shape[:2])
    stored = np.pad(stored, ((0, below), (0, right), (0, 0)), mode="edge")
    rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(stored), "rgb24")
    frame = rgb.reformat(
      format="yuv420p",
      dst_colorspace=color.matrix,
      interpolation=av.video.reformatter.Interpolation["BICUBIC"] | 0x2000 | 0x40000,
      src_color_range=2,
      dst_color_range=2 if color.full_range else 1,
    )
    frame.pts, frame.duration, frame.time_base = pts, duration, self._source.time_base
    bisect.insort(self._shown, pts)
    if duration:
      self._durations[pts] = duration
    frame.colorspace, frame.color_range = color.matrix_tag, color.range_tag
    frame.color_primaries, frame.color_trc = color.primaries_tag, color.transfer_tag
    self._mux(self._stream.encode(frame))

  def copy(self, packet: Packet) -> None:
    """Writes a picture that was encoded before."""
    av = import_av()
    copied = av.Packet(packet.data)
    copied.pts, copied.dts, copied.duration = packet.pts, packet.dts, packet.duration
    copied.time_base, copied.is_keyframe = self._source.time_base, packet.is_key
    bisect.insort(self._shown, packet.pts)
    self._resumed = True
    self._put(copied)

  def finish(self, *, all_sound: bool) -> None:
    """Empties the encoder; `all_sound` also copies what sounds after the last picture."""
    self._mux(self._stream.encode(None), last=True)
    self._log.finish()
    if all_sound:
      self._sound.copy_until(None)

  def _mux(self, packets: list[Any], *, last: bool = False) -> None:
    base = self._source.time_base
    for index, packet in enumerate(packets, 1):
      scale = packet.time_base / base
      pts, dts = (round(time * scale) for time in (packet.pts, packet.dts))
      if self._resumed:
        dts = self._continued(dts, pts)
      packet.pts, packet.dts, packet.time_base = pts, dts, base
      duration = self._durations.pop(pts, round((packet.duration or 0) * scale))
      self._end = max(self._end, pts + duration)
      if last and index == len(packets):
        duration = self._last_duration(dts, duration)
      packet.duration = duration
      self._log.append(Packet(pts, dts, duration, packet.is_keyframe, bytes(packet)))
      self._put(packet)

  def _continued(self, dts: int, pts: int) -> int:
    """When a packet is decoded after those of an earlier run.

    An encoder that begins again gives times before its first picture, or, where a part has too few
    pictures to be reordered, leaves no time for those of the next part.
    """
    assert self._last_dts is not None
    as_in_one_run = self._shown[self._count - REORDERED]
    if as_in_one_run > self._last_dts:
      return min(as_in_one_run, pts)
    return min(max(dts, self._last_dts + 1), pts)

  def _last_duration(self, dts: int, duration: int) -> int:
    """How long the last packet is to be shown, so that the video is as long as its pictures.

    It need not be the last picture, but an MP4 is as long as the times in the packets' order say.
    """
    if self._starts is None or self._container.format.name not in ("mp4", "mov"):
      return duration
    first_pts, first_dts = self._starts
    return max(self._end - first_pts - (dts - first_dts), 1)

  def _put(self, packet: Any) -> None:
    self._last_dts = packet.dts
    self._count += 1
    if self._starts is None:
      self._starts = packet.pts, packet.dts  # a key frame, which is shown first
    self._sound.copy_until(packet.dts * self._source.time_base)
    packet.stream = self._stream
    self._container.mux(packet)


class Sound:
  """Copies sound tracks, packet by packet, as they are."""

  def __init__(self, output: Any, source: Path | None):
    self._input, self._output, self._next = None, output, None
    if source is None:
      return
    self._input = import_av().open(ffmpeg_name(source))
    tracks = list(self._input.streams.audio)
    self._tracks = {s.index: output.add_stream_from_template(s) for s in tracks}
    self._packets: Iterator[Any] = self._input.demux(tracks)
    self._next = self._read()

  def copy_until(self, time: Fraction | None) -> None:
    """Copies what begins before `time`, in seconds; None: the rest."""
    while self._next is not None:
      packet = self._next
      if time is not None and packet.dts * packet.time_base > time:
        return
      packet.stream = self._tracks[packet.stream.index]
      self._output.mux(packet)
      self._next = self._read()

  def close(self) -> None:
    """Closes the input."""
    if self._input is not None:
      self._input.close()

  def _read(self) -> Any | None:
    try:
      return next((p for p in self._packets if p.dts is not None), None)
    except import_av().error.FFmpegError:  # a file that is cut off
      return None


def check_output(path: str | os.PathLike[str], codec: str = CODEC, crf: int = CRF) -> Path:
  """Returns the path, if a video can be written there.

  Raises:
    VideoError: the name has another suffix, the codec is not known, or has no such quality.
  """
  path = check_on_disk(path)
  if path.suffix.lower() not in SUFFIXES:
    raise VideoError(
      f"--output: expected a name that ends in {', '.join(SUFFIXES)}, got {printable(path)}"
    )
  if codec not in CODECS:
    raise VideoError(f"--codec: expected one of {', '.join(CODECS)}, got {codec!r}")
  if not 0 <= crf <= MOST_CRF[codec]:
    raise VideoError(f"--crf: expected 0 to {MOST_CRF[codec]} for {codec}, got {crf}")
  if path.suffix.lower() == ".webm" and codec not in ("vp9", "av1"):
    raise VideoError(f"--codec: expected vp9 or av1 for {printable(path.name)}, got {codec!r}")
  return path


@contextlib.contextmanager
def write_video(
  path: Path,
  source: Video,
  log: Log,
  *,
  codec: str = CODEC,
  crf: int = CRF,
  overwrite: bool = True,
) -> Iterator[Writer]:
  """Opens a video for writing, which gets its name when the block ends.

  Args:
    path: from `check_output`.
    source: the video whose frame rate, time stamps, rotation, colors and sound it gets.
    log: where encoded pictures are kept, too.
    codec: one of `CODECS`.
    crf: constant quality, as the encoder counts it: lower is better and larger.
    overwrite: whether a file that is at `path` when the block ends is replaced.

  Raises:
    FileExistsError: there is a file at `path`, and `overwrite` is not set.
    VideoError: the container cannot hold the sound track, or FFmpeg lacks the encoder.
  """
  av = import_av()
  with replacing(path, overwrite=overwrite) as temporary, contextlib.ExitStack() as stack:
    options = {"movflags": "faststart"} if path.suffix.lower() in (".mp4", ".mov") else {}
    container = stack.enter_context(av.open(ffmpeg_name(temporary), "w", container_options=options))
    encoder = CODECS[codec]
    turned = source.rotation in (90, 270)
    width, height = (source.height, source.width) if turned else (source.width, source.height)
    if codec == "hevc" and min(width, height) < _LEAST_HEVC:
      raise VideoError(
        f"--codec: hevc needs frames of at least {_LEAST_HEVC} x {_LEAST_HEVC}, got {source.width} "
        f"x {source.height}; h264 takes smaller ones"
      )
    try:
      stream = container.add_stream(encoder, rate=source.rate)
    except (av.error.FFmpegError, ValueError) as error:
      raise VideoError(f"--codec: this FFmpeg has no encoder {encoder}") from error
    stream.width, stream.height = width + width % 2, height + height % 2
    if (width, height) != (stream.width, stream.height):
      source.note(
        f"{codec} with 4:2:0 needs even sizes, so the last row or column is repeated: "
        f"{stream.width} x {stream.height}"
      )
    stream.pix_fmt = "yuv420p"
    context = stream.codec_context
    context.time_base = stream.time_base = source.time_base
    context.sample_aspect_ratio = source.aspect
    color = source.color
    context.colorspace, context.color_range = color.matrix_tag, color.range_tag
    context.color_primaries, context.color_trc = color.primaries_tag, color.transfer_tag
    context.gop_size = GROUP
    stream.options = {"crf": str(crf)} | _QUALITY.get(encoder, {})
    os.environ.setdefault("SVT_LOG", "1")  # AV1's encoder prints its settings otherwise
    if source.rotation:
      stream.set_display_rotation(source.rotation)
    sound = None
    try:
      sound = Sound(container, source.path if source.has_sound else None)
      stack.callback(sound.close)
      container.start_encoding()
    except OSError:  # of FFmpeg, too, such as a full disk
      raise
    except (av.error.FFmpegError, ValueError) as error:
      if not source.has_sound or (sound is not None and not context.is_open):
        raise VideoError(f"--codec: {encoder} cannot write such a video ({error})") from error
      raise VideoError(
        f"{printable(path)}: {path.suffix} cannot hold the sound track of {printable(source.path)} "
        f"as it is ({error}); .mkv holds any, and --no-sound leaves it out"
      ) from error
    yield Writer(container, stream, source, log, sound)
