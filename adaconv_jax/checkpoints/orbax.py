"""Checkpoints with Orbax; only this file uses it.

A checkpoint contains `params`, `optimizer` (with the step), `averaged` if a moving average of the
parameters is kept and, as metadata, a digest of every array. Orbax does not detect flipped bits, so
restoring verifies the digests and falls back to the newest older step that is whole. A checkpoint
with values that are not finite is not whole either. The position in the data follows from the step.
"""

import dataclasses
import hashlib
import importlib
import logging
import re
import time
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp
from orbax.checkpoint.path import step as step_names

from adaconv_jax.checkpoints.errors import CheckpointError
from adaconv_jax.checkpoints.record import COMMITTED, is_step_name
from adaconv_jax.files import expand, is_remote, read_json, set_aside
from adaconv_jax.models.transfer_model import Params

log = logging.getLogger(__name__)

# How often TensorStore repeats a request that a bucket does not answer, after pauses of 1, 2, 4 ...
# 32 seconds, a minute together. Its own limit is 32, a quarter of an hour, for every request.
RETRIES = 6
# How often a checkpoint in a bucket is read before it counts as damaged.
_ATTEMPTS = 2
# How often checkpoints are listed to read one while a run may remove it, and seconds between that.
_LISTINGS, _LISTING_PAUSE = 5, 0.2
# Of Google's client, for a request that names a bucket and no object.
_BUCKET_REFUSED = re.compile(r"\b403 GET \S+/b/[^/?\s]+[?:\s]")
# Where TensorStore, which Orbax writes with, can write, besides disks.
STORES = ("gs", "s3")
_AVERAGED, _HEALTH = "averaged", "health"
# Characters of a library's message, which may list every array of a model.
_LONGEST_REASON = 200


def _limit_retries() -> None:
  """Sets `RETRIES`, for which Orbax has no argument; one without these names keeps its own."""
  try:
    from orbax.checkpoint._src.serialization import tensorstore_utils
  except ImportError:
    return
  for name in ("_BASE_TS_CONTEXT", "_DEFAULT_OCDBT_TS_CONTEXT"):
    context = getattr(tensorstore_utils, name, {})
    for store in STORES:
      scheme = {"gs": "gcs"}.get(store, store)
      context.setdefault(f"{scheme}_request_retries", {"max_retries": RETRIES})


_limit_retries()

Items = dict[str, Any]  # pytrees of arrays, by their names in the folder


class State(Protocol):
  """What a checkpoint saves: a dataclass such as `training.state.TrainState`."""

  step: jax.Array
  params: Params
  opt_state: Any
  averaged: Params | None
  health: Any


S = TypeVar("S", bound=State)


