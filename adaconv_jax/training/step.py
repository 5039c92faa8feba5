"""The training step: gradient, optimizer, and the `pmap` around them.

`objective.py` has what is minimized.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from adaconv_jax.models.transfer_model import Params, TransferModel
from adaconv_jax.ops.losses import content_loss, statistics_loss
from adaconv_jax.training.devices import AXIS, Batch, fetch, shard
from adaconv_jax.training.objective import (
  LossWeights,
  Metrics,
  images_to_float,
  make_loss,
  make_style_features,
  make_transfer,
)
from adaconv_jax.training.state import TrainState, moving_average
from adaconv_jax.vgg.network import VGG, VGGParams

TrainStep = Callable[[TrainState, VGGParams, Batch], tuple[TrainState, Metrics]]
EvalStep = Callable[[Params, VGGParams, Batch], Metrics]


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
  step: EvalStep, params: Params, vgg_params: VGGParams, batches: Iterable[Batch]
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
