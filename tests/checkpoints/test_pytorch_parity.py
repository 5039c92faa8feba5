"""Models of two PyTorch projects, imported and compared with these networks, built here in torch.

Without torch these tests are skipped: `pip install 'adaconv_jax[parity]'`. The networks are written
from what the projects publish of their structure; their parameters are random.
"""

import importlib
import math
import pickle
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image
from published_vgg import published
from safetensors.numpy import save_file
from small_models import small_stylizer

from adaconv_jax import load_model, stylize
from adaconv_jax.checkpoints.bundle import read_bundle, read_metadata, save_bundle
from adaconv_jax.checkpoints.pytorch import read_pytorch
from adaconv_jax.models.build import make_model
from adaconv_jax.ops.extent import Extent

torch: Any = pytest.importorskip("torch")
nn: Any = torch.nn
F: Any = torch.nn.functional

main = importlib.import_module("adaconv_jax.cli.import").main


def picture(seed: int, height: int, width: int) -> np.ndarray:
  """A smooth picture in [0, 1], `[h, w, 3]`."""
  rng = np.random.default_rng(seed)
  small = rng.integers(0, 256, (6, 8, 3), np.uint8)
  resized = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
  return np.asarray(resized, np.float32) / 255


def nchw(image: np.ndarray) -> Any:
  return torch.from_numpy(image.transpose(2, 0, 1)[None].copy())


def nhwc(image: Any) -> np.ndarray:
  return image.detach().numpy()[0].transpose(1, 2, 0)


def seeded(module: Any, seed: int) -> Any:
  """Draws parameters with which features keep their size."""
  generator = torch.Generator().manual_seed(seed)
  for parameter in module.parameters():
    fan_in = math.prod(parameter.shape[1:]) if parameter.ndim > 1 else 100
    parameter.data = torch.randn(parameter.shape, generator=generator) * (2 / fan_in) ** 0.5
  return module.eval()


# naoto0804/pytorch-AdaIN


def padded_conv(c_in: int, c_out: int) -> list[Any]:
  return [nn.ReflectionPad2d(1), nn.Conv2d(c_in, c_out, 3)]


def adain_decoder() -> Any:
  layers: list[Any] = []
  up = {(256, 128), (128, 64)}  # an upsampling follows these
  pairs = [(512, 256), *[(256, 256)] * 3, (256, 128), (128, 128), (128, 64), (64, 64), (64, 3)]
  for index, pair in enumerate(pairs):
    layers += padded_conv(*pair)
    if index < len(pairs) - 1:
      layers.append(nn.ReLU())
    if index == 0 or pair in up:
      layers.append(nn.UpsamplingNearest2d(scale_factor=2))
  decoder = seeded(nn.Sequential(*layers), 1)
  decoder[-1].weight.data *= 0.1
  decoder[-1].bias.data[:] = 0.5
  return decoder


def normalised_vgg() -> Any:
  """Up to relu4_1, with a 1x1 convolution in front and pools that round up."""
  layers: list[Any] = [nn.Conv2d(3, 3, 1)]
  c_in = 3
  for count, width in ((2, 64), (2, 128), (4, 256), (1, 512)):
    if len(layers) > 1:
      layers.append(nn.MaxPool2d(2, 2, ceil_mode=True))
    for _ in range(count):
      layers += [*padded_conv(c_in, width), nn.ReLU()]
      c_in = width
  vgg = nn.Sequential(*layers).eval()
  weights = published("normalised")
  vgg.load_state_dict({name: torch.from_numpy(weight) for name, weight in weights.items()})
  # Pixels of 255 would make features of thousands, in which float32 rounds.
  vgg[0].weight.data /= 255
  vgg[0].bias.data /= 255
  return vgg


def moments(features: Any) -> tuple[Any, Any]:
  flat = features.flatten(2)
  mean, std = flat.mean(2), (flat.var(2, unbiased=True) + 1e-5).sqrt()
  return mean[..., None, None], std[..., None, None]


