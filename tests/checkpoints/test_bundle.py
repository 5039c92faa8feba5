"""Models as files: bundles, workdirs, and the names of shipped models."""

import dataclasses
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save, save_file
from small_models import make_workdir, small_stylizer

import adaconv_jax
from adaconv_jax.checkpoints import bundle
from adaconv_jax.checkpoints.bundle import save_bundle
from adaconv_jax.checkpoints.errors import CheckpointError
from adaconv_jax.checkpoints.load import find_model, load_model, load_start, shipped_models
from adaconv_jax.checkpoints.orbax import Checkpoints
from adaconv_jax.checkpoints.record import summarize
from adaconv_jax.cli import export
from adaconv_jax.models.build import stored_settings
from adaconv_jax.vgg import weights as vgg_weights
from adaconv_jax.vgg.file import read_file, to_params, write_file
from adaconv_jax.vgg.network import VGG

PACKAGED_VGG16 = vgg_weights.PACKAGED / "vgg16.safetensors"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  """An empty cache of VGG weights."""
  monkeypatch.setenv("ADACONV_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def stylizer():
  return dataclasses.replace(small_stylizer("adaconv"), vgg=VGG("vgg16", "zero"))


@pytest.fixture(scope="module")
def saved(stylizer, tmp_path_factory):
  path = tmp_path_factory.mktemp("bundle") / "model.safetensors"
  save_bundle(stylizer, path, info={"steps": 7})
  return path


@pytest.fixture(scope="module")
def other_vgg16(tmp_path_factory):
  tensors, info = read_file(PACKAGED_VGG16)
  tensors["conv1_1.bias"] = tensors["conv1_1.bias"] + 1
  path = tmp_path_factory.mktemp("vgg") / "other.safetensors"
  write_file(path, tensors, {k: info[k] for k in ("arch", "last", "source", "source_sha256")})
  return path


def assert_same_model(got, expected):
  assert got.model == expected.model and got.vgg == expected.vgg
  for part in ("params", "vgg_params"):
    found, wanted = getattr(got, part), getattr(expected, part)
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def contents(path):
  with safe_open(path, "numpy") as file:
    return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata())


# Bundles.


@pytest.mark.parametrize("transform", ["adain", "adaconv"])
def test_a_bundle_is_the_whole_model(transform, tmp_path):
  expected = small_stylizer(transform)
  save_bundle(expected, tmp_path / "new" / "m.safetensors")
  got = load_model(tmp_path / "new" / "m.safetensors")
  assert_same_model(got, expected)
  assert hash(got.model) == hash(expected.model)  # jit compiles once for both
  assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(got.params))
  assert [path.name for path in (tmp_path / "new").iterdir()] == ["m.safetensors"]


def test_padding_of_the_encoder_is_kept(saved, stylizer):
  assert_same_model(load_model(str(saved)), stylizer)


def test_metadata_describe_the_model_for_other_programs(saved, stylizer):
  tensors, metadata = contents(saved)
  assert metadata["format"] == "adaconv_jax.bundle" and metadata["version"] == "1"
  assert json.loads(metadata["model"]) == json.loads(json.dumps(stored_settings(stylizer.model)))
  assert json.loads(metadata["info"]) == {"steps": 7}
  assert tensors["decoder/conv4_1/kernel"].shape == (3, 3, 512, 256)
  assert not any("vgg" in name for name in tensors)


def test_float16_takes_half_the_space_and_loads_as_float32(saved, stylizer, tmp_path):
  path = tmp_path / "half.safetensors"
  save_bundle(stylizer, path, dtype="float16")
  assert path.stat().st_size < 0.51 * saved.stat().st_size
  got = load_model(path)
  rounded = jax.tree.map(lambda x: x.astype(np.float16).astype(np.float32), stylizer.params)
  assert_same_model(got, dataclasses.replace(stylizer, params=rounded))


