"""Small trainings; as a program, one process of a training:

    python tests/small_runs.py FOLDER TRANSFORM BATCH_SIZE [COORDINATOR PROCESSES INDEX]

trains in FOLDER/run on the images of FOLDER and writes the parameters and their average before and
after to FOLDER/before.npz and FOLDER/after.npz. It starts from the workdir FOLDER/start if there is
one. It uses plain gradient descent, because Adam divides a gradient by its own size: near zero,
rounding would decide its step.
"""  # fmt: skip

import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from adaconv_jax.checkpoints.load import load_model
from adaconv_jax.checkpoints.orbax import Checkpoints
from adaconv_jax.configs import adaconv, adain
from adaconv_jax.models.build import init_params, make_model
from adaconv_jax.training import from_config, loop
from adaconv_jax.training.state import TrainState, create_state

NUM_STEPS = 4


def write_images(folder: Path, count: int = 5) -> None:
  """Writes `count` contents and styles of smooth noise, 72 to 80 pixels wide."""
  rng = np.random.default_rng(0)
  for kind in ("content", "style"):
    (folder / kind).mkdir(parents=True)
    for index in range(count):
      noise = Image.fromarray(rng.integers(0, 256, (9, 10, 3), np.uint8))
      noise.resize((72 + 2 * index, 72), Image.Resampling.BICUBIC).save(
        folder / kind / f"{index}.png"
      )


def small_config(folder: Path, transform: str = "adain", batch_size: int = 2) -> Any:
  """The transform's config with small images; half of the steps reconstruct."""
  config: Any = {"adain": adain, "adaconv": adaconv}[transform].get_config()
  config.num_steps, config.reconstruct_steps = NUM_STEPS, NUM_STEPS // 2
  config.batch_size = batch_size
  config.model.vgg = "vgg16"
  if transform == "adaconv":
    config.model.settings.update({"style_dim": 8, "encoder_width": 8, "style_size": 64})
  data = config.data
  data.content, data.style = str(folder / "content"), str(folder / "style")
  data.min_size, data.num_workers = 64, 0
  data.heldout_content = data.heldout_style = 1
  data.content_resize, data.content_crop = 32, 16
  data.style_resize = data.style_crop = 64 if transform == "adaconv" else 16
  config.loss.pixel_weight = 10.0
  config.loss.style_ramp_steps = 2
  config.ema_decay = 0.9
  config.sample_size = 64
  config.log_every_steps = 1
  config.sample_every_steps = config.checkpoint_every_steps = 100
  return config


def reconstruction_config(folder: Path, num_steps: int) -> Any:
  """One that compiles as little as possible: it only reconstructs, and shows nothing."""
  config = small_config(folder)
  config.num_steps = config.reconstruct_steps = num_steps
  config.sample_every_steps = 0
  return config


def trained_state(config, workdir: Path) -> TrainState:
  """The state in the newest checkpoint."""
  tx, *_ = from_config.make_steps(config, *from_config.make_networks(config))
  template = jax.eval_shape(lambda: initial_state(config, tx))
  with Checkpoints(workdir) as checkpoints:
    restored = checkpoints.restore(template)
  assert restored is not None
  return restored


def initial_state(config, tx) -> TrainState:
  """The state that a run of `config` starts from."""
  model = make_model(config.model.transform, config.model.settings.to_dict())
  params = init_params(model, jax.random.key(config.seed))
  return create_state(params, tx, average=config.ema_decay > 0)


def parameters(state: TrainState) -> dict[str, np.ndarray]:
  """The parameters and their average, by path."""
  return by_path({"params": state.params, "averaged": state.averaged})


def by_path(tree) -> dict[str, np.ndarray]:
  """The leaves of a pytree as NumPy arrays, by path."""
  return {jax.tree_util.keystr(k): np.asarray(v) for k, v in jax.tree.flatten_with_path(tree)[0]}


def main(folder: str, transform: str, batch_size: str, *cluster: str) -> None:
  root = Path(folder)
  if cluster:
    jax.distributed.initialize(cluster[0], int(cluster[1]), int(cluster[2]))
  config = small_config(root, transform, int(batch_size))
  # For smaller crops, relu4_1 has so few pixels that AdaIN divides by deviations near zero.
  config.data.content_resize, config.data.content_crop, config.data.style_crop = 64, 48, 64
  config.data.style_resize = 64
  config.optimizer.learning_rate, config.optimizer.clip_norm = 1e-3, 1.0
  config.data.heldout_content, config.eval_every_steps = 2, 2
  from_config.make_optimizer = lambda schedule, clip_norm, *_: optax.chain(
    optax.clip_by_global_norm(clip_norm), optax.sgd(schedule, momentum=0.9)
  )
  before: Any = parameters(initial_state(config, optax.identity()))
  if (root / "start").exists():
    config.init_from = str(root / "start")
    start = load_model(root / "start").params
    before = parameters(create_state(start, optax.identity(), average=True))
  loop.train_and_evaluate(config, root / "run")
  # By all processes: Orbax waits for every one.
  after: Any = parameters(trained_state(config, root / "run"))
  if jax.process_index() == 0:
    np.savez(root / "before.npz", **before)
    np.savez(root / "after.npz", **after)


if __name__ == "__main__":
  main(*sys.argv[1:])
