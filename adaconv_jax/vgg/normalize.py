"""Rescales VGG so that every filter's mean activation is 1 (Gatys et al. 2016, section 2).

ReLU and max pooling commute with positive factors. So a filter's kernel and bias can be divided by
its mean activation if the next layer's kernel is multiplied by it: the network computes the same
features as before, each divided by a constant. AdaIN's `vgg_normalised` was made that way. It gives
all channels the same weight in the losses, while the original network's activations differ by
orders of magnitude between layers and between channels.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from adaconv_jax import images as image_files
from adaconv_jax.bars import Bar
from adaconv_jax.vgg.network import VGG, conv_shapes

SIZE = 224  # What VGG was trained on; mean activations depend slightly on the scale.
BATCH_SIZE = 8

# A filter whose mean activation is below this fraction of its layer's mean is (nearly) dead on
# photographs. Dividing by its mean would amplify a few rare responses, or divide by zero. Such
# filters get the factor of a filter at the floor, so their mean activation stays below 1.
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
    A dict from the activation's name, such as "relu1_1", to its means `[c]`, float64.

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
  """Divides every activation by its mean, or by the floor where the mean is below it.

  Args:
    params: the parameters of `VGG`.
    means: from `mean_activations`, for every layer in `params`.

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

  See `mean_activations` for the arguments, and `FLOOR` for filters that rarely respond.
  """
  return rescale(params, mean_activations(params, images, arch))


def photograph(path: Path) -> np.ndarray:
  """Reads the middle square of an image file, `[224, 224, 3]`, RGB in [0, 1].

  Raises:
    ImageError: it is not an image, or no regular file.
    OSError: it cannot be read.
  """
  picture = image_files.decode_square(
    image_files.read_file(path), name=str(path), size=SIZE, at_least=2 * SIZE
  )
  return image_files.to_float(picture)


def photographs(
  paths: Sequence[Path], read: Callable[[Path], np.ndarray | None] = photograph
) -> Iterator[np.ndarray]:
  """Reads image files as batches for `normalize`: the middle square of each, at 224 pixels.

  It shows a progress bar.

  Args:
    paths: the files.
    read: reads one; None leaves it out.

  Raises:
    ImageError, OSError: see `photograph`.
  """
  batch = []
  for path in Bar(paths, unit="image"):
    if (picture := read(path)) is None:
      continue
    batch.append(picture)
    if len(batch) == BATCH_SIZE:
      yield np.stack(batch)
      batch = []
  if batch:
    yield np.stack(batch)
