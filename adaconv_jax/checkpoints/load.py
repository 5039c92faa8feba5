"""Trained models: `load_model` from wherever one is, a workdir, a bundle, or the package."""

import dataclasses
import functools
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp

from adaconv_jax.checkpoints.bundle import FORMAT, read_bundle, read_metadata, template, vgg_sha256
from adaconv_jax.checkpoints.record import summarize
from adaconv_jax.files import Json, sha256
from adaconv_jax.models.build import make_model, model_settings
from adaconv_jax.models.stylizer import Stylizer
from adaconv_jax.models.transfer_model import Params, TransferModel
from adaconv_jax.vgg import weights as vgg_files
from adaconv_jax.vgg.network import VGG, VGGParams

# What is used where no model is named.
DEFAULT_MODEL = "adaconv"


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
  return stylizer_of(read_model(model), vgg_weights)


def stylizer_of(trained: "Trained", vgg_weights: str | Path | None) -> Stylizer:
  """Puts a trained model together with the VGG weights; see `load_model`."""
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
) -> tuple[Params, Json]:
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
    trained = read_model(source)
    there, here = _describe(trained.model, trained.vgg), _describe(model, vgg)
    # Another transform has other settings, and nothing is to be said of those.
    names = there.keys() | here.keys() if there.keys() == here.keys() else ["transform"]
    differing = [
      f"{name} is {there[name]} there and {here[name]} here"
      for name in sorted(names)
      if there[name] != here[name]
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
  return sorted(path.stem for path in paths if read_metadata(path).get("format") == FORMAT)


@dataclasses.dataclass(frozen=True)
class Trained:
  """What a bundle or a workdir holds: a model without the VGG weights.

  Attributes:
    path: the file, or the workdir.
    params: the trained parameters, float32.
    model: the trained part.
    vgg: the encoder.
    vgg_sha256: of the VGG weights of its training.
    whole_file: whether that is of all tensors in their file, or of those in use.
    vgg_file: the file that the training was given, or "".
    step: of the workdir's checkpoint; None for a bundle.
    info: returns how it was trained: what a bundle says, or a summary of the workdir's record.
  """

  path: Path
  params: Params
  model: TransferModel
  vgg: VGG
  vgg_sha256: str
  whole_file: bool
  vgg_file: str
  step: int | None
  info: Callable[[], Json]

  def check_vgg(self, params: VGGParams, info: Mapping[str, str], way_out: str) -> None:
    """Raises unless these are the VGG weights of its training."""
    got = info["tensors_sha256"] if self.whole_file else vgg_sha256(self.vgg.arch, params)
    if got != self.vgg_sha256:
      raise ValueError(
        f"{self.path}: trained with other {self.vgg.arch} weights (sha256 "
        f"{self.vgg_sha256[:12]}...) than those in {info['path']} ({got[:12]}...), with which it "
        f"would draw something else; {way_out}"
      )


def read_model(model: str | Path) -> Trained:
  """Reads a model without its VGG weights; see `load_model`."""
  path = find_model(model)
  if not path.is_file():
    return _read_workdir(*_split_workdir(path))
  bundle = read_bundle(path)
  return Trained(
    path,
    bundle.params,
    bundle.model,
    bundle.vgg,
    bundle.vgg_sha256,
    whole_file=False,
    vgg_file="",
    step=None,
    info=lambda: bundle.info,
  )


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


def _read_workdir(workdir: Path, step: int | None) -> Trained:
  try:
    config = json.loads((workdir / "config.json").read_text())["model"]
    model = make_model(config["transform"], config["settings"])
    encoder, recorded = VGG(config["vgg"], config["vgg_padding"]), config["vgg_weights"]
    expected = json.loads((workdir / "vgg.json").read_text())["tensors_sha256"]
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError(
      f"{workdir}: its config.json or vgg.json is not one of this version's train.py: {error!r}"
    ) from error
  from adaconv_jax.checkpoints.orbax import Checkpoints  # which a bundle does not need

  with Checkpoints(workdir, read_only=True) as checkpoints:
    restored = checkpoints.restore_params(template(model), step)
  if restored is None:
    raise FileNotFoundError(f"{workdir}: has no checkpoint yet; train on until the first is saved")
  params, step = restored
  info = functools.partial(summarize, workdir, step)
  params = jax.tree.map(jnp.asarray, params)
  return Trained(workdir, params, model, encoder, expected, True, recorded, step, info)


_GIVE_VGG = (
  "give the file that it was trained with: load_model(..., vgg_weights=FILE), on the command line "
  "--vgg-weights FILE"
)


def _describe(model: TransferModel, vgg: VGG) -> Json:
  described = model_settings(model)
  settings = {"transform": described["transform"], **described["settings"]}
  return settings | {"vgg": vgg.arch, "vgg_padding": vgg.padding}
