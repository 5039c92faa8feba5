"""AdaIN's trained part (Huang & Belongie, ICCV 2017)."""

from typing import ClassVar

import flax.linen as nn
import jax

from adaconv_jax.models.decoder import Decoder
from adaconv_jax.models.style_code import blend
from adaconv_jax.ops.adain import ChannelStats, apply_stats, channel_stats
from adaconv_jax.ops.extent import UNPADDED, Borders


class AdaIN(nn.Module):
  """AdaIN's trained part: the decoder. A style's code is its relu4_1 channel statistics."""

  transform: ClassVar[str] = "adain"
  slow_params: ClassVar[tuple[str, ...]] = ()
  needs_scale_stats: ClassVar[bool] = False
  alpha_needs_own_style: ClassVar[bool] = False
  content_layers: ClassVar[tuple[str, ...]] = ()
  extends: ClassVar[str | None] = None

  def setup(self):  # noqa: D102 (Flax's)
    self.decoder = Decoder()

  @property
  def style_size(self) -> None:
    """None: a style image may have any size."""
    return None

  @property
  def style_fit(self) -> str:
    """Without a meaning, because no style is resized."""
    return "squeeze"

  @property
  def kernel_size(self) -> int:
    """0: a style has no kernels."""
    return 0

  def encode_style(self, style_features: jax.Array, where: jax.Array | None = None) -> ChannelStats:
    """Encodes relu4_1 of the styles, `[n, h, w, 512]`; `where` as for `channel_stats`."""
    return channel_stats(style_features, where=where)

  def content_target(
    self,
    content_features: jax.Array,
    code: ChannelStats,
    alpha: float | jax.Array = 1.0,
    where: jax.Array | None = None,
    stats: ChannelStats | None = None,
  ) -> jax.Array:
    """Returns AdaIN's t: the input of the decoder, which the output's relu4_1 should equal."""
    target = apply_stats(content_features, code, content_stats=stats, where=where)
    return blend(content_features, target, alpha)

  def decode(self, target: jax.Array, code: ChannelStats) -> jax.Array:
    """Decodes `[n, h, w, 512]` to RGB `[n, 8 h, 8 w, 3]`."""
    del code  # already in the target
    return self.decoder(target)

  def decode_scale(
    self,
    scale: int,
    features: jax.Array,
    code: ChannelStats,
    stats: ChannelStats | None = None,
    borders: Borders = UNPADDED,
  ) -> jax.Array:
    """Runs one scale of the decoder; see `TransferModel`."""
    del code, stats
    return self.decoder.decode_scale(scale, features, enlarge=scale > 0, borders=borders)

  def __call__(self, content_features: jax.Array, style_features: jax.Array) -> jax.Array:
    """Stylizes feature maps; the path that initializes all parameters."""
    code = self.encode_style(style_features)
    return self.decode(self.content_target(content_features, code), code)
