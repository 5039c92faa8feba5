"""What a decoder with skips is given of contents, besides its input: layers of VGG.

They are as large as the scales' outputs. Those of small contents are kept, for any number of
styles. Those of large ones are computed again from the pictures wherever some rows are needed, so
that memory does not grow by them.
"""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple, TypeAlias

import jax

from adaconv_jax.ops.adain import ChannelStats, channel_stats
from adaconv_jax.ops.extent import Borders
from adaconv_jax.ops.masks import region_stats
from adaconv_jax.ops.tiling import by_strips, image_bytes, stats_by_strips
from adaconv_jax.vgg.network import STRIDE, reach

# What the skips of contents are made from: a map `[n, h, w, c]` for each; or the pictures alone,
# padded to a multiple of 8; nothing for a model without skips. A pytree, for `one_by_one`.
Sources: TypeAlias = tuple[jax.Array, ...]


class Skips(NamedTuple):
  """The skips of contents into the decoder's scales.

  Attributes:
    layers: the model's `content_layers`, one for each scale after the first; may be empty.
    sources: what they are made from.
    see: from pictures and the name of a layer to its map.
    arch: of the VGG that `see` runs.
  """

  layers: tuple[str, ...]
  sources: Sources
  see: Callable[[jax.Array, str], jax.Array]
  arch: str

  def source(self, scale: int) -> Sources:
    """Returns what the skip into a scale is made from: one array, or none if there is no skip."""
    if not self.layers or not scale:
      return ()
    return self.sources if self._from_pictures else (self.sources[scale - 1],)

  def make(self, scale: int, rows: jax.Array) -> jax.Array:
    """Makes a skip `[n, h, w, c]` from some rows of its source."""
    return self.see(rows, self.layers[scale - 1]) if self._from_pictures else rows

  def reach(self, scale: int) -> int:
    """How many rows of a scale's input a skip depends on in addition, above and below."""
    if not self.source(scale) or not self._from_pictures:
      return 0
    return math.ceil(self._pixels(scale) / self._rows(scale))

  def row_bytes(self, scale: int) -> int:
    """Bytes of the largest map that making a skip takes, for a row of the scale's input."""
    if not self.source(scale) or not self._from_pictures:
      return 0
    n, _, w, _ = self.sources[0].shape
    return n * image_bytes(self._rows(scale), w)

  def stats(
    self, scale: int, borders: Borders, region: jax.Array | None = None
  ) -> ChannelStats | None:
    """Computes the statistics of the whole map of a skip.

    Args:
      scale: 0 to 3.
      borders: where the pictures end; they fill their arrays if the maps are not kept.
      region: the weight of every position of the map, see `region_stats`; None: all are alike.

    Returns:
      `[n, c]` each; None for a scale without a skip.
    """
    if not self.source(scale):
      return None
    (skip,) = self.source(scale)
    if self._from_pictures:
      n, _, w, _ = skip.shape
      sizes: Any = {"reach": self._pixels(scale), "row_bytes": n * image_bytes(1, w)}
      sizes["scale"] = Fraction(1, STRIDE >> scale)
      make = lambda rows: self.make(scale, rows)  # noqa: E731
      if region is None and (stats := stats_by_strips(make, skip, **sizes)) is not None:
        return stats
      skip = by_strips(make, skip, **sizes)
    where = borders.inside(skip)
    if region is None:
      return channel_stats(skip, where=where)
    return region_stats(skip, region, where=where)

  @property
  def _from_pictures(self) -> bool:
    return len(self.sources) == 1

  def _rows(self, scale: int) -> int:
    """How many rows of the picture a row of the scale's input is, which the scale doubles."""
    return 2 * STRIDE >> scale

  def _pixels(self, scale: int) -> int:
    """How many rows of the picture a row of the layer depends on, above and below."""
    return reach(self.arch, self.layers[scale - 1])
