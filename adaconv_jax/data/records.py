"""ArrayRecord shards: written by the library, and read by ranges of bytes, from a disk or a bucket.

The library's reader needs a local file. For a record that is stored uncompressed in a chunk of its
own, place and length in the file are enough, and reading it is one request. ArrayRecord files are
Riegeli files: blocks of 64 KiB, each of which begins with a header that is no part of the data. A
chunk is a header and data; in a simple chunk with one record these are a byte for the compression,
the length of the record's length, the record's length (both as varints), and the record.
"""

import errno
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from adaconv_jax.files import in_bucket, open_regular

# A record for each chunk, and as it is: JPEGs cannot be compressed.
OPTIONS = "group_size:1,uncompressed"
BLOCK_BYTES, BLOCK_HEADER_BYTES, CHUNK_HEADER_BYTES = 2**16, 24, 40
_SIMPLE = ord("r")
_ANY_SIZE = 2**62  # of a shard, of which records are read


class Place(NamedTuple):
  """Where a record is in its file: the first byte, and the number of bytes without headers."""

  offset: int
  length: int


def write_shard(path: Path, records: Sequence[bytes]) -> list[Place]:
  """Writes records to a local ArrayRecord file.

  Returns:
    The place of every record.

  Raises:
    OSError: the file cannot be written, such as on a full disk.
    RuntimeError: the file is not as this module expects; another version of array_record wrote it.
  """
  # A part of Grain, but only training needs it.
  from array_record.python.array_record_module import ArrayRecordWriter

  try:
    writer = ArrayRecordWriter(str(path), OPTIONS)
    for record in records:
      writer.write(record)
    writer.close()
  except RuntimeError as error:  # which the library raises for errors of the disk, too
    raise _of_system(error, path) from error
  data = path.read_bytes()
  places = _find(data, len(records))
  if [_take(data, place) for place in places] != list(records):
    raise RuntimeError(
      f"{path}: this version of array_record writes files of another kind; install the version of "
      "array_record that this package was tested with, 0.8"
    )
  return places


def read_record(path: str | os.PathLike[str], place: Place) -> bytes:
  """Reads one record; the caller compares its digest.

  Raises:
    OSError: the file cannot be read or is too short.
    ValueError: it is not a regular file.
  """
  end = end_of(place)
  if (remote := in_bucket(path)) is not None:
    data = remote.read_part(place.offset, end)
  else:
    with open_regular(path, at_most=_ANY_SIZE) as file:
      # First, because the place is from an index, which may say anything.
      if end > os.fstat(file.fileno()).st_size:
        raise OSError(ends_before(path, end))
      data = os.pread(file.fileno(), end - place.offset, place.offset)
  if len(data) != end - place.offset:
    raise OSError(ends_before(path, end))
  return _without_headers(data, place.offset)


def end_of(place: Place) -> int:
  """Returns the position in the file behind a record."""
  return _advance(place.offset, place.length)


def _of_system(error: RuntimeError, path: Path) -> OSError:
  """Returns the system's error that the library's text has, of the file."""
  numbers = (number for number in errno.errorcode if os.strerror(number) in str(error))
  number = next(numbers, errno.EIO)
  return OSError(number, os.strerror(number), os.fspath(path))


def ends_before(path: str | os.PathLike[str], end: int) -> str:
  """Says that a file is too short for what it should have up to byte `end`."""
  return f"{os.fspath(path)}: ends before byte {end}; it is not the file that was packed"


def _begin(position: int) -> int:
  """The first byte of data from `position` on: after the block's header, if it is in there."""
  inside = position % BLOCK_BYTES
  return position + max(0, BLOCK_HEADER_BYTES - inside)


def _advance(position: int, count: int) -> int:
  """The position after `count` bytes of data from `position` on."""
  position = _begin(position)
  room = BLOCK_BYTES - position % BLOCK_BYTES
  if count <= room:
    return position + count
  blocks, rest = divmod(count - room - 1, BLOCK_BYTES - BLOCK_HEADER_BYTES)
  return position + room + blocks * BLOCK_BYTES + BLOCK_HEADER_BYTES + rest + 1


def _without_headers(data: bytes, offset: int) -> bytes:
  """Takes the headers of blocks out of the bytes from `offset` on."""
  parts, position = [], _begin(offset) - offset
  while position < len(data):
    end = position + BLOCK_BYTES - (offset + position) % BLOCK_BYTES
    parts.append(data[position:end])
    position = end + BLOCK_HEADER_BYTES
  return b"".join(parts)


def _take(data: bytes, place: Place) -> bytes:
  end = _advance(place.offset, place.length)
  return _without_headers(data[place.offset : end], place.offset)


def _find(data: bytes, count: int) -> list[Place]:
  """Finds the first `count` records of a file."""
  places: list[Place] = []
  chunk = 0
  while len(places) < count and chunk < len(data):
    chunk = _begin(chunk)
    header = _take(data, Place(chunk, CHUNK_HEADER_BYTES))
    _, size, _, kind, _ = struct.unpack("<QQQQQ", header)
    if kind & 0xFF == _SIMPLE:
      begin = _begin(_advance(chunk, CHUNK_HEADER_BYTES))
      head = _take(data, Place(begin, min(size, 21)))  # a byte and two varints of at most 10
      sizes, position = _varint(head, 1)
      length, _ = _varint(head, position)
      places.append(Place(_begin(_advance(begin, position + sizes)), length))
    chunk = _advance(chunk, CHUNK_HEADER_BYTES + size)
  return places


def _varint(data: bytes, position: int) -> tuple[int, int]:
  """Returns a number of 7 bits per byte, lowest first, and the position after it."""
  value = shift = 0
  while True:
    byte = data[position]
    value |= (byte & 0x7F) << shift
    position, shift = position + 1, shift + 7
    if byte < 0x80:
      return value, position