def adain_of_torch(vgg: Any, decoder: Any, content: np.ndarray, style: np.ndarray) -> np.ndarray:
  with torch.no_grad():
    features, style_features = vgg(nchw(content)), vgg(nchw(style))
    (mean, std), (style_mean, style_std) = moments(features), moments(style_features)
    return nhwc(decoder((features - mean) / std * style_std + style_mean))


@pytest.fixture(scope="module")
def adain(tmp_path_factory):
  folder = tmp_path_factory.mktemp("adain")
  decoder, vgg = adain_decoder(), normalised_vgg()
  torch.save(decoder.state_dict(), folder / "decoder.pth")
  torch.save(vgg.state_dict(), folder / "vgg_normalised.pth")
  return folder, decoder, vgg


def test_imported_adain_paints_the_pictures_of_its_pytorch_network(adain, capsys):
  folder, decoder, vgg = adain
  output = folder / "new" / "model.safetensors"
  files = [str(folder / "vgg_normalised.pth"), str(folder / "decoder.pth")]  # in any order
  assert main([*files, "--output", str(output)]) == 0
  first, second = capsys.readouterr().out.splitlines()
  assert first.startswith(f"{output}: adain of naoto0804/pytorch-AdaIN, 14.0 MB")
  assert second.startswith(f"{output.with_name('model.vgg.safetensors')}: its VGG weights")
  for seed, (content_size, style_size) in enumerate([((64, 96), (80, 64)), ((72, 64), (40, 120))]):
    content, style = picture(seed, *content_size), picture(seed + 10, *style_size)
    expected = adain_of_torch(vgg, decoder, content, style)
    assert expected.std() > 0.05 and 0.02 < expected.min() and expected.max() < 0.98
    got = np.asarray(stylize(content, style, model=output))
    assert np.abs(got - expected).max() < 1 / 255


def test_bundle_says_where_the_model_is_from(adain):
  folder, *_ = adain
  imported = read_pytorch([folder / "decoder.pth", folder / "vgg_normalised.pth"])
  imported.save(folder / "said.safetensors", dtype="float16")
  info = read_bundle(folder / "said.safetensors").info
  assert info["imported"]["from"] == "naoto0804/pytorch-AdaIN"
  assert set(info["imported"]["files"]) == {"decoder.pth", "vgg_normalised.pth"}
  assert all(len(digest) == 64 for digest in info["imported"]["files"].values())
  assert info["vgg"]["source"] == "vgg_normalised weights, vgg_normalised.pth"


def test_vgg_weights_that_are_imported_already_are_taken_too(adain):
  folder, *_ = adain
  vgg_main = importlib.import_module("adaconv_jax.cli.vgg").main
  ours = folder / "vgg19.safetensors"
  vgg_main(["import", str(folder / "vgg_normalised.pth"), "--arch", "vgg19", "--output", str(ours)])
  first = read_pytorch([folder / "decoder.pth", folder / "vgg_normalised.pth"])
  second = read_pytorch([folder / "decoder.pth", ours])
  assert first.vgg_tensors.keys() == second.vgg_tensors.keys()
  for name, tensor in first.vgg_tensors.items():
    np.testing.assert_array_equal(tensor, second.vgg_tensors[name])


def test_a_model_without_its_vgg_weights_is_refused_and_takes_them_from_elsewhere(adain):
  folder, *_ = adain
  imported = read_pytorch([folder / "decoder.pth", folder / "vgg_normalised.pth"])
  vgg = imported.save(folder / "alone.safetensors")
  vgg.rename(folder / "elsewhere.safetensors")
  with pytest.raises((ValueError, FileNotFoundError), match="VGG|vgg19"):
    load_model(folder / "alone.safetensors")
  load_model(folder / "alone.safetensors", vgg_weights=folder / "elsewhere.safetensors")


# RElbers/ada-conv-pytorch

STYLE_SIZE, DIM = 64, 6  # 64 is the smallest that survives the poolings


