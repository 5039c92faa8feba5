"""VGG-16 and VGG-19 feature maps (Simonyan & Zisserman 2015), the encoder and the loss network.

The network takes RGB in [0, 1]. The preprocessing that its weights were trained with (mean and
standard deviation, BGR order, a range up to 255) is folded into the first convolution when the
weights are imported; see `convert.py`. The weights are frozen: they are a separate argument, never
part of the trained parameters.
"""

from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from adaconv_jax.ops.conv import conv, conv_valid
from adaconv_jax.ops.extent import UNPADDED, Borders

# Convolutions per block and their width; there is a 2x2 max pool between two blocks.
BLOCKS: Mapping[str, tuple[tuple[int, int], ...]] = {
  "vgg16": ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)),
  "vgg19": ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512)),
}
ENCODER_LAYER = "relu4_1"
STRIDE = 8  # relu4_1 comes after three poolings
STYLE_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1")

COMPUTE_DTYPES = ("float32", "bfloat16")
PADDINGS = ("reflect", "zero")

VGGParams = Mapping[str, Mapping[str, jax.Array]]


def conv_shapes(arch: str, last: str = "relu5_1") -> dict[str, tuple[int, int, int, int]]:
  """Returns names and HWIO kernel shapes of the convolutions up to `last`, in order.

  Args:
    arch: "vgg16" or "vgg19".
    last: the last activation wanted, such as "relu4_1".

  Raises:
    ValueError: `arch` or `last` is unknown.
  """
  if arch not in BLOCKS:
    raise ValueError(f"arch: expected one of {sorted(BLOCKS)}, got {arch!r}")
  shapes, channels = {}, 3
  for block, (count, width) in enumerate(BLOCKS[arch], start=1):
    for index in range(1, count + 1):
      shapes[f"conv{block}_{index}"] = (3, 3, channels, width)
      channels = width
      if last == f"relu{block}_{index}":
        return shapes
  raise ValueError(f"layer: {arch} has no {last!r}; it has relu1_1 ... relu5_{BLOCKS[arch][4][0]}")


def reach(arch: str, last: str) -> int:
  """Returns how many image rows above and below its own an activation depends on."""
  pixels, stride = 0, 1
  for name in conv_shapes(arch, last):
    if name.endswith("_1") and name != "conv1_1":
      pixels += stride  # of the pool before it
      stride *= 2
    pixels += stride
  return pixels


def max_pool(features: jax.Array) -> jax.Array:
  """2x2 max pooling with stride 2; an odd last row or column is dropped, as in VGG.

  It is a maximum of strided slices, whose gradient is several times cheaper on CPU than that of a
  windowed reduction.
  """
  n, h, w, c = features.shape
  even = features[:, : h // 2 * 2, : w // 2 * 2]
  rows = jnp.maximum(even[:, 0::2], even[:, 1::2])
  return jnp.maximum(rows[:, :, 0::2], rows[:, :, 1::2]).reshape(n, h // 2, w // 2, c)


class VGG(nn.Module):
  """VGG's activations by name.

  The parameters are `{"zero": [3], "conv1_1": {"kernel": [3, 3, c_in, c_out], "bias": [c_out]},
  ...}`. `zero` is the RGB value that the preprocessing maps to zero (the ImageNet mean). Zero
  padding pads the picture with it, because the original pads after preprocessing. Reflect padding
  does not need it.

  Attributes:
    arch: "vgg16" or "vgg19".
    padding: "reflect" (no frame at the borders), or "zero" (as the network was trained).
    compute_dtype: of the activations, "float32" or "bfloat16"; the parameters are float32. The
      layers that follow compute in the dtype of their input, so this sets that of the whole model.
  """

  arch: str = "vgg19"
  padding: str = "reflect"
  compute_dtype: str = "float32"

  def __post_init__(self):
    if self.compute_dtype not in COMPUTE_DTYPES:
      raise ValueError(
        f"compute_dtype: expected one of {list(COMPUTE_DTYPES)}, got {self.compute_dtype!r}"
      )
    super().__post_init__()

  @nn.compact
  def __call__(
    self,
    images: jax.Array,
    layers: Sequence[str] = STYLE_LAYERS,
    borders: Borders = UNPADDED,
  ) -> dict[str, jax.Array]:
    """Computes the activations named in `layers`, and nothing after the last of them.

    Args:
      images: `[n, h, w, 3]`, RGB in [0, 1].
      layers: names such as "relu4_1".
      borders: where the pictures end, if they do not fill `images`.

    Returns:
      A dict from layer name to `[n, h / s, w / s, c]`, s = 1, 2, 4, 8, 16 in blocks 1 to 5
      (rounded down).

    Raises:
      ValueError: unknown `arch`, `padding` or layer, no layer, or images of the wrong shape or too
        small for the pools.
    """
    if self.padding not in PADDINGS:
      raise ValueError(f"padding: expected 'reflect' or 'zero', got {self.padding!r}")
    if isinstance(layers, str) or not layers:
      raise ValueError(f"layers: expected names such as ('relu4_1',), got {layers!r}")
    shapes = max((conv_shapes(self.arch, layer) for layer in layers), key=len)
    _check_images(images, list(shapes)[-1])
    zero = self.param("zero", nn.initializers.zeros, (3,))
    outputs, features = {}, images
    if self.compute_dtype != "float32":  # the default keeps the dtype of the images
      features = images.astype(self.compute_dtype)
    for name, shape in shapes.items():
      pad_value = zero.reshape(1, 1, 1, 3) if name == "conv1_1" else 0.0
      if name.endswith("_1") and name != "conv1_1":
        features = max_pool(features)
      if self.padding == "reflect":
        features = borders.mirror(features)
      else:
        features = borders.fill(features, pad_value)
      features = nn.relu(_FrozenConv(shape, self.padding, name=name)(features, pad_value))
      activation = name.replace("conv", "relu")
      if activation in layers:
        outputs[activation] = features
    return outputs


def _check_images(images: jax.Array, conv: str) -> None:
  """Raises unless `images` are large enough for the convolution `conv`, after the pools."""
  if images.ndim != 4 or images.shape[-1] != 3:
    raise ValueError(f"images: expected the shape [n, h, w, 3], got {list(images.shape)}")
  smallest = 2 ** (int(conv[len("conv")]) - 1)
  height, width = images.shape[1:3]
  if min(height, width) < smallest:
    raise ValueError(
      f"images: {conv.replace('conv', 'relu')} needs at least {smallest} x {smallest} pixels, got "
      f"{height} x {width}"
    )


class _FrozenConv(nn.Module):
  """A convolution of the given HWIO shape; zero padding pads with `pad_value`."""

  shape: tuple[int, int, int, int]
  padding: str

  @nn.compact
  def __call__(self, features: jax.Array, pad_value: jax.Array | float) -> jax.Array:
    kernel = self.param("kernel", nn.initializers.he_normal(), self.shape)
    bias = self.param("bias", nn.initializers.zeros, self.shape[-1:])
    if self.padding == "reflect":
      return conv(features, kernel, bias)
    pad, dtype = ((0, 0), (1, 1), (1, 1), (0, 0)), features.dtype
    padded = (jnp.pad(features - pad_value, pad) + pad_value).astype(dtype)
    return (conv_valid(padded, kernel.astype(dtype)) + bias.reshape(1, 1, 1, -1)).astype(dtype)
