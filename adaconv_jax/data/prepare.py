"""Which images a run trains on and which it holds out, listed once and kept in its workdir."""

import logging
from pathlib import Path

from adaconv_jax.checkpoints.record import write_text
from adaconv_jax.data.manifest import Images, Manifest, read_names, scan, split_heldout, split_named
from adaconv_jax.data.sources import open_source

log = logging.getLogger(__name__)


def prepare_images(
  workdir: Path, role: str, spec: str, *, min_size: int, heldout: int, names: str, seed: int
) -> tuple[Images, Images]:
  """Lists the images of a run once; a run that goes on uses the list of its workdir.

  Args:
    workdir: the run's folder.
    role: "content" or "style".
    spec: a folder or "tfds:..."; see `sources.open_source`.
    min_size: images with a shorter side below this are skipped.
    heldout: number of images kept out of training; may be 0.
    names: a file that lists them, one name per line, in place of the number; or "".
    seed: chooses them where they are not listed.

  Returns:
    The training images and the held-out ones.

  Raises:
    ValueError: `spec` or `names` is empty, or names what is not there; a run that goes on has held
      out others than those that are listed.
    FileNotFoundError: there is no file `names`.
  """
  if not spec:
    raise ValueError(
      f"config.data.{role}: no {role} images are named; pass --config.data.{role}=FOLDER, or "
      "tfds:DIR[:split]"
    )
  listed = read_names(names) if names else None
  paths = [workdir / "data" / f"{role}_{part}.json" for part in ("train", "heldout")]
  if all(path.exists() for path in paths):
    train, kept_out = (Manifest.from_json(path.read_text()) for path in paths)
    if listed is not None and set(listed) != {name for name, _ in kept_out.kept}:
      raise ValueError(
        f"config.data.heldout_{role}_names: {workdir} holds a run that has held out other images "
        f"than those in {names}; use another --workdir"
      )
  else:
    found = scan(open_source(spec, role=role), role=role, min_size=min_size)
    if listed is None:
      train, kept_out = split_heldout(found, heldout, seed)
    else:
      train, kept_out = split_named(found, listed)
    for path, part in zip(paths, (train, kept_out), strict=True):
      write_text(path, part.to_json())
  log.info("%s; %d held out", train.report(), len(kept_out.kept))
  return Images(train, spec=spec), Images(kept_out, spec=spec)
