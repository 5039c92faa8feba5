"""A model as a graph of plain operations, which every format writes in its own terms.

`Stylizer` computes on any batch, in any mesh, with a form of its convolutions for each platform. An
exported file has one picture, and only operations that other runtimes know. So the computation is
described here once more, as calls of an `Ops`: JAX's operations, ONNX's nodes or TensorFlow's. What
a file computes is compared with the `Stylizer` before it is kept; see `verify.py`.

There are three graphs:

    style:    style picture                    -> code
    content:  content picture, code, alpha     -> picture
    stylize:  content and style picture, alpha -> picture

Pictures are float32 RGB `[1, h, w, 3]` in [0, 1], alpha is a number from 0 to 1, and a code is
float32 `[1, L]`: the arrays of `Stylizer.encode_style`, each raveled, one after the other. So codes
of a model can be averaged to mix styles.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from adaconv_jax.models.adaconv import AdaConv
from adaconv_jax.models.adaconv_plus import SKIP_RATE, AdaConvPlus
from adaconv_jax.models.adain import AdaIN
from adaconv_jax.models.decoder import SCALES
from adaconv_jax.models.stylizer import Stylizer
from adaconv_jax.vgg.network import ENCODER_LAYER, STRIDE, conv_shapes

# Inputs of each graph by name, and its output.
GRAPHS: Mapping[str, tuple[tuple[str, ...], str]] = {
  "style": (("style",), "code"),
  "content": (("content", "code", "alpha"), "picture"),
  "stylize": (("content", "style", "alpha"), "picture"),
}
# relu4_1 has at least two pixels per side then, see `Stylizer.fit_style`.
SMALLEST_STYLE = 2 * STRIDE

# An array of the format that is written: a name of a tensor, or a traced array.
Value: TypeAlias = Any
Weights: TypeAlias = Mapping[str, np.ndarray]


class Ops(Protocol):
  """What the graphs are made of. Feature maps are those of one picture, in the format's own order.

  Where an argument is `name`, it names the weights in the file.
  """

  def conv(
    self, x: Value, name: str, kernel: np.ndarray, bias: np.ndarray, *, pad: bool, small: bool
  ) -> Value:
    """Convolves with a kernel `[k, k, c_in, c_out]`.

    Args:
      x: a feature map.
      name: of the weights.
      kernel: the kernel.
      bias: `[c_out]`.
      pad: by reflection, to the same size; otherwise with nothing.
      small: the map may have a single row or column, which cannot be reflected but is repeated.
    """
    ...

  def zero_pad(self, x: Value, value: np.ndarray | None) -> Value:
    """Pads by one pixel of zeros, or of a color `[3]`."""
    ...

  def adaptive_conv(
    self,
    x: Value,
    spatial: Value,
    pointwise: Value,
    bias: Value,
    shape: tuple[int, ...],
    groups: int,
  ) -> Value:
    """Applies AdaConv's kernels with reflect padding; see `ops.adaconv.apply_kernels`.

    Args:
      x: a feature map, normalized.
      spatial: `[1, k * k * c / groups * c]`, raveled from `shape`.
      pointwise: `[1, c / groups * c]`.
      bias: `[1, c]`.
      shape: `(k, k, c / groups, c)`.
      groups: their number.
    """
    ...

  def normalize(self, x: Value, scale: Value | None = None, shift: Value | None = None) -> Value:
    """Normalizes every channel, then multiplies and adds `[1, c]`, if these are given."""
    ...

  def stats(self, x: Value) -> Value:
    """Returns the means and then the deviations of all channels, `[1, 2 c]`."""
    ...

  def relu(self, x: Value) -> Value: ...  # noqa: D102
  def leaky_relu(self, x: Value, slope: float) -> Value: ...  # noqa: D102
  def max_pool(self, x: Value) -> Value: ...  # noqa: D102 (2 x 2, an odd last line is dropped)
  def mean_pool(self, x: Value) -> Value: ...  # noqa: D102 (the same)
  def upsample(self, x: Value) -> Value: ...  # noqa: D102 (every pixel twice in both directions)

  def mirror_to_multiple(self, x: Value, multiple: int) -> Value:
    """Pads at the bottom and right with mirrored pixels, also more than once."""
    ...

  def crop_like(self, x: Value, other: Value) -> Value:
    """Cuts to the height and width of `other`, from the top left."""
    ...

  def resize(self, x: Value, size: int) -> Value:
    """Resizes to `size` squared, antialiased; see `ops.resize`."""
    ...

  def resize_middle(self, x: Value, size: int) -> Value:
    """Resizes the middle square to `size` squared, antialiased; see `ops.extent.resize_middle`."""
    ...

  def at_least(self, x: Value, size: int) -> Value:
    """Enlarges the sides that are shorter than `size` to it, linearly."""
    ...

  def ravel(self, x: Value) -> Value:
    """Returns `[1, h * w * c]`, channels last."""
    ...

  def unravel(self, x: Value, size: int) -> Value:
    """Returns a feature map of `size` squared: the inverse of `ravel`."""
    ...

  def channel_means(self, x: Value) -> Value: ...  # noqa: D102 ([1, c])
  def scale(self, x: Value, factors: Value) -> Value: ...  # noqa: D102 (every channel by its [1, c])

  def dense(self, x: Value, name: str, kernel: np.ndarray, bias: np.ndarray) -> Value:
    """Multiplies `[1, n]` by a matrix, and adds."""
    ...

  def concat(self, parts: list[Value]) -> Value: ...  # noqa: D102 (along the last axis of two)
  def part(self, x: Value, start: int, stop: int) -> Value: ...  # noqa: D102 (of [1, n])
  def constant(self, name: str, array: np.ndarray) -> Value: ...  # noqa: D102
  def add(self, x: Value, y: Value) -> Value: ...  # noqa: D102
  def subtract(self, x: Value, y: Value) -> Value: ...  # noqa: D102
  def multiply(self, x: Value, y: Value) -> Value: ...  # noqa: D102
  def clip(self, x: Value) -> Value: ...  # noqa: D102 (to [0, 1])

  def if_below_one(
    self, x: Value, then: Callable[[], list[Value]], otherwise: Callable[[], list[Value]]
  ) -> list[Value]:
    """Computes one of two functions, so that the other one takes no time."""
    ...


def check_stylizer(stylizer: Stylizer) -> None:
  """Raises ValueError for a model that is none of the package's."""
  if type(stylizer.model) not in (AdaIN, AdaConv, AdaConvPlus):  # one that extends them does more
    raise ValueError(
      f"model: expected AdaIN, AdaConv or AdaConvPlus, got {type(stylizer.model).__name__}, whose "
      "operations the exports do not know; save_bundle writes a model for this package"
    )


