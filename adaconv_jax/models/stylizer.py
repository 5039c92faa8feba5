"""The whole model: VGG encoder, the AdaIN or AdaConv transform, and the decoder.

`stylize` is `encode_style` once per style, `encode_content` once per content, and `render` once per
pair. These check and convert pictures; `Networks` computes on batches of floats.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.typing import ArrayLike

from adaconv_jax.models.canvas import Canvas, check_stroke, on_canvas
from adaconv_jax.models.code_checks import check_code, check_codes, code_shapes, kind_of
from adaconv_jax.models.decoder import SCALES
from adaconv_jax.models.networks import ContentStats, Networks, borders_of
from adaconv_jax.models.pictures import (
  as_weight,
  check_masks,
  check_pictures,
  from_float,
  on_device,
  to_float,
  with_numbers,
)
from adaconv_jax.models.refinement import (
  StyleGoal,
  check_steps,
  refine_code,
  sample,
  square,
  style_goal,
  style_side,
)
from adaconv_jax.models.skips import Sources
from adaconv_jax.models.style_code import (
  StyleCode,
  blend,
  for_each,
  is_map,
  is_one,
  is_zero,
  over_axes,
  stack_codes,
)
from adaconv_jax.models.transfer_model import Params, TransferModel
from adaconv_jax.ops.adain import ChannelStats, channel_stats, widen_stats
from adaconv_jax.ops.color import check_color, keep_chroma
from adaconv_jax.ops.conv import reflect_pad_to_multiple
from adaconv_jax.ops.detail import add_detail
from adaconv_jax.ops.extent import (
  Extent,
  mirror_all,
  resize_inside,
  resize_middle,
)
from adaconv_jax.ops.masks import region_stats, shares_of, shrink
from adaconv_jax.ops.resize import resize
from adaconv_jax.ops.sharding import automatic
from adaconv_jax.ops.stroke import enlarge, resize_from
from adaconv_jax.ops.tiling import (
  one_by_one,
  stats_by_strips,
  too_large,
)
from adaconv_jax.vgg.network import STRIDE, VGG, VGGParams

# What `render` can do about colors; "match" is done to a style before it is encoded.
RENDERED_COLORS = ("style", "luminance")


@struct.dataclass
class ContentCode:
  """What contents are to a model: computed once, rendered in many styles.

  Attributes:
    pictures: the contents themselves, `[n, h, w, 3]`, in the type that they were given in.
    features: relu4_1 `[n, ceil(h / 8), ceil(w / 8), 512]`.
    own_style: the code of the contents taken as styles, which AdaConv's alpha needs, or None.
    lost: the contents minus what the model makes of them without a style, `[n, h, w, 3]`, which
      an alpha below 1 needs, or None.
    extent: the valid region of the contents; None: all.
    batched: whether the contents had a batch axis, static.
    stats: what the model normalizes the contents with in place of their own statistics, such as
      those of all frames of a video, within limits: see `Stylizer.content_stats` and
      `widen_stats`. None: their own.
    canvas: the contents at the size at which they are painted, `[n, h', w', 3]`, floats, of which
      all but `pictures` and `extent` is; None: their own size.
    canvas_extent: the valid region of the canvas; None: all.
    skips: the model's `content_layers`, if it has some and the contents are not too large to keep
      them; see `Skips`.
  """

  pictures: jax.Array
  features: jax.Array
  own_style: StyleCode | None
  lost: jax.Array | None
  extent: Extent | None = None
  batched: bool = struct.field(pytree_node=False, default=True)
  stats: ContentStats | None = None
  canvas: jax.Array | None = None
  canvas_extent: Extent | None = None
  skips: tuple[jax.Array, ...] = ()

  def painted(self) -> tuple[jax.Array, Extent | None]:
    """Returns what is painted, `[n, h', w', 3]`, floats, and its extent."""
    if self.canvas is None:
      return to_float(self.pictures), self.extent
    return self.canvas, self.canvas_extent


@struct.dataclass
class Stylizer:
  """A trained style transfer model, which `load_model` returns.

      model = load_model("adaconv")
      code = model.encode_style(style)          # once per style
      stylized = model.stylize(content, code)   # for every content

  Pictures are RGB, float in [0, 1] or uint8, one `[h, w, 3]` or a batch `[n, h, w, 3]`, of any
  size. The methods are pure JAX and compile nothing by themselves: wrap them in `jax.jit` where
  they are called often. A stylizer is a pytree, so pass it as an argument, which keeps its weights
  from becoming constants of the compiled function:

      render = jax.jit(lambda model, content, code: model.stylize(content, code))

  `jit`, `vmap` and `grad` (reverse mode) apply to all methods. Under them, values are not known,
  and only shapes and types are checked.

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

  def __repr__(self) -> str:
    sizes = [math.prod(np.shape(leaf)) for leaf in jax.tree.leaves(self.params)]
    return f"Stylizer({self.model.transform}, {sum(sizes):,} parameters, {self.vgg.arch})"

  @property
  def _networks(self) -> Networks:
    return Networks(self.model, self.vgg, self.params, self.vgg_params)

  @with_numbers
  def fit_style(self, style: ArrayLike, extent: Extent | None = None) -> jax.Array:
    """Resizes styles to what is encoded; `encode_style` does so itself.

    Compiled by itself, for styles of many sizes, it leaves AdaConv the rest to compile only once.

    Args:
      style: RGB `[h, w, 3]` or `[n, h, w, 3]`, float in [0, 1] or uint8, any size.
      extent: the valid region of the styles, at least 16 x 16; None: all.

    Returns:
      Float in [0, 1]: `[n, style_size, style_size, 3]` for AdaConv, all of it valid, antialiased,
      and without keeping the aspect ratio unless its `style_fit` is "crop"; for AdaIN the styles,
      enlarged if they are too small for relu4_1. n is 1 for a style without a batch axis.

    Raises:
      ValueError: the style is no such picture.
    """
    return automatic(
      Stylizer._fit_style, _batch("style", style, extent), self, extent, by_image=True
    )

  @staticmethod
  def _fit_style(style: jax.Array, stylizer: "Stylizer", extent: Extent | None) -> jax.Array:
    size = stylizer.model.style_size
    if size is not None and stylizer.model.style_fit == "crop":
      return resize_middle(style, size, extent)
    if extent is not None:
      return style if size is None else resize_inside(style, extent, size, size)
    h, w = style.shape[1:3] if size is None else (size, size)
    # Below, relu4_1 would be empty or one pixel.
    return resize(style, max(h, 2 * STRIDE), max(w, 2 * STRIDE))

  @with_numbers
  def encode_style(self, style: ArrayLike, extent: Extent | None = None) -> StyleCode:
    """Computes what `stylize` needs to know of the styles, once for any number of contents.

    AdaIN's styles are padded to a multiple of 8, like contents. So a picture in its own style is
    what the decoder makes of it without a style.

    Args:
      style: RGB `[h, w, 3]` or `[n, h, w, 3]`, float in [0, 1] or uint8, any size.
      extent: the valid region of the styles, at least 16 x 16; None: all.

    Returns:
      A pytree of arrays with a leading axis for the styles, of length 1 for a style without a batch
      axis. The average of two codes, leaf by leaf, is a blend of their styles.

    Raises:
      ValueError: the style is no such picture.
    """
    style = _batch("style", style, extent)
    return automatic(Stylizer._encode_style, style, self, extent, by_image=True)

  @staticmethod
  def _encode_style(style: jax.Array, stylizer: "Stylizer", extent: Extent | None) -> StyleCode:
    networks, fitted = stylizer._networks, Stylizer._fit_style(style, stylizer, extent)
    if stylizer.model.style_size is not None:
      features, where = networks.encode(fitted), None  # resized
    else:
      features, where, _ = networks.encode_padded(fitted, extent)
    return networks.apply(features, where, method="encode_style")

  def code_shapes(self) -> StyleCode:
    """Returns the shapes and types of a code of one style, `jax.ShapeDtypeStruct`."""
    return code_shapes(self.model, self.params)

  @with_numbers
  def refine(
    self,
    code: StyleCode,
    content: ArrayLike,
    style: ArrayLike,
    steps: int | jax.Array = 8,
    *,
    detail: ArrayLike = 0.0,
    extent: Extent | None = None,
    style_extent: Extent | None = None,
  ) -> StyleCode:
    """Improves the code of a style by gradient descent, most for the contents that are given.

    What `encode_style` predicts is only about right. Every step renders the contents, compares
    them with the style and themselves as in training, and corrects the code; model and pixels
    stay as they are. It is done with a sample of 256 x 256 pixels, whatever the contents' sizes, so
    a step takes about as long as 4 renderings of that size. Not in the papers; see `refine_code`.

    Args:
      code: from `encode_style`: of n styles, each of which is refined for its content, or of one,
        which is refined for all contents together, such as frames of a video.
      content: RGB `[h, w, 3]` or `[n, h, w, 3]`, float in [0, 1] or uint8, any size.
      style: what the code is of, RGB `[h', w', 3]` or `[n, h', w', 3]`, float in [0, 1] or uint8.
      steps: how many, 0 to 100; the first ones do most. The value of an integer of JAX is not
        checked, and may be unknown when the program is compiled.
      detail: what the code will be rendered with, 0 to 1, one number or `[n]`; see `render`.
      extent: the valid region of the contents; None: all.
      style_extent: that of the styles.

    Returns:
      Like `code`, or `code` itself where steps would only lead away from the style. Its derivative
      is that of `code`; the steps are taken for constant.

    Raises:
      ValueError: the code is not of this model, or not of one style or as many as there are
        contents; content or style is no such picture; steps or detail is no such number.
    """
    if not isinstance(steps, jax.Array):
      steps = check_steps("steps", steps)
    elif steps.ndim or not jnp.issubdtype(steps.dtype, jnp.integer):
      raise ValueError(f"steps: expected an integer, got {list(steps.shape)}, {steps.dtype}")
    contents, styles = _batch("content", content, extent), _batch("style", style, style_extent)
    check_codes(self.model, self.params, code, contents.shape[0], None)
    if styles.shape[0] not in (1, jax.tree.leaves(code)[0].shape[0]):
      raise ValueError(
        f"style: expected one, or those of the {jax.tree.leaves(code)[0].shape[0]} codes, got "
        f"{styles.shape[0]}"
      )
    share = as_weight("detail", detail, contents.shape[0])
    arrays = self, contents, styles, steps, share, extent, style_extent
    return automatic(Stylizer._refine, code, *arrays, by_image=True)

  @staticmethod
  def _refine(
    code: StyleCode,
    stylizer: "Stylizer",
    contents: jax.Array,
    styles: jax.Array,
    steps: int | jax.Array,
    detail: float | jax.Array,
    extent: Extent | None,
    style_extent: Extent | None,
  ) -> StyleCode:
    side = style_side(*contents.shape[1:3])
    goal = stylizer.style_goal(square(styles, side, style_extent))
    return stylizer.refine_sampled(code, sample(contents, None, extent), goal, steps, detail)

  def style_goal(self, styles: jax.Array) -> StyleGoal:
    """Measures what outputs should have of styles, from `refinement.square`."""
    return style_goal(self.vgg, self.vgg_params, styles)

  def refine_sampled(
    self,
    code: StyleCode,
    contents: jax.Array,
    goal: StyleGoal,
    steps: int | jax.Array,
    detail: float | jax.Array = 0.0,
  ) -> StyleCode:
    """Does as `refine`, with contents from `refinement.sample` and what `style_goal` measures."""
    return refine_code(self._networks, code, contents, goal, steps, detail)

  @with_numbers
  def stylize(
    self,
    content: ArrayLike,
    code: StyleCode,
    alpha: ArrayLike = 1.0,
    *,
    detail: ArrayLike = 0.0,
    color: str = "style",
    masks: ArrayLike | None = None,
    stroke: float = 1.0,
    look_size: int | None = None,
  ) -> jax.Array:
    """Renders `content` in the styles of `code`: `encode_content`, then `render`.

    Args:
      content: RGB `[h, w, 3]` or `[n, h, w, 3]`, float in [0, 1] or uint8, any size.
      code: from `encode_style`, of n styles, or of one for all contents; with masks, a list of
        these.
      alpha: 0 (the content itself) to 1 (style), one number, `[n]`, or a map; see `render`.
      detail: 0 to 1, one number or `[n]`: how much of the content's fine structure replaces the
        output's own; see `render`.
      color: "style" or "luminance"; see `render`.
      masks: where each of several styles is, `[K, h, w]` or `[n, K, h, w]`; see `render`.
      stroke: how coarse the strokes are, see `encode_content`.
      look_size: the size that gives the strokes, see `encode_content`.

    Returns:
      The stylized contents, of the shape and type of `content`; uint8 is rounded.

    Raises:
      ValueError: an argument is not what is described here, in `render` or in `encode_content`.
    """
    check_color(color, RENDERED_COLORS)
    given = check_pictures("content", content, values=False)
    n, height, width, _ = (1, *given.shape)[-4:]
    weights = {
      "alpha": as_weight("alpha", alpha, n, size=(height, width)),
      "detail": as_weight("detail", detail, n),
    }
    # Numbers stay outside of the arguments, which `automatic` turns into arrays.
    numbers = {key: weight for key, weight in weights.items() if isinstance(weight, int | float)}
    arrays: dict[str, ArrayLike] = {
      key: weight for key, weight in weights.items() if key not in numbers
    }
    if masks is not None:
      arrays["masks"] = masks if isinstance(masks, jax.Array) else np.asarray(masks)
    options = {"color": color, "stroke": stroke, "look_size": look_size, **numbers}
    return automatic(
      lambda content, stylizer, code, arrays: stylizer._stylize(content, code, **options, **arrays),
      content, self, code, arrays,
    )  # fmt: skip

  def _stylize(
    self,
    content: ArrayLike,
    code: StyleCode,
    alpha: float | jax.Array,
    detail: float | jax.Array,
    color: str,
    stroke: float,
    look_size: int | None,
    masks: ArrayLike | None = None,
  ) -> jax.Array:
    for_alpha = not (is_one(alpha) or is_map(alpha))
    encoded = self.encode_content(content, for_alpha=for_alpha, stroke=stroke, look_size=look_size)
    return self.render(encoded, code, alpha, detail=detail, color=color, masks=masks)

  @with_numbers
  def encode_content(
    self,
    content: ArrayLike,
    *,
    for_alpha: bool = True,
    extent: Extent | None = None,
    stroke: float = 1.0,
    look_size: int | None = None,
    canvas: Canvas | None = None,
  ) -> ContentCode:
    """Computes what `render` needs to know of the contents, once for any number of styles.

    Args:
      content: RGB `[h, w, 3]` or `[n, h, w, 3]`, float in [0, 1] or uint8, any size.
      for_alpha: prepare for an alpha other than 1: decode the contents without a style, too; for
        which AdaConv encodes them as styles.
      extent: the valid region of the contents, and of the pictures that `render` returns; None:
        all. The model's kernels are at most 3 x 3 then.
      stroke: how coarse the strokes are: 2 paints at half the size, and enlarges the result with
        the content's sharp edges, see `ops/stroke.py`. Below 1, strokes are finer, and time and
        memory grow. A number that is known when the program is compiled.
      look_size: paint at this many pixels on the shorter side, so that pictures of one content in
        many sizes have the same strokes; `stroke` applies in addition. None: their own size.
      canvas: what `stroke` and `look_size` are for contents with an extent.

    Returns:
      What `render` takes; it remembers the shape and the type of `content`.

    Raises:
      ValueError: the content is no such picture; an extent is given to a model with larger kernels,
        or with stroke or look_size; one of these is not a number above 0, or they would paint too
        large a picture, see `painted_size`.
    """
    check_stroke(stroke, look_size)
    if extent is not None and (stroke != 1 or look_size is not None):
      raise ValueError("stroke and look_size: expected 1 and None beside extent; give a canvas")
    if extent is not None and (k := self.model.kernel_size) > 3:
      raise ValueError(f"extent: expected None for kernels larger than 3 x 3, got {k} x {k}")
    given = check_pictures("content", content, values=extent is None)
    pictures = on_device(given)
    pictures = pictures if pictures.ndim == 4 else jnp.expand_dims(pictures, 0)
    whole, whole_extent = to_float(pictures), extent
    content, extent = on_canvas(whole, extent, stroke, look_size, canvas)
    # Those of 8 bits become floats strip by strip.
    seen = pictures if content is whole else content
    features, _, skips = self._networks.encode_padded(seen, extent, self.model.content_layers)
    own_style = lost = None
    if for_alpha and self.model.alpha_needs_own_style:
      own_style = automatic(Stylizer._encode_style, content, self, extent, by_image=True)
    if for_alpha:
      lost = automatic(Stylizer._lost, content, self, features, own_style, extent, skips)
    code = ContentCode(pictures, features, own_style, lost, whole_extent, given.ndim == 4)
    code = dataclasses.replace(code, skips=skips)
    return (
      code if content is whole else dataclasses.replace(code, canvas=content, canvas_extent=extent)
    )

  @staticmethod
  def _lost(
    content: jax.Array,
    stylizer: "Stylizer",
    features: jax.Array,
    own_style: StyleCode | None,
    extent: Extent | None,
    skips: tuple[jax.Array, ...],
  ) -> jax.Array:
    _, h, w, _ = content.shape
    networks, borders = stylizer._networks, borders_of(extent, h)
    sources = networks.sources(content, skips)
    decoded = networks.decode(features, own_style, borders, sources=sources)
    return content - decoded[:, :h, :w]

  @with_numbers
  def render(
    self,
    content: ContentCode,
    code: StyleCode,
    alpha: ArrayLike = 1.0,
    *,
    detail: ArrayLike = 0.0,
    color: str = "style",
    masks: ArrayLike | None = None,
  ) -> jax.Array:
    """Renders encoded contents in the styles of `code`.

    alpha weighs AdaIN's t against the content's features (Huang & Belongie 2017, eq. 14).
    AdaConv's paper has no such control; there alpha weighs the style's kernels against those
    predicted from the content taken as its own style, which are affine in the descriptors, so
    this is also the interpolation of descriptors. In neither paper: what the decoder loses of the
    content, that is, the content minus what is made of it at 0, is added with the weight
    1 - alpha. So alpha 0 is the content itself, which takes one more decoding below 1. An alpha
    that is an array is never taken for a 1. Where alpha is a map, the picture at alpha 1 is mixed
    with the content, pixel by pixel, which takes no other decoding.

    detail, which no paper has, takes from the content what relu4_1 cannot hold, such as faces and
    small lettering; see `add_detail`.

    With masks, every style is rendered with what its region of the content is normalized by, at
    every scale, and the pictures are put together pixel by pixel. So nothing of a style or of its
    region is in another one, and the encoder runs once, the decoder K times (2 K times for an alpha
    below 1 in AdaConv).

    Args:
      content: from `encode_content`.
      code: from `encode_style`, of n styles, or of one for all contents; with masks, a list of K
        such codes.
      alpha: 0 (the content itself) to 1 (style): one number, `[n]` with one for each content, or a
        map, `[h, w]` for all contents or `[n, h, w]`.
      detail: 0 (none, the papers' result) to 1, one number or `[n]`: how much of the content's
        fine structure replaces the output's own.
      color: whose colors the output has: "style", or "luminance" for the output's luma with the
        content's chroma, see `keep_chroma`. For the third way, encode `match_colors(style, ...)`.
      masks: where each style is, `[K, h, w]` for all contents or `[n, K, h, w]`; float in [0, 1],
        boolean or uint8. Where they overlap, they are divided by their sum; where the sum is below
        1, the rest is the content itself.

    Returns:
      The stylized contents, of the shape and type of those that were encoded; uint8 is rounded.

    Raises:
      ValueError: `code` is neither of one style nor of one per content, or not a list of such
        beside masks; alpha or detail is not in [0, 1], or has another number than there are
        contents; the contents were not encoded for alpha, or have `stats` beside masks; color is
        neither of these; the masks are not one per style and of the contents' size.
    """
    check_color(color, RENDERED_COLORS)
    if not isinstance(content, ContentCode):
      raise ValueError(
        f"content: expected what encode_content returns, got {kind_of(content)}; `stylize` takes "
        "pictures"
      )
    n, h, w, _ = content.pictures.shape
    codes = check_codes(self.model, self.params, code, n, masks)
    alpha = as_weight("alpha", alpha, n, size=(h, w))
    detail = as_weight("detail", detail, n)
    shares = regions = cover = None
    if masks is not None:
      if content.stats is not None:
        raise ValueError(
          "masks: expected None for contents with `stats`, which are of whole frames"
        )
      known = content.extent is None
      masks = to_float(check_masks(masks, len(codes), n, (h, w), values=known))
      shares, cover = shares_of(jnp.broadcast_to(masks, (n, *masks.shape[1:])))
      regions = shares * jnp.expand_dims(cover, 1)  # what is not covered is in no region
    if is_map(alpha):
      strength = jnp.broadcast_to(jnp.asarray(alpha).reshape(-1, h, w), (n, h, w))
      cover, alpha = strength if cover is None else strength * cover, 1.0
    if not is_one(alpha) and content.lost is None:
      raise ValueError("alpha: expected 1, because of encode_content(..., for_alpha=False)")
    originals = to_float(content.pictures)
    pictures = self._paint(content, codes, alpha, regions)
    if content.canvas is not None:
      keep = jnp.asarray(1 - over_axes(alpha, 4))
      if keep.ndim and shares is not None:
        keep = jnp.tile(keep, (len(codes), 1, 1, 1))
      pictures = enlarge(
        pictures, content.canvas, originals, keep, content.canvas_extent, content.extent
      )
    if shares is not None:
      layers = jnp.clip(pictures, 0, 1).reshape(-1, n, h, w, 3)
      pictures = jnp.sum(layers * jnp.expand_dims(jnp.moveaxis(shares, 1, 0), -1), 0)
    if not is_zero(detail):
      pictures = add_detail(pictures, originals, detail, content.extent)
    if color == "luminance":
      pictures = keep_chroma(pictures, originals)
    pictures = jnp.clip(pictures, 0, 1)
    if cover is not None:
      cover = jnp.expand_dims(cover.astype(pictures.dtype), -1)
      pictures = cover * pictures + (1 - cover) * originals
    pictures = from_float(pictures, content.pictures.dtype)
    return pictures if content.batched else jnp.squeeze(pictures, 0)

  def _paint(
    self,
    content: ContentCode,
    codes: list[StyleCode],
    alpha: float | jax.Array,
    masks: jax.Array | None,
  ) -> jax.Array:
    """Renders contents at the size of their canvas, without detail and colors.

    Args:
      content: n contents.
      codes: one of them, or with masks K.
      alpha: a number or `[n]`.
      masks: where the styles are, `[n, K, h, w]`, or None.

    Returns:
      `[n, h', w', 3]`, with masks `[K n, h', w', 3]`, all contents in the first style first.
    """
    networks = self._networks
    canvas, extent = content.painted()
    n, h, w, _ = canvas.shape
    borders, regions, repeat = borders_of(extent, h), None, len(codes)
    features, own_style, code = content.features, content.own_style, codes[0]
    lost: Any = content.lost  # not None for an alpha other than 1
    seen = content.pictures if content.canvas is None else canvas
    sources = networks.sources(seen, content.skips)
    if masks is not None:
      code = stack_codes(codes, n)
      regions = self._regions(masks, content)
      features, own_style, canvas, alpha, sources = jax.tree.map(
        lambda x: jnp.tile(x, (repeat, *(1,) * (x.ndim - 1))) if jnp.ndim(x) else x,
        (features, own_style, canvas, alpha, sources),
      )
    if not is_one(alpha):
      if masks is not None and not self.model.needs_scale_stats:  # normalizes nothing at alpha 0
        lost = jnp.tile(lost, (repeat, 1, 1, 1))
      elif masks is not None:
        decoded = networks.decode(features, own_style, borders, None, regions, sources=sources)
        lost = canvas - decoded[:, :h, :w]
      if self.model.alpha_needs_own_style:
        code = blend(own_style, code, alpha)
    where = borders.inside(features)
    stats = content.stats and for_each(n, content.stats)
    first = stats and widen_stats(stats[0], channel_stats(features, where=where))
    if regions is not None:
      first = region_stats(features, regions[0], where=where)
    huge = n == repeat == 1 and not self.model.needs_scale_stats and too_large(features.nbytes)
    if huge and first is None:
      rows = 4 * math.prod(features.shape[2:])
      first = stats_by_strips(lambda x: x, features, reach=0, row_bytes=rows)
    given = () if first is None else (first,)  # a model that is never given any need not take them

    def normalize(features: jax.Array) -> jax.Array:
      return networks.apply(features, code, alpha, where, *given, method="content_target")

    if huge and first is not None:  # strip by strip, so that there is no second map of this size
      pictures = networks.decode(features, code, borders, stats, prepare=normalize)
    else:
      pictures = networks.decode(
        normalize(features), code, borders, stats, regions, sources=sources
      )
    pictures = pictures[:, :h, :w]
    return pictures if is_one(alpha) else pictures + (1 - over_axes(alpha, 4)) * lost

  def _regions(self, masks: jax.Array, content: ContentCode) -> tuple[jax.Array, ...]:
    """Returns what weighs the positions of every feature map that the model normalizes."""
    canvas, extent = content.painted()
    masks = jnp.moveaxis(masks, 1, 0).reshape(-1, *masks.shape[2:], 1)
    if content.canvas is not None:
      masks = resize_from(masks, content.extent, canvas, extent, "linear")
    if extent is None:
      masks = reflect_pad_to_multiple(masks, STRIDE)
    else:
      masks = mirror_all(masks, extent)
    strides = [STRIDE >> max(scale - 1, 0) for scale in range(len(SCALES))]
    strides += [STRIDE >> scale for scale in range(1, len(SCALES)) if self.model.content_layers]
    if not self.model.needs_scale_stats:
      strides = strides[:1]
    return tuple(shrink(masks, stride) for stride in strides)

  @with_numbers
  def content_stats(self, content: ContentCode, code: StyleCode) -> ContentStats:
    """Computes the statistics that `render` normalizes the contents with.

    Averages of them over the frames of a shot, given to `render` as `ContentCode.stats`, keep the
    frames from flickering.

    Args:
      content: from `encode_content`; its own `stats`, if any, normalize what enters the scales
        after the first.
      code: from `encode_style`, of n styles, or of one for all contents.

    Returns:
      For every normalization of the model its mean and deviation, each `[n, c]`.
    """
    check_code(self.model, self.params, code)
    networks = self._networks
    canvas, extent = content.painted()
    n, borders = canvas.shape[0], borders_of(extent, canvas.shape[1])
    if not self.model.needs_scale_stats:
      return (channel_stats(content.features, where=borders.inside(content.features)),)
    given = content.stats and for_each(n, content.stats)
    size = (content.features.shape[1] * STRIDE, content.features.shape[2] * STRIDE)
    seen = content.pictures if content.canvas is None else canvas
    sources = networks.sources(seen, content.skips)

    def measure(
      features: jax.Array, given: ContentStats | None, sources: Sources, code: StyleCode
    ) -> ContentStats:
      measured: list[ChannelStats] = []
      networks.decode_scales(features, code, borders, given, measured=measured, sources=sources)
      skips = networks.skips(sources)
      of_skips = [skips.stats(scale, borders) for scale in range(len(SCALES))]
      return (*measured, *(stats for stats in of_skips if stats is not None))

    if jax.tree.leaves(code)[0].shape[0] == 1:
      one = lambda x, s, b: measure(x, s, b, code)  # noqa: E731
      return one_by_one(one, content.features, given, sources, size=size)
    return one_by_one(measure, content.features, given, sources, code, size=size)


def _batch(name: str, pictures: ArrayLike, extent: Extent | None) -> jax.Array:
  """Checks pictures, and returns a batch of floats."""
  return _as_batch(check_pictures(name, pictures, values=extent is None))


def _as_batch(pictures: jax.Array | np.ndarray) -> jax.Array:
  pictures = to_float(pictures)
  return pictures if pictures.ndim == 4 else jnp.expand_dims(pictures, 0)
