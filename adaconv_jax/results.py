"""Writes what took long to compute, and keeps what its place does not take."""

import contextlib
import logging
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from adaconv_jax.files import described, printable, replacing

log = logging.getLogger(__name__)

# Takes a result's name, and what writes it to the path that it is given.
Save = Callable[[str, Callable[[Path], object]], None]


@contextlib.contextmanager
def saved_in(folder: Path, *, overwrite: bool = True) -> Iterator[Save]:
  """Yields a function that saves results in a folder.

  A disk may get full and a bucket may stop answering after hours. The first result that `folder`
  does not take, and all after it, are written to a new folder for temporary files on this machine,
  which an error names when the block ends.

  Args:
    folder: where results belong, on a disk or in a bucket.
    overwrite: see `replacing`.

  Raises:
    FileExistsError: see `replacing`.
    OSError: of the type of the first one that `folder` did not take; or the other folder takes
      nothing, either.
  """
  failed: OSError | None = None
  kept = folder

  def save(name: str, write: Callable[[Path], object]) -> None:
    nonlocal failed, kept
    if failed is None:
      try:
        with replacing(folder / name, overwrite=overwrite) as temporary:
          write(temporary)
        return
      except FileExistsError:  # which is nothing that may be lost
        raise
      except OSError as error:
        failed = error
        kept = Path(tempfile.mkdtemp(prefix="adaconv-kept-"))
    write(kept / name)

  try:
    yield save
  except BaseException:
    if failed is not None:
      log.warning("%s", _message(failed, kept))
    raise
  if failed is not None:
    raise type(failed)(_message(failed, kept)) from failed


def _message(error: OSError, kept: Path) -> str:
  return f"{printable(described(error))}; the results that are missing there are kept in {kept}"
