"""Reads models of two PyTorch projects: naoto0804/pytorch-AdaIN and RElbers/ada-conv-pytorch.

What their files hold is recognized by the names and shapes of the tensors, never by the name of a
file. The networks are the same as here, up to the order of axes, with two exceptions.

RElbers' AdaConv predicts the kernels themselves, whereas ours predicts their difference from
kernels that change nothing. For the pointwise kernels, this constant is subtracted from the bias of
their layer. For the spatial ones it is nonzero at the center only, where no bias can be. So the
style descriptor gets one more channel, which is 1 at the center and 0 elsewhere for every style,
and the predictors' weights for it are minus that constant, in the middle of their own kernels. The
model then has a `style_dim` that is larger by one, and computes the same.

RElbers' styles are cropped, ours are squeezed, which is the model's `style_fit`.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from adaconv_jax.checkpoints.bundle import FORMAT, save_bundle, vgg_beside
from adaconv_jax.files import (
  MAX_WEIGHTS_BYTES,
  Json,
  expand,
  open_regular,
  printable,
  replacing,
  sha256,
)
from adaconv_jax.models.build import make_model
from adaconv_jax.models.decoder import SCALES
from adaconv_jax.models.stylizer import Stylizer
from adaconv_jax.models.transfer_model import Params, TransferModel
from adaconv_jax.tensor_files import TensorFileError, read_tensor_metadata
from adaconv_jax.vgg.convert import convert_tensors, read_published
from adaconv_jax.vgg.file import FORMAT as VGG_FORMAT
from adaconv_jax.vgg.file import Tensors, read_file, to_params, write_file
from adaconv_jax.vgg.network import VGG
from adaconv_jax.vgg.pth import load_pth, pth_array

NAOTO, RELBERS = "naoto0804/pytorch-AdaIN", "RElbers/ada-conv-pytorch"
READABLE = (
  f"decoder.pth of {NAOTO} together with its vgg_normalised.pth, or an AdaConv checkpoint (.ckpt) "
  f"of {RELBERS}"
)
# Names that an error shows of an unknown file.
_SHOWN = 4

# Positions of the convolutions in the Sequential of naoto0804's decoder, and in RElbers' list of
# layers, where the first of each scale follows the kernel predictor.
_ADAIN_LAYERS = (1, 5, 8, 11, 14, 18, 21, 25, 28)
_ADACONV_LAYERS = (1, 5, 7, 9, 11, 15, 17, 21, 23)
_PREDICTORS = (0, 4, 14, 20)
_GROUPS = (512, 128, 32, 8)
# The same convolutions of VGG up to relu4_1, in blocks that end at a layer of the loss; and where
# they are in torchvision's network.
_BLOCKS = {
  "0.0": 0, "1.0": 2, "1.3": 5, "2.0": 7, "2.3": 10, "3.0": 12, "3.2": 14, "3.4": 16, "3.7": 19,
}  # fmt: skip
_STATE = "state_dict"


class Imported(NamedTuple):
  """A model of another program.

  Attributes:
    params: the trained parameters.
    model: the trained part.
    vgg_tensors: of its VGG-19, as `vgg.file.write_file` takes them.
    vgg_info: their metadata.
    info: where they are from, for the bundle.
  """

  params: Params
  model: TransferModel
  vgg_tensors: Tensors
  vgg_info: Mapping[str, str]
  info: Json

  def stylizer(self) -> Stylizer:
    """Returns the model, which computes what the other program does."""
    params, vgg_params = jax.device_put((self.params, to_params(self.vgg_tensors)))
    return Stylizer(params, vgg_params, self.model, VGG("vgg19", "reflect"))

  def save(self, path: str | Path, *, dtype: str = "float32") -> Path:
    """Writes the model as a bundle, and its VGG weights beside it, where `load_model` finds them.

    Args:
      path: of the bundle.
      dtype: of the trained parameters, see `save_bundle`.

    Returns:
      The path of the VGG weights.

    Raises:
      ValueError: a parameter is not finite; see `save_bundle`.
    """
    path = expand(path)
    with replacing(vgg_beside(path)) as temporary:  # it takes its place after the bundle
      write_file(temporary, self.vgg_tensors, self.vgg_info)
      save_bundle(self.stylizer(), path, dtype=dtype, info=self.info)
    return vgg_beside(path)


def read_pytorch(files: Sequence[str | Path]) -> Imported:
  """Reads a model of one of the two projects; runs no code that is in a file.

  Args:
    files: `decoder.pth` and `vgg_normalised.pth` in any order (the latter may be a file that
      `adaconv vgg import` made of it), or one checkpoint of RElbers.

  Raises:
    ValueError: a file is none of these, or one of the two is missing; a file is damaged or would
      run code; or a tensor is missing, unexpected, of the wrong shape or not finite.
    FileNotFoundError: there is no such file.
    ModuleNotFoundError: there is no torch to read `.pth` and `.ckpt`, see `vgg.convert`.
  """
  if not files:
    raise ValueError(f"files: expected {READABLE}, got none")
  found = [_File.read(expand(file)) for file in files]
  for file in found:
    if not file.kind:
      raise ValueError(f"{file.path}: expected {READABLE}; {file.content()}")
  kinds = [file.kind for file in found]
  if kinds == ["adaconv"]:
    return _adaconv(found[0])
  if sorted(kinds) == ["decoder", "vgg"]:
    decoder, vgg = sorted(found, key=lambda file: file.kind)
    return _adain(decoder, vgg)
  if kinds == ["decoder"]:
    raise ValueError(
      f"{found[0].path}: a decoder of {NAOTO}, which needs the VGG weights that it was trained "
      "with; name them, too: adaconv import decoder.pth vgg_normalised.pth --output OUT.safetensors"
    )
  if kinds == ["vgg"]:
    raise ValueError(
      f"{found[0].path}: VGG weights without a decoder; name decoder.pth, too. `adaconv vgg "
      "import` converts VGG weights alone"
    )
  listed = ", ".join(f"{file.path.name} ({_KINDS[file.kind]})" for file in found)
  raise ValueError(f"files: expected {READABLE}, one model at a time; got {listed}")


_KINDS = {
  "decoder": "a decoder",
  "vgg": "VGG weights",
  "adaconv": f"a checkpoint of {RELBERS}",
}


class _File(NamedTuple):
  """A file and what it seems to be.

  Attributes:
    path: of the file.
    kind: "decoder", "vgg", "adaconv" or "".
    tensors: by name; of a checkpoint, those of its model.
    rest: what else a checkpoint has.
    parts: of a file without tensors, what it has, for an error.
  """

  path: Path
  kind: str
  tensors: Mapping[str, Any]
  rest: Mapping[str, Any]

  @classmethod
  def read(cls, path: Path) -> "_File":
    """Reads the names of the tensors; `array` reads their numbers."""
    with open_regular(path, at_most=MAX_WEIGHTS_BYTES) as file:
      head = file.read(9)
    rest: Mapping[str, Any] = {}
    if head.startswith((b"PK\x03\x04", b"\x80")):
      state = load_pth(path)
      if not isinstance(state, Mapping):
        raise ValueError(f"{path}: expected {READABLE}; got a {type(state).__name__}")
      if isinstance(state.get(_STATE), Mapping):
        state, rest = state[_STATE], state
      tensors = state
    elif head[8:] == b"{" and _format(path) == VGG_FORMAT:
      return cls(path, "vgg", {}, {"imported": True})
    elif head[8:] == b"{" and _format(path) == FORMAT:
      raise ValueError(f"{path}: already a model of adaconv_jax; use it as it is: --model {path}")
    else:
      tensors = read_published(path)
    return cls(path, _kind(set(tensors)), tensors, rest)

  def array(self, name: str, *shape: int) -> np.ndarray:
    """Returns a tensor as float32; -1 in the expected shape is any number.

    Raises:
      ValueError: it is missing, of another shape, or not finite.
    """
    if name not in self.tensors:
      raise ValueError(f"{self.path}: {name} is missing; a file that is not whole?")
    tensor = self.tensors[name]
    if not isinstance(tensor, np.ndarray):
      tensor = pth_array(self.path, name, tensor)
    pairs = list(zip(shape, tensor.shape, strict=False))
    if len(tensor.shape) != len(shape) or any(want not in (-1, got) for want, got in pairs):
      wanted = ", ".join("n" if want < 0 else str(want) for want in shape)
      raise ValueError(f"{self.path}: {name} should be [{wanted}], got {list(tensor.shape)}")
    tensor = tensor.astype(np.float32)
    if not np.isfinite(tensor).all():
      raise ValueError(f"{self.path}: {name} holds values that are not finite; get the file again")
    return tensor

  def conv(self, name: str, c_in: int, c_out: int, size: int = 3) -> dict[str, np.ndarray]:
    """Returns a convolution with Flax's names and order of axes."""
    kernel = self.array(f"{name}.weight", c_out, c_in, size, size).transpose(2, 3, 1, 0)
    return {"kernel": kernel, "bias": self.array(f"{name}.bias", c_out)}

  def content(self) -> str:
    """Says what is in an unknown file."""
    shown = [
      f"{printable(name)} {list(shape) if shape is not None else type(tensor).__name__}"
      for name, tensor in list(self.tensors.items())[:_SHOWN]
      for shape in [getattr(tensor, "shape", None)]
    ]
    if not shown:
      return "it has no tensors"
    more = len(self.tensors) - len(shown)
    text = f"it has {', '.join(shown)}" + (f" and {more} more" if more > 0 else "")
    for prefix, what in _OTHERS.items():
      if any(str(name).startswith(prefix) for name in self.tensors):
        text += f": {what}"
        break
    return text


