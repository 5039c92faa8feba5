"""Rescales VGG so that every filter's mean activation is 1 (Gatys et al. 2016, section 2).

ReLU and max pooling commute with positive factors. So a filter's kernel and bias may be divided by
its mean activation when the next layer's kernel is multiplied by it: the network computes the same
features as before, each over its own constant. AdaIN's `vgg_normalised` was made that way. The
point: all channels then have the same weight in the losses, where the plain network's activations
differ by orders of magnitude between layers and between channels.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from adaconv_jax import images as image_files
from adaconv_jax.vgg.network import VGG, conv_shapes

SIZE = 224  # What VGG was trained on; mean activations depend on the scale a little.
BATCH_SIZE = 8

# A filter whose mean activation is below this part of its layer's mean is (nearly) dead on
# photographs. Dividing by its mean would blow up a few rare responses, or divide by zero; such
# filters get the factor of a filter at the floor, and keep a mean activation below 1.
FLOOR = 1e-2


def mean_activations(
  params: Mapping, images: Iterable[np.ndarray], arch: str
) -> dict[str, np.ndarray]:
  """Averages each filter's activation over pictures and positions, with reflect padding.

  Args:
    params: the parameters of `VGG`, up to any layer.
    images: batches `[n, h, w, 3]`, RGB in [0, 1]. Every picture has the same weight.
    arch: "vgg16" or "vgg19".

  Returns:
    A dict from the activation's name, "relu1_1", ..., to float64 `[c]`.

  Raises:
    ValueError: there are no images.
  """
  last = max((name for name in params if name != "zero"), key=lambda name: name)
  layers = [
    name.replace("conv", "relu") for name in conv_shapes(arch, last.replace("conv", "relu"))
  ]

  @jax.jit
  def sums(params, images):
    features: Any = VGG(arch).apply({"params": params}, images, layers)
    return {name: f.mean((1, 2)).sum(0) for name, f in features.items()}

  totals: dict[str, np.ndarray] = dict.fromkeys(layers, np.zeros(()))
  count = 0
  for batch in images:
    count += len(batch)
    for name, value in sums(params, batch).items():
      totals[name] = totals[name] + np.asarray(value, np.float64)
  if not count:
    raise ValueError("images: expected at least one batch, got none")
  return {name: total / count for name, total in totals.items()}


def rescale(params: Mapping, means: Mapping[str, np.ndarray]) -> dict:
  """Divides every activation by the given means, which are raised to the floor where they are tiny.

  Args:
    params: the parameters of `VGG`.
    means: as `mean_activations` returns them, for every layer in `params`.

  Returns:
    Parameters of the same structure, NumPy float32.
  """
  scaled: dict = {"zero": np.asarray(params["zero"], np.float32)}
  previous = np.ones(3)
  for layer, mean in means.items():
    name = layer.replace("relu", "conv")
    factor = np.maximum(mean, FLOOR * mean.mean())
    kernel = np.asarray(params[name]["kernel"], np.float64)
    bias = np.asarray(params[name]["bias"], np.float64)
    scaled[name] = {
      "kernel": (kernel * previous[:, None] / factor).astype(np.float32),
      "bias": (bias / factor).astype(np.float32),
    }
    previous = factor
  return scaled


def normalize(params: Mapping, images: Iterable[np.ndarray], arch: str) -> dict:
  """Rescales `params` so that every filter's mean activation over `images` is 1.

  See `mean_activations` for the arguments, and `FLOOR` for filters that hardly ever respond.
  """
  return rescale(params, mean_activations(params, images, arch))


def photographs(paths: Sequence[Path]) -> Iterator[np.ndarray]:
  """Reads image files as batches for `normalize`: the middle square of each, at 224 pixels.

  A progress bar counts the files.

  Raises:
    ImageError: one of them is not an image.
  """
  batch = []
  for path in tqdm(paths, unit="image"):
    picture = image_files.decode_square(
      path.read_bytes(), name=str(path), size=SIZE, at_least=2 * SIZE
    )
    batch.append(image_files.to_float(picture))
    if len(batch) == BATCH_SIZE:
      yield np.stack(batch)
      batch = []
  if batch:
    yield np.stack(batch)
