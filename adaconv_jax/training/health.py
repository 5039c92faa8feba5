"""Decides which training steps are skipped: those that are not finite, and spikes of the loss.

A step is judged on the device, from values that are the same on all devices, before its result
replaces the state. So a bad batch, or a gradient that overflows, costs one step and not the run.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from adaconv_jax.training.state import Health

# Number of losses before one can be a spike.
FIRST_STEPS = 20
# Weight of the newest loss in the running mean and variance.
_RATE = 0.01
# Of the logarithm of the loss. With a smaller one, a batch of hard pictures would be a spike. Ten
# such deviations are a factor of 12.
_LEAST_DEVIATION = 0.25
_LEAST_LOSS = 1e-12
# Far below the largest float32, 3e38, and far above every rate that trains.
_LEARNING_RATE = 1e30


def can_update(loss: jax.Array, gradient_norm: jax.Array, learning_rate: jax.Array) -> jax.Array:
  """Returns whether Adam's new state will be finite, given that the old one is, a boolean scalar.

  With a finite norm, all gradients and their squares are finite, and so are Adam's moments. Its
  update of a parameter is at most 1 / sqrt(1 - b2), 32 for the usual b2, times the learning rate.

  Args:
    loss: a scalar.
    gradient_norm: the global norm of the gradients, a scalar.
    learning_rate: a scalar.
  """
  return jnp.isfinite(loss) & jnp.isfinite(gradient_norm) & (learning_rate < _LEARNING_RATE)


def select(keep: jax.Array, new: Any, old: Any) -> Any:
  """Returns the pytree `new` where the boolean scalar `keep` is true, else `old`."""
  return jax.tree.map(lambda a, b: jnp.where(keep, a, b), new, old)


def start_phase(health: Health, begins: jax.Array) -> Health:
  """Forgets the losses if a phase of the training `begins`, because it has a different loss."""
  zero = lambda x: jnp.where(begins, jnp.zeros_like(x), x)  # noqa: E731
  return dataclasses.replace(
    health, seen=zero(health.seen), mean=zero(health.mean), variance=zero(health.variance)
  )


def is_spike(health: Health, loss: jax.Array, above: float) -> jax.Array:
  """Returns whether a loss is far above the earlier ones, a boolean scalar.

  Its logarithm is judged, because losses of single batches differ by factors.

  Args:
    health: from the step before.
    loss: a scalar.
    above: number of deviations above the mean that make a spike; with 0, nothing is one.
  """
  if not above:
    return jnp.zeros((), bool)
  return (health.seen >= FIRST_STEPS) & (_log(loss) > _limit(health, above))


def after(health: Health, loss: jax.Array, skipped: jax.Array, above: float) -> Health:
  """Returns the health after a step.

  A spike enters the statistics as if it were at the limit. So a loss that stays on a new level,
  such as after a change of settings, widens the spread and is accepted after a few steps.

  Args:
    health: before the step.
    loss: the loss of the step.
    skipped: whether the step was skipped.
    above: as for `is_spike`.
  """
  value = _log(loss)
  if above:
    limit = _limit(health, above)
    value = jnp.where(health.seen >= FIRST_STEPS, jnp.minimum(value, limit), value)
  known = jnp.isfinite(loss)
  rate = jnp.where(known, jnp.maximum(_RATE, 1 / (health.seen + 1)), 0.0)
  delta = jnp.where(known, value - health.mean, 0.0)
  return Health(
    seen=health.seen + known,
    mean=health.mean + rate * delta,
    variance=(1 - rate) * (health.variance + rate * delta**2),
    skipped=health.skipped + skipped,
    in_a_row=jnp.where(skipped, health.in_a_row + 1, 0),
  )


def _log(loss: jax.Array) -> jax.Array:
  return jnp.log(jnp.maximum(loss, _LEAST_LOSS))


def _limit(health: Health, above: float) -> jax.Array:
  return health.mean + above * jnp.maximum(jnp.sqrt(health.variance), _LEAST_DEVIATION)
