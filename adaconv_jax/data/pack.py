"""Packs images into a packed set: checked, upright, sRGB, scaled down, in a few large files.

Every shard depends only on its images and on the settings, so the files are the same whatever the
number of workers. A shard that is complete gets a list of its own beside it; a killed run goes on
after those. When all are there, their lists become the index.

Names and sizes of the images are compared with those of an earlier run, and what the file system or
the bucket says of when they were written. Where only the latter differs, as after copying them, the
bytes are compared, which takes reading, but no decoding. Images that could not be read then are
tried again.
"""

import collections
import dataclasses
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from adaconv_jax.data.manifest import UNREAD, check_read, digest
from adaconv_jax.data.packed import (
  INDEX,
  PARTS,
  Entry,
  check_there,
  entry,
  is_packed,
  read_index,
  shard_name,
  shard_sizes,
  to_json,
)
from adaconv_jax.data.records import write_shard
from adaconv_jax.data.sources import Source
from adaconv_jax.files import MAX_LIST_BYTES, expand, is_remote, naming_option, read_json, replacing
from adaconv_jax.images import (
  FILES,
  MAX_FILE_BYTES,
  ImageError,
  decode,
  is_plain_jpeg,
  resize_shorter,
)
from adaconv_jax.lock import NAME as LOCK
from adaconv_jax.lock import locked

# Images of a shard: 50 MB of photos, and what a killed run does again.
SHARD_IMAGES = 1000
# Images that are prepared before the shard takes them, for each worker.
_AHEAD = 4


@dataclasses.dataclass(frozen=True)
class Settings:
  """How images are packed.

  Attributes:
    size: pixels of the shorter side that larger images are scaled down to.
    quality: of the JPEGs that are written, 1 to 100.
  """

  size: int = 512
  quality: int = 95


@dataclasses.dataclass(frozen=True)
class Packed:
  """A finished packed set.

  Attributes:
    images: number of images.
    bytes: of all of them.
    skipped: name and reason of each one that is not in it.
    kept: number of images that an earlier run had packed.
  """

  images: int
  bytes: int
  skipped: list[tuple[str, str]]
  kept: int


class _Origin(NamedTuple):
  """What the images of a shard were.

  Attributes:
    versions: a hash of what `Source.versions` says of them.
    contents: a hash of their bytes.
  """

  versions: str
  contents: str


@dataclasses.dataclass(frozen=True)
class _Shard:
  """A shard, as its list describes it."""

  entries: list[Entry]
  skipped: list[tuple[str, str]]
  origin: _Origin


def prepare(data: bytes, *, name: str, settings: Settings) -> tuple[bytes, tuple[int, int]]:
  """Checks an image and makes what is packed.

  A JPEG that is upright, sRGB and small enough stays as it is, byte for byte. All others are
  written as JPEGs with full color resolution.

  Args:
    data: the file.
    name: what errors call it.
    settings: how.

  Returns:
    A JPEG file, and its width and height.

  Raises:
    ImageError: see `images.decode`.
  """
  image = decode(data, name=name, at_least=settings.size)
  if is_plain_jpeg(data, settings.size):
    return data, image.size
  if min(image.size) > settings.size:
    image = resize_shorter(image, settings.size, name=name)
  file = io.BytesIO()
  try:
    image.save(file, "JPEG", quality=settings.quality, subsampling=0)
  except (OSError, ValueError) as error:  # more than 65,500 pixels on a side
    raise ImageError(f"{name}: JPEG cannot hold {image.width} x {image.height} pixels") from error
  return file.getvalue(), image.size


