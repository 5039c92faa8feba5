"""The peer: both published networks in plain PyTorch.

Reflection padding is a layer before every convolution, upsampling another, statistics are taken
per channel, and AdaConv goes through the batch image by image, with two grouped convolutions for
each. It runs in the faster of two memory formats, and in float32 or under autocast to bfloat16. The
weights are copied from ours, so both make the same pictures.
"""

import contextlib
import importlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from adaconv_jax.models.adaconv import AdaConv
from adaconv_jax.models.decoder import SCALES
from adaconv_jax.models.stylizer import Stylizer
from adaconv_jax.ops.adain import EPS
from adaconv_jax.vgg.network import ENCODER_LAYER, conv_shapes

torch: Any = importlib.import_module("torch")
nn, F = torch.nn, torch.nn.functional

# XLA uses all cores; PyTorch's own guess is the number of physical ones.
torch.set_num_threads(os.cpu_count() or 1)


# By the name that the table shows; the first is PyTorch's default.
MEMORY_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
_memory_format = "contiguous"


@contextlib.contextmanager
def memory_format(name: str) -> Iterator[None]:
  """Builds peers and tensors in the format `name` of `MEMORY_FORMATS`."""
  global _memory_format
  before, _memory_format = _memory_format, name
  try:
    yield
  finally:
    _memory_format = before


def in_bfloat16(run: Callable[[], Any]) -> Callable[[], Any]:
  """Returns `run` under autocast to bfloat16."""

  def autocast() -> Any:
    with torch.autocast("cpu", torch.bfloat16):
      return run()

  return autocast


def to_tensor(images: np.ndarray) -> Any:
  """Copies `[n, h, w, c]` to a tensor `[n, c, h, w]` in the chosen memory format."""
  tensor = torch.from_numpy(np.array(np.moveaxis(np.asarray(images), -1, 1), order="C"))
  return tensor.contiguous(memory_format=MEMORY_FORMATS[_memory_format])


def to_images(tensor: Any) -> np.ndarray:
  """The inverse of `to_tensor`."""
  return np.moveaxis(tensor.detach().numpy(), 1, -1)


def _parameter(array: Any) -> Any:
  # A copy: training writes to it, and NumPy's view of a JAX array is JAX's own memory.
  return nn.Parameter(torch.from_numpy(np.array(array, np.float32, order="C")))


