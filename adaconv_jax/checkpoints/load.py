"""Trained models: `load_model` loads them from a workdir, a bundle, the package, or the Hub."""

import contextlib
import dataclasses
import difflib
import errno
import functools
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import jax

from adaconv_jax.checkpoints import hub
from adaconv_jax.checkpoints.bundle import (
  FORMAT,
  read_bundle,
  read_metadata,
  template,
  vgg_beside,
  vgg_sha256,
)
from adaconv_jax.checkpoints.record import read_part, summarize
from adaconv_jax.files import (
  Json,
  absolute,
  check_path,
  expand,
  expand_named,
  is_remote,
  not_there,
  printable,
  replacing,
  sha256,
)
from adaconv_jax.models.build import make_encoder, make_model, model_settings
from adaconv_jax.models.stylizer import Stylizer
from adaconv_jax.models.transfer_model import Params, TransferModel
from adaconv_jax.vgg import weights as vgg_files
from adaconv_jax.vgg.network import VGG, VGGParams

# The model that is used if none is named: the one with the best faces and skies.
DEFAULT_MODEL = "adaconv_plus"


def load_model(model: str | Path, *, vgg_weights: str | Path | None = None) -> Stylizer:
  """Loads a trained model.

  Args:
    model: the name of a shipped model; or the path of a workdir of a training (its newest whole
      checkpoint is loaded), of the `checkpoints` folder in it or of one checkpoint in that; or of a
      file from `save_bundle`; or "hf://user/name" or "hf://user/name@revision", a model on the
      Hugging Face Hub, which needs the extra "hub" and is kept in its cache.
    vgg_weights: file with the VGG weights that the model was trained with. By default, the file
      that the training was given, or the one beside a bundle (`model.vgg.safetensors`, as
      `adaconv import` writes it), otherwise what `vgg_weights.load` finds.

  Raises:
    ValueError: there is no such model; its file is damaged, not a model or from a newer version; or
      the VGG weights are not those that it was trained with.
    FileNotFoundError: a part of the workdir or the VGG weights are missing.
    CheckpointError: no checkpoint can be used, or not the one asked for.
  """
  if vgg_weights is not None:
    check_path("vgg_weights", vgg_weights, "the path of a file with VGG weights, or None")
  return stylizer_of(read_model(model), vgg_weights)


def stylizer_of(trained: "Trained", vgg_weights: str | Path | None) -> Stylizer:
  """Combines a trained model with the VGG weights; see `load_model`."""
  if vgg_weights:
    expand_named("vgg_weights", vgg_weights)
  if trained.vgg_file and not vgg_weights and not expand(trained.vgg_file).exists():
    raise FileNotFoundError(
      f"{trained.path}: trained with the VGG weights {trained.vgg_file}, which do not exist; "
      f"{_GIVE_VGG}"
    )
  vgg_params, info = vgg_files.load(
    trained.vgg.arch, vgg_weights or trained.vgg_file or None, options=[_GIVE_VGG]
  )
  trained.check_vgg(vgg_params, info, _GIVE_VGG)
  return Stylizer(trained.params, vgg_params, trained.model, trained.vgg)


