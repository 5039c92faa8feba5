"""AdaConv's trained part (Chandran et al., CVPR 2021): what predicts kernels, and their decoder."""

import functools
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from adaconv_jax.models.decoder import SCALES, Decoder
from adaconv_jax.models.layers import ReflectConv
from adaconv_jax.models.style_code import AdaConvKernels, StyleCode
from adaconv_jax.ops.adaconv import adaconv
from adaconv_jax.ops.adain import ChannelStats
from adaconv_jax.ops.extent import Extent
from adaconv_jax.vgg.network import STRIDE


class GlobalStyleEncoder(nn.Module):
  """E_S: the style's relu4_1 map to the style descriptor W (paper, section 4.1 and figure 2).

  Three times 3x3 convolution, LeakyReLU(0.01) and 2x2 average pooling, then a fully connected
  layer. That layer ties the module to one input size: 32x32, of a 256x256 style.

  Attributes:
    style_dim: channels of the descriptor, s_d; 512 as published.
    descriptor_size: height and width of the descriptor, s_h = s_w; the kernels' size.
    width: channels of the three convolutions; 512 as published.
  """

  style_dim: int = 512
  descriptor_size: int = 3
  width: int = 512

  @nn.compact
  def __call__(self, style_features: jax.Array) -> jax.Array:
    """Encodes `[n, h, w, 512]` as `[n, descriptor_size, descriptor_size, style_dim]`."""
    x = style_features
    for index in range(3):
      x = nn.leaky_relu(ReflectConv(self.width, name=f"conv{index + 1}")(x), 0.01)
      x = nn.avg_pool(x, (2, 2), (2, 2))
    size = self.descriptor_size
    x = nn.Dense(size * size * self.style_dim, kernel_init=nn.initializers.xavier_uniform())(
      x.reshape(x.shape[0], -1)
    )
    return x.reshape(-1, size, size, self.style_dim)


