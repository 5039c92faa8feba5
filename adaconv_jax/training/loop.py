"""The training: data, model, state, and the loop."""

import contextlib
import functools
import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from adaconv_jax.checkpoints.load import load_start
from adaconv_jax.checkpoints.orbax import Checkpoints
from adaconv_jax.checkpoints.record import write_record, write_start
from adaconv_jax.data.batches import CropSpec, make_batches
from adaconv_jax.data.heldout import heldout_batches, load_images
from adaconv_jax.data.prepare import prepare_images
from adaconv_jax.models.build import init_params
from adaconv_jax.models.stylizer import Stylizer
from adaconv_jax.training.devices import fetch, process_batch_size, replicate, shard
from adaconv_jax.training.from_config import Config, make_networks, make_steps
from adaconv_jax.training.hosts import StopRequest
from adaconv_jax.training.objective import make_style_features
from adaconv_jax.training.progress import Progress
from adaconv_jax.training.state import create_state
from adaconv_jax.training.step import evaluate, make_eval_step
from adaconv_jax.training.style_cache import StyleCache
from adaconv_jax.vgg import weights as vgg_weights

log = logging.getLogger(__name__)


def train_and_evaluate(config: Config, workdir: Path) -> int:
  """Runs the training that `config` describes, from the newest checkpoint in `workdir` if any.

  Args:
    config: a ConfigDict as in `configs/`.
    workdir: where everything is written.

  Returns:
    The number of steps done, less than `config.num_steps` when SIGTERM or Ctrl-C stopped the run;
    it is saved in any case.

  Raises:
    ValueError: a setting is impossible, the workdir holds another model's run, or `init_from` is
      another model or of other VGG weights.
    FloatingPointError: the loss is not finite.
  """
  stop = StopRequest()

  # Model.
  per_process = process_batch_size(config.batch_size)
  model, vgg = make_networks(config)
  shown_vgg = vgg.clone(compute_dtype="float32")  # as a model is loaded
  vgg_params, vgg_info = vgg_weights.load(config.model.vgg, config.model.vgg_weights or None)
  write_record(workdir, config.to_dict(), vgg_info)

  # Data.
  data = config.data
  content, style = (
    prepare_images(
      workdir,
      role,
      data[role],
      min_size=data.min_size,
      heldout=data[f"heldout_{role}"],
      names=data[f"heldout_{role}_names"],
      seed=config.seed,
    )
    for role in ("content", "style")
  )
  cutting: Any = {
    "content_crop": CropSpec(data.content_resize, data.content_crop, flip=True),
    "style_crop": CropSpec(data.style_resize, data.style_crop),
    "batch_size": per_process,
    "process_index": jax.process_index(),
    "process_count": jax.process_count(),
  }
  heldout = heldout_batches(content[1], style[1], **cutting) if config.eval_every_steps else []
  samples = [
    load_images(kept_out or trained, config.sample_size, config.sample_images)
    for trained, kept_out in (content, style)
  ]

  # State.
  tx, reconstruct_step, transfer_step = make_steps(config, model, vgg)
  eval_step = make_eval_step(model, shown_vgg, config.loss.style_layers.to_dict())
  initial = functools.partial(init_params, model, jax.random.key(config.seed))

  with contextlib.ExitStack() as stack:
    checkpoints = stack.enter_context(
      Checkpoints(workdir, keep_last=config.keep_last, keep_every=config.keep_every_steps)
    )
    start_state = functools.partial(create_state, tx=tx, average=config.ema_decay > 0)
    state = checkpoints.restore(jax.eval_shape(lambda: start_state(initial())))
    if state is None:
      if config.init_from:
        params, start = load_start(config.init_from, model, vgg, vgg_params, vgg_info)
      else:
        params, start = initial(), {"seed": config.seed}
      state = start_state(params)
      write_start(workdir, start)
      log.info("starting from %s", ", ".join(f"{k} {v}" for k, v in start.items() if k != "info"))
    start_step = int(state.step)
    log.info("training on %d devices from step %d", jax.device_count(), start_step)
    state, replicated_vgg = replicate(state), replicate(vgg_params)
    batches = make_batches(
      content[0],
      style[0],
      **cutting,
      seed=config.seed,
      start_step=start_step,
      num_workers=data.num_workers,
      kept_style_crops=data.kept_style_crops,
    )
    stack.enter_context(contextlib.closing(batches))
    kept_styles = StyleCache(
      make_style_features(model, vgg, config.loss.style_layers.to_dict()), vgg_params
    )
    progress = Progress(
      workdir,
      start_step=start_step,
      num_steps=config.num_steps,
      batch_size=config.batch_size,
      log_every_steps=config.log_every_steps,
    )
    stack.enter_context(contextlib.closing(progress))

    # Loop.
    step = start_step
    while step < config.num_steps:
      batch = next(batches)
      if step < config.reconstruct_steps:
        train_step, batch = reconstruct_step, {"content": batch["content"]}
      else:
        train_step, batch = transfer_step, kept_styles(batch) if data.kept_style_crops else batch
      state, metrics = train_step(state, replicated_vgg, shard(batch))
      step += 1
      progress.step(step, metrics)
      stopping = stop.reached(step)
      last = step == config.num_steps
      if step % config.checkpoint_every_steps == 0 or last or stopping:
        progress.flush()  # a loss that is not finite must not reach a checkpoint
        checkpoints.save(fetch(state))
      if heldout and (step % config.eval_every_steps == 0 or last) and not stopping:
        progress.heldout(step, evaluate(eval_step, state.result, replicated_vgg, heldout))
      if (step % config.sample_every_steps == 0 or last) and not stopping:
        params = jax.tree.map(jnp.asarray, fetch(state.result))
        progress.grid(step, Stylizer(params, vgg_params, model, shown_vgg), *samples)
      if stopping:
        log.warning("stopped by a signal: saved step %d; the same command goes on from it", step)
        break
  return step
