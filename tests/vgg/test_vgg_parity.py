"""Imported weights against the networks of PyTorch and Keras, at every layer.

The networks have random weights and are saved by their own library. Without torch or Keras (and
h5py) these tests are skipped: `pip install 'adaconv_jax[parity]'`. torchvision's models are
built here from torch's layers, under torchvision's names.
"""

import os
import pickle
import sys

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from adaconv_jax.images import find_images
from adaconv_jax.vgg import convert as vgg_import
from adaconv_jax.vgg import weights as vgg_weights
from adaconv_jax.vgg.file import to_params, write_file
from adaconv_jax.vgg.network import BLOCKS, VGG
from adaconv_jax.vgg.normalize import mean_activations, photographs

# Keras 3 converts JAX arrays in a way that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

ARCHS = ["vgg16", "vgg19"]
SIZES = [(32, 48), (33, 47)]
MEAN = np.array((0.485, 0.456, 0.406), np.float32)
STD = np.array((0.229, 0.224, 0.225), np.float32)


def layer_names(arch: str) -> list[str]:
  return [f"relu{b}_{i}" for b, (n, _) in enumerate(BLOCKS[arch], 1) for i in range(1, n + 1)]


def random_images(size: tuple[int, int]) -> np.ndarray:
  return np.random.default_rng(0).random((2, *size, 3), np.float32)


def assert_same_features(path, arch, padding, images, expected):
  """Imports `path` and compares with `expected`, one array `[n, h, w, c]` for each layer."""
  tensors, metadata = vgg_import.convert(path, arch)
  names = layer_names(arch)
  assert metadata["last"] == names[len(expected) - 1]
  network = VGG(arch, padding)
  apply = jax.jit(lambda p, x: network.apply({"params": p}, x, names[: len(expected)]))
  got = apply(to_params(tensors), images)
  for name, value in zip(names, expected, strict=False):
    assert got[name].shape == value.shape, name
    assert value.max() > 0, name
    np.testing.assert_allclose(
      got[name], value, rtol=0, atol=1e-4 * np.abs(value).max(), err_msg=name
    )


# --- PyTorch ---


def torch_network(arch, kind="torchvision", *, ceil_mode=False):
  """torchvision's `features`, or AdaIN's vgg_normalised as its PyTorch port builds it."""
  torch = pytest.importorskip("torch")
  torch.manual_seed(0)
  normalised = kind == "vgg_normalised"
  layers, channels = [torch.nn.Conv2d(3, 3, 1)] if normalised else [], 3
  for count, width in BLOCKS[arch]:
    for _ in range(count):
      if normalised:
        layers.append(torch.nn.ReflectionPad2d(1))
      layers += [torch.nn.Conv2d(channels, width, 3, padding=0 if normalised else 1)]
      layers += [torch.nn.ReLU()]
      channels = width
    layers.append(torch.nn.MaxPool2d(2, 2, ceil_mode=ceil_mode))
  network = torch.nn.Sequential(*layers).requires_grad_(False)
  for layer in network:
    if isinstance(layer, torch.nn.Conv2d):
      torch.nn.init.kaiming_normal_(layer.weight)
      torch.nn.init.normal_(layer.bias, std=0.1)
  if normalised:
    network[0].weight[:] = 255 * torch.eye(3).flip(0)[:, :, None, None]
    network[0].bias[:] = torch.tensor([-103.939, -116.779, -123.68])
  return network


def torch_features(network, images):
  torch = pytest.importorskip("torch")
  x, outputs = torch.from_numpy(images).permute(0, 3, 1, 2), []
  for layer in network:
    x = layer(x)
    if isinstance(layer, torch.nn.ReLU):
      outputs.append(x.permute(0, 2, 3, 1).numpy())
  return outputs


def torchvision_state(network):
  torch = pytest.importorskip("torch")
  whole = torch.nn.Module()
  whole.features = network
  whole.classifier = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU())
  return whole.state_dict()


