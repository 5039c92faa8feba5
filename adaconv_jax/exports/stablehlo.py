"""StableHLO: a model as a file that `jax.export` reads, on CPU, GPU and TPU, without this package.

Only plain operations of XLA are in it, none of the package's own forms of convolutions. Height and
width are free.
"""

import importlib.util
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export, lax

from adaconv_jax.exports.graph import GRAPHS, SMALLEST_STYLE, Arithmetic, Graph, Value, code_length
from adaconv_jax.extras import MissingExtra
from adaconv_jax.models.stylizer import Stylizer
from adaconv_jax.ops.adaconv import compose_kernels
from adaconv_jax.ops.adain import channel_stats, instance_norm
from adaconv_jax.ops.conv import conv_valid, upsample

PLATFORMS = ("cpu", "cuda", "tpu")
INSTALL = "pip install 'adaconv_jax[stablehlo]'"


def check_installed() -> None:
  """Raises `MissingExtra`, if a package is missing: JAX writes and reads the file with it."""
  if importlib.util.find_spec("flatbuffers") is None:
    raise MissingExtra(f"format stablehlo: the package flatbuffers is missing; {INSTALL}")


def write(stylizer: Stylizer, graph: str, *, dtype: str) -> bytes:
  """Returns a model as `jax.export` serializes it, for all `PLATFORMS`.

  Args:
    stylizer: the model.
    graph: one of `GRAPHS`.
    dtype: of the weights in the file; all is computed in float32.
  """
  names, output = GRAPHS[graph]
  # AdaConv resizes styles; AdaIN would have to enlarge small ones, by factors that are not known.
  as_it_is = "style" in names and stylizer.model.style_size is None
  scope = export.SymbolicScope(
    [f"{side} >= {SMALLEST_STYLE}" for side in ("style_h", "style_w") if as_it_is]
  )

  def sides(prefix: str) -> Any:
    return export.symbolic_shape(f"{prefix}h, {prefix}w", scope=scope)

  shapes = {
    "content": lambda: (1, *sides(""), 3),
    "style": lambda: (1, *sides("style_"), 3),
    "code": lambda: (1, code_length(stylizer)),
    "alpha": lambda: (),
  }
  arguments = [jax.ShapeDtypeStruct(shapes[name](), jnp.float32) for name in names]

  def function(*inputs: jax.Array) -> jax.Array:
    return Graph(stylizer, _Jax(dtype)).build(graph, dict(zip(names, inputs, strict=True)))

  function.__name__ = graph
  return bytes(export.export(jax.jit(function), platforms=PLATFORMS)(*arguments).serialize())


def with_metadata(data: bytes, metadata: Mapping[str, str]) -> bytes:
  """Returns the file with a last line of JSON, which `jax.export.deserialize` does not look at."""
  return data + b"\n" + json.dumps(dict(metadata), sort_keys=True).encode()


def read_metadata(path: Path) -> dict[str, str]:
  """Reads what `with_metadata` wrote."""
  return json.loads(path.read_bytes().rpartition(b"\n")[2])


def load(path: Path) -> Callable[..., np.ndarray]:
  """Returns a file's graph as a function of its inputs by name."""
  exported = export.deserialize(bytearray(path.read_bytes()))
  names, _ = GRAPHS[exported.fun_name]
  call = jax.jit(exported.call)
  return lambda **inputs: np.asarray(call(*(inputs[name] for name in names)))


