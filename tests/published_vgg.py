"""Random networks with the names of published VGG weights, written without torch."""

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from adaconv_jax.vgg import convert as vgg_import
from adaconv_jax.vgg.file import write_file
from adaconv_jax.vgg.network import conv_shapes

# Positions of the convolutions in torchvision's vgg16 and vgg19 and in vgg_normalised (vgg19).
POSITIONS = {
  "vgg16": (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
  "vgg19": (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34),
  "normalised": (2, 5, 9, 12, 16, 19, 22, 25, 29, 32, 35, 38, 42, 45, 48, 51),
}
# The real one only turns RGB into BGR; this one mixes colors, so a transposed matrix is noticed.
MIX = np.array(((10, -20, 250), (30, 240, -10), (260, 15, 25)), np.float32)
SHIFT = np.array((-103.939, -116.779, -123.68), np.float32)
NORMALISED = {"0.weight": MIX[:, :, None, None], "0.bias": SHIFT}


def published(kind: str, last: str = "relu4_1") -> dict[str, np.ndarray]:
  rng = np.random.default_rng(0)
  shapes = conv_shapes("vgg16" if kind == "vgg16" else "vgg19", last).values()
  prefix = "" if kind == "normalised" else "features."
  tensors: dict[str, np.ndarray] = dict(NORMALISED) if kind == "normalised" else {}
  for position, (h, w, c_in, c_out) in zip(POSITIONS[kind], shapes, strict=False):
    kernel = rng.standard_normal((c_out, c_in, h, w), np.float32)
    kernel *= np.sqrt(2 / (h * w * c_in))
    tensors[f"{prefix}{position}.weight"] = kernel
    tensors[f"{prefix}{position}.bias"] = rng.normal(0, 0.1, c_out).astype(np.float32)
  return tensors


def write_imported(folder: Path) -> Path:
  """Writes `model.safetensors`, a vgg19 up to relu4_1 as timm has it, and imports it."""
  save_file(published("vgg19"), folder / "model.safetensors")
  write_file(
    folder / "vgg19.safetensors", *vgg_import.convert(folder / "model.safetensors", "vgg19")
  )
  return folder / "vgg19.safetensors"


def drop(name):
  return lambda tensors: tensors.pop(name)


def put(name, value):
  return lambda tensors: tensors.update({name: value})