def save_torch(network, kind, container, path):
  torch = pytest.importorskip("torch")
  state = torchvision_state(network) if kind == "torchvision" else network.state_dict()
  if container == "safetensors":
    save_file({name: tensor.numpy() for name, tensor in state.items()}, path)
  else:
    # torchvision's vgg19-dcbb9e9d.pth is of 2017, in the format before the zip.
    torch.save(state, path, _use_new_zipfile_serialization=container == "zip")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
  "arch, container", [("vgg16", "zip"), ("vgg19", "legacy"), ("vgg19", "safetensors")]
)
def test_torchvision_features_are_equal(arch, container, size, tmp_path):
  network, images = torch_network(arch), random_images(size)
  save_torch(network, "torchvision", container, tmp_path / "file")
  expected = torch_features(network, (images - MEAN) / STD)
  assert_same_features(tmp_path / "file", arch, "zero", images, expected)


@pytest.mark.parametrize(
  "container, size, ceil_mode",
  [("zip", (32, 48), True), ("safetensors", (32, 48), False), ("legacy", (35, 47), False)],
)
def test_vgg_normalised_features_are_equal(container, size, ceil_mode, tmp_path):
  # Its pools round up; at sizes that divide by 16 that is the same.
  network = torch_network("vgg19", "vgg_normalised", ceil_mode=ceil_mode)
  images = random_images(size)
  save_torch(network, "vgg_normalised", container, tmp_path / "file")
  expected = torch_features(network, images)
  assert_same_features(tmp_path / "file", "vgg19", "reflect", images, expected)


def test_vgg_normalised_cut_at_relu4_1_is_enough(tmp_path):
  network, images = torch_network("vgg19", "vgg_normalised")[:31], random_images((32, 32))
  save_torch(network, "vgg_normalised", "zip", tmp_path / "file")
  expected = torch_features(network, images)
  assert len(expected) == 9
  assert_same_features(tmp_path / "file", "vgg19", "reflect", images, expected)


def test_half_precision_is_read(tmp_path):
  torch = pytest.importorskip("torch")
  state = torchvision_state(torch_network("vgg16"))
  torch.save({k: v.half() for k, v in state.items()}, tmp_path / "half.pth")
  torch.save({k: v.half().float() for k, v in state.items()}, tmp_path / "full.pth")
  half, _ = vgg_import.convert(tmp_path / "half.pth", "vgg16")
  full, _ = vgg_import.convert(tmp_path / "full.pth", "vgg16")
  for name, tensor in full.items():
    np.testing.assert_array_equal(half[name], tensor)


def test_bfloat16_safetensors_are_read(tmp_path):
  torch = pytest.importorskip("torch")
  save = pytest.importorskip("safetensors.torch").save_file
  state = torchvision_state(torch_network("vgg16"))
  state = {name: tensor.bfloat16() for name, tensor in state.items()}
  save(state, tmp_path / "bf16.safetensors")
  tensors, _ = vgg_import.convert(tmp_path / "bf16.safetensors", "vgg16")
  expected = state["features.28.weight"].to(torch.float32).permute(2, 3, 1, 0).numpy()
  np.testing.assert_array_equal(tensors["conv5_3.kernel"], expected)


@pytest.mark.parametrize(
  "change, message",
  [
    (lambda s: s.pop("features.34.weight"), "features.34.weight is missing"),
    (lambda s: [s.pop("features.34.weight"), s.pop("features.34.bias")],
     "features.34.weight is missing"),
    (lambda s: s.update({"features.10.weight": s["features.12.weight"]}),
     r"features.10.weight should be \[256, 128, 3, 3\], got \[256, 256, 3, 3\]"),
    (lambda s: s.update({"epoch": 3}), "'epoch' is not a tensor"),
    (lambda s: s.update({"features.0.bias": s["features.0.bias"].int()}), "features.0.bias .*int"),
  ],
)  # fmt: skip
def test_a_wrong_state_dict_is_refused_by_name(change, message, tmp_path):
  torch = pytest.importorskip("torch")
  state = dict(torchvision_state(torch_network("vgg19")))
  change(state)
  torch.save(state, tmp_path / "wrong.pth")
  with pytest.raises(ValueError, match=message):
    vgg_import.convert(tmp_path / "wrong.pth", "vgg19")


@pytest.mark.parametrize("kind", ["torchvision", "vgg_normalised"])
def test_the_wrong_architecture_is_named(kind, tmp_path):
  save_torch(torch_network("vgg19", kind), kind, "zip", tmp_path / "vgg.pth")
  with pytest.raises(ValueError, match="the file holds vgg19: --arch vgg19"):
    vgg_import.convert(tmp_path / "vgg.pth", "vgg16")


