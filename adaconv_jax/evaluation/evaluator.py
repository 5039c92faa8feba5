"""Scores how trained models render pairs of contents and styles.

`Evaluator` reads and writes no files: it takes models and pictures of one size, encodes each
picture once per model, and returns the outputs for a content with their scores. `cli/evaluate.py`
is the command line around it, and `report.py` writes its results.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from adaconv_jax.evaluation import artifacts
from adaconv_jax.evaluation.peers import Peer
from adaconv_jax.evaluation.similarity import Box, face_structure, load_lpips, ssim
from adaconv_jax.images import ImageError, to_uint8
from adaconv_jax.models.style_code import StyleCode
from adaconv_jax.models.stylizer import ContentCode, Stylizer
from adaconv_jax.models.transfer_model import Params
from adaconv_jax.ops.adain import ChannelStats
from adaconv_jax.ops.evenness import even_out
from adaconv_jax.ops.filters import Array
from adaconv_jax.ops.losses import content_loss, layer_stats, statistics_loss
from adaconv_jax.ops.palette import match_palette, measure_palette
from adaconv_jax.stages import detail_weight, goal_of, goal_side, refined, sampled
from adaconv_jax.tensor_files import tensors_sha256
from adaconv_jax.vgg import weights as vgg_weights
from adaconv_jax.vgg.file import to_tensors
from adaconv_jax.vgg.network import ENCODER_LAYER, STYLE_LAYERS, VGG, VGGParams

LAYER_WEIGHTS: dict[str, float] = dict.fromkeys(STYLE_LAYERS, 1.0)  # as published

# Name and meaning of every score of a pair, in the order of the columns.
SCORES = {
  "content_loss": "content lost: difference of relu4_1 from the content's own",
  "style_loss": "style missed: difference of VGG's statistics from the style's, four layers",
  "style_loss_of_content": "the same for the unchanged content: what a model starts from",
  "ssim": "structural similarity of gray to the content, 1 is equal",
  "face": "structure of the faces of --faces, 1 as in the content, 0 is lost",
  "lpips": "LPIPS (AlexNet) from the content, 0 is equal",
  "checkerboard_horizontal": "dB of stripes 2 pixels wide against the content, 0 is equal",
  "checkerboard_vertical": "dB, vertically",
  "checkerboard_both": "dB, both at once",
  "border_color": "how much a 16-pixel frame differs in RGB, 0 as in the content",
  "border_roughness": "log2 of how much rougher the frame is, 0 as in the content",
  "saturation": "of the output minus the style's, negative is gray",
  "contrast": "of the output minus the style's, negative is flat",
  "halo": "overshoot beside the content's plain strong edges, 0 is none",
  "clipped": "share of pixels with a channel at 0 or 1",
  "plain_marks": "RMS of marks where the content is plain, more than the content's, 0 is none",
  "plain_rows": "how far these marks repeat, 0 to 1 for a perfect pattern",
  "plain_halo": "difference in color of plain surfaces near structure from those far from it",
  "palette": "difference of the histogram of colors from the style's, 0 is equal, 1 disjoint",
  "flicker": "mean difference that noise of 2 levels of 255 in the content makes, in [0, 1]",
}


# Of the noise for "flicker": that of a good camera's video.
NOISE = 2 / 255


@struct.dataclass
class LossNetwork:
  """The VGG with which the losses of all models are computed, so that they can be compared."""

  params: VGGParams
  vgg: VGG = struct.field(pytree_node=False)

  def features(self, image: jax.Array) -> Mapping[str, jax.Array]:
    """Computes the layers of the losses, of one image `[h, w, 3]`."""
    outputs = self.vgg.apply({"params": self.params}, image[None], STYLE_LAYERS)
    assert isinstance(outputs, Mapping)
    return outputs


def load_loss_network() -> tuple[LossNetwork, dict[str, str]]:
  """Loads the packaged VGG-16, with reflect padding, and its description for the summary."""
  params, info = vgg_weights.load("vgg16")
  network = LossNetwork(params, VGG("vgg16", "reflect"))
  # A hash of the values in use, as in bundles: the file may be float16, or continue after relu4_1.
  described = {
    "arch": "vgg16",
    "padding": "reflect",
    "values_sha256": tensors_sha256(to_tensors(params)),
    "file_sha256": info["file_sha256"],
  }
  return network, described | {"source": info["source"], "scaled": info.get("scaled", "no")}


@struct.dataclass
class Reference:
  """What the scores need of a content or a style, the same for all models.

  Attributes:
    image: `[h, w, 3]`, RGB in [0, 1].
    features: relu4_1 of the loss network, for a content only.
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
  """Renders and scores pairs; all pictures have the same size, so everything is compiled once.

  Args:
    models: by name; a peer is another project's model.
    network: from `load_loss_network`.
    styles: each `[h, w, 3]`, uint8.
    alpha: strength of the style, 0 to 1; of our models.
    detail: share of the content's fine structure, 0 to 1; of our models.
    palette: how far colors are moved to the style's own, 0 to 1; of our models.
    evenness: how far plain surfaces have no halo, 0 to 1; of our models.
    refine: how many steps improve a style's code for each content; of our models. The score
      "flicker" is of one code, as in a video.
  """

  def __init__(
    self,
    models: Mapping[str, Stylizer | Peer],
    network: LossNetwork,
    styles: Sequence[np.ndarray],
    *,
    alpha: float = 1.0,
    detail: float = 0.0,
    palette: float = 0.0,
    evenness: float = 0.0,
    refine: int = 0,
  ):
    self._network = network
    lpips = load_lpips()
    self._lpips, self._lpips_params = (None, None) if lpips is None else lpips
    self._styles = [_reference(network, style, keep_features=False) for style in styles]
    look = {"alpha": alpha, "detail": detail, "palette": palette, "evenness": evenness}
    self._painters = {
      name: _peer_painter(model, styles)
      if isinstance(model, Peer)
      else _painter(model, [style.image for style in self._styles], look, refine)
      for name, model in models.items()
    }

  def render(
    self,
    content: np.ndarray,
    styles: Sequence[int],
    name: str,
    advance: Callable[[], object] = lambda: None,
    faces: Sequence[Box] | None = None,
  ) -> dict[str, list[Output]]:
    """Renders one content in some styles with every model.

    Args:
      content: `[h, w, 3]`, uint8.
      styles: indices of the styles.
      name: name of the content in errors.
      advance: called after every output, for a progress bar.
      faces: left, top, right and bottom of every face, in pixels of `content`. The score "face" is
        their mean, and NaN without a face. None: it is no score.

    Returns:
      For every model, by name, the outputs in the order of `styles`.

    Raises:
      ImageError: an output is not finite.
    """
    reference = _reference(self._network, content, keep_features=True)
    # The same noise for every content, model and run.
    noise = np.random.default_rng(0).normal(0, NOISE, content.shape).astype(np.float32)
    noisy = jnp.clip(reference.image + noise, 0, 1)
    outputs: dict[str, list[Output]] = {}
    for model, painter in self._painters.items():
      outputs[model] = []
      paint = painter(reference.image, noisy)
      for index in styles:
        stylized, stylized_noisy = paint(index)
        scores = _measure(
          self._network, self._lpips_params, stylized, stylized_noisy, reference,
          self._styles[index], lpips=self._lpips,
        )  # fmt: skip
        if not np.isfinite(stylized).all():
          raise ImageError(f"{name}: the output of {model} has NaN or infinite values")
        if faces is not None:
          found = [
            _face_structure(stylized, reference.image, np.array(box, np.float32)) for box in faces
          ]
          scores["face"] = np.mean(found) if found else np.nan
        scores = {score: float(scores[score]) for score in SCORES if score in scores}
        outputs[model].append(Output(np.asarray(stylized), scores))
        advance()
    return outputs


