"""The whole model: VGG encoder, the AdaIN or AdaConv transform, and the decoder.

`Stylizer` puts a `TransferModel` together with its trained parameters and the frozen VGG
weights, and takes images:

    stylizer = Stylizer(params, vgg_params, model, vgg)
    code = stylizer.encode_style(style)              # once per style
    stylized = stylizer.stylize(content, code, 0.8)  # for every content
"""

import functools
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import struct

from adaconv_jax.models.decoder import SCALES
from adaconv_jax.models.style_code import StyleCode, blend, is_one
from adaconv_jax.models.transfer_model import Params, TransferModel
from adaconv_jax.ops.adain import ChannelStats, channel_stats
from adaconv_jax.ops.conv import reflect_pad_to_multiple
from adaconv_jax.ops.extent import Extent, inside, mirror_all
from adaconv_jax.ops.resize import resize, resize_inside
from adaconv_jax.ops.tiling import by_strips, image_bytes, one_by_one
from adaconv_jax.vgg.network import ENCODER_LAYER, STRIDE, VGG, VGGParams, reach


@struct.dataclass
class ContentCode:
  """What contents are to a model: computed once, rendered in many styles.

  Attributes:
    features: relu4_1 `[n, ceil(h / 8), ceil(w / 8), 512]`.
    own_style: the code of the contents taken as styles, which AdaConv's alpha needs, or None.
    size: height and width of the contents, static.
    extent: the valid region of the contents; None: all.
  """

  features: jax.Array
  own_style: StyleCode | None
  size: tuple[int, int] = struct.field(pytree_node=False)
  extent: Extent | None = None