@pytest.mark.parametrize("container", ["zip", "legacy"])
def test_a_truncated_pth_is_refused(container, tmp_path):
  save_torch(torch_network("vgg16"), "torchvision", container, tmp_path / "whole.pth")
  data = (tmp_path / "whole.pth").read_bytes()
  (tmp_path / "short.pth").write_bytes(data[: len(data) * 3 // 4])
  with pytest.raises(ValueError, match="short.pth"):
    vgg_import.convert(tmp_path / "short.pth", "vgg16")


class Evil:
  """Creates a file when unpickled."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return open, (str(self.path), "w")


# torch warns of a pickle protocol that it did not write, before it refuses what is in there.
@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
@pytest.mark.parametrize("save", ["torch", "pickle 2", "pickle 4"])
def test_a_pickle_with_code_is_refused_and_the_code_not_run(save, tmp_path):
  torch = pytest.importorskip("torch")
  state = {"features.0.weight": Evil(tmp_path / "was_run")}
  if save == "torch":
    torch.save(state, tmp_path / "evil.pth")
  else:
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(state, protocol=int(save[-1])))
  with pytest.raises(ValueError, match="evil.pth: refused, because .* could run code"):
    vgg_import.convert(tmp_path / "evil.pth", "vgg19")
  assert not (tmp_path / "was_run").exists()


def test_a_whole_pickled_model_is_refused_with_the_way_out(tmp_path):
  torch = pytest.importorskip("torch")
  torch.save(torch.nn.Sequential(torch.nn.Conv2d(3, 64, 3)), tmp_path / "model.pth")
  with pytest.raises(ValueError, match="Save model.state_dict\\(\\) instead"):
    vgg_import.convert(tmp_path / "model.pth", "vgg19")
  torch.save([torch.zeros(3)], tmp_path / "list.pth")
  with pytest.raises(ValueError, match="expected a state dict, got a list"):
    vgg_import.convert(tmp_path / "list.pth", "vgg19")


def test_an_old_torch_is_refused(tmp_path, monkeypatch):
  torch = pytest.importorskip("torch")
  torch.save({}, tmp_path / "file.pth")
  monkeypatch.setattr(torch, "__version__", "2.5.1")
  with pytest.raises(ValueError, match="torch: 2.5.1 is installed.*2.10 or newer"):
    vgg_import.convert(tmp_path / "file.pth", "vgg19")


# --- Keras ---


@pytest.fixture(scope="module")
def keras():
  if "keras" not in sys.modules:
    os.environ["KERAS_BACKEND"] = "jax"
  pytest.importorskip("h5py")
  return pytest.importorskip("keras")


def keras_network(keras, arch):
  keras.utils.set_random_seed(0)
  build = {"vgg16": keras.applications.VGG16, "vgg19": keras.applications.VGG19}[arch]
  network = build(weights=None, include_top=False)
  rng = np.random.default_rng(0)
  for layer in network.layers:
    if layer.weights:
      kernel, bias = layer.get_weights()
      # Activations stay of one size through the layers; inputs come to 255.
      kernel *= np.float32(np.sqrt(2))
      layer.set_weights([kernel, rng.normal(0, 5, bias.shape).astype(np.float32)])
  return network


def save_keras(network, path):
  """Writes `_notop.h5` as Keras's own files are: layer names and their weights at the top."""
  import h5py  # pyright: ignore[reportMissingImports]
  from keras.src.legacy.saving import legacy_h5_format  # pyright: ignore[reportMissingImports]

  with h5py.File(path, "w") as file:
    legacy_h5_format.save_weights_to_hdf5_group(file, network)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("arch", ARCHS)
def test_keras_features_are_equal(keras, arch, size, tmp_path):
  network, images = keras_network(keras, arch), random_images(size)
  save_keras(network, tmp_path / "vgg_notop.h5")
  preprocess = getattr(keras.applications, arch).preprocess_input
  outputs = [layer.output for layer in network.layers if "conv" in layer.name]
  expected = keras.Model(network.input, outputs)(preprocess(255 * images))
  expected = [np.asarray(value) for value in expected]
  assert_same_features(tmp_path / "vgg_notop.h5", arch, "zero", images, expected)


def test_other_layouts_of_keras_are_read_or_refused(keras, tmp_path):
  network = keras_network(keras, "vgg16")
  save_keras(network, tmp_path / "vgg_notop.h5")
  network.save(tmp_path / "model.h5")
  network.save_weights(tmp_path / "model.weights.h5")
  expected, _ = vgg_import.convert(tmp_path / "vgg_notop.h5", "vgg16")
  got, _ = vgg_import.convert(tmp_path / "model.h5", "vgg16")
  for name, tensor in expected.items():
    np.testing.assert_array_equal(got[name], tensor)
  with pytest.raises(
    ValueError, match="expected layers named block1_conv1.*does not keep the names"
  ):
    vgg_import.convert(tmp_path / "model.weights.h5", "vgg16")


def test_keras_files_are_checked(keras, tmp_path):
  import h5py  # pyright: ignore[reportMissingImports]

  path = tmp_path / "vgg_notop.h5"
  save_keras(keras_network(keras, "vgg16"), path)
  with pytest.raises(ValueError, match="of vgg19, but block3_conv4.kernel is missing.*holds vgg16"):
    vgg_import.convert(path, "vgg19")
  data = path.read_bytes()
  (tmp_path / "short.h5").write_bytes(data[: len(data) // 2])
  with pytest.raises(ValueError, match="short.h5: h5py cannot read it"):
    vgg_import.convert(tmp_path / "short.h5", "vgg16")
  with h5py.File(path, "r+") as file:
    # As in the Keras files for Theano, which have OIHW.
    kernel = file["block1_conv1/block1_conv1/kernel"][()].transpose(3, 2, 0, 1)
    del file["block1_conv1/block1_conv1/kernel"]
    file["block1_conv1/block1_conv1/kernel"] = kernel
  with pytest.raises(ValueError, match=r"block1_conv1.kernel should be \[3, 3, 3, 64\], got \[64"):
    vgg_import.convert(path, "vgg16")
  with h5py.File(path, "r+") as file:
    del file["block5_conv3"]
  with pytest.raises(ValueError, match="block5_conv3.kernel is missing"):
    vgg_import.convert(path, "vgg16")


def test_the_layout_of_the_published_keras_files_is_read(keras, tmp_path):
  # Those of 2016 name the data sets block1_conv1_W_1:0 and block1_conv1_b_1:0.
  import h5py  # pyright: ignore[reportMissingImports]

  network = keras_network(keras, "vgg19")
  save_keras(network, tmp_path / "new.h5")
  with h5py.File(tmp_path / "old.h5", "w") as file:
    for layer in network.layers:
      group = file.create_group(layer.name)
      for value, part in zip(layer.get_weights(), "Wb", strict=False):
        group[f"{layer.name}_{part}_1:0"] = value
  expected, _ = vgg_import.convert(tmp_path / "new.h5", "vgg19")
  got, _ = vgg_import.convert(tmp_path / "old.h5", "vgg19")
  for name, tensor in expected.items():
    np.testing.assert_array_equal(got[name], tensor)


# --- The real vgg_normalised ---


@pytest.mark.skipif(
  "ADACONV_VGG_NORMALISED" not in os.environ,
  reason="ADACONV_VGG_NORMALISED should be the path of AdaIN's vgg_normalised",
)
def test_the_real_vgg_normalised_has_a_mean_activation_of_one(tmp_path):
  path = tmp_path / "vgg19.safetensors"
  write_file(path, *vgg_import.convert(os.environ["ADACONV_VGG_NORMALISED"], "vgg19"))
  params, _ = vgg_weights.load("vgg19", path)
  examples = os.path.join(os.path.dirname(__file__), "..", "..", "examples", "content")
  means = mean_activations(params, photographs(find_images(examples)), "vgg19")
  for name, mean in means.items():
    # A few photographs, whereas the authors used many of ImageNet. If BGR, the range or the mean
    # were wrong, the first layers would be off by a factor.
    assert 0.75 < mean.mean() < 1.33, name
    assert np.median(np.abs(np.log(mean))) < 0.3, name
