"""The hosts of a training: how their processes find each other, and when they are told to stop."""

import importlib.util
import signal
from pathlib import Path

import jax
from jax.experimental import multihost_utils


class StopRequest:
  """Notices SIGTERM (a preempted machine) and Ctrl-C; a second Ctrl-C ends the process at once."""

  def __init__(self):
    self._asked = False
    if jax.process_count() == 1:
      for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, self._ask)

  def _ask(self, number, frame):
    del frame
    self._asked = True
    signal.signal(number, signal.SIG_DFL)

  def reached(self, step: int) -> bool:
    """Whether to save and stop after `step`; several processes agree on one step."""
    if jax.process_count() > 1:
      return multihost_utils.reached_preemption_sync_point(step)
    return self._asked


def connect(distributed: str, coordinator: str | None, processes: int | None, index: int | None):
  """Joins the processes of several hosts; must come before any other use of JAX.

  Raises:
    ValueError: only a part of address, number of processes and process number is given.
  """
  given = [value is not None for value in (coordinator, processes, index)]
  if any(given):
    if not all(given):
      raise ValueError("--coordinator, --num_processes and --process_id go together")
    jax.distributed.initialize(coordinator, processes, index)
  elif distributed == "on" or (distributed == "auto" and _on_cloud_tpu()):
    jax.distributed.initialize()


def _on_cloud_tpu() -> bool:
  # libtpu alone says little: it is installed to compile for TPUs as well.
  devices = [*Path("/dev").glob("accel*"), *Path("/dev").glob("vfio/[0-9]*")]
  return bool(devices) and importlib.util.find_spec("libtpu") is not None
