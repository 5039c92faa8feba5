"""What is written has the pictures, times, tags and sound it should have, and is whole."""

import contextlib
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from video_files import smooth_pictures, sound_packets, stamps, write_clip

from adaconv_jax.video.reader import VideoError, open_video
from adaconv_jax.video.writer import Log, Packet, check_output, write_video

av = pytest.importorskip("av", reason="videos need PyAV")


def copy(source, target, *, first=0, last=None, log=None, finish=True, **options):
  """Writes the frames of a video again, as `adaconv video` does with stylized ones."""
  video = open_video(source)
  log = log or Log(target.with_suffix(".log"), {"a": 1})
  done = log.read() if first else []
  with write_video(target, video, log, **options) as writer:
    log.start(done)
    for packet in done:
      writer.copy(packet)
    for frame in list(video.frames())[len(done) : last]:
      writer.write(frame.rgb, frame.pts, frame.duration)
    writer.finish(all_sound=last is None)
  return video


def pictures_of(path):
  return np.stack(list(open_video(path))).astype(int)


def test_times_rate_size_and_sound_are_those_of_the_source(tmp_path):
  times = [0, 100, 900, 1000, 5000, 5001, 9000]
  source = write_clip(tmp_path / "a.mp4", smooth_pictures(7, 48, 64), times=times, sound=True)
  target = tmp_path / "b.mp4"
  copy(source, target)
  assert stamps(target) == stamps(source) == [Fraction(t, 12800) for t in times]
  assert sound_packets(target) == sound_packets(source)
  assert np.abs(pictures_of(target) - pictures_of(source)).mean() < 3
  with av.open(str(target)) as container:
    assert container.streams.video[0].codec_context.name == "h264"


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_a_video_is_as_long_as_its_pictures_whatever_their_times(tmp_path, suffix):
  clip = write_clip(tmp_path / "a.mp4", smooth_pictures(5, 64, 64))
  target = tmp_path / f"b{suffix}"
  source, times = open_video(clip), [0, 100, 150, 350, 360, 450]  # in hundredths of a second
  with write_video(target, source, Log(tmp_path / "log", {"a": 1})) as writer:
    writer._log.start([])
    for picture, pts, end in zip(source, times, times[1:], strict=False):
      writer.write(picture, 128 * pts, 128 * (end - pts))
    writer.finish(all_sound=True)
  assert stamps(target) == [Fraction(t, 100) for t in times[:-1]]
  with av.open(str(target)) as container:
    assert container.duration == pytest.approx(4.5e6, abs=2e3)


@pytest.mark.parametrize("suffix, codec", [(".mkv", "h264"), (".mov", "hevc"), (".webm", "vp9")])
def test_other_containers_and_codecs_hold_the_same_pictures(tmp_path, suffix, codec):
  source = write_clip(tmp_path / "a.mp4", smooth_pictures(5, 64, 64))
  target = tmp_path / f"b{suffix}"
  copy(source, target, codec=codec, crf=12)
  assert np.abs(pictures_of(target) - pictures_of(source)).mean() < 4
  assert [round(float(t), 2) for t in stamps(target)] == [0, 0.04, 0.08, 0.12, 0.16]


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotation_is_kept(tmp_path, rotation):
  source = write_clip(tmp_path / "a.mp4", smooth_pictures(3, 32, 48), rotation=rotation)
  target = tmp_path / "b.mp4"
  copy(source, target)
  with av.open(str(target)) as container:
    frame = next(container.decode(video=0))
    assert frame.rotation % 360 == rotation and (frame.height, frame.width) == (32, 48)
  assert np.abs(pictures_of(target) - pictures_of(source)).mean() < 3


@pytest.mark.parametrize("matrix, full", [(1, 1), (1, 2), (5, 2), (9, 1)])
def test_color_tags_and_colors_are_kept(tmp_path, matrix, full):
  tags = {"colorspace": matrix, "color_range": full, "color_primaries": 1, "color_trc": 1}
  pictures = np.zeros((3, 32, 32, 3), np.uint8)
  pictures[:] = (230, 20, 90)
  source = write_clip(tmp_path / "a.mp4", pictures, tags=tags)
  target = tmp_path / "b.mp4"
  copy(source, target)
  assert np.abs(pictures_of(target) - pictures).max() <= 4
  with av.open(str(target)) as container:
    frame = next(container.decode(video=0))
    got = {name: int(getattr(frame, name)) for name in tags}
  assert got == tags


def test_odd_sizes_get_an_even_one_and_that_is_said(tmp_path):
  source = write_clip(tmp_path / "a.mkv", smooth_pictures(2, 33, 45), pix_fmt="yuv444p")
  target = tmp_path / "b.mp4"
  video = copy(source, target)
  assert pictures_of(target).shape == (2, 34, 46, 3)
  assert "needs even sizes" in video.notes[0] and "46 x 34" in video.notes[0]


