"""The record that a run keeps beside its checkpoints, and reads when it is resumed.

config.json        the resolved config
versions.json      versions of Python and of the packages that affect the numbers
vgg.json           the VGG weights, with their hashes
init.json          what the parameters started from: a seed, or a trained model
history.json       the batch sizes of its steps, and whether a checkpoint was written
data/*.json        the images of content and style: training, held out, and skipped with the reason
"""

import importlib.metadata
import json
import logging
import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from adaconv_jax import __version__
from adaconv_jax.checkpoints.errors import CheckpointError
from adaconv_jax.files import (
  Json,
  is_remote,
  obstacle,
  open_regular,
  parse_json,
  printable,
  read_json,
  real,
  replacing,
  unwritable,
)
from adaconv_jax.vgg.weights import are_same

log = logging.getLogger(__name__)

_ROLES = ("content", "style")
# Of millions of logged steps.
MAX_METRICS_BYTES = 2**32
# In a bucket, a checkpoint counts with this file of Orbax in it.
COMMITTED = "commit_success.txt"

# Types of what is read of each part; everything may be missing.
_TYPES: Mapping[str, Mapping[str, type]] = {
  "config.json": {"model": dict, "data": dict, "batch_size": int, "ema_decay": float},
  "versions.json": {"adaconv_jax": str},
  "vgg.json": {"tensors_sha256": str},
  "history.json": {"saved": int, "batch_sizes": list},
  **{f"{role}_{part}.json": {"kept": list} for role in _ROLES for part in ("train", "heldout")},
}
_FILES = (*(f"{name}.json" for name in ("config", "versions", "vgg", "init", "history")),)
_FILES += (".lock", "metrics.jsonl")
_FOLDERS = ("checkpoints", "data", "samples", "tensorboard")

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "pillow")


def write_text(path: Path, text: str) -> None:
  """Writes a file atomically; only the first process writes."""
  if jax.process_index() == 0:
    with replacing(path) as temporary:
      temporary.write_text(text)


def check_record(workdir: Path, config: Json, vgg_info: Mapping[str, str]) -> Json:
  """Checks that a resumed run has the same model; writes nothing.

  Returns:
    The config of the earlier run; empty for a new run.

  Raises:
    ValueError: the workdir is no folder, or has a run of another model, or with other VGG weights,
      or a part of its record is damaged, or missing beside checkpoints.
  """
  _check_kinds(workdir)
  _check_whole(workdir)
  before, vgg_before = (read_part(workdir / f"{name}.json") for name in ("config", "vgg"))
  config = json.loads(json.dumps(config))  # tuples become lists, as in the file
  if before:
    if not isinstance(before.get("model"), dict):
      raise ValueError(
        f"{workdir / 'config.json'}: this part of the run's record is damaged: no model; restore "
        "it from a copy"
      )
    # The weights may have moved, so only their hash is compared. The parameters do not depend on
    # the compute dtype, which older runs do not record.
    free = {"vgg_weights": None, "compute_dtype": None}
    models = [{**c["model"], **free} for c in (before, config)]
    if models[0] != models[1]:
      old, new = models
      differing = [
        f"{name} is {old.get(name)!r} there and {new.get(name)!r} here"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
      ]
      raise ValueError(
        f"workdir: {workdir} has a run with another config.model: {', '.join(differing)}; use "
        "another --workdir"
      )
    changed = [f"{name} (was {old!r}, is {new!r})" for name, old, new in _changes(before, config)]
    if changed:
      log.warning("settings changed since the last start: %s", ", ".join(changed))
    moving = [name for name, *_ in _changes(before, config) if name in _MOVE_THE_BATCHES]
    if moving:
      log.warning(
        "because config.%s changed, the batches from here on differ from those of an uninterrupted "
        "run",
        " and config.".join(moving),
      )
  if vgg_before:
    expected, got = vgg_before.get("tensors_sha256", ""), vgg_info["tensors_sha256"]
    if not are_same(vgg_before, vgg_info):
      raise ValueError(
        f"config.model.vgg_weights: {workdir} has a run with other VGG weights, whose "
        f"tensors_sha256 is {expected[:12]}...; {vgg_info['path']} has {got[:12]}...; pass the "
        "file of the first run, or use another --workdir"
      )
  return before


