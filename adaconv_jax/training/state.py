"""What a training run carries from step to step."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from adaconv_jax.models.transfer_model import Params


@struct.dataclass
class TrainState:
  """What a training run carries from step to step.

  Attributes:
    step: number of steps done, a scalar.
    params: the trained parameters; VGG's are not among them.
    opt_state: the optimizer's state.
    averaged: the moving average of the parameters, or None where none is kept.
  """

  step: jax.Array
  params: Params
  opt_state: Any
  averaged: Params = None

  @property
  def result(self) -> Params:
    """The parameters that are used: the averaged ones where they are kept."""
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
  return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params), averaged)


def moving_average(averaged: Params, params: Params, step: jax.Array, decay: float) -> Params:
  """Returns d * averaged + (1 - d) * params, with d = min(decay, (1 + step) / (10 + step)).

  The growing d keeps an average over the last tenth of the steps until that is longer than what
  `decay` says. So the parameters that it has started from are soon forgotten.

  Args:
    averaged: the average before.
    params: the parameters after `step + 1` steps.
    step: steps done before.
    decay: at least 0, below 1.
  """
  decay_now = jnp.minimum(decay, (1 + step) / (10 + step))
  return optax.incremental_update(params, averaged, 1 - decay_now)


def check_ema_decay(decay: float) -> None:
  """Checks the decay of the parameters' moving average.

  Raises:
    ValueError: it is not from 0 (no average) to below 1.
  """
  if not 0 <= decay < 1:
    raise ValueError(
      f"config.ema_decay: expected 0 (no average) or a number below 1 such as 0.999, got {decay}"
    )
