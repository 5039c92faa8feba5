"""Distributes batches and states over the devices that train together."""

from collections.abc import Mapping
from typing import Any, TypeAlias, TypeVar

import jax
import numpy as np
from flax import jax_utils

AXIS = "batch"
# Value of "stop" in the batch of a process that has no images; otherwise it is the signal's number.
FAILED = 1000.0

Batch: TypeAlias = Mapping[str, Any]  # pytrees of arrays with a leading batch axis
T = TypeVar("T")  # a pytree


def process_batch_size(batch_size: int, devices: int | None = None) -> int:
  """Splits the global batch size over processes.

  Args:
    batch_size: pairs per step, over all devices.
    devices: number of devices; by default all of this run.

  Returns:
    The number of pairs that this process loads for one step.

  Raises:
    ValueError: the global batch is not a multiple of the number of devices.
  """
  devices = jax.device_count() if devices is None else devices
  if batch_size < 1 or batch_size % devices:
    below, above = batch_size // devices * devices, (batch_size // devices + 1) * devices
    near = f"{below} or {above}" if below > 0 else f"{above}"
    raise ValueError(
      f"config.batch_size: expected a multiple of the {devices} devices, got {batch_size}; "
      f"use {near}"
    )
  return batch_size // jax.process_count()


def shard(batch: Batch) -> dict[str, Any]:
  """Splits the leading axis of this process's batch, a pytree, over its local devices."""
  devices = jax.local_device_count()
  return jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), dict(batch))


def replicate(tree: T) -> T:
  """Copies a pytree to every local device, with a leading device axis."""
  # The training step would be compiled again for arrays that `pmap` did not place itself.
  place = jax.pmap(lambda tree: tree, axis_name=AXIS, donate_argnums=0)
  return place(jax_utils.replicate(tree))


def fetch(tree: T) -> T:
  """Copies the first local device's copy of a replicated pytree to NumPy arrays on the host."""
  return jax.tree.map(lambda x: np.asarray(x.addressable_data(0)).reshape(x.shape[1:]), tree)
