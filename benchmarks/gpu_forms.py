"""What ways of writing AdaConv's operation become on a GPU: operations, traffic and kernels.

    python -m benchmarks.gpu_forms

It needs no GPU: every form is exported for CUDA, and the convolutions and matrix products in the
StableHLO are counted, which is what XLA gives to cuDNN and cuBLAS. Bytes are those of their
operands and results. The time is the larger one of what an H100 needs for the operations (tensor
cores, dense, bfloat16) and for the bytes: a bound, which libraries reach for few and large groups
only. Batch, bfloat16, k = 3, at the published scales.
"""

import functools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import export, lax

from adaconv_jax.ops.adaconv import adaconv
from adaconv_jax.ops.adain import instance_norm
from adaconv_jax.ops.conv.reference import DIMENSION_NUMBERS, reflect_pad
from benchmarks.tpu_bytes import BATCH, SCALES, with_gradients

# Of an H100 SXM, from NVIDIA's data sheet.
FLOPS_PER_SECOND, BYTES_PER_SECOND = 989e12, 3.35e12
DTYPE = jnp.bfloat16
_BYTES = {"f32": 4, "bf16": 2, "f16": 2}


class Counted(NamedTuple):
  """What the convolutions and matrix products of a program need.

  Attributes:
    calls: how many there are.
    groups: the largest number of groups of one.
    flops: their operations; a multiplication and an addition are two.
    bytes: of their operands and results.
  """

  calls: int
  groups: int
  flops: float
  bytes: float

  @property
  def milliseconds(self) -> float:
    """The least time on the GPU above."""
    return 1e3 * max(self.flops / FLOPS_PER_SECOND, self.bytes / BYTES_PER_SECOND)


def counted(function: Callable[..., Any], *shapes: tuple[int, ...]) -> Counted:
  """Counts what `function` of arrays of these shapes becomes on CUDA."""
  arguments = [jax.ShapeDtypeStruct(shape, DTYPE) for shape in shapes]
  return counted_in(export.export(jax.jit(function), platforms=["cuda"])(*arguments).mlir_module())


def counted_in(module: str) -> Counted:
  """Counts in the text of StableHLO; a function that is called several times counts as often."""
  functions: dict[str, list[str]] = {}
  name = ""
  for line in module.splitlines():
    if match := re.search(r"func\.func \w+ @(\S+?)\(", line):
      name = match[1]
    functions.setdefault(name, []).append(line)
  return _of_function("main", functions)


def _of_function(name: str, functions: dict[str, list[str]]) -> Counted:
  parts = [Counted(0, 1, 0, 0)]
  for line in functions[name]:
    if match := re.search(r"\bcall @(\S+?)\(", line):
      parts.append(_of_function(match[1], functions))
    elif "stablehlo.convolution" in line or "stablehlo.dot_general" in line:
      parts.append(_of_operation(line))
  return Counted(
    sum(part.calls for part in parts),
    max(part.groups for part in parts),
    sum(part.flops for part in parts),
    sum(part.bytes for part in parts),
  )


def _of_operation(line: str) -> Counted:
  types = re.findall(r"tensor<((?:\d+x)*)(\w+)>", line[line.rindex(" : (") :])
  shapes = [[int(size) for size in sizes.split("x")[:-1]] for sizes, _ in types]
  left, right, out = shapes
  moved = sum(
    math.prod(shape) * _BYTES[kind] for shape, (_, kind) in zip(shapes, types, strict=True)
  )
  if "stablehlo.dot_general" in line:
    match = re.search(r"contracting_dims = \[([\d, ]*)\]", line)
    contracted = [int(axis) for axis in re.findall(r"\d+", match[1] if match else "")]
    flops = 2 * math.prod(out) * math.prod(left[axis] for axis in contracted)
    return Counted(1, 1, flops, moved)
  match = re.search(r"\]x\[([^\]]*)\]->", line)
  assert match is not None, line
  of_output = right[match[1].replace(" ", "").split(",").index("o")]
  groups = [int(count) for count in re.findall(r"_group_count = (\d+)", line)]
  return Counted(1, max(groups), 2 * math.prod(out) * math.prod(right) / of_output, moved)


# --- the forms: features [n, h, w, c], kernels as of `adaconv` with a leading n ---


def one_by_one(features, spatial, pointwise, bias, *, groups: int) -> jax.Array:
  """A convolution per image, with its dense kernel."""
  pairs = zip(features, spatial, pointwise, bias, strict=True)
  return jnp.stack([adaconv(*pair, groups=groups) for pair in pairs])


def in_one(features, spatial, pointwise, bias, *, groups: int) -> jax.Array:
  """What the package does: one convolution of dense kernels, with a group per image."""
  return jax.vmap(functools.partial(adaconv, groups=groups))(features, spatial, pointwise, bias)


def published(features, spatial, pointwise, bias, *, groups: int) -> jax.Array:
  """The paper's two grouped convolutions; together they have n * groups groups each."""

  def single(features, spatial, pointwise, bias):
    padded = reflect_pad(instance_norm(features)[None], 1)
    return grouped(grouped(padded, spatial, groups), pointwise, groups)[0] + bias

  return jax.vmap(single)(features, spatial, pointwise, bias)


def by_channels(features, spatial, pointwise, bias, *, groups: int) -> jax.Array:
  """One convolution of the two kernels' product, with n * groups groups."""

  def single(features, spatial, pointwise, bias):
    k, _, size, c = spatial.shape
    composed = jnp.einsum(
      "xyigm,mgo->xyigo",
      spatial.reshape(k, k, size, groups, c // groups),
      pointwise.reshape(c // groups, groups, c // groups),
    )
    padded = reflect_pad(instance_norm(features)[None], 1)
    return grouped(padded, composed.reshape(spatial.shape), groups)[0] + bias

  return jax.vmap(single)(features, spatial, pointwise, bias)


def grouped(images: jax.Array, kernel: jax.Array, groups: int) -> jax.Array:
  """A grouped convolution without padding."""
  return lax.conv_general_dilated(
    images,
    kernel,
    (1, 1),
    "VALID",
    dimension_numbers=DIMENSION_NUMBERS,
    feature_group_count=groups,
  )


FORMS: dict[str, Callable[..., jax.Array]] = {
  "one group per image": in_one,
  "image by image": one_by_one,
  "as published": published,
  "groups of channels": by_channels,
}


def shapes_of(side: int, channels: int, groups: int) -> Sequence[tuple[int, ...]]:
  """The shapes of features and kernels at a scale."""
  group = channels // groups
  kernels = ((BATCH, 3, 3, group, channels), (BATCH, 1, 1, group, channels), (BATCH, channels))
  return (BATCH, side, side, channels), *kernels


def main() -> None:
  """Prints the table."""
  print(
    f"{'scale':<23}{'pass':<10}{'form':<21}{'calls':>6}{'groups':>8}{'GFLOP':>9}{'MB':>7}{'ms':>8}"
  )
  for side, channels, groups in SCALES:
    shapes = shapes_of(side, channels, groups)
    for name, form in FORMS.items():
      own = functools.partial(form, groups=groups)
      for label, function, last in (
        ("forward", own, ()),
        ("and back", with_gradients(own), shapes[:1]),
      ):
        found = counted(function, *shapes, *last)
        print(
          f"{f'{side}x{side}x{channels}, n_g {groups}':<23}{label:<10}{name:<21}{found.calls:>6}"
          f"{found.groups:>8}{found.flops / 1e9:>9.2f}{found.bytes / 1e6:>7.0f}"
          f"{found.milliseconds:>8.3f}",
          flush=True,
        )


if __name__ == "__main__":
  main()