def weights_of(params: Any) -> dict[str, np.ndarray]:
  """Returns parameters by their paths, such as "decoder/conv4_1/kernel", float32."""
  flat: Mapping[str, Any] = flatten_dict(params, sep="/")
  return {name: np.asarray(jax.device_get(x), np.float32) for name, x in flat.items()}


def code_length(stylizer: Stylizer) -> int:
  """Returns the length L of a code."""
  model = stylizer.model
  if not isinstance(model, AdaConv):
    return 2 * SCALES[0][0]
  kernels = sum(sum(map(math.prod, shapes)) for shapes in _kernel_shapes(model))
  return kernels + sum(_gain_widths(model))


class Arithmetic:
  """Those of `Ops` that are Python's own operators, where values are arrays."""

  def part(self, x: Value, start: int, stop: int) -> Value:
    """Returns some columns."""
    return x[:, start:stop]

  def add(self, x: Value, y: Value) -> Value:
    """Returns the sum."""
    return x + y

  def subtract(self, x: Value, y: Value) -> Value:
    """Returns the difference."""
    return x - y

  def multiply(self, x: Value, y: Value) -> Value:
    """Returns the product."""
    return x * y

  def scale(self, x: Value, factors: Value) -> Value:
    """Multiplies every channel by its factor."""
    return x * factors


