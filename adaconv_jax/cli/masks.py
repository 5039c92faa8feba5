"""Gray pictures as masks: --mask and --alpha-mask of `adaconv stylize`.

In a picture with transparent pixels, what is painted is the mask, whatever its color: people paint
in black or red on an empty layer, or take the cutout of a person.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageChops

from adaconv_jax import images
from adaconv_jax.files import expand, naming_option, printable

# Gray values up to and from which paint is black or white, and the share of each from which on, and
# of both, a transparent picture is painted in black and white.
_BLACK, _WHITE = 40, 215
_EACH, _BOTH = 0.01, 0.95
# Alpha from which on a pixel is painted.
_PAINTED = 128
_NO_COLOR = -1


def read_mask(path: str, option: str) -> Image.Image:
  """Reads a picture as a mask, 8 bits: black is 0, white is 1.

  If some of its pixels are transparent, its alpha is the mask; if the others are black and white,
  without the black ones.

  Raises:
    ValueError: it cannot be read, or is no picture; the message begins with `option`.
  """
  picture, alpha = _read(path, option)
  gray = picture.convert("L")
  if alpha is None:
    return gray
  both = ImageChops.multiply(gray, alpha)
  painted = np.asarray(alpha) >= _PAINTED
  if painted.all():
    return both
  paint = np.asarray(picture)[painted]
  black, white = (paint <= _BLACK).all(-1).sum(), (paint >= _WHITE).all(-1).sum()
  beside = min(black, white) > _EACH * len(paint) and black + white > _BOTH * len(paint)
  return both if beside else alpha


def read_masks(paths: Sequence[str], styles: int) -> list[Image.Image]:
  """Reads the regions of styles.

  Args:
    paths: one picture per style, see `read_mask`; or one for all, whose colors are the styles.
    styles: their number.

  Returns:
    One gray picture per style.

  Raises:
    ValueError: a file cannot be read, or is no picture; there is another number of files, or the
      one for all has other colors than styles.
  """
  if len(paths) == styles:
    return [read_mask(path, "--mask") for path in paths]
  if len(paths) == 1:
    return _split(*_read(paths[0], "--mask"), styles, printable(paths[0]))
  raise ValueError(
    f"--mask and --style: expected {styles} mask(s), one per style, or one label picture, got "
    f"{len(paths)}"
  )


def _read(path: str, option: str) -> tuple[Image.Image, Image.Image | None]:
  with naming_option(option):
    file = expand(path)
    return images.decode_cutout(images.read_file(file), name=str(file))


def _split(
  picture: Image.Image, alpha: Image.Image | None, styles: int, name: str
) -> list[Image.Image]:
  """Splits a label picture: its colors are the styles, from dark to light.

  Black may be none, and what is transparent is none.
  """
  pixels = np.asarray(picture).astype(np.int32)
  packed = pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2]
  if alpha is not None:
    packed = np.where(np.asarray(alpha) >= _PAINTED, packed, _NO_COLOR)
  found = np.unique(packed[packed != _NO_COLOR])
  if len(found) == styles + 1 and found[0] == 0:
    found = found[1:]
  if len(found) != styles:
    raise ValueError(
      f"--mask: expected {styles} colors in {name}, one per --style, and black or nothing for what "
      f"stays the content, got {len(found)} colors; smooth edges and JPEG make more, so save a PNG "
      "without"
    )
  luma = [(color >> 16) * 299 + (color >> 8 & 255) * 587 + (color & 255) * 114 for color in found]
  ordered = [found[index] for index in np.argsort(luma, kind="stable")]
  return [Image.fromarray(np.where(packed == color, 255, 0).astype(np.uint8)) for color in ordered]
