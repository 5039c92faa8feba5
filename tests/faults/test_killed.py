"""Commands that write for long and are killed at any moment: nothing half, and a rerun works."""

import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from processes import end, read_until, start
from published_vgg import published
from safetensors.numpy import save_file
from small_models import picture, small_stylizer
from video_files import smooth_pictures, write_clip

from adaconv_jax import images
from adaconv_jax.cli import evaluate, video
from adaconv_jax.cli.vgg import main as import_vgg
from adaconv_jax.evaluation import evaluator
from adaconv_jax.vgg.file import read_file

pytestmark = pytest.mark.slow

# A command with a small model that waits at one place of it.
STOPS = """
import sys, time
sys.path.insert(0, "tests")
from pathlib import Path
from small_models import small_stylizer
from adaconv_jax import images
from adaconv_jax.cli import evaluate, main, video
from adaconv_jax.evaluation import evaluator
from adaconv_jax.video import convert, writer

def stops(owner, name, after=0, late=False):
  function, calls = getattr(owner, name), []
  def then(*args, **kwargs):
    calls.append(1)
    if len(calls) > after:
      result = function(*args, **kwargs) if late else None
      print("stops", flush=True)
      time.sleep(60)
    return function(*args, **kwargs)
  setattr(owner, name, then)

evaluate.load_model = video.load_model = lambda model, *, vgg_weights=None: small_stylizer("adain")
evaluate.find_model = Path
evaluator.load_lpips = lambda: None
{"log": lambda: stops(writer.Log, "start"),
 "frames": lambda: stops(writer.Writer, "write", 4),
 "half": lambda: stops(writer.Log, "finish"),
 "named": lambda: stops(writer.Log, "remove"),
 "renders": lambda: stops(evaluator.Evaluator, "render"),
 "sheet": lambda: stops(images, "save", late=True),
 "table": lambda: stops(evaluate, "to_csv"),
 "summary": lambda: stops(evaluate, "to_json"),
}[sys.argv.pop(1)]()
main.cli()
"""
BOTH = [signal.SIGKILL, signal.SIGTERM]


@pytest.fixture(scope="module")
def adain():
  return small_stylizer("adain")


@pytest.fixture
def folder(tmp_path, monkeypatch, adain):
  monkeypatch.chdir(tmp_path)
  for module in (evaluate, video):
    monkeypatch.setattr(module, "load_model", lambda model, *, vgg_weights=None: adain)
  monkeypatch.setattr(evaluate, "find_model", Path)
  monkeypatch.setattr(evaluator, "load_lpips", lambda: None)
  return tmp_path


def kill(number, moment, *arguments):
  """Runs a command up to a moment, and sends it a signal."""
  process = start("-c", STOPS, moment, *arguments)
  read_until(process, "stops")
  process.send_signal(number)
  code, output = end(process, within=10)
  if number == signal.SIGTERM:
    assert code == 143 and output.endswith("ended by SIGTERM; what is written so far is whole\n")
  else:
    assert code == -number, output


def names(folder):
  return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("number", BOTH)
@pytest.mark.parametrize("moment", ["log", "frames", "half", "named"])
def test_a_video_that_is_killed_is_whole_or_not_there_and_goes_on(folder, moment, number):
  write_clip(folder / "in.mp4", smooth_pictures(8, 32, 48), sound=True)
  images.save("dots.png", picture(0, 32, 32))
  inputs, log = {"in.mp4", "dots.png"}, ".out.mp4.resume"
  arguments = ["in.mp4", "--style=dots.png", "--output=out.mp4"]
  paths = [folder / "in.mp4", f"--style={folder}/dots.png", f"--output={folder}/out.mp4"]
  kill(number, moment, "video", *paths)
  left = names(folder) - inputs
  assert ("out.mp4" in left) == (moment == "named")
  assert (log in left) == (moment != "log")
  if number == signal.SIGTERM:
    assert left <= {"out.mp4", log}
  if moment == "named":
    assert len(list(video.open_video("out.mp4"))) == 8
    assert video.main(arguments) == 2
  assert video.main([*arguments, "--resume"]) == 0
  assert len(list(video.open_video("out.mp4"))) == 8
  assert names(folder) == inputs | {"out.mp4"}