# Takes a content `[h, w, 3]` in [0, 1] and the same with noise, and returns a function from the
# index of a style to the pictures of both in that style.
_Painter = Callable[[jax.Array, jax.Array], Callable[[int], tuple[jax.Array, jax.Array]]]


def _painter(
  stylizer: Stylizer,
  styles: Sequence[jax.Array],
  look: Mapping[str, float],
  refine: int,
) -> _Painter:
  codes = [_encode_style(stylizer, style) for style in styles]
  palettes = [_measure_palette(style) if look["palette"] else None for style in styles]
  goals = [
    goal_of(stylizer, style[None], None, goal_side(style.shape[:2])) if refine else None
    for style in styles
  ]
  share = detail_weight(look["detail"])

  def painter(content: jax.Array, noisy: jax.Array) -> Callable[[int], tuple[jax.Array, jax.Array]]:
    both = [
      _encode_content(stylizer, one, for_alpha=look["alpha"] != 1) for one in (content, noisy)
    ]
    part = sampled(content[None]) if refine else None

    def paint(index: int) -> tuple[jax.Array, jax.Array]:
      style = refined(stylizer, codes[index], part, goals[index], refine, share)
      first, second = (_render(stylizer, code, style, palettes[index], **look) for code in both)
      return first, second

    return paint

  return painter


