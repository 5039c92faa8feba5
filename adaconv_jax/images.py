"""Image files to RGB and back.

Whatever comes in (palette, grey, 16-bit grey, CMYK, alpha, an embedded colour profile, a camera
held sideways) leaves `decode` as an upright 8-bit sRGB picture, or as an `ImageError` that names
the file. The networks take it as float32 in [0, 1] (`to_float`).
"""

import functools
import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps

# Named, because Pillow also knows formats that start other programs or that nobody paints in.
# SUFFIXES are their file names: what `find_images` looks for.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif")
# Where Pillow starts to warn of a decompression bomb: 2^28 bytes of RGB.
MAX_PIXELS = 2**28 // 3
WHITE = (1.0, 1.0, 1.0)


class ImageError(ValueError):
  """An image file that cannot be used; the message has its name and the reason."""


def decode(
  data: bytes,
  *,
  name: str,
  background: Sequence[float] = WHITE,
  at_least: int | None = None,
) -> Image.Image:
  """Decodes the bytes of an image file.

  The picture is turned as its EXIF orientation says, its colour profile is converted to sRGB (a
  profile that is broken or made for other channels is ignored), 16-bit grey is scaled to 8 bits,
  and alpha is composited on `background`. Of an animation or a multi-page file the first picture
  is taken.

  Args:
    data: the file, in one of `FORMATS`.
    name: what to call the file in errors.
    background: RGB in [0, 1] behind transparent pixels.
    at_least: a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, several times faster, as long
      as its shorter side keeps this many pixels. Other formats come at full size. None: full size.

  Returns:
    A picture of mode "RGB".

  Raises:
    ImageError: not in one of `FORMATS`, truncated or corrupt, over `MAX_PIXELS`, or with pixels
      of no known range (floating point, 32-bit grey).
    ValueError: `background` is not three numbers in [0, 1], or `at_least` is below 1.
  """
  if len(background) != 3 or not all(0 <= value <= 1 for value in background):
    raise ValueError(f"background: expected three numbers in [0, 1], got {background!r}")
  if at_least is not None and at_least < 1:
    raise ValueError(f"at_least: expected at least 1 pixel, or None, got {at_least}")
  image = _read(data, name, at_least)
  profile = image.info.get("icc_profile")
  image, alpha = _split_alpha(_to_8_bit(image, name))
  image = _to_srgb(image, profile)
  if alpha is None:
    return image
  behind = Image.new("RGB", image.size, tuple(round(255 * value) for value in background))
  return Image.composite(image, behind, alpha)


def load(
  path: str | os.PathLike[str],
  *,
  background: Sequence[float] = WHITE,
  at_least: int | None = None,
) -> np.ndarray:
  """Reads the image file `path`; see `decode`.

  Returns:
    `[h, w, 3]`, RGB float32 in [0, 1].

  Raises:
    ImageError: the file is not an image that `decode` takes.
    OSError: the file cannot be read.
  """
  data = Path(path).read_bytes()
  return to_float(decode(data, name=str(path), background=background, at_least=at_least))


def _read(data: bytes, name: str, at_least: int | None) -> Image.Image:
  """Opens, checks and decodes `data`, and turns it upright."""
  try:
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    pixels = image.width * image.height
    if pixels <= MAX_PIXELS:
      # A multi-picture file of a camera is a JPEG whose `format` is "MPO".
      if at_least is not None and image.format in ("JPEG", "MPO"):
        image.draft(None, (at_least, at_least))
      image.load()
      return ImageOps.exif_transpose(image)
  except Image.UnidentifiedImageError as error:
    raise ImageError(
      f"{name}: not an image, or not in one of the formats {', '.join(FORMATS)}"
    ) from error
  except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
    raise ImageError(f"{name}: {error}") from error
  except Exception as error:
    # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and more on bad data.
    raise ImageError(f"{name}: truncated or corrupt ({error})") from error
  raise ImageError(
    f"{name}: {image.width} x {image.height} are {pixels / 1e6:.0f} million pixels, over the limit "
    f"of {MAX_PIXELS / 1e6:.0f} million; scale the picture down first"
  )


