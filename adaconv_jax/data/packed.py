"""Packed sets: images in a few large files, checked once, with an index of what is in them.

A packed set is a folder with `images-NNNNN.array_record` and `packed.json`, which lists for every
image its name, its place, its size in pixels and a digest. So a training starts from the index, and
decodes nothing before its first batch.
"""

import errno
import json
import math
import re
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from adaconv_jax.data.records import Place, end_of, ends_before, read_record
from adaconv_jax.files import MAX_LIST_BYTES, Json, expand, is_remote, read_json
from adaconv_jax.images import MAX_FILE_BYTES, ImageError

INDEX = "packed.json"
FORMAT = "adaconv_jax.packed"
VERSION = 1
# Shards and, until all are complete, their lists.
PARTS = re.compile(r"images-\d{5,}\.(array_record|json)")
_WAY_OUT = "restore the file, or delete the folder and pack the images again"


class Entry(NamedTuple):
  """An image of a packed set.

  Attributes:
    name: relative to the folder that was packed.
    shard: number of the file.
    offset: its first byte in the file.
    length: its number of bytes.
    width: in pixels.
    height: in pixels.
    digest: `manifest.digest` of its bytes.
  """

  name: str
  shard: int
  offset: int
  length: int
  width: int
  height: int
  digest: str


def shard_name(number: int) -> str:
  """Returns the name of a file with images."""
  return f"images-{number:05}.array_record"


def is_packed(folder: Path) -> bool:
  """Whether a folder is a packed set; one that is not finished has no index yet."""
  return (folder / INDEX).exists()


def is_begun(folder: Path) -> bool:
  """Whether a folder has files of a packed set, finished or not."""
  return any(PARTS.fullmatch(path.name) for path in folder.iterdir())


def read_index(folder: Path) -> tuple[list[Entry], Json]:
  """Reads the index of a packed set.

  Returns:
    The images, and all that the index says.

  Raises:
    ValueError: it is damaged or from a newer version.
    OSError: it cannot be read.
  """
  path = folder / INDEX
  try:
    index = read_json(path, at_most=MAX_LIST_BYTES)
  except ValueError as error:
    raise ValueError(f"{error}; {_WAY_OUT}") from error
  if not isinstance(index, dict) or index.get("format") != FORMAT:
    raise ValueError(f"{path}: not the index of a packed set; {_WAY_OUT}")
  if index.get("version") != VERSION:
    raise ValueError(f"{path}: version {index.get('version')!r}, this package reads {VERSION}")
  try:
    entries = [entry(values) for values in index["images"]]
    index["skipped"] = [(str(name), str(reason)) for name, reason in index["skipped"]]
    if len({found.name for found in entries}) != len(entries):
      raise ValueError("two images have one name")
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError(f"{path}: damaged ({error!r}); {_WAY_OUT}") from error
  if not entries:
    raise ValueError(f"{path}: damaged (it lists no image); {_WAY_OUT}")
  return entries, index


def shard_sizes(folder: Path, entries: Sequence[Entry]) -> dict[int, float]:
  """Returns the bytes of those files that the images of an index are in and that are there.

  Raises:
    ConnectionError: the bucket does not answer.
  """
  numbers = {found.shard for found in entries}
  sizes: dict[int, float] = {}
  if is_remote(folder):
    listed = folder.find()
    return {number: listed[name] for number in numbers if (name := shard_name(number)) in listed}
  for number in numbers:
    try:
      status = (folder / shard_name(number)).stat()
    except FileNotFoundError:
      continue
    except OSError:
      sizes[number] = math.inf  # reading it says what is wrong, also with a pipe
    else:
      sizes[number] = status.st_size if stat.S_ISREG(status.st_mode) else math.inf
  return sizes


def check_there(folder: Path, found: Entry, sizes: Mapping[int, float]) -> None:
  """Checks that the file of an image is there and long enough, without reading it.

  Raises:
    OSError: it is not.
  """
  name = shard_name(found.shard)
  if found.shard not in sizes:
    raise FileNotFoundError(errno.ENOENT, f"{name} is missing", str(folder / name))
  end = end_of(Place(found.offset, found.length))
  if end > sizes[found.shard]:
    raise OSError(ends_before(folder / name, end))


def entry(values: Sequence[object]) -> Entry:
  """Checks the values of an `Entry` from a file.

  Raises:
    TypeError: they are of other types.
    ValueError: they are too few, too many, or negative.
  """
  name, *numbers, digest = values
  if len(numbers) != 5 or not isinstance(name, str) or not isinstance(digest, str):
    raise TypeError(f"expected a name, five numbers and a digest, got {list(values)!r}")
  counts = []
  for number in numbers:
    if not isinstance(number, int) or number < 0:
      raise ValueError(f"expected whole numbers of at least 0, got {number!r}")
    counts.append(number)
  shard, offset, length, width, height = counts
  return Entry(name, shard, offset, length, width, height, digest)


class PackedSource:
  """The images of a packed set, on a disk or in a bucket; see `sources.Source`.

  Attributes:
    entries: what the index lists of them.
  """

  def __init__(self, folder: str | Path):
    self.spec = str(folder)
    self._folder = expand(folder)
    self.entries = read_index(self._folder)[0]
    self.names: Sequence[str] = [entry.name for entry in self.entries]
    self._sizes = shard_sizes(self._folder, self.entries)

  def __len__(self) -> int:
    return len(self.names)

  def __getitem__(self, index: int) -> tuple[str, bytes]:
    name, shard, offset, length, *_ = self.entries[index]
    if length > MAX_FILE_BYTES:
      raise ImageError(
        f"{name}: expected at most {MAX_FILE_BYTES / 1e6:.0f} MB, its index says {length / 1e6:.0f}"
      )
    check_there(self._folder, self.entries[index], self._sizes)
    file = self._folder / shard_name(shard)
    try:
      return name, read_record(file, Place(offset, length))
    except ValueError as error:
      raise ImageError(f"{name}: {error}") from error

  def size(self, index: int) -> int | None:
    """Returns the size that the index lists; a record that differs is found when it is read.

    Raises:
      OSError: the record's file was missing or too short when the set was opened.
    """
    check_there(self._folder, self.entries[index], self._sizes)
    return self.entries[index].length

  def versions(self) -> Sequence[str | None]:
    """Returns the digests."""
    return [entry.digest for entry in self.entries]


def to_json(
  entries: Sequence[Entry], skipped: Sequence[tuple[str, str]], **settings: object
) -> str:
  """Returns the text of an index, with an image in each line."""
  head = {"format": FORMAT, "version": VERSION, **settings}
  lines = [json.dumps(list(entry)) for entry in entries]
  rest = [json.dumps(list(pair)) for pair in skipped]
  return (
    json.dumps(head)[:-1]
    + ',\n"images": [\n' + ",\n".join(lines)
    + '\n],\n"skipped": [\n' + ",\n".join(rest)
    + "\n]}\n"
  )  # fmt: skip
