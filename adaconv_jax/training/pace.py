"""How fast a training is: the time of a step without pauses, and how much of it is waiting."""

import contextlib
import time
from collections.abc import Iterator
from typing import NamedTuple

# The weight of the newest step in the average.
_NEWEST = 0.05


class Interval(NamedTuple):
  """What happened between two moments.

  Attributes:
    steps: number of steps.
    seconds: their time, without pauses.
    waiting: share of this time that was spent waiting for data, 0 to 1.
  """

  steps: int
  seconds: float
  waiting: float


class Pace:
  """Measures steps. Pauses (compiling, samples, saving) do not belong to the time of a step."""

  def __init__(self):
    self._last = self._marked = time.monotonic()
    self._steps = self._marked_steps = 0
    self._paused = self._last_paused = self._marked_paused = 0.0
    self._recurring = 0.0
    self._waited = self._marked_waited = 0.0
    self._depth, self._unique = 0, False
    self._seconds = self._weight = 0.0
    self._skip = True

  def step(self) -> None:
    """Notes that a step was started, which is when the one before it is done."""
    now = time.monotonic()
    seconds = now - self._last - (self._paused - self._last_paused)
    self._last, self._last_paused = now, self._paused
    self._steps += 1
    if self._skip:  # it was only started
      self._skip = False
      return
    self._seconds += _NEWEST * (seconds - self._seconds)
    self._weight += _NEWEST * (1 - self._weight)

  @contextlib.contextmanager
  def pause(self, *, once: bool = False) -> Iterator[None]:
    """Within it, no step runs.

    Args:
      once: it is not to be expected again, such as a compilation.
    """
    began = time.monotonic()
    self._depth += 1
    self._unique |= once
    try:
      yield
    finally:
      self._depth -= 1
      if not self._depth:
        seconds = time.monotonic() - began
        self._paused += seconds
        if not self._unique and self._steps:
          self._recurring += seconds
        self._unique = False

  @contextlib.contextmanager
  def wait(self) -> Iterator[None]:
    """Within it, the training waits for data."""
    began = time.monotonic()
    try:
      yield
    finally:
      # The first batch waits for the workers to start.
      if self._steps:
        self._waited += time.monotonic() - began

  def restart(self) -> None:
    """Notes that other steps follow, of another program."""
    self._seconds = self._weight = 0.0
    self._skip = True

  def speed(self) -> float:
    """Returns the steps per second to expect, with the pauses that come again; 0: not known yet."""
    if not self._weight or not self._seconds:
      return 0.0
    return 1 / (self._seconds / self._weight + self._recurring / max(self._steps, 1))

  def interval(self) -> Interval:
    """Returns what happened since the last call."""
    now = time.monotonic()
    steps, waited = self._steps - self._marked_steps, self._waited - self._marked_waited
    seconds = now - self._marked - (self._paused - self._marked_paused)
    self._marked, self._marked_steps = now, self._steps
    self._marked_paused, self._marked_waited = self._paused, self._waited
    seconds = max(seconds, 1e-9)
    return Interval(steps, seconds, min(waited / seconds, 1.0))