def test_a_video_that_was_killed_is_made_anew_without_resume(folder):
  write_clip(folder / "in.mp4", smooth_pictures(8, 32, 48))
  images.save("dots.png", picture(0, 32, 32))
  paths = [folder / "in.mp4", f"--style={folder}/dots.png", f"--output={folder}/out.mp4"]
  kill(signal.SIGKILL, "frames", "video", *paths)
  assert video.main(["in.mp4", "--style=dots.png", "--output=out.mp4", "--alpha=0.5"]) == 0
  assert names(folder) == {"in.mp4", "dots.png", "out.mp4"}


@pytest.mark.parametrize("number", BOTH)
@pytest.mark.parametrize("moment", ["renders", "sheet", "table", "summary"])
def test_an_evaluation_that_is_killed_has_whole_files_and_is_made_again(folder, moment, number):
  for index, name in enumerate(("c.png", "s.png")):
    images.save(name, picture(index, 64, 64))
  pictures = ["--content", folder / "c.png", "--style", folder / "s.png", "--size", 64]
  arguments = ["--model", "m", *pictures, "--output", folder / "out"]
  kill(number, moment, "evaluate", *arguments)
  left = names(folder / "out")
  shown = {name for name in left if not name.startswith(".")}
  sheet = "sheet-01--m.png"
  files = {"renders": set(), "sheet": set(), "table": {sheet}, "summary": {sheet, "pairs.csv"}}
  assert shown == files[moment]
  if number == signal.SIGTERM:
    assert left == shown
  for name in shown & {sheet}:
    assert np.asarray(Image.open(folder / "out" / name)).std() > 0
  arguments = list(map(str, arguments))
  if shown:  # as after an evaluation that ended
    assert evaluate.main(arguments) == 2
    arguments.append("--overwrite")
  assert evaluate.main(arguments) == 0
  assert names(folder / "out") == {sheet, "pairs.csv", "summary.json"}


def test_two_imports_of_one_vgg_into_one_cache_at_once_leave_a_whole_file(tmp_path):
  save_file(published("vgg19"), tmp_path / "vgg.safetensors")
  arguments = ["import", str(tmp_path / "vgg.safetensors"), "--arch=vgg19", "--output"]
  assert import_vgg([*arguments, str(tmp_path / "alone.safetensors")]) == 0
  cache = tmp_path / "cache" / "vgg19.safetensors"
  processes = [start("-m", "adaconv_jax", "vgg", *arguments, cache) for _ in range(2)]
  for process in processes:
    code, output = end(process, within=60)
    assert code == 0 and output.startswith(f"{cache}: vgg19 up to relu4_1"), output
  assert cache.read_bytes() == (tmp_path / "alone.safetensors").read_bytes()
  assert read_file(cache)[1]["arch"] == "vgg19"
  assert names(cache.parent) == {"vgg19.safetensors"}


def test_of_two_commands_with_one_output_at_once_one_ends_well_and_the_other_says_why(folder):
  for index, name in enumerate(("c.png", "dots.png", "ink.png")):
    images.save(name, picture(index, 32, 32))
  pictures = ["--content", folder / "c.png", "--output", folder / "out.png", "--model", "adain"]
  processes = {
    name: start("-m", "adaconv_jax", "stylize", *pictures, "--style", folder / f"{name}.png")
    for name in ("dots", "ink")
  }
  ends = {name: end(process, within=120) for name, process in processes.items()}
  (first,) = (name for name, (code, _) in ends.items() if code == 0)
  code, output = ends["ink" if first == "dots" else "dots"]
  assert code in (1, 2), output  # 2: the first was done before this one had looked
  assert "out.png: exists" in output or "out.png exists" in output, output
  made = (folder / "out.png").read_bytes()
  alone = [*map(str, pictures), "--style", str(folder / f"{first}.png"), "--overwrite"]
  assert end(start("-m", "adaconv_jax", "stylize", *alone), within=120)[0] == 0
  assert (folder / "out.png").read_bytes() == made
