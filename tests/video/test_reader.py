"""Videos become frames with their times, whatever they are stored as."""

import os
from fractions import Fraction

import numpy as np
import pytest
from video_files import smooth_pictures, write_clip

from adaconv_jax import images
from adaconv_jax.video.reader import VideoError, open_video, pictures_of

av = pytest.importorskip("av", reason="videos need PyAV")


def test_frames_of_a_file_are_those_that_were_encoded(tmp_path):
  pictures = smooth_pictures(5, 48, 64)
  video = open_video(write_clip(tmp_path / "a.mp4", pictures))
  assert (video.width, video.height, video.rate, video.count) == (64, 48, 25, 5)
  frames = np.stack(list(video))
  assert frames.dtype == np.uint8
  assert np.abs(frames.astype(int) - pictures).mean() < 3
  # A second iteration begins again.
  np.testing.assert_array_equal(np.stack(list(video)), frames)
  assert video.notes == []


def test_variable_time_stamps_are_kept(tmp_path):
  times = [0, 100, 900, 1000, 5000, 5001]
  path = write_clip(tmp_path / "a.mp4", smooth_pictures(6, 32, 32), times=times)
  video = open_video(path)
  assert [f.pts * video.time_base for f in video.frames()] == [Fraction(t, 12800) for t in times]


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_frames_are_upright(tmp_path, rotation):
  pictures = smooth_pictures(2, 32, 48)
  video = open_video(write_clip(tmp_path / "a.mp4", pictures, rotation=rotation))
  upright = np.rot90(pictures[0], rotation // 90)
  assert (video.height, video.width) == upright.shape[:2]
  assert np.abs(next(iter(video)).astype(int) - upright).mean() < 3


@pytest.mark.parametrize(
  "tags",
  [
    {"colorspace": 1, "color_range": 1},
    {"colorspace": 1, "color_range": 2},
    {"colorspace": 5, "color_range": 2},
  ],
)
def test_matrix_and_range_of_colors_are_understood(tmp_path, tags):
  pictures = np.zeros((2, 32, 32, 3), np.uint8)
  pictures[:] = (230, 20, 90)
  video = open_video(write_clip(tmp_path / "a.mp4", pictures, tags=tags))
  assert np.abs(next(iter(video)).astype(int) - pictures[0]).max() <= 3


def test_ten_bits_are_converted_and_that_is_said(tmp_path):
  pictures = smooth_pictures(2, 32, 32)
  path = write_clip(tmp_path / "a.mkv", pictures, pix_fmt="yuv420p10le")
  video = open_video(path)
  assert np.abs(next(iter(video)).astype(int) - pictures[0]).mean() < 3
  assert video.notes == ["yuv420p10le is converted to 8 bits per channel"]


@pytest.mark.parametrize("transfer, white", [(16, 0.58), (18, 0.75)])
def test_white_of_hdr_becomes_nearly_white_and_that_is_said(tmp_path, transfer, white):
  # BT.2408: diffuse white is 58 % of PQ's signal and 75 % of HLG's.
  tags = {"colorspace": 9, "color_range": 1, "color_primaries": 9, "color_trc": transfer}
  pictures = np.full((2, 32, 32, 3), round(white * 255), np.uint8)
  video = open_video(write_clip(tmp_path / "a.mkv", pictures, pix_fmt="yuv420p10le", tags=tags))
  value = next(iter(video)).mean()
  assert 170 < value < 235
  assert "SDR" in video.notes[0]
  assert video.color.transfer_tag == 1


@pytest.mark.timeout(60)
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="it has no pipes with names")
def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path):
  os.mkfifo(tmp_path / "x.mp4")
  with pytest.raises(VideoError, match=r"x\.mp4: expected a regular file, got a pipe"):
    open_video(tmp_path / "x.mp4")


@pytest.mark.parametrize("name", ["pipe:0", "data:a.mp4", "concat:a.mp4|a.mp4"])
def test_no_name_is_an_input_of_ffmpeg_that_is_no_file(tmp_path, monkeypatch, name):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(FileNotFoundError, match="No such file"):
    open_video(name)
  clip = write_clip(tmp_path / "a.mp4", smooth_pictures(2, 32, 48))
  clip.rename(name)
  assert len(list(open_video(name))) == 2


def test_a_gif_is_a_video(tmp_path):
  pictures = smooth_pictures(4, 24, 32)
  path = write_clip(tmp_path / "a.gif", pictures, codec="gif", pix_fmt="rgb8", rate=10)
  video = open_video(path)
  frames = list(video.frames())
  assert len(frames) == 4 and frames[0].rgb.shape == (24, 32, 3)
  assert [f.pts * video.time_base for f in frames] == [Fraction(k, 10) for k in range(4)]


def test_a_folder_of_pictures_is_a_video_in_the_order_of_names(tmp_path):
  pictures = smooth_pictures(3, 16, 24)
  for index in (2, 0, 1):
    images.save(tmp_path / f"{index:03}.png", pictures[index])
  video = open_video(tmp_path, rate=Fraction(12))
  np.testing.assert_array_equal(np.stack(list(video)), pictures)
  assert [f.pts * video.time_base for f in video.frames()] == [Fraction(k, 12) for k in range(3)]


