"""AdaConv with the content's fine structure: skips from VGG's first layers into the decoder.

The papers' decoders see nothing of the content but relu4_1, an eighth of its size, which cannot
hold small faces and lettering. Here the content's relu3_1, relu2_1 and relu1_1 enter the decoder
too, at the scales that have their size. Each is normalized, so that it brings no contrast and no
colors of its own, and the style decides how much of every channel comes through. Not in the papers.
"""

from typing import ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from adaconv_jax.models.adaconv import AdaConv
from adaconv_jax.models.decoder import SCALES
from adaconv_jax.models.style_code import AdaConvKernels
from adaconv_jax.ops.adain import ChannelStats, instance_norm
from adaconv_jax.ops.extent import UNPADDED, Borders

# What is new learns this much faster than a decoder that is trained already, because Adam moves all
# parameters at one rate.
SKIP_RATE = 3.0


class PlusCode(NamedTuple):
  """A style as `AdaConvPlus` uses it; every array has a leading batch axis `n`.

  Attributes:
    kernels: those of AdaConv, one for each of the four scales.
    gains: of the skips into the scales 1 to 3, each `[n, c]`.
  """

  kernels: tuple[AdaConvKernels, ...]
  gains: tuple[jax.Array, ...]


class Skip(nn.Module):
  """One skip: a learned pointwise convolution of normalized content features, and the gains.

  Attributes:
    channels: of the decoder's scale that it enters.
  """

  channels: int

  def setup(self):  # noqa: D102 (Flax's)
    self.gain = nn.Dense(self.channels, kernel_init=nn.initializers.zeros)
    shape = (self.channels, self.channels)  # VGG's layer has as many as the decoder's scale
    # Zero gains with random kernels are a saddle: neither gets a steady gradient from the other.
    self.kernel = self.param("kernel", nn.initializers.zeros, shape)

  def predict(self, style_descriptor: jax.Array) -> jax.Array:
    """Predicts the gains, `[n, channels]`, from `[n, k, k, style_dim]`; ones at first."""
    return 1 + SKIP_RATE * self.gain(jnp.mean(style_descriptor, axis=(1, 2)))

  def __call__(
    self, content_features: jax.Array, gains: jax.Array, stats: ChannelStats | None = None
  ) -> jax.Array:
    """Returns what is added to the scale, `[n, h, w, channels]`; see `instance_norm`."""
    normalized = instance_norm(content_features, stats)
    detail = normalized @ (SKIP_RATE * self.kernel).astype(normalized.dtype)
    return detail * gains[:, None, None].astype(detail.dtype)


class AdaConvPlus(AdaConv):
  """AdaConv whose decoder is also given the content's relu3_1, relu2_1 and relu1_1.

  At the scales 1 to 3, whose adaptive convolution enlarges to the size of these layers, what it
  returns becomes

      AdaConv(x) + gain(style) * (K * (content - mu) / sigma)

  before the decoder's fixed convolutions. K is a learned 1x1 convolution, and zero at
  first, where the model is an AdaConv with the same parameters. The gains, one per channel, are
  predicted from the style descriptor and belong to the style's code.
  """

  transform: ClassVar[str] = "adaconv_plus"
  content_layers: ClassVar[tuple[str, ...]] = ("relu3_1", "relu2_1", "relu1_1")
  extends: ClassVar[str | None] = AdaConv.transform

  def setup(self):  # noqa: D102 (Flax's)
    super().setup()
    self.skips = [Skip(channels) for channels, _ in SCALES[1:]]

  def encode_style(self, style_features: jax.Array, where: jax.Array | None = None) -> PlusCode:
    """Predicts kernels and gains from relu4_1 of the styles; see `AdaConv`."""
    del where
    descriptor = self.style_encoder(style_features)
    kernels = tuple(predict(descriptor) for predict in self.predictors)
    return PlusCode(kernels, tuple(skip.predict(descriptor) for skip in self.skips))

  def decode(
    self, target: jax.Array, code: PlusCode, skips: tuple[jax.Array, ...] = ()
  ) -> jax.Array:
    """Decodes `[n, h, w, 512]` to RGB; `skips` are the content's `content_layers`."""
    features = target
    for scale, skip in enumerate((None, *skips)):
      features = self.decode_scale(scale, features, code, skip=skip)
    return features

  def decode_scale(
    self,
    scale: int,
    features: jax.Array,
    code: PlusCode,
    stats: ChannelStats | None = None,
    borders: Borders = UNPADDED,
    skip: jax.Array | None = None,
    skip_stats: ChannelStats | None = None,
  ) -> jax.Array:
    """Runs one scale; see `TransferModel`.

    Args:
      scale: 0 (coarse) to 3.
      features: the input of the scale, or some rows of it.
      code: of n styles, or of one for all contents.
      stats: of the whole input, to normalize it with; None: its own.
      borders: where the pictures end.
      skip: the content's layer for this scale, with the size of its output; None for scale 0.
      skip_stats: of the whole layer, to normalize it with; None: its own.
    """
    features = self._adapt(scale, features, code.kernels[scale], stats, borders)
    if skip is not None:
      features = features + self.skips[scale - 1](skip, code.gains[scale - 1], skip_stats)
    return self.decoder.decode_scale(scale, features, enlarge=False, borders=borders)

  def __call__(self, content_features: jax.Array, style_features: jax.Array) -> jax.Array:
    """Stylizes feature maps with empty skips; the path that initializes all parameters."""
    code = self.encode_style(style_features)
    n, h, w, _ = content_features.shape
    skips = tuple(
      jnp.zeros((n, h << scale, w << scale, channels), content_features.dtype)
      for scale, (channels, _) in enumerate(SCALES)
      if scale
    )
    return self.decode(self.content_target(content_features, code), code, skips)