def conv(c_in: int, c_out: int, size: int = 3) -> Any:
  return nn.Conv2d(c_in, c_out, size, padding=size // 2, padding_mode="reflect")


class Vgg(nn.Module):
  """torchvision's VGG-19 with reflect padding, in blocks that end at a layer of the loss."""

  def __init__(self):
    super().__init__()
    shapes = [[(3, 64)], [(64, 64), None, (64, 128)], [(128, 128), None, (128, 256)]]
    shapes += [[*[(256, 256)] * 3, None, (256, 512)]]
    blocks = []
    for pairs in shapes:
      layers: list[Any] = []
      for pair in pairs:
        layers += [nn.MaxPool2d(2, 2)] if pair is None else [conv(*pair), nn.ReLU()]
      blocks.append(nn.Sequential(*layers))
    self.blocks = nn.ModuleList(blocks)

  def forward(self, images):
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    features = (images - mean[:, None, None]) / std[:, None, None]
    for block in self.blocks:
      features = block(features)
    return features


class StyleEncoder(nn.Module):
  def __init__(self, dim: int, k: int, style_size: int):
    super().__init__()
    layers: list[Any] = []
    for _ in range(3):
      layers += [conv(512, 512), nn.LeakyReLU(), nn.AvgPool2d(2, 2)]
    self.downscale = nn.Sequential(*layers)
    self.shape = (dim, k, k)
    self.fc = nn.Linear(512 * (style_size // 64) ** 2, dim * k * k)

  def forward(self, features):
    return self.fc(self.downscale(features).flatten(1)).reshape(-1, *self.shape)


class Predictor(nn.Module):
  def __init__(self, channels: int, groups: int, dim: int, k: int):
    super().__init__()
    group = channels // groups
    self.groups = groups
    self.shape = (channels, group, k, k)
    self.spatial = conv(dim, channels * group, k)
    self.pointwise = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(dim, channels * group, 1))
    self.bias = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(dim, channels, 1))

  def forward(self, descriptor):
    pointwise = self.pointwise(descriptor).reshape(*self.shape[:2], 1, 1)
    return self.spatial(descriptor).reshape(self.shape), pointwise, self.bias(descriptor).flatten()


class Adaptive(nn.Module):
  def __init__(self, c_in: int, c_out: int):
    super().__init__()
    self.conv = conv(c_in, c_out)


class AdaConvDecoder(nn.Module):
  def __init__(self, dim: int, k: int):
    super().__init__()
    layers: list[Any] = []
    scales = [(512, 256, 1, 512), (256, 128, 4, 128), (128, 64, 2, 32), (64, 3, 2, 8)]
    for c, last, count, groups in scales:
      for index in range(count):
        c_out = last if index == count - 1 else c
        if index == 0:
          layers += [Predictor(c, groups, dim, k), Adaptive(c, c_out)]
        else:
          layers.append(conv(c, c_out))
        layers += [] if c_out == 3 else [nn.ReLU()]
      layers += [] if last == 3 else [nn.Upsample(scale_factor=2, mode="nearest")]
    self.layers = nn.ModuleList(layers)

  def forward(self, features, descriptor):
    groups = 1
    kernels: Any = ()
    for layer in self.layers:
      if isinstance(layer, Predictor):
        groups, kernels = layer.groups, layer(descriptor)
      elif isinstance(layer, Adaptive):
        spatial, pointwise, bias = kernels
        pad = spatial.shape[-1] // 2
        features = F.pad(F.instance_norm(features), (pad,) * 4, mode="reflect")
        features = F.conv2d(features, spatial, groups=groups)
        features = layer.conv(F.conv2d(features, pointwise, bias, groups=groups))
      else:
        features = layer(features)
    return features


class AdaConvModel(nn.Module):
  def __init__(self, dim: int, k: int, style_size: int):
    super().__init__()
    self.encoder = Vgg()
    self.style_encoder = StyleEncoder(dim, k, style_size)
    self.decoder = AdaConvDecoder(dim, k)

  def forward(self, content, style):
    return self.decoder(self.encoder(content), self.style_encoder(self.encoder(style)))


class Lightning(nn.Module):
  """Gives the names the prefix that they have in a checkpoint."""

  def __init__(self, dim: int = DIM, k: int = 3, style_size: int = STYLE_SIZE):
    super().__init__()
    self.model = AdaConvModel(dim, k, style_size)
    seeded(self, 2)

  def keep_in_range(self, content: np.ndarray, style: np.ndarray) -> None:
    """Scales what is painted to the middle of [0, 1], beyond which pictures are clipped."""
    last: Any = self.model.decoder.layers[-1]
    with torch.no_grad():
      painted = self.model(nchw(content), nchw(style)) - last.bias[:, None, None]
      last.weight.data *= 0.08 / painted.std()
      last.bias.data = 0.5 - painted.mean((0, 2, 3)) * 0.08 / painted.std()


def write_checkpoint(path: Path, model: Any, **more: Any) -> Path:
  """What Lightning writes: the state dict among the states of optimizer, schedule and callbacks."""
  optimizer = torch.optim.Adam([next(model.parameters())])
  schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
  checkpoint = {
    "epoch": 0,
    "global_step": 160_000,
    "pytorch-lightning_version": "1.5.2",
    "state_dict": model.state_dict(),
    "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(1.0)}},
    "optimizer_states": [optimizer.state_dict()],
    "lr_schedulers": [schedule.state_dict()],
    "hparams_name": "kwargs",
    "hyper_parameters": {"model_type": "adaconv", "style_size": STYLE_SIZE, "style": "./data"},
  }
  torch.save(checkpoint | more, path)
  return path


@pytest.fixture(scope="module")
def adaconv(tmp_path_factory):
  folder, model = tmp_path_factory.mktemp("adaconv"), Lightning()
  model.keep_in_range(picture(0, 64, 96), picture(10, STYLE_SIZE, STYLE_SIZE))
  write_checkpoint(folder / "model.ckpt", model)
  return folder, model


def cropped(style: np.ndarray, size: int) -> np.ndarray:
  """Resizes as Pillow does, and cuts out the middle, as the project trains."""
  h, w, _ = style.shape
  new_h, new_w = (int(size * side / min(h, w)) for side in (h, w))
  channels = [
    np.asarray(Image.fromarray(c).resize((new_w, new_h), Image.Resampling.BILINEAR))
    for c in style.transpose(2, 0, 1)
  ]
  top, left = round((new_h - size) / 2), round((new_w - size) / 2)
  return np.stack(channels, -1)[top : top + size, left : left + size]


def test_imported_adaconv_paints_the_pictures_of_its_pytorch_network(adaconv, capsys):
  folder, model = adaconv
  output = folder / "model.safetensors"
  assert main([str(folder / "model.ckpt"), "--output", str(output)]) == 0
  assert f"style_dim {DIM + 1}" in capsys.readouterr().out
  for seed, (content_size, style_size) in enumerate([((64, 96), (64, 64)), ((72, 64), (90, 140))]):
    content, style = picture(seed, *content_size), picture(seed + 10, *style_size)
    with torch.no_grad():
      expected = nhwc(model.model(nchw(content), nchw(cropped(style, STYLE_SIZE))))
    assert expected.std() > 0.05 and 0.02 < expected.min() and expected.max() < 0.98
    got = np.asarray(stylize(content, style, model=output))
    assert np.abs(got - expected).max() < 1e-4


@pytest.mark.parametrize("k", [1, 5])
def test_kernels_of_other_sizes_are_the_predicted_ones(k, tmp_path):
  model = Lightning(dim=3, k=k)
  write_checkpoint(tmp_path / "model.ckpt", model)
  stylizer = read_pytorch([tmp_path / "model.ckpt"]).stylizer()
  style = picture(3, STYLE_SIZE, STYLE_SIZE)
  code = jax.jit(lambda stylizer, style: stylizer.encode_style(style))(stylizer, style)
  with torch.no_grad():
    descriptor = model.model.style_encoder(model.model.encoder(nchw(style)))
    predictors = [x for x in model.model.decoder.layers if isinstance(x, Predictor)]
    for kernels, predictor in zip(code, predictors, strict=True):
      spatial, pointwise, bias = predictor(descriptor)
      for got, expected in ((kernels.spatial, spatial), (kernels.pointwise, pointwise)):
        np.testing.assert_allclose(got[0], expected.permute(2, 3, 1, 0), atol=2e-5)
      np.testing.assert_allclose(kernels.bias[0], bias, atol=2e-5)


def test_the_way_a_style_is_fitted_is_a_property_of_the_model(adaconv):
  folder, _ = adaconv
  imported = read_pytorch([folder / "model.ckpt"])
  imported.save(folder / "fit.safetensors")
  bundle = read_bundle(folder / "fit.safetensors")
  assert bundle.model.style_fit == "crop"
  assert bundle.info["steps"] == 160_000
  assert '"style_fit": "crop"' in read_metadata(folder / "fit.safetensors")["model"]


def test_a_cropped_style_is_the_middle_of_it_as_pillow_resizes(adaconv):
  stylizer = read_pytorch([adaconv[0] / "model.ckpt"]).stylizer()
  for size in ((90, 140), (200, 65), (30, 50)):
    style = picture(5, *size)
    fitted = np.asarray(stylizer.fit_style(style))[0]
    np.testing.assert_allclose(fitted, cropped(style, STYLE_SIZE), atol=1e-5)
    filled = np.pad(style, ((0, 20), (0, 9), (0, 0)), constant_values=np.nan)
    inside = np.asarray(stylizer.fit_style(filled, Extent(*size)))[0]
    np.testing.assert_allclose(inside, fitted, atol=1e-5)


def test_a_model_that_squeezes_its_styles_is_stored_as_before(tmp_path):
  small = small_stylizer("adaconv")
  save_bundle(small, tmp_path / "small.safetensors")
  assert "style_fit" not in read_metadata(tmp_path / "small.safetensors")["model"]
  assert read_bundle(tmp_path / "small.safetensors").model == small.model
  with pytest.raises(ValueError, match="style_fit: expected one of .* got 'stretch'"):
    make_model("adaconv", {"style_fit": "stretch"})


# Files that are something else


def refused(*files: Path) -> str:
  with pytest.raises((ValueError, ModuleNotFoundError, OSError)) as caught:
    read_pytorch(files)
  line = str(caught.value)
  assert "\n" not in line
  return line


def test_an_unknown_file_is_described_and_the_readable_ones_named(tmp_path):
  torch.save(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5)).state_dict(), tmp_path / "net.pth")
  line = refused(tmp_path / "net.pth")
  assert "0.weight [4, 3], 0.bias [4], 1.weight [5, 4], 1.bias [5]" in line
  assert "naoto0804/pytorch-AdaIN" in line and "RElbers/ada-conv-pytorch" in line


