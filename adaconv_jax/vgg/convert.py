"""Reads published VGG weights, and folds their preprocessing into the first layer.

Four formats are distinguished by their content, never by the file's name:

- torchvision's state dict (`features.0.weight`, ...), `.pth`; RGB, mean and standard deviation,
- the same tensors as safetensors, such as timm's `vgg19.tv_in1k`,
- Keras's `..._notop.h5` (`block1_conv1`, ...); BGR from 0 to 255, minus a mean,
- `vgg_normalised` of AdaIN's authors in its PyTorch form: a 1x1 convolution `0.weight`, `0.bias`
  does the preprocessing; `.pth` or safetensors. (Its pools round up where ours round down, as
  VGG's do; the difference shows at odd sizes only.)

torchvision's `IMAGENET1K_FEATURES`, a VGG-16 with Caffe's preprocessing under torchvision's names,
cannot be distinguished from the first format, so do not use it.

Each preprocessing is affine in a pixel, `W rgb + b`, so it folds into conv1_1 exactly: the kernel
is multiplied by W, and `b`, summed through the kernel, is added to the bias. At the borders this is
exact too if, where the original pads with zeros, the picture is padded with the `z` that the
preprocessing maps to zero (`W z = -b`). Reflect padding needs nothing special.

No code in a file is ever run: `.pth` files are read with `torch.load(weights_only=True)`. Claimed
sizes are compared with those of the file and of a VGG before anything is allocated (`pth.py`), and
of an HDF5 file, only data in the file itself are read.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from adaconv_jax.files import MAX_WEIGHTS_BYTES, expand, open_regular, sha256
from adaconv_jax.tensor_files import TensorFileError, read_tensor_metadata, read_tensors
from adaconv_jax.vgg.file import FORMAT, Tensors
from adaconv_jax.vgg.network import BLOCKS, ENCODER_LAYER, conv_shapes
from adaconv_jax.vgg.pth import load_pth, missing_extra, pth_array

_MEAN = np.array((0.485, 0.456, 0.406))  # ImageNet's, as in torchvision.
_STD = np.array((0.229, 0.224, 0.225))
_CAFFE_MEAN_BGR = np.array((103.939, 116.779, 123.68))  # As in Keras's "caffe" mode.

# What follows the convolutions in a whole classifier (torchvision's and timm's names). It is not
# read, but shows that the file must not end early.
_CLASSIFIER = ("classifier.", "pre_logits.", "head.")
_NOT_READ = np.empty(0)
# All convolutions of one file, in memory: three times those of VGG-19 in float32.
MAX_TENSOR_BYTES = 2**28


def convert(path: str | Path, arch: str) -> tuple[Tensors, dict[str, str]]:
  """Reads published weights of `arch` from `path`.

  A file with convolutions only may end early (copies of vgg_normalised stop at relu4_1), but not
  before relu4_1. No file may have gaps.

  Args:
    path: a file in one of the four formats above.
    arch: "vgg16" or "vgg19", which the file must hold.

  Returns:
    The tensors `zero` `[3]`, `convB_I.kernel` (HWIO) and `convB_I.bias`, float32, for a network
    that takes RGB in [0, 1]; and metadata: "arch", "last" (the last activation that the file
    reaches), "source" and "source_sha256".

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: the file is damaged, has an unknown format or another architecture, contains code,
      keeps data in other files, claims more than it holds, or is not a regular file; or a tensor in
      it is missing, unexpected, of the wrong shape or not finite.
    ModuleNotFoundError: `.pth` and `.h5` need torch and h5py, which the extra "convert" installs.
  """
  if arch not in BLOCKS:
    raise ValueError(f"arch: expected one of {sorted(BLOCKS)}, got {arch!r}")
  path = expand(path)
  return convert_tensors(path, read_published(path), arch)


def convert_tensors(
  path: Path, tensors: Tensors, arch: str, form: str | None = None
) -> tuple[Tensors, dict[str, str]]:
  """Does as `convert`, with tensors that are already read.

  Args:
    path: the file that they are from.
    tensors: with the names of one of the four formats.
    arch: "vgg16" or "vgg19".
    form: the format, if its names do not show it.
  """
  form = form or _form(path, tensors)
  params, last = _convolutions(path, tensors, arch, form)
  weight, bias = _preprocessing(path, tensors, form)
  kernel = params["conv1_1.kernel"].astype(np.float64)
  params["conv1_1.bias"] = params["conv1_1.bias"] + np.einsum("hwjo,j->o", kernel, bias)
  params["conv1_1.kernel"] = np.einsum("hwjo,ji->hwio", kernel, weight)
  params["zero"] = np.linalg.solve(weight, -bias)
  metadata = {
    "arch": arch,
    "last": last,
    "source": f"{form} weights, {path.name}",
    "source_sha256": sha256(path),
  }
  return {name: np.ascontiguousarray(p, np.float32) for name, p in params.items()}, metadata


def read_published(path: Path) -> Tensors:
  """Reads the tensors, except a classifier's; the first bytes show the container format.

  Raises:
    ValueError, ModuleNotFoundError: see `convert`.
  """
  with open_regular(path, at_most=MAX_WEIGHTS_BYTES) as file:
    head = file.read(9)
  if head.startswith(b"\x89HDF\r\n\x1a\n"):
    return _read_hdf5(path)
  if head.startswith((b"PK\x03\x04", b"\x80")):  # A zip, or the bare pickle of torch before 1.6.
    return _read_torch(path)
  if head[8:] == b"{":
    return _read_safetensors(path)
  raise ValueError(
    f"{path}: expected a .pth, .safetensors or .h5 file, but it starts with {head!r}; an "
    "interrupted download or a saved web page? Download it again."
  )


def _read_safetensors(path: Path) -> Tensors:
  try:
    if read_tensor_metadata(path).get("format") == FORMAT:
      raise ValueError(f"{path}: already imported; use it as it is")
    return read_tensors(path, unread=_CLASSIFIER)[0]
  except TensorFileError as error:
    raise ValueError(
      f"{path}: not a whole safetensors file, or not of VGG weights ({error}); get it again"
    ) from error


def _read_torch(path: Path) -> Tensors:
  state = load_pth(path)
  if not isinstance(state, Mapping):
    raise ValueError(f"{path}: expected a state dict, got a {type(state).__name__}")
  return {
    name: _NOT_READ if str(name).startswith(_CLASSIFIER) else pth_array(path, name, tensor)
    for name, tensor in state.items()
  }


def _read_hdf5(path: Path) -> Tensors:
  """Reads Keras's weights; `block1_conv1/.../kernel:0` becomes `block1_conv1.kernel`.

  Keras has used several layouts over the years. In all of them the layer's name is part of the
  path, and the kernel is the one of its two datasets that has four dimensions.
  """
  try:
    import h5py  # pyright: ignore[reportMissingImports]
  except ModuleNotFoundError as error:
    raise missing_extra(path, "h5py") from error
  tensors: Tensors = {}
  found: dict[str, Any] = {}

  def visit(name: str, item) -> None:
    if isinstance(item, h5py.Group):
      for part in item:
        if isinstance(item.get(part, getlink=True), h5py.ExternalLink):
          raise _Refused(f"{name}/{part} is in another file, which is not read")
    layer = re.search(r"(?:^|/)(block\d+_conv\d+)(?:/|$)", name)
    if not isinstance(item, h5py.Dataset) or layer is None:
      return
    if item.external or item.is_virtual:
      raise _Refused(f"{name} has its data in other files, which are not read")
    if item.shape is None or item.dtype.kind != "f":
      raise _Refused(f"{name} should be floating point, got {item.dtype}")
    key = f"{layer[1]}.{'kernel' if item.ndim == 4 else 'bias'}"
    if key in found:
      raise _Refused(f"{layer[1]} has two tensors of {item.ndim} dimensions ({name})")
    found[key] = item
    total = sum(math.prod(data.shape) * data.dtype.itemsize for data in found.values())
    if total > MAX_TENSOR_BYTES:
      raise _Refused(f"{name} {list(item.shape)} is larger than those of any VGG")

  try:
    with h5py.File(path, "r") as file:
      visit("", file)
      file.visititems(visit)
      tensors = {key: np.asarray(item) for key, item in found.items()}
  except _Refused as error:
    raise ValueError(f"{path}: {error}") from None
  except MemoryError:
    raise
  except Exception as error:  # h5py documents none: OSError, RuntimeError, KeyError, ...
    raise ValueError(f"{path}: h5py cannot read it ({error}); a truncated file?") from error
  if not tensors:
    raise ValueError(
      f"{path}: expected layers named block1_conv1, ..., as in Keras's `..._notop.h5`, got none of "
      "them (a `.weights.h5` of Keras 3 does not keep the names: save the model as `.h5`)"
    )
  return tensors


class _Refused(Exception):
  """An HDF5 file has unusable content; the message is the reason."""


def _form(path: Path, tensors: Tensors) -> str:
  if "0.weight" in tensors:
    return "vgg_normalised"
  if any(name.startswith("features.") for name in tensors):
    return "torchvision"
  if any(name.startswith("block") for name in tensors):
    return "Keras"
  raise ValueError(
    f"{path}: expected torchvision's names (features.0.weight), Keras's (block1_conv1) or "
    f"vgg_normalised's (0.weight), got {sorted(tensors)[:4] or 'none of them'}"
  )


def _names(arch: str, form: str) -> dict[str, tuple[str, str]]:
  """Maps `convB_I` to the names of its kernel and bias in `form`, in the network's order."""
  last = f"relu5_{BLOCKS[arch][-1][0]}"
  convs = conv_shapes(arch, last)
  if form == "Keras":
    keras = {conv: conv.replace("conv", "block").replace("_", "_conv") for conv in convs}
    return {conv: (f"{name}.kernel", f"{name}.bias") for conv, name in keras.items()}
  # Positions in an nn.Sequential: convolution and ReLU, with a reflection pad in front and the
  # preprocessing at 0 in vgg_normalised; a pool between two blocks.
  prefix, index, step = ("", 2, 3) if form == "vgg_normalised" else ("features.", 0, 2)
  names = {}
  for conv in convs:
    index += conv.endswith("_1") and conv != "conv1_1"
    names[conv] = (f"{prefix}{index}.weight", f"{prefix}{index}.bias")
    index += step
  return names