# Beginnings of names in files that are close to those that can be read.
_OTHERS = {
  "model.decoder.style_encoder.": f"a checkpoint of {RELBERS} before its version of 23 November "
  "2021, whose networks were others (the bias came before the pointwise kernels)",
  "model.decoder.layers.0.weight": f"an AdaIN of {RELBERS}, which is not read",
  "features.": "VGG weights, which `adaconv vgg import` converts",
  "block": "VGG weights, which `adaconv vgg import` converts",
}


def _kind(names: set[str]) -> str:
  """Recognizes a file by names that no other kind has."""
  if {"model.style_encoder.fc.weight", "model.decoder.layers.1.conv.weight"} <= names:
    return "adaconv"
  if {"0.weight", "2.weight", "5.weight"} <= names:
    return "vgg"
  if {"1.weight", "28.weight"} <= names and "0.weight" not in names:
    return "decoder"
  return ""


def _format(path: Path) -> str:
  """Returns what kind of file of this package it is; empty for others."""
  try:
    return read_tensor_metadata(path).get("format", "")
  except TensorFileError:
    return ""


def _info(source: str, vgg_info: Mapping[str, str], files: Sequence[_File], **more: Any) -> Json:
  """Describes where a model is from; a bundle's `info`."""
  known = {name: value for name, value in more.items() if value is not None}
  return {
    "imported": {
      "from": source,
      "files": {file.path.name: sha256(file.path) for file in files},
    },
    "vgg": {name: value for name, value in vgg_info.items() if name != "path"},
    **known,
  }


