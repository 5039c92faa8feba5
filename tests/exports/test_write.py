"""`adaconv export --format`: what is kept, what is refused, and what it says."""

import importlib.util
import json
import os
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from small_models import small_stylizer

from adaconv_jax import save_bundle, stages
from adaconv_jax.cli import export
from adaconv_jax.exports import onnx as onnx_format
from adaconv_jax.exports import stablehlo, verify, write

needs_onnx = pytest.mark.skipif(
  not all(map(importlib.util.find_spec, ("onnx", "onnxruntime"))), reason="needs onnxruntime"
)

needs_flatbuffers = pytest.mark.skipif(
  importlib.util.find_spec("flatbuffers") is None, reason="needs flatbuffers"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  path = tmp_path_factory.mktemp("model") / "m.safetensors"
  save_bundle(small_stylizer("adain"), path, info={"steps": 7})
  return path


@pytest.fixture(autouse=True)
def fewer(monkeypatch):
  monkeypatch.setattr(verify, "PAIRS", verify.PAIRS[2:])


@needs_onnx
def test_one_file_is_written_and_says_how_far_it_is_from_jax(model, tmp_path, capsys):
  import onnx  # pyright: ignore[reportMissingImports]

  path = tmp_path / "m.onnx"
  assert export.main([str(model), str(path)]) == 0
  printed = capsys.readouterr().out
  assert printed.startswith(f"{path}: step 7, 12.") and printed.count("\n") == 1
  said = float(printed.rpartition("at most ")[2].split()[0])
  assert 0 < said < 1 and printed.endswith(" of 255 levels from JAX\n")
  metadata = {p.key: p.value for p in onnx.load(path).metadata_props}
  assert float(metadata["largest_difference"].split()[0]) == pytest.approx(said, rel=0.1)
  assert metadata["format"] == "adaconv_jax.onnx" and metadata["weights"] == "float16"
  assert metadata["graph"] == "stylize: content, style, alpha -> picture"
  assert json.loads(metadata["model"])["transform"] == "adain"
  assert json.loads(metadata["info"]) == {"steps": 7}
  assert os.listdir(tmp_path) == ["m.onnx"]


@needs_onnx
def test_split_graphs_are_two_files_in_a_folder(model, tmp_path, capsys):
  folder = tmp_path / "split"
  arguments = [str(model), str(folder), "--format", "onnx", "--graphs", "split"]
  assert export.main(arguments) == 0
  assert sorted(os.listdir(folder)) == ["content.onnx", "style.onnx"]
  assert capsys.readouterr().out.count("of 255 levels from JAX") == 2
  code = onnx_format.load(folder / "style.onnx")(style=np.zeros((1, 20, 20, 3), np.float32))
  assert code.shape == (1, 1024)


@needs_flatbuffers
def test_stablehlo_has_its_metadata_in_its_last_line(model, tmp_path):
  path = tmp_path / "m.stablehlo"
  assert export.main([str(model), str(path), "--dtype", "float32"]) == 0
  metadata = stablehlo.read_metadata(path)
  assert metadata["weights"] == "float32" and "255" in metadata["largest_difference"]


@needs_flatbuffers
@pytest.mark.parametrize("value", [3 / 255, np.nan])
def test_what_differs_by_more_than_two_levels_is_not_kept(value, model, tmp_path, monkeypatch):
  load = stablehlo.load
  monkeypatch.setattr(
    stablehlo, "load", lambda path: lambda **inputs: load(path)(**inputs) + np.float32(value)
  )
  path = tmp_path / "m.stablehlo"
  path.write_bytes(b"before")
  with pytest.raises(SystemExit) as ended:
    export.main([str(model), str(path)])
  message = str(ended.value.code)
  assert "not written, because it differs from JAX by" in message and "\n" not in message
  assert path.read_bytes() == b"before" and os.listdir(tmp_path) == ["m.stablehlo"]


@pytest.mark.slow
def test_a_smaller_difference_is_measured_in_levels():
  stylizer = small_stylizer("adain")

  def shifted(content, style, alpha):
    return np.asarray(
      stages.render(stylizer, content, stages.encode(stylizer, style), alpha)
    ) + np.float32(1.5 / 255)

  assert verify.largest_difference(shifted, stylizer, verify.pairs()) == pytest.approx(
    1.5, rel=1e-3
  )


def test_three_pictures_of_different_sizes_are_tried(monkeypatch):
  monkeypatch.undo()
  contents = {content.shape[1:3] for content, _ in verify.pairs()}
  styles = {style.shape[1:3] for _, style in verify.pairs()}
  assert len(contents) == len(styles) == 3
  assert any(side % 8 for size in contents for side in size)
  assert {x.shape for pair in verify.pairs((24, 32)) for x in pair} == {(1, 24, 32, 3)}


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (
      ["m.onnx", "--format", "tflite", "--size", "64x64"],
      "m.onnx: expected a name that ends in .tfl",
    ),
    (["x.onx"], "x.onx: expected a name that ends in .safetensors (a bundle), .onnx, .stablehlo, "),
    (["x.onx"], "or has no suffix, got .onx; did you mean .onnx?"),
    (["x.safetensor"], "got .safetensor; did you mean .safetensors?"),
    (["x.pt"], "or has no suffix, got .pt"),
    (["x.pt", "--format", "bundle"], "ends in .safetensors, or has no suffix, for --format bundle"),
    (["x.h5", "--format", "onnx"], "ends in .onnx, or has no suffix, for --format onnx, got .h5"),
    (["x.safetensors", "--format", "onnx"], "x.safetensors: expected a name that ends in .onnx"),
    (["m.safetensors", "--size", "64x64"], "--size: expected --format onnx, stablehlo, tflite"),
    (["folder", "--graphs", "split"], "--graphs split: expected --format onnx, "),
    (["m.stablehlo", "--size", "64x64"], "size: expected none for stablehlo, whose graphs take"),
    (["m.tflite"], "size: expected height x width for tflite, such as 512x512, got none"),
    (["file", "--format", "stablehlo", "--graphs", "split"], "file: expected a folder for split"),
    (["x.stablehlo"], "x.stablehlo: expected a file to write, got a folder"),
  ],
)
def test_options_that_do_not_fit_end_with_one_line(
  arguments, message, model, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "file").touch()
  (tmp_path / "x.stablehlo").mkdir()
  monkeypatch.setattr(export, "read_model", lambda source: pytest.fail("it was loaded"))
  monkeypatch.setattr(stablehlo, "check_installed", lambda: None)
  with pytest.raises(SystemExit) as ended:
    export.main([str(model), *arguments])
  assert message in str(ended.value.code) and "\n" not in str(ended.value.code)
  assert sorted(os.listdir(tmp_path)) == ["file", "x.stablehlo"]


