"""Which sizes of arrays have compiled programs, and which of them a picture is padded to.

Compiling a program takes as long as dozens of pictures. So a picture of a new size takes the
program of a larger one where that adds little, and a program of its own only when pictures of its
size have added as much as compiling takes. Whatever the sizes, both together take at most about
twice as long as if it were known which will come.

The command line, which cannot know what programs the next process will want, takes the next size of
a fine series, a bucket.
"""

import collections
import threading
from collections.abc import Hashable

import jax
import numpy as np

from adaconv_jax.models.stylizer import ContentCode, Stylizer
from adaconv_jax.ops.extent import Extent
from adaconv_jax.ops.tiling import WHOLE_BYTES, image_bytes
from adaconv_jax.vgg.network import STRIDE

# Sides of buckets from one power of two to the next: at most an eighth is added, 5 % on average.
STEPS_PER_OCTAVE = 8

# Pixels that padding may add to a call: half a second on two cores.
SPARE = 2**18
# Pixels that padding adds to a size before that gets a program: they take as long as compiling.
WORTH_COMPILING = 2**22
# Sides of the squares that new programs are for: powers of two up to this, then its multiples.
STEP = 128
_LEAST = 32


class Rooms:
  """The sizes in which programs of each kind are compiled, of a process."""

  def __init__(self):
    self._sizes: dict[Hashable, set[tuple[int, int]]] = collections.defaultdict(set)
    self._added: dict[Hashable, int] = collections.defaultdict(int)
    self._lock = threading.Lock()

  def find(self, kind: Hashable, count: int, height: int, width: int) -> tuple[int, int]:
    """Returns the size that pictures are padded to, and takes note that it gets a program.

    Args:
      kind: what else programs differ in.
      count: pictures in the call.
      height: that they need at least; so finely that a program for it is worth compiling.
      width: the same.
    """
    least = (height, width)

    def added(size: tuple[int, int]) -> int:
      return count * (size[0] * size[1] - height * width)

    with self._lock:
      sizes = self._sizes[kind]
      if least in sizes:
        return least
      side = square_side(max(least))
      fitting = [size for size in sizes if size[0] >= height and size[1] >= width]
      small = [size for size in fitting or [(side, side)] if added(size) <= SPARE]
      # None of those that exist is small enough: a new square may be.
      if not small and added((side, side)) <= SPARE:
        small = [(side, side)]
      size = min(small, key=added, default=least)
      self._added[kind, least] += added(size)
      if self._added[kind, least] > WORTH_COMPILING:
        size = least
      sizes.add(size)
      return size


def square_side(side: int) -> int:
  """The side of the smallest square for new programs that holds `side`."""
  if side <= STEP:
    return max(2 ** (side - 1).bit_length(), _LEAST)
  return -(-side // STEP) * STEP


def extent_of(size: tuple[int, int]) -> Extent:
  """Returns a height and a width on the device, transferred explicitly, as guards ask for."""
  # Of the type that `jnp.arange` has, which in JAX's 64-bit mode is a longer one.
  integer = jax.dtypes.canonicalize_dtype(np.int64)
  return Extent(*jax.device_put(tuple(map(integer.type, size))))


def in_bucket(stylizer: Stylizer, picture: np.ndarray) -> tuple[np.ndarray, Extent | None]:
  """Pads a picture to one of a few standard sizes, so that similar sizes share a program.

  Args:
    stylizer: the model that takes it.
    picture: `[h, w, 3]`.

  Returns:
    `[1, h', w', 3]` with the picture in the top left, and the picture's extent in it; the picture
    alone and None where it has no `bucket`.
  """
  size = bucket(stylizer, *picture.shape[:2])
  if size is None:
    return picture[None], None
  below, right = (there - here for there, here in zip(size, picture.shape, strict=False))
  return np.pad(picture, ((0, below), (0, right), (0, 0)))[None], Extent(*picture.shape[:2])


def out_of_bucket(content: ContentCode, stylized: jax.Array) -> np.ndarray:
  """Returns the picture `[h, w, 3]` that `render_encoded` made of one from `in_bucket`."""
  height, width = map(int, content.extent or content.pictures.shape[1:3])
  return np.asarray(stylized)[0, :height, :width]


def bucket(stylizer: Stylizer, height: int, width: int) -> tuple[int, int] | None:
  """The height and width to which a picture can be padded.

  Returns:
    The size; None where the picture must keep its own, because it is rendered in strips, styles of
    its size are enlarged, or the model's kernels are larger than 3 x 3.
  """
  h, w = (bucket_side(side, STRIDE) for side in (height, width))
  large = image_bytes(h, w) > WHOLE_BYTES
  wide = stylizer.model.kernel_size > 3
  return None if large or wide or min(height, width) < 2 * STRIDE else (h, w)


def bucket_side(side: int, multiple: int) -> int:
  """The smallest height or width of a bucket that holds `side`: a multiple of `multiple`."""
  step = max(2 ** (side - 1).bit_length() // (2 * STEPS_PER_OCTAVE), multiple)
  return -(-side // step) * step