def _to_8_bit(image: Image.Image, name: str) -> Image.Image:
  """Scales 16-bit grey to 8 bits, where Pillow's own conversion would clip at 255."""
  if image.mode == "F":
    raise ImageError(f"{name}: floating-point pixels have no stated range; save it as 8-bit RGB")
  if not image.mode.startswith("I"):
    return image
  values = np.asarray(image).astype(np.int64)
  if values.min() < 0 or values.max() > 65535:
    raise ImageError(f"{name}: 32-bit grey has no stated range; save it with 8 or 16 bits")
  gray = Image.fromarray(((values + 128) // 257).astype(np.uint8))
  transparent = image.info.get("transparency")
  if transparent is not None:
    gray.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
  return gray


def _split_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
  """Returns the picture without its alpha, hidden colours included, and the alpha, if any."""
  if not image.has_transparency_data:
    return image, None
  rgba = image.convert("RGBA")
  # Grey stays grey, because a colour profile belongs to one set of channels.
  colors = image.convert("L") if image.mode in ("L", "LA") else rgba.convert("RGB")
  return colors, rgba.getchannel("A")


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
  """Converts `image` from the colours of the ICC `profile` to RGB in sRGB."""
  if image.mode == "P":
    image = image.convert("RGB")
  if profile:
    try:
      return _transform(profile, image.mode).apply(image)
    except (ImageCms.PyCMSError, OSError, ValueError):
      # A broken profile, or one for other channels: sRGB is what viewers take it for.
      pass
  return image.convert("RGB")


@functools.lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform:
  """Builds the transform from `profile` to sRGB; a data set repeats a few profiles."""
  source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
  return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")


def to_float(image: Image.Image) -> np.ndarray:
  """Turns an "RGB" picture into `[h, w, 3]`, float32 in [0, 1]."""
  return np.asarray(image, np.float32) / np.float32(255)


def to_uint8(image: np.ndarray) -> np.ndarray:
  """Rounds an image in [0, 1] to uint8; values outside are clipped, uint8 stays as it is.

  Raises:
    ValueError: the image has NaN or infinite values.
  """
  image = np.asarray(image)
  if image.dtype == np.uint8:
    return image
  if not np.isfinite(image).all():
    raise ValueError("image: expected finite values in [0, 1], got NaN or infinity")
  return (np.clip(image.astype(np.float32), 0, 1) * 255 + 0.5).astype(np.uint8)


def save(path: str | os.PathLike[str], image: np.ndarray, *, quality: int = 95) -> None:
  """Writes `image` in the format that the suffix of `path` names; missing folders are made.

  Args:
    path: ends in one of `SUFFIXES`.
    image: `[h, w, 3]`, RGB, float in [0, 1] (clipped) or uint8.
    quality: of JPEG and WEBP, 1 to 100.

  Raises:
    ValueError: unknown suffix, wrong shape, or values that are not finite.
  """
  path, image = Path(path), np.asarray(image)
  if path.suffix.lower() not in SUFFIXES:
    raise ValueError(f"path: expected a name that ends in {', '.join(SUFFIXES)}, got {str(path)!r}")
  if image.ndim != 3 or image.shape[-1] != 3:
    raise ValueError(f"image: expected the shape [h, w, 3], got {list(image.shape)}")
  picture = Image.fromarray(to_uint8(image))
  file = io.BytesIO()
  kind = Image.registered_extensions()[path.suffix.lower()]
  # Full colour resolution in JPEG: halved, it smears the edges between saturated brush strokes.
  options = {"JPEG": {"quality": quality, "subsampling": 0}, "WEBP": {"quality": quality}}
  picture.save(file, kind, **options.get(kind, {}))
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(file.getvalue())


def resize_shorter(image: Image.Image, size: int) -> Image.Image:
  """Scales `image` to `size` pixels on its shorter side, antialiased, its aspect ratio kept.

  Raises:
    ValueError: `size` is below 1.
  """
  if size < 1:
    raise ValueError(f"size: expected at least 1 pixel, got {size}")
  scaled = scaled_size(image.size, size)
  return image if scaled == image.size else image.resize(scaled, Image.Resampling.BICUBIC)


def center_square(image: Image.Image, size: int, shorter: int | None = None) -> Image.Image:
  """Scales `image` on its shorter side and cuts the square in the middle.

  Args:
    image: the image.
    size: side of the square in pixels.
    shorter: what the shorter side is scaled to; `size` if None.

  Raises:
    ValueError: what the shorter side is scaled to is below 1.
  """
  image = resize_shorter(image, size if shorter is None else shorter)
  left, top = (image.width - size) // 2, (image.height - size) // 2
  return image.crop((left, top, left + size, top + size))


def decode_square(
  data: bytes, *, name: str, size: int, shorter: int | None = None, at_least: int | None = None
) -> Image.Image:
  """Decodes an image file and cuts its `center_square`.

  Args:
    data: the file; see `decode`.
    name: what to call the file in errors.
    size: side of the square in pixels.
    shorter: what the shorter side is scaled to; `size` if None.
    at_least: pixels of the shorter side as it is decoded, see `decode`; `shorter` if None.

  Raises:
    ImageError: the file is not an image that `decode` takes.
    ValueError: a size is below 1.
  """
  shorter = size if shorter is None else shorter
  image = decode(data, name=name, at_least=shorter if at_least is None else at_least)
  return center_square(image, size, shorter)


def scaled_size(size: tuple[int, int], shorter: int) -> tuple[int, int]:
  """Width and height of an image of `size` scaled to `shorter` pixels on its shorter side."""
  scale = shorter / min(size)
  return round(size[0] * scale), round(size[1] * scale)


def find_images(folder: str | os.PathLike[str]) -> list[Path]:
  """Lists the image files in `folder` and the folders below it, by suffix, sorted by path.

  Hidden files and folders are left out (macOS leaves `._name.jpg`, which are not images), and
  links to other folders are not followed.

  Raises:
    NotADirectoryError: `folder` is not a folder.
  """
  root = Path(folder)
  if not root.is_dir():
    raise NotADirectoryError(f"folder: {str(root)!r} is not a folder")
  found = []
  for parent, folders, files in os.walk(root):
    folders[:] = [name for name in folders if not name.startswith(".")]
    names = (name for name in files if not name.startswith("."))
    found += [Path(parent, name) for name in names if name.lower().endswith(SUFFIXES)]
  return sorted(found, key=lambda path: path.relative_to(root).parts)


def contact_sheet(
  rows: Sequence[Sequence[np.ndarray | None]], *, gutter: int = 4, color: float = 1.0
) -> np.ndarray:
  """Lays images out on a grid, as for a table of contents (across) and styles (down).

  A row is as high as its highest image, a column as wide as its widest; smaller images stand in
  the middle of their cell.

  Args:
    rows: `rows[r][c]` is `[h, w, 3]`, float in [0, 1], or None for an empty cell.
    gutter: pixels between cells.
    color: grey value in [0, 1] of everything that is not image.

  Returns:
    `[H, W, 3]`, float32.

  Raises:
    ValueError: no cell, rows of different lengths, or images of another shape.
  """
  if not rows or not rows[0] or len({len(row) for row in rows}) != 1:
    raise ValueError(f"rows: expected rows of one length, got {[len(row) for row in rows]}")
  heights, widths = [0] * len(rows), [0] * len(rows[0])
  cells = []
  for r, row in enumerate(rows):
    for c, image in enumerate(row):
      if image is None:
        continue
      if image.ndim != 3 or image.shape[-1] != 3:
        raise ValueError(f"rows[{r}][{c}]: expected [h, w, 3], got {list(image.shape)}")
      heights[r], widths[c] = max(heights[r], image.shape[0]), max(widths[c], image.shape[1])
      cells.append((r, c, image))
  tops = np.cumsum([0, *(height + gutter for height in heights)])
  lefts = np.cumsum([0, *(width + gutter for width in widths)])
  sheet = np.full((tops[-1] - gutter, lefts[-1] - gutter, 3), color, np.float32)
  for r, c, image in cells:
    h, w, _ = image.shape
    top, left = tops[r] + (heights[r] - h) // 2, lefts[c] + (widths[c] - w) // 2
    sheet[top : top + h, left : left + w] = image
  return sheet