@pytest.mark.parametrize(
  ("value", "dtype", "message"),
  [
    (np.nan, "float32", "decoder/conv1_2/bias has values that are not finite as float32"),
    (1e5, "float16", "decoder/conv1_2/bias has values that are not finite as float16"),
    (0, "int8", "dtype: expected 'float32' or 'float16', got 'int8'"),
  ],
)
def test_what_cannot_be_saved_leaves_the_old_file(stylizer, value, dtype, message, tmp_path):
  path = tmp_path / "m.safetensors"
  path.write_bytes(b"old")
  params = jax.tree.map(np.copy, stylizer.params)
  params["decoder"]["conv1_2"]["bias"][0] = value
  with pytest.raises(ValueError, match=message):
    save_bundle(dataclasses.replace(stylizer, params=params), path, dtype=dtype)
  assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_parameters_of_another_model_are_not_saved(stylizer, tmp_path):
  replicated = jax.tree.map(lambda x: x[None], stylizer.params)
  with pytest.raises(ValueError, match=r"stylizer: parameter decoder/conv1_1/bias should be"):
    save_bundle(dataclasses.replace(stylizer, params=replicated), tmp_path / "m")
  with pytest.raises(ValueError, match="stylizer: parameter predictors_0/.* is unexpected"):
    other = dataclasses.replace(stylizer, model=small_stylizer("adain").model)
    save_bundle(other, tmp_path / "m")


def test_a_flipped_bit_is_noticed(saved, tmp_path):
  data = bytearray(saved.read_bytes())
  data[len(data) // 2] ^= 1
  path = tmp_path / "flipped.safetensors"
  path.write_bytes(data)
  with pytest.raises(ValueError, match=r"flipped\.safetensors: damaged or changed"):
    load_model(path)


@pytest.mark.parametrize("keep", [0, 5, 100_000, -1])
def test_a_truncated_file_is_refused_by_name(saved, keep, tmp_path):
  path = tmp_path / "short.safetensors"
  path.write_bytes(saved.read_bytes()[:keep])
  with pytest.raises(ValueError, match=r"short\.safetensors: not a safetensors file, or not a co"):
    load_model(path)


def test_foreign_files_are_refused_by_name(tmp_path):
  with pytest.raises(ValueError, match=r"vgg16\.safetensors: expected a .* got adaconv_jax\.vgg"):
    load_model(PACKAGED_VGG16)
  save_file({"a": np.zeros(3)}, tmp_path / "plain.safetensors")
  with pytest.raises(ValueError, match=r"plain\.safetensors: .* got another kind of file"):
    load_model(tmp_path / "plain.safetensors")
  (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8" * 50)
  with pytest.raises(ValueError, match=r"photo\.jpg: not a safetensors file"):
    load_model(tmp_path / "photo.jpg")


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"version": "2"}, r"made by a newer version .*version 2, this one reads 1\); update"),
    ({"vgg": "{}"}, "damaged or changed"),
    ({"info": '{"steps": 8}'}, "damaged or changed"),
    ({"sha256": "0" * 64}, "damaged or changed"),
  ],
)
def test_changed_metadata_are_refused(saved, change, message, tmp_path):
  tensors, metadata = contents(saved)
  path = tmp_path / "changed.safetensors"
  path.write_bytes(save(tensors, metadata | change))
  with pytest.raises(ValueError, match=r"changed\.safetensors: " + message):
    load_model(path)


def resigned(saved, path, change, drop=()):
  """A file of ours that a later version might write without raising its version number."""
  tensors, metadata = contents(saved)
  tensors = {name: tensor for name, tensor in tensors.items() if name not in drop}
  metadata |= change
  metadata["sha256"] = bundle._sha256(tensors, metadata)
  path.write_bytes(save(tensors, metadata))
  return path


def test_a_description_that_is_not_known_is_refused_by_name(saved, tmp_path):
  unknown = json.dumps({"transform": "adaconv", "settings": {"heads": 4}})
  path = resigned(saved, tmp_path / "unknown.safetensors", {"model": unknown})
  with pytest.raises(ValueError, match=r"unknown\.safetensors: describes .*heads"):
    load_model(path)
  path = resigned(saved, tmp_path / "bare.safetensors", {"vgg": "{}"})
  with pytest.raises(ValueError, match=r"bare\.safetensors: describes a model that .*'arch'"):
    load_model(path)
  path = resigned(saved, tmp_path / "part.safetensors", {}, drop=["decoder/conv1_1/bias"])
  with pytest.raises(ValueError, match=r"part\.safetensors: .*conv1_1/bias is missing"):
    load_model(path)


