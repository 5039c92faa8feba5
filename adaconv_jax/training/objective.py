"""What training minimizes: from a batch of images to the loss, for one device."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from adaconv_jax.models.transfer_model import TransferModel
from adaconv_jax.ops.adain import ChannelStats
from adaconv_jax.ops.losses import (
  checkerboard_loss,
  content_loss,
  layer_stats,
  pixel_loss,
  statistics_loss,
)
from adaconv_jax.ops.resize import resize
from adaconv_jax.vgg.network import ENCODER_LAYER, VGG, VGGParams

Metrics = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class LossWeights:
  """Weights of the training loss; see `losses.py` for its terms.

  Attributes:
    content: weight of the content loss.
    style: weight of the style loss, the papers' lambda.
    layers: weight of every layer in the style loss, by name.
    pixel: weight of the pixel loss while the model learns to reconstruct.
    style_ramp_steps: steps, counted from the end of the reconstruction phase, over which the style
      weight grows linearly from zero; 0 starts with the full weight.
    checkerboard: weight of the checkerboard loss after the reconstruction phase; 0 leaves it out.
  """

  content: float
  style: float
  layers: Mapping[str, float]
  pixel: float = 0.0
  style_ramp_steps: int = 0
  checkerboard: float = 0.0


class StyleFeatures(NamedTuple):
  """All that training takes from styles; it does not depend on the trained parameters.

  Attributes:
    encoded: relu4_1 `[n, h, w, 512]`.
    stats: the channel statistics of the style loss's layers, by name.
  """

  encoded: jax.Array
  stats: Mapping[str, ChannelStats]


class Transfer(NamedTuple):
  """What the losses of a batch are made of.

  Attributes:
    output: the stylized contents, RGB.
    target: what relu4_1 of the output is to be.
    encoded: relu4_1 of the output.
    stats: the output's channel statistics, by layer.
    style_stats: those of the styles.
  """

  output: jax.Array
  target: jax.Array
  encoded: jax.Array
  stats: Mapping[str, ChannelStats]
  style_stats: Mapping[str, ChannelStats]


def make_style_features(
  model: TransferModel, vgg: VGG, style_layers: Mapping[str, float]
) -> Callable[[VGGParams, jax.Array], StyleFeatures]:
  """Builds `style_features(vgg_params, style) -> StyleFeatures`, of images in [0, 1].

  Args:
    model: the trained part, for the size at which it takes styles.
    vgg: encoder and loss network.
    style_layers: the layers of the style loss, by name.
  """
  layers = tuple(dict.fromkeys((*style_layers, ENCODER_LAYER)))

  def style_features(vgg_params, style):
    if model.style_size:
      style = resize(style, model.style_size, model.style_size)
    maps: Any = vgg.apply({"params": vgg_params}, style, layers)
    return StyleFeatures(maps[ENCODER_LAYER], layer_stats(maps, style_layers))

  return style_features


def make_transfer(
  model: TransferModel, vgg: VGG, style_layers: Mapping[str, float]
) -> Callable[..., Transfer]:
  """Builds `transfer(params, vgg_params, content, style) -> Transfer`.

  Contents are images in [0, 1], styles are `StyleFeatures`.

  Args:
    model: the trained part.
    vgg: encoder and loss network.
    style_layers: the layers of the style loss, by name.
  """
  layers = tuple(dict.fromkeys((*style_layers, ENCODER_LAYER)))

  def features(vgg_params, images, layers) -> Any:
    return vgg.apply({"params": vgg_params}, images, layers)

  def apply(params, *args, method: str) -> Any:
    return model.apply({"params": params}, *args, method=method)

  def transfer(params, vgg_params, content, style):
    content_features = features(vgg_params, content, (ENCODER_LAYER,))[ENCODER_LAYER]
    code = apply(params, style.encoded, method="encode_style")
    target = apply(params, content_features, code, method="content_target")
    output = apply(params, target, code, method="decode")
    maps = features(vgg_params, output, layers)
    return Transfer(
      output, target, maps[ENCODER_LAYER], layer_stats(maps, style_layers), style.stats
    )

  return transfer


def images_to_float(images: jax.Array) -> jax.Array:
  """Converts uint8 images, as a batch has them, to float32 in [0, 1]."""
  return images.astype(jnp.float32) / 255


def make_loss(
  model: TransferModel, vgg: VGG, weights: LossWeights, *, reconstruct: bool
) -> Callable[..., tuple[jax.Array, Metrics]]:
  """Builds `loss(params, vgg_params, batch, style_scale) -> (loss, metrics)`.

  A batch has "content", uint8 images, and "style": uint8 images or their `StyleFeatures`.

  Args:
    model: the trained part.
    vgg: encoder and loss network.
    weights: of the loss terms.
    reconstruct: take every content as its own style, and the pixel loss in place of the style
      loss. A decoder that has not first learned to invert VGG's features satisfies the style loss
      with texture alone and hardly recovers the content, so short runs start this way.
  """
  transfer = make_transfer(model, vgg, weights.layers)
  style_features = make_style_features(model, vgg, weights.layers)

  def loss(params, vgg_params, batch, style_scale):
    content = images_to_float(batch["content"])
    if reconstruct:
      style = style_features(vgg_params, content)
    elif isinstance(batch["style"], StyleFeatures):  # kept ones, in float16
      kept = batch["style"]
      style = kept._replace(encoded=kept.encoded.astype(vgg.compute_dtype))
    else:
      style = style_features(vgg_params, images_to_float(batch["style"]))
    done = transfer(params, vgg_params, content, style)
    metrics = {"content_loss": content_loss(done.encoded, done.target)}
    total = weights.content * metrics["content_loss"]
    if reconstruct:
      metrics["pixel_loss"] = pixel_loss(done.output, content)
      total = total + weights.pixel * metrics["pixel_loss"]
    else:
      metrics["style_loss"] = statistics_loss(done.stats, done.style_stats, weights.layers)
      total = total + weights.style * style_scale * metrics["style_loss"]
      if weights.checkerboard:
        metrics["checkerboard_loss"] = checkerboard_loss(done.output)
        total = total + weights.checkerboard * metrics["checkerboard_loss"]
    return total, {"loss": total, **metrics}

  return loss
