"""Gray pictures as masks: --mask and --alpha-mask of `adaconv stylize`."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from adaconv_jax import images
from adaconv_jax.files import expand, printable


def read_mask(path: str) -> Image.Image:
  """Reads a picture as gray, 8 bits: black is 0, white is 1.

  Raises:
    ImageError: it is no picture.
    OSError: it cannot be read.
  """
  return _read(path).convert("L")


def read_masks(paths: Sequence[str], styles: int) -> list[Image.Image]:
  """Reads the regions of styles.

  Args:
    paths: one gray picture per style; or one for all, whose colors are the styles.
    styles: their number.

  Returns:
    One gray picture per style.

  Raises:
    ImageError: a file is no picture.
    ValueError: there is another number of files, or the one for all has other colors than styles.
    OSError: a file cannot be read.
  """
  if len(paths) == styles:
    return [read_mask(path) for path in paths]
  if len(paths) == 1:
    return _split(_read(paths[0]), styles, printable(paths[0]))
  raise ValueError(
    f"--mask and --style: expected {styles} mask(s), one per style, or one label picture, got "
    f"{len(paths)}"
  )


def _read(path: str) -> Image.Image:
  file = expand(path)
  return images.decode(images.read_file(file), name=str(file))


def _split(picture: Image.Image, styles: int, name: str) -> list[Image.Image]:
  """Splits a label picture: its colors are the styles, from dark to light; black may be none."""
  pixels = np.asarray(picture).astype(np.uint32)
  packed = pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2]
  found = np.unique(packed)
  if len(found) == styles + 1 and found[0] == 0:
    found = found[1:]
  if len(found) != styles:
    raise ValueError(
      f"--mask: expected {styles} colors in {name}, one per --style, and black for what stays the "
      f"content, got {len(found)} colors; smooth edges and JPEG make more, so save a PNG without"
    )
  luma = [(color >> 16) * 299 + (color >> 8 & 255) * 587 + (color & 255) * 114 for color in found]
  ordered = [found[index] for index in np.argsort(luma, kind="stable")]
  return [Image.fromarray(np.where(packed == color, 255, 0).astype(np.uint8)) for color in ordered]
