"""ONNX: a model as a file for onnxruntime, on a computer, a phone or in a web page.

The nodes are written from the parameters, because converters stop at AdaConv. Nothing but standard
operators of `OPSET` is used. Height and width are free.
"""

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from adaconv_jax.exports.graph import GRAPHS, Graph, Value, code_length
from adaconv_jax.extras import MissingExtra
from adaconv_jax.models.stylizer import Stylizer
from adaconv_jax.ops.adain import EPS

OPSET = 17
IR_VERSION = 8  # the one that came with the opset, so runtimes as old as it read the file
INSTALL = "pip install 'adaconv_jax[onnx]'"


def check_installed() -> None:
  """Raises `MissingExtra`, if a package is missing."""
  for name in ("onnx", "onnxruntime"):
    if importlib.util.find_spec(name) is None:
      raise MissingExtra(f"format onnx: the package {name} is missing; {INSTALL}")


def _onnx() -> Any:
  import onnx  # pyright: ignore[reportMissingImports]

  return onnx


def write(stylizer: Stylizer, graph: str, *, dtype: str) -> bytes:
  """Returns a model as an ONNX file.

  Args:
    stylizer: the model.
    graph: one of `GRAPHS`.
    dtype: of the weights in the file; all is computed in float32.
  """
  onnx = _onnx()
  helper, ops = onnx.helper, _Nodes(dtype)
  names, output = GRAPHS[graph]
  shapes = {
    "content": [1, "height", "width", 3],
    "style": [1, "style_height", "style_width", 3],
    "picture": [1, "height", "width", 3],
    "code": [1, code_length(stylizer)],
    "alpha": [],
  }
  inner = {name: name if name in ("code", "alpha") else ops.channels_first(name) for name in names}
  result = Graph(stylizer, ops).build(graph, inner)
  ops.output(result, output, channels_last=output == "picture")

  def described(name: str) -> Any:
    return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shapes[name])

  made = helper.make_graph(
    ops.weights + ops.nodes, graph, [*map(described, names)], [described(output)], ops.initializers
  )
  opset = helper.make_opsetid("", OPSET)
  model = helper.make_model(
    made, opset_imports=[opset], ir_version=IR_VERSION, producer_name="adaconv_jax"
  )
  onnx.checker.check_model(model)
  return model.SerializeToString(deterministic=True)


def with_metadata(data: bytes, metadata: Mapping[str, str]) -> bytes:
  """Returns the file with metadata, which onnxruntime shows as `custom_metadata_map`."""
  onnx = _onnx()
  model = onnx.load_model_from_string(data)
  onnx.helper.set_model_props(model, dict(metadata))
  return model.SerializeToString(deterministic=True)


def load(path: Path) -> Callable[..., np.ndarray]:
  """Returns a file's graph as a function of its inputs by name."""
  import onnxruntime  # pyright: ignore[reportMissingImports]

  session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
  return lambda **inputs: np.asarray(session.run(None, inputs)[0])


