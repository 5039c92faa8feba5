"""Sources of images: folders, packed sets and TFDS data sets.

They give random access to names and encoded bytes.

TFDS data sets are read without TensorFlow. `manifest.py` checks which images are usable.
"""

import contextlib
import os
import re
from collections.abc import Sequence
from typing import Any, Protocol

from adaconv_jax.data.packed import PackedSource, is_begun, is_packed
from adaconv_jax.files import expand, files_below, is_remote, not_there, versions_below
from adaconv_jax.images import SUFFIXES, describe_unread, image_names, read_file

TFDS_PREFIX = "tfds:"
# After the last part of a directory or name: ":train", ":train[:90%]", ":train+test[10:20]". A
# version such as ":1.1.0" has dots, which the name of a split cannot have.
_TFDS_SPEC = re.compile(r"(?P<where>.+?)(:(?P<split>[\w-]+(\+[\w-]+)*(\[.*)?))?")


class Source(Protocol):
  """Random access to encoded images; can be pickled, and read from several threads."""

  spec: str
  names: Sequence[str]

  def __len__(self) -> int:
    """Returns the number of files or records, including unusable ones."""
    ...

  def __getitem__(self, index: int) -> tuple[str, bytes]:
    """Returns name and encoded bytes of one image.

    Raises:
      ImageError: it is not a regular file, or too large.
      OSError: it cannot be read.
    """
    ...

  def size(self, index: int) -> int | None:
    """Returns the number of bytes of one image; None if that would need reading it."""
    ...

  def versions(self) -> Sequence[str | None]:
    """Returns for every image what changes when it is written; None where that is not known."""
    ...


class FolderSource:
  """The image files in a folder and the folders below it, named by their relative path.

  Attributes:
    left_out: which pictures are not read, and why, in one line; "" for none.
  """

  def __init__(self, folder: str | os.PathLike[str]):
    self.spec = str(folder)
    self._folder = expand(folder)
    self._sizes, unread = image_names(self._folder)
    self.names: Sequence[str] = list(self._sizes)
    left_out = [self._folder / name for name in unread]
    self.left_out = describe_unread(folder, left_out) if unread else ""

  def __len__(self) -> int:
    return len(self.names)

  def __getitem__(self, index: int) -> tuple[str, bytes]:
    name = self.names[index]
    return name, read_file(self._folder / name, name=name)

  def size(self, index: int) -> int | None:
    """Returns the size of a file, from the file system or from the listing of a bucket."""
    name = self.names[index]
    size = self._sizes[name]
    return (self._folder / name).stat().st_size if size is None else size

  def versions(self) -> Sequence[str | None]:
    """Returns what the file system or the bucket says of the files now."""
    return versions_below(self._folder, self.names)


class TFDSSource:
  """The images of a prepared TFDS data set in array_record format, named like "train[:90%]#17".

  Reads without TensorFlow; the images stay encoded. From a bucket, array_record reads with a client
  of its own (for gs:// only).
  """

  def __init__(self, spec: str):
    # Imported here because it takes a second, which training on folders does not need.
    import tensorflow_datasets as tfds

    self.spec = spec
    where, split = _parse_tfds(spec)
    builder = _tfds_builder(where)
    split = split or _default_split(list(builder.info.splits))
    features = builder.info.features
    keys = sorted(key for key, value in features.items() if isinstance(value, tfds.features.Image))
    if "image" not in keys and len(keys) != 1:
      raise ValueError(
        f"{where!r}: expected a feature 'image' or exactly one image feature, got {keys}"
      )
    self._key = "image" if "image" in keys else keys[0]
    try:
      skip = {key: tfds.decode.SkipDecoding() for key in keys}
      self._records = builder.as_data_source(split, decoders=skip)
    except NotImplementedError as error:
      raise ValueError(
        f"{where!r} is prepared as {_format_name(builder)}, to which only TensorFlow has random "
        "access; prepare it again with file_format='array_record'"
      ) from error
    except ValueError as error:
      raise ValueError(f"split {split!r} of {where!r}: {error}") from error
    self._folder = expand(os.fspath(builder.data_path))
    self.names: Sequence[str] = [f"{split}#{index}" for index in range(len(self._records))]

  def __len__(self) -> int:
    return len(self.names)

  def __getitem__(self, index: int) -> tuple[str, bytes]:
    return self.names[index], bytes(self._records[index][self._key])

  def size(self, index: int) -> int | None:
    """Returns None: a record must be read for its size."""
    return None

  def versions(self) -> Sequence[str | None]:
    """Returns the same for all, which changes when any file of the data set is written.

    A data set that changes should get another version in its name, but one of one's own may not.
    """
    files = sorted(files_below(self._folder))
    versions = zip(files, versions_below(self._folder, files), strict=True)
    return [" ".join(f"{name}:{version}" for name, version in versions)] * len(self)


