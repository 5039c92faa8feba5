"""Checkpoints with Orbax: the only file that knows it.

A checkpoint of step s holds `params`, `optimizer` (with the step), `averaged` where a moving
average of the parameters is kept and, as metadata, a digest of every array. Orbax does not notice
flipped bits, so restoring verifies the digests and falls back to the newest older step that is
whole. The position in the data follows from the step.
"""

import dataclasses
import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from adaconv_jax.checkpoints.errors import CheckpointError
from adaconv_jax.models.transfer_model import Params

log = logging.getLogger(__name__)

_AVERAGED = "averaged"

Items = dict[str, Any]  # pytrees of arrays, by the names that they have in the folder


class State(Protocol):
  """What a checkpoint is made of: a dataclass such as `training.state.TrainState`."""

  step: jax.Array
  params: Params
  opt_state: Any
  averaged: Params | None


S = TypeVar("S", bound=State)


class Checkpoints:
  """The checkpoints of one run, under `workdir/checkpoints`.

  Args:
    workdir: the run's folder.
    keep_last: number of newest checkpoints that are kept.
    keep_every: checkpoints at multiples of this many steps are kept for good; 0 for none.
    read_only: leave the folder as it is. What an interrupted save left is not removed then, which
      from outside looks like the save that a training has under way.
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
    self._directory = (Path(workdir) / "checkpoints").absolute()
    self._checkpointer = ocp.training.Checkpointer(
      str(self._directory),
      preservation_policy=preserve,
      cleanup_tmp_directories=not read_only,
    )

  def steps(self) -> list[int]:
    """The steps that have a complete checkpoint, in order."""
    return sorted(checkpoint.step for checkpoint in self._checkpointer.checkpoints)

  def save(self, state: State) -> None:
    """Starts to save an unreplicated state of NumPy arrays; `close` or the next save waits."""
    step = int(state.step)
    if step in self.steps():
      return
    items = _items(state)
    metadata: Any = {"sha256": _digests(items)}
    # Without force, Orbax leaves a step out, silently, while it still writes the one before.
    self._checkpointer.save_checkpointables_async(step, items, custom_metadata=metadata, force=True)

  def restore(self, template: S) -> S | None:
    """Restores the newest checkpoint that is whole, or None when there is none at all.

    Whether it has a moving average is of no importance: one that is not expected is left out, and
    one that is missing starts from the parameters.

    Args:
      template: a state of the expected structure, or its shapes and types.

    Raises:
      CheckpointError: there are checkpoints, but all are damaged or of another model.
    """
    replace: Any = dataclasses.replace  # a Protocol cannot ask for a dataclass
    plain = replace(template, averaged=None)
    restored = self._restore(lambda averaged: _items(template if averaged else plain))
    if restored is None:
      return None
    items, step = restored
    optimizer, averaged = items["optimizer"], items.get(_AVERAGED)
    if template.averaged is not None and averaged is None:
      log.warning("the average of the parameters starts at step %d, which has none", step)
      averaged = jax.tree.map(np.copy, items["params"])
    return replace(
      template,
      step=optimizer["step"],
      params=items["params"],
      opt_state=optimizer["opt_state"],
      averaged=averaged,
    )

  def restore_params(self, template: Params, step: int | None = None) -> tuple[Params, int] | None:
    """Restores the parameters that are used: the averaged ones where the checkpoint has them.

    Of the newest whole checkpoint; None when there is none.

    Args:
      template: parameters, or their shapes and types.
      step: take the checkpoint of this step and no other.

    Returns:
      The parameters, and the step that they are of.

    Raises:
      CheckpointError: there are checkpoints, but none, or not that of `step`, can be used.
    """
    if step is not None and step not in self.steps():
      raise CheckpointError(
        f"no whole checkpoint of step {step} in {self._directory}; it has {self.steps()}"
      )
    restored = self._restore(lambda averaged: {_AVERAGED if averaged else "params": template}, step)
    if restored is None:
      return None
    items, step = restored
    return next(iter(items.values())), step

  def _restore(
    self, wanted: Callable[[bool], Items], step: int | None = None
  ) -> tuple[Items, int] | None:
    """Returns items of the newest whole checkpoint, and its step.

    Args:
      wanted: tells which items, by templates, given whether the checkpoint has a moving average.
      step: take the checkpoint of this step and no other.
    """
    reasons = []
    for checkpoint in sorted(self._checkpointer.checkpoints, key=lambda c: c.step, reverse=True):
      if step not in (None, checkpoint.step):
        continue
      try:
        # `checkpoint.custom_metadata` is always None; only this call reads it.
        metadata: Any = self._checkpointer.checkpointables_metadata(checkpoint.step)
        digests = (metadata.custom_metadata or {}).get("sha256", {})
        template = wanted(any(name.startswith(f"['{_AVERAGED}']") for name in digests))
        abstract = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), template)
        items = self._checkpointer.load_checkpointables(checkpoint.step, abstract)
        items = jax.tree.map(np.asarray, {name: items[name] for name in abstract})
        _verify(items, template, digests)
      except Exception as error:  # whatever a damaged file makes the readers raise
        reasons.append(f"step {checkpoint.step}: {_first_line(error)}")
        log.warning("checkpoint of %s in %s is unusable", reasons[-1], self._directory)
        continue
      return items, checkpoint.step
    if reasons:
      raise CheckpointError(
        f"no usable checkpoint in {self._directory}: {'; '.join(reasons)}. If the model's settings "
        "changed, use another workdir; to start afresh, delete the folder."
      )
    return None

  def close(self) -> None:
    """Waits for the save under way and releases the checkpointer."""
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
  return items if state.averaged is None else items | {_AVERAGED: state.averaged}


def _digests(items: Items) -> dict[str, str]:
  leaves, _ = jax.tree.flatten_with_path(items)
  return {
    jax.tree_util.keystr(path): hashlib.sha256(np.asarray(leaf).tobytes()).hexdigest()
    for path, leaf in leaves
  }


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
      raise ValueError(f"{name}: its bytes are not those that were saved")


def _first_line(error: Exception) -> str:
  return f"{type(error).__name__}: {error}".splitlines()[0]