def _fault(tensors: Tensors, arch: str, form: str) -> tuple[str, int]:
  """Compares the names with those of `arch`; returns what is wrong or "", and the layer count."""
  names = _names(arch, form)
  needed = 1 + list(names).index(ENCODER_LAYER.replace("relu", "conv"))
  present = [i for i, pair in enumerate(names.values(), 1) if not tensors.keys().isdisjoint(pair)]
  classifier = {name for name in tensors if name.startswith(_CLASSIFIER)}
  # Keras's files and those with a classifier are whole networks; others may end early.
  count = len(names) if classifier or form == "Keras" else max(present + [needed])
  expected = [name for pair in list(names.values())[:count] for name in pair]
  if form == "vgg_normalised":
    expected += ["0.weight", "0.bias"]
  missing = [name for name in expected if name not in tensors]
  if missing:
    return f"{missing[0]} is missing", count
  unexpected = sorted(tensors.keys() - expected - classifier)
  return (f"{unexpected[0]} is not part of {arch}" if unexpected else ""), count


def _convolutions(path: Path, tensors: Tensors, arch: str, form: str) -> tuple[Tensors, str]:
  """Returns kernels (HWIO) and biases under our names, checked, and the last activation."""
  fault, count = _fault(tensors, arch, form)
  if fault:
    others = [other for other in BLOCKS if other != arch and not _fault(tensors, other, form)[0]]
    hint = f"; the file holds {others[0]}: --arch {others[0]}" if others else ""
    raise ValueError(f"{path}: expected {form} weights of {arch}, but {fault}{hint}")
  names = dict(list(_names(arch, form).items())[:count])
  last = list(names)[-1].replace("conv", "relu")
  params: Tensors = {}
  for conv, shape in conv_shapes(arch, last).items():
    kernel_name, bias_name = names[conv]
    if form == "Keras":
      params[f"{conv}.kernel"] = _checked(path, tensors, kernel_name, shape)
    else:
      oihw = (shape[3], shape[2], shape[0], shape[1])
      kernel = _checked(path, tensors, kernel_name, oihw)
      params[f"{conv}.kernel"] = kernel.transpose(2, 3, 1, 0)
    params[f"{conv}.bias"] = _checked(path, tensors, bias_name, shape[3:])
  return params, last


