"""Where images come from: folders and TFDS sets, as random access to names and encoded bytes.

TFDS sets are read without TensorFlow. `manifest.py` finds out which of the images are usable.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from adaconv_jax.images import SUFFIXES, find_images

TFDS_PREFIX = "tfds:"
# After the last part of a directory or name: ":train", ":train[:90%]", ":train+test[10:20]". A
# version such as ":1.1.0" has dots, which the name of a split cannot have.
_TFDS_SPEC = re.compile(r"(?P<where>.+?)(:(?P<split>[\w-]+(\+[\w-]+)*(\[.*)?))?")


class Source(Protocol):
  """Random access to encoded images; can be pickled, and read from several threads."""

  spec: str
  names: Sequence[str]

  def __len__(self) -> int:
    """Number of files or records, the unusable ones included."""
    ...

  def __getitem__(self, index: int) -> tuple[str, bytes]:
    """Name and encoded bytes of one image."""
    ...

  def size(self, index: int) -> int | None:
    """Number of bytes of one image; None if only reading it could tell."""
    ...


class FolderSource:
  """The image files in a folder and the folders below it, named by their relative path."""

  def __init__(self, folder: str | os.PathLike[str]):
    self.spec = str(folder)
    self._folder = Path(folder).expanduser()
    self.names: Sequence[str] = [
      path.relative_to(self._folder).as_posix() for path in find_images(self._folder)
    ]

  def __len__(self) -> int:
    return len(self.names)

  def __getitem__(self, index: int) -> tuple[str, bytes]:
    return self.names[index], (self._folder / self.names[index]).read_bytes()

  def size(self, index: int) -> int | None:
    """Number of bytes of one file, as the file system says."""
    return (self._folder / self.names[index]).stat().st_size


class TFDSSource:
  """The images of a prepared TFDS set in array_record format, named "train[:90%]#17".

  Reads without TensorFlow; the images stay encoded.
  """

  def __init__(self, spec: str):
    # Imported here because it takes a second, which training on folders should not pay.
    import tensorflow_datasets as tfds

    self.spec = spec
    where, split = _parse_tfds(spec)
    builder = _tfds_builder(where)
    split = split or _default_split(list(builder.info.splits))
    features = builder.info.features
    keys = sorted(key for key, value in features.items() if isinstance(value, tfds.features.Image))
    if "image" not in keys and len(keys) != 1:
      raise ValueError(
        f"{where!r} has no feature 'image' and not exactly one image feature, but {keys}"
      )
    self._key = "image" if "image" in keys else keys[0]
    try:
      skip = {key: tfds.decode.SkipDecoding() for key in keys}
      self._records = builder.as_data_source(split, decoders=skip)
    except NotImplementedError as error:
      raise ValueError(
        f"{where!r} is prepared as {_format_name(builder)}, which only TensorFlow reads at "
        "random; prepare it again with file_format='array_record'"
      ) from error
    except ValueError as error:
      raise ValueError(f"split {split!r} of {where!r}: {error}") from error
    self.names: Sequence[str] = [f"{split}#{index}" for index in range(len(self._records))]

  def __len__(self) -> int:
    return len(self.names)

  def __getitem__(self, index: int) -> tuple[str, bytes]:
    return self.names[index], bytes(self._records[index][self._key])

  def size(self, index: int) -> int | None:
    """None: a record has to be read for its size."""
    return None


def _parse_tfds(spec: str) -> tuple[str, str | None]:
  """Splits "tfds:WHERE[:SPLIT]", where WHERE is a directory or a name and may have colons."""
  rest = spec.removeprefix(TFDS_PREFIX)
  match = _TFDS_SPEC.fullmatch(rest)
  if match is None:
    raise ValueError(f"expected {TFDS_PREFIX}DIR[:SPLIT] or {TFDS_PREFIX}NAME:VERSION[:SPLIT]")
  if match["split"] is None or Path(rest).expanduser().is_dir():
    return rest, None
  return match["where"], match["split"]


def _tfds_builder(where: str) -> Any:
  """Opens the set in the directory `where`, or the one of that name in the TFDS data folder."""
  import tensorflow_datasets as tfds
  from tensorflow_datasets.core import read_only_builder

  directory = Path(where).expanduser()
  if directory.is_dir():
    if (directory / "dataset_info.json").is_file():
      return tfds.builder_from_directory(directory)
    below = [str(path.parent) for path in sorted(directory.glob("**/dataset_info.json"))]
    hint = f"; did you mean {', '.join(below[:3])}?" if below else ""
    raise ValueError(
      f"{where!r} is not the folder of a prepared TFDS set: it has no dataset_info.json{hint}"
    )
  if where.startswith(("/", ".", "~")):
    raise ValueError(f"the folder {where!r} does not exist")
  try:
    # Not `tfds.builder`: that would fall back on the set's own code, which needs TensorFlow.
    return read_only_builder.builder_from_files(where)
  except ValueError as error:  # DatasetNotFoundError is one.
    folder = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    name = where.split(":")[0]
    raise ValueError(
      f"no prepared TFDS set {where!r} in {folder}. The name needs its config and full version "
      "(coco/2017:1.1.0), or give the set's folder. To prepare it, in an environment that has "
      f"TensorFlow: tfds build {name} --file_format=array_record"
    ) from error


def _format_name(builder: Any) -> str:
  return getattr(builder.info.file_format, "value", "an unknown format")


def _default_split(splits: Sequence[str]) -> str:
  if "train" in splits or len(splits) == 1:
    return "train" if "train" in splits else splits[0]
  raise ValueError(f"name the split after a colon: one of {', '.join(splits)}")


def open_source(spec: str, *, role: str) -> Source:
  """Opens the images that `spec` names.

  Args:
    spec: a folder (searched with its subfolders), or "tfds:DIR[:SPLIT]" with the folder of a
      version of a prepared set, or "tfds:NAME:VERSION[:SPLIT]" ("tfds:coco/2017:1.1.0:train[:90%]")
      with a set in the TFDS data folder. The split is "train" unless named.
    role: "content" or "style", the argument that errors name.

  Raises:
    ValueError: nothing is there, or it cannot be read at random without TensorFlow.
  """
  try:
    if spec.startswith(TFDS_PREFIX):
      return TFDSSource(spec)
    source = FolderSource(spec)
  except (NotADirectoryError, ValueError) as error:
    raise ValueError(f"{role}: expected images in {spec!r}: {error}") from error
  if not len(source):
    raise ValueError(
      f"{role}: no image files in {spec!r} or the folders below it; looked for names that end in "
      f"{', '.join(SUFFIXES)}"
    )
  return source
