"""The training step: gradient, optimizer, and the `pmap` around them. Only this file knows devices.

What is minimized stands in `objective.py`.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import jax_utils, struct

from adaconv_jax.models.build import TransferModel
from adaconv_jax.ops.losses import content_loss, statistics_loss
from adaconv_jax.training.objective import (
  LossWeights,
  Metrics,
  images_to_float,
  make_loss,
  make_style_features,
  make_transfer,
)
from adaconv_jax.vgg.network import VGG

AXIS = "batch"


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
  params: Any
  opt_state: Any
  averaged: Any = None

  @property
  def result(self) -> Any:
    """The parameters that are used: the averaged ones where they are kept."""
    return self.params if self.averaged is None else self.averaged


TrainStep = Callable[[TrainState, Any, Mapping[str, Any]], tuple[TrainState, Metrics]]
EvalStep = Callable[[Any, Any, Mapping[str, Any]], Metrics]


def make_schedule(
  learning_rate: float, *, warmup_steps: int, decay: str, decay_rate: float, num_steps: int
) -> optax.Schedule:
  """Builds the learning rate schedule.

  Args:
    learning_rate: the peak.
    warmup_steps: steps of linear growth from zero.
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
  schedule: optax.Schedule, clip_norm: float, style_rate: float = 1.0
) -> optax.GradientTransformation:
  """Builds the optimizer: Adam.

  Args:
    schedule: the learning rate.
    clip_norm: global norm to which gradients are clipped; 0 for no clipping.
    style_rate: factor of the learning rate of AdaConv's style encoder and predictors of spatial
      kernels. Their layers add up thousands of inputs, in the encoder most of them positive, so
      that one step of Adam moves what they predict much further than the other layers'.

  Raises:
    ValueError: `style_rate` is not above 0.
  """
  if style_rate <= 0:
    raise ValueError(f"config.optimizer.style_rate: expected a number above 0, got {style_rate}")
  clip = optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity()
  if style_rate == 1:
    return optax.chain(clip, optax.adam(schedule))

  def is_slow(params):
    return jax.tree_util.tree_map_with_path(
      lambda path, _: path[0].key == "style_encoder" or path[1].key == "spatial", params
    )

  return optax.chain(clip, optax.adam(schedule), optax.masked(optax.scale(style_rate), is_slow))


def check_ema_decay(decay: float) -> None:
  """Checks the decay of the parameters' moving average.

  Raises:
    ValueError: it is not from 0 (no average) to below 1.
  """
  if not 0 <= decay < 1:
    raise ValueError(
      f"config.ema_decay: expected 0 (no average) or a number below 1 such as 0.999, got {decay}"
    )


def create_state(
  params: Any, tx: optax.GradientTransformation, *, average: bool = False
) -> TrainState:
  """Returns the state of a run that starts from `params`, not yet replicated.

  Args:
    params: the parameters.
    tx: the optimizer.
    average: keep a moving average, which starts from `params`.
  """
  averaged = jax.tree.map(jnp.array, params) if average else None  # copies: states are donated
  return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params), averaged)


def moving_average(averaged: Any, params: Any, step: jax.Array, decay: float) -> Any:
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


def make_train_step(
  model: TransferModel,
  vgg: VGG,
  tx: optax.GradientTransformation,
  schedule: optax.Schedule,
  weights: LossWeights,
  *,
  reconstruct_steps: int = 0,
  reconstruct: bool = False,
  ema_decay: float = 0.0,
  devices: Sequence[Any] | None = None,
) -> TrainStep:
  """Builds the parallel training step `(state, vgg_params, batch) -> (state, metrics)`.

  State and VGG weights are replicated over the local devices and the batch is `shard`ed. The
  state's buffers are donated. Gradients and metrics are averaged over all devices of all
  processes, so that the result is that of the global batch.

  Args:
    model: the trained part.
    vgg: encoder and loss network.
    tx: the optimizer.
    schedule: its learning rate, reported among the metrics.
    weights: of the loss terms.
    reconstruct_steps: length of the reconstruction phase, where the style's ramp starts.
    reconstruct: build the step of the reconstruction phase.
    ema_decay: of the moving average; 0 for a state that keeps none.
    devices: what it runs on; all devices by default.
  """
  gradient = jax.value_and_grad(
    make_loss(model, vgg, weights, reconstruct=reconstruct), has_aux=True
  )

  def step(state, vgg_params, batch):
    since = state.step - reconstruct_steps + 1
    ramp = weights.style_ramp_steps
    style_scale = jnp.clip(since / ramp, 0, 1) if ramp and not reconstruct else jnp.ones(())
    (_, metrics), grads = gradient(state.params, vgg_params, batch, style_scale)
    grads, metrics = jax.lax.pmean((grads, metrics), AXIS)
    metrics["gradient_norm"] = optax.tree.norm(grads)
    metrics["learning_rate"] = schedule(state.step)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    averaged = None
    if ema_decay:
      averaged = moving_average(state.averaged, params, state.step, ema_decay)
    return TrainState(state.step + 1, params, opt_state, averaged), metrics

  return jax.pmap(step, axis_name=AXIS, devices=devices, donate_argnums=0)


