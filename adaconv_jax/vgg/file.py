"""Our file of VGG weights: safetensors with `zero`, `convB_I.kernel` (HWIO) and `convB_I.bias`.

The network in it takes RGB in [0, 1]. The metadata say what it is and where it comes from.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from adaconv_jax.files import replacing, sha256, tensor_fault, tensors_sha256
from adaconv_jax.vgg.network import conv_shapes

FORMAT = "adaconv_jax.vgg"
VERSION = "1"

Tensors = dict[str, np.ndarray]


def read_file(path: str | Path) -> tuple[Tensors, dict[str, str]]:
  """Reads and checks one of our files.

  Returns:
    The tensors as they are stored (float16 or float32); and the metadata, with the "path" and
    "file_sha256" of the file itself.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is damaged, or not one of our files.
  """
  path = Path(path)
  if not path.is_file():
    raise FileNotFoundError(f"path: there is no file {path} with VGG weights")
  try:
    with safe_open(path, "numpy") as file:
      metadata = dict(file.metadata() or {})
      tensors = {name: file.get_tensor(name) for name in file.keys()}
  except (SafetensorError, TypeError) as error:
    raise _not_ours(path, f"not a whole safetensors file, {error}") from error
  if metadata.get("format") != FORMAT:
    raise _not_ours(path, "it has not been imported")
  if metadata.get("version") != VERSION:
    raise _not_ours(path, f"it has version {metadata.get('version')}, this is {VERSION}")
  _check(path, tensors, metadata)
  return tensors, metadata | {"path": str(path), "file_sha256": sha256(path)}


def write_file(
  path: str | Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
  """Writes one of our files; what stands at `path` is replaced at once or not at all.

  Args:
    path: where to; its folder is made.
    tensors: as from `vgg_import.convert`; kernels may be float16.
    metadata: "arch", "last" (the last activation, such as "relu4_1"), "source", "source_sha256",
      and more if there is more to say, such as "license".

  Raises:
    ValueError: a tensor is missing, unexpected or of the wrong shape.
  """
  path = Path(path)
  tensors = {name: np.ascontiguousarray(tensor) for name, tensor in sorted(tensors.items())}
  metadata = dict(metadata) | {"format": FORMAT, "version": VERSION}
  metadata["tensors_sha256"] = tensors_sha256(tensors)
  _check(path, tensors, metadata)
  with replacing(path) as temporary:
    temporary.write_bytes(save(tensors, metadata=metadata))


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
    f"{path}: not a file of VGG weights that this version can load: {reason}. Files that others "
    f"publish are imported with python -m adaconv_jax.cli.vgg import {path} --arch ARCH "
    "--output OUT.safetensors; a damaged one has to be made or downloaded again."
  )


def _check(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
  shapes: dict[str, tuple[int, ...]] = {"zero": (3,)}
  for name, shape in conv_shapes(metadata.get("arch", ""), metadata.get("last", "")).items():
    shapes |= {f"{name}.kernel": shape, f"{name}.bias": shape[3:]}
  if fault := tensor_fault(tensors, shapes):
    raise ValueError(f"{path}: {fault}")
  if tensors_sha256(tensors) != metadata.get("tensors_sha256"):
    raise ValueError(f"{path}: damaged, its tensors do not match their sha256; delete it")
