"""Bundles: a trained model as one file.

A bundle is a safetensors file with the trained parameters (`decoder/conv4_1/kernel`, ...). Its
metadata describe the model, contain the sha256 of the VGG weights it was trained with (but not the
weights), and a sha256 of the whole, because safetensors does not detect flipped bits. The shipped
models are bundles in `adaconv_jax/pretrained`.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.typing import DTypeLike

from adaconv_jax.files import Json, check_path, parse_json, replacing
from adaconv_jax.kinds import foreign_kind
from adaconv_jax.models.build import (
  init_params,
  make_encoder,
  make_model,
  model_settings,
  stored_settings,
)
from adaconv_jax.models.stylizer import Stylizer
from adaconv_jax.models.transfer_model import Params, TransferModel
from adaconv_jax.tensor_files import (
  TensorFileError,
  read_tensor_metadata,
  read_tensors,
  tensor_bytes,
  tensor_fault,
  tensors_sha256,
)
from adaconv_jax.vgg.file import FORMAT as VGG_FORMAT
from adaconv_jax.vgg.file import Tensors, to_tensors
from adaconv_jax.vgg.network import ENCODER_LAYER, VGG, VGGParams, conv_shapes

FORMAT = "adaconv_jax.bundle"
VERSION = 1

_EXPECTED = (
  "A model is the name of a shipped one, the workdir of a training, or a file from `adaconv "
  "export` or `save_bundle`"
)


def save_bundle(
  stylizer: Stylizer,
  path: str | Path,
  *,
  dtype: DTypeLike = "float32",
  info: Json | None = None,
) -> None:
  """Writes a trained model as one file, without the VGG weights.

  An existing file at `path` is replaced at once or not at all. The same model and information make
  the same bytes.

  Args:
    stylizer: the model, as from `load_model`.
    path: where to write; its folder is created. The suffix is free; .safetensors says what it is.
    dtype: "float32" (`adaconv export` writes float16), or "float16" for half the size; NumPy's and
      JAX's types, too. `load_model` returns float32 either way.
    info: further information about the model, for people; stored in the metadata as JSON.

  Raises:
    ValueError: `stylizer` is no `Stylizer`, `path` is none, `info` is not for JSON, or unknown
      `dtype`; the parameters do not match the model, are not finite, or are too large for float16.
  """
  if not isinstance(stylizer, Stylizer):
    named = isinstance(stylizer, str | os.PathLike)
    load = f"load_model({str(stylizer)!r})" if named else "load_model"
    raise ValueError(
      f"stylizer: expected a Stylizer, as {load} returns it, got "
      f"{repr(stylizer) if named or stylizer is None else type(stylizer).__name__}"
    )
  check_path("path", path, "a file to write, such as model.safetensors")
  try:
    described = json.dumps(dict(info or {}), sort_keys=True)
  except (RecursionError, TypeError, ValueError) as error:
    raise ValueError(f"info: expected names and values that JSON has ({error})") from error
  with contextlib.suppress(TypeError):
    dtype = np.dtype("" if dtype is None else dtype).name
  if dtype not in ("float32", "float16"):
    raise ValueError(f"dtype: expected 'float32' or 'float16', got {dtype!r}")
  tensors = {}
  for name, leaf in flatten_dict(stylizer.params, sep="/").items():
    with np.errstate(over="ignore"):  # checked below
      tensors[name] = np.ascontiguousarray(np.asarray(leaf).astype(dtype))
    if not np.isfinite(tensors[name]).all():
      raise ValueError(f"stylizer: {name} has values that are not finite as {dtype}")
  _check_tensors("stylizer", tensors, stylizer.model)
  vgg = stylizer.vgg
  metadata = {
    "format": FORMAT,
    "version": str(VERSION),
    "model": json.dumps(stored_settings(stylizer.model), sort_keys=True),
    "vgg": json.dumps(
      {
        "arch": vgg.arch,
        "padding": vgg.padding,
        "sha256": vgg_sha256(vgg.arch, stylizer.vgg_params),
      },
      sort_keys=True,
    ),
    "info": described,
  }
  metadata["sha256"] = _sha256(tensors, metadata)
  with replacing(path) as temporary:
    temporary.write_bytes(tensor_bytes(tensors, metadata))


def vgg_beside(path: Path) -> Path:
  """Returns where a bundle's own VGG weights are, if it has any: `model.vgg.safetensors`."""
  return path.parent / f"{path.name.removesuffix('.safetensors')}.vgg.safetensors"


