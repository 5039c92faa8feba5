"""Paths in buckets, such as gs://BUCKET/FOLDER/FILE; only `files.py` imports this module.

The names are those of `etils.epath`, and `fsspec` (for gs:// with `gcsfs`) makes the requests. What
differs from a disk:

- An object appears whole, when its upload ends, or not at all: this takes the place of a rename.
  One that exists is read unchanged until then. So a file is written to a local one first, and
  uploaded in one go; a process that is killed meanwhile leaves the earlier object.
- A rename copies and deletes object by object, so a folder that is renamed can be seen half.
  Nothing here renames.
- There are no folders, only names with slashes: they need not be made, and one is there as long as
  something is in it.
- Nothing can be appended to an object, and there are no locks.

Requests that fail because the bucket is busy or does not answer are repeated for about half a
minute. After that they raise a `ConnectionError`, which also an `AccessRefused` is: it says nothing
of one file, because all others would meet it, too. What is wrong with a file raises another
`OSError`. The message names the path and the way out.
"""

import contextlib
import errno
import functools
import importlib.util
import io
import json
import logging
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from etils.epath.gpath import PosixGPath

from adaconv_jax.extras import MissingExtra

T = TypeVar("T")
log = logging.getLogger(__name__)


class AccessRefused(PermissionError, ConnectionError):
  """A bucket refuses access, maybe only now, because a login has expired."""


# The package that has the file system of a scheme, and how to get it.
PACKAGES = {"gs": "gcsfs", "s3": "s3fs", "az": "adlfs", "hf": "huggingface_hub"}
INSTALL = {"gs": "pip install 'adaconv_jax[gcs]'", "hf": "pip install 'adaconv_jax[hub]'"}
LOG_IN = {
  "gs": "run `gcloud auth application-default login`, or give this machine's service account the "
  "role Storage Object Admin for the bucket",
  "s3": "run `aws configure`, or give this machine a role that may use the bucket",
}
# Names of buckets, https://cloud.google.com/storage/docs/buckets#naming: 3 to 63 characters, or
# with dots up to 222, in parts of at most 63, but no IP address. Other stores have other rules.
_GS_BUCKET = re.compile(r"(?!(?:\d+\.){3}\d+$)(?!.{223})(?=.{3})[a-z0-9](?:[a-z0-9_.-]*[a-z0-9])?")
_GS_PART = 63
# Bytes of an object's name, https://cloud.google.com/storage/docs/objects#naming.
_NAME_BYTES = 1024
# The status of a part that begins behind the end of a file.
_BEHIND_THE_END = "416"
# Errors of a disk that takes nothing more.
_FULL = (errno.ENOSPC, errno.EFBIG, errno.EROFS, getattr(errno, "EDQUOT", errno.ENOSPC))
# Statuses of requests that may succeed later; others of 400 to 499 are not repeated.
_LATER = ("401", "408", "429", "499")
# Seconds without a byte, after which a request is repeated.
CONNECT_SECONDS, READ_SECONDS = 20, 60
# The variable with the file of Google's credentials, of which the usual ones have 2 kB.
_CREDENTIALS, _MOST_CREDENTIALS = "GOOGLE_APPLICATION_CREDENTIALS", 2**20
# Objects that are named in one message.
_NAMED = 3
# Bytes of one request of a file that is read in parts.
PART_BYTES = 2**23


