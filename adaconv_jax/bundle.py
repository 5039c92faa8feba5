"""Trained models: `load_model` from wherever one is, and `save_bundle`, which makes it one file.

    python -m adaconv_jax.bundle WORKDIR FILE.safetensors

makes one of what `train.py` has left, in half precision, with a summary of the training inside.

A bundle is a safetensors file with the trained parameters (`decoder/conv4_1/kernel`, ...). Its
metadata describe the model, name the VGG weights it was trained with by their sha256 (they are not
inside), and have a sha256 over all of it, because safetensors does not notice flipped bits. The
models that come with the package are bundles in `adaconv_jax/pretrained`.
"""

import argparse
import dataclasses
import functools
import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from adaconv_jax import vgg_weights as vgg_files
from adaconv_jax.atomic import replacing
from adaconv_jax.checkpoint import CheckpointError, Checkpoints
from adaconv_jax.stylizer import Stylizer, TransferModel, init_params, make_model, model_settings
from adaconv_jax.vgg import ENCODER_LAYER, VGG, VGGParams, conv_shapes
from adaconv_jax.vgg_file import Tensors, sha256, tensors_sha256, to_tensors
from adaconv_jax.workdir import summarize

FORMAT = "adaconv_jax.bundle"
VERSION = 1


def load_model(model: str | Path, *, vgg_weights: str | Path | None = None) -> Stylizer:
  """Loads a trained model.

  Args:
    model: the name of a model that comes with the package; or the path of a workdir of `train.py`
      (its newest checkpoint that is whole), of the `checkpoints` folder in it or of one checkpoint
      in that; or of a file from `save_bundle`.
    vgg_weights: file with the VGG weights that the model was trained with. Without it: the file
      that the training was given, else what `vgg_weights.load` finds.

  Raises:
    ValueError: there is no such model; its file is damaged, foreign or from a newer version; or
      the VGG weights are not those that it was trained with.
    FileNotFoundError: a part of the workdir or the VGG weights are missing.
    CheckpointError: no checkpoint can be used, or not the one asked for.
  """
  return _load(_read_model(model), vgg_weights)


def _load(trained: "_Trained", vgg_weights: str | Path | None) -> Stylizer:
  if trained.vgg_file and not vgg_weights and not Path(trained.vgg_file).exists():
    raise FileNotFoundError(
      f"{trained.path}: trained with the VGG weights {trained.vgg_file}, which are not there; "
      f"{_GIVE_VGG}"
    )
  vgg_params, info = vgg_files.load(trained.vgg.arch, vgg_weights or trained.vgg_file or None)
  trained.check_vgg(vgg_params, info, _GIVE_VGG)
  return Stylizer(trained.params, vgg_params, trained.model, trained.vgg)


def load_start(
  source: str | Path,
  model: TransferModel,
  vgg: VGG,
  vgg_params: VGGParams,
  vgg_info: Mapping[str, str],
) -> tuple[Any, dict[str, Any]]:
  """Loads the parameters that a new training starts from.

  Args:
    source: a trained model as for `load_model`.
    model: what is going to be trained, with the same settings.
    vgg: its encoder.
    vgg_params: the encoder's weights, those that `source` was trained with.
    vgg_info: what `vgg_weights.load` told of them.

  Returns:
    The parameters, and what `source` is for the run's record: its "name", the "sha256" of a bundle
    or the "step" of a workdir's checkpoint, and "info", how it was trained.

  Raises:
    ValueError: `source` is not there, damaged, another model, or was trained with other VGG
      weights.
    FileNotFoundError: a part of the workdir is missing.
    CheckpointError: no checkpoint can be used, or not the one asked for.
  """
  try:
    trained = _read_model(source)
    there, here = _describe(trained.model, trained.vgg), _describe(model, vgg)
    differing = [
      f"{name} is {there.get(name)} there and {here.get(name)} here"
      for name in sorted(there.keys() | here.keys())
      if there.get(name) != here.get(name)
    ]
    if differing:
      raise ValueError(
        f"{trained.path}: another model than that of config.model: {', '.join(differing)}; give "
        "the config the settings of what it starts from"
      )
    trained.check_vgg(
      vgg_params,
      vgg_info,
      "give the file that it was trained with: --config.model.vgg_weights=FILE",
    )
  except (ValueError, FileNotFoundError) as error:
    kind = ValueError if isinstance(error, ValueError) else FileNotFoundError
    raise kind(f"config.init_from: {str(error).removeprefix('model: ')}") from error
  identity = (
    {"step": trained.step} if trained.step is not None else {"sha256": sha256(trained.path)}
  )
  name = trained.path.name.removesuffix(".safetensors")
  return trained.params, {"name": name, **identity, "info": trained.info()}