def test_what_was_interrupted_plays_and_goes_on_to_the_same_video(tmp_path):
  source = write_clip(tmp_path / "a.mp4", smooth_pictures(20, 48, 64), sound=True)
  target, log = tmp_path / "b.mp4", Log(tmp_path / "log", {"a": 1})
  copy(source, target, log=log, last=9)
  assert len(pictures_of(target)) == 9
  assert 0 < len(sound_packets(target)) < len(sound_packets(source))
  copy(source, target, log=Log(log.path, log.about), first=1)
  assert stamps(target) == stamps(source)
  assert sound_packets(target) == sound_packets(source)
  assert np.abs(pictures_of(target) - pictures_of(source)).mean() < 3


def test_a_log_that_was_cut_off_gives_whole_groups(tmp_path):
  source = write_clip(tmp_path / "a.mp4", smooth_pictures(8, 48, 64))
  log = Log(tmp_path / "log", {"a": 1})
  copy(source, tmp_path / "b.mp4", log=log)
  whole = Log(log.path, log.about).read()
  assert len(whole) == 8 and whole[0].is_key
  second = [packet._replace(pts=p.pts + 10**6) for p, packet in zip(whole, whole, strict=True)]
  log.start(whole + second)
  log.finish()
  data = log.path.read_bytes()
  log.path.write_bytes(data[:-60])  # in the middle of the second group
  assert Log(log.path, log.about).read() == whole


def test_a_log_of_something_else_is_refused(tmp_path):
  log = Log(tmp_path / "log", {"a": 1})
  log.start([])
  log.finish()
  with pytest.raises(VideoError, match=r"^--resume: .*got another a \(2 rather than 1\);"):
    Log(log.path, {"a": 2}).read()


def test_a_disk_that_is_full_when_a_log_is_gone_on_with_loses_nothing_of_it(tmp_path, monkeypatch):
  source = write_clip(tmp_path / "a.mp4", smooth_pictures(4, 32, 48))
  log = Log(tmp_path / "log", {"a": 1})
  copy(source, tmp_path / "b.mp4", log=log)
  packets, written = Log(log.path, log.about).read(), []

  def full(self, packet):
    written.append(packet)
    if len(written) == 2:
      raise OSError(28, "No space left on device")

  again = Log(log.path, log.about)
  monkeypatch.setattr(Log, "append", full)
  with pytest.raises(OSError, match="No space"):
    again.start(packets)
  again.close()
  assert len(packets) > 2 and Log(log.path, log.about).read() == packets


def test_nothing_is_left_where_writing_failed(tmp_path):
  source = write_clip(tmp_path / "a.mp4", smooth_pictures(3, 32, 32))
  target = tmp_path / "b.mp4"
  target.write_bytes(b"older")
  with pytest.raises(RuntimeError):
    with write_video(target, open_video(source), Log(tmp_path / "log", {})):
      raise RuntimeError
  assert target.read_bytes() == b"older"
  assert {path.name for path in tmp_path.iterdir()} <= {"a.mp4", "b.mp4", "log"}


@pytest.mark.parametrize(
  "name, codec, message",
  [
    ("a.avi", "h264", r"--output: expected a name that ends in \.mp4"),
    ("a.mp4", "divx", "--codec: expected one of h264"),
    ("a.webm", "h264", "--codec: expected vp9 or av1"),
  ],
)
def test_outputs_that_cannot_be_are_refused(name, codec, message):
  with pytest.raises(VideoError, match=message):
    check_output(name, codec)


@pytest.mark.parametrize("codec, most", [("h264", 51), ("hevc", 51), ("vp9", 63)])
def test_a_quality_that_a_codec_does_not_have_is_refused(codec, most):
  check_output("a.mkv", codec, most)
  with pytest.raises(VideoError, match=f"--crf: expected 0 to {most} for {codec}, got {most + 1}"):
    check_output("a.mkv", codec, most + 1)


def test_an_encoder_that_refuses_is_no_fault_of_the_sound(tmp_path):
  source = write_clip(tmp_path / "a.mp4", smooth_pictures(3, 64, 64))
  with pytest.raises(VideoError, match="--codec: libx265 cannot write such a video"):
    copy(source, tmp_path / "b.mp4", codec="hevc", crf=60)


def test_sound_that_the_container_cannot_hold_is_named(tmp_path):
  source = write_clip(tmp_path / "a.mp4", smooth_pictures(3, 64, 64), sound=True)
  with pytest.raises(VideoError, match=r"\.webm cannot hold the sound"):
    copy(source, tmp_path / "b.webm", codec="vp9")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device")
def test_a_full_disk_names_the_log(tmp_path, monkeypatch):
  log = Log(tmp_path / "log", {})
  for is_key in (True, False):  # which is written at once, or when the log is closed
    log.start([])
    log.close()
    monkeypatch.setattr(log, "_file", open("/dev/full", "wb"))
    with pytest.raises(OSError) as full:
      log.append(Packet(0, 0, 1, is_key, b"picture"))
      log.close()
    assert full.value.filename == str(log.path)
    with contextlib.suppress(OSError):
      log.close()