def test_other_vgg_weights_than_in_training_are_refused(stylizer, saved, other_vgg16, tmp_path):
  with pytest.raises(ValueError, match="trained with other vgg16 weights .*--vgg-weights FILE"):
    load_model(saved, vgg_weights=other_vgg16)
  expected = dataclasses.replace(
    stylizer, vgg_params=jax.tree.map(jnp.asarray, to_params(read_file(other_vgg16)[0]))
  )
  save_bundle(expected, tmp_path / "m.safetensors")
  with pytest.raises(ValueError, match=r"m\.safetensors: trained with other vgg16 weights"):
    load_model(tmp_path / "m.safetensors")
  assert_same_model(load_model(tmp_path / "m.safetensors", vgg_weights=other_vgg16), expected)


def test_vgg_weights_are_known_by_their_values_not_by_their_file(saved, tmp_path):
  tensors, info = read_file(PACKAGED_VGG16)
  wide = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
  metadata = {k: info[k] for k in ("arch", "last", "source", "source_sha256")}
  write_file(tmp_path / "wide.safetensors", wide, metadata)
  load_model(saved, vgg_weights=tmp_path / "wide.safetensors")


# Workdirs.


@pytest.fixture(scope="module")
def stylizers(stylizer):
  other = jax.tree.map(lambda x: x + np.float32(1), stylizer.params)
  return [stylizer, dataclasses.replace(stylizer, params=other)]


@pytest.fixture(scope="module")
def workdir(stylizers, tmp_path_factory):
  return make_workdir(tmp_path_factory.mktemp("runs") / "first", stylizers)


@pytest.mark.parametrize(
  ("part", "index"), [("", 1), ("checkpoints", 1), ("checkpoints/100", 0), ("checkpoints/200", 1)]
)
def test_a_workdir_and_every_checkpoint_in_it_load(workdir, stylizers, part, index):
  assert_same_model(load_model(workdir / part), stylizers[index])


def test_a_path_may_be_relative_to_within_the_workdir(workdir, stylizers, monkeypatch):
  monkeypatch.chdir(workdir / "checkpoints" / "100")
  assert_same_model(load_model("."), stylizers[0])
  assert_same_model(load_model("../.."), stylizers[1])


def test_loading_changes_nothing_in_a_workdir_where_a_training_is_saving(workdir, stylizers):
  # Orbax recognizes unfinished saves by the folder's name.
  saving = workdir / "checkpoints" / "300.orbax-checkpoint-tmp"
  (saving / "params").mkdir(parents=True)
  before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
  assert_same_model(load_model(workdir), stylizers[1])
  assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*")} == before
  with Checkpoints(workdir, keep_last=2) as training:  # which is what removes it
    training.restore_params(stylizers[0].params)
  assert not saving.exists()


def test_a_step_that_is_not_there_is_named_with_those_that_are(workdir, stylizer):
  with Checkpoints(workdir, read_only=True) as checkpoints:
    with pytest.raises(CheckpointError, match=r"no whole .* step 50 .*; it has \[100, 200\]"):
      checkpoints.restore_params(stylizer.params, 50)


def test_only_the_requested_step_is_used(stylizers, tmp_path):
  workdir = make_workdir(tmp_path / "run", stylizers)
  for path in (workdir / "checkpoints" / "200" / "params").rglob("*"):
    if path.is_file():
      path.write_bytes(b"")
  assert_same_model(load_model(workdir), stylizers[0])  # the newest that is whole
  with pytest.raises(CheckpointError, match="no usable checkpoint .*step 200"):
    load_model(workdir / "checkpoints" / "200")


def test_a_workdir_without_a_part_says_which(stylizers, tmp_path):
  workdir = tmp_path / "run"
  (workdir / "checkpoints").mkdir(parents=True)
  with pytest.raises(FileNotFoundError, match=r"model: .*run has no config\.json; expected the w"):
    load_model(workdir)
  make_workdir(tmp_path / "other", stylizers[:1])
  for name in ("config.json", "vgg.json"):
    (workdir / name).write_bytes((tmp_path / "other" / name).read_bytes())
  with pytest.raises(FileNotFoundError, match="has no checkpoint yet; train until"):
    load_model(workdir)
  (workdir / "config.json").write_text('{"model": {"transform": "adaconv"}}')
  with pytest.raises(ValueError, match=r"run: its config\.json or vgg\.json was not .*'settings'"):
    load_model(workdir)


