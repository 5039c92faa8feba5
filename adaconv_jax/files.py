"""Files that appear whole or not at all."""

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
  """Gives a temporary path to write to, and renames it to `path` when the block is left.

  What stands at `path` stays as it is until then, and if the block raises. Several processes may
  write the same file at once.

  Args:
    path: the file's final name; its folder is made.
  """
  path = Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  # Hidden, so that what a killed process leaves is not taken for a result; with the suffix, which
  # tells an image's format.
  temporary = path.with_name(f".{uuid.uuid4().hex}{path.suffix}")
  try:
    yield temporary
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)
