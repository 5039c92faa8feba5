"""The list of images that a run trains on, without unusable and held-out ones.

`scan` decodes every image once before the training starts, so unusable ones are reported then and
not at step 90,000. The `Manifest` that it returns is saved with the run: a resumed run trains on
exactly the same list, without another scan. `Images` reads the images of the list, and compares
their bytes with the digests in it.
"""

import collections
import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Self

from adaconv_jax.bars import Bar
from adaconv_jax.data.packed import Entry, PackedSource
from adaconv_jax.data.sources import Source, open_source
from adaconv_jax.files import MAX_LIST_BYTES, expand, parse_json, printable, read_regular
from adaconv_jax.images import FILES, MAX_FILE_BYTES, ImageError, decode

log = logging.getLogger(__name__)

# Number of images whose bytes are compared when a run is resumed; the others are on first use.
_COMPARED_AT_START = 200
# How the reason of an image begins that was not even read.
UNREAD = "cannot be read"
# More of these than both are a folder that has gone away, and no broken images.
FEW_UNREAD, UNREAD_SHARE = 10, 0.1
_WAY_OUT = "restore it, or start a new run in another workdir"


@dataclasses.dataclass(frozen=True)
class Manifest:
  """The images that a run trains on.

  Attributes:
    role: "content" or "style".
    spec: the argument of `open_source`.
    kept: name and number of bytes of each usable image, in the order of the source.
    skipped: name and reason of each of the others.
    digests: of each usable image; older manifests have none.
  """

  role: str
  spec: str
  kept: tuple[tuple[str, int], ...]
  skipped: tuple[tuple[str, str], ...] = ()
  digests: tuple[str, ...] = ()

  @property
  def fingerprint(self) -> str:
    """SHA-256 of names, sizes and digests of the kept images."""
    listed = [self.kept, self.digests] if self.digests else self.kept
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()

  def report(self) -> str:
    """Returns a line for the log: how many images, how many skipped, and why."""
    line = f"{self.role}: {len(self.kept)} images from {printable(self.spec)}"
    if not self.skipped:
      return line
    name, reason = self.skipped[0]
    first = printable(f"{name}: {reason}")
    return f"{line}; skipped {self._count_skipped()}, the first: {first}"

  def _count_skipped(self) -> str:
    # "too small (20 x 30)" is counted as "too small".
    kinds = collections.Counter(reason.split(" (")[0] for _, reason in self.skipped)
    counts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    return f"{len(self.skipped)} ({counts})"

  def to_json(self) -> str:
    """Returns JSON text in ASCII, with the fingerprint; file names of any encoding survive."""
    return json.dumps({"fingerprint": self.fingerprint, **dataclasses.asdict(self)}, indent=0)

  @classmethod
  def from_json(cls, text: str) -> Self:
    """Reads what `to_json` wrote.

    Raises:
      ValueError: not such a text, or its list was changed.
    """
    try:
      values = parse_json(text, what="manifest")
      kept = tuple((str(name), int(size)) for name, size in values["kept"])
      skipped = tuple((str(name), str(reason)) for name, reason in values["skipped"])
      digests = tuple(str(digest) for digest in values.get("digests", ()))
      manifest = cls(values["role"], values["spec"], kept, skipped, digests)
      fingerprint = values["fingerprint"]
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
      raise ValueError(f"manifest: not the JSON of a list of images ({error!r})") from error
    if fingerprint != manifest.fingerprint:
      raise ValueError("manifest: its list of images was changed or damaged: wrong fingerprint")
    return manifest


def scan(source: Source, *, role: str, min_size: int) -> Manifest:
  """Decodes every image of `source` once and lists the usable ones.

  It takes a few milliseconds per image and core, because JPEGs are decoded at the lowest resolution
  that still has `min_size` pixels. It shows a progress bar on a terminal if it takes long. Of a
  packed set, it only reads the index.

  Args:
    source: from `open_source`.
    role: "content" or "style", the argument that errors name.
    min_size: pixels that the shorter side of an image must have at least; may be 0.

  Raises:
    ValueError: no image is usable, or more than a tenth cannot be read.
    ConnectionError: it is in a bucket that does not answer, or refuses access.
  """

  def examine(index: int) -> tuple[int, str, str]:
    """Returns size and digest of an image, and why it is not usable, else ""."""
    try:
      # All threads together keep a bounded number of bytes of files.
      with FILES.hold(min(source.size(index) or 0, MAX_FILE_BYTES)):
        name, data = source[index]
        image = decode(data, name=name, at_least=max(min_size, 1))
    except ConnectionError:
      raise  # a bucket that does not answer is no broken image
    except OSError as error:
      return 0, "", f"{UNREAD} ({error.strerror or error})"
    except ImageError as error:
      return 0, "", str(error).removeprefix(f"{source.names[index]}: ")
    width, height = image.size
    if min(width, height) < min_size:
      return 0, "", _too_small(width, height, min_size)
    return len(data), digest(data), ""

  if left_out := getattr(source, "left_out", ""):
    log.warning("%s: %s", role, left_out)
  if isinstance(source, PackedSource):
    return _manifest(role, source, [_packed(entry, min_size) for entry in source.entries])
  # Pillow decodes without the interpreter lock, so threads are enough.
  pool = ThreadPoolExecutor(os.cpu_count())
  try:
    results = pool.map(examine, range(len(source)))
    bar = Bar(results, f"checking {role} images", len(source), unit="image", delay=2)
    found = list(bar)
  finally:
    pool.shutdown(cancel_futures=True)
  return _manifest(role, source, found)


