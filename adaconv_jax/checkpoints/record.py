"""What a run writes down beside its checkpoints, and what it reads back when it goes on.

config.json        the resolved config
versions.json      versions of Python and of the packages that numbers depend on
vgg.json           which VGG weights, with their hashes
init.json          what the parameters started from: a seed, or a trained model
data/*.json        the images of content and style: training, held out, skipped and why
"""

import importlib.metadata
import json
import logging
import platform
from collections.abc import Mapping
from pathlib import Path

import jax

from adaconv_jax import __version__
from adaconv_jax.files import Json, replacing

log = logging.getLogger(__name__)

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "pillow")


def write_text(path: Path, text: str) -> None:
  """Writes a file so that it is never seen half-written; only the first process writes."""
  if jax.process_index() == 0:
    with replacing(path) as temporary:
      temporary.write_text(text)


def write_record(workdir: Path, config: Json, vgg_info: Mapping[str, str]) -> None:
  """Writes config, versions and VGG's hashes; checks that a run that goes on is the same model.

  Raises:
    ValueError: the workdir holds a run of another model, or with other VGG weights.
  """
  path, vgg_path = workdir / "config.json", workdir / "vgg.json"
  config = json.loads(json.dumps(config))  # tuples become lists, as in the file
  if path.exists():
    before = json.loads(path.read_text())
    # The weights may lie elsewhere now; their hash is what counts. The parameters are the same in
    # every compute dtype, which older runs do not name.
    free = {"vgg_weights": None, "compute_dtype": None}
    models = [{**c["model"], **free} for c in (before, config)]
    if models[0] != models[1]:
      raise ValueError(
        f"workdir: {workdir} holds a run with config.model {before['model']}, this one has "
        f"{config['model']}; use another --workdir"
      )
    changed = [name for name in config if config[name] != before.get(name)]
    if changed:
      log.warning("going on with changed settings: %s", ", ".join(changed))
  if vgg_path.exists():
    expected, got = json.loads(vgg_path.read_text())["tensors_sha256"], vgg_info["tensors_sha256"]
    if expected != got:
      raise ValueError(
        f"config.model.vgg_weights: {workdir} holds a run with other VGG weights, whose "
        f"tensors_sha256 is {expected[:12]}...; {vgg_info['path']} has {got[:12]}...; pass the "
        "file of the first run, or use another --workdir"
      )
  versions = {name: importlib.metadata.version(name) for name in PACKAGES}
  versions |= {"adaconv_jax": __version__, "python": platform.python_version()}
  for name, content in (("config", config), ("versions", versions), ("vgg", vgg_info)):
    write_text(workdir / f"{name}.json", json.dumps(content, indent=2) + "\n")


def write_start(workdir: Path, start: Json) -> None:
  """Writes down what the parameters of a run that begins start from."""
  write_text(workdir / "init.json", json.dumps(dict(start), indent=2) + "\n")


def summarize(workdir: Path, step: int) -> Json:
  """Sums up for people how the parameters of a step were trained; names no folders.

  Args:
    workdir: the run's folder.
    step: the step.

  Returns:
    What is known, fit for JSON: "version" of this package, "steps" and "pairs" that were seen,
    "batch_size", "ema_decay", "start" (see `write_start`), "vgg", "data" (for each role the number
    of images and sizes in pixels), "losses" and "heldout_losses", the last that were logged until
    then.

  Raises:
    ValueError: a part of the record is damaged.
  """
  config, vgg, versions, start = (
    _read(workdir / f"{name}.json") for name in ("config", "vgg", "versions", "init")
  )
  data = {}
  for role in ("content", "style"):
    for part in ("train", "heldout"):
      listed = _read(workdir / "data" / f"{role}_{part}.json")
      data[f"{role}_{part}"] = len(listed.get("kept", ()))
    for size in ("resize", "crop"):
      data[f"{role}_{size}"] = config.get("data", {}).get(f"{role}_{size}")
  batch_size = config.get("batch_size", 0)
  losses, heldout_losses = _last_losses(workdir / "metrics.jsonl", step)
  return {
    "version": versions.get("adaconv_jax"),
    "steps": step,
    "pairs": step * batch_size,
    "batch_size": batch_size,
    "ema_decay": config.get("ema_decay", 0.0),
    "start": start or {"seed": config.get("seed")},
    "vgg": {name: value for name, value in vgg.items() if name != "path"},
    "data": data,
    "losses": losses,
    "heldout_losses": heldout_losses,
  }


def _read(path: Path) -> Json:
  """Reads a part of the record; what older runs did not write, or what was not copied, is empty."""
  try:
    return json.loads(path.read_text()) if path.exists() else {}
  except ValueError as error:
    raise ValueError(f"{path}: a damaged part of a run's record: {error}") from error


def _last_losses(path: Path, step: int) -> tuple[dict[str, float], dict[str, float]]:
  """The losses that were logged last until `step`, with their steps: of training, and held-out."""
  of_training: dict[str, float] = {}
  of_heldout: dict[str, float] = {}
  for line in path.read_text().splitlines() if path.exists() else ():
    try:
      values = json.loads(line)
    except ValueError:  # cut off when a run was killed
      continue
    losses = {name: value for name, value in values.items() if "loss" in name or name == "step"}
    heldout = any(name.startswith("heldout_") for name in losses)
    last = of_heldout if heldout else of_training
    if last.get("step", 0) <= values["step"] <= step:
      last.clear()
      last.update(losses)
  return of_training, of_heldout
