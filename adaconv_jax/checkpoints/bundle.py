"""Bundles: a trained model as one file.

A bundle is a safetensors file with the trained parameters (`decoder/conv4_1/kernel`, ...). Its
metadata describe the model, name the VGG weights it was trained with by their sha256 (they are not
inside), and have a sha256 over all of it, because safetensors does not notice flipped bits. The
models that come with the package are bundles in `adaconv_jax/pretrained`.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from adaconv_jax.files import Json, replacing, tensor_fault, tensors_sha256
from adaconv_jax.models.build import init_params, make_model, model_settings
from adaconv_jax.models.stylizer import Stylizer
from adaconv_jax.models.transfer_model import Params, TransferModel
from adaconv_jax.vgg.file import Tensors, to_tensors
from adaconv_jax.vgg.network import ENCODER_LAYER, VGG, VGGParams, conv_shapes

FORMAT = "adaconv_jax.bundle"
VERSION = 1


def save_bundle(
  stylizer: Stylizer,
  path: str | Path,
  *,
  dtype: str = "float32",
  info: Json | None = None,
) -> None:
  """Writes a trained model as one file, without the VGG weights.

  What stands at `path` is replaced at once or not at all.

  Args:
    stylizer: the model, as from `load_model`.
    path: where to; its folder is made.
    dtype: "float32", or "float16" for half the size; `load_model` returns float32 either way.
    info: what else to say about the model, for people; put into the metadata as JSON.

  Raises:
    ValueError: unknown `dtype`; parameters that are not those of the model, not finite, or too
      large for float16.
  """
  if dtype not in ("float32", "float16"):
    raise ValueError(f"dtype: expected 'float32' or 'float16', got {dtype!r}")
  tensors = {}
  for name, leaf in flatten_dict(stylizer.params, sep="/").items():
    with np.errstate(over="ignore"):  # told below
      tensors[name] = np.ascontiguousarray(np.asarray(leaf).astype(dtype))
    if not np.isfinite(tensors[name]).all():
      raise ValueError(f"stylizer: {name} has values that are not finite as {dtype}")
  _check_tensors("stylizer", tensors, stylizer.model)
  vgg = stylizer.vgg
  metadata = {
    "format": FORMAT,
    "version": str(VERSION),
    "model": json.dumps(model_settings(stylizer.model)),
    "vgg": json.dumps(
      {
        "arch": vgg.arch,
        "padding": vgg.padding,
        "sha256": vgg_sha256(vgg.arch, stylizer.vgg_params),
      }
    ),
    "info": json.dumps(dict(info or {})),
  }
  metadata["sha256"] = _sha256(tensors, metadata)
  with replacing(path) as temporary:
    temporary.write_bytes(save(tensors, metadata=metadata))


class Bundle(NamedTuple):
  """What a bundle holds.

  Attributes:
    params: the trained parameters, float32.
    model: the trained part.
    vgg: the encoder.
    vgg_sha256: `vgg_sha256` of the weights of its training.
    info: how it was trained, for people.
  """

  params: Params
  model: TransferModel
  vgg: VGG
  vgg_sha256: str
  info: Json


def read_bundle(path: Path) -> Bundle:
  """Reads what `save_bundle` has written.

  Raises:
    ValueError: the file is damaged, changed, foreign or from a newer version, or its model is
      unknown to this one.
  """
  tensors, metadata = _read(path)
  try:
    described, vgg = json.loads(metadata["model"]), json.loads(metadata["vgg"])
    model = make_model(described["transform"], described["settings"])
    encoder, expected = VGG(vgg["arch"], vgg["padding"]), vgg["sha256"]
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError(f"{path}: describes a model unknown to this version: {error}") from error
  _check_tensors(str(path), tensors, model)
  arrays = {name: jnp.asarray(tensor, jnp.float32) for name, tensor in tensors.items()}
  params = unflatten_dict(arrays, sep="/")
  return Bundle(params, model, encoder, expected, json.loads(metadata.get("info", "{}")))


def _read(path: Path) -> tuple[Tensors, dict[str, str]]:
  """Reads a bundle and checks that it is one, whole and unchanged."""
  metadata = read_metadata(path)
  if metadata.get("format") != FORMAT:
    raise ValueError(
      f"{path}: not a trained model of adaconv_jax, but "
      f"{metadata.get('format', 'a file of another kind')}; `save_bundle` writes one"
    )
  version = metadata.get("version", "")
  if version.isdecimal() and int(version) > VERSION:
    raise ValueError(
      f"{path}: made by a newer version of adaconv_jax (bundle version {version}, this one reads "
      f"{VERSION}); update the package"
    )
  with safe_open(path, "numpy") as file:
    tensors = {name: file.get_tensor(name) for name in file.keys()}
  if _sha256(tensors, metadata) != metadata.get("sha256"):
    raise ValueError(f"{path}: damaged or changed, it does not match its sha256; get it again")
  return tensors, metadata


def read_metadata(path: Path) -> dict[str, str]:
  """Reads a safetensors file's metadata.

  Raises:
    ValueError: it is no such file, or not a whole one.
  """
  try:
    with safe_open(path, "numpy") as file:
      return dict(file.metadata() or {})
  except SafetensorError as error:
    raise ValueError(f"{path}: not a safetensors file, or not a whole one: {error}") from error


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
  """The shapes and types of the parameters of `model`."""
  return jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))


def vgg_sha256(arch: str, params: VGGParams) -> str:
  """Hashes the VGG weights in use: alike for a float16 and a longer file of the same weights."""
  used = {name: params[name] for name in ("zero", *conv_shapes(arch, ENCODER_LAYER))}
  return tensors_sha256(to_tensors(used))