class Checkpoints:
  """The checkpoints of one run, under `workdir/checkpoints`.

  Methods raise `CheckpointError` if a checkpoint cannot be written.

  Args:
    workdir: the run's folder.
    keep_last: number of newest checkpoints to keep.
    keep_every: checkpoints at multiples of this many steps are kept permanently; 0 for none.
    read_only: do not change the folder. In particular, do not remove the remains of an interrupted
      save, which look the same as a save in progress.
  """

  def __init__(
    self,
    workdir: Path | str,
    *,
    keep_last: int = 3,
    keep_every: int = 0,
    read_only: bool = False,
  ):
    policies: list[Any] = [ocp.training.preservation_policies.LatestN(max(keep_last, 1))]
    if keep_every:
      policies.append(ocp.training.preservation_policies.EveryNSteps(keep_every))
    # Any, because Orbax's own policies do not match its annotation.
    preserve: Any = ocp.training.preservation_policies.AnyPreservationPolicy(policies)
    self._directory = (expand(workdir) / "checkpoints").absolute()
    self._read_only = read_only
    self._preserve = preserve
    self._odd, self._checkpointer = self._open()

  def _open(self) -> tuple[dict[int, str], Any]:
    """Lists the checkpoints, again where a run removes some meanwhile.

    Returns:
      The steps whose metadata Orbax cannot take, with the faults, and Orbax's checkpointer.
    """
    directory: Any = self._directory
    remote = is_remote(self._directory)
    for left in reversed(range(_LISTINGS if self._read_only else 1)):
      before = set() if remote else _step_names(directory)
      try:
        if remote and directory.scheme == "gs" and not self._read_only:
          _see_bucket(str(directory))
        # Orbax reads the metadata of all when it opens them, and none could be opened because of
        # these.
        odd = _odd_steps(directory)
        return odd, ocp.training.Checkpointer(
          str(directory),
          preservation_policy=self._preserve,
          step_name_format=_Without(odd),  # pyright: ignore[reportArgumentType]
          cleanup_tmp_directories=not self._read_only,
        )
      except Exception as error:
        self._ask_bucket()
        # In a bucket a checkpoint is removed file by file, so it may still be there by its name.
        if left and (remote or _step_names(directory) != before):
          time.sleep(_LISTING_PAUSE)
          continue
        if isinstance(error, OSError):
          raise
        raise CheckpointError(
          f"the checkpoints in {directory} cannot be opened: {_first_line(error)}{_role(error)}"
        ) from error
    raise AssertionError("the last attempt returns or raises")

  def steps(self) -> list[int]:
    """Returns the steps that have a complete checkpoint, in order."""
    return sorted(checkpoint.step for checkpoint in self._checkpointer.checkpoints)

  def save(self, state: State) -> None:
    """Starts saving an unreplicated state of NumPy arrays; `wait` or `close` waits for it.

    Another save waits for it, too.

    Raises:
      ValueError: the state has values that are not finite.
    """
    step = int(state.step)
    if step in self.steps():
      return
    items = _items(state)
    if name := _not_finite(items):
      raise ValueError(f"step {step} is not saved: {name} has values that are not finite")
    metadata: Any = {"sha256": _digests(items)}
    with self._writing():
      # Without force, Orbax silently skips a step while it is still writing the previous one.
      self._checkpointer.save_checkpointables_async(
        step, items, custom_metadata=metadata, force=True
      )

  def wait(self) -> None:
    """Waits for a save in progress."""
    with self._writing():
      self._checkpointer.wait()

  def restore(self, template: S) -> S | None:
    """Restores the newest checkpoint that is whole, or returns None if there is none at all.

    It may have a moving average or not: one that is not expected is ignored, and a missing one
    starts from the parameters. A missing `health` starts anew.

    Newer checkpoints, which are unusable, are set aside as `STEP.damaged`, so that these steps can
    be saved again.

    Args:
      template: a state with the expected structure, or its shapes and types.

    Raises:
      CheckpointError: there are checkpoints, but all are damaged or of another model.
    """
    replace: Any = dataclasses.replace  # a Protocol cannot ask for a dataclass
    plain = replace(template, averaged=None)

    def wanted(saved: set[str]) -> Items:
      items = _items(template if _AVERAGED in saved else plain)
      return {name: item for name, item in items.items() if name != _HEALTH or name in saved}

    restored = self._restore(wanted)
    if restored is None:
      return None
    items, step = restored
    if not self._read_only:
      self._set_aside([newer for newer in [*self.steps(), *self._odd] if newer > step])
    optimizer, averaged = items["optimizer"], items.get(_AVERAGED)
    if template.averaged is not None and averaged is None:
      log.warning(
        "the average of the parameters starts at step %d, whose checkpoint has none", step
      )
      averaged = jax.tree.map(np.copy, items["params"])
    return replace(
      template,
      step=optimizer["step"],
      params=items["params"],
      opt_state=optimizer["opt_state"],
      averaged=averaged,
      health=_health(template.health, items),
    )

  def restore_params(self, template: Params, step: int | None = None) -> tuple[Params, int] | None:
    """Restores the resulting parameters: the averaged ones if the checkpoint has them.

    They are those of the newest whole checkpoint; None if there is none.

    Args:
      template: parameters, or their shapes and types.
      step: use only the checkpoint of this step.

    Returns:
      The parameters, and their step.

    Raises:
      CheckpointError: there are checkpoints, but none, or not that of `step`, can be used.
    """
    for left in reversed(range(_LISTINGS if self._read_only else 1)):
      try:
        if step is not None and step not in [*self.steps(), *self._odd]:
          raise CheckpointError(
            f"no whole checkpoint of step {step} in {self._directory}; it has {self.steps()}"
          )
        restored = self._restore(
          lambda saved: {_AVERAGED if _AVERAGED in saved else "params": template}, step
        )
        break
      except CheckpointError:
        before = self.steps()
        if not left:
          raise
        odd, anew = self._open()
        self._checkpointer.close()
        self._odd, self._checkpointer = odd, anew
        if self.steps() == before:  # no run has replaced them since they were listed
          raise
    else:
      raise AssertionError("the last attempt returns or raises")
    if restored is None:
      return None
    items, step = restored
    return next(iter(items.values())), step

  def _restore(
    self, wanted: Callable[[set[str]], Items], step: int | None = None
  ) -> tuple[Items, int] | None:
    """Returns items of the newest whole checkpoint, and its step.

    Args:
      wanted: returns templates of the items, given the names of those that the checkpoint has.
      step: use only the checkpoint of this step.
    """
    reasons = []
    for each in sorted({*self.steps(), *self._odd}, reverse=True):
      if step not in (None, each):
        continue
      reason = ""
      for _ in range(_ATTEMPTS if is_remote(self._directory) else 1):
        try:
          return self._load(each, wanted), each
        except MemoryError:
          raise  # does not mean that the checkpoint is damaged
        except Exception as error:  # a damaged file can make the readers raise anything
          self._ask_bucket(each)
          reason = f"step {each}: {_first_line(error)}"
      reasons.append(reason)
      log.warning("checkpoint of %s in %s is unusable", reason, self._directory)
    if reasons:
      raise CheckpointError(
        f"no usable checkpoint in {self._directory}: {'; '.join(reasons)}. If config.model or "
        "config.optimizer changed, use another workdir; to start over, delete the folder."
      )
    return None

  def _load(self, step: int, wanted: Callable[[set[str]], Items]) -> Items:
    """Reads and verifies items of a checkpoint; raises anything if it is damaged."""
    if step in self._odd:
      raise ValueError(self._odd[step])
    # The `custom_metadata` of `checkpoints` are always None; only this call reads them.
    metadata: Any = self._checkpointer.checkpointables_metadata(step)
    digests = (metadata.custom_metadata or {}).get("sha256", {})
    _check_step(step, digests)
    template = wanted({name.split("'")[1] for name in digests})
    _check_parts(template, digests)
    abstract = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), template)
    # One item per call: what Orbax has begun to read of others it leaves behind at an error.
    items = {
      name: self._checkpointer.load_checkpointables(step, {name: item})[name]
      for name, item in abstract.items()
    }
    items = jax.tree.map(np.asarray, items)
    _verify(items, template, digests)
    return items

  def _ask_bucket(self, step: int | None = None) -> None:
    """Raises if the bucket cannot be used now: then an error says nothing of the checkpoints.

    What Orbax raises then may be any error: it takes a refused request for a file that is missing.

    Args:
      step: of which to ask for a byte of every file, too.

    Raises:
      ConnectionError: the bucket does not answer.
      PermissionError: it refuses access.
    """
    directory: Any = self._directory
    if is_remote(directory):
      folder = directory if step is None else directory / str(step)
      names = folder.find()
      for name in names if step is not None else ():
        with suppress(FileNotFoundError):
          (folder / name).read_part(0, 1)

  def _set_aside(self, steps: list[int]) -> None:
    """Renames unusable checkpoints to `STEP.damaged`."""
    if not steps:
      return
    if jax.process_index() == 0:
      for step in steps:
        folder = self._directory / str(step)
        aside, number = folder.with_name(f"{step}.damaged"), 1
        while aside.exists():
          number += 1
          aside = folder.with_name(f"{step}.damaged{number}")
        set_aside(folder, aside, COMMITTED)
        log.warning("the unusable checkpoint of step %d is now %s", step, aside)
    for step in steps:
      self._odd.pop(step, None)
    if jax.process_count() > 1:
      multihost_utils.sync_global_devices("unusable checkpoints are set aside")
    self._checkpointer.reload()

  @contextmanager
  def _writing(self) -> Iterator[None]:
    try:
      yield
    except Exception as error:  # a full disk is an OSError, ValueError or RuntimeError
      later = "; the checkpoints in it are unchanged, so rerun the same command later"
      later = _role(error) or later
      raise CheckpointError(
        f"cannot write a checkpoint to {self._directory}: {_first_line(error)}"
        f"{later if is_remote(self._directory) else ''}"
      ) from error

  def close(self) -> None:
    """Waits for a save in progress and releases the checkpointer."""
    with self._writing():
      self._checkpointer.close()

  def __enter__(self) -> "Checkpoints":
    return self

  def __exit__(self, *_: object) -> None:
    self.close()