def test_numbers_in_the_names_of_frames_are_compared_as_numbers(tmp_path):
  names = ["b1", "7", "f1_2", "f1_10", "f2", "f02", "f10", "10", "²"]
  for name in names:
    images.save(str(tmp_path / f"{name}.png"), np.zeros((8, 8, 3)))
  found = [path.stem for path in pictures_of(tmp_path)]
  assert found == ["7", "10", "b1", "f1_2", "f1_10", "f02", "f2", "f10", "²"]


@pytest.mark.parametrize(
  "codec, pix_fmt", [("png", "rgba"), ("png", "rgba64be"), ("qtrle", "argb")]
)
def test_transparent_pixels_of_a_video_become_white_and_that_is_said(tmp_path, codec, pix_fmt):
  pixels = np.zeros((16, 24, 4), np.uint8)
  pixels[:, 8:16] = 90, 30, 60, 128
  pixels[:, 16:] = 90, 30, 60, 255
  with av.open(str(tmp_path / "in.mov"), "w") as container:
    stream = container.add_stream(codec, rate=25)
    stream.width, stream.height, stream.pix_fmt = 24, 16, pix_fmt
    frame = av.VideoFrame.from_ndarray(pixels, "rgba").reformat(format=pix_fmt)
    container.mux([*stream.encode(frame), *stream.encode(None)])
  video = open_video(tmp_path / "in.mov")
  (made,) = video
  np.testing.assert_array_equal(made[0, [0, 7]], 255)
  np.testing.assert_allclose(made[0, [8, 15]], [[172, 142, 157]] * 2, atol=1)
  np.testing.assert_array_equal(made[0, 16:], [[90, 30, 60]] * 8)
  assert video.notes[-1] == "transparent pixels become white"


def test_a_picture_of_another_size_in_a_folder_is_scaled_to_the_first(tmp_path):
  first, larger = smooth_pictures(1, 16, 24)[0], smooth_pictures(1, 32, 48)[0]
  images.save(tmp_path / "0.png", first)
  images.save(tmp_path / "1.png", larger)
  video = open_video(tmp_path)
  frames = list(video)
  assert [frame.shape for frame in frames] == [(16, 24, 3)] * 2
  halved = larger.reshape(16, 2, 24, 2, 3).astype(float).mean((1, 3))
  assert np.abs(frames[1][2:-2, 2:-2] - halved[2:-2, 2:-2]).mean() < 3
  assert video.notes == ["frames of another size are scaled to the first one's"]


def test_broken_packets_are_left_out_and_counted(tmp_path):
  path = write_clip(tmp_path / "a.mkv", smooth_pictures(40, 64, 64), crf=18, group=5)
  data = bytearray(path.read_bytes())
  rng = np.random.default_rng(0)
  middle = len(data) // 2
  data[middle : middle + 600] = rng.bytes(600)
  path.write_bytes(data)
  video = open_video(path)
  frames = list(video.frames())
  assert 10 < len(frames) <= 40
  assert all(a.pts < b.pts for a, b in zip(frames, frames[1:], strict=False))


def test_what_is_no_video_is_refused(tmp_path):
  text = tmp_path / "a.mp4"
  text.write_bytes(b"no video at all" * 100)
  with pytest.raises(VideoError, match=r"a\.mp4: expected a video"):
    open_video(text)
  sound = tmp_path / "a.wav"
  with av.open(str(sound), "w") as container:
    track = container.add_stream("pcm_s16le", rate=8000)
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", layout="mono")
    frame.sample_rate = 8000
    container.mux(track.encode(frame))
    container.mux(track.encode(None))
  with pytest.raises(VideoError, match="found no video stream"):
    open_video(sound)
  with pytest.raises(VideoError, match="found none"):
    open_video(_empty(tmp_path))
  with pytest.raises(FileNotFoundError):
    open_video(tmp_path / "missing.mp4")


def _empty(tmp_path):
  (tmp_path / "empty").mkdir()
  return tmp_path / "empty"


def test_a_file_without_frames_is_refused(tmp_path):
  whole = write_clip(tmp_path / "a.mkv", smooth_pictures(3, 32, 32))
  data = whole.read_bytes()
  cut = tmp_path / "cut.mkv"
  # Up to the header, before the first cluster.
  cut.write_bytes(data[: data.index(b"\x1f\x43\xb6\x75")])
  with pytest.raises(VideoError, match=r"cut\.mkv: expected a video"):
    open_video(cut)


def test_an_empty_folder_says_what_is_in_it_that_is_not_read(tmp_path):
  (tmp_path / "a.heic").touch()
  (tmp_path / "b").mkdir()
  images.save(tmp_path / "b" / "c.png", smooth_pictures(1, 8, 8)[0])
  with pytest.raises(VideoError, match="found none; left out 1 .heic .*; left out 1 picture"):
    open_video(tmp_path)