class Graph:
  """A model as calls of `ops`.

  Attributes:
    stylizer: the model.
    ops: what to call.
  """

  def __init__(self, stylizer: Stylizer, ops: Ops):
    check_stylizer(stylizer)
    self.stylizer = stylizer
    self.ops = ops
    self._weights = weights_of(stylizer.params)
    self._vgg = weights_of(stylizer.vgg_params)

  def build(self, graph: str, inputs: Mapping[str, Value]) -> Value:
    """Returns the output of one of `GRAPHS`; `inputs` are its inputs by name."""
    if graph == "style":
      return self.encode_style(inputs["style"])
    code = inputs["code"] if graph == "content" else self.encode_style(inputs["style"])
    return self.render(inputs["content"], code, inputs["alpha"])

  def encode_style(self, style: Value) -> Value:
    """Computes a code."""
    ops, model = self.ops, self.stylizer.model
    if not isinstance(model, AdaConv):
      fitted = ops.at_least(style, SMALLEST_STYLE)
      return ops.stats(self._encode(ops.mirror_to_multiple(fitted, STRIDE))[ENCODER_LAYER])
    fit = ops.resize_middle if model.style_fit == "crop" else ops.resize
    x = self._encode(fit(style, model.style_size))[ENCODER_LAYER]
    for index in range(3):
      x = self._conv(x, f"style_encoder/conv{index + 1}", small=True)
      x = ops.mean_pool(ops.leaky_relu(x, 0.01))
    descriptor = self._dense(ops.ravel(x), "style_encoder/Dense_0")
    descriptor = ops.unravel(descriptor, model.kernel_size)
    pooled, parts = ops.channel_means(descriptor), []
    for scale in range(len(SCALES)):
      name = f"predictors_{scale}"
      parts.append(ops.ravel(self._conv(descriptor, f"{name}/spatial", small=True)))
      parts += [self._dense(pooled, f"{name}/{branch}") for branch in ("pointwise", "bias")]
    for index in range(len(_gain_widths(model))):
      parts.append(self._dense(pooled, f"skips_{index}/gain", SKIP_RATE))
    return ops.add(ops.concat(parts), ops.constant("identity", _identity(model)))

  def render(self, content: Value, code: Value, alpha: Value) -> Value:
    """Stylizes; see `Stylizer.render` for what alpha does."""
    ops = self.ops
    alpha = ops.clip(alpha)
    layers = self._encode(ops.mirror_to_multiple(content, STRIDE))
    features = layers[ENCODER_LAYER]
    skips = [ops.normalize(layers[layer]) for layer in self.stylizer.model.content_layers]
    adaptive = isinstance(self.stylizer.model, AdaConv)
    styled = code if adaptive else self._restyle(features, code)

    def below_one() -> list[Value]:
      plain = self.encode_style(content) if adaptive else features
      lost = ops.subtract(content, self._decode(features, plain, skips, content))
      rest = ops.subtract(ops.constant("one", np.ones((), np.float32)), alpha)
      mixed = ops.add(ops.multiply(plain, rest), ops.multiply(styled, alpha))
      return [mixed, ops.multiply(lost, rest)]

    def one() -> list[Value]:
      return [styled, ops.subtract(content, content)]

    mixed, rest = ops.if_below_one(alpha, below_one, one)
    return ops.clip(ops.add(self._decode(features, mixed, skips, content), rest))

  def _restyle(self, features: Value, code: Value) -> Value:
    half = SCALES[0][0]
    mean, std = self.ops.part(code, 0, half), self.ops.part(code, half, 2 * half)
    return self.ops.normalize(features, std, mean)

  def _encode(self, x: Value) -> dict[str, Value]:
    """Computes all layers of VGG up to relu4_1, by their names."""
    ops, vgg, layers = self.ops, self.stylizer.vgg, {}
    for name in conv_shapes(vgg.arch, ENCODER_LAYER):
      block, index = map(int, name.removeprefix("conv").split("_"))
      if index == 1 and block > 1:
        x = ops.max_pool(x)
      pad = vgg.padding == "reflect"
      if not pad:
        x = ops.zero_pad(x, self._vgg["zero"] if block == index == 1 else None)
      weights = self._vgg[f"{name}/kernel"], self._vgg[f"{name}/bias"]
      x = ops.relu(ops.conv(x, f"vgg/{name}", *weights, pad=pad, small=block == 4))
      layers[name.replace("conv", "relu")] = x
    return layers

  def _decode(self, features: Value, mixed: Value, skips: list[Value], content: Value) -> Value:
    """Decodes to a picture in [0, 1] of the content's size.

    Args:
      features: the content's relu4_1.
      mixed: for AdaIN what is decoded; for AdaConv a code.
      skips: the content's layers for the scales after the first, normalized; may be empty.
      content: the picture.
    """
    ops, model = self.ops, self.stylizer.model
    x, start = features if isinstance(model, AdaConv) else mixed, 0
    gain = code_length(self.stylizer) - sum(_gain_widths(model))  # they come last in a code
    for scale, (_, widths) in enumerate(SCALES):
      if isinstance(model, AdaConv):
        shapes = _kernel_shapes(model)[scale]
        ends = np.cumsum([start, *map(math.prod, shapes)]).tolist()
        spatial, pointwise, bias = (ops.part(mixed, ends[i], ends[i + 1]) for i in range(3))
        start = ends[-1]
        x = ops.normalize(x)
        x = ops.upsample(x) if scale else x
        x = ops.adaptive_conv(x, spatial, pointwise, bias, shapes[0], model.groups[scale])
        if skips and scale:
          gains = ops.part(mixed, gain, gain + SCALES[scale][0])
          x = ops.add(x, self._skip(skips[scale - 1], gains, scale - 1))
          gain += SCALES[scale][0]
      elif scale:
        x = ops.upsample(x)
      for index, width in enumerate(widths):
        x = self._conv(x, f"decoder/conv{len(SCALES) - scale}_{index + 1}", small=scale == 0)
        x = ops.relu(x) if width != 3 else x
    return ops.clip(ops.crop_like(x, content))

  def _conv(self, x: Value, name: str, *, small: bool) -> Value:
    weights = self._weights[f"{name}/kernel"], self._weights[f"{name}/bias"]
    return self.ops.conv(x, name, *weights, pad=True, small=small)

  def _skip(self, layer: Value, gains: Value, index: int) -> Value:
    name = f"skips_{index}"
    kernel = SKIP_RATE * self._weights[f"{name}/kernel"]
    no_bias = np.zeros(kernel.shape[1], np.float32)
    x = self.ops.conv(layer, name, kernel[None, None], no_bias, pad=False, small=False)
    return self.ops.scale(x, gains)

  def _dense(self, x: Value, name: str, rate: float = 1.0) -> Value:
    kernel, bias = (rate * self._weights[f"{name}/{part}"] for part in ("kernel", "bias"))
    return self.ops.dense(x, name, kernel, bias)