def _peer_painter(peer: Peer, styles: Sequence[np.ndarray]) -> _Painter:
  def painter(content: jax.Array, noisy: jax.Array) -> Callable[[int], tuple[jax.Array, jax.Array]]:
    both = [to_uint8(np.asarray(one)) for one in (content, noisy)]

    def paint(index: int) -> tuple[jax.Array, jax.Array]:
      first, second = (
        jnp.asarray(peer.stylize(pixels, styles[index]) / np.float32(255)) for pixels in both
      )
      return first, second

    return paint

  return painter


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


@functools.partial(jax.jit, static_argnames="for_alpha")
def _encode_content(stylizer: Stylizer, image: jax.Array, *, for_alpha: bool) -> ContentCode:
  return stylizer.encode_content(image[None], for_alpha=for_alpha)


@jax.jit
def _measure_palette(image: jax.Array) -> jax.Array:
  return measure_palette(image[None])


@functools.partial(jax.jit, static_argnames=("alpha", "detail", "palette", "evenness"))
def _render(
  stylizer: Stylizer,
  content_code: ContentCode,
  style_code: StyleCode,
  style_palette: jax.Array | None,
  *,
  alpha: float,
  detail: float,
  palette: float,
  evenness: float,
) -> jax.Array:
  pictures = stylizer.render(content_code, style_code, alpha, detail=detail)
  if evenness:
    pictures = even_out(pictures, content_code.pictures, alpha * evenness)
  if style_palette is not None:
    pictures = match_palette(pictures, style_palette, alpha * palette)
  return pictures[0]


_face_structure = jax.jit(face_structure)


@functools.partial(jax.jit, static_argnames="lpips")
def _measure(
  network: LossNetwork,
  lpips_params: Params,
  stylized: jax.Array,
  stylized_noisy: jax.Array,
  content: Reference,
  style: Reference,
  *,
  lpips: Callable[[Params, Array, Array], jax.Array] | None,
) -> dict[str, jax.Array]:
  features = network.features(stylized)
  assert content.features is not None
  scores = {
    "content_loss": content_loss(features[ENCODER_LAYER], content.features),
    "style_loss": statistics_loss(layer_stats(features, LAYER_WEIGHTS), style.stats, LAYER_WEIGHTS),
    "style_loss_of_content": statistics_loss(content.stats, style.stats, LAYER_WEIGHTS),
    "ssim": ssim(stylized, content.image),
    "halo": artifacts.halo(stylized, content.image),
    "clipped": artifacts.clipped(stylized),
    "palette": artifacts.palette(stylized, style.image),
    "flicker": artifacts.flicker(stylized, stylized_noisy),
  }
  if lpips is not None:
    scores["lpips"] = lpips(lpips_params, stylized, content.image)
  checkerboard = artifacts.checkerboard(stylized, content.image)
  scores |= {f"checkerboard_{key}": value for key, value in checkerboard._asdict().items()}
  plain = artifacts.plain(stylized, content.image)
  scores |= {f"plain_{key}": value for key, value in plain._asdict().items()}
  border = artifacts.border(stylized, content.image)
  scores |= {f"border_{key}": value for key, value in border._asdict().items()}
  return scores | artifacts.dullness(stylized, style.image)._asdict()


def draw_pairs(contents: int, styles: int, number: int | None) -> list[tuple[int, int]]:
  """Chooses pairs of content and style pseudo-randomly, the same ones every time.

  Every content is in as many pairs as any other, or in one less; likewise every style.

  Args:
    contents: their number.
    styles: their number.
    number: number of pairs; None for all.

  Returns:
    Indices of content and style, sorted.

  Raises:
    ValueError: `number` is below 1 or above the number of all pairs.
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
  # Both advance together; when they return to the first pair, the styles move by one.
  round_length = int(np.lcm(contents, styles))
  return sorted(
    (int(content_order[k % contents]), int(style_order[(k + k // round_length) % styles]))
    for k in range(number)
  )
