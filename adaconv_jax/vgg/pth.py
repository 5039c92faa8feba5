"""Reads `.pth` files, after a check that they contain what they claim.

torch takes the sizes of tensors from the file's pickle, and allocates them before it reads the
data. Here the pickle is run without torch's functions, so that no code of the file and none of
torch runs, and its sizes are compared with those of the file.
"""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from adaconv_jax.files import MAX_WEIGHTS_BYTES, open_regular

# A state dict has a few kilobytes of pickle, more only for networks with thousands of layers.
MAX_PICKLE_BYTES = 2**22
# Largest table of contents of a zip file, which has about 100 bytes per tensor.
MAX_TABLE_BYTES = 2**22
_ITEM_BYTES = {
  "ComplexDoubleStorage": 16,
  **dict.fromkeys(("DoubleStorage", "LongStorage", "ComplexFloatStorage"), 8),
  **dict.fromkeys(("FloatStorage", "IntStorage"), 4),
  **dict.fromkeys(("HalfStorage", "BFloat16Storage", "ShortStorage"), 2),
  **dict.fromkeys(("CharStorage", "ByteStorage", "BoolStorage", "UntypedStorage"), 1),
}


def load_pth(path: Path) -> Any:
  """Reads a file of `torch.save`, with `torch.load(weights_only=True)`: none of its code is run.

  Returns:
    What is in it: a state dict, or a checkpoint of which a state dict is a part.

  Raises:
    ValueError: see `check_pth`; torch is too old for untrusted files, or cannot read this one.
    ModuleNotFoundError: there is no torch, which the extra "convert" installs.
  """
  try:
    import torch  # pyright: ignore[reportMissingImports]
  except ModuleNotFoundError as error:
    raise missing_extra(path, "torch") from error
  if tuple(int(n) for n in torch.__version__.split(".")[:2]) < (2, 10):
    raise ValueError(
      f"torch: {torch.__version__} is installed, and loading untrusted files safely needs 2.10 or "
      "newer; pip install 'adaconv_jax[convert]'"
    )
  check_pth(path)
  try:
    return torch.load(path, map_location="cpu", weights_only=True)
  except pickle.UnpicklingError as error:
    reason = str(error).splitlines()[0]
    raise ValueError(
      f"{path}: refused, because it contains pickled objects other than plain tensors, and loading "
      f"those could run code ({reason}). Save model.state_dict() instead, or use safetensors."
    ) from error
  except Exception as error:  # torch.load documents none: RuntimeError, EOFError, OSError, ...
    raise ValueError(f"{path}: torch cannot read it ({error}); a truncated file?") from error


def pth_array(path: Path, name: Any, tensor: Any) -> np.ndarray:
  """Returns a tensor of a state dict as float32.

  Raises:
    ValueError: its name is no text, or it is no plain tensor of floating point numbers.
  """
  import torch  # pyright: ignore[reportMissingImports]

  if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
    raise ValueError(f"{path}: expected a state dict of tensors, but {name!r} is not a tensor")
  if not tensor.is_floating_point():
    raise ValueError(f"{path}: {name} should be floating point, got {tensor.dtype}")
  try:
    plain = tensor.layout == torch.strided and tensor.device.type == "cpu"
    # A view may repeat one number any number of times.
    plain = plain and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
    array = tensor.detach().float().numpy() if plain else None
  except Exception as error:  # such as for nested tensors, which have no storage
    raise ValueError(f"{path}: {name} is not a plain tensor ({error})") from error
  if array is None:
    raise ValueError(
      f"{path}: {name} is not a plain tensor, or has more numbers than are stored; save "
      "model.state_dict() of a model on the CPU"
    )
  return array


def missing_extra(path: Path, module: str) -> ModuleNotFoundError:
  """Makes the error for a file that needs a package which is not installed."""
  return ModuleNotFoundError(
    f"{path}: reading this file needs {module}; pip install 'adaconv_jax[convert]', or use the "
    "same weights as safetensors",
    name=module,
  )


def check_pth(path: Path) -> None:
  """Checks the sizes that a file of `torch.save` claims.

  Raises:
    ValueError: it is compressed or overlaps itself, as a bomb does; a tensor claims more data than
      there are; its pickle is damaged or too large for a state dict; or it is not a regular file.
  """
  with open_regular(path, at_most=MAX_WEIGHTS_BYTES) as file:
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    try:
      if file.read(4) == b"PK\x03\x04":
        _check_zip(file, size)
      else:
        file.seek(0)
        _check_legacy(file, size)
    except _Foreign as error:
      raise ValueError(
        f"{path}: refused, because it contains pickled objects other than plain tensors ({error}), "
        "and loading those could run code or fill the memory. Save model.state_dict() instead, or "
        "use safetensors."
      ) from None
    except _Refused as error:
      raise ValueError(f"{path}: refused, because {error}; get the file again") from None
    except MemoryError:
      raise
    except Exception as error:  # zipfile and pickle can raise anything: BadZipFile, KeyError, ...
      # Its text, not its repr, which may have all bytes of the file.
      reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
      raise ValueError(
        f"{path}: not a whole file of torch.save ({reason}); get it again"
      ) from error


class _Refused(Exception):
  """The file is not read; the message is the reason."""


class _Foreign(Exception):
  """The pickle has something that no state dict has; the message says what."""