def make_eval_step(model: TransferModel, vgg: VGG, style_layers: Mapping[str, float]) -> EvalStep:
  """Builds the parallel step `(params, vgg_params, batch) -> sums` for `evaluate`.

  Parameters are replicated and the batch is `shard`ed, as for the training step. A batch has a
  "weight" for each of its pairs, with which its losses are summed over all devices of all
  processes: 0 for what only fills up the batch.

  Args:
    model: the trained part.
    vgg: encoder and loss network.
    style_layers: weight of every layer in the style loss, by name.
  """
  transfer = make_transfer(model, vgg, style_layers)
  style_features = make_style_features(model, vgg, style_layers)

  def step(params, vgg_params, batch):
    style = style_features(vgg_params, images_to_float(batch["style"]))
    done = transfer(params, vgg_params, images_to_float(batch["content"]), style)
    # Both losses are means over a batch, here over a batch of each pair alone.
    done = jax.tree.map(lambda x: x[:, None], done)
    losses = {
      "content_loss": jax.vmap(content_loss)(done.encoded, done.target),
      "style_loss": jax.vmap(functools.partial(statistics_loss, layer_weights=style_layers))(
        done.stats, done.style_stats
      ),
    }
    weight = batch["weight"]
    sums = {name: jnp.sum(weight * values) for name, values in losses.items()}
    return jax.lax.psum(sums | {"weight": jnp.sum(weight)}, AXIS)

  return jax.pmap(step, axis_name=AXIS)


def evaluate(
  step: EvalStep, params: Any, vgg_params: Any, batches: Iterable[Mapping[str, np.ndarray]]
) -> dict[str, float]:
  """Returns the mean losses over all pairs of `batches`; waits for the devices.

  Args:
    step: from `make_eval_step`.
    params: the parameters, replicated.
    vgg_params: the VGG weights, replicated.
    batches: this process's, as from `data.heldout_batches`.

  Returns:
    "content_loss" and "style_loss".
  """
  sums = [fetch(step(params, vgg_params, shard(batch))) for batch in batches]
  total = {name: sum(float(values[name]) for values in sums) for name in sums[0]}
  weight = total.pop("weight")
  return {name: value / weight for name, value in total.items()}


def process_batch_size(batch_size: int, devices: int | None = None) -> int:
  """Splits the global batch size over processes.

  Args:
    batch_size: pairs of one step, over all devices.
    devices: number of devices; that of this run by default.

  Returns:
    The number of pairs this process loads for one step.

  Raises:
    ValueError: the global batch does not divide over all devices.
  """
  devices = jax.device_count() if devices is None else devices
  if batch_size < 1 or batch_size % devices:
    below, above = batch_size // devices * devices, (batch_size // devices + 1) * devices
    near = f"{below} or {above}" if below > 0 else f"{above}"
    raise ValueError(
      f"config.batch_size: expected a multiple of the {devices} devices, got {batch_size}; "
      f"use {near}"
    )
  return batch_size // jax.process_count()


def shard(batch: Mapping[str, Any]) -> dict[str, Any]:
  """Splits the leading axis of this process's batch, a pytree, over its local devices."""
  devices = jax.local_device_count()
  return jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), dict(batch))


def replicate(tree: Any) -> Any:
  """Copies a pytree to every local device, with a leading device axis."""
  # The training step compiles once more for arrays that are not placed as `pmap` itself does it.
  place = jax.pmap(lambda tree: tree, axis_name=AXIS, donate_argnums=0)
  return place(jax_utils.replicate(tree))


def fetch(tree: Any) -> Any:
  """Reads the first local device's copy of a replicated pytree to NumPy arrays on the host."""
  return jax.tree.map(lambda x: np.asarray(x.addressable_data(0)).reshape(x.shape[1:]), tree)
