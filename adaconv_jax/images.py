"""Image files to RGB and back.

`decode` turns every kind of picture (palette, gray, 16-bit gray, CMYK, alpha, an embedded color
profile, a camera held sideways) into an upright 8-bit sRGB picture, or raises an `ImageError` that
names the file. The networks take pictures as float32 in [0, 1] (`to_float`).
"""

import collections
import contextlib
import functools
import io
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

from adaconv_jax import image_formats
from adaconv_jax.files import expand, files_below, not_there, printable, read_regular
from adaconv_jax.image_formats import BAND_PIXELS, LARGEST, MAX_PROFILE_BYTES, NEGATIVE

# Listed, because Pillow also reads formats that start other programs or that nobody paints in.
# `find_images` looks for their SUFFIXES.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
SUFFIXES = (
  ".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif",
)  # fmt: skip
# Of other pictures, which `find_images` leaves out and `describe_unread` counts.
UNREAD_SUFFIXES = (
  ".arw", ".avif", ".cr2", ".cr3", ".dng", ".exr", ".hdr", ".heic", ".heif", ".hif", ".ico", ".j2k",
  ".jp2", ".jxl", ".jxr", ".nef", ".orf", ".pbm", ".pgm", ".pnm", ".ppm", ".psd", ".raf", ".rw2",
  ".svg", ".svgz", ".tga",
)  # fmt: skip
# Pillow warns of a decompression bomb above this: 2^28 bytes of RGB.
MAX_PIXELS = 2**28 // 3
# Largest file: a little more than MAX_PIXELS of 16-bit RGB, uncompressed.
MAX_FILE_BYTES = 2**29 + 2**24
# Most that `decode` allocates, for one picture and for all threads of a process together.
MAX_BYTES = 5 * 2**28
# The picture, its turned or converted copy, and its alpha. A picture of MAX_PIXELS fits.
BYTES_PER_PIXEL = 12
# Passes over the pixels of a progressive JPEG of MAX_PIXELS; usual ones have ten.
MAX_PASSES = 50
# Those whose files hold an alpha; GIF only transparent and opaque.
ALPHA_SUFFIXES = (".png", ".webp", ".tif", ".tiff", ".gif")
# Pixels per side that a format can hold.
MAX_SIDES = {"JPEG": 65500, "WEBP": 16383, "GIF": 65535}
WHITE = (1.0, 1.0, 1.0)

# Pillow's own table would import all of its plugins, which takes a tenth of a second.
_KINDS = {
  **dict.fromkeys((".jpg", ".jpeg", ".jfif", ".jpe"), "JPEG"), ".png": "PNG", ".webp": "WEBP",
  ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP", ".gif": "GIF",
}  # fmt: skip
_ORIENTATION = 0x0112
_UPRIGHT = {
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_270,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_90,
}


class ImageError(ValueError):
  """An image file cannot be used; the message has its name and the reason."""


class Budget:
  """Bytes that the threads of this process may use at once; one that needs more waits."""

  def __init__(self, total: int):
    self._free = total
    self._changed = threading.Condition()

  @contextlib.contextmanager
  def hold(self, count: int) -> Iterator[None]:
    """Takes `count` bytes, at most the total, until the block is left."""
    with self._changed:
      self._changed.wait_for(lambda: self._free >= count)
      self._free -= count
    try:
      yield
    finally:
      with self._changed:
        self._free += count
        self._changed.notify_all()


_MEMORY = Budget(MAX_BYTES)
# For files that are read and decoded in many threads. Held before `_MEMORY`, never after it.
FILES = Budget(2 * MAX_FILE_BYTES)