def _items(state: State) -> Items:
  items = {
    "params": state.params,
    "optimizer": {"step": state.step, "opt_state": state.opt_state},
  }
  if state.averaged is not None:
    items[_AVERAGED] = state.averaged
  if state.health is not None:
    names = [field.name for field in dataclasses.fields(state.health)]
    items[_HEALTH] = {name: getattr(state.health, name) for name in names}
  return items


def _health(template: Any, items: Items) -> Any:
  """Returns the saved health, or zeros if none was saved."""
  if template is None:
    return None
  new = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), template)
  return dataclasses.replace(new, **items.get(_HEALTH, {}))


def _digests(items: Items) -> dict[str, str]:
  leaves, _ = jax.tree.flatten_with_path(items)
  return {
    jax.tree_util.keystr(path): hashlib.sha256(np.asarray(leaf).tobytes()).hexdigest()
    for path, leaf in leaves
  }


def _check_step(step: int, digests: dict[str, str]) -> None:
  """Checks that the state in a folder named after `step` is that of this step."""
  saved = digests.get("['optimizer']['step']")
  of_step = [hashlib.sha256(kind(step).tobytes()).hexdigest() for kind in (np.int32, np.int64)]
  if saved is not None and saved not in of_step:
    raise ValueError("it is the checkpoint of another step")