class _Nodes:
  """`Ops` that adds nodes; a value is the name of a tensor. Feature maps are `[1, c, h, w]`."""

  def __init__(self, dtype: str):
    self.dtype = dtype
    self.onnx = _onnx()
    self.initializers: list[Any] = []
    self.weights: list[Any] = []  # nodes that lengthen weights, before all others
    self.nodes: list[Any] = []
    self._known: dict[Any, str] = {}
    self._count = 0

  def _node(self, kind: str, *inputs: str, **attributes: Any) -> str:
    self._count += 1
    name = f"{kind}_{self._count}"
    self.nodes.append(
      self.onnx.helper.make_node(kind, list(inputs), [name], name=name, **attributes)
    )
    return name

  def _array(self, array: npt.ArrayLike, name: str = "") -> str:
    """Returns a small constant, which is written once; lists and whole numbers become int64."""
    array = np.asarray(array)
    array = array.astype(np.int64 if array.dtype.kind == "i" else np.float32)
    key = (array.dtype.str, array.shape, array.tobytes())
    if key not in self._known:
      self._known[key] = name or f"constant_{len(self._known)}"
      self.initializers.append(self.onnx.numpy_helper.from_array(array, self._known[key]))
    return self._known[key]

  def _weight(self, name: str, array: np.ndarray) -> str:
    """Returns weights as float32; they may be used in several places."""
    if name in self._known:
      return self._known[name]
    self._known[name] = name
    if self.dtype == "float32":
      self.initializers.append(self.onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
      return name
    short = np.ascontiguousarray(array.astype(self.dtype))
    self.initializers.append(self.onnx.numpy_helper.from_array(short, f"{name}/{self.dtype}"))
    lengthen = self.onnx.helper.make_node(
      "Cast", [f"{name}/{self.dtype}"], [name], name=f"{name}/cast", to=self.onnx.TensorProto.FLOAT
    )
    self.weights.append(lengthen)
    return name

  # --- from and to the file's order of axes ---

  def channels_first(self, x: Value) -> Value:
    return self._node("Transpose", x, perm=[0, 3, 1, 2])

  def output(self, x: Value, name: str, *, channels_last: bool) -> None:
    kind, options = ("Transpose", {"perm": [0, 2, 3, 1]}) if channels_last else ("Identity", {})
    self.nodes.append(self.onnx.helper.make_node(kind, [x], [name], name=f"to_{name}", **options))

  # --- convolutions ---

  def conv(
    self, x: Value, name: str, kernel: np.ndarray, bias: np.ndarray, *, pad: bool, small: bool
  ) -> Value:
    if pad:
      x = self._reflect(x, kernel.shape[0] // 2, small)
    weights = self._weight(f"{name}/kernel", kernel.transpose(3, 2, 0, 1))
    return self._node("Conv", x, weights, self._weight(f"{name}/bias", bias))

  def zero_pad(self, x: Value, value: np.ndarray | None) -> Value:
    pads = self._array([0, 0, 1, 1, 0, 0, 1, 1])
    if value is None:
      return self._node("Pad", x, pads)
    color = self._array(value.reshape(1, 3, 1, 1), "zero")
    return self.add(self._node("Pad", self.subtract(x, color), pads), color)

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
    # Both kernels are multiplied first, group by group; see `compose_kernels`.
    spatial = self._reshape(spatial, [k, k, group, groups, group])
    spatial = self._node("Transpose", spatial, perm=[3, 2, 0, 1, 4])
    spatial = self._reshape(spatial, [groups, group * k * k, group])
    pointwise = self._reshape(pointwise, [group, groups, group])
    pointwise = self._node("Transpose", pointwise, perm=[1, 0, 2])
    kernel = self._node("MatMul", spatial, pointwise)
    kernel = self._node("Transpose", kernel, perm=[0, 2, 1])
    kernel = self._reshape(kernel, [channels, group, k, k])
    x = self._reflect(x, k // 2, True)
    return self._node(
      "Conv", x, kernel, self._reshape(bias, [channels]), group=groups, kernel_shape=[k, k]
    )

  def _reflect(self, x: Value, size: int, small: bool) -> Value:
    if not size:
      return x
    if not small:
      pads = self._array([0, 0, size, size, 0, 0, size, size])
      return self._node("Pad", x, pads, mode="reflect")
    for axis in (2, 3):
      length = self._length(x, axis)
      end = self._node("Add", length, self._array(size))
      x = self._node("Gather", x, self._mirrored(self._array(-size), end, length), axis=axis)
    return x

  def _mirrored(self, start: Value, end: Value, length: Value) -> Value:
    """Returns indices from `start` to `end`, which go back at 0 and at the last one."""
    one = self._array(1)
    index = self._node("Abs", self._node("Range", start, end, one))
    last = self._node("Sub", length, one)
    period = self._node("Max", self._node("Add", last, last), one)
    index = self._node("Mod", index, period)
    return self._node("Min", index, self._node("Sub", period, index))

  def _length(self, x: Value, axis: int) -> Value:
    return self._node("Gather", self._node("Shape", x), self._array(axis))

  # --- the rest ---

  def normalize(self, x: Value, scale: Value | None = None, shift: Value | None = None) -> Value:
    channels = self._node("Slice", self._node("Shape", x), self._array([1]), self._array([2]))
    parts = []
    for given, default in ((scale, 1.0), (shift, 0.0)):
      if given is None:
        parts.append(self._node("Expand", self._array(default), channels))
      else:
        parts.append(self._reshape(given, [-1]))
    return self._node("InstanceNormalization", x, *parts, epsilon=EPS)

  def stats(self, x: Value) -> Value:
    mean = self._node("ReduceMean", x, axes=[2, 3], keepdims=1)
    centered = self.subtract(x, mean)
    square = self._node("ReduceMean", self.multiply(centered, centered), axes=[2, 3], keepdims=1)
    std = self._node("Sqrt", self.add(square, self._array(EPS)))
    return self._reshape(self._node("Concat", mean, std, axis=1), [1, -1])

  def relu(self, x: Value) -> Value:
    return self._node("Relu", x)

  def leaky_relu(self, x: Value, slope: float) -> Value:
    return self._node("LeakyRelu", x, alpha=slope)

  def max_pool(self, x: Value) -> Value:
    return self._node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])

  def mean_pool(self, x: Value) -> Value:
    return self._node("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])

  def upsample(self, x: Value) -> Value:
    scales = self._array([1.0, 1.0, 2.0, 2.0])
    options = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return self._node("Resize", x, "", scales, mode="nearest", **options)

  def mirror_to_multiple(self, x: Value, multiple: int) -> Value:
    for axis in (2, 3):
      length, step = self._length(x, axis), self._array(multiple)
      count = self._node("Div", self._node("Add", length, self._array(multiple - 1)), step)
      end = self._node("Mul", count, step)
      x = self._node("Gather", x, self._mirrored(self._array(0), end, length), axis=axis)
    return x

  def crop_like(self, x: Value, other: Value) -> Value:
    two, four = self._array([2]), self._array([4])
    size = self._node("Slice", self._node("Shape", other), two, four)
    return self._node("Slice", x, self._array([0, 0]), size, self._array([2, 3]))

  def resize(self, x: Value, size: int) -> Value:
    return self._sample(x, size, [self._array(size)] * 2)

  def resize_middle(self, x: Value, size: int) -> Value:
    sides = [self._length(x, axis) for axis in (2, 3)]
    shorter = self._node("Min", *sides)
    products = [self._node("Mul", side, self._array(size)) for side in sides]
    return self._sample(x, size, [self._node("Div", product, shorter) for product in products])

  def _sample(self, x: Value, size: int, resized: list[Value]) -> Value:
    """Resizes height and width to `resized`, and returns the middle of it, of `size` squared."""
    rows, columns = (self._sampling(self._length(x, 2 + i), size, resized[i]) for i in range(2))
    x = self._node("MatMul", x, self._node("Transpose", columns, perm=[1, 0]))
    return self._node("MatMul", rows, x)

  def _sampling(self, length: Value, size: int, resized: Value) -> Value:
    """Returns the weights of `length` pixels in the middle `size` of `resized`."""
    number, new = (
      self._node("Cast", side, to=self.onnx.TensorProto.FLOAT) for side in (length, resized)
    )
    one, half = self._array(1.0), self._array(0.5)
    scale = self._node("Div", number, new)
    beyond = self.multiply(self.subtract(new, self._array(float(size))), half)
    centers = self._array((np.arange(size, dtype=np.float32) + 0.5).reshape(-1, 1))
    centers = self.add(centers, self._node("Round", beyond))
    places = self.subtract(self.multiply(centers, scale), half)
    pixels = self._node("Range", self._array(0.0), number, one)
    distance = self._node("Abs", self.subtract(places, pixels))
    distance = self._node("Div", distance, self._node("Max", scale, one))
    weights = self._node("Relu", self.subtract(one, distance))
    total = self._node("ReduceSum", weights, self._array([1]), keepdims=1)
    return self._node("Div", weights, total)

  def at_least(self, x: Value, size: int) -> Value:
    shape = self._node("Shape", x)
    least = self._array([1, 3, size, size])
    options = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
    return self._node("Resize", x, "", "", self._node("Max", shape, least), **options)

  def ravel(self, x: Value) -> Value:
    return self._reshape(self._node("Transpose", x, perm=[0, 2, 3, 1]), [1, -1])

  def unravel(self, x: Value, size: int) -> Value:
    return self.channels_first(self._reshape(x, [1, size, size, -1]))

  def _reshape(self, x: Value, shape: list[int]) -> Value:
    return self._node("Reshape", x, self._array(shape))

  def channel_means(self, x: Value) -> Value:
    return self._node("ReduceMean", x, axes=[2, 3], keepdims=0)

  def dense(self, x: Value, name: str, kernel: np.ndarray, bias: np.ndarray) -> Value:
    weights = self._weight(f"{name}/kernel", kernel), self._weight(f"{name}/bias", bias)
    return self._node("Gemm", x, *weights)

  def concat(self, parts: list[Value]) -> Value:
    return self._node("Concat", *parts, axis=1)

  def part(self, x: Value, start: int, stop: int) -> Value:
    return self._node("Slice", x, self._array([start]), self._array([stop]), self._array([1]))

  def constant(self, name: str, array: np.ndarray) -> Value:
    return self._array(np.asarray(array, np.float32), name)

  def add(self, x: Value, y: Value) -> Value:
    return self._node("Add", x, y)

  def subtract(self, x: Value, y: Value) -> Value:
    return self._node("Sub", x, y)

  def multiply(self, x: Value, y: Value) -> Value:
    return self._node("Mul", x, y)

  def scale(self, x: Value, factors: Value) -> Value:
    return self.multiply(x, self._reshape(factors, [1, -1, 1, 1]))

  def clip(self, x: Value) -> Value:
    return self._node("Clip", x, self._array(0.0), self._array(1.0))

  def if_below_one(
    self, x: Value, then: Callable[[], list[Value]], otherwise: Callable[[], list[Value]]
  ) -> list[Value]:
    below = self._node("Less", x, self._array(1.0))
    branches, outer = {}, self.nodes
    for key, function in (("then_branch", then), ("else_branch", otherwise)):
      self.nodes = []
      # A branch's outputs must be of its own nodes.
      names = [self._node("Identity", value) for value in function()]
      outputs = [
        self.onnx.helper.make_tensor_value_info(n, self.onnx.TensorProto.FLOAT, None) for n in names
      ]
      branches[key] = self.onnx.helper.make_graph(self.nodes, key, [], outputs)
    self.nodes, self._count = outer, self._count + 1
    results = [f"If_{self._count}_{index}" for index in range(len(names))]
    self.nodes.append(
      self.onnx.helper.make_node("If", [below], results, name=f"If_{self._count}", **branches)
    )
    return results
