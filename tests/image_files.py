"""Image files by hand, from the specifications: what Pillow's writers do not make."""

import struct
import zlib
from collections.abc import Mapping, Sequence

import numpy as np


def png_chunk(kind: bytes, body: bytes) -> bytes:
  return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
  samples: np.ndarray,
  depth: int,
  color: int,
  before: Sequence[bytes] = (),
  after: Sequence[bytes] = (),
) -> bytes:
  """A PNG of `[h, w, channels]` samples with chunks before and after its pixels."""
  height, width, _ = samples.shape
  header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
  rows = b""
  for row in samples.reshape(height, -1):
    bits = "".join(f"{int(sample):0{depth}b}" for sample in row)
    bits += "0" * (-len(bits) % 8)
    rows += b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big")
  chunks = [
    png_chunk(b"IHDR", header),
    *before,
    png_chunk(b"IDAT", zlib.compress(rows)),
    *after,
    png_chunk(b"IEND", b""),
  ]
  return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def tiff(tags: Mapping[int, int | tuple[int, ...]], data: bytes, at_tag: int = 273) -> bytes:
  """A little-endian TIFF of one strip or tile of `data`, whose offset goes to `at_tag`."""
  tags = dict(tags)
  body, offset = b"", 8 + 2 + 12 * (len(tags) + 1) + 4
  entries = []
  for tag, value in sorted({**tags, at_tag: -1}.items()):
    if value == -1:
      entries.append((tag, 4, 1, None))
      continue
    values = value if isinstance(value, tuple) else (value,)
    if len(values) == 1:
      entries.append((tag, 4, 1, struct.pack("<I", values[0])))
    else:
      packed = struct.pack(f"<{len(values)}H", *values)
      if len(packed) <= 4:
        entries.append((tag, 3, len(values), packed.ljust(4, b"\0")))
      else:
        entries.append((tag, 3, len(values), struct.pack("<I", offset + len(body))))
        body += packed
  where = struct.pack("<I", offset + len(body))
  table = b"".join(struct.pack("<HHI", t, k, n) + (v or where) for t, k, n, v in entries)
  return b"II*\0" + struct.pack("<IH", 8, len(entries)) + table + struct.pack("<I", 0) + body + data
