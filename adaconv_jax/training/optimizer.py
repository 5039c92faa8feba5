"""The optimizer and its learning rate."""

import fnmatch
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax

from adaconv_jax.models.transfer_model import Params


def make_schedule(
  learning_rate: float, *, warmup_steps: int, decay: str, decay_rate: float, num_steps: int
) -> optax.Schedule:
  """Builds the learning rate schedule.

  Args:
    learning_rate: the peak.
    warmup_steps: number of steps of linear growth from zero.
    decay: "inverse_time", learning_rate / (1 + decay_rate * step), as published; or "cosine" down
      to zero at `num_steps`.
    decay_rate: the published schedule's, 5e-5.
    num_steps: length of the run.

  Raises:
    ValueError: unknown `decay`.
  """
  decayed: optax.Schedule
  if decay == "inverse_time":
    decayed = lambda step: learning_rate / (1 + decay_rate * step)  # noqa: E731
  elif decay == "cosine":
    decayed = optax.cosine_decay_schedule(learning_rate, max(num_steps, 1))
  else:
    raise ValueError(f"config.optimizer.decay: expected 'inverse_time' or 'cosine', got {decay!r}")
  if not warmup_steps:
    return decayed
  return lambda step: decayed(step) * jnp.minimum(1.0, (step + 1) / warmup_steps)


def make_optimizer(
  schedule: optax.Schedule,
  clip_norm: float,
  style_rate: float = 1.0,
  slow_params: Sequence[str] = (),
) -> optax.GradientTransformation:
  """Builds the optimizer: Adam.

  Args:
    schedule: the learning rate.
    clip_norm: global norm to which gradients are clipped; 0 for no clipping.
    style_rate: factor on the learning rate of `slow_params`: AdaConv's style encoder and predictors
      of spatial kernels. Their layers add up thousands of inputs, most of them positive in the
      encoder, so one step of Adam changes their outputs much more than those of other layers.
    slow_params: patterns of their paths; see `TransferModel`.

  Raises:
    ValueError: `style_rate` is not above 0.
  """
  if style_rate <= 0:
    raise ValueError(f"config.optimizer.style_rate: expected a number above 0, got {style_rate}")
  clip = optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity()
  if style_rate == 1:
    return optax.chain(clip, optax.adam(schedule))

  def is_slow(params: Params) -> Params:
    def matches(path, _) -> bool:
      name = jax.tree_util.keystr(path, simple=True, separator="/")
      return any(fnmatch.fnmatchcase(name, pattern) for pattern in slow_params)

    return jax.tree_util.tree_map_with_path(matches, params)

  return optax.chain(clip, optax.adam(schedule), optax.masked(optax.scale(style_rate), is_slow))
