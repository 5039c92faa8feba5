"""The command line around `stylize`, run in this process.

Most tests use AdaIN: AdaConv takes several times longer to compile.
"""

import re
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image
from small_models import small_stylizer

from adaconv_jax import images, inference, stylize
from adaconv_jax.cli import render_files
from adaconv_jax.cli import stylize as command
from adaconv_jax.cli.stylize import main


@pytest.fixture(scope="module")
def adain():
  return small_stylizer("adain")


def picture(seed, *shape):
  return np.random.default_rng(seed).random((*shape, 3), np.float32)


@pytest.fixture
def folder(tmp_path, monkeypatch, adain):
  """Two contents and two styles of one size, which is compiled once for all tests."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(command, "load_model", lambda model, *, vgg_weights=None: adain)
  for seed, name in enumerate(("c/cat.png", "c/dog.png", "s/dots.png", "s/ink.png")):
    images.save(name, picture(seed, 16, 24))
  return tmp_path


def run(capsys, *arguments):
  """Returns exit code, and the lines of both outputs without the progress bar."""
  code = main([str(argument) for argument in arguments])
  out, err = capsys.readouterr()
  lines = [line.split("\r")[-1] for line in err.splitlines()]
  return code, out.splitlines(), [line for line in lines if line.startswith(("error", "inter"))]


def pixels(path):
  return np.asarray(Image.open(path))


def test_one_pair_becomes_the_file_that_stylize_makes(folder, capsys, adain):
  arguments = ("--content", "c/cat.png", "--style", "s/ink.png", "--alpha", "0.5")
  code = main([*arguments, "--output", "new/out.png"])
  assert (code, capsys.readouterr().err) == (0, "")  # no progress bar
  expected = stylize(pixels("c/cat.png"), pixels("s/ink.png"), model=adain, alpha=0.5)
  np.testing.assert_array_equal(pixels("new/out.png"), expected)
  assert [path.name for path in Path("new").iterdir()] == ["out.png"]


def test_folders_become_all_pairs_each_image_read_and_each_style_encoded_once(
  folder, capsys, adain, monkeypatch
):
  read, encoded = [], []
  decode, encode = images.decode, render_files.encode
  monkeypatch.setattr(images, "decode", lambda d, **k: read.append(k["name"]) or decode(d, **k))
  monkeypatch.setattr(render_files, "encode", lambda *args: encoded.append(1) or encode(*args))
  assert main(["--content", "c", "--style", "s/ink.png", "s", "--output", "out"]) == 0
  assert "4/4" in capsys.readouterr().err
  names = {f"{content}--{style}.png" for content in ("cat", "dog") for style in ("dots", "ink")}
  assert {path.name for path in Path("out").iterdir()} == names
  assert sorted(read) == ["c/cat.png", "c/dog.png", "s/dots.png", "s/ink.png"]
  assert len(encoded) == 2
  expected = stylize(pixels("c/dog.png"), pixels("s/dots.png"), model=adain)
  np.testing.assert_array_equal(pixels("out/dog--dots.png"), expected)


def odd_sizes(folder, *sizes):
  for seed, size in enumerate(sizes):
    images.save(f"{folder}/{size[0]}x{size[1]}.png", picture(seed, *size))


def compilations():
  names = ("_fit_style", "_encode_fitted", "encode_content", "render_encoded")
  functions: Any = [getattr(inference, name) for name in names]
  return [function._cache_size() for function in functions]


def test_pictures_of_many_sizes_are_compiled_once_per_bucket(folder, monkeypatch):
  odd_sizes("photos", (25, 33), (31, 39), (32, 40), (26, 34), (41, 33))
  odd_sizes("paintings", (57, 60), (63, 58))
  before = compilations()
  assert main(["--content", "photos", "--style", "paintings", "--output", "out"]) == 0
  assert np.subtract(compilations(), before).tolist() == [1, 1, 2, 2]
  for path in Path("out").iterdir():
    height, width = map(int, path.name.split("--")[0].split("x"))
    assert pixels(path).shape == (height, width, 3)


@pytest.mark.parametrize("alpha", ["1", "0.5"])
def test_a_picture_of_an_odd_size_becomes_what_stylize_makes(folder, adain, alpha):
  odd_sizes("photos", (27, 38))
  odd_sizes("paintings", (59, 61))
  arguments = ["--content", "photos", "--style", "paintings", "--alpha", alpha]
  assert main([*arguments, "--output", "out.png"]) == 0
  content, style = pixels("photos/27x38.png"), pixels("paintings/59x61.png")
  expected = stylize(content, style, model=adain, alpha=float(alpha))
  # Rounding to whole numbers goes either way where the float is half between them.
  difference = np.abs(pixels("out.png").astype(int) - np.asarray(expected, int))
  assert difference.max() <= 1 and difference.mean() < 1e-3


def test_bad_files_are_reported_and_the_rest_is_done(folder, capsys):
  good = Path("c/cat.png").read_bytes()
  Path("c/broken.png").write_bytes(good[: len(good) // 2])
  Path("s/text.jpg").write_text("no image")
  Path("out/dog--dots.png").mkdir(parents=True)
  arguments = ("--content", "c", "gone.png", "--style", "s", "--output", "out", "--overwrite")
  code, _, errors = run(capsys, *arguments)
  assert code == 1
  assert len(errors) == 5  # each file once, though it stands in several pairs
  for error, start in zip(
    errors,
    (
      "error: c/broken.png: truncated or corrupt",
      "error: s/text.jpg: not an image",
      "error: out/dog--dots.png: Is a directory",
      "error: gone.png: No such file or directory",
      "error: 9 of 12 failed",
    ),
    strict=True,
  ):
    assert error.startswith(start)
  assert {path.name for path in Path("out").iterdir() if path.is_file()} == {
    "cat--dots.png",
    "cat--ink.png",
    "dog--ink.png",
  }


def test_sizes_are_those_of_the_shorter_side(folder, monkeypatch):
  shapes = []
  encode = render_files.encode
  monkeypatch.setattr(render_files, "encode", lambda s, x, e: shapes.append(e) or encode(s, x, e))
  sizes = ("--size", "8", "--style-size", "32")
  assert main(["--content", "c/cat.png", "--style", "s/ink.png", "--output", "o.png", *sizes]) == 0
  assert pixels("o.png").shape == (8, 12, 3) and shapes == [(32, 48)]


def test_an_existing_file_is_kept_unless_told_otherwise(folder, capsys, monkeypatch):
  Path("out.png").write_bytes(b"old")
  arguments = ("--content", "c/cat.png", "--style", "s/ink.png", "--output", "out.png")
  with monkeypatch.context() as patch:
    patch.setattr(command, "load_model", None)  # it is told before any work
    code, _, errors = run(capsys, *arguments)
  assert code == 2
  assert errors == ["error: --output: out.png exists; --overwrite replaces it"]
  assert Path("out.png").read_bytes() == b"old"
  assert run(capsys, *arguments, "--overwrite") == (0, [], [])
  assert pixels("out.png").shape == (16, 24, 3)


def test_an_interrupted_run_goes_on_with_what_is_missing(folder, capsys, monkeypatch):
  Path("out").mkdir()
  Path("out/cat--dots.png").write_bytes(b"old")
  arguments = ("--content", "c", "--style", "s", "--output", "out")
  code, out, errors = run(capsys, *arguments)
  assert (code, errors) == (0, [])
  assert len(out) == 1 and out[0].startswith("kept") and out[0].endswith("out/cat--dots.png")
  assert Path("out/cat--dots.png").read_bytes() == b"old" and len(list(Path("out").iterdir())) == 4
  monkeypatch.setattr(command, "load_model", None)
  assert run(capsys, *arguments)[0] == 0  # nothing is left to do


def test_ctrl_c_leaves_whole_files_only(folder, capsys, monkeypatch):
  render, calls = render_files.render_encoded, []

  def interrupted(*args):
    calls.append(1)
    if len(calls) == 2:
      raise KeyboardInterrupt
    return render(*args)

  monkeypatch.setattr(render_files, "render_encoded", interrupted)
  code, _, errors = run(capsys, "--content", "c", "--style", "s", "--output", "out")
  assert code == 130 and errors == ["interrupted; what is written so far is whole"]
  assert [path.name for path in Path("out").iterdir()] == ["cat--dots.png"]


def test_an_image_that_does_not_fit_into_memory_does_not_stop_the_others(
  folder, capsys, monkeypatch
):
  render, calls = render_files.render_encoded, []

  def too_large(*args):
    calls.append(1)
    if len(calls) == 1:
      raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory\nmore\nlines")
    return render(*args)

  monkeypatch.setattr(render_files, "render_encoded", too_large)
  code, _, errors = run(capsys, "--content", "c", "--style", "s/ink.png", "--output", "out")
  assert (
    code == 1 and "error: out/cat--ink.png: RESOURCE_EXHAUSTED: out of memory; a sm" in errors[0]
  )
  assert [path.name for path in Path("out").iterdir()] == ["dog--ink.png"]


def test_a_full_disk_leaves_the_old_file_and_nothing_else(folder, capsys, monkeypatch):
  def half_written(path, image, **options):
    Path(path).write_bytes(b"half")
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(images, "save", half_written)
  Path("old.png").write_bytes(b"old")
  arguments = ("--content", "c/cat.png", "--style", "s/ink.png", "--output", "old.png")
  code, _, errors = run(capsys, *arguments, "--overwrite")
  assert code == 1 and errors[0] == "error: old.png: No space left on device"
  assert Path("old.png").read_bytes() == b"old"
  assert sorted(path.name for path in folder.iterdir()) == ["c", "old.png", "s"]


def test_quality_is_that_of_the_jpeg(folder):
  sizes = []
  for quality in (1, 100):
    output = f"{quality}.jpg"
    arguments = ["--content", "c/cat.png", "--style", "s/ink.png", "--output", output]
    assert main([*arguments, "--quality", str(quality)]) == 0
    sizes.append(Path(output).stat().st_size)
  assert sizes[0] < sizes[1]


@pytest.mark.parametrize(
  ("option", "value", "message"),
  [
    ("--alpha", "1.5", "expected a number from 0 to 1, got '1.5'"),
    ("--alpha", "nan", "expected a number from 0 to 1, got 'nan'"),
    ("--size", "0", "expected a whole number of at least 1, got '0'"),
    ("--style-size", "2.5", "expected a whole number of at least 1, got '2.5'"),
    ("--quality", "101", "expected a whole number from 1 to 100, got '101'"),
  ],
)
def test_a_bad_number_is_refused_with_its_range(capsys, option, value, message):
  with pytest.raises(SystemExit) as stopped:
    main(["--content", "c", "--style", "s", "--output", "o", option, value])
  assert stopped.value.code == 2
  assert f"argument {option}: {message}" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (("--output", "out", "--model", "nothing"), "error: model: 'nothing' is neither a model"),
    (("--output", "out", "--model", "c/cat.png"), "error: c/cat.png: not a safetensors file"),
    (("--output", "out", "--model", "c"), "error: model: .*/c has no config.json"),
    (("--output", "out.heic"), "error: --output: expected a name that ends in .jpg"),
  ],
)
def test_what_cannot_be_started_is_one_line_and_code_2(
  folder, capsys, monkeypatch, arguments, message
):
  monkeypatch.undo()  # the real load_model
  monkeypatch.chdir(folder)
  code, out, errors = run(capsys, "--content", "c/cat.png", "--style", "s/ink.png", *arguments)
  assert code == 2 and not out and len(errors) == 1
  assert re.match(message, errors[0])
  assert not Path("out").exists()


def test_the_model_and_its_vgg_weights_are_those_that_are_named(folder, adain, monkeypatch):
  asked = []
  monkeypatch.setattr(
    command, "load_model", lambda model, *, vgg_weights: asked.append((model, vgg_weights)) or adain
  )
  arguments = ["--content", "c/cat.png", "--style", "s/ink.png", "--output"]
  assert main([*arguments, "1.png"]) == 0
  assert main([*arguments, "2.png", "--model", "runs/a", "--vgg-weights", "v"]) == 0
  assert asked == [("adaconv", None), ("runs/a", "v")]


def test_help_tells_the_names_of_outputs_and_the_exit_codes(capsys):
  with pytest.raises(SystemExit) as stopped:
    main(["--help"])
  text = capsys.readouterr().out
  assert stopped.value.code == 0
  assert "CONTENT--STYLE" in text and "Exit code: 0 all done" in text


def test_the_console_command_ends_with_the_exit_code(folder, monkeypatch):
  Path("c/cat.png").write_bytes(b"")
  arguments = ["adaconv-infer", "--content", "c", "--style", "s/ink.png", "--output", "out"]
  monkeypatch.setattr(sys, "argv", arguments)
  with pytest.raises(SystemExit) as stopped:
    command.cli()
  assert stopped.value.code == 1
  assert [path.name for path in Path("out").iterdir()] == ["dog--ink.png"]
