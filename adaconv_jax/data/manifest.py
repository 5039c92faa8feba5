"""The list of images that a run trains on: which are usable, which are held out.

`scan` decodes every image once, before the training starts, so that what cannot be used is known
and reported then and not at step 90,000. The `Manifest` it makes is saved with the run: a resumed
run trains on exactly the same list, without another scan. `Images` reads the images of the list.
"""

import collections
import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

from tqdm import tqdm

from adaconv_jax.data.sources import Source, open_source
from adaconv_jax.images import ImageError, decode

_WAY_OUT = "restore it, or start a new run in another work folder"


@dataclasses.dataclass(frozen=True)
class Manifest:
  """The images that a run trains on.

  Attributes:
    role: "content" or "style".
    spec: what `open_source` opened.
    kept: name and number of bytes of each usable image, in the order of the source.
    skipped: name and reason of each other one.
  """

  role: str
  spec: str
  kept: tuple[tuple[str, int], ...]
  skipped: tuple[tuple[str, str], ...] = ()

  @property
  def fingerprint(self) -> str:
    """SHA-256 over names and sizes of the kept images."""
    return hashlib.sha256(json.dumps(self.kept).encode()).hexdigest()

  def report(self) -> str:
    """One line for the log: how many images, how many skipped, and why."""
    line = f"{self.role}: {len(self.kept)} images from {self.spec}"
    if not self.skipped:
      return line
    name, reason = self.skipped[0]
    return f"{line}; skipped {self._count_skipped()}, the first: {name}: {reason}"

  def _count_skipped(self) -> str:
    # "too small (20 x 30)" counts as "too small".
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
      values = json.loads(text)
      kept = tuple((str(name), int(size)) for name, size in values["kept"])
      skipped = tuple((str(name), str(reason)) for name, reason in values["skipped"])
      manifest = cls(values["role"], values["spec"], kept, skipped)
      fingerprint = values["fingerprint"]
    except (KeyError, TypeError, ValueError) as error:
      raise ValueError(f"manifest: not the JSON of a list of images ({error!r})") from error
    if fingerprint != manifest.fingerprint:
      raise ValueError("manifest: its list of images was changed or damaged: wrong fingerprint")
    return manifest


def scan(source: Source, *, role: str, min_size: int) -> Manifest:
  """Decodes every image of `source` once and lists the usable ones.

  Takes a few milliseconds per image and core, JPEGs being decoded at the lowest resolution that
  still has `min_size` pixels; shows a progress bar on a terminal when it takes long.

  Args:
    source: from `open_source`.
    role: "content" or "style", the argument that errors name.
    min_size: the shorter side that an image must have, in pixels.

  Raises:
    ValueError: no image is usable.
  """

  def examine(index: int) -> tuple[int, str]:
    try:
      name, data = source[index]
      image = decode(data, name=name, at_least=min_size)
    except OSError as error:
      return 0, f"cannot be read ({error.strerror or error})"
    except ImageError as error:
      return 0, str(error).removeprefix(f"{source.names[index]}: ")
    width, height = image.size
    if min(width, height) < min_size:
      return 0, f"too small ({width} x {height}, the shorter side must have {min_size})"
    return len(data), ""

  # Pillow decodes outside of the interpreter lock, so threads are enough.
  pool = ThreadPoolExecutor(os.cpu_count())
  try:
    results = pool.map(examine, range(len(source)))
    bar = tqdm(results, f"checking {role} images", len(source), delay=2, disable=None)
    pairs = list(zip(source.names, bar, strict=True))
  finally:
    pool.shutdown(cancel_futures=True)
  kept = tuple((name, size) for name, (size, reason) in pairs if not reason)
  skipped = tuple((name, reason) for name, (_, reason) in pairs if reason)
  manifest = Manifest(role, source.spec, kept, skipped)
  if not kept:
    raise ValueError(f"{role}: no usable image. {manifest.report()}")
  return manifest


