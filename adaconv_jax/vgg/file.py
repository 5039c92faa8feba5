"""Our file of VGG weights: safetensors with `zero`, `convB_I.kernel` (HWIO) and `convB_I.bias`.

The network takes RGB in [0, 1]. The metadata describe it and name its source.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from adaconv_jax.files import expand, replacing, sha256
from adaconv_jax.kinds import foreign_kind
from adaconv_jax.tensor_files import (
  TensorFileError,
  read_tensors,
  tensor_bytes,
  tensor_fault,
  tensors_sha256,
)
from adaconv_jax.vgg.network import conv_shapes

FORMAT = "adaconv_jax.vgg"
VERSION = "1"

Tensors = dict[str, np.ndarray]


def read_file(path: str | Path) -> tuple[Tensors, dict[str, str]]:
  """Reads and checks one of our files.

  Returns:
    The tensors as stored (float16 or float32), and the metadata with the "path" and "file_sha256"
    of the file itself.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is damaged, not one of our files, no regular file, or has values that are not
      finite.
  """
  path = expand(path)
  if not path.exists() or path.is_dir():
    what = "got a folder" if path.is_dir() else "there is none"
    raise FileNotFoundError(
      f"{path}: expected a file with VGG weights, {what}; `adaconv vgg import` writes such files"
    )
  try:
    tensors, metadata = read_tensors(path)
  except TensorFileError as error:
    kind = foreign_kind(path)
    if kind is None:
      raise _not_ours(path, f"not a whole safetensors file, {error}") from error
    raise _not_ours(path, f"not a safetensors file but {kind.split('. ')[0]}") from error
  if metadata.get("format") != FORMAT:
    raise _not_ours(path, "it has not been imported")
  if metadata.get("version") != VERSION:
    raise _not_ours(path, f"its version is {metadata.get('version')}, this package reads {VERSION}")
  _check(path, tensors, metadata)
  return tensors, metadata | {"path": str(path), "file_sha256": sha256(path)}


def write_file(
  path: str | Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
  """Writes one of our files; an existing file at `path` is replaced at once or not at all.

  Args:
    path: where to write; its folder is created.
    tensors: as from `vgg_import.convert`; kernels may be float16.
    metadata: "arch", "last" (the last activation, such as "relu4_1"), "source", "source_sha256",
      and optionally more, such as "license".

  Raises:
    ValueError: a tensor is missing, unexpected, of the wrong shape or not finite.
    OSError: the file cannot be written.
  """
  path = expand(path)
  tensors = {name: np.ascontiguousarray(tensor) for name, tensor in sorted(tensors.items())}
  metadata = dict(metadata) | {"format": FORMAT, "version": VERSION}
  metadata["tensors_sha256"] = tensors_sha256(tensors)
  _check(path, tensors, metadata)
  with replacing(path) as temporary:
    temporary.write_bytes(tensor_bytes(tensors, metadata))


def to_params(tensors: Mapping[str, np.ndarray]) -> dict:
  """Turns `{"conv1_1.kernel": ...}` into the nested float32 parameters of `VGG`."""
  params: dict = {}
  for name, tensor in tensors.items():
    layer, _, part = name.partition(".")
    if part:
      params.setdefault(layer, {})[part] = np.asarray(tensor, np.float32)
    else:
      params[layer] = np.asarray(tensor, np.float32)
  return params


def to_tensors(params: Mapping) -> Tensors:
  """Turns the nested parameters of `VGG` into `{"conv1_1.kernel": ...}`, the inverse."""
  tensors = {"zero": np.asarray(params["zero"])}
  for layer in params.keys() - {"zero"}:
    for part, tensor in params[layer].items():
      tensors[f"{layer}.{part}"] = np.asarray(tensor)
  return tensors


def _not_ours(path: Path, reason: str) -> ValueError:
  return ValueError(
    f"{path}: not a file of VGG weights that this version can load: {reason}. Import published "
    f"files with `adaconv vgg import {path} --arch ARCH --output OUT.safetensors`; make or "
    "download a damaged file again."
  )


def _check(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
  shapes: dict[str, tuple[int, ...]] = {"zero": (3,)}
  try:
    layers = conv_shapes(metadata.get("arch", ""), metadata.get("last", ""))
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from error
  for name, shape in layers.items():
    shapes |= {f"{name}.kernel": shape, f"{name}.bias": shape[3:]}
  if fault := tensor_fault(tensors, shapes):
    raise ValueError(f"{path}: {fault}")
  for name, tensor in tensors.items():
    if not np.isfinite(tensor).all():
      raise ValueError(f"{path}: not usable: {name} has values that are not finite")
  if tensors_sha256(tensors) != metadata.get("tensors_sha256"):
    raise ValueError(f"{path}: damaged, its tensors do not match their sha256; delete it")