def _check_all_read(file: _File, read: set[str], *ignored: str) -> None:
  """Refuses a file with more tensors than were read, but for those whose names begin so."""
  unread = sorted(map(str, file.tensors.keys() - read))
  unknown = [name for name in unread if not name.startswith(ignored)]
  if unknown:
    raise ValueError(
      f"{file.path}: {printable(unknown[0])} is not part of {_KINDS[file.kind]} that can be read; "
      f"expected {READABLE}"
    )


def _decoder(
  file: _File, positions: Sequence[int], prefix: str = "", first: str = ""
) -> tuple[dict[str, Any], set[str]]:
  """Reads the nine convolutions of the decoder.

  Args:
    file: to read from.
    positions: of the convolutions in the other program's list of layers.
    prefix: of their names.
    first: what follows the position of the first one of a scale.

  Returns:
    The parameters of `Decoder`, and the names that were read.
  """
  params, read, remaining = {}, set(), iter(positions)
  for scale, (c_in, widths) in enumerate(SCALES):
    for index, width in enumerate(widths):
      name = f"{prefix}{next(remaining)}{'' if index else first}"
      params[f"conv{len(SCALES) - scale}_{index + 1}"] = file.conv(name, c_in, width)
      read |= {f"{name}.weight", f"{name}.bias"}
      c_in = width
  return params, read


def _adain(decoder: _File, vgg: _File) -> Imported:
  params, read = _decoder(decoder, _ADAIN_LAYERS)
  _check_all_read(decoder, read)
  if "imported" in vgg.rest:
    tensors, metadata = read_file(vgg.path)
    metadata = {k: v for k, v in metadata.items() if k not in ("path", "file_sha256")}
    if metadata["arch"] != "vgg19":
      raise ValueError(f"{vgg.path}: holds {metadata['arch']}, expected vgg19")
  else:
    arrays = {
      str(name): tensor if isinstance(tensor, np.ndarray) else pth_array(vgg.path, name, tensor)
      for name, tensor in vgg.tensors.items()
    }
    tensors, metadata = convert_tensors(vgg.path, arrays, "vgg19")
  info = _info(NAOTO, metadata, [decoder, vgg])
  return Imported({"decoder": params}, make_model("adain"), tensors, metadata, info)


