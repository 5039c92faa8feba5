"""The size at which contents are painted: coarser and finer strokes, and one look at every size."""

import sys
from typing import Any, NamedTuple

import jax
import numpy as np

from adaconv_jax.ops.extent import Extent
from adaconv_jax.ops.stroke import painted_size, resize_from

# As at this size, in pixels on the shorter side, the command and the page paint larger pictures.
# Strokes have one size in pixels, so large pictures would get marks too fine to be seen.
LOOK_SIZE = 512


class Canvas(NamedTuple):
  """The size at which contents with an extent are painted, see `painted_size`.

  Attributes:
    size: height and width of the arrays, static.
    extent: the valid region of these.
  """

  size: tuple[int, int]
  extent: Extent


def check_stroke(stroke: Any, look_size: Any) -> None:
  """Checks the arguments that size strokes.

  Raises:
    ValueError: one is not a number above 0.
  """
  sizes = {"stroke": stroke} | ({} if look_size is None else {"look_size": look_size})
  for name, value in sizes.items():
    is_number = isinstance(value, int | float | np.integer | np.floating)
    # Python's whole numbers have no largest, but floats, which these become, have.
    if not is_number or isinstance(value, bool) or not 0 < value <= sys.float_info.max:
      got = "an array, maybe unknown" if isinstance(value, jax.Array) else repr(value)
      raise ValueError(f"{name}: expected a number above 0, not an array, got {got}")


def on_canvas(
  content: jax.Array,
  extent: Extent | None,
  stroke: float,
  look_size: int | None,
  canvas: Canvas | None,
) -> tuple[jax.Array, Extent | None]:
  """Returns contents `[n, h, w, 3]` at the size at which they are painted, and their extent there.

  They are the same array where that is their own size.
  """
  n, h, w, c = content.shape
  to = None
  if canvas is not None:
    (height, width), to = canvas
  else:
    height, width = painted_size(h, w, look_stroke(h, w, stroke, look_size))
    if (height, width) == (h, w):
      return content, extent
  like = jax.ShapeDtypeStruct((n, height, width, c), content.dtype)
  return resize_from(content, extent, like, to, "linear"), to


def usual_look_size(height: int, width: int) -> int | None:
  """Returns the `look_size` of pictures for which none is chosen; None: they are not larger."""
  return LOOK_SIZE if min(height, width) > LOOK_SIZE else None


def look_stroke(height: int, width: int, stroke: float, look_size: int | None) -> float:
  """Returns how coarse strokes are for both arguments."""
  return stroke if look_size is None else stroke * min(height, width) / look_size
