"""Our files of VGG weights: written whole, read checked."""

import numpy as np
import pytest
from published_vgg import drop, put, write_imported
from safetensors.numpy import save_file

from adaconv_jax.vgg import weights as vgg_weights
from adaconv_jax.vgg.file import read_file, to_params, to_tensors, write_file


@pytest.fixture(scope="module")
def imported_vgg19(tmp_path_factory):
  return write_imported(tmp_path_factory.mktemp("imported"))


def test_a_written_file_reads_back_with_its_metadata(imported_vgg19, tmp_path):
  tensors, info = read_file(imported_vgg19)
  half = {name: t.astype(np.float16) if "kernel" in name else t for name, t in tensors.items()}
  write_file(tmp_path / "half.safetensors", half, info | {"license": "none"})
  again, half_info = read_file(tmp_path / "half.safetensors")
  assert half_info["license"] == "none" and half_info["arch"] == "vgg19"
  assert half_info["tensors_sha256"] != info["tensors_sha256"]
  for name, tensor in half.items():
    assert again[name].dtype == tensor.dtype
    np.testing.assert_array_equal(again[name], tensor)
  # The file's own bytes differ, the hash of its weights does not.
  write_file(tmp_path / "copy.safetensors", tensors, info)
  assert read_file(tmp_path / "copy.safetensors")[1]["tensors_sha256"] == info["tensors_sha256"]
  assert sorted(p.name for p in tmp_path.iterdir()) == ["copy.safetensors", "half.safetensors"]


def test_params_and_tensors_are_two_views_of_one_thing(imported_vgg19):
  tensors, _ = read_file(imported_vgg19)
  again = to_tensors(to_params(tensors))
  assert again.keys() == tensors.keys()
  for name, tensor in tensors.items():
    np.testing.assert_array_equal(again[name], tensor)


def test_one_flipped_bit_is_noticed(imported_vgg19, tmp_path):
  data = bytearray(imported_vgg19.read_bytes())
  data[len(data) // 2] ^= 1
  (tmp_path / "flipped.safetensors").write_bytes(data)
  with pytest.raises(ValueError, match="damaged"):
    vgg_weights.load("vgg19", tmp_path / "flipped.safetensors")


def test_loading_refuses_a_truncated_a_foreign_and_a_newer_file(imported_vgg19, tmp_path):
  (tmp_path / "short.safetensors").write_bytes(imported_vgg19.read_bytes()[:-10])
  with pytest.raises(ValueError, match="not a whole safetensors file"):
    vgg_weights.load("vgg19", tmp_path / "short.safetensors")
  with pytest.raises(ValueError, match="has not been imported.*adaconv vgg import .*model"):
    vgg_weights.load("vgg19", imported_vgg19.parent / "model.safetensors")
  save_file({}, tmp_path / "new.safetensors", {"format": "adaconv_jax.vgg", "version": "2"})
  with pytest.raises(ValueError, match="its version is 2, this package reads 1"):
    vgg_weights.load("vgg19", tmp_path / "new.safetensors")
  with pytest.raises(FileNotFoundError, match="nowhere: expected a file"):
    vgg_weights.load("vgg19", tmp_path / "nowhere")


@pytest.mark.parametrize(
  "change, message",
  [
    (drop("conv3_2.bias"), "conv3_2.bias is missing"),
    (put("conv9_9.bias", np.zeros(3, np.float32)), "conv9_9.bias is unexpected"),
    (put("zero", np.zeros(4, np.float32)), r"zero should be float32 or float16 \[3\], got .*\[4\]"),
    (put("zero", np.zeros(3)), "zero should be .*got float64"),
  ],
)
def test_a_file_that_would_not_load_is_not_written(imported_vgg19, tmp_path, change, message):
  tensors, info = read_file(imported_vgg19)
  change(tensors)
  with pytest.raises(ValueError, match=message):
    write_file(tmp_path / "out.safetensors", tensors, info)
  assert not (tmp_path / "out.safetensors").exists()


def test_loading_refuses_another_architecture_and_a_file_that_ends_too_early(imported_vgg19):
  with pytest.raises(ValueError, match="holds vgg19, expected vgg16"):
    vgg_weights.load("vgg16", imported_vgg19)
  with pytest.raises(ValueError, match="ends at relu4_1, expected relu4_2 or later"):
    vgg_weights.load("vgg19", imported_vgg19, last="relu4_2")
  with pytest.raises(ValueError, match="vgg19 has no 'relu6_1'"):
    vgg_weights.load("vgg19", imported_vgg19, last="relu6_1")


def test_layers_after_the_last_one_needed_are_left_out(imported_vgg19):
  params, _ = vgg_weights.load("vgg19", imported_vgg19, last="relu2_1")
  assert set(params) == {"zero", "conv1_1", "conv1_2", "conv2_1"}


@pytest.mark.parametrize(
  ("data", "kind"),
  [
    (b"# Read me\n" * 20, "text"),
    (b"\x89PNG\r\n", "a picture"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
  ],
)
def test_a_file_of_another_kind_is_called_what_it_is(tmp_path, data, kind):
  (tmp_path / "README.md").write_bytes(data)
  with pytest.raises(ValueError, match=f"not a safetensors file but {kind}.*`adaconv vgg import "):
    read_file(tmp_path / "README.md")