@pytest.mark.slow
def test_a_workdir_uses_the_vgg_weights_of_its_training(stylizer, other_vgg16, tmp_path):
  vgg_file = tmp_path / "moved.safetensors"
  vgg_file.write_bytes(other_vgg16.read_bytes())
  workdir = make_workdir(tmp_path / "run", [stylizer], str(vgg_file))
  expected = to_params(read_file(other_vgg16)[0])
  jax.tree.map(np.testing.assert_array_equal, load_model(workdir).vgg_params, expected)
  vgg_file.unlink()
  with pytest.raises(FileNotFoundError, match=r"moved\.safetensors, which do not exist; pass"):
    load_model(workdir)
  with pytest.raises(ValueError, match="run: trained with other vgg16 weights .* pass the file"):
    load_model(workdir, vgg_weights=PACKAGED_VGG16)
  found = load_model(workdir, vgg_weights=other_vgg16).vgg_params
  jax.tree.map(np.testing.assert_array_equal, found, expected)


# Export.


@pytest.mark.parametrize(
  ("part", "options", "index", "dtype"),
  [("", [], 1, np.float16), ("checkpoints/100", ["--dtype", "float32"], 0, np.float32)],
)
def test_export_writes_a_checkpoint_as_a_bundle_and_prints_size_and_sha256(
  workdir, stylizers, part, options, index, dtype, tmp_path, capsys
):
  path = tmp_path / "m.safetensors"
  export.main([str(workdir / part), str(path), *options])
  rounded = jax.tree.map(lambda x: x.astype(dtype).astype(np.float32), stylizers[index].params)
  assert_same_model(load_model(path), dataclasses.replace(stylizers[index], params=rounded))
  tensors, metadata = contents(path)
  assert {tensor.dtype for tensor in tensors.values()} == {np.dtype(dtype)}
  assert json.loads(metadata["info"])["steps"] == 100 * (1 + index)
  digest = hashlib.sha256(path.read_bytes()).hexdigest()
  size = f"{path.stat().st_size / 1e6:.1f} MB"
  assert capsys.readouterr().out == f"{path}: step {100 * (1 + index)}, {size}, sha256 {digest}\n"


def test_exported_bundle_in_another_precision_says_the_same(saved, tmp_path, capsys):
  export.main([str(saved), str(tmp_path / "half.safetensors")])
  assert contents(tmp_path / "half.safetensors")[1]["info"] == contents(saved)[1]["info"]
  assert "step 7, " in capsys.readouterr().out


def test_export_of_what_cannot_be_used_ends_with_one_message(stylizer, tmp_path):
  workdir = make_workdir(tmp_path / "run", [stylizer])
  for path in (workdir / "checkpoints" / "100" / "params").rglob("*"):
    if path.is_file():
      path.write_bytes(b"")
  for source, message in (
    ("runs/none", "error: model: 'runs/none' is neither"),
    (str(tmp_path), "error: model: .* has no config.json"),
    (str(workdir), "error: no usable checkpoint in .*step 100"),
  ):
    with pytest.raises(SystemExit, match=message):
      export.main([source, str(tmp_path / "m.safetensors")])
  assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_export_of_a_damaged_record_is_refused_by_name(stylizer, tmp_path):
  workdir = make_workdir(tmp_path / "run", [stylizer])
  (workdir / "versions.json").write_text("{")
  with pytest.raises(ValueError, match=r"versions\.json: this part of the run's record is damaged"):
    export.export(workdir, tmp_path / "m.safetensors")


# The model that a training starts from.


def start(source, stylizer, weights=None, **changed):
  stylizer = dataclasses.replace(stylizer, **changed)
  return load_start(
    source, stylizer.model, stylizer.vgg, *vgg_weights.load(stylizer.vgg.arch, weights)
  )


def test_a_training_starts_from_bundles_workdirs_and_checkpoints_and_knows_which(
  saved, workdir, stylizers
):
  digest = hashlib.sha256(saved.read_bytes()).hexdigest()
  for source, index, identity in (
    (saved, 0, {"name": "model", "file_sha256": digest, "info": {"steps": 7}}),
    (workdir, 1, {"name": "first", "step": 200, "info": summarize(workdir, 200)}),
    (
      workdir / "checkpoints" / "100",
      0,
      {"name": "first", "step": 100, "info": summarize(workdir, 100)},
    ),
  ):
    params, got = start(source, stylizers[0])
    jax.tree.map(np.testing.assert_array_equal, params, stylizers[index].params)
    assert got == identity


