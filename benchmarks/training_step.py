"""Row 6: one training step, with the losses, the optimizer and the sizes of `configs/`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adaconv_jax.configs import adaconv, adain
from adaconv_jax.models.build import make_model
from adaconv_jax.training.devices import replicate, shard
from adaconv_jax.training.from_config import make_steps
from adaconv_jax.training.state import TrainState
from benchmarks import flops
from benchmarks.case import Case, number_difference
from benchmarks.inputs import ARCH, pictures, random_stylizer
from benchmarks.stylizing import label

CONFIGS: dict[str, Any] = {"adain": adain, "adaconv": adaconv}
TARGET = 1.3


def cases(*, quick: bool) -> list[Case]:
  """Row 6."""
  sizes = [(4, 128)] if quick else [(8, 128), (4, 256)]
  return [step_case(transform, *size) for transform in CONFIGS for size in sizes]


def step_case(transform: str, batch_size: int, crop: int) -> Case:
  """One step on `batch_size` pairs of crops; a style of AdaConv has its own fixed size."""
  config = CONFIGS[transform].get_config()
  model = make_model(transform, config.model.settings.to_dict())

  def ours() -> Callable[[], Any]:
    return our_step(transform, config, training_batch(transform, batch_size, crop))

  def peer() -> Callable[[], Any]:
    from benchmarks.peer_training import peer_step

    batch = training_batch(transform, batch_size, crop)
    return peer_step(random_stylizer(transform), config, batch)

  work = flops.training_pair(model, ARCH, crop)
  return Case(
    "6",
    f"{label(transform)}, training step, {batch_size} pairs of {crop} x {crop}",
    batch_size * work / 1e9,
    ours,
    peer,
    TARGET,
    pairs=batch_size,
    difference=number_difference,
    # The second loss depends on the first update; AdaConv's has differed by 0.14 %, the first loss
    # by less than 1e-6. The reason may be Adam, which divides a gradient by its own size: not
    # verified.
    tolerance=1e-2,
    checks=2,
  )


def training_batch(transform: str, batch_size: int, crop: int) -> dict[str, np.ndarray]:
  """Makes a batch like those of the input pipeline, uint8."""
  style_size = 256 if transform == "adaconv" else crop
  sizes = {"content": crop, "style": style_size}
  return {
    role: np.round(pictures(role, batch_size, size) * 255).astype(np.uint8)
    for role, size in sizes.items()
  }


def our_step(transform: str, config: Any, batch: dict[str, np.ndarray]) -> Callable[[], Any]:
  """Builds a function that does one step, keeps the state, and returns the loss before it."""
  stylizer = random_stylizer(transform)
  tx, _, step = make_steps(config, stylizer.model, stylizer.vgg)
  # A copy, because the step donates the buffers of its state.
  params = jax.tree.map(np.array, stylizer.params)
  state = TrainState(jnp.zeros((), jnp.int32), params, tx.init(params))
  carried = [replicate(state)]
  vgg_params = replicate(stylizer.vgg_params)

  def run() -> jax.Array:
    carried[0], metrics = step(carried[0], vgg_params, shard(batch))
    jax.block_until_ready(carried[0])
    return metrics["loss"]

  return run
