"""Timing of two functions side by side."""

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax

# No further round starts after this time, but a median needs a few.
PATIENCE_SECONDS = 90.0
LEAST_ROUNDS = 3
# OpenMP's and XLA's threads wait for more work for some milliseconds after the last.
SETTLE_SECONDS = 0.05
# If one side returns memory during the other's turn, its next use can cost more than the work
# itself, above all on virtual machines (a step of 2.2 s once took 3.1 s). So a call shorter than
# this follows one that is not timed.
SHORT_SECONDS = 10.0


@dataclasses.dataclass(frozen=True)
class Timings:
  """Seconds per call of either side, in the order measured."""

  ours: tuple[float, ...]
  peer: tuple[float, ...]

  @property
  def medians(self) -> tuple[float, float]:
    """Medians of ours and of the peer."""
    return statistics.median(self.ours), statistics.median(self.peer)


def seconds(function: Callable[[], Any]) -> float:
  """Times one call, including what JAX computes in the background."""
  time.sleep(SETTLE_SECONDS)
  start = time.perf_counter()
  jax.block_until_ready(function())
  return time.perf_counter() - start


def alternate(ours: Callable[[], Any], peer: Callable[[], Any] | None, rounds: int) -> Timings:
  """Times both functions in turns, so that a slow period of the machine affects both.

  A turn is two calls of which the second is timed, or one if it is long. Long ones get fewer
  rounds, but at least three (or `rounds`).

  Args:
    ours: our side.
    peer: the other side; None for nothing.
    rounds: calls of each.
  """
  times = [], []
  start = time.perf_counter()
  for index in range(rounds):
    if index >= LEAST_ROUNDS and time.perf_counter() - start > PATIENCE_SECONDS:
      break
    for function, kept in zip((ours, peer), times, strict=True):
      if function is not None:
        first = seconds(function)
        kept.append(seconds(function) if first < SHORT_SECONDS else first)
  return Timings(tuple(times[0]), tuple(times[1]))
