"""`adaconv video`, run in this process."""

import dataclasses
import json
import os
import re
import signal
import types
from fractions import Fraction
from typing import Any

import jax
import numpy as np
import pytest
from processes import end, start, wait_until
from small_models import small_stylizer
from video_files import smooth_pictures, sound_packets, stamps, write_clip

from adaconv_jax import images
from adaconv_jax.cli import video as command
from adaconv_jax.cli.video import main
from adaconv_jax.video import open_video, stylize_frames
from adaconv_jax.video.convert import VERSION

pytest.importorskip("av", reason="videos need PyAV")


@pytest.fixture(scope="module")
def adain():
  return small_stylizer("adain")


@pytest.fixture
def folder(tmp_path, monkeypatch, adain):
  """A clip with sound and two styles."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(command, "load_model", lambda model, *, vgg_weights=None: adain)
  write_clip(tmp_path / "in.mp4", smooth_pictures(8, 32, 48), sound=True)
  for seed, name in enumerate(("dots", "ink")):
    images.save(f"{name}.png", np.random.default_rng(seed).random((32, 32, 3), np.float32))
  return tmp_path


def run(capsys, *arguments, output="out.mp4"):
  code = main(["in.mp4", "--style", "dots.png", "--output", output, *map(str, arguments)])
  return code, capsys.readouterr()


def style(name="dots.png"):
  return np.asarray(images.decode(images.read_file(name), name=name))


def pictures_of(path):
  return np.stack(list(open_video(path))).astype(int)


def test_a_video_becomes_what_stylize_frames_makes_with_its_sound(folder, capsys, adain):
  code, printed = run(capsys, "--crf", 4)
  assert code == 0
  assert "out.mp4: 8 frames, 48 x 32" in printed.out and "8/8" in printed.err
  frames = open_video("in.mp4")
  palette, evenness = command.PALETTE, command.EVENNESS
  made = stylize_frames(frames, style(), model=adain, palette=palette, evenness=evenness)
  expected = np.stack(list(made))
  assert np.abs(pictures_of("out.mp4") - expected).mean() < 6  # 4:2:0 of noisy pictures
  assert stamps("out.mp4") == stamps("in.mp4")
  assert sound_packets("out.mp4") == sound_packets("in.mp4")
  assert {path.name for path in folder.iterdir()} == {"in.mp4", "out.mp4", "dots.png", "ink.png"}


def test_an_output_that_exists_is_kept_unless_it_may_be_replaced(folder, capsys):
  images.save("out.png", np.zeros((8, 8, 3)))
  os.replace("out.png", "out.mp4")
  before = (folder / "out.mp4").read_bytes()
  code, printed = run(capsys)
  assert code == 2 and "out.mp4 exists; --overwrite replaces it" in printed.err
  assert (folder / "out.mp4").read_bytes() == before
  assert run(capsys, "--overwrite")[0] == 0
  code, printed = run(capsys, "--overwrite", "--resume")
  assert code == 2 and "--resume and --overwrite: expected one" in printed.err
  assert len(pictures_of("out.mp4")) == 8


def test_a_second_run_for_one_output_is_refused_while_the_first_goes_on(
  folder, capsys, monkeypatch
):
  show, codes, messages = command._Progress.show, [], []

  def second(progress, done):
    if done == 2:
      codes.append(main(["in.mp4", "--style", "ink.png", "--output", "out.mp4"]))
      messages.append(capsys.readouterr().err)
    show(progress, done)

  monkeypatch.setattr(command._Progress, "show", second)
  assert run(capsys)[0] == 0
  assert codes == [2]
  holder = f"process {os.getpid()} on .* is writing out.mp4 in "
  assert re.search(f"error: output: {holder}.*another --output", messages[0]), messages
  assert len(pictures_of("out.mp4")) == 8
  assert {path.name for path in folder.iterdir()} == {"in.mp4", "out.mp4", "dots.png", "ink.png"}


def test_a_video_that_another_program_makes_meanwhile_is_not_replaced(folder, capsys, monkeypatch):
  show = command._Progress.show

  def other(progress, done):
    (folder / "out.mp4").write_bytes(b"other")
    show(progress, done)

  with monkeypatch.context() as patch:
    patch.setattr(command._Progress, "show", other)
    code, printed = run(capsys)
  assert code == 1
  assert "error: out.mp4: exists, because another process has made it meanwhile" in printed.err
  assert (folder / "out.mp4").read_bytes() == b"other"
  assert not [path for path in folder.iterdir() if ".part-" in path.name]


def test_the_time_left_does_not_count_what_is_compiled_for_the_first_frames(monkeypatch):
  now = iter([0, 50, 80, 82, 84])
  monkeypatch.setattr(command, "time", types.SimpleNamespace(monotonic=lambda: next(now)))
  bar: Any = types.SimpleNamespace(total=20, n=0, update=lambda count: None)
  progress, speeds = command._Progress(bar), []
  for done in (7, 8, 9, 10, 11):  # 7 of an earlier run
    progress.show(done)
    speeds.append(bar.speed)
  assert speeds == [0, 0, 0, 0.5, 0.5]


def interrupt_after(monkeypatch, count):
  """Ctrl-C while this frame is made."""
  show = command._Progress.show

  def stop(progress, done):
    show(progress, done)
    if done == count:
      signal.raise_signal(signal.SIGINT)

  monkeypatch.setattr(command._Progress, "show", stop)


def test_ctrl_c_leaves_a_video_that_plays_and_resume_goes_on(folder, capsys, monkeypatch):
  assert run(capsys, "--crf", 4)[0] == 0
  whole = pictures_of("out.mp4")
  with monkeypatch.context() as patch:
    interrupt_after(patch, 3)
    code, printed = run(capsys, "--crf", 4, "--overwrite")
  assert code == 130 and "out.mp4 has the first 3 frames" in printed.err
  assert len(pictures_of("out.mp4")) == 3
  code, printed = run(capsys, "--crf", 4, "--resume")
  assert code == 0 and "8/8" in printed.err
  assert stamps("out.mp4") == stamps("in.mp4")
  assert sound_packets("out.mp4") == sound_packets("in.mp4")
  assert np.abs(pictures_of("out.mp4") - whole).mean() < 3
  assert not list(folder.glob(".*"))
  code, printed = run(capsys, "--resume")
  assert code == 0 and "kept, because it exists and no run of it was stopped" in printed.out


@pytest.mark.parametrize(
  ("other", "named"),
  [
    (
      ["--alpha", 0.5, "--crf", 30],
      "another --alpha (0.5 rather than 1.0), another --crf (30 rathe",
    ),
    (["--palette", 0], "another --palette (0.0 rather than 0.6);"),
    (["--evenness", 0], "another --evenness (0.0 rather than 1.0);"),
    (["--codec", "hevc"], "another --codec (hevc rather than h264);"),
    (["--mix", 1], "another --mix (1.0 rather than none);"),
    (["--style-size", 16], "another --style or --style-size;"),
    (["--mix-to", "ink.png"], "another --mix-to or --style-size;"),
    (["--no-sound"], "another sound (left out rather than kept);"),
  ],
)
def test_resume_with_other_options_is_refused_by_their_names(
  folder, capsys, monkeypatch, other, named
):
  with monkeypatch.context() as patch:
    interrupt_after(patch, 3)
    run(capsys)
  before = (folder / ".out.mp4.resume").read_bytes()
  code, printed = run(capsys, "--resume", *other)
  assert code == 2
  assert "error: --resume: expected the options of the run that made .out.mp4.resume" in printed.err
  assert f"got {named}" in printed.err and "--overwrite" in printed.err
  assert len(pictures_of("out.mp4")) == 3
  assert (folder / ".out.mp4.resume").read_bytes() == before


def test_resume_of_a_folder_with_another_rate_is_refused(folder, capsys, monkeypatch):
  (folder / "frames").mkdir()
  for index, frame in enumerate(smooth_pictures(6, 16, 24)):
    images.save(f"frames/{index}.png", frame)
  arguments = ["frames", "--style", "dots.png", "--output", "out.mp4", "--refine", "0"]
  with monkeypatch.context() as patch:
    interrupt_after(patch, 2)
    assert main([*arguments, "--rate", "12.5"]) == 130
  before = (folder / ".out.mp4.resume").read_bytes()
  assert main([*arguments, "--resume"]) == 2
  assert "got another --rate (25 rather than 25/2);" in capsys.readouterr().err
  assert (folder / ".out.mp4.resume").read_bytes() == before
  assert main([*arguments, "--resume", "--rate", "12.5"]) == 0


def test_resume_with_other_weights_of_vgg_is_refused(folder, capsys, monkeypatch, adain):
  with monkeypatch.context() as patch:
    interrupt_after(patch, 3)
    run(capsys)
  other = jax.tree.map(lambda x: 0.9 * x, adain.vgg_params)
  stylizer = dataclasses.replace(adain, vgg_params=other)
  monkeypatch.setattr(command, "load_model", lambda model, *, vgg_weights=None: stylizer)
  code, printed = run(capsys, "--resume", "--vgg-weights", "other.safetensors")
  assert code == 2 and "got another --vgg-weights;" in printed.err


def test_every_option_is_compared_by_resume_or_changes_no_picture(folder, capsys, monkeypatch):
  with monkeypatch.context() as patch:
    interrupt_after(patch, 2)
    run(capsys)
  about = " ".join(json.loads((folder / ".out.mp4.resume").read_bytes().splitlines()[0]))
  # Whether there is sound is compared by what came of it.
  harmless = {"--help", "--no-sound", "--resume", "--overwrite"}
  options = {name for action in command._parser()._actions for name in action.option_strings[-1:]}
  assert not options - set(about.split()) - harmless


def test_resume_with_another_input_is_refused(folder, capsys, monkeypatch):
  with monkeypatch.context() as patch:
    interrupt_after(patch, 3)
    run(capsys)
  write_clip(folder / "in.mp4", smooth_pictures(9, 32, 48), sound=True)
  code, printed = run(capsys, "--resume")
  assert code == 2 and "got another IN;" in printed.err


def test_a_folder_of_many_frames_is_resumed(folder, capsys, monkeypatch):
  (folder / "frames").mkdir()
  for index, frame in enumerate(smooth_pictures(6, 16, 24)):
    images.save(f"frames/{'long' * 50}-{index}.png", frame)
  frames = sorted((folder / "frames").iterdir())
  for index in range(6, 400):  # what they are named takes more than a line of the log may have
    (folder / "frames" / f"{'long' * 50}-{index}.png").hardlink_to(frames[0])
  arguments = ["frames", "--style", "dots.png", "--output", "out.mp4", "--statistics", "frame"]
  with monkeypatch.context() as patch:
    interrupt_after(patch, 2)
    assert main([*arguments, "--blending", "0"]) == 130
  with monkeypatch.context() as patch:
    interrupt_after(patch, 4)
    assert main([*arguments, "--blending", "0", "--resume"]) == 130, capsys.readouterr().err


def test_a_sound_that_the_output_cannot_hold_is_an_error_of_usage(folder, capsys):
  code, printed = run(capsys, "--codec", "vp9", output="out.webm")
  assert code == 2 and "cannot hold the sound track" in printed.err
  assert not list(folder.glob("*out*"))


def test_what_is_no_frame_in_a_folder_is_reported_before_the_work(folder, capsys, monkeypatch):
  (folder / "frames" / "more").mkdir(parents=True)
  for index, frame in enumerate(smooth_pictures(3, 16, 24)):
    images.save(f"frames/{index}.png", frame)
  images.save("frames/more/9.png", frame)
  (folder / "frames" / "3.heic").touch()
  (folder / "frames" / "4.HEIC").touch()
  arguments = ["frames", "--style", "dots.png", "--output", "out.mp4", "--statistics", "frame"]
  with monkeypatch.context() as patch:
    interrupt_after(patch, 1)
    assert main(arguments) == 130
  notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note")]
  assert len(notes) == 2
  assert notes[0].startswith(
    "note: frames: left out 2 .heic (the first: 3.heic), because only JPEG"
  )
  assert notes[1].startswith("note: frames: left out 1 picture(s) in the folders below")


def test_a_frame_that_cannot_be_read_leaves_a_video_up_to_there(folder, capsys):
  frames = smooth_pictures(5, 16, 24)
  (folder / "frames").mkdir()
  for index, frame in enumerate(frames):
    images.save(f"frames/{index}.png", frame)
  (folder / "frames" / "3.png").write_bytes(b"no picture")
  arguments = ["frames", "--style", "dots.png", "--output", "out.mp4", "--statistics", "frame"]
  arguments += ["--refine", "0"]  # which would look at all frames first
  assert main(arguments) == 1
  printed = capsys.readouterr().err
  assert "3.png" in printed and "out.mp4 has the first 3 frames" in printed
  assert len(pictures_of("out.mp4")) == 3
  assert main([*arguments[:-1], "1", "--overwrite"]) == 2
  assert len(pictures_of("out.mp4")) == 3  # nothing was made this time


@pytest.mark.slow
@pytest.mark.parametrize(
  ("codec", "output"), [("h264", "out.mp4"), ("hevc", "out.mkv"), ("vp9", "out.webm")]
)
def test_parts_of_a_few_frames_become_one_video(folder, capsys, monkeypatch, codec, output):
  write_clip(folder / "in.mp4", smooth_pictures(14, 64, 80))
  arguments = ["--codec", codec, "--refine", "0"]
  for index, last in enumerate((1, 2, 4, 5, 7, 8, 11)):
    with monkeypatch.context() as patch:
      interrupt_after(patch, last)
      code, printed = run(capsys, *arguments, *["--resume"] * (index > 0), output=output)
    assert code == 130, printed.err
    assert len(pictures_of(output)) == last
  code, printed = run(capsys, *arguments, "--resume", output=output)
  assert code == 0, printed.err
  assert len(pictures_of(output)) == 14 and seconds(output) == pytest.approx(seconds("in.mp4"))


def seconds(path):
  video = open_video(path)
  return [float(frame.pts * video.time_base) for frame in video.frames()]


@pytest.mark.slow
def test_the_encoder_of_av1_prints_nothing_of_its_own(folder, capfd):
  assert main(["in.mp4", "--style", "dots.png", "--output", "out.mkv", "--codec", "av1"]) == 0
  assert "Svt" not in capfd.readouterr().err


def test_styles_are_mixed_and_the_mixture_fades(folder, capsys, adain):
  code, _ = run(capsys, "--style", "ink.png", "--mix", 0.2, 0.8, "--mix-to", "dots.png")
  assert code == 0
  mixed = stylize_frames(
    open_video("in.mp4"),
    [style(), style("ink.png")],
    model=adain,
    weights=[0.2, 0.8],
    mix_to=style(),
    count=8,
    palette=command.PALETTE,
    evenness=command.EVENNESS,
  )
  assert np.abs(pictures_of("out.mp4") - np.stack(list(mixed))).mean() < 10


def test_a_fade_ends_with_the_last_frame_where_the_file_promises_more(folder, capsys, adain):
  times = [k * 200 for k in range(8)]  # longer than at the rate that the file names
  write_clip(
    folder / "in.mkv", smooth_pictures(8, 32, 48), times=times, time_base=Fraction(1, 1000)
  )
  assert (open_video("in.mkv").count or 0) > 30
  arguments = ["in.mkv", "--style", "dots.png", "--mix-to", "ink.png", "--output", "out.mkv"]
  options = ["--statistics", "frame", "--blending", "0", "--crf", "1", "--palette", "0"]
  assert main([*arguments, *options]) == 0
  last = list(open_video("in.mkv"))[-1:]
  wanted, other = (
    np.asarray(list(stylize_frames(last, style(name), model=adain, blending=0, statistics="frame")))
    for name in ("ink.png", "dots.png")
  )
  made = pictures_of("out.mkv")[-1]
  near, far = (np.abs(made - picture[0].astype(int)).mean() for picture in (wanted, other))
  assert near < far / 2, (near, far)


def test_a_video_in_the_folder_of_its_frames_is_resumed(folder, capsys, monkeypatch):
  (folder / "frames").mkdir()
  for index, frame in enumerate(smooth_pictures(8, 32, 48)):
    images.save(f"frames/{index}.png", frame)
  arguments = ["frames", "--style", "dots.png", "--output", "frames/out.mp4"]
  with monkeypatch.context() as patch:
    interrupt_after(patch, 3)
    assert main(arguments) == 130
  assert main([*arguments, "--resume"]) == 0, capsys.readouterr().err
  assert len(pictures_of("frames/out.mp4")) == 8


def test_a_folder_of_frames_has_the_rate_that_is_asked_for(folder, capsys):
  (folder / "frames").mkdir()
  for index, frame in enumerate(smooth_pictures(3, 16, 24)):
    images.save(f"frames/{index}.png", frame)
  arguments = ["frames", "--style", "dots.png", "--output", "out.mp4", "--rate", "10"]
  assert main(arguments) == 0
  assert stamps("out.mp4") == [Fraction(k, 10) for k in range(3)]


def test_a_name_that_does_not_fit_the_codec_is_refused(folder, capsys):
  code, printed = run(capsys, "--codec", "av1", output="a.gif")
  assert code == 2 and "--output: expected a name that ends in" in printed.err
  assert not (folder / "a.gif").exists()


def test_ctrl_c_in_a_process_of_its_own_leaves_a_video_that_plays(tmp_path):
  write_clip(tmp_path / "in.mp4", smooth_pictures(300, 32, 48))
  images.save(str(tmp_path / "dots.png"), np.random.default_rng(0).random((32, 32, 3), np.float32))
  process = start(
    "-m", "adaconv_jax", "video", tmp_path / "in.mp4", "--style", tmp_path / "dots.png",
    "--output", tmp_path / "out.mp4", "--model", "adain",
  )  # fmt: skip
  begun = tmp_path / ".out.mp4.resume"
  wait_until(lambda: begun.exists() and begun.stat().st_size > 3000, process)
  process.send_signal(signal.SIGINT)
  code, output = end(process, within=60)
  assert code == 130 and "rerun the same command with --resume" in output, output
  assert 0 < len(pictures_of(tmp_path / "out.mp4")) < 300


@pytest.mark.parametrize(
  "arguments, message",
  [
    (["--mix", "0.5"], "--mix: expected 1 number"),
    (["--style", "missing.png"], "--style: missing.png: No such file"),
    (["--mix-to", "in.mp4"], "--mix-to: in.mp4: not an image"),
    (["--codec", "hevc"], "--codec: hevc needs frames of at least 64 x 64, got 48 x 32; h264"),
    (["--rate", "25"], "--rate: expected it for a folder of pictures only"),
  ],
)
def test_wrong_arguments_are_named_and_nothing_is_made(folder, capsys, arguments, message):
  code, printed = run(capsys, *arguments)
  assert code == 2 and message in printed.err
  assert not list(folder.glob("*out*"))


def test_conversions_are_reported(folder, capsys):
  write_clip(folder / "in.mp4", smooth_pictures(2, 33, 45), pix_fmt="yuv444p10le")
  code, printed = run(capsys)
  assert code == 0
  assert "note: yuv444p10le is converted to 8 bits" in printed.err
  assert "note: h264 with 4:2:0 needs even sizes" in printed.err


def test_the_log_of_a_run_names_what_it_belongs_to(folder, capsys, monkeypatch):
  with monkeypatch.context() as patch:
    interrupt_after(patch, 2)
    run(capsys)
  about = json.loads((folder / ".out.mp4.resume").read_bytes().splitlines()[0])
  assert about["version"] == VERSION and about["--statistics"] == "shot"
