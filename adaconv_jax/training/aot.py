"""Compiles the training step for TPUs that are not there, and tells what it would need of them.

XLA's TPU compiler is in the package `libtpu` and runs on any Linux machine. What it says of a
program's memory, operations and communication is what a real TPU would get. It says nothing of
time, and the data pipeline is not a part of it.
"""

import dataclasses
import importlib.util
import math
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies

from adaconv_jax.training.devices import Batch
from adaconv_jax.training.state import TrainState
from adaconv_jax.training.step import TrainStep
from adaconv_jax.vgg.network import VGGParams

GB = 1e9
# Per kind of chip: Cloud TPU's name of a slice, the units that the name counts per chip (v5p's
# counts cores), and the chip's memory in GB (https://cloud.google.com/tpu/docs/system-architecture).
# One chip is one device.
CHIPS: Mapping[str, tuple[str, int, float]] = {
  "v5e": ("v5litepod", 1, 16),
  "v5p": ("v5p", 2, 95),
  "v6e": ("v6e", 1, 32),
}
COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "reduce-scatter", "collective-permute",
               "collective-broadcast", "send", "recv")  # fmt: skip

_WAY_OUT = "use more devices, a smaller config.batch_size or smaller crops"


@dataclasses.dataclass(frozen=True)
class Needs:
  """What a compiled program needs of each device, by the compiler's own account.

  Attributes:
    arguments: bytes of what is passed to it.
    outputs: bytes of the results that do not take the place of a donated argument.
    temporaries: bytes of everything between.
    code: bytes of the program.
    flops: floating-point operations of one run.
    bytes_accessed: bytes that one run reads from memory and writes to it.
    collectives: how often each kind of communication between devices occurs.
  """

  arguments: int
  outputs: int
  temporaries: int
  code: int
  flops: float
  bytes_accessed: float
  collectives: Mapping[str, int]

  @property
  def total(self) -> int:
    """Bytes of memory in all."""
    return self.arguments + self.outputs + self.temporaries + self.code


def tpu_devices(topology: str) -> Sequence[Any]:
  """Describes the devices of a TPU slice, to compile for.

  Must come before any other use of JAX's devices: it sets what libtpu reads from the environment,
  and keeps JAX from looking for a TPU in this machine.

  Args:
    topology: kind of chip and shape of the slice in chips, such as "v5e:2x4" or "v5p:2x2x1".

  Raises:
    ValueError: there is no such topology.
    FileNotFoundError: libtpu is not installed.
  """
  kind, _, shape = topology.partition(":")
  if kind not in CHIPS or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){1,2}", shape):
    raise ValueError(
      f"--aot: expected a TPU topology such as v5e:2x4, of one of {sorted(CHIPS)}, got {topology!r}"
    )
  if importlib.util.find_spec("libtpu") is None:
    raise FileNotFoundError(
      "--aot: the TPU compiler is not installed; get it with `pip install -e '.[tpu]'`"
    )
  slice_name, units, _ = CHIPS[kind]
  chips = math.prod(map(int, shape.split("x")))
  os.environ |= {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",  # else it asks Google Cloud's metadata server, for minutes
    "TPU_ACCELERATOR_TYPE": f"{slice_name}-{chips * units}",
    "TPU_WORKER_HOSTNAMES": "localhost",
  }
  jax.config.update("jax_platforms", "cpu")  # it read the environment when it was imported
  try:
    return topologies.get_topology_desc(topology, platform="tpu").devices
  except jax.errors.JaxRuntimeError as error:
    raise ValueError(f"--aot: libtpu knows no topology {topology!r}: {error}") from error


def memory_of(topology: str) -> float:
  """Returns the bytes of memory of one device of a topology that `tpu_devices` knows."""
  return CHIPS[topology.partition(":")[0]][2] * GB


