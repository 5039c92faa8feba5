"""The inputs of both sides: pictures from `examples/`, and models with random weights.

Speed does not depend on the values of the weights, and a comparison should not wait for a training.
They are scaled so that images stay inside [0, 1] and differ, so a wrong layer is noticed.
"""

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from adaconv_jax.images import resize_shorter, to_float
from adaconv_jax.models.build import init_params, make_model
from adaconv_jax.models.stylizer import Stylizer
from adaconv_jax.vgg import weights as vgg_weights
from adaconv_jax.vgg.network import VGG

ROOT = Path(__file__).parents[1]
ARCH = "vgg16"  # its weights come with the package


def random_params(model: Any, seed: int = 0) -> Any:
  """Draws the parameters of `model` in NumPy, with kernels close to the identity."""
  shapes = jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))
  rng = np.random.default_rng(seed)

  def fill(leaf):
    fan_in = np.prod(leaf.shape[:-1])
    return rng.standard_normal(leaf.shape, np.float32) * np.float32(1 / np.sqrt(fan_in))

  params = jax.tree.map(fill, shapes)
  for name in params.keys() - {"decoder", "style_encoder"}:
    params[name] = jax.tree.map(lambda x: x / 10, params[name])
  last = params["decoder"]["conv1_2"]
  last["kernel"], last["bias"] = last["kernel"] / 2, np.full(3, 0.5, np.float32)
  return params


_compute_dtype = "float32"


@contextlib.contextmanager
def compute_dtype(name: str) -> Iterator[None]:
  """Gives `random_stylizer` another dtype of the activations."""
  global _compute_dtype
  before, _compute_dtype = _compute_dtype, name
  try:
    yield
  finally:
    _compute_dtype = before


def random_stylizer(transform: str, **settings: Any) -> Stylizer:
  """Makes a model with random parameters and the packaged VGG-16.

  Args:
    transform: "adain" or "adaconv".
    settings: attributes of the model that differ from the published ones.
  """
  model, params, vgg_params = _random_parts(transform, **settings)
  return Stylizer(params, vgg_params, model, VGG(ARCH, compute_dtype=_compute_dtype))


@functools.cache
def _random_parts(transform: str, **settings: Any) -> tuple[Any, Any, Any]:
  model = make_model(transform, settings)
  return model, jax.device_put(random_params(model)), vgg_weights.load(ARCH)[0]


def forget() -> None:
  """Releases the models made so far."""
  _random_parts.cache_clear()


def pictures(role: str, count: int, size: int) -> np.ndarray:
  """Loads central squares of the example images; if there are too few, shifted ones too.

  Args:
    role: "content" or "style".
    count: how many.
    size: height and width in pixels.

  Returns:
    `[count, size, size, 3]`, RGB float32 in [0, 1], each different.
  """
  paths = sorted((ROOT / "examples" / role).glob("*.jpg"))
  squares = []
  for index in range(count):
    image = resize_shorter(Image.open(paths[index % len(paths)]).convert("RGB"), size)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    square = to_float(image.crop((left, top, left + size, top + size)))
    squares.append(np.roll(square, index // len(paths) * 8, axis=1))
  return np.stack(squares)
