"""Which sizes of arrays have compiled programs, and which of them a picture is padded to.

Compiling a program takes as long as dozens of pictures. So a picture of a new size takes the
program of a larger one where that adds little, and a program of its own only when pictures of its
size have added as much as compiling takes. Whatever the sizes, both together take at most about
twice as long as if it were known which will come.
"""

import collections
import threading
from collections.abc import Hashable

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