def check(uri: str, scheme: str) -> None:
  """Checks that paths of this kind can be used; makes no request.

  Raises:
    ValueError: the scheme is not known, its package is missing, or there is no bucket.
  """
  if scheme == "hf":
    raise ValueError(
      f"{uri}: expected a local path or a bucket; hf:// is for models on the Hugging Face Hub, "
      "which are read from hf://USER/NAME, and uploaded by `adaconv hub push`"
    )
  if scheme not in PACKAGES:
    known = ", ".join(f"{name}://" for name in PACKAGES)
    raise ValueError(f"{uri}: expected a local path or one of {known}, got {scheme}://")
  bucket, _, name = uri.removeprefix(f"{scheme}://").partition("/")
  if not bucket:
    raise ValueError(f"{uri}: expected {scheme}://BUCKET/..., got no bucket")
  if scheme == "gs" and not _is_bucket_of_google(bucket):
    raise ValueError(
      f"{uri}: expected the name of a bucket, 3 to 63 lowercase letters, digits, '-', '_' and '.', "
      f"with a letter or digit at both ends, got {bucket!r}"
    )
  _check_name(uri, name)
  try:
    found = importlib.util.find_spec(PACKAGES[scheme]) is not None
  except (ImportError, ValueError) as error:  # of one that is half removed, for example
    raise _unusable(uri, error) from error
  if not found:
    raise _unusable(uri)
  credentials = os.environ.get(_CREDENTIALS)
  if scheme == "gs" and credentials and not os.environ.get("STORAGE_EMULATOR_HOST"):
    _check_credentials(credentials)


@functools.lru_cache(maxsize=16)  # every path is checked
def _check_credentials(name: str) -> None:
  """Checks the file of credentials, in place of which gcsfs would try others, and ask for long.

  Raises:
    ValueError: there is none, or it is something else.
  """
  way_out = f"correct the variable, or unset it and {LOG_IN['gs']}"
  try:
    if stat.S_ISFIFO(os.stat(name).st_mode):
      return  # as of the shell's <(...), which can be read once
    with open(name, "rb") as file:
      content = json.loads(file.read(_MOST_CREDENTIALS))
  except OSError as error:
    problem = error.strerror or str(error)
    raise ValueError(
      f"{_CREDENTIALS}: expected a file with credentials, got {name!r} ({problem}); {way_out}"
    ) from error
  except (ValueError, RecursionError):
    content = None
  if not isinstance(content, dict) or not isinstance(content.get("type"), str):
    raise ValueError(
      f"{_CREDENTIALS}: expected a JSON file with credentials, got {name!r}, which is none; "
      f"{way_out}"
    )


def _unusable(uri: str, error: Exception | None = None) -> MissingExtra:
  """Returns what to raise where the package of a scheme is missing, or cannot be imported."""
  scheme = uri.partition("://")[0]
  package = PACKAGES[scheme]
  install = INSTALL.get(scheme, f"pip install {package}")
  problem = "is missing"
  if error is not None:
    cause = error.__cause__ or error.__context__ or error  # fsspec's says only what to install
    reason = " ".join(str(cause).split()) or type(cause).__name__
    problem = f"cannot be imported ({type(cause).__name__}: {reason})"
  return MissingExtra(f"{uri}: {scheme}:// needs the package {package}, which {problem}: {install}")


def _is_bucket_of_google(name: str) -> bool:
  parts = name.split(".")
  longest = max(map(len, parts))
  return bool(_GS_BUCKET.fullmatch(name)) and all(parts) and longest <= _GS_PART


def _check_name(uri: str, name: str) -> None:
  """Checks the part of a URI behind the bucket.

  Raises:
    ValueError: no object can have this name, or it does not mean what it would on a disk.
  """
  if ".." in name.split("/"):
    raise ValueError(
      f"{uri}: expected a path without '..', which a bucket does not know; write the path that is "
      "meant"
    )
  try:
    length = len(name.encode())
  except UnicodeEncodeError:
    raise ValueError(
      f"{uri}: expected a name in UTF-8, because buckets have no others; rename it"
    ) from None
  if length > _NAME_BYTES:
    raise ValueError(f"{uri[:80]}...: expected at most {_NAME_BYTES} bytes of name, got {length}")
  if "\r" in name or "\n" in name:
    raise ValueError(f"{uri!r}: expected a name without line breaks, which buckets do not take")


