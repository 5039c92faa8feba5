"""`--profile`: a trace of some training steps, as TensorBoard and Perfetto show it."""

import contextlib
import logging
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

import jax

from adaconv_jax.files import described, files_below, is_remote, replacing

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

  The profiler writes to disks only. So a trace for a bucket is written to this machine, and copied.

  Args:
    workdir: the run's folder.
    span: the steps; None records none.
  """

  def __init__(self, workdir: Path, span: Span | None):
    self._folder, self._span, self._runs = workdir / "profile", span, False
    self._local, self._last = self._folder, 0

  def expect(self, done: int, num_steps: int) -> None:
    """Warns, before the first step, that a run after `done` steps will do none of the span's."""
    if self._span is not None and (self._span.first > num_steps or self._span.last <= done):
      log.warning(
        "--profile: the run goes from step %d to %d, and records none of %d to %d",
        *(done + 1, num_steps, *self._span),
      )
      self._span = None

  def is_first(self, step: int) -> bool:
    """Returns whether the trace begins with this step: the span's first, or what is left of it."""
    span = self._span
    return span is not None and not self._runs and span.first <= step <= span.last

  def start(self) -> None:
    """Starts, before the first step."""
    if is_remote(self._folder):
      self._local = Path(tempfile.mkdtemp(prefix="adaconv-profile-"))
    jax.profiler.start_trace(self._local)
    self._runs = True

  def after(self, step: int) -> bool:
    """Returns whether the trace ends with this step, which has to be waited for."""
    self._last = step
    return self._span is not None and self._runs and step == self._span.last

  def close(self) -> None:
    """Writes the trace, if one is being recorded, or warns that the run had none of the steps."""
    if self._span and not self._runs:
      log.warning("--profile: the run did none of the steps %d to %d", *self._span)
      self._span = None
    if self._span and self._runs:
      wanted, self._runs, self._span = self._span.last, False, None
      jax.profiler.stop_trace()
      if self._local != self._folder and not self._is_copied():
        return
      log.info("the profile is in %s", self._folder)
      if self._last < wanted:
        log.warning("--profile: it ends with step %d, the run's last, not %d", self._last, wanted)

  def _is_copied(self) -> bool:
    """Copies the trace into the bucket; says so if it stays here, which is no reason to stop."""
    try:
      for name in files_below(self._local):
        with replacing(self._folder / name) as temporary:
          shutil.copyfile(self._local / name, temporary)
    except OSError as error:
      log.warning("--profile: %s; the profile is in %s", described(error), self._local)
      return False
    with contextlib.suppress(OSError):
      shutil.rmtree(self._local)
    return True