def _packed(entry: Entry, min_size: int) -> tuple[int, str, str]:
  """Returns size and digest of a packed image, which was decoded when it was packed."""
  if min(entry.width, entry.height) < min_size:
    return 0, "", _too_small(entry.width, entry.height, min_size)
  return entry.length, entry.digest, ""


def _too_small(width: int, height: int, min_size: int) -> str:
  return f"too small ({width} x {height}, the shorter side needs {min_size})"


def _manifest(role: str, source: Source, found: Sequence[tuple[int, str, str]]) -> Manifest:
  """Returns the manifest of a source, given size, digest and fault of each image."""
  pairs = list(zip(source.names, found, strict=True))
  kept = tuple((name, size) for name, (size, _, reason) in pairs if not reason)
  digests = tuple(found for _, (_, found, reason) in pairs if not reason)
  skipped = tuple((name, reason) for name, (*_, reason) in pairs if reason)
  check_read(f"config.data.{role}", source, skipped)
  manifest = Manifest(role, source.spec, kept, skipped, digests)
  if not kept:
    raise ValueError(f"config.data.{role}: no usable image. {manifest.report()}")
  return manifest


def check_read(option: str, source: Source, skipped: Sequence[tuple[str, str]]) -> None:
  """Checks that not many images were skipped because their files could not even be read.

  Each by itself is skipped. But a share that is unmounted while it is read, or a bucket that is
  deleted, must not leave what was read before as the whole set.

  Args:
    option: what errors name.
    source: all images.
    skipped: name and reason of each one that is not usable.

  Raises:
    ValueError: more than `FEW_UNREAD`, and more than `UNREAD_SHARE` of all.
  """
  unread = [(name, reason) for name, reason in skipped if reason.startswith(UNREAD)]
  if len(unread) > max(FEW_UNREAD, UNREAD_SHARE * len(source)):
    name, reason = unread[0]
    raise ValueError(
      f"{option}: {len(unread)} of {len(source)} images in {printable(source.spec)} cannot be "
      f"read, the first: {printable(f'{name}: {reason}')}; make them readable or take them out of "
      "the folder, and rerun the same command"
    )


def split_heldout(manifest: Manifest, count: int, seed: int) -> tuple[Manifest, Manifest]:
  """Takes `count` images out of the training list, for sample grids and held-out losses.

  The choice depends only on the names and `seed`: images are ranked by a hash of both.

  Returns:
    The manifests of the training images and of the held-out ones.

  Raises:
    ValueError: no image would be left to train on.
  """
  if not 0 <= count < len(manifest.kept):
    raise ValueError(
      f"config.data.{manifest.role}: cannot hold out {count} of {len(manifest.kept)} usable "
      "images; hold out "
      f"fewer (config.data.heldout_{manifest.role}), or give more images (at least one must remain "
      "to train on)"
    )

  def rank(entry: tuple[str, int]) -> bytes:
    return hashlib.sha256(json.dumps([seed, entry[0]]).encode()).digest()

  return _split(manifest, {name for name, _ in sorted(manifest.kept, key=rank)[:count]})


def split_named(manifest: Manifest, names: Sequence[str]) -> tuple[Manifest, Manifest]:
  """Takes the images of these names out of the training list.

  Returns:
    The manifests of the training images and of the held-out ones, these in the order of `names`.

  Raises:
    ValueError: an image is missing or unusable, or none would be left to train on.
  """
  kept, skipped = {name for name, _ in manifest.kept}, dict(manifest.skipped)
  missing = [name for name in names if name not in kept]
  if missing:
    reason = skipped.get(missing[0], "no such image")
    raise ValueError(
      f"config.data.{manifest.role}: {len(missing)} of the {len(names)} images to hold out are "
      "not usable in "
      f"{manifest.spec}, the first: {missing[0]}: {reason}; names are relative to the folder"
    )
  if kept <= set(names):
    raise ValueError(
      f"config.data.{manifest.role}: all {len(kept)} usable images are held out; list fewer"
    )
  train, heldout = _split(manifest, set(names))
  places = {name: place for place, (name, _) in enumerate(heldout.kept)}
  return train, _take(heldout, [places[name] for name in dict.fromkeys(names)])


