"""AdaConv's trained part (Chandran et al., CVPR 2021): kernel predictors and the decoder."""

import functools
import reprlib
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from adaconv_jax.models.decoder import SCALES, Decoder
from adaconv_jax.models.layers import ReflectConv
from adaconv_jax.models.style_code import AdaConvKernels, StyleCode
from adaconv_jax.ops.adaconv import apply_kernels
from adaconv_jax.ops.adain import ChannelStats, instance_norm
from adaconv_jax.ops.extent import UNPADDED, Borders
from adaconv_jax.vgg.network import STRIDE

# A model as published has 59 million parameters; these are 2 GB of float32.
MAX_PARAMETERS = 2**29
STYLE_FITS = ("squeeze", "crop")
# Kernels are unrolled when a program is compiled. The paper goes to 5.
MAX_KERNEL_SIZE = 15


class GlobalStyleEncoder(nn.Module):
  """E_S: the style's relu4_1 map to the style descriptor W (paper, section 4.1 and figure 2).

  Three blocks of 3x3 convolution, LeakyReLU(0.01) and 2x2 average pooling, then a fully connected
  layer. That layer ties the module to one input size: 32x32, of a 256x256 style.

  Attributes:
    style_dim: channels of the descriptor, s_d; 512 as published.
    descriptor_size: height and width of the descriptor, s_h = s_w, and of the kernels.
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
      # Not by `nn.avg_pool`, which divides by a typed 4, as JAX's strict promotion forbids.
      x = nn.pool(x, 0.0, jax.lax.add, (2, 2), (2, 2), "VALID") / 4
    size = self.descriptor_size
    x = nn.Dense(size * size * self.style_dim, kernel_init=nn.initializers.xavier_uniform())(
      x.reshape(x.shape[0], -1)
    )
    return x.reshape(-1, size, size, self.style_dim)


class KernelPredictor(nn.Module):
  """K_i: the style descriptor to the kernels of one decoder scale (paper, figure 3).

  The branches predict the difference from kernels that leave the normalized features unchanged. So
  training starts from a decoder with instance normalization, whereas random kernels would hide the
  content at first. For the pointwise kernels, the bias of their layer could learn that constant
  too. For the spatial kernels it could not: its bias is one number for all k x k places, and the
  identity is added only at the center. So for these it is not just another parametrization of the
  same functions.

  Attributes:
    channels: c_in = c_out of the scale.
    groups: n_g of the scale.
  """

  channels: int
  groups: int

  @nn.compact
  def __call__(self, style_descriptor: jax.Array) -> AdaConvKernels:
    """Predicts kernels of size k from `[n, k, k, style_dim]`."""
    n, k = style_descriptor.shape[:2]
    group = self.channels // self.groups
    init = nn.initializers.variance_scaling(0.01, "fan_avg", "uniform")
    pooled = jnp.mean(style_descriptor, axis=(1, 2))
    spatial = ReflectConv(group * self.channels, k, init, name="spatial")(style_descriptor)
    pointwise = nn.Dense(group * self.channels, kernel_init=init, name="pointwise")(pooled)
    bias = nn.Dense(self.channels, kernel_init=init, name="bias")(pooled)
    # Of the type of the rest, which in JAX's 64-bit mode is not the default one.
    eye = jnp.eye(group, dtype=spatial.dtype)
    identity = jnp.tile(eye, self.groups)[None, None, None]  # [..., c / groups, c]
    center = jnp.zeros((1, k, k, 1, 1), spatial.dtype).at[:, k // 2, k // 2].set(1)
    return AdaConvKernels(
      spatial.reshape(n, k, k, group, self.channels) + center * identity,
      pointwise.reshape(n, 1, 1, group, self.channels) + identity,
      bias,
    )


class AdaConv(nn.Module):
  """AdaConv's trained part: style encoder, kernel predictors and the decoder they act in.

  A style's code consists of the kernels of the four scales.

  Attributes:
    style_dim: channels of the style descriptor, 512 as published.
    kernel_size: size of the predicted kernels and of the descriptor, odd; 3 as published, at most
      `MAX_KERNEL_SIZE`.
    groups: groups n_g of the predicted kernels at 512, 256, 128 and 64 channels.
    encoder_width: channels of the style encoder's convolutions, 512 as published.
    style_size: height and width to which every style image is resized, 256 as published; at least
      64, which the poolings of VGG and of the style encoder reduce to one pixel.
    style_fit: how a style that is not square gets that size: "squeeze" resizes all of it, without
      keeping the aspect ratio; "crop" keeps it, and takes the middle square.

  Together, the settings may give at most `MAX_PARAMETERS`; see `check_settings`.
  """

  transform: ClassVar[str] = "adaconv"
  # Their layers add up thousands of inputs.
  slow_params: ClassVar[tuple[str, ...]] = ("style_encoder/*", "predictors_*/spatial/*")
  needs_scale_stats: ClassVar[bool] = True
  alpha_needs_own_style: ClassVar[bool] = True
  content_layers: ClassVar[tuple[str, ...]] = ()
  extends: ClassVar[str | None] = None

  style_dim: int = 512
  kernel_size: int = 3
  groups: tuple[int, ...] = (512, 128, 32, 8)
  encoder_width: int = 512
  style_size: int = 256
  style_fit: str = "squeeze"

  def setup(self):  # noqa: D102 (Flax's)
    channels = [channels for channels, _ in SCALES]
    check_settings(self)
    self.style_encoder = GlobalStyleEncoder(self.style_dim, self.kernel_size, self.encoder_width)
    self.predictors = [
      KernelPredictor(c, groups) for c, groups in zip(channels, self.groups, strict=True)
    ]
    self.decoder = Decoder()

  def encode_style(
    self, style_features: jax.Array, where: jax.Array | None = None
  ) -> tuple[AdaConvKernels, ...]:
    """Predicts the kernels from relu4_1 of the styles, `[n, style_size / 8, same, 512]`."""
    del where  # styles are resized, so all pixels are valid
    descriptor = self.style_encoder(style_features)
    return tuple(predict(descriptor) for predict in self.predictors)

  def content_target(
    self,
    content_features: jax.Array,
    code: StyleCode,
    alpha: float | jax.Array = 1.0,
    where: jax.Array | None = None,
    stats: ChannelStats | None = None,
  ) -> jax.Array:
    """The content's own features: AdaConv changes them only inside the decoder."""
    del code, alpha, where, stats
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
    borders: Borders = UNPADDED,
  ) -> jax.Array:
    """Runs one scale: the adaptive convolution, then the learned ones; see `TransferModel`."""
    features = self._adapt(scale, features, code[scale], stats, borders)
    return self.decoder.decode_scale(scale, features, enlarge=False, borders=borders)

  def _adapt(
    self,
    scale: int,
    features: jax.Array,
    kernels: AdaConvKernels,
    stats: ChannelStats | None,
    borders: Borders,
  ) -> jax.Array:
    """Runs the adaptive convolution of one scale."""
    enlarge = scale > 0
    apply = functools.partial(apply_kernels, groups=self.groups[scale], enlarge=enlarge)
    features = borders.mirror(instance_norm(features, stats), enlarge=enlarge)
    if kernels.bias.shape[0] == 1:  # one style for all images: an ordinary convolution
      kernels = jax.tree.map(lambda kernel: kernel[0], kernels)
      return jax.vmap(lambda x: apply(x, *kernels))(features)
    return jax.vmap(apply)(features, *kernels)

  def __call__(self, content_features: jax.Array, style_features: jax.Array) -> jax.Array:
    """Stylizes feature maps; the path that initializes all parameters."""
    code = self.encode_style(style_features)
    return self.decode(self.content_target(content_features, code), code)


