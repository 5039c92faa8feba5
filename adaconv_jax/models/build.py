"""The trained parts of AdaIN and AdaConv: two Flax modules with the same methods."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from adaconv_jax.models.decoder import SCALES, Decoder
from adaconv_jax.ops.adaconv import AdaConvKernels, GlobalStyleEncoder, KernelPredictor, adaconv
from adaconv_jax.ops.adain import ChannelStats, apply_stats, channel_stats
from adaconv_jax.ops.extent import Extent

# What a style is to a model: computed once, used for many contents. A pytree whose leaves lead
# with the batch axis, so codes of several styles can be averaged leaf by leaf to mix them.
StyleCode = ChannelStats | tuple[AdaConvKernels, ...]

STRIDE = 8  # relu4_1 lies behind three poolings


class AdaIN(nn.Module):
  """AdaIN's trained part: the decoder. A style's code is its relu4_1 channel statistics."""

  def setup(self):  # noqa: D102 (Flax's)
    self.decoder = Decoder()

  @property
  def style_size(self) -> None:
    """A style image may have any size."""
    return None

  def encode_style(self, style_features: jax.Array, extent: Extent | None = None) -> ChannelStats:
    """Encodes relu4_1 of the styles, `[n, h, w, 512]`, or what counts of it."""
    return channel_stats(style_features, extent=extent)

  def content_target(
    self,
    content_features: jax.Array,
    code: ChannelStats,
    alpha: float | jax.Array = 1.0,
    extent: Extent | None = None,
  ) -> jax.Array:
    """AdaIN's t: what enters the decoder, and what the output's relu4_1 is trained to equal."""
    return blend(content_features, apply_stats(content_features, code, extent=extent), alpha)

  def decode(self, target: jax.Array, code: ChannelStats) -> jax.Array:
    """Decodes `[n, h, w, 512]` to RGB `[n, 8 h, 8 w, 3]`."""
    del code  # already in the target
    return self.decoder(target)

  def decode_scale(
    self,
    scale: int,
    features: jax.Array,
    code: ChannelStats,
    stats: ChannelStats,
    extent: Extent | None = None,
  ) -> jax.Array:
    """Runs one scale of the decoder on a part of the feature map; see `AdaConv.decode_scale`."""
    del code, stats
    return self.decoder.decode_scale(scale, features, enlarge=scale > 0, extent=extent)

  def __call__(self, content_features: jax.Array, style_features: jax.Array) -> jax.Array:
    """Stylizes feature maps; the path that initializes all parameters."""
    code = self.encode_style(style_features)
    return self.decode(self.content_target(content_features, code), code)


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

  def encode_style(self, style_features: jax.Array) -> tuple[AdaConvKernels, ...]:
    """Predicts the kernels from relu4_1 of the styles, `[n, style_size / 8, same, 512]`."""
    descriptor = self.style_encoder(style_features)
    return tuple(predict(descriptor) for predict in self.predictors)

  def content_target(
    self,
    content_features: jax.Array,
    code: StyleCode,
    alpha: float | jax.Array = 1.0,
    extent: Extent | None = None,
  ) -> jax.Array:
    """The content's own features: AdaConv changes them only inside the decoder."""
    del code, alpha, extent
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
    """Runs one scale of the decoder: the adaptive convolution, then the learned ones.

    Args:
      scale: 0 (coarse) to 3.
      features: `[n, h, w, c]`, what enters the scale, or some rows of it.
      code: the kernels of all scales.
      stats: statistics of the whole feature map, where `features` are some rows of it.
      extent: what counts of `features`; None: all.

    Returns:
      `[n, h, w, c']` for scale 0, `[n, 2 h, 2 w, c']` for the others.
    """
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


TransferModel = AdaIN | AdaConv


def make_model(transform: str, settings: Mapping[str, Any] | None = None) -> TransferModel:
  """Builds the module named by `transform`.

  Args:
    transform: "adain" or "adaconv".
    settings: the module's attributes that differ from the published ones; see `AdaConv`.

  Raises:
    ValueError: unknown `transform` or setting, or `groups` is not a sequence.
  """
  models = {"adain": AdaIN, "adaconv": AdaConv}
  if transform not in models:
    raise ValueError(f"transform: expected one of {sorted(models)}, got {transform!r}")
  cls, settings = models[transform], dict(settings or {})
  known = {f.name for f in dataclasses.fields(cls)} - {"name", "parent"}
  if unknown := settings.keys() - known:
    raise ValueError(f"{transform}: unknown settings {sorted(unknown)}; it has {sorted(known)}")
  if "groups" in settings:
    if not isinstance(settings["groups"], list | tuple):
      raise ValueError(f"groups: expected one number per scale, got {settings['groups']!r}")
    settings["groups"] = tuple(settings["groups"])
  return cls(**settings)


def model_settings(model: TransferModel) -> dict[str, Any]:
  """The inverse of `make_model`: `{"transform": ..., "settings": {...}}`, fit for JSON."""
  settings = {
    f.name: getattr(model, f.name)
    for f in dataclasses.fields(model)
    if f.name not in ("name", "parent")
  }
  return {"transform": type(model).__name__.lower(), "settings": settings}


def init_params(model: TransferModel, key: jax.Array) -> Any:
  """Initializes the trained parameters from a PRNG key."""
  side = (model.style_size or 64) // STRIDE
  features = jnp.zeros((1, side, side, SCALES[0][0]))
  return jax.jit(model.init)(key, features, features)["params"]


def is_one(alpha: float | jax.Array) -> bool:
  """Whether it is a plain 1 and no traced number."""
  return isinstance(alpha, int | float) and alpha == 1


def blend(start: Any, end: Any, alpha: float | jax.Array) -> Any:
  """(1 - alpha) * start + alpha * end, leaf by leaf; `start` is not touched when alpha is 1."""
  if is_one(alpha):
    return end
  return jax.tree.map(lambda a, b: (1 - alpha) * a + alpha * b, start, end)
