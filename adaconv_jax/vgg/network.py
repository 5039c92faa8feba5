"""VGG-16 and VGG-19 feature maps (Simonyan & Zisserman 2015), the encoder and the loss network.

The network takes RGB in [0, 1]. Whatever preprocessing its weights were trained with (mean and
standard deviation, BGR order, a range to 255) is folded into the first convolution when the
weights are imported; see `weights.py`. The weights are frozen: they are an argument beside the
trained parameters and never part of them.
"""

from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from adaconv_jax.ops.conv import conv, conv_valid
from adaconv_jax.ops.extent import Extent, inside

# Convolutions per block and their width; a 2x2 max pool stands between two blocks.
BLOCKS: Mapping[str, tuple[tuple[int, int], ...]] = {
  "vgg16": ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)),
  "vgg19": ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512)),
}
ENCODER_LAYER = "relu4_1"
STRIDE = 8  # relu4_1 lies behind three poolings
STYLE_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1")

COMPUTE_DTYPES = ("float32", "bfloat16")

VGGParams = Mapping[str, Mapping[str, jax.Array]]


def conv_shapes(arch: str, last: str = "relu5_1") -> dict[str, tuple[int, int, int, int]]:
  """Names and HWIO kernel shapes of the convolutions up to `last`, in order.

  Args:
    arch: "vgg16" or "vgg19".
    last: the last activation wanted, such as "relu4_1".

  Raises:
    ValueError: `arch` or `last` is not known.
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
  """Pixels on each side of an activation's own that it depends on, in rows of the image."""
  pixels, stride = 0, 1
  for name in conv_shapes(arch, last):
    if name.endswith("_1") and name != "conv1_1":
      pixels += stride  # of the pool before it
      stride *= 2
    pixels += stride
  return pixels


def max_pool(features: jax.Array) -> jax.Array:
  """2x2 max pooling with stride 2; an odd last row or column is dropped, as in VGG.

  Written as a maximum of four strided slices: its gradient is several times cheaper on CPU than
  that of a windowed reduction.
  """
  n, h, w, c = features.shape
  even = features[:, : h // 2 * 2, : w // 2 * 2]
  rows = jnp.maximum(even[:, 0::2], even[:, 1::2])
  return jnp.maximum(rows[:, :, 0::2], rows[:, :, 1::2]).reshape(n, h // 2, w // 2, c)


class VGG(nn.Module):
  """VGG's activations by name.

  The parameters are `{"zero": [3], "conv1_1": {"kernel": [3, 3, c_in, c_out], "bias": [c_out]},
  ...}`. `zero` is the RGB value that the trained network sees as zero (the ImageNet mean): zero
  padding pads the picture with it, as the original does, which pads after it has normalized.
  Reflect padding does not need it.

  Attributes:
    arch: "vgg16" or "vgg19".
    padding: "reflect" (no frame at the borders), or "zero" (as the network was trained).
    compute_dtype: "float32" or "bfloat16", of the activations; the parameters are float32. What
      takes the activations goes on in their dtype, so this is the dtype of the whole model.
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
    extent: Extent | None = None,
  ) -> dict[str, jax.Array]:
    """Computes the activations named in `layers`, and nothing behind the last of them.

    Args:
      images: `[n, h, w, 3]`, RGB in [0, 1].
      layers: names such as "relu4_1".
      extent: the valid region of the images, which every pool halves; None: all.

    Returns:
      A dict from layer name to `[n, h / s, w / s, c]`, s = 1, 2, 4, 8, 16 in blocks 1 to 5
      (rounded down).

    Raises:
      ValueError: unknown `arch`, `padding` or layer, no layer, images of another shape, or too
        small for the pools.
    """
    if self.padding not in ("reflect", "zero"):
      raise ValueError(f"padding: expected 'reflect' or 'zero', got {self.padding!r}")
    if isinstance(layers, str) or not layers:
      raise ValueError(f"layers: expected names such as ('relu4_1',), got {layers!r}")
    shapes = max((conv_shapes(self.arch, layer) for layer in layers), key=len)
    _check_images(images, list(shapes)[-1])
    zero = self.param("zero", nn.initializers.zeros, (3,))
    outputs, features = {}, images
    if self.compute_dtype != "float32":  # the default lets through whatever the images are
      features = images.astype(self.compute_dtype)
    for name, shape in shapes.items():
      if name == "conv1_1":
        features = _FrozenConv(shape, self.padding, name=name)(features, zero, extent=extent)
      else:
        if name.endswith("_1"):
          features = max_pool(features)
          extent = extent and extent.over(2)
        features = _FrozenConv(shape, self.padding, name=name)(features, extent=extent)
      features = nn.relu(features)
      activation = name.replace("conv", "relu")
      if activation in layers:
        outputs[activation] = features
    return outputs


def _check_images(images: jax.Array, conv: str) -> None:
  """Raises unless something of `images` is left at the convolution `conv`, behind the pools."""
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
  def __call__(
    self,
    features: jax.Array,
    pad_value: jax.Array | float = 0.0,
    *,
    extent: Extent | None = None,
  ) -> jax.Array:
    kernel = self.param("kernel", nn.initializers.he_normal(), self.shape)
    bias = self.param("bias", nn.initializers.zeros, self.shape[-1:])
    if self.padding == "reflect":
      return conv(features, kernel, bias, extent=extent)
    if extent is not None:
      features = jnp.where(inside(features, extent), features, pad_value)
    pad, dtype = ((0, 0), (1, 1), (1, 1), (0, 0)), features.dtype
    padded = (jnp.pad(features - pad_value, pad) + pad_value).astype(dtype)
    return (conv_valid(padded, kernel.astype(dtype)) + bias).astype(dtype)
