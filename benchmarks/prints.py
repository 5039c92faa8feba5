"""Preview against print: whether `look_size` gives the same picture at every size, and a sharp one.

    python -m benchmarks.prints [--side 400] [--look 160] [--model NAME ...]

The preview is a photograph of `look` pixels, stylized. The print is the same photograph of `side`
pixels, made in three ways: by `look_size`, by enlarging the preview, and painted at its own size.
Each is scaled down to the preview's size and compared with it, by the mean difference in levels of
255 and by SSIM (1 for the same). Sharpness is the deviation of what a Gaussian with a sigma of one
pixel takes away of the print's luma, as a multiple of that of the enlarged preview. All are means
over the photographs and the styles.
"""

import argparse
from collections.abc import Sequence

import jax
import numpy as np
from PIL import Image

from adaconv_jax import images, load_model, shipped_models, stylize
from adaconv_jax.evaluation.similarity import ssim
from adaconv_jax.models.stylizer import Stylizer
from adaconv_jax.ops.filters import gaussian, separable, to_gray
from benchmarks.inputs import ROOT
from benchmarks.report import markdown

CONTENTS, STYLES = ("palace", "astronaut", "cat", "flower"), ("night", "woodblock", "glass")
WAYS = ("look_size", "enlarged preview", "own size")
_WINDOW = gaussian(1.0, 3)


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(prog="python -m benchmarks.prints")
  parser.add_argument("--side", type=int, default=400)
  parser.add_argument("--look", type=int, default=160)
  parser.add_argument("--model", action="append", choices=shipped_models())
  args = parser.parse_args()
  rows = []
  for name in args.model or shipped_models():
    measured = measure(load_model(name), args.side, args.look)
    rows += [[name, way, *numbers] for way, numbers in zip(WAYS, measured, strict=True)]
  print(markdown(["model", "print", "levels apart", "SSIM", "sharpness"], rows))


def measure(model: Stylizer, side: int, look: int) -> list[list[str]]:
  """Returns the three numbers for each of `WAYS`."""
  found = []
  for style in (read("style", name, 256) for name in STYLES):
    for name in CONTENTS:
      prints, preview = make(model, read("content", name, side), style, look)
      soft = sharpness(prints[1])
      found.append(
        [[*compare(scaled(x, look), preview), sharpness(x) / soft] for x in map(np.asarray, prints)]
      )
  means = np.mean(found, axis=0)
  return [[f"{levels:.1f}", f"{same:.3f}", f"{sharp:.2f}"] for levels, same, sharp in means]


def make(
  model: Stylizer, content: np.ndarray, style: np.ndarray, look: int
) -> tuple[Sequence[np.ndarray], np.ndarray]:
  """Returns the three prints, and the preview, uint8."""
  preview = np.asarray(stylize(scaled(content, look), style, model=model))
  made = np.asarray(stylize(content, style, model=model, look_size=look))
  own = np.asarray(stylize(content, style, model=model))
  return (made, scaled(preview, content.shape[0]), own), preview


def read(folder: str, name: str, size: int) -> np.ndarray:
  """Reads the central square of an example, uint8."""
  path = ROOT / "examples" / folder / f"{name}.jpg"
  return np.asarray(
    images.center_square(images.decode(images.read_file(path), name=str(path)), size)
  )


def scaled(picture: np.ndarray, side: int) -> np.ndarray:
  """Scales a square to `side` pixels."""
  return np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC))


def compare(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
  """Returns the mean difference in levels, and SSIM."""
  apart = np.abs(first.astype(int) - second).mean()
  return float(apart), float(_ssim(first / np.float32(255), second / np.float32(255)))


_ssim = jax.jit(ssim)


def sharpness(picture: np.ndarray) -> float:
  """Returns the deviation of the finest structure of the luma."""
  gray = np.asarray(to_gray(picture / np.float32(255)))
  return float(np.std(gray[3:-3, 3:-3] - separable(gray, _WINDOW, _WINDOW)))


if __name__ == "__main__":
  main()
