"""Builds the networks, optimizer and training steps that a config describes."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import optax

from adaconv_jax.models.build import make_model
from adaconv_jax.models.transfer_model import TransferModel
from adaconv_jax.training.objective import LossWeights
from adaconv_jax.training.optimizer import make_optimizer, make_schedule
from adaconv_jax.training.state import check_ema_decay
from adaconv_jax.training.step import TrainStep, make_train_step
from adaconv_jax.vgg.network import VGG

Config: TypeAlias = Any  # a ConfigDict as in `configs/`; there is no type for its attributes


def make_networks(config: Config) -> tuple[TransferModel, VGG]:
  """Builds the networks of `config.model`, without weights."""
  model = make_model(config.model.transform, config.model.settings.to_dict())
  return model, VGG(config.model.vgg, config.model.vgg_padding, config.model.compute_dtype)


def make_steps(
  config: Config,
  model: TransferModel,
  vgg: VGG,
  devices: Sequence[Any] | None = None,
) -> tuple[optax.GradientTransformation, TrainStep, TrainStep]:
  """Builds the optimizer and the training steps for reconstruction and for transfer.

  Args:
    config: a ConfigDict as in `configs/`.
    model: the trained part.
    vgg: encoder and loss network.
    devices: the devices that the steps run on; all by default.
  """
  check_ema_decay(config.ema_decay)
  optimizer = config.optimizer
  schedule = make_schedule(
    optimizer.learning_rate,
    warmup_steps=optimizer.warmup_steps,
    decay=optimizer.decay,
    decay_rate=optimizer.decay_rate,
    num_steps=config.num_steps,
  )
  tx = make_optimizer(schedule, optimizer.clip_norm, optimizer.style_rate, model.slow_params)
  weights = LossWeights(
    content=config.loss.content_weight,
    style=config.loss.style_weight,
    layers=config.loss.style_layers.to_dict(),
    pixel=config.loss.pixel_weight,
    style_ramp_steps=config.loss.style_ramp_steps,
    checkerboard=config.loss.checkerboard_weight,
    self_similarity=config.loss.self_similarity_weight,
    palette=config.loss.palette_weight,
    detail=config.loss.get("detail_weight", 0.0),  # which older configs do not have
    structure=config.loss.get("structure_weight", 0.0),  # the same
    evenness=config.loss.get("evenness_weight", 0.0),  # the same
  )
  reconstruct_step, transfer_step = (
    make_train_step(
      model,
      vgg,
      tx,
      schedule,
      weights,
      reconstruct_steps=config.reconstruct_steps,
      reconstruct=reconstruct,
      ema_decay=config.ema_decay,
      skip_loss_above=config.get("skip_loss_above", 0.0),  # which older configs do not have
      devices=devices,
    )
    for reconstruct in (True, False)
  )
  return tx, reconstruct_step, transfer_step