def _kernel_shapes(model: AdaConv) -> list[tuple[tuple[int, ...], ...]]:
  """Returns the shapes of a code's arrays, for every scale: spatial, pointwise, bias."""
  k = model.kernel_size
  return [
    ((k, k, c // groups, c), (1, 1, c // groups, c), (c,))
    for (c, _), groups in zip(SCALES, model.groups, strict=True)
  ]


def _gain_widths(model: Any) -> list[int]:
  """Returns the number of gains of each skip; none for a model without skips."""
  return [channels for channels, _ in SCALES[1:]] if isinstance(model, AdaConvPlus) else []


def _identity(model: AdaConv) -> np.ndarray:
  """Returns the code, `[1, L]`, from which the predictors' outputs count.

  Its kernels change no normalized features, see `KernelPredictor`, and its gains are 1.
  """
  parts = []
  for (spatial, pointwise, bias), groups in zip(_kernel_shapes(model), model.groups, strict=True):
    eye = np.tile(np.eye(spatial[2], dtype=np.float32), groups)
    kernel = np.zeros(spatial, np.float32)
    kernel[model.kernel_size // 2, model.kernel_size // 2] = eye
    parts += [kernel, eye.reshape(pointwise), np.zeros(bias, np.float32)]
  parts += [np.ones(width, np.float32) for width in _gain_widths(model)]
  return np.concatenate([part.ravel() for part in parts])[None]