@pytest.mark.parametrize(
  ("arguments", "kind"),
  [
    (["m"], "bundle"),
    (["m.SafeTensors"], "bundle"),
    (["m", "--format", "bundle"], "bundle"),
    (["m.ONNX"], "onnx"),
    (["m", "--format", "onnx"], "onnx"),
    (["models-1.5", "--format", "onnx", "--graphs", "split"], "onnx"),
  ],
)
def test_the_format_is_that_of_the_suffix_or_the_one_that_is_named(arguments, kind):
  assert export._kind(export._parser().parse_args(["adain", *arguments])) == kind


@pytest.mark.parametrize("size", ["512", "15x64", "64x9000", "64x", "-64x64", "64 x 64"])
def test_a_size_is_height_x_width(size, model, capsys):
  with pytest.raises(SystemExit):
    export.main([str(model), "m.tflite", f"--size={size}"])
  assert "expected height x width, such as 512x768, from 16 to 8192" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("kind", "missing", "way_out"),
  [
    ("onnx", "onnxruntime", "pip install 'adaconv_jax[onnx]'"),
    ("stablehlo", "flatbuffers", "pip install 'adaconv_jax[stablehlo]'"),
    ("tflite", "tensorflow", "tflite/bin/pip install -e '.[tflite]'"),
  ],
)
def test_a_missing_package_is_named_with_the_way_out(
  kind, missing, way_out, model, tmp_path, monkeypatch, capsys
):
  find = importlib.util.find_spec
  found = lambda name: None if name == missing else find("os")  # noqa: E731
  monkeypatch.setattr(importlib.util, "find_spec", found)
  size = ["--size", "64x64"] if kind == "tflite" else []
  with pytest.raises(SystemExit) as ended:
    export.main([str(model), str(tmp_path / f"m.{kind}"), *size])
  message = capsys.readouterr().err
  assert f"the package {missing} is missing" in message and way_out in message
  assert message.count("\n") == 1 and not os.listdir(tmp_path)
  assert ended.value.code == 2


@needs_onnx
def test_no_model_is_replaced_by_its_export(tmp_path):
  path = tmp_path / "m.onnx"  # a bundle may have any name
  save_bundle(small_stylizer("adain"), path)
  before = path.read_bytes()
  with pytest.raises(SystemExit, match="which is read and would be lost"):
    export.main([str(path), str(path)])
  assert path.read_bytes() == before


def test_a_model_of_another_kind_is_refused_before_anything_is_computed(tmp_path, monkeypatch):
  stylizer: Any = SimpleNamespace(model=object())
  monkeypatch.setattr(stablehlo, "check_installed", lambda: None)
  monkeypatch.setattr(stablehlo, "write", lambda *args, **kwargs: pytest.fail("it was computed"))
  with pytest.raises(ValueError, match="^model: expected AdaIN, AdaConv or .*, got object"):
    write.write(stylizer, tmp_path / "m.stablehlo", "stablehlo")
  assert not os.listdir(tmp_path)
