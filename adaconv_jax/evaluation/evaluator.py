"""Measures how trained models render pairs of contents and styles.

`Evaluator` reads no pictures and writes nothing: it takes models and pictures of one size, encodes
each once per model, and gives the outputs of a content with their scores. `cli/evaluate.py` is the
command line around it, `report.py` what that writes.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from adaconv_jax.evaluation import artefacts
from adaconv_jax.evaluation.similarity import load_lpips, ssim
from adaconv_jax.files import tensors_sha256
from adaconv_jax.images import ImageError
from adaconv_jax.models.style_code import StyleCode
from adaconv_jax.models.stylizer import ContentCode, Stylizer
from adaconv_jax.models.transfer_model import Params
from adaconv_jax.ops.adain import ChannelStats
from adaconv_jax.ops.filters import Array
from adaconv_jax.ops.losses import content_loss, layer_stats, statistics_loss
from adaconv_jax.vgg import weights as vgg_weights
from adaconv_jax.vgg.file import to_tensors
from adaconv_jax.vgg.network import ENCODER_LAYER, STYLE_LAYERS, VGG, VGGParams

LAYER_WEIGHTS: dict[str, float] = dict.fromkeys(STYLE_LAYERS, 1.0)  # as published

# Name and meaning of every score of a pair, in the order of the columns.
SCORES = {
  "content_loss": "content lost: difference of relu4_1 from the content's own",
  "style_loss": "style missed: difference of VGG's statistics from the style's, four layers",
  "style_loss_of_content": "the same of the content as it is: what a model starts from",
  "ssim": "structural similarity of grey to the content, 1 is equal",
  "lpips": "LPIPS (AlexNet) from the content, 0 is equal",
  "checkerboard_horizontal": "dB of stripes 2 pixels wide against the content, 0 is equal",
  "checkerboard_vertical": "dB, vertically",
  "checkerboard_both": "dB, both at once",
  "border_color": "how far a 16-pixel frame stands out in RGB, 0 as in the content",
  "border_roughness": "log2 of how much rougher the frame is, 0 as in the content",
  "saturation": "of the output minus the style's, negative is grey",
  "contrast": "of the output minus the style's, negative is flat",
  "halo": "overshoot beside the content's plain strong edges, 0 is none",
  "clipped": "share of pixels with a channel at 0 or 1",
}


@struct.dataclass
class LossNetwork:
  """The VGG under which all models' losses are computed, so that they can be compared."""

  params: VGGParams
  vgg: VGG = struct.field(pytree_node=False)

  def features(self, image: jax.Array) -> Mapping[str, jax.Array]:
    """The layers of the losses, of one image `[h, w, 3]`."""
    outputs = self.vgg.apply({"params": self.params}, image[None], STYLE_LAYERS)
    assert isinstance(outputs, Mapping)
    return outputs


def load_loss_network() -> tuple[LossNetwork, dict[str, str]]:
  """VGG-16 with reflect padding, which comes with the package; and what to say about it."""
  params, info = vgg_weights.load("vgg16")
  network = LossNetwork(params, VGG("vgg16", "reflect"))
  # Of the values in use, as bundles name them: the file may be float16, or go on behind relu4_1.
  sha256 = tensors_sha256(to_tensors(params))
  described = {"arch": "vgg16", "padding": "reflect", "sha256": sha256}
  return network, described | {"source": info["source"], "scaled": info.get("scaled", "no")}


@struct.dataclass
class Reference:
  """What scores need of a content or a style, the same for all models.

  Attributes:
    image: `[h, w, 3]`, RGB in [0, 1].
    features: relu4_1 of the loss network, of a content only.
    stats: channel statistics by layer of the loss network.
  """

  image: jax.Array
  features: jax.Array | None
  stats: Mapping[str, ChannelStats]


class Output(NamedTuple):
  """One rendered pair: the picture `[h, w, 3]` in [0, 1], and its scores by name."""

  stylized: np.ndarray
  scores: dict[str, float]