def compile_step(
  step: TrainStep, state: TrainState, vgg_params: VGGParams, batch: Batch, devices: int
) -> Needs:
  """Compiles a training step that `make_train_step` made for the devices of a topology.

  Args:
    step: the step.
    state: the training state, not replicated; shapes are enough.
    vgg_params: the VGG weights, likewise.
    batch: the global batch, likewise.
    devices: number of devices of the topology.

  Raises:
    ValueError: it needs far more memory than a device has, so that the compiler gave up.
  """

  def replicated(leaf) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((devices, *leaf.shape), leaf.dtype)

  def sharded(leaf) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((devices, leaf.shape[0] // devices, *leaf.shape[1:]), leaf.dtype)

  shapes = jax.tree.map(replicated, (state, vgg_params))
  lowered = step.lower(*shapes, jax.tree.map(sharded, dict(batch)))  # pyright: ignore
  try:
    return needs(lowered.compile())
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    used = re.search(r"Used \S+ of \S+ hbm", str(error))
    raise ValueError(
      "does not fit: the compiler ran out of the device's memory"
      f"{f' ({used[0]})' if used else ''}; {_WAY_OUT}"
    ) from error


def needs(compiled: jax.stages.Compiled) -> Needs:
  """Reads off a compiled program what it needs."""
  memory: Any = compiled.memory_analysis()
  cost: Any = compiled.cost_analysis()
  return Needs(
    arguments=memory.argument_size_in_bytes,
    outputs=memory.output_size_in_bytes - memory.alias_size_in_bytes,
    temporaries=memory.temp_size_in_bytes,
    code=memory.generated_code_size_in_bytes,
    flops=cost.get("flops", 0.0),  # left out where there are none
    bytes_accessed=cost["bytes accessed"],
    collectives=count_collectives(compiled.as_text() or ""),
  )


def count_collectives(hlo: str) -> dict[str, int]:
  """Counts the communication between devices in the text of a program; pairs count once."""
  names = "|".join(COLLECTIVES)
  # An operation is its name and a parenthesis; a value that it made has a % in front of the name.
  return dict(Counter(re.findall(rf"(?<![%\w.-])({names})(?:-start)?\(", hlo)))


def report(needs: Needs, memory: float) -> str:
  """Describes `needs` for people, beside the bytes of `memory` that a device has."""
  sizes = {
    "arguments": needs.arguments,
    "outputs": needs.outputs,
    "temporaries": needs.temporaries,
    "code": needs.code,
    "total": needs.total,
  }
  lines = ["per device:", *(f"  {k:<14}{v / GB:9.3f} GB" for k, v in sizes.items())]
  lines[-1] += f" of {memory / GB:.0f} GB"
  lines.append(f"  {'operations':<14}{needs.flops / 1e12:9.3f} TFLOP per step")
  lines.append(f"  {'traffic':<14}{needs.bytes_accessed / GB:9.3f} GB read and written per step")
  found = ", ".join(f"{k} x {v}" for k, v in sorted(needs.collectives.items()))
  lines.append(f"  {'collectives':<14}{found or 'none'}")
  if unexpected := sorted(set(needs.collectives) - {"all-reduce"}):
    lines.append(f"  unexpected, only all-reduce should be there: {', '.join(unexpected)}")
  return "\n".join(lines)


def check_fit(needs: Needs, memory: float) -> None:
  """Raises unless `needs` fit into the bytes of `memory` that a device has.

  Raises:
    ValueError: they do not.
  """
  if needs.total > memory:
    raise ValueError(
      f"does not fit: it needs {needs.total / GB:.1f} GB per device, which has {memory / GB:.0f} "
      f"GB; {_WAY_OUT}"
    )


def crops(batch_size: int, content: int, style: int) -> dict[str, jax.ShapeDtypeStruct]:
  """The shapes of a batch of square crops, as `make_batches` yields them."""
  return {
    role: jax.ShapeDtypeStruct((batch_size, size, size, 3), np.uint8)
    for role, size in (("content", content), ("style", style))
  }