def export(
  source: str | Path,
  path: str | Path,
  *,
  dtype: str = "float16",
  vgg_weights: str | Path | None = None,
) -> Mapping[str, Any]:
  """Writes a trained model as one file that tells how it was trained; see `save_bundle`.

  Args:
    source: a workdir or checkpoint, as for `load_model`; or a bundle, to change its precision.
    path: where to.
    dtype: "float16" or "float32".
    vgg_weights: file with the VGG weights that the model was trained with, where they are not
      found by themselves.

  Returns:
    What the file says of the training: see `workdir.summarize`.

  Raises:
    ValueError: see `load_model` and `save_bundle`; a part of the workdir's record is damaged.
    FileNotFoundError: a part of the workdir or the VGG weights are missing.
    CheckpointError: no checkpoint can be used, or not the one asked for.
  """
  trained = _read_model(source)
  info = trained.info()
  save_bundle(_load(trained, vgg_weights), path, dtype=dtype, info=info)
  return info


def find_model(model: str | Path) -> Path:
  """Returns the path of `model`: of the shipped model of this name, else `model` itself.

  Raises:
    ValueError: neither a shipped model nor an existing path.
  """
  name = os.fspath(model)
  if isinstance(model, str) and name and name == os.path.basename(name):
    shipped = vgg_files.PACKAGED / f"{name}.safetensors"
    if shipped.is_file():
      return shipped
  if name and os.path.exists(name):
    return Path(name)
  raise ValueError(
    f"model: {name!r} is neither a model that is shipped with this version "
    f"({', '.join(shipped_models()) or 'which has none'}) nor an existing path. Train one, as with "
    "`python train.py --config configs/quickstart.py --workdir runs/first`, and pass its workdir, "
    "'runs/first'."
  )


def shipped_models() -> list[str]:
  """Returns the names of the models that come with the package, sorted."""
  paths = vgg_files.PACKAGED.glob("*.safetensors")  # the VGG weights are among them
  return sorted(path.stem for path in paths if _metadata(path).get("format") == FORMAT)


def save_bundle(
  stylizer: Stylizer,
  path: str | Path,
  *,
  dtype: str = "float32",
  info: Mapping[str, Any] | None = None,
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
        "sha256": _vgg_sha256(vgg.arch, stylizer.vgg_params),
      }
    ),
    "info": json.dumps(dict(info or {})),
  }
  metadata["sha256"] = _sha256(tensors, metadata)
  with replacing(path) as temporary:
    temporary.write_bytes(save(tensors, metadata=metadata))


@dataclasses.dataclass(frozen=True)
class _Trained:
  """What a bundle or a workdir holds: a model without the VGG weights.

  Attributes:
    path: the file, or the workdir.
    params: the trained parameters, float32.
    model: `AdaIN` or `AdaConv`.
    vgg: the encoder.
    vgg_sha256: of the VGG weights of its training.
    whole_file: whether that is of all tensors in their file, or of those in use.
    vgg_file: the file that the training was given, or "".
    step: of the workdir's checkpoint; None for a bundle.
    info: returns how it was trained: what a bundle says, or a summary of the workdir's record.
  """

  path: Path
  params: Any
  model: TransferModel
  vgg: VGG
  vgg_sha256: str
  whole_file: bool
  vgg_file: str
  step: int | None
  info: Callable[[], Mapping[str, Any]]

  def check_vgg(self, params: VGGParams, info: Mapping[str, str], way_out: str) -> None:
    got = info["tensors_sha256"] if self.whole_file else _vgg_sha256(self.vgg.arch, params)
    if got != self.vgg_sha256:
      raise ValueError(
        f"{self.path}: trained with other {self.vgg.arch} weights (sha256 "
        f"{self.vgg_sha256[:12]}...) than those in {info['path']} ({got[:12]}...), with which it "
        f"would draw something else; {way_out}"
      )


def _read_model(model: str | Path) -> _Trained:
  path = find_model(model)
  return _read_bundle(path) if path.is_file() else _read_workdir(*_split_workdir(path))


def _read_bundle(path: Path) -> _Trained:
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
  info = lambda: json.loads(metadata["info"])  # noqa: E731
  return _Trained(path, params, model, encoder, expected, False, "", None, info)


def _read(path: Path) -> tuple[Tensors, dict[str, str]]:
  """Reads a bundle and checks that it is one, whole and unchanged."""
  metadata = _metadata(path)
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


