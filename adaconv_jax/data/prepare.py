"""Lists the images that a run trains on and holds out, once, and keeps the lists in its workdir."""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path

from adaconv_jax.checkpoints.record import write_text
from adaconv_jax.data.batches import allowed_broken
from adaconv_jax.data.manifest import Images, Manifest, read_names, scan, split_heldout, split_named
from adaconv_jax.data.sources import Source, open_source
from adaconv_jax.files import MAX_LIST_BYTES, is_same, printable, read_regular

log = logging.getLogger(__name__)

PARTS = ("train", "heldout")


@dataclasses.dataclass
class Lists:
  """The lists of one role's images: read from the workdir of a resumed run, or still to be made.

  Attributes:
    workdir: the run's folder.
    role: "content" or "style".
    spec: a folder or "tfds:..."; see `sources.open_source`.
    source: the opened `spec`, for a new run.
    names: of the images to hold out, if they are listed.
    parts: the manifests of training and held-out images, once they are known.
  """

  workdir: Path
  role: str
  spec: str
  source: Source | None
  names: Sequence[str] | None
  parts: tuple[Manifest, Manifest] | None

  def prepare(
    self, *, min_size: int, heldout: int, seed: int, max_broken_share: float = 0.0
  ) -> tuple[Images, Images]:
    """Scans the images of a new run, or finds those of a resumed run; writes nothing.

    Args:
      min_size: images with a shorter side below this are skipped.
      heldout: number of images kept out of training, if they are not listed; may be 0.
      seed: chooses them.
      max_broken_share: share of the images that may be missing or changed in a resumed run.

    Returns:
      The training images and the held-out ones.

    Raises:
      ValueError: too few images are usable, or too many are missing or changed.
    """
    if self.parts is None:
      assert self.source is not None
      found = scan(self.source, role=self.role, min_size=min_size)
      if self.names is None:
        self.parts = split_heldout(found, heldout, seed)
      else:
        self.parts = split_named(found, self.names)
    train, kept_out = (dataclasses.replace(part, spec=self.spec) for part in self.parts)
    log.info("%s; %d held out", train.report(), len(kept_out.kept))
    allowed = allowed_broken(len(train.kept), max_broken_share)
    return Images(train, spec=self.spec, allowed_broken=allowed), Images(kept_out, spec=self.spec)

  @property
  def fingerprint(self) -> str:
    """SHA-256 of the prepared lists: of training images and of held-out ones."""
    assert self.parts is not None
    text = json.dumps([part.fingerprint for part in self.parts])
    return hashlib.sha256(text.encode()).hexdigest()

  def write(self) -> None:
    """Writes the lists of a new run to its workdir."""
    assert self.parts is not None
    for path, part in zip(_paths(self.workdir, self.role), self.parts, strict=True):
      if not path.exists():
        write_text(path, part.to_json())


def open_lists(workdir: Path, role: str, spec: str, *, names: str = "") -> Lists:
  """Opens the images of a run, or reads their lists; decodes none and writes nothing.

  Args:
    workdir: the run's folder.
    role: "content" or "style".
    spec: a folder or "tfds:..."; see `sources.open_source`.
    names: a file that lists the images kept out of training, one name per line; or "".

  Raises:
    ValueError: `spec` is empty or names something that does not exist; it is the workdir of a new
      run; the file `names` is empty; a list in the workdir is damaged; a resumed run has held out
      other images than those listed.
    FileNotFoundError: there is no file `names`.
  """
  if not spec:
    raise ValueError(
      f"config.data.{role}: expected {role} images, got none; pass --config.data.{role}=FOLDER, or "
      "tfds:DIR[:split]"
    )
  listed = read_names(names) if names else None
  paths = _paths(workdir, role)
  if not all(path.exists() for path in paths):
    if is_same(workdir, spec):
      raise ValueError(
        f"workdir: expected another folder than config.data.{role}, got {printable(spec)} for "
        "both; the run's sample pictures would become images to train on"
      )
    return Lists(workdir, role, spec, open_source(spec, role=role), listed, None)
  train, kept_out = (_read(path) for path in paths)
  if listed is not None and set(listed) != {name for name, _ in kept_out.kept}:
    raise ValueError(
      f"config.data.heldout_{role}_names: {workdir} has a run that held out other images than "
      f"those in {names}; use another --workdir"
    )
  return Lists(workdir, role, spec, None, listed, (train, kept_out))


def _paths(workdir: Path, role: str) -> list[Path]:
  return [workdir / "data" / f"{role}_{part}.json" for part in PARTS]


def _read(path: Path) -> Manifest:
  try:
    return Manifest.from_json(read_regular(path, at_most=MAX_LIST_BYTES).decode())
  except ValueError as error:
    reason = str(error).removeprefix(f"{path}: ")
    raise ValueError(
      f"{path}: {reason}; restore it from a copy, or use another --workdir"
    ) from error


def prepare_images(
  workdir: Path, role: str, spec: str, *, min_size: int, heldout: int, names: str, seed: int
) -> tuple[Images, Images]:
  """Lists the images of a new run; a resumed run uses the lists in its workdir.

  See `open_lists` and `Lists.prepare`.

  Returns:
    The training images and the held-out ones.
  """
  lists = open_lists(workdir, role, spec, names=names)
  images = lists.prepare(min_size=min_size, heldout=heldout, seed=seed)
  lists.write()
  return images
