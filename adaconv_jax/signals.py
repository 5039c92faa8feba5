"""Signals that end a process: at any moment, with one line, and without half files.

Python runs its handlers only between two steps of the main thread's own code, and a compilation
takes minutes; so a thread waits for the signals. Imports nothing that takes time.
"""

import contextlib
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

# SIGHUP is that of a terminal that is closed, which Windows does not have.
SIGNALS = tuple(
  getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)
)
# Not Ctrl-C: a shell lets the programs that a script starts with & ignore it, and yet `kill -INT`
# should save.
_MAY_BE_IGNORED = SIGNALS[2:]
# Seconds that a stream whose reader is slow may hold up the end of the process.
PATIENCE = 1.0

# Files that are written now, under a temporary name: `files.replacing` notes them here.
unfinished: set[Path] = set()
# Signals that a command handles itself for now, with a handler of its own: `Watch` leaves them out.
handled: set[int] = set()


class Watch:
  """Calls a function for each signal, in a thread of its own.

  A SIGHUP that is ignored, as after `nohup`, stays ignored. Outside of the main thread, where
  Python allows no handlers, it does nothing.

  Args:
    received: takes the number of the signal.
  """

  def __init__(self, received: Callable[[int], None]):
    self._received = received
    self._before: dict[int, Any] = {}
    self._pipe: tuple[int, int] | None = None
    self._wakeup_before = -1
    if threading.current_thread() is threading.main_thread():
      self._pipe = os.pipe()
      for end in self._pipe:
        os.set_blocking(end, end == self._pipe[0])
      threading.Thread(target=self._wait, args=(self._pipe[0],), daemon=True).start()
      self.listen()

  def listen(self) -> None:
    """Takes the signals, or takes them back from a library."""
    if self._pipe is None:
      return
    before = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
    if before != self._pipe[1]:
      self._wakeup_before = before
    for number in SIGNALS:
      if number in _MAY_BE_IGNORED and signal.getsignal(number) == signal.SIG_IGN:
        continue
      previous = signal.signal(number, _note)
      self._before.setdefault(number, previous)

  def close(self) -> None:
    """Restores the earlier handlers of the signals."""
    if self._pipe is None:
      return
    for number, handler in self._before.items():
      signal.signal(number, signal.SIG_DFL if handler is None else handler)
    signal.set_wakeup_fd(self._wakeup_before)
    os.close(self._pipe[1])  # ends the thread
    self._pipe = None

  def _wait(self, descriptor: int) -> None:
    while received := os.read(descriptor, 1):
      if received[0] in SIGNALS and received[0] not in handled:
        self._received(received[0])
    os.close(descriptor)


def end(line: str, code: int) -> NoReturn:
  """Ends the process at once, whatever its other threads do.

  Args:
    line: the last line of standard error; what other threads write after it is lost.
    code: the exit code.
  """
  try:
    # A thread may wait for the reader of a stream, and have its lock.
    for action in (flush, functools.partial(_write_last, line)):
      thread = threading.Thread(target=action, daemon=True)
      thread.start()
      thread.join(PATIENCE)
    for path in unfinished.copy():
      with contextlib.suppress(OSError):
        path.unlink()
  finally:
    os._exit(code)


def flush() -> None:
  """Flushes the standard streams, as far as they take it."""
  for stream in (sys.stdout, sys.stderr):
    with contextlib.suppress(AttributeError, OSError, ValueError):  # there is none, or it is closed
      stream.flush()


def _note(number: int, frame: Any) -> None:
  """Python's own handler, without which the thread would not be woken."""
  del number, frame


def _write_last(line: str) -> None:
  """Writes the last line of the process to standard error.

  The main thread still runs, so whatever it writes from here on is lost.
  """
  try:
    descriptor = sys.stderr.fileno()
  except (AttributeError, OSError, ValueError):  # in a notebook, or there is none
    if sys.stderr is not None:
      sys.stderr.write(line)
    return
  shown, nothing = os.dup(descriptor), os.open(os.devnull, os.O_WRONLY)
  for each in {1, 2, descriptor}:
    os.dup2(nothing, each)
  os.write(shown, line.encode())