def is_of_run(workdir: Path, path: Path) -> bool:
  """Whether a run in `workdir` writes, or has written, the file at `path`."""
  place = real(path)
  return any(place == real(workdir / name) for name in _FILES) or any(
    place.startswith(os.path.join(real(workdir / name), "")) for name in _FOLDERS
  )


def _check_kinds(workdir: Path) -> None:
  """Raises where a run would fail, or wait for ever, when it writes to its workdir."""
  if (place := obstacle(workdir)) is not None:
    raise ValueError(
      f"workdir: expected a folder for the run, got {printable(workdir)}, but {printable(place)} "
      "is not a folder; use another --workdir"
    )
  if is_remote(workdir):
    return  # a bucket has files only
  for path in (workdir / name for name in (*_FILES, *_FOLDERS)):
    # A link that leads nowhere may become a file, but not a folder.
    file = path.name in _FILES
    if file and path.exists() and not path.is_file():
      raise ValueError(f"{path}: expected a file of the run, got another kind; move it away")
    if not file and os.path.lexists(path) and not path.is_dir():
      raise ValueError(f"{path}: expected a folder of the run, got another kind; move it away")


def _check_writable(workdir: Path) -> None:
  """Raises where a run would fail when it first saves or shows something, maybe after hours."""
  if is_remote(workdir):
    return  # the lock is written there first
  for name in _FOLDERS:
    if (fault := unwritable(workdir / name)) is not None:
      raise ValueError(
        f"workdir: expected folders that can be written to, but {fault}; change that, or use "
        "another --workdir"
      )


def _check_whole(workdir: Path) -> None:
  """Raises where a run with checkpoints lacks a part of its record, which it would write anew.

  So a run would go on with other weights, or other images, than before, and say nothing.
  """
  if not newest_step(workdir):
    return
  lists = [f"data/{role}_{part}.json" for role in _ROLES for part in ("train", "heldout")]
  for name in ("config.json", "vgg.json", *lists):
    if not (workdir / name).exists():
      raise ValueError(
        f"{workdir / name}: this part of the run's record is missing beside its checkpoints; "
        "restore it from a copy, or use another --workdir"
      )


# Settings that choose the images of a batch, or how they are cut.
_MOVE_THE_BATCHES = (
  "batch_size",
  "seed",
  "data.content_resize",
  "data.content_crop",
  "data.style_resize",
  "data.style_crop",
  "data.kept_style_crops",
)


def _changes(before: Json, after: Json) -> list[tuple[str, Any, Any]]:
  """Returns name and both values of the changed settings; one that only one config has is new."""
  changes = []
  for name in before.keys() & after.keys():
    old, new = before[name], after[name]
    if isinstance(old, dict) and isinstance(new, dict):
      changes += [(f"{name}.{below}", *values) for below, *values in _changes(old, new)]
    elif old != new:
      changes.append((name, old, new))
  return sorted(changes, key=lambda change: change[0])


def write_record(workdir: Path, config: Json, vgg_info: Mapping[str, str]) -> None:
  """Writes config, versions and VGG's hashes.

  Raises:
    ValueError: a folder of the run cannot be written to; nothing is written.
  """
  if jax.process_index() == 0:
    _check_writable(workdir)
  versions = {name: importlib.metadata.version(name) for name in PACKAGES}
  versions |= {"adaconv_jax": __version__, "python": platform.python_version()}
  for name, content in (("config", config), ("versions", versions), ("vgg", vgg_info)):
    write_text(workdir / f"{name}.json", json.dumps(content, indent=2) + "\n")