@pytest.mark.parametrize("source", ["saved", "workdir"])
def test_a_training_does_not_start_from_another_model(source, stylizer, request):
  source = request.getfixturevalue(source)
  wide = dataclasses.replace(stylizer.model, style_dim=16)
  with pytest.raises(
    ValueError,
    match=r"init_from: .*: does not match .*: style_dim is 8 there and 16 here, vgg_padding is z",
  ):
    start(source, stylizer, model=wide, vgg=VGG("vgg16", "reflect"))
  with pytest.raises(ValueError, match="transform is adaconv there and adain here"):
    start(source, stylizer, model=small_stylizer("adain").model)


def test_a_training_of_adaconv_with_skips_starts_from_an_adaconv(saved, stylizer):
  plus: Any = small_stylizer("adaconv_plus").model
  params, _ = start(saved, stylizer, model=plus)
  jax.tree.map(np.testing.assert_array_equal, params, stylizer.params)
  with pytest.raises(ValueError, match="style_dim is 8 there and 16 here"):
    start(saved, stylizer, model=dataclasses.replace(plus, style_dim=16))


def test_an_adaconv_with_skips_is_a_bundle_of_its_own(tmp_path, stylizer):
  plus = small_stylizer("adaconv_plus")
  path = tmp_path / "plus.safetensors"
  save_bundle(plus, path)
  assert_same_model(load_model(path), plus)
  with pytest.raises(ValueError, match="transform is adaconv_plus there and adaconv here"):
    start(path, stylizer, vgg=plus.vgg)


@pytest.mark.parametrize("source", ["saved", "workdir"])
def test_a_training_with_other_vgg_weights_is_refused(source, stylizer, other_vgg16, request):
  source = request.getfixturevalue(source)
  with pytest.raises(
    ValueError, match=r"init_from: .* other vgg16 weights .*config\.model\.vgg_weights=FILE"
  ):
    start(source, stylizer, weights=other_vgg16)


def test_a_start_that_is_not_there_names_the_setting(stylizer, tmp_path):
  with pytest.raises(ValueError, match=r"^config\.init_from: 'runs/none' is neither"):
    start("runs/none", stylizer)
  with pytest.raises(FileNotFoundError, match=r"^config\.init_from: .* has no config\.json"):
    start(tmp_path, stylizer)


# Names.


def test_a_model_that_is_in_the_package_loads_by_name(saved, stylizer, tmp_path, monkeypatch):
  (tmp_path / "vgg16.safetensors").write_bytes(PACKAGED_VGG16.read_bytes())
  (tmp_path / "adaconv.safetensors").write_bytes(saved.read_bytes())
  monkeypatch.setattr(vgg_weights, "PACKAGED", tmp_path)
  monkeypatch.chdir(tmp_path)
  Path("adaconv").mkdir()  # a name means the package; ./adaconv would mean this
  assert_same_model(load_model("adaconv"), stylizer)
  assert shipped_models() == ["adaconv"]
  assert find_model("./adaconv") == Path("adaconv")
  with pytest.raises(ValueError, match=r"'adain' is neither .* this version \(adaconv\) nor"):
    load_model("adain")


