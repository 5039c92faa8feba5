"""Trained models in miniature: random parameters under which images keep inside of [0, 1]."""

import jax
import numpy as np

from adaconv_jax import vgg_weights
from adaconv_jax.stylizer import Stylizer, init_params, make_model
from adaconv_jax.vgg import VGG

SETTINGS = {
  "adain": {},
  # 64 is the smallest style size of which the style encoder's three poolings leave something.
  "adaconv": {"style_dim": 8, "kernel_size": 3, "encoder_width": 8, "style_size": 64},
}


def small_stylizer(transform: str, seed: int = 0) -> Stylizer:
  """Made with NumPy, because compiling Flax's initializers takes longer than all the rest."""
  model = make_model(transform, SETTINGS[transform])
  shapes = jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))
  rng = np.random.default_rng(seed)

  def fill(leaf):
    fan_in = np.prod(leaf.shape[:-1])
    return rng.standard_normal(leaf.shape, np.float32) / np.float32(np.sqrt(fan_in))

  params = jax.tree.map(fill, shapes)
  for name in params.keys() - {"decoder", "style_encoder"}:  # kernels near to those that do nothing
    params[name] = jax.tree.map(lambda x: x / 10, params[name])
  last = params["decoder"]["conv1_2"]
  last["kernel"], last["bias"] = last["kernel"] / 10, np.full(3, 0.5, np.float32)
  return Stylizer(params, vgg_weights.load("vgg16")[0], model, VGG("vgg16"))