def pack(
  source: Source,
  output: str | Path,
  settings: Settings,
  *,
  workers: int = 1,
  progress: Callable[[int], object] = lambda count: None,
) -> Packed:
  """Packs all images of `source` that can be read.

  Args:
    source: from `open_source`.
    output: the folder, on a disk or in a bucket; an earlier run in it is gone on with.
    settings: how images are packed.
    workers: number of threads.
    progress: called with the number of images that are done since the last call.

  Raises:
    ValueError: no image is usable, or more than a tenth cannot be read; `output` has another packed
      set, one of images that were changed since then, one without images that can be read now, or
      one that is damaged.
    WorkdirInUse: another process packs there.
    OSError: `output` cannot be written to.
  """
  folder = expand(output)
  identity = _identity(source, settings)
  if is_packed(folder):
    return _packed(source, folder, identity, workers, progress)
  # Two processes would replace each other's shards, which an index does not fit then.
  with locked(folder, "output", "packing") as still_ours:
    if is_packed(folder):  # since then
      return _packed(source, folder, identity, workers, progress)
    packed = _pack(source, folder, settings, identity, workers, progress, still_ours)
    if not is_remote(folder):  # where the lock removes itself
      (folder / LOCK).unlink(missing_ok=True)
    return packed


def _packed(
  source: Source,
  folder: Path,
  identity: str,
  workers: int,
  progress: Callable[[int], object],
) -> Packed:
  """Returns the set that an earlier run has packed; see `pack`."""
  with naming_option("--output"):
    entries, index = read_index(folder)
  if index.get("identity") != identity:
    raise ValueError(
      f"--output: {folder}: has a packed set of other images or settings; {_OTHER_FOLDER}"
    )
  sizes = shard_sizes(folder, entries)
  try:
    for found in entries:
      check_there(folder, found, sizes)
  except OSError as error:
    raise ValueError(
      f"--output: {folder}: damaged ({error.strerror or error}); {_OTHER_FOLDER}"
    ) from error
  numbers = range(-(-len(source) // SHARD_IMAGES))
  origins = _origins(index.get("origins"), numbers)  # older sets have none
  versions = _versions(source)
  for number in numbers if origins else ():
    if not _is_unchanged(source, number, origins[number], versions[number], workers):
      names = [source.names[at] for at in _indices(number, len(source))]
      raise ValueError(
        f"--output: {folder}: has a packed set of these names, but an image from {names[0]} to "
        f"{names[-1]} was changed since then; {_OTHER_FOLDER}"
      )
  skipped = index["skipped"]
  if back := _readable_now(source, skipped, workers):
    raise ValueError(
      f"--output: {folder}: has a packed set without {len(back)} images that could not be read "
      f"then, and can be now, the first: {back[0]}; {_OTHER_FOLDER}"
    )
  progress(len(source))
  _tidy(folder, entries)
  return Packed(len(entries), sum(e.length for e in entries), skipped, len(entries))


_OTHER_FOLDER = "use another folder, or delete this one to pack the images again"


def _pack(
  source: Source,
  folder: Path,
  settings: Settings,
  identity: str,
  workers: int,
  progress: Callable[[int], object],
  still_ours: Callable[[], None],
) -> Packed:
  """Packs what an earlier run has not packed; see `pack`."""
  numbers = range(-(-len(source) // SHARD_IMAGES))
  versions = _versions(source)
  there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
  shards: dict[int, _Shard] = {}
  for number in numbers:
    if _list_name(number) in there and (found := _read_list(folder, number, identity)):
      unchanged = _is_unchanged(source, number, found.origin, versions[number], workers)
      if unchanged and not _readable_now(source, found.skipped, workers):
        origin = found.origin._replace(versions=versions[number])
        shards[number] = dataclasses.replace(found, origin=origin)
  kept = sum(len(shard.entries) for shard in shards.values())
  progress(sum(len(shard.entries) + len(shard.skipped) for shard in shards.values()))
  missing = [number for number in numbers if number not in shards]
  for number, shard in _make(
    source, folder, settings, identity, versions, missing, workers, progress
  ):
    still_ours()  # another run writes the same files, maybe of other images
    shards[number] = shard
  entries = [found for number in numbers for found in shards[number].entries]
  skipped = [pair for number in numbers for pair in shards[number].skipped]
  check_read("--input", source, skipped)
  if not entries:
    raise ValueError(
      f"none of the {len(source)} images is usable, the first: {skipped[0][0]}: {skipped[0][1]}"
    )
  still_ours()
  with replacing(folder / INDEX) as temporary:
    about = dataclasses.asdict(settings) | {"identity": identity}
    about["origins"] = [shards[number].origin for number in numbers]
    temporary.write_text(to_json(entries, skipped, **about), "ascii")
  _tidy(folder, entries)
  return Packed(len(entries), sum(found.length for found in entries), skipped, kept)


def _tidy(folder: Path, entries: Sequence[Entry]) -> None:
  """Removes the lists of shards, and the shards of an earlier run on more images.

  Those would be read by tools that take all files of the folder.
  """
  used = {shard_name(number) for number in {found.shard for found in entries}}
  for path in list(folder.iterdir()):
    if PARTS.fullmatch(path.name) and path.name not in used:
      path.unlink(missing_ok=True)


def _make(
  source: Source,
  folder: Path,
  settings: Settings,
  identity: str,
  versions: Sequence[str],
  numbers: Sequence[int],
  workers: int,
  progress: Callable[[int], object],
) -> Iterator[tuple[int, _Shard]]:
  """Makes shards, and yields those that are complete."""
  pool, writer = ThreadPoolExecutor(workers), ThreadPoolExecutor(1)
  writing: collections.deque[tuple[int, Future[_Shard]]] = collections.deque()
  try:
    indices = [index for number in numbers for index in _indices(number, len(source))]
    results = _in_order(
      pool, lambda index: _examine(source, index, settings), indices, _AHEAD * workers
    )
    for number in numbers:
      images = []
      for _ in _indices(number, len(source)):
        images.append(next(results))
        progress(1)
      # While one shard is written, another one is prepared, but no third: they are in memory.
      if writing:
        yield writing[0][0], writing.popleft()[1].result()
      future = writer.submit(_write, folder, number, images, identity, versions[number])
      writing.append((number, future))
    for number, future in writing:
      yield number, future.result()
  finally:
    pool.shutdown(cancel_futures=True)
    writer.shutdown(cancel_futures=True)


def _in_order(
  pool: ThreadPoolExecutor,
  action: Callable[[int], "_Image"],
  indices: Sequence[int],
  ahead: int,
) -> Iterator["_Image"]:
  """Yields `action` of every index in order; not more than `ahead` are done or waiting."""
  running: collections.deque[Future[_Image]] = collections.deque()
  for index in indices:
    running.append(pool.submit(action, index))
    if len(running) >= ahead:
      yield running.popleft().result()
  for future in running:
    yield future.result()


@dataclasses.dataclass(frozen=True)
class _Image:
  """What became of an image: its JPEG, or why there is none; and the digest of its file."""

  name: str
  source: str
  data: bytes = b""
  size: tuple[int, int] = (0, 0)
  reason: str = ""


def _examine(source: Source, index: int, settings: Settings) -> _Image:
  name, found = source.names[index], ""
  try:
    # All threads together keep a bounded number of bytes of files.
    with FILES.hold(min(source.size(index) or 0, MAX_FILE_BYTES)):
      _, data = source[index]
      found = digest(data)
      return _Image(name, found, *prepare(data, name=name, settings=settings))
  except ConnectionError:
    raise  # a bucket that does not answer is no broken image
  except OSError as error:
    return _Image(name, found, reason=f"{UNREAD} ({error.strerror or error})")
  except ImageError as error:
    return _Image(name, found, reason=str(error).removeprefix(f"{name}: "))


def _digest(source: Source, index: int) -> str:
  """Returns the digest of a file, as `_examine` does; "" if it cannot be read."""
  try:
    with FILES.hold(min(source.size(index) or 0, MAX_FILE_BYTES)):
      return digest(source[index][1])
  except ConnectionError:
    raise
  except (OSError, ImageError):
    return ""


def _write(
  folder: Path, number: int, images: Sequence[_Image], identity: str, versions: str
) -> _Shard:
  """Writes a shard, and after it its list."""
  # First: the list of another run must not be taken for one of the new shard.
  (folder / _list_name(number)).unlink(missing_ok=True)
  usable = [image for image in images if not image.reason]
  entries = []
  if usable:
    with replacing(folder / shard_name(number)) as temporary:
      places = write_shard(temporary, [image.data for image in usable])
    for image, place in zip(usable, places, strict=True):
      entries.append(Entry(image.name, number, *place, *image.size, digest(image.data)))
  skipped = [(image.name, image.reason) for image in images if image.reason]
  origin = _Origin(versions, _hash([image.source for image in images]))
  with replacing(folder / _list_name(number)) as temporary:
    text = to_json(entries, skipped, identity=identity, origins=[origin])
    temporary.write_text(text, "ascii")
  return _Shard(entries, skipped, origin)


def _read_list(folder: Path, number: int, identity: str) -> _Shard | None:
  """Reads the list of a shard.

  Returns:
    None for one of other images or settings, a damaged one, or one of a shard that is not there.
  """
  try:
    listed = read_json(folder / _list_name(number), at_most=MAX_LIST_BYTES)
    if listed["identity"] != identity:
      return None
    skipped = [(str(name), str(reason)) for name, reason in listed["skipped"]]
    entries = [entry(values) for values in listed["images"]]
    sizes = shard_sizes(folder, entries)
    for found in entries:
      check_there(folder, found, sizes)
    return _Shard(entries, skipped, _origins(listed["origins"], range(1))[0])
  except ConnectionError:
    raise
  except (OSError, LookupError, TypeError, ValueError):
    return None


def _origins(values: object, numbers: range) -> list[_Origin]:
  """Returns the origins of shards from a file; none if it has none, or those of other shards."""
  if not isinstance(values, list) or len(values) != len(numbers):
    return []
  if any(not isinstance(value, list) or len(value) != len(_Origin._fields) for value in values):
    return []
  return [_Origin(*map(str, value)) for value in values]


def _versions(source: Source) -> list[str]:
  """Returns a hash of the versions of the images of every shard."""
  versions = source.versions()
  numbers = range(-(-len(source) // SHARD_IMAGES))
  return [_hash([versions[at] for at in _indices(number, len(source))]) for number in numbers]


def _is_unchanged(
  source: Source, number: int, origin: _Origin, versions: str, workers: int
) -> bool:
  """Whether the images of a shard are those that it was made of."""
  if origin.versions == versions:
    return True
  with ThreadPoolExecutor(workers) as pool:
    digests = pool.map(lambda at: _digest(source, at), _indices(number, len(source)))
    return origin.contents == _hash(list(digests))


def _readable_now(source: Source, skipped: Sequence[tuple[str, str]], workers: int) -> list[str]:
  """Returns the names of skipped images whose files could not be read, and can be now."""
  names = [name for name, reason in skipped if reason.startswith(UNREAD)]
  places = {name: at for at, name in enumerate(source.names)} if names else {}
  with ThreadPoolExecutor(workers) as pool:
    digests = list(pool.map(lambda name: _digest(source, places[name]), names))
  return [name for name, found in zip(names, digests, strict=True) if found]


def _hash(values: Sequence[str | None]) -> str:
  return digest(json.dumps(values).encode())


def _size(source: Source, index: int) -> int | None:
  """Returns the bytes of a file; None for one that will be skipped, such as a broken link."""
  try:
    return source.size(index)
  except ConnectionError:
    raise
  except OSError:
    return None


def _list_name(number: int) -> str:
  return f"images-{number:05}.json"


def _indices(number: int, count: int) -> range:
  return range(number * SHARD_IMAGES, min((number + 1) * SHARD_IMAGES, count))


def _identity(source: Source, settings: Settings) -> str:
  """Returns a hash of the settings, and of names and sizes of the files."""
  named = [(name, _size(source, index)) for index, name in enumerate(source.names)]
  described = [dataclasses.asdict(settings), SHARD_IMAGES, named]
  return hashlib.sha256(json.dumps(described).encode()).hexdigest()
