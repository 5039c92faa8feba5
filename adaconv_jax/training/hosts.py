"""The hosts of a training: how their processes find each other, and how signals stop them."""

import contextlib
import ctypes
import functools
import importlib.util
import json
import logging
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from adaconv_jax.files import Json
from adaconv_jax.lock import NAME as LOCK
from adaconv_jax.signals import PATIENCE, Watch, end, flush
from adaconv_jax.training.devices import FAILED, fetch

log = logging.getLogger(__name__)

# Seconds until a process that is gone ends the others, and that a failed one waits for the others
# to end, too.
_HEARTBEAT, _PARTING = 30, 10.0

LOST = (
  "another process of this training was lost, or the connection to it; the log of its host may say "
  "why. Start the same command on all hosts: it goes on from the newest checkpoint"
)
# In the messages of JAX that mean this.
_LOST_SIGNS = ("Gloo", "UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "coordination", "heartbeat")


class StopRequest:
  """Notices SIGTERM (a preempted machine), Ctrl-C and SIGHUP (a closed terminal), at any moment.

  It is a context manager. A SIGHUP that is ignored, as after `nohup`, stays ignored.

  In the loop, the first signal requests to save and stop, which `reached` returns. Everywhere else
  (the scan of the images, a compilation) there is nothing to save, and the process ends at once, as
  it does at a second signal.

  Attributes:
    signal: the number of the signal that stops the run; 0: none.
    step: number of steps done.
    num_steps: number of steps of the whole training.
    failure: why this process, one of several, has no batch.
    nothing_to_do: whether all steps were done before.
    bar_is_shown: whether a line of standard error may not have ended yet.
    doing: when the process is stopped, before it knows of any steps.
  """

  def __init__(self):
    self.signal = 0
    self.step = self.num_steps = 0
    self.failure: Exception | None = None
    self.nothing_to_do = False
    self._saves = False  # whether the loop runs, which saves
    self._decide = threading.Lock()
    self.bar_is_shown = False
    self.doing = "before it began"
    self._code: int | None = None  # once the last line is written
    self._stops: list[Any] = []  # "stop" of the last two steps' metrics
    self._watch = Watch(self._received)

  def listen(self) -> None:
    """Takes the signals, or takes them back from a library."""
    self._watch.listen()

  def close(self) -> None:
    """Restores the earlier handlers of the signals."""
    self._watch.close()

  def __enter__(self) -> "StopRequest":
    return self

  def __exit__(self, *_: object) -> None:
    self.close()

  def _received(self, number: int) -> None:
    # The main thread has the lock for longer only if it writes its last line to a full pipe.
    decides = self._decide.acquire(timeout=PATIENCE)
    if decides and self._saves and not self.signal:
      self.signal = number
    else:
      self._end(number)
    self._decide.release()

  def _end(self, number: int) -> None:
    # The main thread may be in a compilation, which cannot be interrupted. Worker processes end
    # with their parent.
    if self._code is not None:
      os._exit(self._code)
    end(("\n" if self.bar_is_shown else "") + f"{self.describe()}\n", 128 + number)

  @contextlib.contextmanager
  def leaving(self, code: int) -> Iterator[None]:
    """Within it, the last line is to be written; after it, a signal only ends the process sooner.

    Args:
      code: the exit code of the process.
    """
    with self._decide:
      yield
      self._code = code

  def describe(self) -> str:
    """Returns the last line of a run that was stopped."""
    if not self.num_steps:
      return f"stopped {self.doing}"
    return f"stopped at step {self.step} of {self.num_steps}"

  @property
  def exit_code(self) -> int:
    """The exit code that a shell gives a process that a signal ended."""
    return 128 + self.signal

  def at(self, step: int, num_steps: int) -> None:
    """Records how far the training is."""
    self.step, self.num_steps = step, num_steps

  @contextlib.contextmanager
  def saving(self) -> Iterator[None]:
    """Within it, a signal requests to save and stop, and does not end the process."""
    with self._decide:
      self._saves = self.bar_is_shown = True
    try:
      yield
    finally:
      with self._decide:
        self._saves = False

  @contextlib.contextmanager
  def nothing_to_save(self) -> Iterator[None]:
    """Within `saving`: everything is saved, so a signal ends the process at once.

    With several processes it does not, because the others would wait for this one.
    """
    if jax.process_count() > 1:
      yield
      return
    with self._decide:
      if self.signal:
        self._end(self.signal)
      self._saves = False
    try:
      yield
    finally:
      with self._decide:
        self._saves = True

  def request(self, size: int) -> dict[str, np.ndarray]:
    """Returns what a process adds to its batch of `size`, so that several agree when to stop."""
    if jax.process_count() == 1:
      return {}
    return {"stop": np.full(size, FAILED if self.failure else self.signal, np.float32)}

  def note(self, metrics: Any) -> None:
    """Takes the metrics of a step; they are read a step later, like in `Progress`."""
    if "stop" in metrics:
      self._stops = [*self._stops[-1:], metrics["stop"]]

  def reached(self, step: int) -> bool:
    """Returns whether to save and stop after `step`; several processes agree on one step."""
    del step
    if jax.process_count() > 1:
      # Those of the step before, which is done; the device is still working on the last one.
      agreed = int(fetch(self._stops[0])) if len(self._stops) == 2 else 0
      if 0 < agreed < FAILED:
        self.signal = self.signal or agreed
      return bool(agreed)
    return bool(self.signal)

  def failed(self) -> bool:
    """Returns whether one of several processes had no batch for one of the last two steps."""
    return any(fetch(value) >= FAILED for value in self._stops)


def agree(value: bool) -> bool:
  """Returns the first process's value, in all processes."""
  return bool(multihost_utils.broadcast_one_to_all(np.asarray(value)))


def check_alike(described: Json) -> None:
  """Checks that all processes describe their training alike; every process has to call it.

  Otherwise each would go on with its own learning rate or images, and the parameters, of which only
  those of the first process are saved, would drift apart without an error.

  Args:
    described: what determines the training, valid for JSON.

  Raises:
    ValueError: a process differs from the first one; in all processes.
  """
  if jax.process_count() == 1:
    return
  own = np.frombuffer(json.dumps(described).encode(), np.uint8)
  sizes = np.asarray(multihost_utils.process_allgather(np.asarray(own.size))).ravel()
  # int32, because Gloo, between CPUs, sums what it gathers.
  padded = np.zeros(sizes.max(), np.int32)
  padded[: own.size] = own
  rows = np.asarray(multihost_utils.process_allgather(padded))
  first, *others = (
    json.loads(row[:size].astype(np.uint8).tobytes()) for row, size in zip(rows, sizes, strict=True)
  )
  for index, other in enumerate(others, start=1):
    differing = [
      f"{name} is {first.get(name)!r} in process 0 and {other.get(name)!r} in process {index}"
      for name in sorted(first.keys() | other.keys())
      if first.get(name) != other.get(name)
    ]
    if differing:
      raise ValueError(
        f"all processes must train alike, but {', '.join(differing)}; start the same command with "
        "the same files on all"
      )


def check_shared(workdir: Path) -> None:
  """Checks that all processes see the lock that the first one has taken; all have to call it.

  Raises:
    ValueError: one does not, because each machine has a folder of its own; in all processes.
  """
  if jax.process_count() == 1:
    return
  multihost_utils.sync_global_devices("the first process has the lock")
  seen = multihost_utils.process_allgather(np.asarray((workdir / LOCK).exists()))
  without = np.flatnonzero(~np.asarray(seen).ravel())
  if without.size:
    raise ValueError(
      f"workdir: expected one folder for all processes, but process {without[0]} does not see "
      f"what process 0 has written to {workdir}; use a shared disk or a bucket"
    )


def part(code: int) -> None:
  """Ends this process, which failed, if it is one of several, for otherwise the others would wait.

  Where all fail alike, they end one another's connections. Where this one fails alone, it ends
  without, and JAX ends the others.

  Args:
    code: the exit code.
  """
  if not jax.distributed.is_initialized():
    return
  thread = threading.Thread(target=jax.distributed.shutdown, daemon=True)
  thread.start()
  thread.join(_PARTING)
  flush()
  os._exit(code)


def connect(distributed: str, coordinator: str | None, processes: int | None, index: int | None):
  """Connects the processes of several hosts; call it before any other use of JAX.

  Raises:
    ValueError: address, number of processes and process number are not all given, nor all missing.
  """
  given = [value is not None for value in (coordinator, processes, index)]
  if any(given):
    if not all(given):
      raise ValueError(
        "--coordinator, --num-processes and --process-id: expected all three or none of them"
      )
    jax.distributed.initialize(coordinator, processes, index, heartbeat_timeout_seconds=_HEARTBEAT)
  elif distributed == "on" or (distributed == "auto" and _on_cloud_tpu()):
    jax.distributed.initialize(heartbeat_timeout_seconds=_HEARTBEAT)
  else:
    return
  _explain_aborts()


def is_lost(error: Exception) -> bool:
  """Whether an error of JAX means that another process was lost."""
  return jax.process_count() > 1 and any(sign in str(error) for sign in _LOST_SIGNS)


def _aborted(number: int) -> None:
  del number
  os.write(2, f"\nerror: {LOST}\n".encode())
  os._exit(1)


@functools.cache  # what C calls must not be freed
def _aborted_for_c() -> Any:
  return ctypes.CFUNCTYPE(None, ctypes.c_int)(_aborted)


def _explain_aborts() -> None:
  """Makes the last line of a process that JAX aborts, because another was lost, say so.

  JAX aborts from a thread of its own. A handler of Python's would never run then.
  """
  libc = ctypes.CDLL(None)
  libc.signal.argtypes = ctypes.c_int, ctypes.c_void_p
  libc.signal(signal.SIGABRT, ctypes.cast(_aborted_for_c(), ctypes.c_void_p))


def _on_cloud_tpu() -> bool:
  # libtpu alone is no sign of a TPU: it is also installed to compile for TPUs.
  devices = [*Path("/dev").glob("accel*"), *Path("/dev").glob("vfio/[0-9]*")]
  return bool(devices) and importlib.util.find_spec("libtpu") is not None