def _split(manifest: Manifest, heldout: set[str]) -> tuple[Manifest, Manifest]:
  train, kept_out = (
    _take(manifest, [i for i, (name, _) in enumerate(manifest.kept) if (name in heldout) == out])
    for out in (False, True)
  )
  return train, dataclasses.replace(kept_out, skipped=())


def _take(manifest: Manifest, places: Sequence[int]) -> Manifest:
  """Returns the manifest of the images at these places of the list."""
  return dataclasses.replace(
    manifest,
    kept=tuple(manifest.kept[place] for place in places),
    digests=tuple(manifest.digests[place] for place in places) if manifest.digests else (),
  )


def digest(data: bytes) -> str:
  """Returns a hash of an image's bytes, 16 hexadecimal digits: against mistakes, not attacks."""
  return hashlib.blake2b(data, digest_size=8).hexdigest()


def read_names(path: str | os.PathLike[str]) -> list[str]:
  """Reads a list of images: one name per line, as in a manifest; blank lines are ignored.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it contains no names, or is not a regular file.
  """
  # Names that are not UTF-8 are read as the file system's are.
  text = read_regular(expand(path), at_most=MAX_LIST_BYTES).decode("utf-8", "surrogateescape")
  lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
  names = [line for line in lines if line.strip()]
  if not names:
    raise ValueError(f"{path}: expected names of images, one per line, got none")
  return names


class Images:
  """Random access to name and bytes of the images of a manifest, in its order.

  Attributes:
    role: "content" or "style".
  """

  def __init__(self, manifest: Manifest, *, spec: str | None = None, allowed_broken: int = 0):
    """Finds the images of `manifest` again, without decoding them.

    Args:
      manifest: from `scan`, or from the JSON of an earlier run.
      spec: where the images are now, if they have moved.
      allowed_broken: how many of them may be missing or changed; using one of these is an error.

    Raises:
      ValueError: an image is missing, or the size or the bytes of its file have changed since the
        scan. The bytes of some images are compared now, those of the others when they are used.
    """
    self._source = open_source(spec or manifest.spec, role=manifest.role)
    self._manifest = manifest
    self.role = manifest.role
    positions = {name: index for index, name in enumerate(self._source.names)}
    missing = [name for name, _ in manifest.kept if name not in positions]
    if len(missing) > allowed_broken:
      raise ValueError(
        f"config.data.{manifest.role}: {len(missing)} of {len(manifest.kept)} images are missing "
        "from "
        f"{self._source.spec}, the first: {missing[0]}; {_WAY_OUT}"
      )
    self._indices = [positions.get(name) for name, _ in manifest.kept]
    there = [place for place, index in enumerate(self._indices) if index is not None]
    spread = set(there[:: max(1, len(there) // _COMPARED_AT_START)]) if manifest.digests else set()
    with ThreadPoolExecutor() as pool:  # one `stat` after the other is slow on network file systems
      faults = pool.map(lambda place: self._fault(place, read=place in spread), there)
      changed = [fault for fault in faults if fault]
    if len(missing) + len(changed) > allowed_broken:
      raise ValueError(changed[0])
    if missing or changed:
      log.warning(
        "%s: %d of %d images are missing or changed, others replace them: %s",
        *(self.role, len(missing) + len(changed), len(self)),
        printable(changed[0] if changed else f"{missing[0]} is missing"),
      )

  def _fault(self, place: int, *, read: bool) -> str | None:
    """Returns what is wrong with an image file, by its size or, with `read`, by its bytes."""
    index = self._indices[place]
    assert index is not None
    try:
      if read:
        self._check(place, self._source[index][1])
      elif (size := self._source.size(index)) is not None:
        self._check_size(place, size)
    except ConnectionError:
      raise  # a bucket that does not answer is no broken image
    except OSError as error:
      return f"config.data.{self.role}: {self.name(place)}: {error.strerror or error}; {_WAY_OUT}"
    except ValueError as error:
      return str(error)
    return None

  def _check_size(self, place: int, size: int) -> None:
    name, expected = self._manifest.kept[place]
    if size != expected:
      raise ValueError(
        f"config.data.{self.role}: {name} in {self._source.spec} has {size} bytes, but had "
        f"{expected} when it "
        f"was checked; {_WAY_OUT}"
      )

  def _check(self, place: int, data: bytes) -> None:
    self._check_size(place, len(data))
    if self._manifest.digests and digest(data) != self._manifest.digests[place]:
      raise ValueError(
        f"config.data.{self.role}: {self.name(place)} in {self._source.spec} is another image "
        "than when it was "
        f"checked; {_WAY_OUT}"
      )

  def __len__(self) -> int:
    return len(self._indices)

  def name(self, place: int) -> str:
    """Returns the name of an image, without reading it."""
    return self._manifest.kept[place][0]

  def __getitem__(self, place: int) -> tuple[str, bytes]:
    index = self._indices[place]
    if index is None:
      raise ValueError(
        f"config.data.{self.role}: {self.name(place)} is missing from {self._source.spec}"
      )
    name, data = self._source[index]
    self._check(place, data)
    return name, data