def check_settings(model: AdaConv) -> None:
  """Checks the settings of a model, before anything is allocated.

  Raises:
    ValueError: one is not a whole number in its range, or together they make the model too large.
  """
  channels = [channels for channels, _ in SCALES]
  for name, least, most in (
    ("style_dim", 1, 2**16),
    ("kernel_size", None, None),
    ("encoder_width", 1, 2**16),
    ("style_size", 8 * STRIDE, 2**13),
  ):
    value = getattr(model, name)
    if not _is_whole(value):
      raise ValueError(f"{name}: expected a whole number, got {reprlib.repr(value)}")
    if least is not None and value < least:
      raise ValueError(f"{name}: expected at least {least}, got {value}")
    if most is not None and value > most:
      raise ValueError(f"{name}: expected at most {most}, got {value}")
  if model.style_fit not in STYLE_FITS:
    raise ValueError(
      f"style_fit: expected one of {list(STYLE_FITS)}, got {reprlib.repr(model.style_fit)}"
    )
  if model.kernel_size < 1 or model.kernel_size % 2 == 0:
    raise ValueError(f"kernel_size: expected an odd number, got {model.kernel_size}")
  if model.kernel_size > MAX_KERNEL_SIZE:
    raise ValueError(f"kernel_size: expected at most {MAX_KERNEL_SIZE}, got {model.kernel_size}")
  if len(model.groups) != len(channels):
    raise ValueError(f"groups: expected one number per scale {channels}, got {model.groups}")
  if any(not _is_whole(g) or g < 1 or c % g for c, g in zip(channels, model.groups, strict=True)):
    raise ValueError(
      f"groups: expected divisors of the scales' channels {channels}, got {model.groups}"
    )
  count = _count_parameters(model, channels)
  if count > MAX_PARAMETERS:
    raise ValueError(
      f"style_dim, kernel_size, groups, encoder_width and style_size: expected at most "
      f"{MAX_PARAMETERS / 1e6:.0f} million parameters, got {count / 1e6:.0f} million; lower one"
    )


def _is_whole(value: object) -> bool:
  return isinstance(value, int) and not isinstance(value, bool)


def _count_parameters(model: AdaConv, channels: list[int]) -> int:
  """Returns the number of parameters of style encoder and predictors, without biases."""
  width, dim, taps = model.encoder_width, model.style_dim, model.kernel_size**2
  pixels = (model.style_size // STRIDE // 8) ** 2  # after VGG's poolings and the encoder's three
  encoder = 9 * channels[0] * width + 18 * width**2 + pixels * width * taps * dim
  predicted = (c * c // g for c, g in zip(channels, model.groups, strict=True))
  return encoder + sum(
    dim * ((taps + 1) * numbers + c) for numbers, c in zip(predicted, channels, strict=True)
  )