class _Jax(Arithmetic):
  """`Ops` in JAX, for sizes that are not known; feature maps are `[1, h, w, c]`."""

  def __init__(self, dtype: str):
    self.dtype = dtype

  def _weight(self, array: np.ndarray) -> jax.Array:
    return jnp.asarray(array.astype(self.dtype)).astype(jnp.float32)

  def conv(
    self, x: Value, name: str, kernel: np.ndarray, bias: np.ndarray, *, pad: bool, small: bool
  ) -> Value:
    del name, small
    x = _reflect(x, kernel.shape[0] // 2) if pad else x
    return conv_valid(x, self._weight(kernel)) + self._weight(bias)

  def zero_pad(self, x: Value, value: np.ndarray | None) -> Value:
    color = 0.0 if value is None else jnp.asarray(value)
    return jnp.pad(x - color, ((0, 0), (1, 1), (1, 1), (0, 0))) + color

  def adaptive_conv(
    self,
    x: Value,
    spatial: Value,
    pointwise: Value,
    bias: Value,
    shape: tuple[int, ...],
    groups: int,
  ) -> Value:
    k, _, group, channels = shape
    spatial, pointwise = spatial.reshape(shape), pointwise.reshape(1, 1, group, channels)
    h, w = x.shape[1:3]
    x = _reflect(x, k // 2)
    if group == 1:  # as shifted products, because convolutions with groups of 1 are slow
      kernel = spatial[:, :, 0] * pointwise[:, :, 0]
      taps = [(i, j) for i in range(k) for j in range(k)]
      return sum(
        (x[:, i : i + h, j : j + w] * kernel[i, j] for i, j in taps),
        start=bias.reshape(1, 1, 1, -1),
      )
    return conv_valid(x, compose_kernels(spatial, pointwise, groups)) + bias

  def normalize(self, x: Value, scale: Value | None = None, shift: Value | None = None) -> Value:
    x = instance_norm(x)
    return x if scale is None or shift is None else x * scale + shift

  def stats(self, x: Value) -> Value:
    return jnp.concatenate(channel_stats(x), axis=-1)

  def relu(self, x: Value) -> Value:
    return jax.nn.relu(x)

  def leaky_relu(self, x: Value, slope: float) -> Value:
    return jax.nn.leaky_relu(x, slope)

  def max_pool(self, x: Value) -> Value:
    return _pool(x, -jnp.inf, lax.max)

  def mean_pool(self, x: Value) -> Value:
    return _pool(x, 0.0, lax.add) / 4

  def upsample(self, x: Value) -> Value:
    return upsample(x)

  def mirror_to_multiple(self, x: Value, multiple: int) -> Value:
    for axis in (1, 2):
      length = x.shape[axis]
      end = (length + multiple - 1) // multiple * multiple
      x = jnp.take(x, _mirrored(jnp.arange(end), length), axis, mode="clip")
    return x

  def crop_like(self, x: Value, other: Value) -> Value:
    for axis in (1, 2):
      x = jnp.take(x, jnp.arange(other.shape[axis]), axis, mode="clip")
    return x

  def resize(self, x: Value, size: int) -> Value:
    return self._sample(x, *(_sampling(x.shape[axis], size, size) for axis in (1, 2)))

  def resize_middle(self, x: Value, size: int) -> Value:
    sides = [x.shape[axis] for axis in (1, 2)]
    shorter = jnp.minimum(*map(jnp.asarray, sides))
    return self._sample(x, *(_sampling(side, size, size * side // shorter) for side in sides))

  def _sample(self, x: Value, rows: jax.Array, columns: jax.Array) -> Value:
    return jnp.einsum("nhwc,yh,xw->nyxc", x, rows, columns, precision="highest")

  def at_least(self, x: Value, size: int) -> Value:
    del size
    return x  # what is smaller is refused, see `write`

  def ravel(self, x: Value) -> Value:
    return x.reshape(1, -1)

  def unravel(self, x: Value, size: int) -> Value:
    return x.reshape(1, size, size, -1)

  def channel_means(self, x: Value) -> Value:
    return x.mean((1, 2))

  def dense(self, x: Value, name: str, kernel: np.ndarray, bias: np.ndarray) -> Value:
    del name
    return x @ self._weight(kernel) + self._weight(bias)

  def concat(self, parts: list[Value]) -> Value:
    return jnp.concatenate(parts, axis=-1)

  def constant(self, name: str, array: np.ndarray) -> Value:
    del name
    return jnp.asarray(array)

  def clip(self, x: Value) -> Value:
    return jnp.clip(x, 0, 1)

  def if_below_one(
    self, x: Value, then: Callable[[], list[Value]], otherwise: Callable[[], list[Value]]
  ) -> list[Value]:
    return lax.cond(x < 1, then, otherwise)


def _reflect(x: jax.Array, size: int) -> jax.Array:
  """Pads by reflection, line by line: `jnp.pad` needs to know the size."""
  for axis in (1, 2):
    length = x.shape[axis]
    before = [_line(x, -i, length, axis) for i in range(size, 0, -1)]
    after = [_line(x, length - 1 + i, length, axis) for i in range(1, size + 1)]
    x = jnp.concatenate([*before, x, *after], axis)
  return x


def _line(x: jax.Array, index: Any, length: Any, axis: int) -> jax.Array:
  return lax.dynamic_slice_in_dim(x, _mirrored(jnp.asarray(index), length), 1, axis)


def _mirrored(index: jax.Array, length: Any) -> jax.Array:
  index, last = jnp.abs(index), jnp.asarray(length) - 1
  period = jnp.maximum(2 * last, 1)
  index = index % period
  return jnp.minimum(index, period - index)


def _pool(x: jax.Array, start: float, combine: Callable[..., Any]) -> jax.Array:
  window = (1, 2, 2, 1)
  return lax.reduce_window(x, start, combine, window, window, "VALID")


def _sampling(length: Any, size: int, resized: Any) -> jax.Array:
  """Returns the weights of `length` pixels in the middle `size` of `resized`, `[size, length]`.

  They are those of `jax.image.resize`.
  """
  scale = jnp.asarray(length).astype(jnp.float32) / resized
  cut = jnp.round(jnp.asarray(resized - size) / 2)
  places = (jnp.arange(size) + cut + 0.5) * scale - 0.5
  distance = jnp.abs(places[:, None] - jnp.arange(length)[None]) / jnp.maximum(scale, 1)
  weights = jnp.maximum(1 - distance, 0)
  return weights / weights.sum(1, keepdims=True)