def split_heldout(manifest: Manifest, count: int, seed: int) -> tuple[Manifest, Manifest]:
  """Takes `count` images out of the training list, for sample grids and held-out losses.

  Which ones depends on the names and `seed` only: an image is held out for the rank of its hash.

  Returns:
    The manifests of the training images and of the held-out ones.

  Raises:
    ValueError: no image would be left to train on.
  """
  if not 0 <= count < len(manifest.kept):
    raise ValueError(
      f"{manifest.role}: cannot hold out {count} of {len(manifest.kept)} usable images; hold out "
      "fewer, or give more images (at least one must remain to train on)"
    )

  def rank(entry: tuple[str, int]) -> bytes:
    return hashlib.sha256(json.dumps([seed, entry[0]]).encode()).digest()

  return _split(manifest, {name for name, _ in sorted(manifest.kept, key=rank)[:count]})


def split_named(manifest: Manifest, names: Sequence[str]) -> tuple[Manifest, Manifest]:
  """Takes the images of these names out of the training list.

  Returns:
    The manifests of the training images and of the held-out ones, these in the order of `names`.

  Raises:
    ValueError: an image is not there or not usable, or none would be left to train on.
  """
  kept, skipped = {name for name, _ in manifest.kept}, dict(manifest.skipped)
  missing = [name for name in names if name not in kept]
  if missing:
    reason = skipped.get(missing[0], "not there")
    raise ValueError(
      f"{manifest.role}: {len(missing)} of the {len(names)} images that are to be held out cannot "
      f"be used from {manifest.spec}, the first: {missing[0]}: {reason}; names are relative to the "
      "folder"
    )
  if kept <= set(names):
    raise ValueError(f"{manifest.role}: all {len(kept)} usable images are held out; list fewer")
  train, heldout = _split(manifest, set(names))
  entries = {entry[0]: entry for entry in heldout.kept}
  in_order = tuple(entries[name] for name in dict.fromkeys(names))
  return train, dataclasses.replace(heldout, kept=in_order)


def _split(manifest: Manifest, heldout: set[str]) -> tuple[Manifest, Manifest]:
  train, kept_out = (
    tuple(entry for entry in manifest.kept if (entry[0] in heldout) == out) for out in (False, True)
  )
  return (
    dataclasses.replace(manifest, kept=train),
    dataclasses.replace(manifest, kept=kept_out, skipped=()),
  )


def read_names(path: str | os.PathLike[str]) -> list[str]:
  """Reads a list of images: a name per line, as in a manifest; blank lines count for nothing.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it has no names.
  """
  # Names that are not UTF-8 look as the file system's do.
  lines = Path(path).read_text("utf-8", "surrogateescape").split("\n")
  names = [line for line in lines if line.strip()]
  if not names:
    raise ValueError(f"{path}: expected the names of images, one per line; it has none")
  return names


class Images:
  """Random access to name and bytes of the images of a manifest, in its order."""

  def __init__(self, manifest: Manifest, *, spec: str | None = None):
    """Finds the images of `manifest` again; does not decode them.

    Args:
      manifest: from `scan`, or from the JSON of an earlier run.
      spec: where the images are now, if they were moved.

    Raises:
      ValueError: an image is missing, or its file has another size than it had in the scan.
    """
    self._source = open_source(spec or manifest.spec, role=manifest.role)
    self._manifest = manifest
    positions = {name: index for index, name in enumerate(self._source.names)}
    missing = [name for name, _ in manifest.kept if name not in positions]
    if missing:
      raise ValueError(
        f"{manifest.role}: {len(missing)} of {len(manifest.kept)} images are missing from "
        f"{self._source.spec}, the first: {missing[0]}; {_WAY_OUT}"
      )
    self._indices = [positions[name] for name, _ in manifest.kept]
    with ThreadPoolExecutor() as pool:  # Network file systems answer one `stat` after the other.
      for position, size in enumerate(pool.map(self._source.size, self._indices)):
        if size is not None:
          self._check_size(position, size)

  def _check_size(self, position: int, size: int) -> None:
    name, expected = self._manifest.kept[position]
    if size != expected:
      raise ValueError(
        f"{self._manifest.role}: {name} in {self._source.spec} has {size} bytes, {expected} when "
        f"it was checked; {_WAY_OUT}"
      )

  def __len__(self) -> int:
    return len(self._indices)

  def __getitem__(self, position: int) -> tuple[str, bytes]:
    name, data = self._source[self._indices[position]]
    self._check_size(position, len(data))
    return name, data