# Of a checkpoint's own metadata, what Orbax takes of each; everything may be missing.
_METADATA = "_CHECKPOINT_METADATA"
_METADATA_TYPES = {
  "item_handlers": dict | str,
  "metrics": dict,
  "performance_metrics": dict,
  "init_timestamp_nsecs": int,
  "commit_timestamp_nsecs": int,
  "custom_metadata": dict,
}


def _odd_steps(directory: Path) -> dict[int, str]:
  """Returns the steps whose checkpoint has metadata that Orbax cannot take, each with the fault."""
  paths = directory.iterdir() if directory.is_dir() else ()
  steps = [path for path in paths if is_step_name(path.name) and path.is_dir()]
  faults = {path: _metadata_fault(path / _METADATA) for path in steps}
  return {int(path.name): fault for path, fault in faults.items() if fault}


def _step_names(directory: Path) -> set[str]:
  paths = directory.iterdir() if directory.is_dir() else ()
  return {path.name for path in paths}


def _metadata_fault(path: Path) -> str | None:
  """Says what is wrong with the metadata of a checkpoint; None if nothing is, or there are none."""
  try:
    metadata = read_json(path)
  except FileNotFoundError:
    return None  # which makes the checkpoint unusable, but not the others
  except (OSError, ValueError) as error:
    if isinstance(error, ConnectionError):
      raise  # says nothing of the checkpoint
    reason = error.strerror or error if isinstance(error, OSError) else error
    return f"{_METADATA}: {str(reason).removeprefix(f'{path}: ')}"
  if not isinstance(metadata, dict):
    return f"{_METADATA}: expected a JSON object, got {type(metadata).__name__}"
  for name, kind in _METADATA_TYPES.items():
    value = metadata.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, kind)):
      return f"{_METADATA}: {name} has the wrong type, {type(value).__name__}"
  return None