def decode(
  data: bytes,
  *,
  name: str,
  background: Sequence[float] = WHITE,
  at_least: int | None = None,
) -> Image.Image:
  """Decodes the bytes of an image file.

  The picture is turned as its EXIF orientation says, its color profile is converted to sRGB, 16-bit
  gray is scaled to 8 bits, and alpha is composited on `background`. Metadata that are broken or too
  large, and a profile for other channels, are ignored. Of an animation or a multi-page file, the
  first picture is used.

  Threads that decode at the same time use at most `MAX_BYTES` together: one whose picture does not
  fit waits for the others.

  Args:
    data: the file, in one of `FORMATS`.
    name: what to call the file in errors.
    background: RGB in [0, 1], shown through transparent pixels.
    at_least: a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, several times faster, as long
      as its shorter side keeps this many pixels. Other formats are decoded at full size. None: full
      size.

  Returns:
    A picture of mode "RGB".

  Raises:
    ImageError: not in one of `FORMATS`, truncated or corrupt, over `MAX_PIXELS` or
      `MAX_FILE_BYTES`, decoding needs more than `MAX_BYTES`, or the pixels have no known range
      (floating point, 32-bit gray).
    ValueError: `background` is not three numbers in [0, 1], or `at_least` is below 1.
  """
  if len(background) != 3 or not all(0 <= value <= 1 for value in background):
    raise ValueError(f"background: expected three numbers in [0, 1], got {background!r}")
  if at_least is not None and at_least < 1:
    raise ValueError(f"at_least: expected at least 1 pixel, or None, got {at_least}")
  with _decoded(data, name, at_least) as (image, alpha):
    if alpha is None:
      return image
    ground = Image.new("RGB", image.size, tuple(round(255 * value) for value in background))
    ground.paste(image, mask=alpha)
    return ground


def decode_cutout(
  data: bytes, *, name: str, at_least: int | None = None
) -> tuple[Image.Image, Image.Image | None]:
  """Decodes the bytes of an image file, and keeps its alpha apart.

  Args:
    data: the file; see `decode`.
    name: what to call the file in errors.
    at_least: see `decode`.

  Returns:
    The picture, of mode "RGB", with its colors as they are where it is transparent, and its alpha,
    of mode "L"; None for one that is opaque everywhere.

  Raises:
    ImageError: as `decode`.
  """
  with _decoded(data, name, at_least) as (image, alpha):
    opaque = alpha is None or alpha.getextrema()[0] == 255
    return image, None if opaque else alpha


@contextlib.contextmanager
def _decoded(
  data: bytes, name: str, at_least: int | None
) -> Iterator[tuple[Image.Image, Image.Image | None]]:
  """Decodes a file to RGB and alpha; memory is reserved until the block is left."""
  if len(data) > MAX_FILE_BYTES:
    raise ImageError(
      f"{name}: has {len(data) / 1e6:.0f} MB, over the limit of {MAX_FILE_BYTES / 1e6:.0f} MB"
    )
  with contextlib.ExitStack() as held:
    image = _read(data, name, at_least, held)
    profile = image.info.get("icc_profile")
    try:
      image = _to_8_bit(image, name)
      image, alpha = _split_alpha(image)
      yield _to_srgb(image, profile), alpha
    except (ImageError, MemoryError):
      raise
    except Exception as error:
      raise ImageError(f"{name}: cannot be converted to RGB ({error})") from error


def is_plain_jpeg(data: bytes, at_most: int) -> bool:
  """Whether a file that `decode` takes is a JPEG that it changes in nothing, and is small.

  Args:
    data: the file.
    at_most: largest shorter side, in pixels.
  """
  if not data.startswith(image_formats.MAGIC["JPEG"]):
    return False
  image = Image.open(io.BytesIO(data), formats=("JPEG",))
  changes = _orientation(image) in _UPRIGHT or image.info.get("icc_profile")
  # "MPO" files have further pictures in them.
  plain = image.format == "JPEG" and image.mode == "RGB" and not changes
  return plain and min(image.size) <= at_most