class Evaluator:
  """Renders and scores pairs; all pictures have one size, so everything is compiled once.

  Args:
    models: by name.
    network: from `load_loss_network`.
    styles: each `[h, w, 3]`, uint8.
  """

  def __init__(
    self, models: Mapping[str, Stylizer], network: LossNetwork, styles: Sequence[np.ndarray]
  ):
    self._models, self._network = models, network
    lpips = load_lpips()
    self._lpips, self._lpips_params = (None, None) if lpips is None else lpips
    self._styles = [_reference(network, style, keep_features=False) for style in styles]
    self._codes: dict[str, list[StyleCode]] = {
      name: [_encode_style(stylizer, style.image) for style in self._styles]
      for name, stylizer in models.items()
    }

  def render(
    self,
    content: np.ndarray,
    styles: Sequence[int],
    name: str,
    advance: Callable[[], object] = lambda: None,
  ) -> dict[str, list[Output]]:
    """Renders one content in some styles with every model.

    Args:
      content: `[h, w, 3]`, uint8.
      styles: indices of the styles.
      name: what to call the content in errors.
      advance: called after every output, for a progress bar.

    Returns:
      For every model, by name, the outputs in the order of `styles`.

    Raises:
      ImageError: an output is not finite.
    """
    reference = _reference(self._network, content, keep_features=True)
    outputs: dict[str, list[Output]] = {}
    for model, stylizer in self._models.items():
      code, outputs[model] = _encode_content(stylizer, reference.image), []
      for index in styles:
        stylized, scores = _measure(
          stylizer, self._network, self._lpips_params, code, self._codes[model][index],
          reference, self._styles[index], lpips=self._lpips,
        )  # fmt: skip
        if not np.isfinite(stylized).all():
          raise ImageError(f"{name}: {model} makes NaN or infinity of it")
        scores = {score: float(scores[score]) for score in SCORES if score in scores}
        outputs[model].append(Output(np.asarray(stylized), scores))
        advance()
    return outputs


@functools.partial(jax.jit, static_argnames="keep_features")
def _reference(network: LossNetwork, image: jax.Array, *, keep_features: bool) -> Reference:
  image = image.astype(jnp.float32) / 255
  features = network.features(image)
  # A style's feature maps would be 30 MB at 256 x 256.
  kept = features[ENCODER_LAYER] if keep_features else None
  return Reference(image, kept, layer_stats(features, LAYER_WEIGHTS))


@jax.jit
def _encode_style(stylizer: Stylizer, image: jax.Array) -> StyleCode:
  return stylizer.encode_style(image[None])


@jax.jit
def _encode_content(stylizer: Stylizer, image: jax.Array) -> ContentCode:
  return stylizer.encode_content(image[None], for_alpha=False)


@functools.partial(jax.jit, static_argnames="lpips")
def _measure(
  stylizer: Stylizer,
  network: LossNetwork,
  lpips_params: Params,
  content_code: ContentCode,
  style_code: StyleCode,
  content: Reference,
  style: Reference,
  *,
  lpips: Callable[[Params, Array, Array], jax.Array] | None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  stylized = stylizer.render(content_code, style_code)[0]
  features = network.features(stylized)
  assert content.features is not None
  scores = {
    "content_loss": content_loss(features[ENCODER_LAYER], content.features),
    "style_loss": statistics_loss(layer_stats(features, LAYER_WEIGHTS), style.stats, LAYER_WEIGHTS),
    "style_loss_of_content": statistics_loss(content.stats, style.stats, LAYER_WEIGHTS),
    "ssim": ssim(stylized, content.image),
    "halo": artefacts.halo(stylized, content.image),
    "clipped": artefacts.clipped(stylized),
  }
  if lpips is not None:
    scores["lpips"] = lpips(lpips_params, stylized, content.image)
  checkerboard = artefacts.checkerboard(stylized, content.image)
  scores |= {f"checkerboard_{key}": value for key, value in checkerboard._asdict().items()}
  border = artefacts.border(stylized, content.image)
  scores |= {f"border_{key}": value for key, value in border._asdict().items()}
  return stylized, scores | artefacts.dullness(stylized, style.image)._asdict()


def draw_pairs(contents: int, styles: int, number: int | None) -> list[tuple[int, int]]:
  """Chooses pairs of content and style, in a fixed way that looks like chance.

  Every content is in as many pairs as any other, or in one less; likewise every style.

  Args:
    contents: their number.
    styles: their number.
    number: of pairs, at most all; None for all.

  Returns:
    Indices of content and style, sorted.

  Raises:
    ValueError: `number` is below 1 or above that of all pairs.
  """
  every = contents * styles
  number = every if number is None else number
  if not 1 <= number <= every:
    raise ValueError(
      f"--pairs: expected 'all', or 1 to {every} for {contents} contents and {styles} styles, got "
      f"{number}"
    )
  rng = np.random.default_rng(0)
  content_order, style_order = rng.permutation(contents), rng.permutation(styles)
  # Both step on together; when they come round to the first pair, the styles move by one.
  round_length = int(np.lcm(contents, styles))
  return sorted(
    (int(content_order[k % contents]), int(style_order[(k + k // round_length) % styles]))
    for k in range(number)
  )