def test_a_file_without_tensors_is_described(tmp_path):
  torch.save({"epoch": 3, "name": "x"}, tmp_path / "a.pth")
  assert "it has epoch int, name str" in refused(tmp_path / "a.pth")
  torch.save({}, tmp_path / "b.pth")
  assert "it has no tensors" in refused(tmp_path / "b.pth")
  torch.save([1, 2], tmp_path / "c.pth")
  assert "got a list" in refused(tmp_path / "c.pth")


def test_one_file_of_two_and_too_many_name_what_to_give(adain, adaconv):
  folder, *_ = adain
  decoder, vgg, other = (
    folder / "decoder.pth",
    folder / "vgg_normalised.pth",
    adaconv[0] / "model.ckpt",
  )
  assert "name them, too: adaconv import decoder.pth vgg_normalised.pth" in refused(decoder)
  assert "VGG weights without a decoder" in refused(vgg)
  assert "one model at a time; got decoder.pth (a decoder)" in refused(decoder, vgg, other)
  assert "got none" in refused()


def test_early_checkpoints_and_adain_of_the_same_project_are_named(tmp_path, adaconv):
  model: Any = adaconv[1]
  early = {
    name.replace("model.style_encoder", "model.decoder.style_encoder"): tensor
    for name, tensor in model.state_dict().items()
    if "style_encoder" in name
  }
  torch.save({"state_dict": early}, tmp_path / "early.ckpt")
  assert "before its version of 23 November 2021" in refused(tmp_path / "early.ckpt")
  adain_names = {"model.decoder.layers.0.weight": torch.zeros(3), "model.x": torch.zeros(1)}
  torch.save({"state_dict": adain_names}, tmp_path / "adain.ckpt")
  assert "an AdaIN of RElbers" in refused(tmp_path / "adain.ckpt")