class History:
  """How many pairs the steps of a run had, and whether a checkpoint was saved: `history.json`.

  It keeps totals, because a run can be resumed with another batch size.

  Attributes:
    saved: the step of the first checkpoint; 0 if there is none yet.
  """

  def __init__(self, workdir: Path, batch_size: int | None = None):
    """Reads the history of a run; writes nothing.

    Args:
      workdir: the run's folder.
      batch_size: the batch size of its steps if it has no history, as in older runs.

    Raises:
      ValueError: the file is damaged.
    """
    self._path = workdir / "history.json"
    recorded = read_part(self._path)
    try:
      self.saved = int(recorded.get("saved", 0))
      self._sizes = [(int(first), int(size)) for first, size in recorded.get("batch_sizes", ())]
      if any(size < 1 for _, size in self._sizes) or self._sizes != sorted(set(self._sizes)):
        raise ValueError(
          f"expected sizes of at least 1, in the order of the steps, got {self._sizes}"
        )
    except (TypeError, ValueError, OverflowError) as error:
      raise ValueError(
        f"{self._path}: this part of the run's record is damaged: batch_sizes: {error}"
      ) from error
    if not self._sizes and batch_size:
      self._sizes = [(0, batch_size)]

  def go_on(self, step: int, batch_size: int) -> None:
    """Records that the steps after `step` have this batch size."""
    self._sizes = [(first, size) for first, size in self._sizes if first < step]
    if not self._sizes or self._sizes[-1][1] != batch_size:
      self._sizes.append((step, batch_size))
    self._write()

  def note_saved(self, step: int) -> None:
    """Records that a checkpoint was written."""
    if not self.saved:
      self.saved = step
      self._write()

  def _write(self) -> None:
    content = {"batch_sizes": self._sizes, "saved": self.saved}
    write_text(self._path, json.dumps(content) + "\n")

  def check_new(self, workdir: Path) -> None:
    """Checks that a run without a usable checkpoint had none before.

    Raises:
      CheckpointError: it had.
    """
    if self.saved:
      raise _missing(workdir)

  def pairs(self, step: int) -> int:
    """Returns the number of pairs in the first `step` steps."""
    ends = [first for first, _ in self._sizes[1:]] + [step]
    return sum(
      size * max(0, min(end, step) - first)
      for (first, size), end in zip(self._sizes, ends, strict=False)
    )


def newest_step(workdir: Path) -> int:
  """Returns the newest step that has a checkpoint, whole or not; 0 if none has.

  On a disk, Orbax gives a checkpoint its name when all of it is written. In a bucket it writes
  under that name from the start, and `COMMITTED` at the end.
  """
  newest_first = sorted(_named_like_steps(workdir), key=lambda path: -int(path.name))
  return next((int(path.name) for path in newest_first if _is_step(path)), 0)


def _named_like_steps(workdir: Path) -> list[Path]:
  folder = workdir / "checkpoints"
  paths = folder.iterdir() if folder.is_dir() else ()
  return sorted(path for path in paths if path.name.isdecimal())


def is_step_name(name: str) -> bool:
  """Whether Orbax takes a folder of this name for a step: not "007" or digits of other scripts."""
  return name.isdecimal() and name == str(int(name))


def _is_step(path: Path) -> bool:
  if not is_step_name(path.name):
    return False
  return (path / COMMITTED).exists() if is_remote(path) else path.is_dir()


def check_checkpoints(workdir: Path, history: History) -> None:
  """Checks that the checkpoints of a recorded run have not been deleted or moved.

  A run that was killed before its first checkpoint has none, and starts over.

  Raises:
    CheckpointError: they are missing.
  """
  folder = workdir / "checkpoints"
  if newest_step(workdir):
    return
  # In a bucket such a run leaves no folder, which would be empty, or a step that is not committed.
  if not is_remote(folder) and (workdir / "init.json").exists():
    if not folder.exists():
      raise _missing(workdir)
    if others := _named_like_steps(workdir):  # which no run leaves
      raise _missing(workdir, f" ({others[0].name} in it is none)")
  history.check_new(workdir)


def _missing(workdir: Path, found: str = "") -> CheckpointError:
  return CheckpointError(
    f"{workdir} has the record of a run, but {workdir / 'checkpoints'} has no checkpoint{found}; "
    "restore them, or use another --workdir to start over"
  )


