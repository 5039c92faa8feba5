"""A model and its VGG as one function on batches of padded floats, of any size.

Large pictures go through in strips, several of a batch one by one, with the same result. `Stylizer`
checks and pads pictures, and puts together what a rendering is from these parts.
"""

import functools
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from adaconv_jax.models.decoder import SCALES
from adaconv_jax.models.pictures import to_float
from adaconv_jax.models.skips import Skips, Sources
from adaconv_jax.models.style_code import StyleCode
from adaconv_jax.models.transfer_model import Params, TransferModel
from adaconv_jax.ops.adain import ChannelStats, channel_stats, widen_stats
from adaconv_jax.ops.conv import reflect_pad_to_multiple
from adaconv_jax.ops.extent import UNPADDED, Borders, Extent, mirror_all
from adaconv_jax.ops.masks import region_stats
from adaconv_jax.ops.tiling import (
  by_strips,
  image_bytes,
  in_strips,
  one_by_one,
  stats_by_strips,
  too_large,
)
from adaconv_jax.vgg.network import ENCODER_LAYER, STRIDE, VGG, VGGParams, reach

# Of every feature map that a model normalizes, in order, `[n, c]`, or `[1, c]` for all contents:
# relu4_1 for AdaIN; what enters each of the four scales of the decoder for AdaConv, and for
# AdaConvPlus the three layers of its skips after these.
ContentStats: TypeAlias = tuple[ChannelStats, ...]