@contextlib.contextmanager
def vgg_goes_along(trained: "Trained", path: Path) -> Iterator[None]:
  """Puts the VGG weights beside a bundle, if it has its own, beside its copy at `path`, too.

  They are copied before the block, which writes `path`, and replace a file there after it.

  Raises:
    ValueError: the bundle has none of its own, but those of another model are beside `path`, where
      they would be taken for its own.
  """
  own = vgg_beside(trained.path) if trained.path.is_file() else None
  beside = vgg_beside(path)
  if own is not None and own.is_file() and own != beside:
    with replacing(beside) as temporary:
      temporary.write_bytes(own.read_bytes())
      yield
    return
  if own != beside and beside.exists():
    way_out = f"move that file, or choose another name than {printable(path.name)}"
    vgg_params, info = vgg_files.load(trained.vgg.arch, beside, options=[way_out])
    trained.check_vgg(vgg_params, info, way_out)
  yield


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
    model: the model to train, with the same settings; or one that extends the source's transform.
    vgg: its encoder.
    vgg_params: the encoder's weights, with which `source` was trained.
    vgg_info: the metadata that `vgg_weights.load` returned for them.

  Returns:
    The parameters that `source` has, and a description of it for the run's record: its "name", the
    "file_sha256" of a bundle or the "step" of a workdir's checkpoint, and "info", how it was
    trained.

  Raises:
    ValueError: `source` does not exist, is damaged, is another model, or was trained with other VGG
      weights.
    FileNotFoundError: a part of the workdir is missing.
    CheckpointError: no checkpoint can be used, or not the one asked for.
  """
  try:
    trained = read_model(source)
    there, here = _describe(trained.model, trained.vgg), _describe(model, vgg)
    if model.extends == there["transform"]:
      here["transform"] = model.extends
    # Another transform has other settings, which cannot be compared.
    names = there.keys() | here.keys() if there.keys() == here.keys() else ["transform"]
    differing = [
      f"{name} is {there[name]} there and {here[name]} here"
      for name in sorted(names)
      if there[name] != here[name]
    ]
    if differing:
      raise ValueError(
        f"{trained.path}: does not match config.model: {', '.join(differing)}; give config.model "
        "the settings of the model that the run starts from"
      )
    trained.check_vgg(
      vgg_params,
      vgg_info,
      "pass the file that it was trained with: --config.model.vgg_weights=FILE",
    )
  except (ValueError, FileNotFoundError) as error:
    kind = ValueError if isinstance(error, ValueError) else FileNotFoundError
    raise kind(f"config.init_from: {str(error).removeprefix('model: ')}") from error
  identity = (
    {"step": trained.step} if trained.step is not None else {"file_sha256": sha256(trained.path)}
  )
  name = trained.path.name.removesuffix(".safetensors")
  return trained.params, {"name": name, **identity, "info": trained.info()}


def find_model(model: str | Path) -> Path:
  """Returns the path of the shipped model named `model`, otherwise `model` itself.

  Of a model on the Hugging Face Hub, it is the path in the cache, to which it is downloaded.

  Raises:
    ValueError: neither a shipped model, an existing path nor a model on the Hub; see `hub.fetch`.
  """
  if not isinstance(model, str | os.PathLike) or isinstance(os.fspath(model), bytes):
    got = "a Stylizer, which is loaded" if isinstance(model, Stylizer) else type(model).__name__
    raise ValueError(f"model: expected the name of a shipped model or a path, got {got}")
  name = os.fspath(model)
  if (on_hub := hub.parse(name)) is not None:
    return hub.fetch(on_hub)
  if isinstance(model, str) and name and name == os.path.basename(name):
    shipped = vgg_files.PACKAGED / f"{name}.safetensors"
    if _exists(shipped):
      return shipped
  path = expand_named("model", name)
  if name and _exists(path):
    return path
  _check_step(name)
  if is_remote(path):
    raise ValueError(f"model: {name!r} {not_there(path)}")
  close = difflib.get_close_matches(name, shipped_models(), 1)
  guess = f"Did you mean {close[0]!r}? Or train" if close else "Train"
  raise ValueError(
    f"model: {name!r} is neither a model that is shipped with this version "
    f"({', '.join(shipped_models()) or 'which has none'}) nor an existing path. {guess} one, for "
    "example with `adaconv train --config quickstart --workdir runs/first`, and pass its workdir, "
    "'runs/first'."
  )


def _exists(path: Path) -> bool:
  """Whether there is such a file or folder; also for a name that is too long to be one."""
  try:
    return path.exists()
  except OSError as error:
    if error.errno != errno.ENAMETOOLONG:
      raise
    return False


def _check_step(name: str) -> None:
  """Raises if this is a checkpoint that is gone, and says which there are."""
  folder = expand(name).parent
  step = expand(name).name
  if folder.name != "checkpoints" or not step.isdecimal() or not folder.is_dir():
    return
  steps = sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())
  raise ValueError(
    f"model: {folder.parent} has no checkpoint of step {step}; it has those of the steps "
    f"{', '.join(map(str, steps)) or 'none'}. A run keeps the newest config.keep_last ones, and "
    "every config.keep_every_steps-th step"
  )


def shipped_models() -> list[str]:
  """Returns the names of the shipped models, sorted."""
  paths = vgg_files.PACKAGED.glob("*.safetensors")  # the VGG weights are among them
  return sorted(path.stem for path in paths if read_metadata(path).get("format") == FORMAT)


@dataclasses.dataclass(frozen=True)
class Trained:
  """The model in a bundle or a workdir, without the VGG weights.

  Attributes:
    path: the file, or the workdir.
    params: the trained parameters, float32.
    model: the trained part.
    vgg: the encoder.
    vgg_sha256: hash of the VGG weights it was trained with.
    whole_file: whether the hash covers all tensors in their file, or only those in use.
    vgg_file: the file that the training was given, or the one beside a bundle, or "".
    vgg_info: the metadata of the VGG weights, as far as they are known.
    step: of the workdir's checkpoint; None for a bundle.
    info: returns how it was trained: from the bundle, or a summary of the workdir's record.
  """

  path: Path
  params: Params
  model: TransferModel
  vgg: VGG
  vgg_sha256: str
  whole_file: bool
  vgg_file: str
  vgg_info: Mapping[str, str]
  step: int | None
  info: Callable[[], Json]

  def check_vgg(self, params: VGGParams, info: Mapping[str, str], way_out: str) -> None:
    """Raises unless these are the VGG weights it was trained with."""
    got = info["tensors_sha256"] if self.whole_file else vgg_sha256(self.vgg.arch, params)
    if got != self.vgg_sha256 and not vgg_files.are_same(self.vgg_info, info):
      raise ValueError(
        f"{self.path}: trained with other {self.vgg.arch} weights (sha256 "
        f"{self.vgg_sha256[:12]}...) than those in {info['path']} ({got[:12]}...), with which its "
        f"pictures would differ; {way_out}"
      )


def read_model(model: str | Path) -> Trained:
  """Reads a model without its VGG weights; see `load_model`."""
  path = find_model(model)
  if path.is_dir():
    return _read_workdir(*_split_workdir(path))
  bundle, beside = read_bundle(path), vgg_beside(path)
  return Trained(
    path,
    bundle.params,
    bundle.model,
    bundle.vgg,
    bundle.vgg_sha256,
    whole_file=False,
    vgg_file=str(beside) if beside.exists() else "",
    vgg_info=_texts(bundle.info.get("vgg")),
    step=None,
    info=lambda: bundle.info,
  )


def _split_workdir(folder: Path) -> tuple[Path, int | None]:
  """Returns the workdir that `folder` is or is in, and the step if `folder` is a checkpoint."""
  folder = expand(absolute(folder))  # gives "." a name, and a link keeps its own
  workdir, step = folder, None
  if folder.name == "checkpoints":
    workdir = folder.parent
  elif folder.parent.name == "checkpoints" and folder.name.isdecimal():
    workdir, step = folder.parent.parent, int(folder.name)
  for needed in ("config.json", "vgg.json", "checkpoints"):
    if not (workdir / needed).exists():
      raise FileNotFoundError(
        f"model: {workdir} has no {needed}; expected the workdir of a training, its checkpoints "
        "folder or a checkpoint in that, or a file from save_bundle"
      )
  return workdir, step


def _read_workdir(workdir: Path, step: int | None) -> Trained:
  recorded_config, recorded_vgg = (read_part(workdir / f"{n}.json") for n in ("config", "vgg"))
  try:
    config = recorded_config["model"]
    model = make_model(config["transform"], config["settings"])
    encoder, recorded = make_encoder(config["vgg"], config["vgg_padding"]), config["vgg_weights"]
    expected = recorded_vgg["tensors_sha256"]
    if not isinstance(recorded, str) or not isinstance(expected, str):
      raise ValueError(f"vgg_weights {recorded!r} and tensors_sha256 {expected!r} should be text")
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError(
      f"{workdir}: its config.json or vgg.json was not written by this version: {error!r}"
    ) from error
  from adaconv_jax.checkpoints.orbax import Checkpoints  # not needed for bundles

  with Checkpoints(workdir, read_only=True) as checkpoints:
    restored = checkpoints.restore_params(template(model), step)
  if restored is None:
    raise FileNotFoundError(f"{workdir}: has no checkpoint yet; train until the first is saved")
  params, step = restored
  info = functools.partial(summarize, workdir, step)
  params = jax.device_put(params)
  known = _texts(recorded_vgg)
  return Trained(workdir, params, model, encoder, expected, True, recorded, known, step, info)


def _texts(info: object) -> dict[str, str]:
  """Returns the texts of a record, which is anything that JSON can be."""
  if not isinstance(info, Mapping):
    return {}
  return {str(name): value for name, value in info.items() if isinstance(value, str)}


_GIVE_VGG = (
  "pass the file that it was trained with, as `adaconv vgg import` wrote it: --vgg-weights FILE on "
  "the command line, or load_model(..., vgg_weights=FILE)"
)


def _describe(model: TransferModel, vgg: VGG) -> Json:
  described = model_settings(model)
  settings = {"transform": described["transform"], **described["settings"]}
  return settings | {"vgg": vgg.arch, "vgg_padding": vgg.padding}