def read_file(path: str | os.PathLike[str], *, name: str | None = None) -> bytes:
  """Reads an image file.

  Args:
    path: the file.
    name: what to call it in errors; its path if None.

  Raises:
    ImageError: it is not a regular file but a pipe, a device or the like, or over `MAX_FILE_BYTES`.
    OSError: the file cannot be read.
  """
  try:
    return read_regular(path, at_most=MAX_FILE_BYTES)
  except ValueError as error:
    reason = str(error).removeprefix(f"{os.fspath(path)}: ")
    raise ImageError(f"{os.fspath(path) if name is None else name}: {reason}") from error


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
    ImageError: the file is not an image that `decode` takes, or no regular file.
    OSError: the file cannot be read.
  """
  data = read_file(expand(path), name=str(path))
  return to_float(decode(data, name=str(path), background=background, at_least=at_least))


# --- from the file to pixels as they are stored, upright ---


def _read(data: bytes, name: str, at_least: int | None, held: contextlib.ExitStack) -> Image.Image:
  """Opens, checks and decodes `data`, and turns it upright; `held` gets the memory it takes."""
  try:
    png = image_formats.split_png(data)
    image = _load(data if png is None else png.data, png, name, at_least, held)
  except ImageError:
    raise
  except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
    raise ImageError(
      f"{name}: too many pixels, over the limit of {MAX_PIXELS / 1e6:.0f} million; scale the "
      "picture down first"
    ) from error
  except Exception as error:
    # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and more on bad data.
    held.close()
    image = _load_bare(data, name, at_least, held)
    if image is None:
      raise _unreadable(data, name, error) from error
  turn = _UPRIGHT.get(_orientation(image))
  return image.copy() if turn is None else image.transpose(turn)


def _load(
  data: bytes,
  png: image_formats.Png | None,
  name: str,
  at_least: int | None,
  held: contextlib.ExitStack,
) -> Image.Image:
  """Opens, checks and decodes; raises `ImageError` only for its own checks."""
  if (size := image_formats.webp_size(data)) is not None:
    _check_pixels(name, *size)
  if png is not None and image_formats.short_key(png):
    raise ImageError(f"{name}: truncated or corrupt (its tRNS has {len(png.key or b'')} bytes)")
  image = Image.open(io.BytesIO(data), formats=FORMATS)
  _check_pixels(name, *image.size)
  area = image.width * image.height
  # A multi-picture file of a camera is a JPEG whose `format` is "MPO".
  if image.format in ("JPEG", "MPO"):
    scans = image_formats.count_jpeg_scans(data)
    if scans * area > MAX_PASSES * MAX_PIXELS:
      raise ImageError(f"{name}: a JPEG of {scans} passes over its pixels, which take too long")
    if at_least is not None:
      image.draft(None, (at_least, at_least))
    # Coefficients of the whole picture, whatever it is scaled to.
    buffers = 2 * area * len(image.getbands()) if scans > 1 else 0
  elif image.format == "WEBP":
    buffers = 16 * area  # two canvases, the frame, and a lossless decoder's own
  elif image.format == "TIFF":
    buffers = image_formats.tiff_buffer(image)
    if fault := image_formats.missing_strips(image):
      raise ImageError(f"{name}: truncated or corrupt ({fault})")
    image_formats.silence_libtiff()
  else:
    buffers = 0
  # Each row has a pointer in each picture.
  padded = (image.width + 4) * image.height
  needed = max(BYTES_PER_PIXEL * padded, 4 * padded + buffers)
  if needed > MAX_BYTES:
    raise ImageError(
      f"{name}: decoding it would take {needed / 1e6:.0f} MB, over the limit of "
      f"{MAX_BYTES / 1e6:.0f} MB; save it again in smaller tiles or scaled down"
    )
  held.enter_context(_MEMORY.hold(needed))
  if png is None:
    gray = image_formats.tiff_gray(image) if image.format == "TIFF" else {}
    image.load()
    image.info.update(gray)
    return image
  return image_formats.load_png(image, png)


def _load_bare(
  data: bytes, name: str, at_least: int | None, held: contextlib.ExitStack
) -> Image.Image | None:
  """Decodes a file without its metadata; None if the pixels are broken, too."""
  try:
    stripped = image_formats.without_metadata(data)
    return None if stripped is None else _load(stripped, None, name, at_least, held)
  except ImageError:
    raise
  except Exception:
    return None


def _unreadable(data: bytes, name: str, error: Exception) -> ImageError:
  """Returns why Pillow does not read a file."""
  if not isinstance(error, Image.UnidentifiedImageError):
    return ImageError(f"{name}: truncated or corrupt ({error})")
  kind = image_formats.kind_of(data)
  if kind is None:
    return ImageError(f"{name}: not an image, or not in one of the formats {', '.join(FORMATS)}")
  what = image_formats.describe_tiff(data) if kind == "TIFF" else None
  return ImageError(f"{name}: {what or f'a {kind} file that is damaged or of a rare kind'}")


def _check_pixels(name: str, width: int, height: int) -> None:
  if width * height > MAX_PIXELS:
    raise ImageError(
      f"{name}: {width} x {height} is {width * height / 1e6:.0f} million pixels, over the limit "
      f"of {MAX_PIXELS / 1e6:.0f} million; scale the picture down first"
    )


def _orientation(image: Image.Image) -> int:
  try:
    return image.getexif().get(_ORIENTATION, 1)
  except Exception:  # broken metadata can make Pillow raise anything
    return 1


# --- from those to RGB ---


def _to_8_bit(image: Image.Image, name: str) -> Image.Image:
  """Scales 12-bit and 16-bit gray to 8 bits, where Pillow's own conversion would clip at 255."""
  if image.mode == "F":
    raise ImageError(f"{name}: floating-point pixels have no stated range; save it as 8-bit RGB")
  if not image.mode.startswith("I"):
    return image
  values, transparent = np.asarray(image), image.info.get("transparency")
  largest, negative = image.info.get(LARGEST, 65535), image.info.get(NEGATIVE, False)
  if values.min() < 0 or values.max() > 65535:
    raise ImageError(f"{name}: 32-bit gray has no stated range; save it with 8 or 16 bits")
  gray = np.empty(values.shape, np.uint8)
  alpha = None if transparent is None else np.empty(values.shape, np.uint8)
  rows = max(BAND_PIXELS // image.width, 1)
  for top in range(0, image.height, rows):
    band = values[top : top + rows].astype(np.int32)
    shown = largest - band if negative else band
    gray[top : top + rows] = (510 * shown + largest) // (2 * largest)
    if alpha is not None:
      alpha[top : top + rows] = np.where(band == transparent, 0, 255)
  del values
  picture = Image.fromarray(gray)
  if alpha is not None:
    picture.putalpha(Image.fromarray(alpha))
  return picture


def _split_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
  """Returns the picture without its alpha, hidden colors included, and the alpha, if any."""
  if not image.has_transparency_data:
    return image, None
  rgba = image if image.mode == "RGBA" else image.convert("RGBA")
  # Gray stays gray, because a color profile belongs to one set of channels.
  colors = image.convert("L") if image.mode in ("L", "LA") else rgba.convert("RGB")
  return colors, rgba.getchannel("A")


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
  """Converts `image` from the colors of the ICC `profile` to RGB in sRGB."""
  if image.mode == "P":
    image = image.convert("RGB")
  if isinstance(profile, bytes) and 0 < len(profile) <= MAX_PROFILE_BYTES:
    # A broken profile, or one for other channels: viewers assume sRGB. For those, lcms and Pillow
    # raise PyCMSError, OSError, ValueError and more.
    with contextlib.suppress(Exception):
      return _transform(profile, image.mode).apply(image)
  return image if image.mode == "RGB" else image.convert("RGB")


@functools.lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform:
  """Builds the transform from `profile` to sRGB; a data set repeats a few profiles."""
  source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
  return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")


# --- arrays, sizes, files ---


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


def save(
  path: str | os.PathLike[str],
  image: np.ndarray,
  *,
  quality: int = 95,
  alpha: np.ndarray | None = None,
) -> None:
  """Writes `image` in the format that the suffix of `path` names; missing folders are created.

  Args:
    path: ends in one of `SUFFIXES`.
    image: `[h, w, 3]`, RGB, float in [0, 1] (clipped) or uint8.
    quality: of JPEG and WEBP, 1 to 100.
    alpha: how opaque the pixels are, `[h, w]`, uint8, for a path that ends in one of
      `ALPHA_SUFFIXES`; None: all are.

  Raises:
    ImageError: the format cannot hold a picture of this size; the message does not name the file.
    ValueError: unknown suffix, wrong shape, values that are not finite, or an alpha for a format
      that has none.
    OSError: the file cannot be written.
  """
  path, image = expand(path), np.asarray(image)
  if path.suffix.lower() not in SUFFIXES:
    raise ValueError(f"path: expected a name that ends in {', '.join(SUFFIXES)}, got {str(path)!r}")
  if image.ndim != 3 or image.shape[-1] != 3:
    raise ValueError(f"image: expected the shape [h, w, 3], got {list(image.shape)}")
  kind = _KINDS[path.suffix.lower()]
  height, width, _ = image.shape
  if not 0 < min(height, width) <= max(height, width) <= MAX_SIDES.get(kind, 2**31 - 1):
    raise ImageError(
      f"{kind}: expected 1 to {MAX_SIDES.get(kind, 2**31 - 1)} pixels per side, got "
      f"{width} x {height}; use another format, such as .png"
    )
  picture = Image.fromarray(to_uint8(image))
  if alpha is not None:
    if path.suffix.lower() not in ALPHA_SUFFIXES:
      raise ValueError(f"alpha: expected None for {kind}, which has no transparent pixels")
    if alpha.shape != (height, width) or alpha.dtype != np.uint8:
      raise ValueError(
        f"alpha: expected uint8 of the shape {[height, width]}, got {alpha.dtype} of "
        f"{list(alpha.shape)}"
      )
    picture.putalpha(Image.fromarray(alpha))
  file = io.BytesIO()
  # Full color resolution in JPEG: halved, it smears the edges between saturated brush strokes.
  options = {"JPEG": {"quality": quality, "subsampling": 0}, "WEBP": {"quality": quality}}
  try:
    picture.save(file, kind, **options.get(kind, {}))
  except (MemoryError, OSError):
    raise
  except Exception as error:  # encoders raise ValueError, struct.error and others
    raise ImageError(f"{kind} cannot hold this picture of {width} x {height} ({error})") from error
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(file.getvalue())


def resize_shorter(image: Image.Image, size: int, *, name: str = "image") -> Image.Image:
  """Scales `image` to `size` pixels on its shorter side, antialiased, keeping its aspect ratio.

  Args:
    image: the image.
    size: pixels on the shorter side.
    name: what to call the image in errors.

  Raises:
    ImageError: the scaled image would have more than `MAX_PIXELS`.
    ValueError: `size` is below 1.
  """
  if size < 1:
    raise ValueError(f"size: expected at least 1 pixel, got {size}")
  scaled = scaled_size(image.size, size)
  if scaled[0] * scaled[1] > MAX_PIXELS:
    raise ImageError(
      f"{name}: {image.width} x {image.height} scaled to {size} pixels on the shorter side would "
      f"be {scaled[0]} x {scaled[1]}, {scaled[0] * scaled[1] / 1e6:.0f} million pixels, over the "
      f"limit of {MAX_PIXELS / 1e6:.0f} million; use a smaller size, or crop the picture"
    )
  return image if scaled == image.size else image.resize(scaled, Image.Resampling.BICUBIC)


def fit_mask(mask: Image.Image, height: int, width: int) -> np.ndarray:
  """Resizes a mask to a content: `[h, w]`, float32 in [0, 1]."""
  if mask.size != (width, height):
    shrinks = mask.width >= width and mask.height >= height
    # Areas are averaged; enlarging by areas would make steps.
    method = Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR
    mask = mask.resize((width, height), method)
  return np.asarray(mask, np.float32) / np.float32(255)


def center_square(
  image: Image.Image, size: int, shorter: int | None = None, *, name: str = "image"
) -> Image.Image:
  """Scales `image` on its shorter side and crops the central square.

  Args:
    image: the image.
    size: side of the square in pixels.
    shorter: length to scale the shorter side to; `size` if None.
    name: what to call the image in errors.

  Raises:
    ImageError: the scaled image would have more than `MAX_PIXELS`.
    ValueError: the shorter side would be scaled to less than 1.
  """
  image = resize_shorter(image, size if shorter is None else shorter, name=name)
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
    shorter: length to scale the shorter side to; `size` if None.
    at_least: pixels of the shorter side when decoded, see `decode`; `shorter` if None.

  Raises:
    ImageError: the file is not an image that `decode` takes, or scaled it would have more than
      `MAX_PIXELS`.
    ValueError: a size is below 1.
  """
  shorter = size if shorter is None else shorter
  image = decode(data, name=name, at_least=shorter if at_least is None else at_least)
  return center_square(image, size, shorter, name=name)


def scaled_size(size: tuple[int, int], shorter: int) -> tuple[int, int]:
  """Width and height of an image of `size` scaled to `shorter` pixels on its shorter side."""
  scale = shorter / min(size)
  return round(size[0] * scale), round(size[1] * scale)


def find_images(folder: str | os.PathLike[str]) -> list[Path]:
  """Lists the image files in `folder` and the folders below it, by suffix, sorted by path.

  Hidden files and folders are skipped (macOS creates `._name.jpg`, which are not images), and links
  to other folders are not followed.

  Raises:
    NotADirectoryError: `folder` is not a folder, or does not exist.
  """
  return list_images(folder)[0]


def list_images(folder: str | os.PathLike[str]) -> tuple[list[Path], list[Path]]:
  """Lists the image files as `find_images` does, and those with one of `UNREAD_SUFFIXES`."""
  root = expand(folder)
  found, unread = image_names(root)
  return [root / name for name in found], [root / name for name in unread]


def image_names(root: Path) -> tuple[dict[str, int | None], list[str]]:
  """Lists the image files as `list_images` does, by their relative names.

  Returns:
    The names, with the sizes where the listing has them (see `files_below`), and the names of files
    with one of `UNREAD_SUFFIXES`.

  Raises:
    NotADirectoryError: `root` is not a folder, or does not exist.
  """
  if not root.is_dir():
    problem = "is not a folder" if root.exists() else not_there(root)
    raise NotADirectoryError(f"folder: {str(root)!r} {problem}")
  listed = files_below(root)
  names = sorted(listed, key=lambda name: name.split("/"))
  found = {name: listed[name] for name in names if name.lower().endswith(SUFFIXES)}
  return found, [name for name in names if name.lower().endswith(UNREAD_SUFFIXES)]


def describe_unread(folder: str | os.PathLike[str], unread: Sequence[Path]) -> str:
  """Returns one line: how many pictures in `folder` are left out, the first one, and why."""
  kinds = collections.Counter(path.suffix.lower() for path in unread)
  counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
  return (
    f"{printable(folder)}: left out {counts} (the first: {printable(unread[0].name)}), because "
    f"only {', '.join(FORMATS)} are read; convert them, for example to .png"
  )


def describe_empty(folder: str | os.PathLike[str], but: str = "") -> str:
  """Returns one line: there is no image in `folder`, other than `but`, and what is an image."""
  return f"no image in {printable(folder)}{but}; looked for {', '.join(SUFFIXES)}"


def contact_sheet(
  rows: Sequence[Sequence[np.ndarray | None]], *, gutter: int = 4, color: float = 1.0
) -> np.ndarray:
  """Lays images out on a grid, such as one of contents (across) and styles (down).

  A row is as high as its highest image, a column as wide as its widest; smaller images are centered
  in their cell.

  Args:
    rows: `rows[r][c]` is `[h, w, 3]`, float in [0, 1], or None for an empty cell.
    gutter: pixels between cells.
    color: gray value in [0, 1] of the gaps and empty cells.

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