class Networks(NamedTuple):
  """What renders, and what compares.

  Attributes:
    model: the trained part.
    vgg: encoder, and loss network of a refinement.
    params: of the model.
    vgg_params: of the VGG.
  """

  model: TransferModel
  vgg: VGG
  params: Params
  vgg_params: VGGParams

  def apply(self, *args: Any, method: str) -> Any:
    """Calls a method of the model."""
    return self.model.apply({"params": self.params}, *args, method=method)

  def see(
    self, images: jax.Array, layers: tuple[str, ...], borders: Borders = UNPADDED
  ) -> dict[str, jax.Array]:
    """Computes layers of VGG, by name.

    Args:
      images: `[n, h, w, 3]`, float in [0, 1] or uint8.
      layers: their names.
      borders: where the images end.
    """
    seen: Any = self.vgg.apply({"params": self.vgg_params}, to_float(images), layers, borders)
    return seen

  # --- encoder ---

  def encode(self, images: jax.Array, borders: Borders = UNPADDED) -> jax.Array:
    """Computes relu4_1 of images, `[n, ceil(h / 8), ceil(w / 8), 512]`."""
    size = (images.shape[1], images.shape[2])
    return one_by_one(lambda x: self._encode(x, borders), images, size=size)

  def _encode(self, images: jax.Array, borders: Borders) -> jax.Array:
    encode = lambda images: self.see(images, (ENCODER_LAYER,), borders)[ENCODER_LAYER]  # noqa: E731

    if images.shape[1] % STRIDE:  # a `style_size` that is not a multiple
      return encode(images)
    return by_strips(
      encode,
      images,
      reach=reach(self.vgg.arch, ENCODER_LAYER),
      row_bytes=images.shape[0] * image_bytes(1, images.shape[2]),
      scale=Fraction(1, STRIDE),
      whole=borders is not UNPADDED,
    )

  def encode_padded(
    self, images: jax.Array, extent: Extent | None, layers: tuple[str, ...] = ()
  ) -> tuple[jax.Array, jax.Array | None, tuple[jax.Array, ...]]:
    """Looks at images padded to a multiple of 8.

    Returns:
      relu4_1; where it is valid, None: everywhere; and the other layers asked for, none of images
      that are too large to keep them.
    """
    if extent is None:
      borders, padded = UNPADDED, reflect_pad_to_multiple(images, STRIDE)
    else:
      borders, padded = borders_of(extent, images.shape[1]), mirror_all(images, extent)
    if not layers or (extent is None and in_strips(*padded.shape[:3])):
      features, others = self.encode(padded, borders), ()
    else:
      wanted, size = (*layers, ENCODER_LAYER), (padded.shape[1], padded.shape[2])
      seen = one_by_one(lambda x: self.see(x, wanted, borders), padded, size=size)
      features, others = seen[ENCODER_LAYER], tuple(seen[layer] for layer in layers)
    return features, borders.inside(features), others

  # --- skips ---

  def sources(self, images: jax.Array, kept: tuple[jax.Array, ...]) -> Sources:
    """Returns what the skips of contents are made from.

    Args:
      images: the contents as they are painted; uint8 or floats.
      kept: the skips, if they were kept.
    """
    if kept or not self.model.content_layers:
      return kept
    return (reflect_pad_to_multiple(images, STRIDE),)

  def skips(self, sources: Sources) -> Skips:
    """Returns the skips into the decoder that are made from these sources."""
    see = lambda images, layer: self.see(images, (layer,))[layer]  # noqa: E731
    return Skips(self.model.content_layers, sources, see, self.vgg.arch)

  # --- decoder ---

  def decode(
    self,
    target: jax.Array,
    code: StyleCode | None,
    borders: Borders,
    stats: ContentStats | None = None,
    regions: tuple[jax.Array, ...] | None = None,
    prepare: Callable[[jax.Array], jax.Array] | None = None,
    sources: Sources = (),
  ) -> jax.Array:
    """Decodes to pictures in [0, 1].

    Args:
      target: the input of the decoder.
      code: the styles; None for a model that has none without a style.
      borders: where the pictures end.
      stats: see `decode_scales`.
      regions: see `decode_scales`.
      prepare: makes the input of the decoder of some rows of `target`; None: `target` is that.
      sources: of the skips of all contents.
    """
    size = (target.shape[1] * STRIDE, target.shape[2] * STRIDE)
    leaves = jax.tree.leaves(code)
    if not leaves or leaves[0].shape[0] == 1:  # one for all contents, even after the blend
      decode = lambda x, s, r, b: self.decode_scales(  # noqa: E731
        x, code, borders, s, r, prepare=prepare, sources=b
      )
      pictures = one_by_one(decode, target, stats, regions, sources, size=size)
    else:
      decode = lambda x, c, s, r, b: self.decode_scales(  # noqa: E731
        x, c, borders, s, r, sources=b
      )
      pictures = one_by_one(decode, target, code, stats, regions, sources, size=size)
    return jnp.clip(pictures, 0, 1)

  def decode_scales(
    self,
    features: jax.Array,
    code: StyleCode | None,
    borders: Borders,
    given: ContentStats | None = None,
    regions: tuple[jax.Array, ...] | None = None,
    measured: list[ChannelStats] | None = None,
    prepare: Callable[[jax.Array], jax.Array] | None = None,
    sources: Sources = (),
  ) -> jax.Array:
    """Decodes scale by scale, between which a model may need the whole feature map's statistics.

    Args:
      features: the input of the first scale.
      code: the styles.
      borders: where the pictures end within the features.
      given: the statistics to use; None: the features' own.
      regions: the weights of positions in the features' own statistics, for every scale; None: all
        are alike.
      measured: a list to put the features' own statistics into, and nothing is decoded after the
        last.
      prepare: see `decode`; for a model that does not need the statistics of scales.
      sources: of the skips of these contents.
    """
    skips = self.skips(sources)
    needs_stats = self.model.needs_scale_stats
    last = len(SCALES) - 1
    for scale in range(len(SCALES)):
      where, stats = borders.inside(features), None
      if needs_stats and regions is None:
        stats = channel_stats(features, where=where)
      elif needs_stats and regions is not None:
        stats = region_stats(features, regions[scale], where=where)
      if measured is not None and stats is not None:
        measured.append(stats)
        if len(measured) == len(SCALES):
          break
      if given is not None and stats is not None:
        stats = widen_stats(given[scale], stats)
      decode = self._scale_decoder(scale, code, stats, borders, skips, given, regions)
      beside = skips.source(scale)
      if prepare is not None and scale == 0:
        decode = lambda rows, first=prepare, second=decode: second(first(rows))  # noqa: E731
      row_bytes = max(_row_bytes(scale, features), skips.row_bytes(scale))
      sizes = {"reach": self._reach(scale, skips), "row_bytes": row_bytes}
      grow = Fraction(2 if scale else 1)
      plain = borders is UNPADDED and regions is None and measured is None
      if plain and scale == last - 1 and too_large(_output_bytes(scale, features)):
        own = None
        if needs_stats:
          own = stats_by_strips(decode, features, *beside, **sizes, scale=grow)
        if own is not None or not needs_stats:
          if own is not None and given is not None:
            own = widen_stats(given[last], own)
          finish = self._scale_decoder(last, code, own, borders, skips, given, regions)
          count = len(beside)
          return by_strips(
            lambda rows, *rest, first=decode, second=finish, at=count: second(
              first(rows, *rest[:at]), *rest[at:]
            ),
            features,
            *beside,
            *skips.source(last),
            reach=self._reach(scale, skips) + math.ceil(self._reach(last, skips) / 2),
            row_bytes=4 * _row_bytes(last, features),  # two rows of it, twice as long
            scale=grow * 2,
          )
      whole = borders is not UNPADDED
      features = by_strips(decode, features, *beside, **sizes, scale=grow, whole=whole)
    return features

  def _reach(self, scale: int, skips: Skips) -> int:
    """How many rows of a scale's input an output row depends on, above and below."""
    kernels = len(SCALES[scale][1]) if scale == 0 else math.ceil(len(SCALES[scale][1]) / 2)
    return self.model.kernel_size // 2 + kernels + 1 + skips.reach(scale)

  def _scale_decoder(
    self,
    scale: int,
    code: StyleCode,
    stats: ChannelStats | None,
    borders: Borders,
    skips: Skips,
    given: ContentStats | None,
    regions: tuple[jax.Array, ...] | None,
  ) -> Callable[..., jax.Array]:
    """Returns what decodes rows of a scale's input, and of the source of its skip if it has one."""
    decode = functools.partial(self._decode_scale, scale, code, stats, borders)
    if not skips.source(scale):
      return decode
    at = len(SCALES) + scale - 1  # its place in tuples that have all scales first
    own = skips.stats(scale, borders, None if regions is None else regions[at])
    if given is not None and own is not None:
      own = widen_stats(given[at], own)
    return lambda features, source: decode(features, skips.make(scale, source), own)

  def _decode_scale(
    self,
    scale: int,
    code: StyleCode,
    stats: ChannelStats | None,
    borders: Borders,
    features: jax.Array,
    *skip: Any,
  ) -> jax.Array:
    return self.apply(scale, features, code, stats, borders, *skip, method="decode_scale")


def borders_of(extent: Extent | None, rows: int) -> Borders:
  """Makes the borders of contents in arrays of `rows` rows; they are padded to a multiple of 8."""
  return UNPADDED if extent is None else Borders(extent.padded(STRIDE), rows)


def _row_bytes(scale: int, features: jax.Array) -> int:
  """Bytes of the largest feature map inside a scale, per row of its input `features`."""
  n, _, w, _ = features.shape
  return 4 * n * w * (4 if scale else 1) * SCALES[scale][0]


def _output_bytes(scale: int, features: jax.Array) -> int:
  n, h, w, _ = features.shape
  return 4 * n * h * w * (4 if scale else 1) * SCALES[scale][1][-1]