def _adaconv(file: _File) -> Imported:
  fc = file.array("model.style_encoder.fc.weight", -1, -1)
  spatial = file.array(f"model.decoder.layers.{_PREDICTORS[0]}.spatial.weight", -1, -1, -1, -1)
  dim, kernel_size = spatial.shape[1:3]
  width = SCALES[0][0]
  side = math.isqrt(fc.shape[1] // width)
  if fc.shape != (dim * kernel_size**2, width * side**2) or not side:
    raise ValueError(
      f"{file.path}: model.style_encoder.fc.weight should be [{dim} * {kernel_size}**2, {width} * "
      f"n**2], got {list(fc.shape)}"
    )
  settings: Json = {
    "style_dim": dim + 1,
    "kernel_size": kernel_size,
    "groups": _GROUPS,
    "encoder_width": width,
    "style_size": _style_size(file, side),
    "style_fit": "crop",
  }
  model = make_model("adaconv", settings)
  prefix = "model.decoder.layers."
  decoder, read = _decoder(file, _ADACONV_LAYERS, prefix, ".conv")
  params: dict[str, Any] = {"decoder": decoder}
  encoder, names = _style_encoder(file, fc, dim, kernel_size, side)
  params["style_encoder"] = encoder
  read |= names
  for scale, (position, groups) in enumerate(zip(_PREDICTORS, _GROUPS, strict=True)):
    name = f"{prefix}{position}"
    params[f"predictors_{scale}"], names = _predictor(
      file, name, SCALES[scale][0], groups, dim, kernel_size
    )
    read |= names
  vgg = "model.encoder.blocks."
  _check_all_read(file, read, vgg)
  published = {
    f"features.{index}.{part}": file.array(f"{vgg}{name}.{part}", *(-1,) * dimensions)
    for name, index in _BLOCKS.items()
    for part, dimensions in (("weight", 4), ("bias", 1))
  }
  tensors, metadata = convert_tensors(file.path, published, "vgg19")
  steps = file.rest.get("global_step")
  info = _info(RELBERS, metadata, [file], steps=steps if isinstance(steps, int) else None)
  return Imported(params, model, tensors, metadata, info)


def _style_size(file: _File, side: int) -> int:
  """Returns the size of styles; several have the same number of parameters."""
  recorded = file.rest.get("hyper_parameters")
  size = recorded.get("style_size") if isinstance(recorded, Mapping) else None
  fits = isinstance(size, int) and not isinstance(size, bool) and size // 64 == side
  return size if fits and isinstance(size, int) else 64 * side


def _style_encoder(
  file: _File, fc: np.ndarray, dim: int, k: int, side: int
) -> tuple[dict[str, Any], set[str]]:
  """Returns the parameters of `GlobalStyleEncoder`, with one more channel, and the names read."""
  name, width = "model.style_encoder.", SCALES[0][0]
  params: dict[str, Any] = {}
  read = {f"{name}fc.weight", f"{name}fc.bias"}
  for index, position in enumerate((0, 3, 6), 1):
    conv = f"{name}downscale.{position}"
    params[f"conv{index}"] = file.conv(conv, width, width)
    read |= {f"{conv}.weight", f"{conv}.bias"}
  # PyTorch's images have their channels first, before they are flattened, and after.
  kernel = np.zeros((side, side, width, k, k, dim + 1), np.float32)
  kernel[..., :dim] = fc.reshape(dim, k, k, width, side, side).transpose(4, 5, 3, 1, 2, 0)
  bias = np.zeros((k, k, dim + 1), np.float32)
  bias[..., :dim] = file.array(f"{name}fc.bias", dim * k * k).reshape(dim, k, k).transpose(1, 2, 0)
  bias[k // 2, k // 2, dim] = 1
  params["Dense_0"] = {"kernel": kernel.reshape(side * side * width, -1), "bias": bias.reshape(-1)}
  return params, read


def _predictor(
  file: _File, name: str, channels: int, groups: int, dim: int, k: int
) -> tuple[dict[str, Any], set[str]]:
  """Returns the parameters of a `KernelPredictor`, and the names that were read."""
  group = channels // groups
  # Of the numbers that are predicted, theirs are in the order [output, input], ours in the other.
  order = np.arange(channels * group).reshape(channels, group).T.reshape(-1)
  identity = np.tile(np.eye(group, dtype=np.float32), groups).reshape(-1)
  convs = {
    "spatial": (f"{name}.spatial", channels * group, k),
    "pointwise": (f"{name}.pointwise.1", channels * group, 1),
    "bias": (f"{name}.bias.1", channels, 1),
  }
  read = {f"{conv}.{part}" for conv, *_ in convs.values() for part in ("weight", "bias")}
  params = {}
  for branch, (conv, count, size) in convs.items():
    given = file.conv(conv, dim, count, size)
    kernel = np.zeros((size, size, dim + 1, count), np.float32)
    kernel[:, :, :dim], bias = given["kernel"], given["bias"]
    if branch != "bias":
      kernel[:, :, :dim], bias = given["kernel"][..., order], bias[order]
    if branch == "spatial":
      kernel[k // 2, k // 2, dim] = -identity
      params[branch] = {"kernel": kernel, "bias": bias}
      continue
    if branch == "pointwise":
      bias = bias - identity
    params[branch] = {"kernel": kernel[0, 0], "bias": bias}
  return params, read
