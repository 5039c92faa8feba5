"""Importing published weights: every layer, the preprocessing, and what is refused.

The networks are random ones under published names; test_vgg_parity.py compares with the real
libraries.
"""

import sys

import numpy as np
import pytest
from published_vgg import MIX, POSITIONS, SHIFT, drop, published, put, write_imported
from safetensors.numpy import load_file, save_file

from adaconv_jax.vgg import convert as vgg_import
from adaconv_jax.vgg.network import conv_shapes


@pytest.fixture(scope="module")
def timm_vgg19(tmp_path_factory):
  path = tmp_path_factory.mktemp("timm") / "model.safetensors"
  save_file(published("vgg19"), path)
  return path


@pytest.fixture(scope="module")
def imported_vgg19(tmp_path_factory):
  return write_imported(tmp_path_factory.mktemp("imported"))


@pytest.mark.parametrize(
  "kind, arch", [("vgg16", "vgg16"), ("vgg19", "vgg19"), ("normalised", "vgg19")]
)
def test_import_keeps_every_layer_and_folds_the_preprocessing(kind, arch, tmp_path):
  source = published(kind)
  save_file(source, tmp_path / "in.safetensors")
  tensors, metadata = vgg_import.convert(tmp_path / "in.safetensors", arch)
  assert metadata["arch"] == arch and metadata["last"] == "relu4_1"
  assert metadata["source_sha256"] == vgg_import.sha256(tmp_path / "in.safetensors")
  prefix = "" if kind == "normalised" else "features."
  for position, conv in list(zip(POSITIONS[kind], conv_shapes(arch, "relu4_1"), strict=False))[1:]:
    kernel = source[f"{prefix}{position}.weight"]
    np.testing.assert_array_equal(tensors[f"{conv}.kernel"].transpose(3, 2, 0, 1), kernel)
    np.testing.assert_array_equal(tensors[f"{conv}.bias"], source[f"{prefix}{position}.bias"])
  # One 3x3 neighborhood through the preprocessing and the first kernel, written out.
  patch = np.random.default_rng(1).random((3, 3, 3))
  if kind == "normalised":
    seen = patch @ MIX.T + SHIFT
  else:
    seen = (patch - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
  first = f"{prefix}{POSITIONS[kind][0]}"
  expected = np.einsum("hwi,oihw->o", seen, source[f"{first}.weight"].astype(np.float64))
  got = np.einsum("hwi,hwio->o", patch, tensors["conv1_1.kernel"].astype(np.float64))
  scale = np.abs(seen).max()
  np.testing.assert_allclose(
    got + tensors["conv1_1.bias"], expected + source[f"{first}.bias"], rtol=0, atol=1e-5 * scale
  )
  # `zero` is the color that preprocessing maps to zero.
  if kind == "normalised":
    np.testing.assert_allclose(MIX @ tensors["zero"] + SHIFT, 0, atol=1e-3)
  else:
    np.testing.assert_allclose(tensors["zero"], (0.485, 0.456, 0.406), rtol=1e-6)


def test_import_reads_a_whole_classifier_but_keeps_the_convolutions(tmp_path):
  source = published("vgg16", "relu5_3")
  source |= {"pre_logits.fc1.weight": np.zeros((2, 2), np.float32), "head.fc.bias": np.zeros(3)}
  save_file(source, tmp_path / "in.safetensors")
  tensors, metadata = vgg_import.convert(tmp_path / "in.safetensors", "vgg16")
  assert metadata["last"] == "relu5_3"
  assert len(tensors) == 1 + 2 * 13


@pytest.mark.parametrize(
  "change, message",
  [
    (drop("features.12.weight"), "features.12.weight is missing"),
    (drop("features.19.bias"), "features.19.bias is missing"),
    # A classifier shows that the file should be complete.
    (put("classifier.0.bias", np.zeros(3, np.float32)), "features.21.weight is missing"),
    (put("features.1.running_mean", np.zeros(64)), "features.1.running_mean is not part of vgg19"),
    (put("features.5.weight", np.zeros((128, 64, 5, 5), np.float32)),
     r"features.5.weight should be \[128, 64, 3, 3\], got \[128, 64, 5, 5\]"),
    (put("features.5.bias", np.zeros((128, 1), np.float32)), r"features.5.bias .*\[128, 1\]"),
    (put("features.5.bias", np.zeros(128, np.int32)), "features.5.bias .*float.*, got int32"),
    (put("features.7.bias", np.full(128, np.nan, np.float32)), "features.7.bias .*not finite"),
  ],
)  # fmt: skip
def test_import_refuses_and_names_the_tensor(timm_vgg19, tmp_path, change, message):
  tensors = load_file(timm_vgg19)
  change(tensors)
  save_file(tensors, tmp_path / "in.safetensors")
  with pytest.raises(ValueError, match=message):
    vgg_import.convert(tmp_path / "in.safetensors", "vgg19")


def test_import_of_another_architecture_says_which_one_it_is(timm_vgg19):
  with pytest.raises(ValueError, match="of vgg16, but .*the file holds vgg19: --arch vgg19"):
    vgg_import.convert(timm_vgg19, "vgg16")


def test_import_refuses_preprocessing_that_loses_color(tmp_path):
  gray = published("normalised") | {"0.weight": np.ones((3, 3, 1, 1), np.float32)}
  save_file(gray, tmp_path / "in.safetensors")
  with pytest.raises(ValueError, match="0.weight"):
    vgg_import.convert(tmp_path / "in.safetensors", "vgg19")


@pytest.mark.parametrize(
  "content, message",
  [
    (b"", "starts with b''"),
    (b"<!DOCTYPE html>", "saved web page"),
    (b"\x10\0\0\0\0\0\0\0{not json at all}", "not a whole safetensors file"),
  ],
)
def test_import_refuses_what_is_no_weights_file(tmp_path, content, message):
  (tmp_path / "in.pth").write_bytes(content)
  with pytest.raises(ValueError, match=message):
    vgg_import.convert(tmp_path / "in.pth", "vgg19")


def test_import_refuses_unknown_names_a_truncated_file_and_an_imported_one(
  timm_vgg19, imported_vgg19, tmp_path
):
  save_file({"encoder.weight": np.zeros(3, np.float32)}, tmp_path / "other.safetensors")
  with pytest.raises(ValueError, match="encoder.weight"):
    vgg_import.convert(tmp_path / "other.safetensors", "vgg19")
  (tmp_path / "short.safetensors").write_bytes(timm_vgg19.read_bytes()[:-1000])
  with pytest.raises(ValueError, match="not a whole safetensors file"):
    vgg_import.convert(tmp_path / "short.safetensors", "vgg19")
  with pytest.raises(ValueError, match="already imported"):
    vgg_import.convert(imported_vgg19, "vgg19")
  with pytest.raises(ValueError, match="arch: .*'vgg13'"):
    vgg_import.convert(timm_vgg19, "vgg13")


@pytest.mark.parametrize(
  "module, head", [("torch", b"PK\x03\x04"), ("torch", b"\x80\x02"), ("h5py", b"\x89HDF\r\n\x1a\n")]
)
def test_without_torch_or_h5py_the_error_names_the_extra(tmp_path, monkeypatch, module, head):
  monkeypatch.setitem(sys.modules, module, None)
  (tmp_path / "in").write_bytes(head + bytes(50))
  with pytest.raises(ModuleNotFoundError, match=rf"needs {module}; pip install 'adaconv_jax\[conv"):
    vgg_import.convert(tmp_path / "in", "vgg19")