class Runs:
  def __reduce__(self):
    return (Path.touch, (Path("ran"),))


def test_code_in_a_file_is_not_run(tmp_path, monkeypatch, adaconv):
  monkeypatch.chdir(tmp_path)
  write_checkpoint(tmp_path / "code.ckpt", adaconv[1], callbacks={"x": Runs()})
  assert "refused" in refused(tmp_path / "code.ckpt")
  (tmp_path / "code.pth").write_bytes(pickle.dumps(Runs(), protocol=2))
  refused(tmp_path / "code.pth")
  assert not (tmp_path / "ran").exists()


def change(model: Any, name: str, value: Any) -> dict[str, Any]:
  changed = dict(model.state_dict())
  changed.pop(name, None)
  if value is not None:
    changed[name] = value
  return {"state_dict": changed}


@pytest.mark.parametrize(
  ("name", "value", "said"),
  [
    ("model.decoder.layers.5.conv.bias", None, "model.decoder.layers.5.conv.bias is missing"),
    ("model.decoder.layers.7.weight", "zeros", "layers.7.weight should be .256, 256, 3, 3."),
    ("model.decoder.layers.99.weight", "zeros", "layers.99.weight is not part of a checkpoint"),
    ("model.style_encoder.fc.weight", "zeros", "fc.weight should be .n, n."),
    ("model.style_encoder.fc.bias", "nan", "fc.bias holds values that are not finite"),
    ("model.style_encoder.fc.bias", "whole", "fc.bias should be floating point"),
    ("model.encoder.blocks.3.7.weight", None, "blocks.3.7.weight is missing"),
  ],
)
def test_a_checkpoint_with_a_fault_is_refused_by_the_name_of_the_tensor(
  name, value, said, tmp_path, adaconv
):
  values = {
    "zeros": torch.zeros(5),
    "nan": torch.full((DIM * 9,), math.nan),
    "whole": torch.zeros(DIM * 9, dtype=torch.int32),
  }
  torch.save(change(adaconv[1], name, values.get(value)), tmp_path / "a.ckpt")
  with pytest.raises(ValueError, match=said):
    read_pytorch([tmp_path / "a.ckpt"])