@pytest.mark.parametrize(
  "name", ["none", "runs/none", "", "x" * 5000, "runs/" + "x" * 5000, Path("adain")]
)
def test_an_unknown_name_says_what_is_there_and_the_way_out(name, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(ValueError, match="model: '.*' is neither a model that is shipped") as error:
    load_model(name)
  assert "adaconv train --config quickstart --workdir runs/first" in str(error.value)
  assert ", ".join(shipped_models()) in str(error.value)


def test_a_misspelled_name_of_a_shipped_model_gets_a_suggestion():
  with pytest.raises(ValueError, match="Did you mean 'adain'[?] Or train one"):
    load_model("adian")


def test_the_package_has_the_functions_without_importing_jax_for_those_who_do_not_ask():
  assert adaconv_jax.load_model is load_model and adaconv_jax.save_bundle is save_bundle
  with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
    adaconv_jax.nothing  # noqa: B018
  code = "import adaconv_jax.images, sys; sys.exit('jax' in sys.modules)"
  subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_the_same_model_makes_the_same_bytes(stylizer, tmp_path):
  info = {"vgg": {"b": 1, "a": 2}, "steps": 7, "losses": {"y": 1, "x": 2}}
  other_order = dict(reversed(list(info.items()))) | {"vgg": {"a": 2, "b": 1}}
  for index, said in enumerate([info, other_order, info, other_order]):
    save_bundle(stylizer, tmp_path / f"{index}.safetensors", info=said)
  assert len({path.read_bytes() for path in tmp_path.glob("*.safetensors")}) == 1


def test_the_same_vgg_weights_make_the_same_bytes_and_the_record_names_them_in_one_order(tmp_path):
  tensors, info = read_file(PACKAGED_VGG16)
  metadata = {k: info[k] for k in ("arch", "last", "source", "source_sha256", "license")}
  for index in range(4):
    write_file(tmp_path / f"{index}.safetensors", tensors, metadata)
  assert len({path.read_bytes() for path in tmp_path.glob("*.safetensors")}) == 1
  read = [list(read_file(tmp_path / f"{index}.safetensors")[1]) for index in range(4)]
  assert all(names == read[0] for names in read)
  with safe_open(tmp_path / "0.safetensors", "numpy") as file:  # the library reads it, too
    np.testing.assert_array_equal(file.get_tensor("zero"), tensors["zero"])


@pytest.mark.parametrize("dtype", [np.float16, jnp.float32, np.dtype("float16"), "float32"])
def test_a_bundle_takes_a_type_as_numpy_and_jax_name_it(stylizer, tmp_path, dtype):
  save_bundle(stylizer, tmp_path / "m.safetensors", dtype=dtype)
  with safe_open(tmp_path / "m.safetensors", "numpy") as file:
    assert {file.get_tensor(name).dtype for name in file.keys()} == {np.dtype(dtype)}


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (("adain", "m.safetensors"), r"^stylizer: expected a Stylizer, as load_model\('adain'\) ret"),
    ((None, "m.safetensors"), "^stylizer: expected a Stylizer, as load_model returns it, got None"),
    ((0, ""), "^path: expected a file to write, .*, got ''"),
    ((0, None), "^path: expected a file to write, .*, got None"),
    ((0, 3), "^path: expected a file to write, .*, got int"),
  ],
)
def test_what_is_no_model_or_no_path_is_refused_by_name(
  stylizer, tmp_path, monkeypatch, arguments, message
):
  monkeypatch.chdir(tmp_path)
  model, path = arguments
  with pytest.raises(ValueError, match=message):
    save_bundle(stylizer if model == 0 else model, path)
  wrong: tuple[Any, ...] = ("float64", "no", None, int, [])
  for dtype in wrong:
    with pytest.raises(ValueError, match="^dtype: expected 'float32' or 'float16', got "):
      save_bundle(stylizer, "m.safetensors", dtype=dtype)
  assert not list(tmp_path.glob("*.safetensors"))


def test_other_arguments_of_loading_and_exporting_are_refused_by_name(stylizer):
  models: tuple[Any, ...] = (3, "", b"adain", None, stylizer)
  for value in models:
    with pytest.raises(ValueError, match="^model: "):
      load_model(value)
  paths: tuple[Any, ...] = (3, "", b"x")
  for value in paths:
    with pytest.raises(ValueError, match="^vgg_weights: expected the path of a file with VGG"):
      load_model("adain", vgg_weights=value)
    with pytest.raises(ValueError, match="^path: expected a file to write"):
      export.export("adain", value)


def test_a_checkpoint_that_is_gone_names_those_that_are_there(tmp_path, stylizer):
  make_workdir(tmp_path / "run", [stylizer, stylizer])
  gone = tmp_path / "run" / "checkpoints" / "20"
  for action in (load_model, lambda path: export.export(path, tmp_path / "out.safetensors")):
    with pytest.raises(ValueError, match="no checkpoint of step 20; .* 100, 200. .*keep_last"):
      action(gone)


@pytest.mark.parametrize("info", [5, {"a": object()}, {"a": b"x"}, {("a",): 1}])
def test_information_that_json_has_not_is_refused_by_name(stylizer, tmp_path, info):
  with pytest.raises(ValueError, match="^info: expected names and values that JSON has"):
    save_bundle(stylizer, tmp_path / "m", info=info)
  assert not list(tmp_path.iterdir())