def _preprocessing(path: Path, tensors: Tensors, form: str) -> tuple[np.ndarray, np.ndarray]:
  """Returns `W` `[3, 3]` and `b` `[3]` of the network's preprocessing `W rgb + b`."""
  if form == "torchvision":
    return np.diag(1 / _STD), -_MEAN / _STD
  if form == "Keras":
    return 255 * np.eye(3)[::-1], -_CAFFE_MEAN_BGR
  weight = _checked(path, tensors, "0.weight", (3, 3, 1, 1)).astype(np.float64)[:, :, 0, 0]
  if np.linalg.cond(weight) > 1e6:
    raise ValueError(f"{path}: 0.weight should mix colors reversibly, got {weight.tolist()}")
  return weight, _checked(path, tensors, "0.bias", (3,)).astype(np.float64)


def _checked(path: Path, tensors: Tensors, name: str, shape: tuple[int, ...]) -> np.ndarray:
  tensor = tensors[name]
  if tensor.shape != shape:
    raise ValueError(f"{path}: {name} should be {list(shape)}, got {list(tensor.shape)}")
  # NumPy reads bfloat16 as kind "V".
  if tensor.dtype.kind not in "fV":
    raise ValueError(f"{path}: {name} should be floating point, got {tensor.dtype}")
  tensor = tensor.astype(np.float32)
  if not np.isfinite(tensor).all():
    raise ValueError(f"{path}: {name} holds values that are not finite; get the file again")
  return tensor
