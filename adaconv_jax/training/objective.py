"""The training loss: from a batch of images to the loss, for one device."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from adaconv_jax.models.transfer_model import TransferModel
from adaconv_jax.ops.adain import ChannelStats
from adaconv_jax.ops.extent import resize_middle
from adaconv_jax.ops.losses import (
  DETAIL_LAYERS,
  checkerboard_loss,
  content_loss,
  detail_loss,
  evenness_loss,
  layer_stats,
  palette,
  palette_loss,
  pixel_loss,
  self_similarity_loss,
  statistics_loss,
  structure_loss,
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
    style_ramp_steps: number of steps after the reconstruction phase over which the style weight
      grows linearly from zero; 0 starts with the full weight.
    checkerboard: weight of the checkerboard loss after the reconstruction phase; 0 omits it.
    self_similarity: weight of the self-similarity loss of relu4_1 against the content's, after the
      reconstruction phase; 0 omits it.
    palette: weight of the palette loss after the reconstruction phase; 0 omits it.
    detail: weight of the detail loss after the reconstruction phase; 0 omits it.
    structure: weight of the structure loss of relu4_1, after the reconstruction phase; 0 omits it.
    evenness: weight of the evenness loss after the reconstruction phase; 0 omits it.
  """

  content: float
  style: float
  layers: Mapping[str, float]
  pixel: float = 0.0
  style_ramp_steps: int = 0
  checkerboard: float = 0.0
  self_similarity: float = 0.0
  palette: float = 0.0
  detail: float = 0.0
  structure: float = 0.0
  evenness: float = 0.0


class StyleFeatures(NamedTuple):
  """What training needs of styles; it does not depend on the trained parameters.

  Attributes:
    encoded: relu4_1 `[n, h, w, 512]`.
    stats: the channel statistics of the style loss's layers, by name.
    palette: the colors, see `losses.palette`; None where no loss uses them.
  """

  encoded: jax.Array
  stats: Mapping[str, ChannelStats]
  palette: jax.Array | None = None


class Transfer(NamedTuple):
  """What the losses of a batch are computed from.

  Attributes:
    output: the stylized contents, RGB.
    content: relu4_1 of the contents.
    target: what relu4_1 of the output should be.
    encoded: relu4_1 of the output.
    stats: the output's channel statistics, by layer.
    style_stats: those of the styles.
    detail: the detail loss, or None.
  """

  output: jax.Array
  content: jax.Array
  target: jax.Array
  encoded: jax.Array
  stats: Mapping[str, ChannelStats]
  style_stats: Mapping[str, ChannelStats]
  detail: jax.Array | None = None


def make_style_features(
  model: TransferModel, vgg: VGG, style_layers: Mapping[str, float], *, colors: bool = False
) -> Callable[[VGGParams, jax.Array], StyleFeatures]:
  """Builds `style_features(vgg_params, style) -> StyleFeatures`, of images in [0, 1].

  Args:
    model: the trained part, which determines the size of styles.
    vgg: encoder and loss network.
    style_layers: the layers of the style loss, by name.
    colors: compute the palette, too.
  """
  layers = tuple(dict.fromkeys((*style_layers, ENCODER_LAYER)))

  def style_features(vgg_params, style):
    if model.style_size and model.style_fit == "crop":
      style = resize_middle(style, model.style_size)
    elif model.style_size:
      style = resize(style, model.style_size, model.style_size)
    maps: Any = vgg.apply({"params": vgg_params}, style, layers)
    return StyleFeatures(
      maps[ENCODER_LAYER],
      layer_stats(maps, style_layers),
      palette(style) if colors else None,
    )

  return style_features


def make_transfer(
  model: TransferModel, vgg: VGG, style_layers: Mapping[str, float], *, detail: bool = False
) -> Callable[..., Transfer]:
  """Builds `transfer(params, vgg_params, content, style) -> Transfer`.

  Contents are images in [0, 1], styles are `StyleFeatures`.

  Args:
    model: the trained part.
    vgg: encoder and loss network.
    style_layers: the layers of the style loss, by name.
    detail: compute the detail loss, too.
  """
  fine = DETAIL_LAYERS if detail else ()
  layers = tuple(dict.fromkeys((*style_layers, *fine, ENCODER_LAYER)))
  content_layers = tuple(dict.fromkeys((*model.content_layers, *fine, ENCODER_LAYER)))

  def features(vgg_params, images, layers) -> Any:
    return vgg.apply({"params": vgg_params}, images, layers)

  def apply(params, *args, method: str) -> Any:
    return model.apply({"params": params}, *args, method=method)

  def transfer(params, vgg_params, content, style):
    seen = features(vgg_params, content, content_layers)
    content_features = seen[ENCODER_LAYER]
    code = apply(params, style.encoded, method="encode_style")
    target = apply(params, content_features, code, method="content_target")
    skips = tuple(seen[layer] for layer in model.content_layers)
    given = (skips,) if skips else ()  # a model that is never given any need not take them
    output = apply(params, target, code, *given, method="decode")
    maps = features(vgg_params, output, layers)
    return Transfer(
      output,
      content_features,
      target,
      maps[ENCODER_LAYER],
      layer_stats(maps, style_layers),
      style.stats,
      detail_loss(maps, seen) if detail else None,
    )

  return transfer


def images_to_float(images: jax.Array) -> jax.Array:
  """Converts the uint8 images of a batch to float32 in [0, 1]."""
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
    reconstruct: use every content as its own style, and the pixel loss instead of the style loss. A
      decoder that has not yet learned to invert VGG's features satisfies the style loss with
      texture alone and hardly recovers the content, so short runs start this way.
  """
  detail = bool(weights.detail) and not reconstruct
  transfer = make_transfer(model, vgg, weights.layers, detail=detail)
  style_features = make_style_features(model, vgg, weights.layers, colors=bool(weights.palette))

  def loss(params, vgg_params, batch, style_scale):
    content = images_to_float(batch["content"])
    if reconstruct:
      style = style_features(vgg_params, content)
    elif isinstance(batch["style"], StyleFeatures):  # cached ones, in float16
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
      if weights.self_similarity:
        metrics["self_similarity_loss"] = self_similarity_loss(done.encoded, done.content)
        total = total + weights.self_similarity * metrics["self_similarity_loss"]
      if weights.palette:
        assert style.palette is not None  # `colors` was set
        metrics["palette_loss"] = palette_loss(palette(done.output), style.palette)
        total = total + weights.palette * metrics["palette_loss"]
      if weights.structure:
        metrics["structure_loss"] = structure_loss(done.encoded, done.content)
        total = total + weights.structure * metrics["structure_loss"]
      if weights.evenness:
        metrics["evenness_loss"] = evenness_loss(done.output, content)
        total = total + weights.evenness * metrics["evenness_loss"]
      if done.detail is not None:
        metrics["detail_loss"] = done.detail
        total = total + weights.detail * metrics["detail_loss"]
    return total, {"loss": total, **metrics}

  return loss