def set_up(scheme: str) -> dict[str, Any]:
  """Sets up the library of a scheme, also for JAX and Orbax, whose paths are those of epath.

  Returns:
    The options of its file system.
  """
  import fsspec.config

  options: dict[str, Any] = {}
  if scheme == "gs":
    import aiohttp  # pyright: ignore[reportMissingImports]

    # Where we report an error, we raise it. These would write it with a traceback, too.
    for name in ("gcsfs", "fsspec"):
      logger = logging.getLogger(name)
      if logger.level == logging.NOTSET:
        logger.setLevel(logging.CRITICAL)
    # Without a limit, a bucket that takes a request and never answers would stop everything.
    options["requests_timeout"] = aiohttp.ClientTimeout(
      sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS
    )
    # Listings that are kept would hide what other processes, and TensorStore in this one, write.
    options["use_listings_cache"] = False
    fsspec.config.conf.setdefault("gcs", {}).update(options)
  return options


def _file_system(scheme: str) -> Any:
  """Returns the file system; fsspec keeps one for every process."""
  import fsspec

  return fsspec.filesystem(scheme, **set_up(scheme))


def _explained(error: Exception, uri: str) -> OSError:
  """Returns what went wrong as an `OSError` of one line."""
  scheme = uri.partition("://")[0]
  if isinstance(error, FileNotFoundError):
    return FileNotFoundError(errno.ENOENT, "no such file in the bucket, or no such bucket", uri)
  if isinstance(error, FileExistsError):
    return FileExistsError(errno.EEXIST, "exists already", uri)
  if isinstance(error, UnicodeError):
    return OSError(errno.EILSEQ, "expected a name in UTF-8, because buckets have no others", uri)
  number = error.errno if type(error) is OSError else None
  if number is not None and number in _FULL:  # of a copy on this machine
    where = getattr(error, "filename", None) or tempfile.gettempdir()
    return OSError(number, f"{os.strerror(number)}; it takes a copy of {uri}", where)
  code = _code(error)
  reason = " ".join(str(error).split()) or type(error).__name__
  reason = reason if len(reason) <= 200 else f"{reason[:200]} ..."
  credentials = type(error).__name__ in (
    "DefaultCredentialsError", "RefreshError", "NoCredentialsError",
  )  # fmt: skip
  if isinstance(error, PermissionError) or reason.startswith("Forbidden") or code in ("401", "403"):
    credentials = True
  if credentials:
    way_out = LOG_IN.get(scheme, "check the credentials")
    return AccessRefused(f"{uri}: access is refused; {way_out} ({reason})")
  if isinstance(error, IsADirectoryError | NotADirectoryError):
    return error
  # gcsfs has a ValueError for some of them.
  if isinstance(error, ValueError) or (code.startswith("4") and code not in _LATER):
    return OSError(f"{uri}: the bucket refuses the request ({reason}); check the path")
  return ConnectionError(
    f"{uri}: the bucket does not answer as it should ({type(error).__name__}: {reason}); what is "
    "in it is unchanged, so rerun the same command later"
  )


def _code(error: BaseException | None) -> str:
  """Returns the status of the answer that an error is of; "" if there is none."""
  return str(getattr(error, "code", None) or getattr(error, "status", None) or "")


@contextlib.contextmanager
def _explaining(uri: str) -> Iterator[None]:
  try:
    yield
  except MemoryError:
    raise
  except ImportError as error:
    raise _unusable(uri, error) from error
  except Exception as error:  # of fsspec, aiohttp, requests, google.auth or asyncio
    raise _explained(error, uri) from error