def _metadata(path: Path) -> dict[str, str]:
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
  template: dict[str, Any] = flatten_dict(_template(model), sep="/")
  shapes = {name: leaf.shape for name, leaf in template.items()}
  for name in sorted(shapes.keys() | tensors.keys()):
    expected, got = shapes.get(name), tensors.get(name)
    if expected is None or got is None:
      problem = "missing" if got is None else "unexpected"
      raise ValueError(f"{where}: parameter {name} is {problem} for {model_settings(model)}")
    if got.shape != expected or got.dtype not in (np.float16, np.float32):
      raise ValueError(
        f"{where}: parameter {name} should be float32 or float16 {list(expected)}, got {got.dtype} "
        f"{list(got.shape)}"
      )


def _template(model: TransferModel) -> Any:
  return jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))


def _split_workdir(folder: Path) -> tuple[Path, int | None]:
  """Returns the workdir that `folder` is or is in, and the step if it is one checkpoint."""
  folder = Path(os.path.abspath(folder))  # "." has a name then, and a link keeps its own
  workdir, step = folder, None
  if folder.name == "checkpoints":
    workdir = folder.parent
  elif folder.parent.name == "checkpoints" and folder.name.isdecimal():
    workdir, step = folder.parent.parent, int(folder.name)
  for needed in ("config.json", "vgg.json", "checkpoints"):
    if not (workdir / needed).exists():
      raise FileNotFoundError(
        f"model: {workdir} has no {needed}; expected a workdir of train.py, its checkpoints folder "
        "or one checkpoint in that, or a file from save_bundle"
      )
  return workdir, step


def _read_workdir(workdir: Path, step: int | None) -> _Trained:
  try:
    config = json.loads((workdir / "config.json").read_text())["model"]
    model = make_model(config["transform"], config["settings"])
    encoder, recorded = VGG(config["vgg"], config["vgg_padding"]), config["vgg_weights"]
    expected = json.loads((workdir / "vgg.json").read_text())["tensors_sha256"]
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError(
      f"{workdir}: its config.json or vgg.json is not one of this version's train.py: {error!r}"
    ) from error
  with Checkpoints(workdir, read_only=True) as checkpoints:
    restored = checkpoints.restore_params(_template(model), step)
  if restored is None:
    raise FileNotFoundError(f"{workdir}: has no checkpoint yet; train on until the first is saved")
  params, step = restored
  info = functools.partial(summarize, workdir, step)
  params = jax.tree.map(jnp.asarray, params)
  return _Trained(workdir, params, model, encoder, expected, True, recorded, step, info)


_GIVE_VGG = (
  "give the file that it was trained with: load_model(..., vgg_weights=FILE), on the command line "
  "--vgg-weights FILE"
)


def _describe(model: TransferModel, vgg: VGG) -> dict[str, Any]:
  described = model_settings(model)
  settings = {"transform": described["transform"], **described["settings"]}
  return settings | {"vgg": vgg.arch, "vgg_padding": vgg.padding}


def _vgg_sha256(arch: str, params: VGGParams) -> str:
  # Of the values in use: the same for a float16 and a longer file of the same weights.
  used = {name: params[name] for name in ("zero", *conv_shapes(arch, ENCODER_LAYER))}
  return tensors_sha256(to_tensors(used))


def main(argv: list[str] | None = None) -> None:
  """Runs the command line; what is wrong with a model ends it with one message."""
  parser = argparse.ArgumentParser(
    prog="python -m adaconv_jax.bundle",
    description="Writes a trained model as one file, with a summary of its training.",
  )
  parser.add_argument(
    "workdir",
    metavar="WORKDIR",
    help="of train.py, of which the newest whole checkpoint is taken; or WORKDIR/checkpoints/STEP",
  )
  parser.add_argument("file", type=Path, metavar="FILE", help="such as model.safetensors")
  parser.add_argument(
    "--dtype", choices=["float16", "float32"], default="float16", help="default: %(default)s"
  )
  parser.add_argument(
    "--vgg-weights",
    metavar="FILE",
    help="the VGG weights that it was trained with, where they are not found by themselves",
  )
  args = parser.parse_args(argv)
  try:
    info = export(args.workdir, args.file, dtype=args.dtype, vgg_weights=args.vgg_weights)
  except (ValueError, OSError, CheckpointError) as error:
    sys.exit(f"error: {error}")
  size = args.file.stat().st_size / 1e6
  print(f"{args.file}: step {info.get('steps')}, {size:.1f} MB, sha256 {sha256(args.file)}")


if __name__ == "__main__":
  main()
