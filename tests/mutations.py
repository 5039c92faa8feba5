"""Sound files of all kinds, and what may happen to them: for the fuzz and the property tests.

Everything follows from a random generator, so that a case is its seed.
"""

import io
import json
import struct
import zipfile
from collections.abc import Callable

import numpy as np
from image_files import png, png_chunk
from PIL import Image
from safetensors.numpy import save

SPECIAL = (b"\0", b"\xff", b"\x80", b"\x7f", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff")


def pictures() -> dict[str, bytes]:
  """Small files of every format, mode and compression that is read."""
  rng = np.random.default_rng(0)
  pixels = rng.integers(0, 256, (19, 23, 3), np.uint8)
  photo = Image.fromarray(pixels)
  gray, palette = photo.convert("L"), photo.quantize(16)
  alpha = photo.convert("RGBA")
  alpha.putalpha(gray)
  exif = Image.Exif()
  exif[0x0112] = 6
  made: dict[str, bytes] = {}

  def add(name: str, image: Image.Image, kind: str, **options) -> None:
    file = io.BytesIO()
    image.save(file, kind, **options)
    made[name] = file.getvalue()

  for name, image in (("rgb", photo), ("l", gray), ("p", palette), ("rgba", alpha)):
    add(f"png-{name}", image, "PNG", exif=exif)
    add(f"tiff-{name}", image, "TIFF")
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits"):
      add(f"tiff-{name}-{compression}", image, "TIFF", compression=compression)
  add("tiff-1", photo.convert("1"), "TIFF", compression="group4")
  add("tiff-jpeg", photo, "TIFF", compression="jpeg")
  add("tiff-16", Image.fromarray(pixels[..., 0].astype(np.uint16) * 257), "TIFF")
  add("tiff-cmyk", photo.convert("CMYK"), "TIFF")
  for progressive in (False, True):
    add(f"jpeg-{progressive}", photo, "JPEG", progressive=progressive, exif=exif)
    add(f"jpeg-cmyk-{progressive}", photo.convert("CMYK"), "JPEG", progressive=progressive)
  add("jpeg-l", gray, "JPEG")
  add("gif", palette, "GIF", transparency=3)
  add("gif-animated", palette, "GIF", save_all=True, append_images=[palette.rotate(90)])
  add("webp", photo, "WEBP", exif=exif)
  add("webp-lossless", alpha, "WEBP", lossless=True)
  add("webp-animated", photo, "WEBP", save_all=True, append_images=[photo.rotate(90)])
  add("bmp", photo, "BMP")
  add("bmp-p", palette, "BMP")
  rle = struct.pack("<IiiHHIIiiII", 40, 8, 2, 1, 8, 1, 8, 0, 0, 4, 4) + bytes(range(16))
  body = b"\4\1\4\2\0\0\3\1\0\5\1\2\3\1\2\0\0\1"
  made["bmp-rle"] = b"BM" + struct.pack("<IHHI", 14 + len(rle) + len(body), 0, 0, 70) + rle + body
  for depth, color, channels in (
    (1, 0, 1),
    (2, 0, 1),
    (4, 0, 1),
    (16, 0, 1),
    (16, 2, 3),
    (8, 2, 3),
  ):
    samples = rng.integers(0, 2**depth, (5, 9, channels))
    key = struct.pack(f">{channels}H", *samples[0, 0])
    chunks = [png_chunk(b"tRNS", key), png_chunk(b"tEXt", b"a\0b")]
    made[f"png-{depth}-{color}"] = png(samples, depth, color, chunks)
  for depth, color, channels in ((8, 4, 2), (16, 4, 2), (16, 6, 4)):
    samples = rng.integers(0, 2**depth, (5, 9, channels))
    made[f"png-{depth}-{color}"] = png(samples, depth, color)
  return made


def model_files() -> dict[str, bytes]:
  """Small files of the containers that weights come in; none is a whole model."""
  tensors = {
    "features.0.weight": np.zeros((64, 3, 3, 3), np.float16),
    "features.0.bias": np.zeros(64, np.float32),
    "decoder/conv1_2/bias": np.zeros(3, np.float32),
  }
  settings = {"style_dim": 8, "kernel_size": 3, "encoder_width": 8, "style_size": 64}
  bundle = {
    "format": "adaconv_jax.bundle",
    "version": "1",
    "model": json.dumps({"transform": "adaconv", "settings": settings}),
    "vgg": json.dumps({"arch": "vgg16", "padding": "reflect", "sha256": "0" * 64}),
    "info": "{}",
    "sha256": "0" * 64,
  }
  vgg = {"format": "adaconv_jax.vgg", "version": "1", "arch": "vgg16", "last": "relu1_1"}
  archive = io.BytesIO()
  storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\1\0\0\x000X\3\0\0\0cpuK\1tQ"
  tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage
  tensor += b"K\0K\1\x85K\1\x85\x89ccollections\nOrderedDict\n)RtR"
  code = b"\x80\x02}X\1\0\0\0a" + tensor + b"s."
  with zipfile.ZipFile(archive, "w") as file:
    file.writestr("x/data.pkl", code)
    file.writestr("x/data/0", bytes(4))
    file.writestr("x/version", "3\n")
  number = b"\x80\x02K\5."
  return {
    "published": save(tensors),
    "bundle": save(tensors, bundle),
    "vgg": save(tensors, vgg),
    "pth": archive.getvalue(),
    "old pth": number * 3 + code + number + bytes(12),
  }


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
  """Flips, overwrites, inserts, repeats, cuts out or cuts off some bytes of `data`."""
  changed = bytearray(data)
  for _ in range(int(rng.integers(1, 6))):
    if not changed:
      break
    at = int(rng.integers(len(changed)))
    # Headers decide more than pixels do.
    at = at % 64 if rng.random() < 0.3 else at
    length = int(rng.integers(1, 9))
    action = int(rng.integers(7))
    if action == 0:
      changed[at] ^= 1 << int(rng.integers(8))
    elif action == 1:
      changed[at] = int(rng.integers(256))
    elif action == 2:
      special = SPECIAL[int(rng.integers(len(SPECIAL)))]
      changed[at : at + len(special)] = special
    elif action == 3:
      changed[at:at] = bytes(rng.integers(0, 256, length, np.uint8))
    elif action == 4:
      changed[at:at] = changed[at : at + 8 * length]
    elif action == 5:
      del changed[at : at + length]
    elif rng.random() < 0.3:
      del changed[at:]
  return bytes(changed)


Check = Callable[[bytes], str]  # of a file, to what came of it
