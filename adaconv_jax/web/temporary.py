"""The folder of uploads and results: bounded, and removed with the page."""

import contextlib
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

# Seconds that a file stays, bytes of all, and seconds from one look at them to the next.
MAX_AGE = 3600.0
MAX_BYTES = 2**31
EVERY = 20.0


class Temporary:
  """A folder of its own, whose files are deleted when they are old or too many.

  Args:
    max_age: seconds that a file stays.
    max_bytes: bytes of all files; the oldest are deleted first.

  Attributes:
    path: the folder.
  """

  def __init__(self, *, max_age: float = MAX_AGE, max_bytes: int = MAX_BYTES):
    self.path = Path(tempfile.mkdtemp(prefix="adaconv-web-"))
    self._max_age, self._max_bytes = max_age, max_bytes
    self._ended = threading.Event()

  def sweep(self) -> int:
    """Deletes what is too old or too much, and folders that are empty; returns how many files."""
    now, files, deleted = time.time(), [], 0
    for parent, _, names in os.walk(self.path):
      for name in names:
        path = Path(parent, name)
        with contextlib.suppress(OSError):  # somebody else has deleted it
          status = path.lstat()
          files.append((status.st_mtime, status.st_size, path))
    room = self._max_bytes
    for modified, size, path in sorted(files, key=lambda file: file[0], reverse=True):
      room -= size
      if room < 0 or now - modified > self._max_age:
        with contextlib.suppress(OSError):
          path.unlink()
          deleted += 1
    for parent, _, _ in os.walk(self.path, topdown=False):
      # An upload may be about to write into a new one.
      with contextlib.suppress(OSError):
        if Path(parent) != self.path and now - os.stat(parent).st_mtime > EVERY:
          os.rmdir(parent)
    return deleted

  def keep_swept(self) -> None:
    """Sweeps from now on, in a thread."""
    threading.Thread(target=self._sweep_on, daemon=True).start()

  def _sweep_on(self) -> None:
    while not self._ended.wait(EVERY):
      self.sweep()

  def remove(self) -> None:
    """Deletes the folder and all in it."""
    self._ended.set()
    shutil.rmtree(self.path, ignore_errors=True)