class RemotePath(PosixGPath):
  """A path in a bucket, with those methods of `pathlib.Path` that this package uses.

  Every method may raise an `OSError`, whose message names the path and what to do.
  """

  @property
  def scheme(self) -> str:
    """Such as "gs"."""
    return str(self).partition("://")[0]

  def _run(self, action: Callable[..., T], *args: Any, **options: Any) -> T:
    with _explaining(str(self)):
      return action(*args, **options)

  @property
  def _fs(self) -> Any:
    return self._run(_file_system, self.scheme)

  def set_up(self) -> None:
    """Sets up the library for others that use it, such as JAX; makes no request."""
    self._run(set_up, self.scheme)

  def info(self) -> dict[str, Any] | None:
    """Returns what the bucket knows of a file or a folder; None if there is neither."""
    try:
      return self._run(self._fs.info, str(self))
    except FileNotFoundError:
      return None

  def exists(self) -> bool:
    """Whether there is a file or a folder."""
    return self.info() is not None

  def is_dir(self) -> bool:
    """Whether there is anything below this name."""
    return (self.info() or {}).get("type") == "directory"

  def is_file(self) -> bool:
    """Whether there is an object of this name."""
    return (self.info() or {}).get("type") == "file"

  def obstacle(self) -> "RemotePath | None":
    """Returns an object of this name, or of that of a folder above it; None for neither.

    Objects below it could be written, and never be read by programs that know folders. Those whose
    names end in a slash, which mark folders, are in nobody's way.
    """
    for place in (self, *self.parents):
      if "/" not in place._key:
        break  # the bucket
      try:
        place.read_part(0, 1)  # one request, where `is_file` makes three
        return place
      except PermissionError:
        continue  # who may write may be one who may not read
      except ConnectionError:
        raise
      except OSError:
        continue  # there is none
    return None

  def size(self) -> int:
    """Returns the number of bytes of a file."""
    info = self.info()
    if info is None:
      raise _explained(FileNotFoundError(), str(self))
    if info.get("type") == "directory":
      raise IsADirectoryError(errno.EISDIR, "expected a file, got a folder", str(self))
    return int(info["size"])

  def version(self) -> tuple[Any, ...]:
    """Returns what changes when a file is written, or when something is added to a folder."""
    info = self.info()
    if info is None:
      return ()
    if info.get("type") == "directory":
      return tuple(sorted(path.name for path in self.iterdir()))
    return _version(info)

  def iterdir(self) -> Iterator[Any]:
    """Yields what is in a folder."""
    for found in self._run(self._fs.ls, str(self), detail=False):
      name = found.rstrip("/").removeprefix(f"{self._key}/")
      if _is_name_of_file(name) and found.strip("/") != self._key:
        yield self / name

  def find(self) -> dict[str, int]:
    """Returns the files in this folder and below it: their names from here on, and sizes.

    Objects whose name no file can have are left out, with a warning.
    """
    listed, odd = self._listed()
    if odd:
      more = f" and {len(odd) - _NAMED} more" if len(odd) > _NAMED else ""
      log.warning(
        "%s: left out %d object(s), because a file cannot have a path with an empty part, '.' or "
        "'..', as in 'a//b' and 'a/./b', which would be that of another one; rename %s: %s%s",
        self, len(odd), "it" if len(odd) == 1 else "them", ", ".join(odd[:_NAMED]), more,
      )  # fmt: skip
    return {name: int(info["size"]) for name, info in listed.items()}

  def versions(self) -> dict[str, tuple[str, ...]]:
    """Returns the files as `find` does, each with what changes when it is written."""
    return {name: _version(info) for name, info in self._listed()[0].items()}

  def _listed(self) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Returns what is known of each file, and the URIs of objects whose name no file can have."""
    found = self._run(self._fs.find, str(self), detail=True)
    listed, odd = {}, []
    for key, info in found.items():
      name = key.removeprefix(f"{self._key}/")
      if not name or name.endswith("/"):
        continue  # marks a folder
      if _is_name_of_file(name):
        listed[name] = info
      else:
        odd.append(ascii(f"{self.scheme}://{key}")[1:-1])
    return listed, odd

  @property
  def _key(self) -> str:
    return str(self).partition("://")[2].rstrip("/")

  def read_part(self, start: int | None, end: int | None) -> bytes:
    """Reads the bytes from `start` to before `end`, or to where the file ends, in one request."""
    try:
      return self._run(self._fs.cat_file, str(self), start=start, end=end)
    except OSError as error:
      if _code(error.__cause__) == _BEHIND_THE_END:
        return b""
      raise

  def read_bytes(self) -> bytes:
    """Reads a whole file."""
    return self.read_part(None, None)

  def read_text(self, encoding: str | None = "utf-8") -> str:
    """Reads a whole file as text."""
    return self.read_bytes().decode(encoding or "utf-8")

  def write_bytes(self, data: bytes) -> int:
    """Writes a file, which appears whole or not at all."""
    self._run(self._fs.pipe_file, str(self), bytes(data))
    return len(data)

  def write_text(self, data: str, encoding: str | None = None, errors: str | None = None) -> int:
    """Writes a file, which appears whole or not at all."""
    return self.write_bytes(data.encode(encoding or "utf-8", errors or "strict"))

  def create(self, data: bytes) -> None:
    """Writes a file if there is none; of several that try at once, one succeeds.

    Raises:
      FileExistsError: there is one.
    """
    self._run(self._fs.pipe_file, str(self), data, mode="create")

  def upload(self, local: Path, *, create: bool = False) -> None:
    """Writes a file with the contents of a local one; it appears whole or not at all.

    Args:
      local: the file to upload.
      create: leave a file that is there as it is. Of several that try at once, one succeeds, if
        the bucket's library knows uploads with this condition, as that of Cloud Storage does.

    Raises:
      FileExistsError: there is another file, and `create` is set.
    """
    if not create:
      self._run(self._fs.put_file, str(local), str(self))
      return
    try:
      if self.exists():  # for libraries without the condition
        raise FileExistsError
      self._run(self._fs.put_file, str(local), str(self), mode="create")
    except FileExistsError:
      # Maybe this one: an upload whose answer was lost is tried again.
      if self.size() != local.stat().st_size or self.read_bytes() != local.read_bytes():
        raise _explained(FileExistsError(), str(self)) from None

  def download(self, local: Path) -> None:
    """Copies a file to a local one."""
    self._run(self._fs.get_file, str(self), str(local))

  def copy_to(self, target: "RemotePath") -> None:
    """Copies a file within the bucket."""
    self._run(self._fs.cp_file, str(self), str(target))

  def open(self, mode: str = "r", **_: Any) -> Any:
    """Opens a file for reading; nothing can be written in parts."""
    if mode != "rb":
      raise ValueError(f"mode: expected 'rb', got {mode!r}")
    return io.BufferedReader(_Parts(self), PART_BYTES)

  def mkdir(self, mode: int | None = None, parents: bool = False, exist_ok: bool = False) -> None:
    """Does nothing: a folder is there with the first file in it."""

  def unlink(self, missing_ok: bool = False) -> None:
    """Removes a file."""
    try:
      self._run(self._fs.rm_file, str(self))
    except FileNotFoundError:
      if not missing_ok:
        raise

  def resolve(self, strict: bool = False) -> "RemotePath":
    """Returns the path itself, which has no links."""
    return self

  def absolute(self) -> "RemotePath":
    """Returns the path itself."""
    return self


def _is_name_of_file(name: str) -> bool:
  """Whether an object's name from a folder on stays the same as a path, which "a//b" does not."""
  return not {"", ".", ".."} & set(name.split("/"))


def _version(info: dict[str, Any]) -> tuple[str, ...]:
  names = ("generation", "etag", "ETag", "mtime", "LastModified", "size")
  return tuple(str(info[name]) for name in names if name in info)


class _Parts(io.RawIOBase):
  """A file in a bucket, read in parts."""

  def __init__(self, path: RemotePath):
    self._path, self._size, self._position = path, path.size(), 0

  def readable(self) -> bool:
    return True

  def seekable(self) -> bool:
    return True

  def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
    base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
    self._position = max(0, base + offset)
    return self._position

  def tell(self) -> int:
    return self._position

  def readinto(self, buffer: Any) -> int:
    end = min(self._position + len(buffer), self._size)
    if end <= self._position:
      return 0
    data = self._path.read_part(self._position, end)
    buffer[: len(data)] = data
    self._position += len(data)
    return len(data)

  def readall(self) -> bytes:
    if self._position >= self._size:
      return b""
    data = self._path.read_part(self._position, self._size)
    self._position += len(data)
    return data
