"""What Pillow does not do, or does in another way, for files of each format.

It reads no picture whose metadata are broken, loses the transparent colors of some PNGs, lets
libtiff allocate and write to standard error as it likes, and gives sizes after it has allocated.
`images.decode` reads with this.
"""

import contextlib
import ctypes
import functools
import io
import re
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL
from PIL import Image, TiffImagePlugin

# Largest metadata that are read: a color profile, and text that contains the orientation.
MAX_PROFILE_BYTES = 2**24
MAX_TEXT_BYTES = 2**20
# Pixels of large pictures that NumPy processes at once.
BAND_PIXELS = 2**20

MAGIC = {
  "JPEG": (b"\xff\xd8\xff",),
  "PNG": (b"\x89PNG\r\n\x1a\n",),
  "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
  "BMP": (b"BM",),
  "GIF": (b"GIF87a", b"GIF89a"),
}


def kind_of(data: bytes) -> str | None:
  """Returns the format that a file's first bytes name; None if that is none of them."""
  if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
    return "WEBP"
  return next((kind for kind, magic in MAGIC.items() if data.startswith(magic)), None)


# --- JPEG ---

# A marker that a length follows, or the end; other bytes before it are skipped, as libjpeg does.
_JPEG_MARKER = re.compile(rb"\xff+([^\x00\x01\xd0-\xd8\xff])", re.DOTALL)


def count_jpeg_scans(data: bytes) -> int:
  """Counts the passes over the pixels of a JPEG.

  Only up to its end: phones append a film of the moment, in which any bytes occur. And not in its
  metadata, which have pictures of their own.
  """
  scans = position = 0
  while (found := _JPEG_MARKER.search(data, position)) is not None:
    marker, after = found[1][0], found.end()
    if marker == 0xD9:
      break
    scans += marker == 0xDA
    position = after + int.from_bytes(data[after : after + 2], "big")
  return scans


# Application data that define colors, JFIF's and Adobe's, with the least length that is read.
_COLOR_SEGMENTS = {0xE0: 14, 0xEE: 12}


def _bare_jpeg(data: bytes) -> bytes | None:
  """Returns a JPEG without comments and application data, except those that define its colors."""
  kept, position = [data[:2]], 2
  while position + 4 <= len(data) and data[position] == 0xFF:
    marker = data[position + 1]
    if marker == 0xDA:  # the pixels start here
      return b"".join([*kept, data[position:]])
    if marker == 0xFF or marker == 1 or 0xD0 <= marker <= 0xD8:  # no length follows
      position += 1 if marker == 0xFF else 2
      continue
    end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    metadata = 0xE0 <= marker <= 0xEF or marker == 0xFE
    if not metadata or end - position - 4 >= _COLOR_SEGMENTS.get(marker, 2**16):
      kept.append(data[position:end])
    position = end
  return None


# --- WebP ---


def webp_size(data: bytes) -> tuple[int, int] | None:
  """Returns width and height of a WebP's canvas; None for other files.

  Pillow allocates its canvases before it gives the size.
  """
  if kind_of(data) != "WEBP" or len(data) < 30:
    return None
  chunk, bits = data[12:16], int.from_bytes(data[21:25], "little")
  if chunk == b"VP8X":
    width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
  elif chunk == b"VP8L":
    width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
  else:
    width, height = (int.from_bytes(data[at : at + 2], "little") & 0x3FFF for at in (26, 28))
  return width, height


# --- TIFF ---


def tiff_buffer(image: Image.Image) -> int:
  """Returns the bytes of the tile or strip that libtiff decodes at once; may exceed the picture."""
  tags: Any = getattr(image, "tag_v2", {})

  def number(tag: int, default: int) -> int:
    value = tags.get(tag, default)
    value = value[0] if isinstance(value, tuple) and value else value
    return value if isinstance(value, int) else default

  bits = tags.get(258, (1,))
  bits = [b for b in (bits if isinstance(bits, tuple) else (bits,)) if isinstance(b, int)] or [1]
  pixel = max(sum(bits), max(bits) * number(277, 1)) / 8
  width, height = number(256, image.width), number(257, image.height)
  tile = number(322, 0) * number(323, 0)
  return int(pixel * max(tile, width * min(number(278, height), height)))


# Of gray of more than 8 bits, in `Image.info`: its largest value, and whether that is black.
LARGEST, NEGATIVE = "adaconv_largest", "adaconv_negative"


def tiff_gray(image: Image.Image) -> dict[str, Any]:
  """Returns what Pillow leaves to others in gray of more than 8 bits."""
  tags: Any = getattr(image, "tag_v2", {})
  if not image.mode.startswith("I"):
    return {}
  return {LARGEST: 4095 if tags.get(258) == (12,) else 65535, NEGATIVE: tags.get(262) == 0}


