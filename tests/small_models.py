"""Small trained models: random parameters with which images stay inside [0, 1]."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adaconv_jax.checkpoints.orbax import Checkpoints
from adaconv_jax.models.build import init_params, make_model, model_settings
from adaconv_jax.models.stylizer import Stylizer
from adaconv_jax.training.state import TrainState
from adaconv_jax.vgg import weights as vgg_weights
from adaconv_jax.vgg.network import VGG

SETTINGS = {
  "adain": {},
  # 64 is the smallest style size that survives the style encoder's three poolings.
  "adaconv": {"style_dim": 8, "kernel_size": 3, "encoder_width": 8, "style_size": 64},
}
SETTINGS["adaconv_plus"] = SETTINGS["adaconv"]


def small_stylizer(transform: str, seed: int = 0) -> Stylizer:
  """Drawn with NumPy, because compiling Flax's initializers takes longer than all the rest."""
  model = make_model(transform, SETTINGS[transform])
  shapes = jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))
  rng = np.random.default_rng(seed)

  def fill(leaf):
    fan_in = np.prod(leaf.shape[:-1])
    return rng.standard_normal(leaf.shape, np.float32) / np.float32(np.sqrt(fan_in))

  params = jax.tree.map(fill, shapes)
  for name in params.keys() - {"decoder", "style_encoder"}:  # kernels close to the identity
    params[name] = jax.tree.map(lambda x: x / 10, params[name])
  last = params["decoder"]["conv1_2"]
  last["kernel"], last["bias"] = last["kernel"] / 10, np.full(3, 0.5, np.float32)
  return Stylizer(params, vgg_weights.load("vgg16")[0], model, VGG("vgg16"))


def cropping_stylizer() -> Stylizer:
  """An AdaConv that takes the middle square of styles, as imported ones do."""
  stylizer = small_stylizer("adaconv")
  model: Any = stylizer.model
  return dataclasses.replace(stylizer, model=model.clone(style_fit="crop"))


# Heights and widths of styles: tall, wide, enlarged, with an odd number of pixels to cut, square.
CROPPED = ((70, 45), (45, 71), (30, 100), (301, 400), (64, 64))


def picture(seed: int, *shape: int) -> Any:
  """Noise in [0, 1], `[*shape, 3]`."""
  return np.random.default_rng(seed).random((*shape, 3), np.float32)


def make_workdir(workdir: Path, stylizers, vgg_path: str = "") -> Path:
  """What train.py leaves; one checkpoint per stylizer, at steps 100, 200, ..."""
  model, vgg = stylizers[0].model, stylizers[0].vgg
  described = model_settings(model)
  config = described | {"vgg": vgg.arch, "vgg_padding": vgg.padding, "vgg_weights": vgg_path}
  workdir.mkdir(parents=True)
  (workdir / "config.json").write_text(json.dumps({"seed": 0, "model": config}))
  info = vgg_weights.load(vgg.arch, vgg_path or None)[1]
  (workdir / "vgg.json").write_text(json.dumps(info))
  with Checkpoints(workdir, keep_last=len(stylizers)) as checkpoints:
    for index, stylizer in enumerate(stylizers, 1):
      step, opt_state = jnp.asarray(100 * index), {"m": np.zeros(2)}
      checkpoints.save(TrainState(step, stylizer.params, opt_state))
  return workdir