class _Without:
  """How Orbax finds checkpoints: as usual, but not those of some steps.

  Args:
    steps: the steps, which may change.
  """

  def __init__(self, steps: Container[int]):
    self._steps, self._usual = steps, step_names.standard_name_format()

  def build_name(self, step: int) -> str:
    """Returns the name of the folder of a step."""
    return self._usual.build_name(step)

  def find_all(self, base_path: Any) -> Iterator[Any]:
    """Yields what Orbax wants to know of each step in `base_path`."""
    return (found for found in self._usual.find_all(base_path) if found.step not in self._steps)

  def find_step(self, base_path: Any, step: int) -> Any:
    """Returns what Orbax wants to know of one step in `base_path`."""
    return self._usual.find_step(base_path, step)


def _check_parts(template: Items, digests: dict[str, str]) -> None:
  """Checks that a checkpoint has exactly the arrays of `template`, in the items of `template`.

  Orbax's own error would print both trees in full.
  """
  expected = set(_paths(template))
  found = {name for name in digests if name.split("'")[1] in template}
  for names, word in ((expected - found, "lacks"), (found - expected, "has")):
    if names and found:
      more = f" and {len(names) - 1} more" if len(names) > 1 else ""
      raise ValueError(f"it {word} {min(names)}{more}, unlike the model and optimizer of this run")


def _paths(tree: Any) -> list[str]:
  return [jax.tree_util.keystr(path) for path, _ in jax.tree.flatten_with_path(tree)[0]]


def _not_finite(items: Items) -> str | None:
  """Returns the path of the first array with values that are not finite, if any."""
  for path, leaf in jax.tree.flatten_with_path(items)[0]:
    leaf = np.asarray(leaf)
    if jnp.issubdtype(leaf.dtype, jnp.floating) and not np.isfinite(leaf).all():
      return jax.tree_util.keystr(path)
  return None


def _verify(items: Items, template: Items, digests: dict[str, str]) -> None:
  leaves, _ = jax.tree.flatten_with_path(template)
  found = dict(jax.tree.flatten_with_path(items)[0])
  for path, leaf in leaves:
    got = found[path]
    if got.shape != leaf.shape or got.dtype != leaf.dtype:
      name = jax.tree_util.keystr(path)
      raise ValueError(
        f"{name}: expected {leaf.dtype}{leaf.shape}, the checkpoint has {got.dtype}{got.shape}"
      )
  for name, digest in _digests(items).items():
    if digests.get(name) != digest:
      raise ValueError(f"{name}: its bytes differ from those that were saved")
  if name := _not_finite(items):
    raise ValueError(f"{name} has values that are not finite")


def _see_bucket(uri: str) -> None:
  """Asks for what is set for the bucket of a path of Google's, as Orbax does later.

  It does when it removes a checkpoint. Without the permission, a run would end there, hours after
  its start.

  Raises:
    Exception: the request is refused, of a type of Google's client.
  """
  # Google's client, which comes with gcsfs; it is not installed without that.
  exceptions: Any = importlib.import_module("google.api_core.exceptions")
  storage: Any = importlib.import_module("google.cloud.storage")
  from adaconv_jax.bucket import CONNECT_SECONDS

  name = uri.partition("://")[2].partition("/")[0]
  try:
    storage.Client().get_bucket(name, timeout=CONNECT_SECONDS, retry=None)
  except exceptions.Forbidden:
    raise
  except Exception:  # of many kinds; Orbax asks again, and has its own patience
    log.debug("gs://%s: cannot be asked for", name, exc_info=True)


def _role(error: Exception) -> str:
  """Names the role that is missing where Orbax may not see what is set for a bucket; else ""."""
  if _BUCKET_REFUSED.search(str(error)) is None:
    return ""
  return (
    "; the account may use the objects but not see the bucket (storage.buckets.get), which Orbax "
    "needs: give it the role Storage Legacy Bucket Reader for the bucket, too"
  )


def _first_line(error: Exception) -> str:
  line = f"{type(error).__name__}: {error}".splitlines()[0]
  return line if len(line) <= _LONGEST_REASON else f"{line[:_LONGEST_REASON]} ..."
