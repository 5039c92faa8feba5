"""Compiles the training step for TPUs without having any, and reports what it would need.

XLA's TPU compiler is in the package `libtpu` and runs on any Linux machine. It compiles the same
program as on a real TPU, so its figures for memory, operations and communication are exact. It does
not estimate time, and the data pipeline is not included.
"""

import contextlib
import dataclasses
import importlib.util
import logging
import math
import os
import re
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies

from adaconv_jax.bars import Bar
from adaconv_jax.models.build import init_params
from adaconv_jax.training.check import check_settings
from adaconv_jax.training.devices import Batch, process_batch_size
from adaconv_jax.training.from_config import Config, make_networks, make_steps
from adaconv_jax.training.state import TrainState, create_state
from adaconv_jax.training.step import TrainStep
from adaconv_jax.vgg.network import VGGParams

log = logging.getLogger(__name__)

GB = 1e9


class Chip(NamedTuple):
  """A kind of TPU chip; one chip is one device.

  Attributes:
    name: Cloud TPU's name of slices of it.
    units: units per chip in that name: cores for v4 and v5p.
    dimensions: of the shape of a slice.
    memory: in GB.
    peak: operations in bfloat16, in TFLOP/s.
    bandwidth: of its memory, in GB/s.
  """

  name: str
  units: int
  dimensions: int
  memory: float
  peak: float
  bandwidth: float