def write_start(workdir: Path, start: Json) -> None:
  """Records what the parameters of a new run start from."""
  write_text(workdir / "init.json", json.dumps(dict(start), indent=2) + "\n")


def summarize(workdir: Path, step: int) -> Json:
  """Summarizes for people how the parameters of a step were trained; names no folders.

  Args:
    workdir: the run's folder.
    step: the step.

  Returns:
    What is known, valid for JSON: "version" of this package, "steps" and "pairs" so far,
    "batch_size", "ema_decay", "start" (see `write_start`), "vgg", "data" (for each role the number
    of images and sizes in pixels), "losses" and "heldout_losses", the last ones logged by then.

  Raises:
    ValueError: a part of the record is damaged.
  """
  config, vgg, versions, start = (
    read_part(workdir / f"{name}.json") for name in ("config", "vgg", "versions", "init")
  )
  data = {}
  for role in _ROLES:
    for part in ("train", "heldout"):
      listed = read_part(workdir / "data" / f"{role}_{part}.json")
      data[f"{role}_{part}"] = len(listed.get("kept", ()))
    for size in ("resize", "crop"):
      data[f"{role}_{size}"] = config.get("data", {}).get(f"{role}_{size}")
  batch_size = config.get("batch_size", 0)
  losses, heldout_losses = _last_losses(workdir / "metrics.jsonl", step)
  return {
    "version": versions.get("adaconv_jax"),
    "steps": step,
    "pairs": History(workdir, batch_size).pairs(step),
    "batch_size": batch_size,
    "ema_decay": config.get("ema_decay", 0.0),
    "start": start or {"seed": config.get("seed")},
    "vgg": {name: value for name, value in vgg.items() if name != "path"},
    "data": data,
    "losses": losses,
    "heldout_losses": heldout_losses,
  }


def read_part(path: Path) -> Json:
  """Reads a part of the record; empty if an older run did not write it or it was not copied.

  Raises:
    ValueError: it is damaged.
  """
  try:
    content = read_json(path) if path.exists() else {}
  except ValueError as error:
    reason = str(error).removeprefix(f"{path}: ")
    raise ValueError(
      f"{path}: this part of the run's record is damaged: {reason}; restore it from a copy"
    ) from error
  if not isinstance(content, dict):
    raise ValueError(
      f"{path}: this part of the run's record is damaged: not a JSON object; restore it from a copy"
    )
  for name, kind in _TYPES.get(path.name, {}).items():
    value = content.get(name)
    numbers = kind is float and isinstance(value, int)
    if name in content and (isinstance(value, bool) or not (numbers or isinstance(value, kind))):
      raise ValueError(
        f"{path}: this part of the run's record is damaged: {name} is {str(value)[:40]!r}; restore "
        "it from a copy"
      )
  return content


def _last_losses(path: Path, step: int) -> tuple[dict[str, float], dict[str, float]]:
  """The last losses logged up to `step`, with their steps: of training, and held-out."""
  of_training: dict[str, float] = {}
  of_heldout: dict[str, float] = {}
  for values in read_metrics(path):
    numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
    losses = {name: value for name, value in numbers.items() if "loss" in name or name == "step"}
    heldout = any(name.startswith("heldout_") for name in losses)
    last = of_heldout if heldout else of_training
    if last.get("step", 0) <= values["step"] <= step:
      last.clear()
      last.update(losses)
  return of_training, of_heldout


def read_metrics(path: Path) -> Iterator[Json]:
  """Yields the lines of `metrics.jsonl`, each with a "step"; nothing if there is no such file.

  Lines that are damaged are left out, such as one that was cut off when a run was killed.
  """
  if not path.exists():
    return
  with open_regular(path, at_most=MAX_METRICS_BYTES) as file:
    for line in file:
      try:
        values = parse_json(line, what=str(path))
      except ValueError:
        continue
      if isinstance(values, dict) and isinstance(values.get("step"), int):
        yield values