def _parse_tfds(spec: str) -> tuple[str, str | None]:
  """Splits "tfds:WHERE[:SPLIT]", where WHERE is a directory or a name and may have colons."""
  rest = spec.removeprefix(TFDS_PREFIX)
  match = _TFDS_SPEC.fullmatch(rest)
  if match is None:
    raise ValueError(f"expected {TFDS_PREFIX}DIR[:SPLIT] or {TFDS_PREFIX}NAME:VERSION[:SPLIT]")
  if match["split"] is None:
    return rest, None
  with contextlib.suppress(ValueError):  # no bucket has a name with a colon
    if expand(rest).is_dir():
      return rest, None
  return match["where"], match["split"]


def _tfds_builder(where: str) -> Any:
  """Opens the data set in the folder `where`, or the one of that name in the TFDS data folder."""
  import tensorflow_datasets as tfds
  from tensorflow_datasets.core import read_only_builder

  directory = expand(where)
  if directory.is_dir():
    if (directory / "dataset_info.json").is_file():
      return tfds.builder_from_directory(directory)
    names = [name for name in files_below(directory) if name.endswith("/dataset_info.json")]
    below = [str((directory / name).parent) for name in sorted(names)]
    hint = f"; did you mean {', '.join(below[:3])}?" if below else ""
    raise ValueError(
      f"{where!r} is not the folder of a prepared TFDS data set: no dataset_info.json{hint}"
    )
  if is_remote(directory) or where.startswith(("/", ".", "~")):
    raise ValueError(f"the folder {where!r} {not_there(directory)}")
  try:
    # Not `tfds.builder`, which would fall back on the data set's own code, which needs TensorFlow.
    return read_only_builder.builder_from_files(where)
  except ValueError as error:  # DatasetNotFoundError is one.
    folder = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    name = where.split(":")[0]
    raise ValueError(
      f"no prepared TFDS data set {where!r} in {folder}. The name needs its config and full "
      "version (coco/2017:1.1.0); or pass the folder of the data set. To prepare it, run in an "
      f"environment with TensorFlow: tfds build {name} --file_format=array_record"
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
    spec: a folder (searched recursively) or a packed set from `adaconv pack`, on a disk or in a
      bucket; "tfds:DIR[:SPLIT]" with the folder of a version of a prepared data set; or
      "tfds:NAME:VERSION[:SPLIT]" ("tfds:coco/2017:1.1.0:train[:90%]") for one in the TFDS data
      folder. The split is "train" by default.
    role: "content" or "style", the setting that errors name; or an option, such as "--input".

  Raises:
    ValueError: there is nothing, or no random access to it without TensorFlow.
  """
  option = role if role.startswith("--") else f"config.data.{role}"
  try:
    if spec.startswith(TFDS_PREFIX):
      return TFDSSource(spec)
    if is_packed(expand(spec)):
      return PackedSource(spec)
    source = FolderSource(spec)
  except (NotADirectoryError, ValueError) as error:
    raise ValueError(f"{option}: expected images in {spec!r}: {error}") from error
  except PermissionError as error:  # which may name a file that is looked for in it
    raise ValueError(
      f"{option}: expected images in {spec!r}, which cannot be read ({error.strerror})"
    ) from error
  if not len(source):
    if is_begun(expand(spec)):
      raise ValueError(
        f"{option}: {spec!r} has a packed set that is not finished; run its `adaconv pack` again, "
        "which goes on where it ended"
      )
    raise ValueError(
      f"{option}: no image files in {spec!r} or the folders below it; looked for names "
      f"that end in {', '.join(SUFFIXES)}"
    )
  return source