def missing_strips(image: Image.Image) -> str | None:
  """Returns what is wrong where strips or tiles of a TIFF are missing at the end.

  Pillow would leave them black.
  """
  parts: Any = getattr(image, "tile", ())
  right, bottom = (max((part[1][side] for part in parts), default=0) for side in (2, 3))
  # Pillow swaps the sides of a picture that is to be turned, but not those of its strips.
  if (right, bottom) in (image.size, image.size[::-1]):
    return None
  return f"it says {image.width} x {image.height} pixels, and has {right} x {bottom}"


@functools.cache
def silence_libtiff() -> None:
  """Lets libtiff write nothing to standard error; our errors name the file, and its lines do not.

  Pillow has no setting for it. Where the library is not found, the lines remain.
  """
  paths = [str(path) for path in Path(PIL.__file__).parent.glob(".dylibs/libtiff*")]  # of macOS
  with contextlib.suppress(OSError):
    maps = Path("/proc/self/maps").read_text(errors="surrogateescape").splitlines()
    paths += sorted({line[line.index("/") :] for line in maps if "/libtiff" in line})
  for path in paths:
    with contextlib.suppress(AttributeError, OSError):
      library = ctypes.CDLL(path)
      for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
        setter = getattr(library, name)
        setter.argtypes, setter.restype = [ctypes.c_void_p], ctypes.c_void_p
        setter(None)


def describe_tiff(data: bytes) -> str | None:
  """Returns which pixels a TIFF has that Pillow does not know; None if that is not known."""
  try:
    directory = TiffImagePlugin.ImageFileDirectory_v2(data[: 16 if data[2:3] == b"+" else 8])
    file = io.BytesIO(data)
    file.seek(directory.next)
    directory.load(file)
    bits, kinds = (directory.get(tag, (1,)) for tag in (258, 339))
  except Exception:
    return None
  if not {256, 257} <= set(directory) or not {273, 324} & set(directory):
    return "truncated or corrupt (its directory is cut off)"
  if 3 in kinds:
    return "floating-point pixels have no stated range; save it as 8-bit RGB"
  if set(bits) <= {1, 8}:
    return None  # that is not the reason
  return (
    f"a TIFF with samples of {', '.join(map(str, bits))} bits is not read; save it as 8-bit RGB"
  )


# Tags of a TIFF that affect its pixels, and the color profile.
_TIFF_TAGS = {
  *(256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324),
  *(325, 332, 338, 339, 340, 341, 347, *range(512, 522), *range(529, 533), 34675),
}


def _bare_tiff(data: bytes) -> bytes | None:
  """Returns a TIFF with only `_TIFF_TAGS` in its first directory, and no other directory."""
  order = "little" if data[:2] == b"II" else "big"
  large = b"+" in data[2:4]
  word, size, entry, count_size = (8, 8, 20, 8) if large else (4, 4, 12, 2)

  def number(at: int, length: int) -> int:
    return int.from_bytes(data[at : at + length], order)

  start = number(8 if large else 4, size)
  count, first = number(start, count_size), start + count_size
  if first + count * entry + word > len(data):
    return None
  entries = [data[first + i * entry : first + (i + 1) * entry] for i in range(count)]
  kept = [one for one in entries if int.from_bytes(one[:2], order) in _TIFF_TAGS]
  directory = len(kept).to_bytes(count_size, order) + b"".join(kept) + bytes(word)
  return data[:start] + directory + data[start + len(directory) :]


def without_metadata(data: bytes) -> bytes | None:
  """Returns a JPEG or TIFF with only what its pixels depend on; None for what is no such file."""
  bare = {"JPEG": _bare_jpeg, "TIFF": _bare_tiff}.get(kind_of(data) or "")
  return bare(data) if bare else None


# --- PNG ---

# The key of a PNG without alpha: a level of gray, or three, of 16 bits.
_KEY_BYTES = {0: 2, 2: 6}


class Png(NamedTuple):
  """A PNG file, with the parts that its pixels depend on apart from the rest.

  Attributes:
    data: the file without the chunks that are metadata.
    depth: bits per sample.
    color: 0 gray, 2 RGB, 3 palette, 4 gray with alpha, 6 RGB with alpha.
    key: the content of tRNS: the transparent color, or the alphas of a palette; None without it.
    info: the metadata that are used, by Pillow's names.
  """

  data: bytes
  depth: int
  color: int
  key: bytes | None
  info: dict[str, Any]


def short_key(png: Png) -> bool:
  """Whether the transparent color has too few bytes, of which Pillow says only "no image"."""
  return png.key is not None and len(png.key) < _KEY_BYTES.get(png.color, 0)


