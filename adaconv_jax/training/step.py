"""The training step: gradient, optimizer, and the `pmap` around them.

`objective.py` defines the loss.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from adaconv_jax.models.transfer_model import Params, TransferModel
from adaconv_jax.ops.losses import content_loss, statistics_loss
from adaconv_jax.training import health as judging
from adaconv_jax.training.devices import AXIS, FAILED, Batch, fetch, shard
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
  skip_loss_above: float = 0.0,
  devices: Sequence[Any] | None = None,
) -> TrainStep:
  """Builds the parallel training step `(state, vgg_params, batch) -> (state, metrics)`.

  State and VGG weights are replicated over the local devices and the batch is `shard`ed. The
  state's buffers are donated. Gradients and metrics are averaged over all devices of all
  processes, so the result is that of the global batch.

  A step is skipped if its loss, gradient norm or learning rate is not finite, which would make the
  new state so, or if its loss is a spike: then only `step` and `health` change. The metrics report
  it: "skipped" and "spike" (0 or 1), and, if the state has a `health`, "skipped_steps" and
  "skipped_in_a_row". A batch may have a "stop" `[batch]`; "stop" of the metrics is then the largest
  over all devices. If that is `devices.FAILED`, the whole state stays the same, with `step` and
  `health`.

  Args:
    model: the trained part.
    vgg: encoder and loss network.
    tx: the optimizer.
    schedule: its learning rate, reported with the metrics.
    weights: of the loss terms.
    reconstruct_steps: length of the reconstruction phase, after which the style's ramp starts.
    reconstruct: build the step of the reconstruction phase.
    ema_decay: decay of the moving average; 0 for a state without one.
    skip_loss_above: how far above the mean a loss is a spike, see `health.is_spike`; 0 skips none.
    devices: the devices that it runs on; all by default.
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
    failed = jnp.zeros((), bool)
    if "stop" in batch:
      metrics["stop"] = jax.lax.pmax(jnp.max(batch["stop"]), AXIS)
      failed = metrics["stop"] >= FAILED
    metrics["gradient_norm"] = optax.tree.norm(grads)
    metrics["learning_rate"] = schedule(state.step)
    loss, health = metrics["loss"], state.health
    spike = jnp.zeros((), bool)
    if health is not None:
      begins = jnp.zeros((), bool) if reconstruct else state.step == reconstruct_steps
      health = judging.start_phase(health, begins)
      spike = judging.is_spike(health, loss, skip_loss_above)
    # The values are averaged over all devices, so that all decide alike.
    good = judging.can_update(loss, metrics["gradient_norm"], metrics["learning_rate"])
    good &= ~spike & ~failed
    metrics["skipped"], metrics["spike"] = ~good, spike
    if health is not None:
      health = judging.after(health, loss, ~good, skip_loss_above)
      health = judging.select(failed, state.health, health)
      metrics["skipped_steps"] = health.skipped
      metrics["skipped_in_a_row"] = health.in_a_row
    done = jnp.where(failed, state.step, state.step + 1)

    def update(learned):
      params, opt_state, averaged = learned
      updates, opt_state = tx.update(grads, opt_state, params)
      params = optax.apply_updates(params, updates)
      if ema_decay:
        averaged = moving_average(averaged, params, state.step, ema_decay)
      return params, opt_state, averaged

    # A branch, because a choice between the old and the new state writes and reads both: on a CPU
    # that takes 0.1 s of the published AdaConv's 1.9 s. The optimizer's count is in it, too: Adam
    # does not see a skipped step.
    learned = (state.params, state.opt_state, state.averaged if ema_decay else None)
    params, opt_state, averaged = jax.lax.cond(good, update, lambda same: same, learned)
    return TrainState(done, params, opt_state, averaged, health), metrics

  return jax.pmap(step, axis_name=AXIS, devices=devices, donate_argnums=0)


def make_eval_step(model: TransferModel, vgg: VGG, style_layers: Mapping[str, float]) -> EvalStep:
  """Builds the parallel step `(params, vgg_params, batch) -> sums` for `evaluate`.

  Parameters are replicated and the batch is `shard`ed, as for the training step. Each pair of a
  batch has a "weight", with which its losses are summed over all devices of all processes: 0 for
  pairs that only fill up the batch.

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
    # Both losses are means over a batch, here over batches of a single pair.
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
    batches: of this process, from `heldout_batches`.

  Returns:
    "content_loss" and "style_loss".
  """
  sums = [fetch(step(params, vgg_params, shard(batch))) for batch in batches]
  total = {name: sum(float(values[name]) for values in sums) for name in sums[0]}
  weight = total.pop("weight")
  return {name: value / weight for name, value in total.items()}