# https://cloud.google.com/tpu/docs/system-architecture-tpu-vm and the pages of the kinds.
CHIPS: Mapping[str, Chip] = {
  "v4": Chip("v4", 2, 3, 32, 275, 1228),
  "v5e": Chip("v5litepod", 1, 2, 16, 197, 819),
  "v5p": Chip("v5p", 2, 3, 95, 459, 2765),
  "v6e": Chip("v6e", 1, 2, 32, 918, 1640),
}
# The shape that Cloud TPU gives a slice of a number of chips, by the dimensions.
_SHAPES: Mapping[int, Mapping[int, str]] = {
  2: {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"},
  3: {4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8", 256: "4x8x8"},
}
# What `estimate` is made of: seconds of one processor core per operation of the lowered program,
# from compilations of the published configs on an AMD EPYC (`python -m benchmarks.tpu_steps`).
_SECONDS_PER_OPERATION = 0.025
COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "reduce-scatter", "collective-permute",
               "collective-broadcast", "send", "recv")  # fmt: skip

_WAY_OUT = "use more devices, a smaller config.batch_size or smaller crops"


@dataclasses.dataclass(frozen=True)
class Needs:
  """What a compiled program needs on each device, as reported by the compiler.

  Attributes:
    arguments: bytes of the arguments.
    outputs: bytes of the results that do not reuse a donated argument.
    temporaries: bytes of intermediate results.
    code: bytes of the program.
    flops: floating-point operations of one run.
    bytes_accessed: bytes that one run reads from memory and writes to it.
    collectives: number of each kind of communication between devices.
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
    """Returns the total bytes of memory."""
    return self.arguments + self.outputs + self.temporaries + self.code


class Slice(NamedTuple):
  """A TPU slice: the kind of its chips, a key of `CHIPS`, and its shape, such as "2x4"."""

  kind: str
  shape: str

  @classmethod
  def parse(cls, text: str) -> "Slice":
    """Reads a topology, such as "v5e:2x4", or Cloud TPU's name of a slice, such as "v5litepod-8".

    Raises:
      ValueError: there is no such slice.
    """
    kind, _, shape = text.partition(":")
    if kind in CHIPS and re.fullmatch(r"[1-9]\d*" + r"x[1-9]\d*" * (_dimensions(kind) - 1), shape):
      return cls(kind, shape)
    name, _, number = text.rpartition("-")
    kind = next((k for k, chip in CHIPS.items() if name in (k, chip.name)), "")
    if kind and number.isdecimal():
      shapes = _SHAPES[_dimensions(kind)]
      shape = shapes.get(int(number) // CHIPS[kind].units, "")
      if shape and int(number) % CHIPS[kind].units == 0:
        return cls(kind, shape)
      sizes = ", ".join(f"{name}-{chips * CHIPS[kind].units}" for chips in shapes)
      raise ValueError(
        f"--aot: expected a TPU slice of a usual size ({sizes}) or a shape such as "
        f"{kind}:{next(iter(shapes.values()))}, got {text!r}"
      )
    raise ValueError(
      "--aot: expected a TPU slice, such as v5litepod-8 or v5e:2x4, of one of "
      f"{', '.join(CHIPS)}, got {text!r}"
    )

  @property
  def chip(self) -> Chip:
    """The kind of its chips."""
    return CHIPS[self.kind]

  @property
  def chips(self) -> int:
    """Number of its chips, which is that of its devices."""
    return math.prod(map(int, self.shape.split("x")))

  @property
  def memory(self) -> float:
    """Bytes of memory of a device."""
    return self.chip.memory * GB

  def __str__(self) -> str:
    return f"{self.kind}:{self.shape}"


def _dimensions(kind: str) -> int:
  return CHIPS[kind].dimensions


def tpu_devices(tpu: Slice) -> Sequence[Any]:
  """Describes the devices of a TPU slice, to compile for.

  Call it before any other use of JAX's devices: it sets the environment variables that libtpu
  reads, and keeps JAX from looking for a TPU in this machine.

  Args:
    tpu: the slice.

  Raises:
    ValueError: libtpu does not know the slice.
    FileNotFoundError: libtpu is not installed.
  """
  if importlib.util.find_spec("libtpu") is None:
    raise FileNotFoundError(
      "--aot: the TPU compiler is not installed; install it with `pip install -e '.[tpu]'`"
    )
  os.environ |= {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",  # otherwise it queries Google Cloud's metadata server, for minutes
    "TPU_ACCELERATOR_TYPE": f"{tpu.chip.name}-{tpu.chips * tpu.chip.units}",
    "TPU_WORKER_HOSTNAMES": "localhost",
    # Its lock is for TPUs, of which none is used here.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
  }
  jax.config.update("jax_platforms", "cpu")  # it read the environment when it was imported
  # Otherwise each of the two cores of a v4 chip is a device.
  options: dict[str, Any] = {"chip_config_name": "megacore"} if tpu.kind == "v4" else {}
  # By default a host has 2 x 2 x 1, of which a slice of one chip is no multiple.
  width, height = map(int, tpu.shape.split("x")[:2])
  options["chips_per_host_bounds"] = (math.gcd(width, 2), math.gcd(height, 2), 1)
  try:
    return topologies.get_topology_desc(str(tpu), platform="tpu", **options).devices
  except jax.errors.JaxRuntimeError as error:
    raise ValueError(f"--aot: libtpu does not know the slice {str(tpu)!r}: {error}") from error


def compile_config(config: Config, tpu: Slice) -> jax.stages.Compiled:
  """Compiles the transfer step of a config for a TPU slice; see `needs`.

  Raises:
    ValueError: a setting is impossible, libtpu does not know the slice, or the step needs far more
      memory than a device has.
    FileNotFoundError: the TPU compiler is not installed.
  """
  # A program for TPUs that are not there cannot be loaded again.
  jax.config.update("jax_enable_compilation_cache", False)
  check_settings(config)
  devices = tpu_devices(tpu)
  process_batch_size(config.batch_size, len(devices))
  model, vgg = make_networks(config)
  tx, _, step = make_steps(config, model, vgg, devices)
  state = jax.eval_shape(
    lambda: create_state(init_params(model, jax.random.key(0)), tx, average=config.ema_decay > 0)
  )
  vgg_params = jax.eval_shape(vgg.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))["params"]
  batch = crops(config.batch_size, config.data.content_crop, config.data.style_crop)
  log.info("pairs in a step: %d; devices of %s: %d", config.batch_size, tpu, len(devices))
  return compile_step(step, state, vgg_params, batch, len(devices))


def compile_step(
  step: TrainStep, state: TrainState, vgg_params: VGGParams, batch: Batch, devices: int
) -> jax.stages.Compiled:
  """Compiles a training step that `make_train_step` made for the devices of a topology.

  Args:
    step: the step.
    state: the training state, not replicated; shapes are enough.
    vgg_params: the VGG weights, likewise.
    batch: the global batch, likewise.
    devices: number of devices of the topology.

  Raises:
    ValueError: it needs far more memory than a device has, so the compiler gave up.
  """

  def replicated(leaf) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((devices, *leaf.shape), leaf.dtype)

  def sharded(leaf) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((devices, leaf.shape[0] // devices, *leaf.shape[1:]), leaf.dtype)

  shapes = jax.tree.map(replicated, (state, vgg_params))
  lowered = step.lower(*shapes, jax.tree.map(sharded, dict(batch)))  # pyright: ignore
  try:
    with _elapsed(estimate(lowered.as_text())):
      return lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    used = re.search(r"Used \S+ of \S+ hbm", str(error))
    raise ValueError(
      "does not fit: the compiler ran out of the device's memory"
      f"{f' ({used[0]})' if used else ''}; {_WAY_OUT}"
    ) from error


def estimate(hlo: str) -> float:
  """Estimates the seconds that one processor core needs to compile the text of a program."""
  return _SECONDS_PER_OPERATION * hlo.count(" = ")


@contextlib.contextmanager
def _elapsed(seconds: float) -> Iterator[None]:
  """Shows the time that has passed, of about `seconds`, for the compiler shows nothing."""
  done = threading.Event()
  with Bar(
    bar_format="{desc}: {elapsed}",
    desc=f"compiling, about {max(seconds / 60, 1):.0f} min on one core",
    mininterval=0,
  ) as bar:

    def show() -> None:
      while not done.wait(1):
        bar.refresh()

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
      yield
    finally:
      done.set()
      thread.join()


def needs(compiled: jax.stages.Compiled) -> Needs:
  """Returns what a compiled program needs."""
  memory: Any = compiled.memory_analysis()
  cost: Any = compiled.cost_analysis()
  return Needs(
    arguments=memory.argument_size_in_bytes,
    outputs=memory.output_size_in_bytes - memory.alias_size_in_bytes,
    temporaries=memory.temp_size_in_bytes,
    code=memory.generated_code_size_in_bytes,
    flops=cost.get("flops", 0.0),  # missing if there are none
    bytes_accessed=cost["bytes accessed"],
    collectives=count_collectives(compiled.as_text() or ""),
  )


def count_collectives(hlo: str) -> dict[str, int]:
  """Counts the collectives in the text of a program; a start and its done are one."""
  names = "|".join(COLLECTIVES)
  # An operation is its name and a parenthesis; its result has a % before the name.
  return dict(Counter(re.findall(rf"(?<![%\w.-])({names})(?:-start)?\(", hlo)))


@dataclasses.dataclass(frozen=True)
class Bound:
  """The least time of a step: a bound, which no program reaches.

  Attributes:
    operations: seconds of its operations at the chip's peak in bfloat16.
    traffic: seconds of its memory traffic at the chip's bandwidth.
  """

  operations: float
  traffic: float

  @property
  def seconds(self) -> float:
    """The longer of the two."""
    return max(self.operations, self.traffic)


def bound(needs: Needs, chip: Chip) -> Bound:
  """Returns the least time of a step with `needs`."""
  return Bound(needs.flops / (chip.peak * 1e12), needs.bytes_accessed / (chip.bandwidth * GB))


def report(needs: Needs, tpu: Slice, batch_size: int) -> str:
  """Describes for people what a step of `batch_size` pairs, over all devices, needs."""
  sizes = {
    "arguments": needs.arguments,
    "outputs": needs.outputs,
    "temporaries": needs.temporaries,
    "code": needs.code,
    "total": needs.total,
  }
  lines = ["per device:", *(f"  {k:<14}{v / GB:9.3f} GB" for k, v in sizes.items())]
  lines[-1] += f" of {tpu.chip.memory:.0f} GB"
  lines.append(f"  {'operations':<14}{needs.flops / 1e12:9.3f} TFLOP per step")
  lines.append(f"  {'traffic':<14}{needs.bytes_accessed / GB:9.3f} GB read and written per step")
  found = ", ".join(f"{k} x {v}" for k, v in sorted(needs.collectives.items()))
  lines.append(f"  {'collectives':<14}{found or 'none'}")
  if unexpected := sorted(set(needs.collectives) - {"all-reduce"}):
    lines.append(f"  unexpected collectives, other than all-reduce: {', '.join(unexpected)}")
  least = bound(needs, tpu.chip)
  lines.append(
    f"at the chip's peak, {1e3 * least.operations:.1f} ms of operations and "
    f"{1e3 * least.traffic:.1f} ms of traffic per step: at most "
    f"{2 * batch_size / least.seconds:,.0f} images/s to read, of contents and styles"
  )
  return "\n".join(lines)


def check_fit(needs: Needs, memory: float) -> None:
  """Checks that `needs` fit into the bytes of `memory` that a device has.

  Raises:
    ValueError: they do not.
  """
  if needs.total > memory:
    raise ValueError(
      f"does not fit: it needs {needs.total / GB:.1f} GB per device, which has {memory / GB:.0f} "
      f"GB; {_WAY_OUT}"
    )


def crops(batch_size: int, content: int, style: int) -> dict[str, jax.ShapeDtypeStruct]:
  """Returns the shapes of a batch of square crops, as `make_batches` yields them."""
  return {
    role: jax.ShapeDtypeStruct((batch_size, size, size, 3), np.uint8)
    for role, size in (("content", content), ("style", style))
  }
