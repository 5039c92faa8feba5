"""A lock on a folder, because two trainings in one workdir would mix up their results.

Two runs of `adaconv pack`, `evaluate` or `video` with one output would, too.

On a disk, the kernel holds the lock and releases it when the process ends, however it ends. A
bucket has no locks. There, the file `.lock` is written again every few seconds: one that does not
change is the remains of a run that was killed, and is taken over. A run whose lock was taken over,
because its machine was asleep or cut off, ends before it writes another checkpoint.
"""

import contextlib
import errno
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaconv_jax.files import in_bucket, naming, parse_json
from adaconv_jax.signals import unfinished

if TYPE_CHECKING:
  from adaconv_jax.files import RemotePath

log = logging.getLogger(__name__)

NAME = ".lock"
# In a bucket: how often a run writes its lock, and how long a lock must not change to be a dead
# one, in seconds. A request can take half a minute where the bucket is busy.
RENEWED_EVERY, DEAD_AFTER = 15.0, 90.0
# Errors of `flock` on file systems that have no locks.
_WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)


class WorkdirInUse(RuntimeError):
  """Another process uses the folder."""


@contextlib.contextmanager
def locked(
  workdir: Path,
  name: str = "workdir",
  doing: str = "training",
  *,
  file: str = NAME,
  remains: bool = True,
) -> Iterator[Callable[[], None]]:
  """Holds the lock of a folder, which it makes; of several processes, for the first.

  Args:
    workdir: the folder.
    name: the option that names it.
    doing: what the process does there.
    file: the lock; with another name than usual for one of the folder's files.
    remains: whether it stays on a disk when the block ends; that of a process that was killed does.

  Yields:
    A function that raises `WorkdirInUse` if another process has taken the lock over.

  Raises:
    WorkdirInUse: another process has it.
    OSError: the folder cannot be made or written to.
  """
  if (remote := in_bucket(workdir)) is not None:
    lease = _Lease(remote / file, name, doing)
    lease.take()
    try:
      yield lease.check
    finally:
      lease.release()
    return
  workdir.mkdir(parents=True, exist_ok=True)
  with _held(workdir / file, name, doing, remains):
    yield lambda: None


@contextlib.contextmanager
def _held(path: Path, name: str, doing: str, remains: bool) -> Iterator[None]:
  """Holds a lock on a disk."""
  while True:
    # Without a buffer, because closing a file writes it again, and on a full disk raises an error
    # without a name in place of the first. Closing the file releases the lock.
    with open(path, "ab+", buffering=0) as file:
      held = _lock(file.fileno(), path, name, doing)
      if held and not _is_at(file.fileno(), path):
        continue  # the one that had it has removed it; now another process may have a new one
      try:
        if not remains:
          unfinished.add(path)  # removed by a signal
        if held:
          holder = {"pid": os.getpid(), "host": socket.gethostname()}
          with naming(path):
            file.truncate(0)
            file.write(f"{json.dumps(holder)}\n".encode())
        yield
      finally:
        if not remains:
          with contextlib.suppress(OSError):  # Windows removes no open file
            path.unlink()
          unfinished.discard(path)
    return


def _is_at(descriptor: int, path: Path) -> bool:
  """Whether an open file is the one at `path`."""
  try:
    return os.path.samestat(os.fstat(descriptor), os.stat(path))
  except FileNotFoundError:
    return False


def _in_use(path: "Path | RemotePath", name: str, doing: str) -> WorkdirInUse:
  return WorkdirInUse(
    f"{name}: {_holder(path)} is {doing} in {path.parent}; wait until it ends, stop it, or use "
    f"another --{name}"
  )


def _lock(descriptor: int, path: Path, name: str, doing: str) -> bool:
  try:
    import fcntl

    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError as error:
    raise _in_use(path, name, doing) from error
  except ImportError:
    reason = "this system has no locks"
  except OSError as error:
    if error.errno not in _WITHOUT_LOCKS:
      raise
    reason = str(error.strerror)
  else:
    return True
  log.warning("%s is not locked (%s); do not start a second run in it", path.parent, reason)
  return False


class _Lease:
  """The lock of a workdir in a bucket: a file that its owner keeps writing."""

  def __init__(self, path: "RemotePath", name: str, doing: str):
    self._path, self._name, self._doing = path, name, doing
    self._id = uuid.uuid4().hex
    self._lost = False
    self._end = threading.Event()
    self._thread = threading.Thread(target=self._renew, daemon=True)

  def take(self) -> None:
    """Takes the lock, after waiting to see whether one that exists is still written."""
    started, seen = time.monotonic(), self._read()
    while seen is not None and not _is_dead(seen):
      if seen != (seen := self._read()):
        if seen is None:
          break
        raise self._in_use()
      if time.monotonic() - started > DEAD_AFTER:
        log.warning("%s was left by a run that has ended", self._path)
        break
      if time.monotonic() - started < 1:
        log.info("%s exists; waiting to see whether its run is alive ...", self._path)
      time.sleep(min(1.0, DEAD_AFTER / 4))
    if seen is not None:
      self._path.unlink(missing_ok=True)
    try:
      self._create()
    except FileExistsError:
      raise self._in_use() from None
    self._thread.start()

  def _create(self) -> None:
    with contextlib.suppress(FileExistsError):  # maybe this one: its answer was lost
      self._path.create(self._content())
    if (self._read() or {}).get("id") != self._id:
      raise FileExistsError(errno.EEXIST, "another process was faster", str(self._path))

  def _content(self) -> bytes:
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "boot": _boot(), "id": self._id}
    return (json.dumps(holder | {"written": time.time()}) + "\n").encode()

  def _read(self) -> Any:
    """Returns the content of the file; None if there is none."""
    try:
      return parse_json(self._path.read_bytes(), what=str(self._path))
    except FileNotFoundError:
      return None
    except ValueError:
      return {}

  def _in_use(self) -> WorkdirInUse:
    return _in_use(self._path, self._name, self._doing)

  def _renew(self) -> None:
    while not self._end.wait(RENEWED_EVERY) and not self._lost:
      # While the bucket does not answer, nobody else can take the lock, either.
      with contextlib.suppress(OSError):
        if (self._read() or {}).get("id") != self._id:
          self._lost = True
        else:
          self._path.write_bytes(self._content())

  def check(self) -> None:
    """Raises `WorkdirInUse` if another process has taken the lock."""
    if self._lost:
      raise self._in_use()

  def release(self) -> None:
    """Removes the lock, if it is still this process's."""
    self._end.set()
    self._thread.join()
    # A lock that stays is dead later on.
    with contextlib.suppress(OSError):
      if (self._read() or {}).get("id") == self._id:
        self._path.unlink(missing_ok=True)


def _boot() -> str:
  """Returns a name of this start of this machine, because machines share names; "" for none."""
  try:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
  except OSError:
    return ""


def _is_dead(holder: Any) -> bool:
  """Whether a lock's process was on this machine and is no more."""
  try:
    if not _boot() or (holder["host"], holder["boot"]) != (socket.gethostname(), _boot()):
      return False
    os.kill(int(holder["pid"]), 0)
  except ProcessLookupError:
    return True
  except (KeyError, OSError, OverflowError, TypeError, ValueError):
    return False
  return False


def _holder(path: "Path | RemotePath") -> str:
  try:
    holder = json.loads(path.read_text())
    return f"process {int(holder['pid'])} on {holder['host']}"
  except (OSError, ValueError, KeyError, TypeError, OverflowError):
    return "another process"