def _check_zip(file: BinaryIO, size: int) -> None:
  _check_table(file, size)
  with zipfile.ZipFile(file) as archive:
    records = {record.filename: record for record in archive.infolist()}
    if len(records) != len(archive.infolist()):
      raise _Refused("it has two parts of one name")
    if any(record.compress_type != zipfile.ZIP_STORED for record in records.values()):
      raise _Refused("it is compressed, which torch.save does not do")
    total = sum(record.file_size for record in records.values())
    if total > size:
      raise _Refused(f"its parts claim {total} bytes, and it has {size}")
    pickles = [name for name in records if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
      raise _Refused("it is a zip file without the data.pkl of torch.save")
    if records[pickles[0]].file_size > MAX_PICKLE_BYTES:
      raise _Refused(f"its pickle has {records[pickles[0]].file_size} bytes")
    inspector = _Inspector(io.BytesIO(archive.read(pickles[0])))
    inspector.load()
  folder = pickles[0].removesuffix("data.pkl")
  for key, claimed in inspector.storages.items():
    record = records.get(f"{folder}data/{key}")
    there = 0 if record is None else record.file_size
    if claimed > there:
      raise _Refused(f"tensor data {key!r} claim {claimed} bytes, and there are {there}")


def _check_table(file: BinaryIO, size: int) -> None:
  """Refuses a zip file with a huge table of contents, all of which `zipfile` would read."""
  file.seek(max(size - 2**16 - 98, 0))
  end = file.read()
  at = end.rfind(b"PK\x05\x06")
  if at < 0:
    raise _Refused("it is a zip file without an end")
  length, unknown = int.from_bytes(end[at + 12 : at + 16], "little"), 2**32 - 1
  large = end.rfind(b"PK\x06\x06", 0, at)  # of a file in the 64-bit form, before the other end
  large_length = int.from_bytes(end[large + 40 : large + 48], "little") if large >= 0 else unknown
  if min(length, large_length) > MAX_TABLE_BYTES or any(
    one != unknown and one > MAX_TABLE_BYTES for one in (length, large_length)
  ):
    raise _Refused(f"its table of contents would have {min(length, large_length)} bytes")
  file.seek(0)


def _check_legacy(file: BinaryIO, size: int) -> None:
  """Checks the format before torch 1.6: pickles of a number, a version, the system, the tensors."""
  inspector = _Inspector(io.BytesIO(file.read(MAX_PICKLE_BYTES)))
  try:
    for _ in range(4):
      inspector.load()
  except EOFError:  # torch's own error describes a shorter file
    if size > MAX_PICKLE_BYTES:
      raise _Refused(f"its pickle has more than {MAX_PICKLE_BYTES} bytes") from None
  total = sum(inspector.storages.values())
  if total > size:
    raise _Refused(f"its tensors claim {total} bytes, and it has {size}")


class _Inert:
  """Replaces all that a pickle calls, creates or fills; accepts what a state dict has."""

  def __init__(self, *args: object, **kwargs: object):
    del args, kwargs

  def __call__(self, *args: object, **kwargs: object) -> "_Inert":
    return self

  def __setstate__(self, state: object) -> None:
    del state

  def __setitem__(self, key: object, value: object) -> None:
    # A tuple of two of a tuple of two ..., thirty times, is short in a pickle, but hashing it takes
    # for ever.
    del value
    if not isinstance(key, str | int):
      raise _Foreign(f"a {type(key).__name__} as a key")


class _OrderedDict(_Inert):
  def __init__(self, *args: object):
    if args:  # pairs, whose keys would be hashed
      raise _Foreign("an OrderedDict of pairs")


# What torch.save writes for a state dict, besides storages. torch itself allows more: bytearrays
# and tensors of any length, which a pickle of a hundred bytes can ask for.
_CALLED = {
  ("collections", "OrderedDict"): _OrderedDict,
  **dict.fromkeys(
    (
      ("torch._utils", "_rebuild_tensor"),
      ("torch._utils", "_rebuild_tensor_v2"),
      ("torch._utils", "_rebuild_parameter"),
      ("torch", "Size"),
    ),
    _Inert,
  ),
}


# The unpickler in Python, because the one in C allocates as many items as a pickle names.
class _Inspector(pickle._Unpickler):
  """Runs a pickle without effects, and records the storages that it names.

  Attributes:
    storages: the claimed bytes of each storage, by its key.
  """

  dispatch = dict(pickle._Unpickler.dispatch)  # by code, what runs it

  def __init__(self, file: io.BytesIO):
    super().__init__(file)
    self.storages: dict[str, int] = {}

  def find_class(self, module: str, name: str) -> Any:
    if module in ("torch", "torch.storage") and name in _ITEM_BYTES:
      return type(name, (_Inert,), {})
    if (module, name) not in _CALLED:
      raise _Foreign(f"{module}.{name}"[:80])
    return _CALLED[module, name]

  def persistent_load(self, pid: Any) -> Any:
    if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
      raise _Refused("it refers to something that is not in the file")
    kind, key, _, count = pid[1:5]
    item = _ITEM_BYTES.get(kind.__name__) if isinstance(kind, type) else None
    if item is None or not isinstance(key, str) or not isinstance(count, int) or count < 0:
      raise _Refused("it has data of an unknown type or length")
    self.storages[key] = max(self.storages.get(key, 0), count * item)
    return _Inert()

  def _push_inert_dict(self) -> None:
    self.append(_Inert())  # pyright: ignore

  def _refuse(self) -> None:
    raise _Foreign("a set, a bytearray, or a dict made in one go")

  dispatch[pickle.EMPTY_DICT[0]] = _push_inert_dict  # pyright: ignore
  # A state dict has none of these; sets are hashed, and a bytearray is allocated before it is read.
  for code in (pickle.DICT, pickle.EMPTY_SET, pickle.FROZENSET, pickle.BYTEARRAY8):
    dispatch[code[0]] = _refuse  # pyright: ignore
  del code
