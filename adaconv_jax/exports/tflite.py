"""TensorFlow Lite: a model as a file for LiteRT, on phones and small computers; fixed sizes.

Writing one takes TensorFlow, which this package otherwise never imports. It is best kept in an
environment of its own, see `INSTALL`.
"""

import importlib.util
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from adaconv_jax.exports.graph import GRAPHS, Arithmetic, Graph, Value, code_length
from adaconv_jax.extras import MissingExtra
from adaconv_jax.models.stylizer import Stylizer
from adaconv_jax.ops.adain import EPS

INSTALL = "python -m venv tflite && tflite/bin/pip install -e '.[tflite]' in a checkout"


def check_installed() -> None:
  """Raises `MissingExtra`, if a package is missing."""
  for name in ("tensorflow", "ai_edge_litert", "flatbuffers"):
    if importlib.util.find_spec(name) is None:
      raise MissingExtra(
        f"format tflite: the package {name} is missing; give it an environment of its own: "
        f"{INSTALL}; then run tflite/bin/adaconv"
      )


def _tensorflow() -> Any:
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # it reports every operation
  import tensorflow  # pyright: ignore[reportMissingImports, reportMissingModuleSource]

  return tensorflow


def write(stylizer: Stylizer, graph: str, *, dtype: str, size: tuple[int, int]) -> bytes:
  """Returns a model as a TensorFlow Lite file.

  Args:
    stylizer: the model.
    graph: one of `GRAPHS`.
    dtype: of the weights in the file; all is computed in float32.
    size: height and width of all pictures.
  """
  tf = _tensorflow()
  names, output = GRAPHS[graph]
  shapes = {"code": (1, code_length(stylizer)), "alpha": ()}
  module = tf.Module()

  def function(*inputs: Any) -> Any:
    return {
      output: Graph(stylizer, _TensorFlow(tf)).build(graph, dict(zip(names, inputs, strict=True)))
    }

  signature = [tf.TensorSpec(shapes.get(name, (1, *size, 3)), tf.float32, name) for name in names]
  module.run = tf.function(function, input_signature=signature, autograph=False)
  converter = tf.lite.TFLiteConverter.from_concrete_functions(
    [module.run.get_concrete_function()], module
  )
  if dtype == "float16":
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_types = [tf.float16]
  return bytes(converter.convert())


def with_metadata(data: bytes, metadata: Mapping[str, str]) -> bytes:
  """Returns the file with metadata: entries with a buffer of text each."""
  _tensorflow()
  import flatbuffers  # pyright: ignore[reportMissingImports]
  from tensorflow.lite.python import (  # pyright: ignore[reportMissingImports]
    schema_py_generated as schema,
  )

  model = schema.ModelT.InitFromPackedBuf(data, 0)
  model.metadata = list(model.metadata or [])
  for name, text in metadata.items():
    entry, buffer = schema.MetadataT(), schema.BufferT()
    entry.name, entry.buffer = name, len(model.buffers)
    buffer.data = np.frombuffer(text.encode(), np.uint8)
    model.buffers.append(buffer)
    model.metadata.append(entry)
  builder = flatbuffers.Builder(len(data))
  builder.Finish(model.Pack(builder), b"TFL3")
  return bytes(builder.Output())


def load(path: Path) -> Callable[..., np.ndarray]:
  """Returns a file's graph as a function of its inputs by name."""
  from ai_edge_litert.interpreter import Interpreter  # pyright: ignore[reportMissingImports]

  run = Interpreter(str(path), num_threads=os.cpu_count()).get_signature_runner()

  def call(**inputs: np.ndarray) -> np.ndarray:
    (result,) = run(**inputs).values()
    return np.asarray(result)

  return call