def split_png(data: bytes) -> Png | None:
  """Splits a PNG into its parts; returns None for another file.

  Pillow refuses a file with broken metadata, compares keys of fewer than 8 bits with pixels of 8,
  and uses the first picture of an animation, which by PNG's specification static viewers ignore.
  """
  if kind_of(data) != "PNG" or data[12:16] != b"IHDR":
    return None
  view, key, info = memoryview(data), None, {}
  kept: list[bytes | memoryview] = [data[:8]]
  position, pixels = 8, False
  while position + 8 <= len(data):
    length = int.from_bytes(view[position : position + 4], "big")
    kind = bytes(view[position + 4 : position + 8])
    end = position + 12 + length
    chunk = view[position:end]
    body = chunk[8 : 8 + length]
    if not kind.isalpha():
      kept.append(view[position:])  # Pillow raises what is wrong
      break
    if kind == b"tRNS" and key is None and not pixels:
      kept.append(chunk)
      key = bytes(body)
    elif kind[0] & 0x20 == 0 and not (kind == b"IHDR" and position > 8):
      kept.append(chunk)
      pixels |= kind == b"IDAT"
    elif zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big"):
      _read_png_metadata(kind, body, info)
    position = end
    if kind == b"IEND":
      break
  return Png(b"".join(kept), data[24], data[25], key, info)


def _read_png_metadata(kind: bytes, body: memoryview, info: dict[str, Any]) -> None:
  """Adds profile and orientation to `info`, except broken or too large ones."""
  if kind == b"eXIf" and len(body) <= MAX_TEXT_BYTES:
    info["exif"] = b"Exif\0\0" + bytes(body)
  if kind not in (b"iCCP", b"tEXt", b"zTXt", b"iTXt") or len(body) > MAX_PROFILE_BYTES:
    return
  word, _, rest = bytes(body).partition(b"\0")
  keyword = word.decode("latin-1")
  if kind == b"iCCP":
    profile = _inflate(rest[1:], MAX_PROFILE_BYTES) if rest[:1] == b"\0" else None
    if profile is not None:
      info["icc_profile"] = profile
  # Where some programs put the orientation.
  elif keyword in ("Raw profile type exif", "XML:com.adobe.xmp"):
    text: bytes | None = rest
    if kind == b"zTXt":
      text = _inflate(rest[1:], MAX_TEXT_BYTES)
    elif kind == b"iTXt":
      compressed, parts = rest[:1] == b"\1", rest[2:].split(b"\0", 2)
      text = _inflate(parts[-1], MAX_TEXT_BYTES) if compressed else parts[-1]
    if text is not None and len(text) <= MAX_TEXT_BYTES:
      info[keyword] = text.decode("utf-8" if kind == b"iTXt" else "latin-1", "replace")


def _inflate(data: bytes, at_most: int) -> bytes | None:
  """Decompresses zlib's data; None if they are broken or become too large."""
  engine = zlib.decompressobj()
  try:
    inflated = engine.decompress(data, at_most)
  except zlib.error:
    return None
  return None if engine.unconsumed_tail else inflated


def load_png(image: Image.Image, png: Png) -> Image.Image:
  """Decodes a PNG, with its transparent color in the depth of the pixels."""
  image.info.pop("transparency", None)
  image.info.update(png.info)
  key, largest = png.key, 2**png.depth - 1
  if key is None or png.color not in (0, 2, 3):
    image.load()
    return image
  # By the specification, bits above the depth are ignored.
  values = [int.from_bytes(key[i : i + 2], "big") & largest for i in range(0, len(key), 2)]
  if png.color == 3:
    image.info["transparency"] = key[:256]
  elif png.color == 0:
    image.info["transparency"] = values[0] if png.depth == 16 else values[0] * 255 // largest
  elif png.depth == 8:
    image.info["transparency"] = tuple(values[:3])
  image.load()
  if png.color == 2 and png.depth == 16:
    _cut_out_16_bit(image, png.data, values[:3])
  return image


def _cut_out_16_bit(image: Image.Image, data: bytes, key: list[int]) -> None:
  """Makes pixels of a 16-bit RGB color transparent; Pillow has only read their upper bytes."""
  lower: Any = Image.open(io.BytesIO(data), formats=("PNG",))
  lower.tile = [tile._replace(args="RGB;16L") for tile in lower.tile]
  lower.load()
  width, height = image.size
  alpha = np.empty((height, width), np.uint8)
  rows = max(BAND_PIXELS // width, 1)
  for top in range(0, height, rows):
    band = (0, top, width, min(top + rows, height))
    high, low = (np.asarray(half.crop(band)).astype(np.uint16) for half in (image, lower))
    alpha[top : top + rows] = 255 * ((high << 8 | low) != np.array(key, np.uint16)).any(-1)
  image.putalpha(Image.fromarray(alpha))
