"""A line of the table: the same work done in two ways."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

# Builds a function without arguments that does the work; building is not timed.
Builder = Callable[[], Callable[[], Any]]


@dataclasses.dataclass(frozen=True)
class Case:
  """One line of the table.

  Attributes:
    row: number of the row that it belongs to.
    name: what is done.
    gflop: operations of the whole work, from `flops.py`.
    ours: builds our side, whose result `difference` compares.
    peer: builds the other side.
    target: the desired ratio, or None.
    ours_share: the share of the work that one call of ours does; its time is divided by this.
    peer_share: likewise for the peer.
    pairs: number of pairs (or images) in the whole work, for a rate; 0 for none.
    difference: the largest difference of the two results, which must be below `tolerance`; None if
      the two compute different things.
    tolerance: see `difference`.
    checks: number of calls whose results are compared.
    peer_gflop: of the peer, if its work differs.
    slowdown: the ratio is our time over the peer's, and must be below the target.
    note: anything else that a reader should know.
  """

  row: str
  name: str
  gflop: float
  ours: Builder
  peer: Builder
  target: float | None
  ours_share: float = 1.0
  peer_share: float = 1.0
  pairs: int = 0
  difference: Callable[[Any, Any], float] | None = None
  tolerance: float = 1e-3
  checks: int = 1
  peer_gflop: float | None = None
  slowdown: bool = False
  note: str = ""


def image_difference(ours: Any, peer: Any) -> float:
  """Returns the largest difference of two lists of image batches, up to the shorter length.

  Args:
    ours: of `[n, h, w, 3]`.
    peer: of tensors `[n, 3, h, w]`; a shorter list is the first part of the work.

  Raises:
    ValueError: the images are flat, which would hide a difference.
  """
  largest = 0.0
  for one, other in zip(ours, peer, strict=False):
    one = np.asarray(one)
    if one.std() < 0.05:
      raise ValueError(f"the stylized images are flat: standard deviation {one.std():.3f}")
    largest = max(largest, float(np.abs(one - np.moveaxis(other.numpy(), 1, -1)).max()))
  return largest


def number_difference(ours: Any, peer: Any) -> float:
  """Returns the relative difference of two scalars."""
  return abs(float(np.ravel(ours)[0]) - float(peer)) / abs(float(peer))


def check(case: Case, ours: Callable[[], Any], peer: Callable[[], Any] | None) -> float | None:
  """Calls both sides, which also compiles them, and compares their results.

  Returns:
    The largest difference; None if there is nothing to compare.

  Raises:
    ValueError: it is too large.
  """
  largest = None
  for _ in range(case.checks):
    one, other = ours(), peer() if peer else None
    if case.difference and peer:
      difference = case.difference(one, other)
      if not difference < case.tolerance:
        raise ValueError(f"{case.name}: the two sides differ by {difference:g}")
      largest = max(largest or 0.0, difference)
  return largest
