"""Safetensors files: reading them from strangers, writing them reproducibly, hashes and checks."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

from adaconv_jax.files import MAX_WEIGHTS_BYTES, local_copy, open_regular

# Largest header of a safetensors file, which has about 100 bytes for each tensor.
MAX_HEADER_BYTES = 2**22


class TensorFileError(ValueError):
  """A file is not a complete safetensors file of known types; the message does not name it."""


def read_tensors(
  path: str | os.PathLike[str], *, unread: tuple[str, ...] = ()
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  """Reads a safetensors file: its tensors by name, and its metadata.

  Args:
    path: the file.
    unread: prefixes of names; these tensors are not read, and empty arrays take their place.

  Raises:
    TensorFileError: it is not such a file, not a complete one, or a tensor has a type that NumPy
      does not have; the message does not name the file.
    ValueError: it is not a regular file, or larger than `MAX_WEIGHTS_BYTES`.
    OSError: it is missing or not readable.
  """
  with _tensor_file(path) as file:
    tensors = {}
    for name in file.keys():
      if name.startswith(unread):
        tensors[name] = np.empty(0, np.float32)
        continue
      try:
        tensors[name] = np.asarray(file.get_tensor(name))
      except MemoryError:
        raise
      except Exception as error:
        # For types that NumPy does not have, such as 8-bit floats, it can raise anything.
        raise TensorFileError(
          f"{name}: expected a type that NumPy has, such as float32, got {_type(file, name)}"
        ) from error
    return tensors, dict(sorted((file.metadata() or {}).items()))


def read_tensor_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
  """Reads the metadata of a safetensors file; raises like `read_tensors`."""
  with _tensor_file(path) as file:
    return dict(sorted((file.metadata() or {}).items()))


def tensor_bytes(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
  """Returns a safetensors file; equal tensors and metadata make equal bytes.

  The library itself orders the metadata at random.
  """
  data = save(dict(tensors), metadata=dict(metadata))
  end = 8 + int.from_bytes(data[:8], "little")
  header = json.loads(data[8:end])
  header["__metadata__"] = dict(sorted(metadata.items()))
  text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
  text += b" " * (-len(text) % 8)  # the tensors are aligned
  return len(text).to_bytes(8, "little") + text + data[end:]


@contextlib.contextmanager
def _tensor_file(path: str | os.PathLike[str]) -> Iterator[Any]:
  with open_regular(path, at_most=MAX_WEIGHTS_BYTES) as file:
    header = int.from_bytes(file.read(8), "little")
  if header > MAX_HEADER_BYTES:
    raise TensorFileError(f"expected a header of at most {MAX_HEADER_BYTES} bytes, got {header}")
  with local_copy(path) as local:
    try:
      opened = safe_open(local, "numpy")
    except (MemoryError, OSError):
      raise
    except Exception as error:  # SafetensorError, TypeError, and panics in Rust
      raise TensorFileError(str(error)) from error
    with opened as file:
      yield file


def _type(file: Any, name: str) -> str:
  try:
    return file.get_slice(name).get_dtype()
  except Exception:
    return "an unknown one"


def tensors_sha256(tensors: Mapping[str, np.ndarray]) -> str:
  """Returns one sha256, in hexadecimal, of names, types, shapes and values of all tensors."""
  # safetensors has no checksum, and the hash of a file would change with its metadata.
  digest = hashlib.sha256()
  for name, tensor in sorted(tensors.items()):
    digest.update(f"{name} {tensor.dtype.str} {tensor.shape}\n".encode())
    # As bytes, because bfloat16 has no buffer of its own.
    digest.update(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data)
  return digest.hexdigest()


def tensor_fault(
  tensors: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]
) -> str | None:
  """Compares tensors, float32 or float16, with the shapes expected of them, by name.

  Returns:
    What is wrong with the first one by name, such as "a is missing"; None if nothing is.
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
