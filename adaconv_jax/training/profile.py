"""`--profile`: a trace of some training steps, as TensorBoard and Perfetto show it."""

import logging
from pathlib import Path
from typing import NamedTuple

import jax

from adaconv_jax.files import is_remote

log = logging.getLogger(__name__)


class Span(NamedTuple):
  """Steps, from the first to the last one."""

  first: int
  last: int

  @classmethod
  def parse(cls, text: str) -> "Span":
    """Reads FIRST:LAST.

    Raises:
      ValueError: these are no such numbers.
    """
    first, _, last = text.partition(":")
    numbers = (first, last)
    if all(n.isascii() and n.isdecimal() for n in numbers) and 1 <= int(first) <= int(last):
      return cls(int(first), int(last))
    raise ValueError(
      f"--profile: expected the first and the last step to record, such as 100:110, got {text!r}"
    )


class Tracer:
  """Records the steps of a span to `workdir/profile`.

  Args:
    workdir: the run's folder.
    span: the steps; None records none.

  Raises:
    ValueError: the workdir is in a bucket.
  """

  def __init__(self, workdir: Path, span: Span | None):
    if span is not None and is_remote(workdir):
      raise ValueError(f"--profile: expected a workdir on a disk, got {workdir}")
    self._folder, self._span, self._runs = workdir / "profile", span, False

  def before(self, step: int) -> None:
    """Starts before the first step of the span, or of what is left of it."""
    if self._span and not self._runs and self._span.first <= step <= self._span.last:
      jax.profiler.start_trace(self._folder)
      self._runs = True

  def is_last(self, step: int) -> bool:
    """Returns whether the trace ends with this step, which has to be waited for."""
    return self._span is not None and self._runs and step == self._span.last

  def close(self) -> None:
    """Writes the trace, if one is being recorded, or warns that the run had none of the steps."""
    if self._span and not self._runs:
      log.warning("--profile: the run did none of the steps %d to %d", *self._span)
      self._span = None
    if self._runs:
      self._runs, self._span = False, None
      jax.profiler.stop_trace()
      log.info("the profile is in %s", self._folder)
