"""Files that appear whole or not at all, hashes, and the folder of what is kept between runs."""

import contextlib
import hashlib
import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Json = dict[str, Any]  # what a JSON file holds


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


def cache_dir() -> Path:
  """Returns the folder of what is kept: `$ADACONV_CACHE`, else `~/.cache/adaconv_jax`."""
  return Path(os.environ.get("ADACONV_CACHE") or "~/.cache/adaconv_jax").expanduser()


def sha256(path: str | Path) -> str:
  """Returns the sha256 of a file in hexadecimal."""
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def tensors_sha256(tensors: Mapping[str, np.ndarray]) -> str:
  """Returns one sha256, in hexadecimal, of names, types, shapes and values of all tensors."""
  # safetensors has no checksum of its own, and it orders the metadata at random, so that a hash of
  # the whole file would differ from one conversion to the next.
  digest = hashlib.sha256()
  for name, tensor in sorted(tensors.items()):
    digest.update(f"{name} {tensor.dtype.str} {tensor.shape}\n".encode())
    digest.update(np.ascontiguousarray(tensor).data)
  return digest.hexdigest()


def tensor_fault(
  tensors: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]
) -> str | None:
  """Compares tensors with the shapes that they should have, by name; float32 or float16.

  Returns:
    What is wrong with the first one by name, such as "a is missing"; None if all is right.
  """
  for name in sorted(shapes.keys() | tensors.keys()):
    expected, got = shapes.get(name), tensors.get(name)
    if expected is None or got is None:
      return f"{name} is {'missing' if got is None else 'unexpected'}"
    if got.shape != expected or got.dtype not in (np.float16, np.float32):
      return (
        f"{name} should be float32 or float16 {list(expected)}, got {got.dtype} {list(got.shape)}"
      )
  return None