class KernelPredictor(nn.Module):
  """K_i: the style descriptor to the kernels of one decoder scale (paper, figure 3).

  What the branches predict is the difference from kernels that leave the normalized features as
  they are. So training starts as a decoder with instance normalization, where kernels that are
  noise at first would hide the content. For the pointwise kernels, the bias of their layer could
  learn that constant as well. For the spatial kernels it could not: its bias is one number for all
  k x k places, and the identity is added at the center alone. There it is more than another way to
  write the same functions.

  Attributes:
    channels: c_in = c_out of the scale.
    groups: n_g of the scale.
  """

  channels: int
  groups: int

  @nn.compact
  def __call__(self, style_descriptor: jax.Array) -> AdaConvKernels:
    """Predicts the kernels from `[n, k, k, style_dim]`, where k becomes their size."""
    n, k = style_descriptor.shape[:2]
    group = self.channels // self.groups
    init = nn.initializers.variance_scaling(0.01, "fan_avg", "uniform")
    pooled = jnp.mean(style_descriptor, axis=(1, 2))
    spatial = ReflectConv(group * self.channels, k, init, name="spatial")(style_descriptor)
    pointwise = nn.Dense(group * self.channels, kernel_init=init, name="pointwise")(pooled)
    bias = nn.Dense(self.channels, kernel_init=init, name="bias")(pooled)
    identity = jnp.tile(jnp.eye(group), self.groups)  # [c / groups, c]
    center = jnp.zeros((k, k, 1, 1)).at[k // 2, k // 2].set(1)
    return AdaConvKernels(
      spatial.reshape(n, k, k, group, self.channels) + center * identity,
      pointwise.reshape(n, 1, 1, group, self.channels) + identity,
      bias,
    )


class AdaConv(nn.Module):
  """AdaConv's trained part: style encoder, kernel predictors and the decoder they act in.

  A style's code is the kernels of the four scales.

  Attributes:
    style_dim: channels of the style descriptor, 512 as published.
    kernel_size: size of the predicted kernels and of the descriptor, odd; 3 as published.
    groups: groups n_g of the predicted kernels at 512, 256, 128 and 64 channels.
    encoder_width: channels of the style encoder's convolutions, 512 as published.
    style_size: height and width to which every style image is resized, 256 as published; at least
      64, of which the poolings of VGG and of the style encoder leave one pixel.
  """

  transform: ClassVar[str] = "adaconv"
  # Their layers add up thousands of inputs.
  slow_params: ClassVar[tuple[str, ...]] = ("style_encoder/*", "predictors_*/spatial/*")
  needs_scale_stats: ClassVar[bool] = True
  alpha_needs_own_style: ClassVar[bool] = True

  style_dim: int = 512
  kernel_size: int = 3
  groups: tuple[int, ...] = (512, 128, 32, 8)
  encoder_width: int = 512
  style_size: int = 256

  def setup(self):  # noqa: D102 (Flax's)
    channels = [channels for channels, _ in SCALES]
    self._check_settings(channels)
    self.style_encoder = GlobalStyleEncoder(self.style_dim, self.kernel_size, self.encoder_width)
    self.predictors = [
      KernelPredictor(c, groups) for c, groups in zip(channels, self.groups, strict=True)
    ]
    self.decoder = Decoder()

  def _check_settings(self, channels: list[int]) -> None:
    if self.kernel_size < 1 or self.kernel_size % 2 == 0:
      raise ValueError(f"kernel_size: expected an odd number, got {self.kernel_size}")
    if len(self.groups) != len(channels):
      raise ValueError(f"groups: expected one number per scale {channels}, got {self.groups}")
    if any(g < 1 or c % g for c, g in zip(channels, self.groups, strict=True)):
      raise ValueError(
        f"groups: expected divisors of the scales' channels {channels}, got {self.groups}"
      )
    if self.style_size < 8 * STRIDE:
      raise ValueError(f"style_size: expected at least {8 * STRIDE}, got {self.style_size}")

  def encode_style(
    self, style_features: jax.Array, where: jax.Array | None = None
  ) -> tuple[AdaConvKernels, ...]:
    """Predicts the kernels from relu4_1 of the styles, `[n, style_size / 8, same, 512]`."""
    del where  # styles are resized, so that all of them is valid
    descriptor = self.style_encoder(style_features)
    return tuple(predict(descriptor) for predict in self.predictors)

  def content_target(
    self,
    content_features: jax.Array,
    code: StyleCode,
    alpha: float | jax.Array = 1.0,
    where: jax.Array | None = None,
  ) -> jax.Array:
    """The content's own features: AdaConv changes them only inside the decoder."""
    del code, alpha, where
    return content_features

  def decode(self, target: jax.Array, code: tuple[AdaConvKernels, ...]) -> jax.Array:
    """Decodes `[n, h, w, 512]` to RGB `[n, 8 h, 8 w, 3]`, with the code's kernels."""
    features = target
    for scale in range(len(SCALES)):
      features = self.decode_scale(scale, features, code)
    return features

  def decode_scale(
    self,
    scale: int,
    features: jax.Array,
    code: tuple[AdaConvKernels, ...],
    stats: ChannelStats | None = None,
    extent: Extent | None = None,
  ) -> jax.Array:
    """Runs one scale: the adaptive convolution, then the learned ones; see `TransferModel`."""
    kernels, enlarge = code[scale], scale > 0
    apply = functools.partial(adaconv, groups=self.groups[scale], enlarge=enlarge, extent=extent)
    if kernels.bias.shape[0] == 1:  # one style for all images: an ordinary convolution
      kernels = jax.tree.map(lambda kernel: kernel[0], kernels)
      call = lambda x, stats: apply(x, *kernels, stats=stats)  # noqa: E731
      features = jax.vmap(call)(features, stats)
    else:
      call = lambda x, kernels, stats: apply(x, *kernels, stats=stats)  # noqa: E731
      features = jax.vmap(call)(features, kernels, stats)
    if enlarge and extent is not None:
      extent = extent.times(2)
    return self.decoder.decode_scale(scale, features, enlarge=False, extent=extent)

  def __call__(self, content_features: jax.Array, style_features: jax.Array) -> jax.Array:
    """Stylizes feature maps; the path that initializes all parameters."""
    code = self.encode_style(style_features)
    return self.decode(self.content_target(content_features, code), code)