def test_wrong_paths_are_one_line_of_the_command(adain, tmp_path):
  folder, *_ = adain
  files = [str(folder / "decoder.pth"), str(folder / "vgg_normalised.pth")]
  with pytest.raises(SystemExit, match="^error: .*nowhere.pth"):
    main(["nowhere.pth", "--output", str(tmp_path / "a.safetensors")])
  with pytest.raises(SystemExit, match="^error: .*which is read and would be lost"):
    main([*files, "--output", files[0]])
  (tmp_path / "page.pth").write_text("<html>")
  with pytest.raises(SystemExit, match="^error: .*page.pth: expected a .pth"):
    main([str(tmp_path / "page.pth"), "--output", str(tmp_path / "a.safetensors")])


def test_a_model_of_this_package_is_said_to_be_one(adain):
  folder, *_ = adain
  imported = read_pytorch([folder / "decoder.pth", folder / "vgg_normalised.pth"])
  imported.save(folder / "again.safetensors")
  assert "already a model of adaconv_jax" in refused(folder / "again.safetensors")


def test_safetensors_with_the_same_names_are_read(adain):
  folder, decoder, _ = adain
  save_file({k: v.numpy() for k, v in decoder.state_dict().items()}, folder / "decoder.safetensors")
  imported = read_pytorch([folder / "decoder.safetensors", folder / "vgg_normalised.pth"])
  kernel = imported.params["decoder"]["conv4_1"]["kernel"]
  np.testing.assert_array_equal(kernel, decoder[1].weight.detach().permute(2, 3, 1, 0))