def _conv(params: Mapping[str, Any], *, channel_order: np.ndarray | None = None) -> list[Any]:
  """Padding and convolution; `channel_order` rearranges the output channels."""
  kernel = np.asarray(params["kernel"]).transpose(3, 2, 0, 1)  # HWIO to OIHW
  bias = np.asarray(params["bias"])
  if channel_order is not None:
    kernel, bias = kernel[channel_order], bias[channel_order]
  c_out, c_in, k, _ = kernel.shape
  layer = nn.Conv2d(c_in, c_out, k)
  layer.weight, layer.bias = _parameter(kernel), _parameter(bias)
  return [nn.ReflectionPad2d(k // 2), layer]


def _linear(params: Mapping[str, Any], order: np.ndarray | None = None) -> Any:
  """A fully connected layer; `order` rearranges its outputs."""
  weight, bias = np.asarray(params["kernel"]).T, np.asarray(params["bias"])
  if order is not None:
    weight, bias = weight[order], bias[order]
  layer = nn.Linear(weight.shape[1], weight.shape[0])
  layer.weight, layer.bias = _parameter(weight), _parameter(bias)
  return layer


class Encoder(nn.Module):
  """Frozen VGG up to relu4_1; `forward` returns the activations named in `layers`."""

  def __init__(self, vgg_params: Mapping[str, Any], arch: str):
    super().__init__()
    layers, self.ends = [], {}
    for name in conv_shapes(arch, ENCODER_LAYER):
      if name.endswith("_1") and layers:
        layers.append(nn.MaxPool2d(2, 2))
      layers += [*_conv(vgg_params[name]), nn.ReLU(inplace=True)]
      self.ends[len(layers)] = name.replace("conv", "relu")
    self.layers = nn.Sequential(*layers)
    self.requires_grad_(False)

  def forward(self, x: Any, layers: Sequence[str] = (ENCODER_LAYER,)) -> dict[str, Any]:
    """Computes `layers` of `x` `[n, 3, h, w]`."""
    found = {}
    for index, layer in enumerate(self.layers, start=1):
      x = layer(x)
      if self.ends.get(index) in layers:
        found[self.ends[index]] = x
    return found


def channel_stats(x: Any) -> tuple[Any, Any]:
  """Mean and deviation per image and channel, `[n, c, 1, 1]`."""
  variance, mean = torch.var_mean(x, (2, 3), correction=0, keepdim=True)
  return mean, (variance + EPS).sqrt()


def _decoder_scales(params: Mapping[str, Any]) -> Any:
  """Per scale a `Sequential` of upsampling, padding, convolutions and ReLU."""
  scales = []
  for scale, (_, widths) in enumerate(SCALES):
    layers = []
    for index, width in enumerate(widths):
      layers += _conv(params[f"conv{len(SCALES) - scale}_{index + 1}"])
      if width != 3:
        layers.append(nn.ReLU(inplace=True))
    if scale < len(SCALES) - 1:
      layers.append(nn.Upsample(scale_factor=2, mode="nearest"))
    scales.append(nn.Sequential(*layers))
  return nn.ModuleList(scales)


class AdaINPeer(nn.Module):
  """AdaIN: the style's code is its relu4_1 statistics."""

  def __init__(self, params: Mapping[str, Any]):
    super().__init__()
    self.decoder = _decoder_scales(params["decoder"])

  def encode_style(self, style_features: Any) -> Any:
    """Statistics of relu4_1."""
    return channel_stats(style_features)

  def content_target(self, content_features: Any, code: Any) -> Any:
    """AdaIN's t."""
    mean, std = channel_stats(content_features)
    return (content_features - mean) / std * code[1] + code[0]

  def decode(self, x: Any, code: Any) -> Any:
    """Decodes t, which already contains the code."""
    del code
    for scale in self.decoder:
      x = scale(x)
    return x


class KernelPredictorPeer(nn.Module):
  """The kernels of one scale, per style."""

  def __init__(self, params: Mapping[str, Any], channels: int, groups: int):
    super().__init__()
    self.channels, self.group = channels, channels // groups
    # Ours emit [c / groups, c], PyTorch's kernels are [c, c / groups].
    order = np.arange(self.group * channels).reshape(self.group, channels).T.reshape(-1)
    self.spatial = nn.Sequential(*_conv(params["spatial"], channel_order=order))
    self.pointwise = _linear(params["pointwise"], order)
    self.bias = _linear(params["bias"])
    identity = torch.zeros(channels, self.group, 3, 3)
    nn.init.dirac_(identity, groups)
    self.register_buffer("identity", identity)

  def forward(self, descriptor: Any) -> tuple[Any, Any, Any]:
    """Predicts kernels and bias from `[n, style_dim, 3, 3]`."""
    n, shape = descriptor.shape[0], (self.channels, self.group)
    pooled = F.adaptive_avg_pool2d(descriptor, 1).flatten(1)
    spatial = self.spatial(descriptor).reshape(n, *shape, 3, 3) + self.identity
    pointwise = self.pointwise(pooled).reshape(n, *shape, 1, 1) + self.identity[:, :, 1:2, 1:2]
    return spatial, pointwise, self.bias(pooled)


class AdaConvPeer(nn.Module):
  """AdaConv: style encoder, kernel predictors, and the decoder that their kernels act in."""

  def __init__(self, params: Mapping[str, Any], model: AdaConv):
    super().__init__()
    self.groups, self.style_dim = model.groups, model.style_dim
    encoder = params["style_encoder"]
    layers = []
    for index in (1, 2, 3):
      layers += [*_conv(encoder[f"conv{index}"]), nn.LeakyReLU(0.01), nn.AvgPool2d(2)]
    self.style_convs = nn.Sequential(*layers)
    self.style_dense = self._dense(encoder["Dense_0"], model)
    self.predictors = nn.ModuleList(
      KernelPredictorPeer(params[f"predictors_{i}"], SCALES[i][0], model.groups[i])
      for i in range(len(SCALES))
    )
    self.decoder = _decoder_scales(params["decoder"])

  def _dense(self, params: Mapping[str, Any], model: AdaConv) -> Any:
    """Ours flattens and unflattens channels-last maps; this rearranges inputs and outputs."""
    side, dim = model.style_size // 64, model.style_dim
    kernel = np.asarray(params["kernel"]).reshape(side, side, model.encoder_width, 3, 3, dim)
    kernel = kernel.transpose(2, 0, 1, 5, 3, 4).reshape(-1, 9 * dim)
    bias = np.asarray(params["bias"]).reshape(3, 3, dim).transpose(2, 0, 1).reshape(-1)
    return _linear({"kernel": kernel, "bias": bias})

  def encode_style(self, style_features: Any) -> Any:
    """Kernels of the four scales, each with a leading batch axis."""
    x = self.style_dense(self.style_convs(style_features).flatten(1))
    descriptor = x.reshape(-1, self.style_dim, 3, 3)
    return [predict(descriptor) for predict in self.predictors]

  def content_target(self, content_features: Any, code: Any) -> Any:
    """The content's features."""
    del code
    return content_features

  def decode(self, x: Any, code: Any) -> Any:
    """Decodes with the code's kernels, image by image."""
    for scale, kernels, groups in zip(self.decoder, code, self.groups, strict=True):
      x = F.instance_norm(x, eps=EPS)
      outputs = []
      for index, (spatial, pointwise, bias) in enumerate(zip(*kernels, strict=True)):
        y = F.pad(x[index : index + 1], (1, 1, 1, 1), mode="reflect")
        y = F.conv2d(y, spatial, groups=groups)
        outputs.append(F.conv2d(y, pointwise, bias, groups=groups))
      x = scale(torch.cat(outputs))
    return x


class StylizerPeer:
  """The whole model with the weights of one of ours; takes and returns `[n, 3, h, w]`."""

  def __init__(self, stylizer: Stylizer):
    self.encoder = Encoder(stylizer.vgg_params, stylizer.vgg.arch)
    self.model = (
      AdaConvPeer(stylizer.params, stylizer.model)
      if isinstance(stylizer.model, AdaConv)
      else AdaINPeer(stylizer.params)
    )
    for module in (self.encoder, self.model):
      module.to(memory_format=MEMORY_FORMATS[_memory_format])

  @torch.inference_mode()
  def encode_style(self, style: Any) -> Any:
    """The style's code."""
    return self.model.encode_style(self.encoder(style)[ENCODER_LAYER])

  @torch.inference_mode()
  def stylize(self, content: Any, code: Any) -> Any:
    """Renders contents in the styles of `code`."""
    target = self.model.content_target(self.encoder(content)[ENCODER_LAYER], code)
    return self.model.decode(target, code).clamp(0, 1)

  def pair(self, content: Any, style: Any) -> Any:
    """Renders contents in styles, from scratch."""
    return self.stylize(content, self.encode_style(style))