@struct.dataclass
class Stylizer:
  """A trained style transfer model, as a pytree: usable as an argument of `jit` and friends.

  Attributes:
    params: the trained parameters.
    vgg_params: the frozen VGG weights.
    model: the trained part, such as `AdaIN` or `AdaConv`, static.
    vgg: the encoder, static.
  """

  params: Params
  vgg_params: VGGParams
  model: TransferModel = struct.field(pytree_node=False)
  vgg: VGG = struct.field(pytree_node=False)

  def fit_style(self, style: jax.Array, extent: Extent | None = None) -> jax.Array:
    """Resizes styles to what is encoded; `encode_style` does so itself.

    Whoever encodes styles of many sizes can compile this apart from the rest, which is then
    compiled once for AdaConv.

    Args:
      style: `[n, h, w, 3]`, RGB in [0, 1], any size.
      extent: the valid region of the styles, at least 16 x 16; None: all.

    Returns:
      `[n, style_size, style_size, 3]` for AdaConv, all of it valid, antialiased and without
      keeping the aspect ratio; for AdaIN `style`, enlarged if it is too small for relu4_1.
    """
    size = self.model.style_size
    if extent is not None:
      return style if size is None else resize_inside(style, extent, size, size)
    h, w = style.shape[1:3] if size is None else (size, size)
    # Below, relu4_1 would be empty or one pixel.
    return resize(style, max(h, 2 * STRIDE), max(w, 2 * STRIDE))

  def encode_style(self, style: jax.Array, extent: Extent | None = None) -> StyleCode:
    """Computes what `stylize` needs to know of the styles, once for any number of contents.

    Args:
      style: `[n, h, w, 3]`, RGB in [0, 1], any size; see `fit_style`.
      extent: the valid region of the styles, at least 16 x 16; None: all.
    """
    fitted = self.fit_style(style, extent)
    if self.model.style_size is not None:
      extent = None  # resized
    features = self._features(fitted, extent)
    where = inside(features, extent and extent.over(STRIDE))
    return self._apply(features, where, method="encode_style")

  def stylize(
    self, content: jax.Array, code: StyleCode, alpha: float | jax.Array = 1.0
  ) -> jax.Array:
    """Renders `content` in the styles of `code`: `encode_content`, then `render`.

    Args:
      content: `[n, h, w, 3]`, RGB in [0, 1], any size.
      code: from `encode_style`, of n styles, or of one for all contents.
      alpha: 0 (content) to 1 (style); see `render`.

    Returns:
      `[n, h, w, 3]` in [0, 1].

    Raises:
      ValueError: `code` is neither of one style nor of one per content.
    """
    encoded = self.encode_content(content, for_alpha=not is_one(alpha))
    return self.render(encoded, code, alpha)

  def encode_content(
    self, content: jax.Array, *, for_alpha: bool = True, extent: Extent | None = None
  ) -> ContentCode:
    """Computes what `render` needs to know of the contents, once for any number of styles.

    Args:
      content: `[n, h, w, 3]`, RGB in [0, 1], any size.
      for_alpha: prepare for an alpha other than 1, which AdaConv does by encoding the contents as
        styles, too.
      extent: the valid region of the contents, and of the pictures that `render` returns; None:
        all. The model's kernels are at most 3 x 3 then.
    """
    needed = for_alpha and self.model.alpha_needs_own_style
    own_style = self.encode_style(content, extent) if needed else None
    size = (content.shape[1], content.shape[2])
    if extent is None:
      features = self._features(reflect_pad_to_multiple(content, STRIDE))
    else:
      features = self._features(mirror_all(content, extent), extent.padded(STRIDE))
    return ContentCode(features, own_style, size, extent)

  def render(
    self, content: ContentCode, code: StyleCode, alpha: float | jax.Array = 1.0
  ) -> jax.Array:
    """Renders encoded contents in the styles of `code`.

    alpha weighs AdaIN's t against the content's features (Huang & Belongie 2017, eq. 14).
    AdaConv's paper has no such control; there alpha weighs the style's kernels against those
    predicted from the content taken as its own style, which are affine in the descriptors, so
    this is also the interpolation of descriptors.

    Args:
      content: from `encode_content`.
      code: from `encode_style`, of n styles, or of one for all contents.
      alpha: 0 (content) to 1 (style).

    Returns:
      `[n, h, w, 3]` in [0, 1].

    Raises:
      ValueError: `code` is neither of one style nor of one per content; the contents were not
        encoded for alpha.
    """
    n, (h, w) = content.features.shape[0], content.size
    styles = jax.tree.leaves(code)[0].shape[0]
    if styles not in (1, n):
      raise ValueError(f"code: expected one style, or one for each of {n} contents, got {styles}")
    if self.model.alpha_needs_own_style and not is_one(alpha):
      if content.own_style is None:
        raise ValueError("alpha: expected 1, because of encode_content(..., for_alpha=False)")
      code = blend(content.own_style, code, alpha)
    extent = content.extent and content.extent.padded(STRIDE).over(STRIDE)
    where = inside(content.features, extent)
    target = self._apply(content.features, code, alpha, where, method="content_target")
    size = (target.shape[1] * STRIDE, target.shape[2] * STRIDE)
    if jax.tree.leaves(code)[0].shape[0] == 1:  # one for all contents, even behind the blend
      pictures = one_by_one(lambda x: self._decode(x, code, extent), target, size=size)
    else:
      pictures = one_by_one(lambda x, c: self._decode(x, c, extent), target, code, size=size)
    return jnp.clip(pictures[:, :h, :w], 0, 1)

  def _features(self, images: jax.Array, extent: Extent | None = None) -> jax.Array:
    size = (images.shape[1], images.shape[2])
    return one_by_one(lambda x: self._encode(x, extent), images, size=size)

  def _encode(self, images: jax.Array, extent: Extent | None) -> jax.Array:
    def encode(images: jax.Array) -> jax.Array:
      outputs = self.vgg.apply({"params": self.vgg_params}, images, (ENCODER_LAYER,), extent)
      return cast(Mapping[str, jax.Array], outputs)[ENCODER_LAYER]

    if images.shape[1] % STRIDE:  # a style, whose last rows the poolings drop
      return encode(images)
    return by_strips(
      encode,
      images,
      reach=reach(self.vgg.arch, ENCODER_LAYER),
      row_bytes=images.shape[0] * image_bytes(1, images.shape[2]),
      scale=Fraction(1, STRIDE),
      whole=extent is not None,
    )

  def _decode(self, features: jax.Array, code: StyleCode, extent: Extent | None) -> jax.Array:
    """Decodes scale by scale, between which a model may need the whole feature map's statistics."""
    needs_stats = self.model.needs_scale_stats
    for scale, (c_in, widths) in enumerate(SCALES):
      stats = channel_stats(features, where=inside(features, extent)) if needs_stats else None
      decode = functools.partial(self._decode_scale, scale, code, stats, extent)
      grow = 2 if scale else 1
      features = by_strips(
        decode,
        features,
        reach=self.model.kernel_size + len(widths),
        row_bytes=4 * features.shape[0] * features.shape[2] * grow**2 * c_in,
        scale=Fraction(grow),
        whole=extent is not None,
      )
      if grow == 2 and extent is not None:
        extent = extent.times(2)
    return features

  def _decode_scale(
    self,
    scale: int,
    code: StyleCode,
    stats: ChannelStats | None,
    extent: Extent | None,
    features: jax.Array,
  ) -> jax.Array:
    return self._apply(scale, features, code, stats, extent, method="decode_scale")

  def _apply(self, *args: Any, method: str) -> Any:
    return self.model.apply({"params": self.params}, *args, method=method)
