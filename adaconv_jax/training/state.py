"""The state of a training run."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from adaconv_jax.models.transfer_model import Params


@struct.dataclass
class Health:
  """Statistics of the losses so far, by which the next step is judged; all scalars.

  Attributes:
    seen: number of losses in mean and variance, in this phase of the training.
    mean: running mean of the logarithm of the loss.
    variance: its running variance.
    skipped: number of all steps that were skipped.
    in_a_row: number of steps skipped since the last one that was not.
  """

  seen: jax.Array
  mean: jax.Array
  variance: jax.Array
  skipped: jax.Array
  in_a_row: jax.Array


@struct.dataclass
class TrainState:
  """The state that a training run carries from step to step.

  Attributes:
    step: number of steps done, a scalar.
    params: the trained parameters, without VGG's.
    opt_state: the optimizer's state.
    averaged: the moving average of the parameters, or None if none is kept.
    health: what steps are judged by. With None, they are only skipped if they are not finite, and
      not counted.
  """

  step: jax.Array
  params: Params
  opt_state: Any
  averaged: Params = None
  health: Health | None = None

  @property
  def result(self) -> Params:
    """The resulting parameters: the averaged ones if they are kept."""
    return self.params if self.averaged is None else self.averaged


def create_state(
  params: Params, tx: optax.GradientTransformation, *, average: bool = False
) -> TrainState:
  """Returns the state of a run that starts from `params`, not yet replicated.

  Args:
    params: the parameters.
    tx: the optimizer.
    average: keep a moving average, which starts from `params`.
  """
  averaged = jax.tree.map(jnp.array, params) if average else None  # copies: states are donated
  return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params), averaged, new_health())


def new_health() -> Health:
  """Returns the health of a run that has not seen a loss."""
  # Separate arrays, because the step donates the buffers of its state.
  counts = [jnp.zeros((), jnp.int32) for _ in range(3)]
  values = [jnp.zeros((), jnp.float32) for _ in range(2)]
  return Health(counts[0], *values, *counts[1:])


def moving_average(averaged: Params, params: Params, step: jax.Array, decay: float) -> Params:
  """Returns d * averaged + (1 - d) * params, with d = min(decay, (1 + step) / (10 + step)).

  With the growing d, the average is over the last tenth of the steps, until `decay` gives a shorter
  one. So the initial parameters are soon forgotten.

  Args:
    averaged: the average before.
    params: the parameters after `step + 1` steps.
    step: number of steps done before.
    decay: at least 0, below 1.
  """
  decay_now = jnp.minimum(decay, (1 + step) / (10 + step))
  return optax.incremental_update(params, averaged, 1 - decay_now)


def check_ema_decay(decay: float) -> None:
  """Checks the decay of the parameters' moving average.

  Raises:
    ValueError: it is not in [0, 1); 0 is for no average.
  """
  if not 0 <= decay < 1:
    raise ValueError(
      f"config.ema_decay: expected 0 (no average) or a number below 1 such as 0.999, got {decay}"
    )