class _TensorFlow(Arithmetic):
  """`Ops` in TensorFlow, for sizes that are known; feature maps are `[1, h, w, c]`."""

  def __init__(self, tensorflow: Any):
    self.tf = tensorflow
    self._known: dict[str, Any] = {}

  def conv(
    self, x: Value, name: str, kernel: np.ndarray, bias: np.ndarray, *, pad: bool, small: bool
  ) -> Value:
    del small
    x = self._reflect(x, kernel.shape[0] // 2) if pad else x
    return self.tf.nn.conv2d(x, kernel, 1, "VALID", name=name.replace("/", "_")) + bias

  def zero_pad(self, x: Value, value: np.ndarray | None) -> Value:
    color = np.float32(0) if value is None else value
    return self.tf.pad(x - color, [[0, 0], [1, 1], [1, 1], [0, 0]]) + color

  def adaptive_conv(
    self,
    x: Value,
    spatial: Value,
    pointwise: Value,
    bias: Value,
    shape: tuple[int, ...],
    groups: int,
  ) -> Value:
    tf, (k, _, group, channels) = self.tf, shape
    _, h, w, _ = x.shape
    x = self._reflect(x, k // 2)
    if group == 1:
      kernel = tf.reshape(spatial, [k, k, channels]) * tf.reshape(pointwise, [1, 1, channels])
      taps = [(i, j) for i in range(k) for j in range(k)]
      return tf.add_n([x[:, i : i + h, j : j + w] * kernel[i, j] for i, j in taps]) + bias
    # Block-diagonal, because the kernels of groups have to be constants here.
    spatial = tf.transpose(tf.reshape(spatial, [k * k * group, groups, group]), [1, 0, 2])
    pointwise = tf.transpose(tf.reshape(pointwise, [group, groups, group]), [1, 0, 2])
    kernel = tf.reshape(tf.matmul(spatial, pointwise), [groups, k * k, group, group])
    kernel = tf.reshape(tf.transpose(kernel, [1, 0, 2, 3]), [k * k * channels, 1, group])
    diagonal = np.tile(np.repeat(np.eye(groups, dtype=np.float32), group, 0), (k * k, 1))
    dense = tf.reshape(kernel * diagonal[:, :, None], [k, k, channels, channels])
    return tf.nn.conv2d(x, dense, 1, "VALID") + bias

  def _reflect(self, x: Value, size: int) -> Value:
    if not size:
      return x
    if min(x.shape[1:3]) > size:
      return self.tf.pad(x, [[0, 0], [size, size], [size, size], [0, 0]], "REFLECT")
    for axis in (1, 2):
      x = self._take(x, np.arange(-size, x.shape[axis] + size), axis)
    return x

  def _take(self, x: Value, index: np.ndarray, axis: int) -> Value:
    period = max(2 * (x.shape[axis] - 1), 1)
    index = np.abs(index) % period
    return self.tf.gather(x, np.minimum(index, period - index).astype(np.int32), axis=axis)

  def normalize(self, x: Value, scale: Value | None = None, shift: Value | None = None) -> Value:
    mean, std = self._moments(x)
    x = (x - mean) / std
    return x if scale is None or shift is None else x * scale + shift

  def _moments(self, x: Value) -> tuple[Value, Value]:
    mean = self.tf.reduce_mean(x, [1, 2], keepdims=True)
    square = self.tf.reduce_mean(self.tf.square(x - mean), [1, 2], keepdims=True)
    return mean, self.tf.sqrt(square + EPS)

  def stats(self, x: Value) -> Value:
    return self.tf.reshape(self.tf.concat(self._moments(x), -1), [1, -1])

  def relu(self, x: Value) -> Value:
    return self.tf.nn.relu(x)

  def leaky_relu(self, x: Value, slope: float) -> Value:
    return self.tf.nn.leaky_relu(x, slope)

  def max_pool(self, x: Value) -> Value:
    return self.tf.nn.max_pool2d(x, 2, 2, "VALID")

  def mean_pool(self, x: Value) -> Value:
    return self.tf.nn.avg_pool2d(x, 2, 2, "VALID")

  def upsample(self, x: Value) -> Value:
    size = [2 * side for side in x.shape[1:3]]
    return self.tf.image.resize(x, size, "nearest")

  def mirror_to_multiple(self, x: Value, multiple: int) -> Value:
    for axis in (1, 2):
      end = -(-x.shape[axis] // multiple) * multiple
      if end != x.shape[axis]:
        x = self._take(x, np.arange(end), axis)
    return x

  def crop_like(self, x: Value, other: Value) -> Value:
    return x[:, : other.shape[1], : other.shape[2]]

  def resize(self, x: Value, size: int) -> Value:
    return self._sample(x, *(_sampling(side, size) for side in x.shape[1:3]))

  def resize_middle(self, x: Value, size: int) -> Value:
    sides = x.shape[1:3]
    resized = [size * side // min(sides) for side in sides]
    return self._sample(x, *(_sampling(s, size, r) for s, r in zip(sides, resized, strict=True)))

  def at_least(self, x: Value, size: int) -> Value:
    if min(x.shape[1:3]) >= size:
      return x
    rows, columns = (_sampling(side, max(side, size), antialias=False) for side in x.shape[1:3])
    return self._sample(x, rows, columns)

  def _sample(self, x: Value, rows: np.ndarray, columns: np.ndarray) -> Value:
    x = self.tf.transpose(x, [0, 3, 1, 2])
    return self.tf.transpose(rows @ (x @ columns.T), [0, 2, 3, 1])

  def ravel(self, x: Value) -> Value:
    return self.tf.reshape(x, [1, -1])

  def unravel(self, x: Value, size: int) -> Value:
    return self.tf.reshape(x, [1, size, size, -1])

  def channel_means(self, x: Value) -> Value:
    return self.tf.reduce_mean(x, [1, 2])

  def dense(self, x: Value, name: str, kernel: np.ndarray, bias: np.ndarray) -> Value:
    del name
    return self.tf.matmul(x, kernel) + bias

  def concat(self, parts: list[Value]) -> Value:
    return self.tf.concat(parts, -1)

  def constant(self, name: str, array: np.ndarray) -> Value:
    del name
    return self.tf.constant(array, self.tf.float32)

  def clip(self, x: Value) -> Value:
    return self.tf.clip_by_value(x, 0.0, 1.0)

  def if_below_one(
    self, x: Value, then: Callable[[], list[Value]], otherwise: Callable[[], list[Value]]
  ) -> list[Value]:
    return self.tf.cond(x < 1, then, otherwise)


def _sampling(
  length: int, size: int, resized: int | None = None, *, antialias: bool = True
) -> np.ndarray:
  """Returns the weights of `length` pixels in the middle `size` of `resized`, `[size, length]`.

  They are those of `jax.image.resize`. Without `resized`, it is `size`.
  """
  resized = resized or size
  scale = length / resized
  places = (np.arange(size) + round((resized - size) / 2) + 0.5) * scale - 0.5
  distance = np.abs(places[:, None] - np.arange(length)) / (max(scale, 1) if antialias else 1)
  weights = np.maximum(1 - distance, 0)
  return (weights / weights.sum(1, keepdims=True)).astype(np.float32)
