"""Small videos for tests, made with PyAV."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest


def smooth_pictures(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
  """Pictures without fine detail, which codecs keep: `[n, h, w, 3]`, uint8."""
  rng = np.random.default_rng(seed)
  y, x = np.mgrid[:height, :width]
  phases = rng.uniform(0, 6, 3)
  t = np.arange(count).reshape(-1, 1, 1, 1)
  waves = np.sin(x[..., None] / 24 + y[..., None] / 20 + phases + t / 5)
  return np.round(127.5 + 90 * waves).astype(np.uint8)


def write_clip(
  path: Path,
  pictures: np.ndarray,
  *,
  times: list[int] | None = None,
  time_base: Fraction = Fraction(1, 12800),
  rate: int = 25,
  codec: str = "libx264",
  pix_fmt: str = "yuv420p",
  crf: int = 4,
  rotation: int = 0,
  sound: bool = False,
  tags: dict[str, int] | None = None,
  group: int = 12,
) -> Path:
  """Encodes pictures `[n, h, w, 3]`; `times` in units of `time_base`; `sound`: a tone in AAC."""
  av = pytest.importorskip("av", reason="videos need PyAV")
  tags = tags or {}
  with av.open(str(path), "w") as container:
    stream = container.add_stream(codec, rate=rate)
    stream.height, stream.width = pictures.shape[1:3]
    stream.pix_fmt = pix_fmt
    stream.options = {"crf": str(crf)} if codec == "libx264" else {}
    context = stream.codec_context
    context.gop_size = group
    if codec != "gif":
      context.time_base = stream.time_base = time_base
    for name, value in tags.items():
      setattr(context, name, value)
    if rotation:
      stream.set_display_rotation(rotation)
    track = container.add_stream("aac", rate=44100) if sound else None
    played = 0
    for index, picture in enumerate(pictures):
      frame = av.VideoFrame.from_ndarray(picture, "rgb24")
      if codec != "gif":
        frame = frame.reformat(
          format=pix_fmt,
          dst_colorspace={2: 5}.get(tags.get("colorspace", 2), tags.get("colorspace", 5)),
          src_color_range=2,
          dst_color_range=tags.get("color_range", 1) or 1,
        )
        frame.color_range = tags.get("color_range", 0)
        frame.colorspace = tags.get("colorspace", 2)
        frame.color_primaries = tags.get("color_primaries", 2)
        frame.color_trc = tags.get("color_trc", 2)
        step = round(1 / (rate * time_base))
        frame.pts = index * step if times is None else times[index]
        frame.time_base = time_base
      container.mux(stream.encode(frame))
      while track is not None and played < 44100 * (index + 1) / rate:
        tone = np.sin(np.arange(played, played + 1024) / 20, dtype=np.float32)[None]
        heard = av.AudioFrame.from_ndarray(tone, "fltp", layout="mono")
        heard.sample_rate, heard.pts = 44100, played
        container.mux(track.encode(heard))
        played += 1024
    container.mux(stream.encode(None))
    if track is not None:
      container.mux(track.encode(None))
  return path


def stamps(path: str | Path) -> list[Fraction]:
  """When the frames of a video are shown, in seconds."""
  av = pytest.importorskip("av", reason="videos need PyAV")
  with av.open(str(path)) as container:
    return [frame.pts * frame.time_base for frame in container.decode(video=0)]


def sound_packets(path: str | Path) -> list[tuple[Fraction, bytes]]:
  av = pytest.importorskip("av", reason="videos need PyAV")
  with av.open(str(path)) as container:
    packets = [p for p in container.demux(audio=0) if p.dts is not None]
    return [(p.pts * p.time_base, bytes(p)) for p in packets]