class Bundle(NamedTuple):
  """What a bundle holds.

  Attributes:
    params: the trained parameters, float32.
    model: the trained part.
    vgg: the encoder.
    vgg_sha256: `vgg_sha256` of the weights it was trained with.
    info: how it was trained, for people.
  """

  params: Params
  model: TransferModel
  vgg: VGG
  vgg_sha256: str
  info: Json


def read_bundle(path: Path) -> Bundle:
  """Reads a file from `save_bundle`.

  Raises:
    ValueError: the file is damaged, changed, not a bundle or from a newer version, this version
      does not know its model, or a parameter is not finite.
  """
  tensors, metadata = _read(path)
  try:
    described, vgg, info = (_parse_object(metadata, name) for name in ("model", "vgg", "info"))
    model = make_model(described["transform"], described["settings"])
    encoder, expected = make_encoder(vgg["arch"], vgg["padding"]), vgg["sha256"]
    if not isinstance(expected, str):
      raise ValueError(f"vgg: expected a sha256, got {expected!r}")
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError(
      f"{path}: describes a model that this version does not know: {error}"
    ) from error
  _check_tensors(str(path), tensors, model)
  for name, tensor in tensors.items():
    if not np.isfinite(tensor).all():
      raise ValueError(f"{path}: not a usable model: {name} has values that are not finite")
  arrays = jax.device_put({name: tensor.astype(np.float32) for name, tensor in tensors.items()})
  params = unflatten_dict(arrays, sep="/")
  return Bundle(params, model, encoder, expected, info)


def _parse_object(metadata: Mapping[str, str], name: str) -> Json:
  value = parse_json(metadata.get(name, "{}"), what=name)
  if not isinstance(value, dict):
    raise ValueError(f"{name}: expected a JSON object, got {type(value).__name__}")
  return value


def _read(path: Path) -> tuple[Tensors, dict[str, str]]:
  """Reads a bundle and checks that it is one, complete and unchanged."""
  try:
    metadata = read_metadata(path)
  except ValueError as error:
    if kind := foreign_kind(path):
      raise ValueError(f"{path}: not a safetensors file but {kind}. {_EXPECTED}") from error
    raise
  if metadata.get("format") != FORMAT:
    got = metadata.get("format", "another kind of file")
    if got == VGG_FORMAT:
      got += (
        f": VGG weights, which --vgg-weights (load_model(..., vgg_weights={path.name!r})) takes"
      )
    raise ValueError(
      f"{path}: expected a trained model of adaconv_jax, as `save_bundle` writes it, got {got}. "
      f"{_EXPECTED}"
    )
  version = metadata.get("version", "")
  if version.isdecimal() and (len(version) > 9 or int(version) > VERSION):
    raise ValueError(
      f"{path}: made by a newer version of adaconv_jax (bundle version {version[:9]}, this one "
      f"reads {VERSION}); update the package"
    )
  try:
    tensors, _ = read_tensors(path)
  except TensorFileError as error:
    raise ValueError(f"{path}: not a trained model that this version can load: {error}") from error
  if _sha256(tensors, metadata) != metadata.get("sha256"):
    raise ValueError(f"{path}: damaged or changed: it does not match its sha256; get it again")
  return tensors, metadata


def read_metadata(path: Path) -> dict[str, str]:
  """Reads a safetensors file's metadata.

  Raises:
    ValueError: it is not a safetensors file, not a complete one, or not a regular file.
  """
  try:
    return read_tensor_metadata(path)
  except TensorFileError as error:
    raise ValueError(f"{path}: not a safetensors file, or not a complete one: {error}") from error


def _sha256(tensors: Tensors, metadata: Mapping[str, str]) -> str:
  described = {name: text for name, text in metadata.items() if name != "sha256"}
  described["tensors"] = tensors_sha256(tensors)
  return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def _check_tensors(where: str, tensors: Tensors, model: TransferModel) -> None:
  expected_tree: Any = flatten_dict(template(model), sep="/")
  shapes = {name: leaf.shape for name, leaf in expected_tree.items()}
  if fault := tensor_fault(tensors, shapes):
    raise ValueError(f"{where}: parameter {fault}, for {model_settings(model)}")


def template(model: TransferModel) -> Params:
  """Returns the shapes and types of the parameters of `model`."""
  # Numbers such as the key's are transferred to the device, which the user may have disallowed.
  with jax.transfer_guard("allow"):
    return jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))


def vgg_sha256(arch: str, params: VGGParams) -> str:
  """Hashes the VGG weights in use, so the length and type of their file do not matter."""
  used = {name: params[name] for name in ("zero", *conv_shapes(arch, ENCODER_LAYER))}
  return tensors_sha256(to_tensors(jax.device_get(used)))
