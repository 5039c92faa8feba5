"""Paths, atomic writing of files, bounded reading, hashes, and the cache folder.

Every file that a user names is opened by `open_regular`, directly or through `read_regular`,
`read_json`, `check_regular` or `tensor_files`. So a pipe, a device or a file of terabytes is a
`ValueError` that names it, before anything waits for it or fills the memory.

A path may be in a bucket (gs://BUCKET/FOLDER/FILE). `expand` makes paths of both kinds from what a
user gives; those in a bucket have the methods of a `Path` that this package uses. What differs,
such as that nothing can be renamed there, is decided in this file; `bucket.py` makes the requests.
"""

import contextlib
import errno
import functools
import hashlib
import json
import logging
import os
import re
import shutil
import socket
import stat
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from adaconv_jax.extras import MissingExtra
from adaconv_jax.signals import unfinished

if TYPE_CHECKING:
  from adaconv_jax.bucket import RemotePath

log = logging.getLogger(__name__)

Json = dict[str, Any]  # what a JSON file holds

# Largest weights: all of VGG-19 has 0.6 GB, with its classifier.
MAX_WEIGHTS_BYTES = 2**31
# Largest JSON: a list of ten million images, and the record of a run, which has a few kilobytes.
MAX_LIST_BYTES = 2**30
MAX_JSON_BYTES = 2**24
# No JSON of ours is nested deeper than 6.
MAX_JSON_DEPTH = 32
# Two characters at least, because "C:" is a drive. `Path` makes one slash of two.
_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://|(gs|s3|az|hf):/(?!/)")
# A copy of a log is uploaded when it has changed, but not more often than this, nor more than
# this many bytes per second on average, because every upload has the whole file.
MIRROR_SECONDS = 30.0
MIRROR_BYTES_PER_SECOND = 2**20
# Errors of a disk that takes nothing more.
_FULL = (errno.ENOSPC, errno.EFBIG, errno.EROFS, getattr(errno, "EDQUOT", errno.ENOSPC))
# Errors of a file system that has no hard links, such as FAT.
_WITHOUT_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
# Of an output that did not exist when the command began.
MADE_MEANWHILE = "exists, because another process has made it meanwhile; --overwrite replaces it"
_KINDS = (
  (stat.S_ISFIFO, "a pipe"),
  (stat.S_ISSOCK, "a socket"),
  (stat.S_ISCHR, "a device"),
  (stat.S_ISBLK, "a device"),
)


def open_regular(path: str | os.PathLike[str], *, at_most: int) -> BufferedReader:
  """Opens a regular file of bounded size for reading; never waits for a pipe or a device.

  Args:
    path: the file, or a link to one.
    at_most: the largest size in bytes.

  Raises:
    ValueError: it is something else, such as a pipe, or larger.
    OSError: it is missing or not readable.
  """
  if (remote := in_bucket(path)) is not None:
    _check_size(path, remote.size(), at_most)
    return remote.open("rb")
  _check_kind(path, os.stat(path))  # first, because opening has an effect on some devices
  # O_NONBLOCK, because opening a pipe that has appeared since then would wait for a writer.
  flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
  file = open(os.open(path, flags | getattr(os, "O_CLOEXEC", 0)), "rb")
  try:
    status = os.fstat(file.fileno())
    _check_kind(path, status)
    _check_size(path, status.st_size, at_most)
  except BaseException:
    file.close()
    raise
  return file


def _check_kind(path: str | os.PathLike[str], status: os.stat_result) -> None:
  if stat.S_ISREG(status.st_mode):
    return
  kind = next((name for test, name in _KINDS if test(status.st_mode)), "something else")
  if stat.S_ISDIR(status.st_mode):
    raise IsADirectoryError(errno.EISDIR, "expected a file, got a folder", os.fspath(path))
  raise ValueError(f"{os.fspath(path)}: expected a regular file, got {kind}")


def _check_size(path: str | os.PathLike[str], size: int, at_most: int) -> None:
  if size > at_most:
    raise ValueError(
      f"{os.fspath(path)}: expected at most {at_most / 1e6:.0f} MB, got {size / 1e6:.0f} MB"
    )


def check_regular(path: str | os.PathLike[str], *, at_most: int) -> int:
  """Returns the size of a file that another library will open; raises like `open_regular`."""
  with open_regular(path, at_most=at_most) as file:
    return os.fstat(file.fileno()).st_size


def read_regular(path: str | os.PathLike[str], *, at_most: int) -> bytes:
  """Reads a regular file of at most `at_most` bytes; raises like `open_regular`."""
  if (remote := in_bucket(path)) is not None:
    _check_size(path, remote.size(), at_most)
    return remote.read_bytes()  # in one request, so of one version of the file
  with open_regular(path, at_most=at_most) as file:
    data = file.read(os.fstat(file.fileno()).st_size)
    # A file may grow while it is read, and those of /proc have a size of 0.
    while chunk := file.read(min(2**20, at_most + 1 - len(data))):
      data += chunk
      if len(data) > at_most:
        raise ValueError(f"{os.fspath(path)}: expected at most {at_most / 1e6:.0f} MB, got more")
  return data


def parse_json(text: str | bytes, *, what: str) -> Any:
  """Parses JSON from any source.

  Args:
    text: the JSON.
    what: what it is, which errors begin with.

  Raises:
    ValueError: it is not JSON, not UTF-8, or nested too deeply.
  """
  try:
    value = json.loads(text)
  except RecursionError:
    raise ValueError(f"{what}: nested too deeply; at most {MAX_JSON_DEPTH} levels") from None
  except ValueError as error:
    raise ValueError(f"{what}: not whole or not JSON ({error})") from error
  level = [value]
  for _ in range(MAX_JSON_DEPTH):
    nested = [part for part in level if isinstance(part, dict | list)]
    level = [x for part in nested for x in (part.values() if isinstance(part, dict) else part)]
    if not level:
      return value
  raise ValueError(f"{what}: nested too deeply; at most {MAX_JSON_DEPTH} levels")


def read_json(path: str | os.PathLike[str], *, at_most: int = MAX_JSON_BYTES) -> Any:
  """Reads a JSON file.

  Raises:
    ValueError: it is not a regular file, too large, or not JSON; see `parse_json`.
    OSError: it is missing or not readable.
  """
  return parse_json(read_regular(path, at_most=at_most), what=os.fspath(path))


def printable(text: object, *, lines: bool = False) -> str:
  r"""Returns `text`, such as a path, as every terminal, log, CSV and JSON file can take it.

  Characters that are not printable become escapes, such as `\x1b`: controls, which could command
  the terminal, marks that reverse the direction of text, and surrogates, which Python has for the
  bytes of a file name that is not UTF-8.

  Args:
    text: what to show.
    lines: whether line breaks stay, for messages of several lines.
  """
  return "".join(
    c if c.isprintable() or (lines and c == "\n") else c.encode("unicode_escape").decode()
    for c in str(text)
  )


def expand(path: str | os.PathLike[str]) -> Path:
  """Returns `path` with a leading `~` or `~user` replaced by the home folder.

  The package does so with every path that a user gives: a shell expands `~` in `--output ~/out`,
  but not in `--output=~/out`, in a config or in Python. `./~` means a file of that name.

  A path in a bucket becomes a `bucket.RemotePath`, which has the methods of a `Path`.

  Raises:
    ValueError: a URI of a scheme that is not known or whose package is missing.
  """
  remote: Any = in_bucket(path)  # has the methods of a `Path` that are used
  return Path(os.path.expanduser(path)) if remote is None else remote


@contextlib.contextmanager
def naming_option(option: str) -> Iterator[None]:
  """Begins the message of what cannot be read with the option or setting that named it.

  Raises:
    ConnectionError: as it is; it concerns a bucket rather than the option.
    MissingExtra: as it is, with such a message.
    ValueError: in place of other errors of files and their contents.
  """
  try:
    yield
  except ConnectionError:
    raise
  except (OSError, ValueError) as error:
    message = described(error)
    if message.startswith(f"{option}: "):
      raise
    kind = MissingExtra if isinstance(error, MissingExtra) else ValueError
    raise kind(f"{option}: {message}") from error


def expand_named(name: str, path: str | os.PathLike[str]) -> Path:
  """Does as `expand`, with errors that begin with the name of the option or setting."""
  with naming_option(name):
    return expand(path)


def check_path(name: str, path: Any, expected: str) -> None:
  """Checks an argument that is to be a path.

  Args:
    name: the argument, which the error names.
    path: its value.
    expected: what it is the path of.

  Raises:
    ValueError: it is none, or empty.
  """
  if is_remote(path):
    return
  is_path = isinstance(path, str | os.PathLike) and not isinstance(os.fspath(path), bytes)
  if not is_path or not os.fspath(path):
    got = repr(path) if is_path or path is None else type(path).__name__
    raise ValueError(f"{name}: expected {expected}, got {got}")


def in_bucket(path: str | os.PathLike[str]) -> "RemotePath | None":
  """Returns the path of a URI, such as gs://BUCKET/FILE; None for a path on a disk.

  Raises:
    ValueError: its scheme is not known, or the scheme's package is missing.
  """
  if is_remote(path):
    return path
  text = os.fspath(path)
  if (match := _URI.match(text)) is None:
    return None
  from adaconv_jax import bucket  # here, because most runs have no use for it

  scheme = (match[1] or match[2]).lower()
  uri = f"{scheme}://{text[match.end() :]}"
  bucket.check(uri, scheme)
  return bucket.RemotePath(uri)


def is_remote(path: str | os.PathLike[str]) -> TypeGuard["RemotePath"]:
  """Whether a path from `expand` is in a bucket."""
  return not isinstance(path, str | Path) and hasattr(path, "scheme")


def not_there(path: str | os.PathLike[str]) -> str:
  """Says of a path from `expand` that nothing is there, and of a bucket's what that may mean."""
  if is_remote(path):
    return "does not exist in the bucket, or there is no such bucket; check the name"
  return "does not exist"


def absolute(path: str | os.PathLike[str]) -> str:
  """Returns the path as text from the root on, or as a URI; links are kept."""
  return str(path) if is_remote(path) else os.path.abspath(path)


def real(path: str | os.PathLike[str]) -> str:
  """Returns the path as text from the root on, or as a URI; links are followed."""
  return str(path) if is_remote(path) else os.path.realpath(path)


def size_of(path: Path) -> int:
  """Returns the number of bytes of a file."""
  return path.size() if is_remote(path) else path.stat().st_size


def version_of(path: Path) -> Any:
  """Returns what changes when a file is written, or a folder gets another file; None for none."""
  if is_remote(path):
    return path.version() or None
  return path.stat().st_mtime_ns if path.exists() else None


def versions_below(folder: Path, names: Sequence[str]) -> list[str | None]:
  """Returns what changes when these files in a folder are written; None for one that is not there.

  On a disk this is the time of the last change, also of those that set the time of writing back. In
  a bucket one request lists a thousand.
  """
  if is_remote(folder):
    found = folder.versions()
    return ["-".join(found[name]) if name in found else None for name in names]

  def version(name: str) -> str | None:
    try:
      status = (folder / name).stat()
    except (OSError, ValueError):
      return None
    return f"{status.st_mtime_ns}-{status.st_ctime_ns}"

  return [version(name) for name in names]


def files_below(folder: Path) -> dict[str, int | None]:
  """Lists a folder and all below it, without hidden files and folders, and follows no links.

  Returns:
    The relative names of the files, with slashes, and the sizes where the listing has them. In a
    bucket one request lists a thousand; on a disk a size needs a look at the file.

  Raises:
    OSError: the folder cannot be read. One below it that cannot is left out, with a warning.
  """
  if is_remote(folder):
    found = folder.find()
    return {name: size for name, size in found.items() if "/." not in f"/{name}"}
  names: dict[str, int | None] = {}

  def unreadable(error: OSError) -> None:
    if error.filename == os.fspath(folder):
      raise error
    log.warning(
      "%s: left out, because it cannot be read (%s)", printable(error.filename), error.strerror
    )

  for parent, folders, files in os.walk(folder, onerror=unreadable):
    folders[:] = [name for name in folders if not name.startswith(".")]
    below = Path(parent).relative_to(folder)
    names |= {(below / name).as_posix(): None for name in files if not name.startswith(".")}
  return names


@contextlib.contextmanager
def local_copy(path: str | os.PathLike[str]) -> Iterator[Path]:
  """Yields the path of a file for libraries that only know disks: of a bucket's file, of a copy."""
  remote = in_bucket(path)
  if remote is None:
    yield Path(path)
    return
  with tempfile.TemporaryDirectory(prefix="adaconv-") as folder:
    local = Path(folder) / (remote.name or "file")
    remote.download(local)
    yield local


@contextlib.contextmanager
def replacing(path: str | Path, *, overwrite: bool = True) -> Iterator[Path]:
  """Yields a temporary path to write to, and puts the file at `path` when the block ends.

  Until then, and if the block raises, an existing file at `path` is unchanged. Several processes
  may write the same file at once. What killed processes have left in the folder is removed.

  On a disk, the temporary file is renamed, which replaces the other at once. A bucket has no such
  rename. There, the temporary file is local and is uploaded when the block ends; the bucket shows
  an object when its upload is complete, and the earlier one until then.

  Args:
    path: the file's final name; its folder is created.
    overwrite: whether a file that is at `path` when the block ends is replaced. If not, one of
      several processes that write it at once succeeds; where a file system has no hard links, and
      a bucket no uploads with conditions, this is only checked a moment before.

  Raises:
    FileExistsError: there is a file at `path`, and `overwrite` is not set.
    OSError: `path` is a folder, a pipe or a device, which renaming would replace, too.
  """
  path = expand(path)
  if is_remote(path):
    with tempfile.TemporaryDirectory(prefix="adaconv-") as folder:
      local = Path(folder) / f"{uuid.uuid4().hex}{path.suffix}"
      yield local
      path.upload(local, create=not overwrite)
    return
  _check_replaceable(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  _remove_rests(path.parent.absolute())
  # Hidden, so the remains of a killed process are not taken for a result; with the suffix, which
  # determines an image's format.
  temporary = path.with_name(f".{_writer(os.getpid())}-{uuid.uuid4().hex[:12]}{path.suffix}")
  unfinished.add(temporary)
  try:
    with naming(path, temporary):
      yield temporary
      if overwrite:
        os.replace(temporary, path)
      else:
        _put(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)
    unfinished.discard(temporary)


def _put(temporary: Path, path: Path) -> None:
  """Gives a file its final name, if nothing has it; a link that leads nowhere is replaced."""
  try:
    os.link(temporary, path)
    return
  except FileExistsError:
    exists = path.exists()
  except OSError as error:
    if error.errno not in _WITHOUT_LINKS:
      raise
    exists = path.exists()
  if exists:
    raise FileExistsError(errno.EEXIST, MADE_MEANWHILE, os.fspath(path))
  os.rename(temporary, path)  # which Windows refuses, if a file has appeared since then


def described(error: Exception) -> str:
  """Returns an error's message; of the system's errors, the path and the reason without numbers."""
  if isinstance(error, OSError) and error.strerror:
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
  return str(error)


@contextlib.contextmanager
def naming(path: str | Path, temporary: Path | None = None) -> Iterator[None]:
  """Lets an error of a full disk, which names no file, name the one that is written.

  Args:
    path: the file that is written.
    temporary: its temporary name, which means nothing to the user.
  """
  try:
    yield
  except OSError as error:
    named = error.filename
    # FFmpeg gets absolute paths, and names them.
    own = temporary is not None and named in (
      temporary,
      *map(str, (temporary, temporary.absolute())),
    )
    if own or (named is None and error.errno in _FULL):
      # A new one: FFmpeg's errors have names that cannot be changed, and one of two names cannot
      # lose the second.
      raise OSError(error.errno, error.strerror, os.fspath(path)) from error
    raise


def _check_replaceable(path: Path) -> None:
  try:
    _check_kind(path, os.stat(path))
  except ValueError as error:
    reason = str(error).removeprefix(f"{path}: ")
    raise FileExistsError(errno.EEXIST, reason, os.fspath(path)) from error
  except (FileNotFoundError, NotADirectoryError):
    pass  # making the folder says what is wrong
  except OSError as error:
    if error.errno != errno.ELOOP:  # such a link is replaced, like one that leads nowhere
      raise


def unwritable(folder: str | os.PathLike[str]) -> str | None:
  """Says why no file can be made in a folder, which may not exist yet; None if nothing is known.

  So a command can refuse its output before it computes it.

  Raises:
    ConnectionError: it is in a bucket that does not answer.
  """
  folder = expand(folder)
  if (place := obstacle(folder)) is not None:
    return f"{printable(place)} is not a folder"
  if is_remote(folder):
    return _unwritable_in_bucket(folder)
  if not os.access(place := _nearest(folder), os.W_OK | os.X_OK):
    return f"{printable(place)} cannot be written to"
  try:
    # Only this shows that /proc takes no file, not even from root.
    with tempfile.TemporaryFile(dir=place):
      return None
  except OSError as error:
    return f"{printable(place)} takes no files ({error.strerror})"


def _unwritable_in_bucket(folder: "RemotePath") -> str | None:
  trial = folder / f".{uuid.uuid4().hex}"
  try:
    trial.write_bytes(b"")
  except OSError as error:
    if isinstance(error, ConnectionError) and not isinstance(error, PermissionError):
      raise
    return described(error).replace(str(trial), str(folder))
  with contextlib.suppress(OSError):  # who may write may be one who may not delete
    trial.unlink()
  return None


def obstacle(folder: Path) -> "Path | RemotePath | None":
  """Returns what is there in place of a folder or of one above it, such as a file; None if nothing.

  A link that leads nowhere is in the way, too. In a bucket objects are, which takes a request
  for each level.

  Raises:
    ConnectionError: it is in a bucket that does not answer.
  """
  if is_remote(folder):
    return folder.obstacle()
  place = _nearest(folder)
  return None if place.is_dir() else place


def _nearest(path: Path) -> Path:
  """Returns the path itself, or the first above it where there is something, also such a link."""
  path = path.absolute()
  return next((place for place in (path, *path.parents) if os.path.lexists(place)), path)


def is_same(first: str | os.PathLike[str], second: str | os.PathLike[str]) -> bool:
  """Whether two paths lead to one file, also by links; False where one does not exist."""
  first, second = expand(first), expand(second)
  if is_remote(first) or is_remote(second):
    return real(first) == real(second)
  try:
    return os.path.samefile(first, second)
  except (OSError, ValueError):
    return False


# Names of the temporary files of `replacing`, with the process that writes: where its number means
# something, its number, and when it began.
_REST = re.compile(r"\.part-([0-9a-f]{12})-(\d+)-(\d+)-[0-9a-f]{12}(\..*)?")
# Seconds after which one of another computer is a rest; writing a file takes minutes.
_REST_AGE = 24 * 3600


@functools.lru_cache(maxsize=1024)  # a folder may have many thousands of files
def _remove_rests(folder: Path) -> None:
  """Removes the temporary files of processes that are gone, once for each folder."""
  for name in os.listdir(folder):
    if found := _REST.fullmatch(name):
      with contextlib.suppress(OSError):  # another process has removed it, or may remove it
        if _is_rest(folder / name, *found.groups()[:3]):
          os.unlink(folder / name)


def _is_rest(path: Path, space: str, process: str, start: str) -> bool:
  if space != _process_space() or sys.platform == "win32":  # where `os.kill` ends the process
    return time.time() - path.stat().st_mtime > _REST_AGE
  try:
    os.kill(int(process), 0)
  except (ProcessLookupError, OverflowError):
    return True
  except OSError:  # a process of another user
    pass
  return _start_of(int(process)) != start  # its number was given to another one


def _writer(process: int) -> str:
  return f"part-{_process_space()}-{process}-{_start_of(process)}"


@functools.cache
def _process_space() -> str:
  """Returns a hash of where a process number means a process: this computer, or a container."""
  parts = [socket.gethostname()]
  with contextlib.suppress(OSError):
    parts += [Path("/proc/sys/kernel/random/boot_id").read_text(), os.readlink("/proc/self/ns/pid")]
  return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _start_of(process: int) -> str:
  """Returns when a process began, in ticks of the clock; "0" where that is not known."""
  try:
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
  except (IndexError, OSError):
    return "0"


def set_aside(folder: Path, aside: Path, mark: str) -> None:
  """Renames a folder, which counts for something only with the file `mark` in it.

  On a disk it has either name at every moment. In a bucket its files are copied, and deleted after
  that, the mark first: a process that is killed meanwhile leaves a folder that is as before, or
  counts for nothing.
  """
  if not is_remote(folder) or not is_remote(aside):
    os.rename(folder, aside)
    return
  names = sorted(folder.find(), key=lambda name: name != mark)
  for name in names:
    (folder / name).copy_to(aside / name)
  for name in names:
    (folder / name).unlink(missing_ok=True)


class Mirror:
  """A local folder whose files are copied to a bucket from time to time, for growing logs.

  Nothing can be appended to an object, so every copy has the whole file. A copy that fails is a
  warning, and is tried again later. What a killed process has not copied yet is lost.

  Attributes:
    folder: where to write. For a `target` on a disk this is `target` itself, and nothing is copied.
  """

  def __init__(self, target: Path):
    self.folder, self._target = target, target
    self._copied: dict[str, tuple[int, int]] = {}
    self._due: dict[str, float] = {}
    self._busy = threading.Lock()
    self._end = threading.Event()
    self._thread: threading.Thread | None = None
    if is_remote(target):
      self.folder = Path(tempfile.mkdtemp(prefix="adaconv-"))
      self._thread = threading.Thread(target=self._watch, daemon=True)
      self._thread.start()

  def fetch(self, name: str) -> None:
    """Gets a file that an earlier process has written, if there is one, to go on with it."""
    if not is_remote(self._target):
      return
    with self._busy:  # half a file must not be copied back
      # Not by `exists` first: the file may be replaced between two requests.
      with contextlib.suppress(FileNotFoundError):
        (self._target / name).download(self.folder / name)
        self._copied[name] = self._state(name)

  def _state(self, name: str) -> tuple[int, int]:
    status = (self.folder / name).stat()
    return status.st_mtime_ns, status.st_size

  def _watch(self) -> None:
    while not self._end.wait(min(MIRROR_SECONDS, 1.0)):
      self.copy(only_due=True)

  def copy(self, *, only_due: bool = False) -> None:
    """Copies the files that have changed.

    Args:
      only_due: leave out those that were copied a short time ago.
    """
    if not is_remote(self._target):
      return
    with self._busy:
      for name in files_below(self.folder):
        now, state = time.monotonic(), self._state(name)
        if self._copied.get(name) == state or (only_due and self._due.get(name, 0) > now):
          continue
        self._due[name] = now + max(MIRROR_SECONDS, state[1] / MIRROR_BYTES_PER_SECOND)
        try:
          (self._target / name).upload(self.folder / name)
        except OSError as error:
          log.warning("%s; it is tried again", error)
        else:
          self._copied[name] = state

  def close(self) -> None:
    """Copies what has changed, and removes the local folder."""
    if self._thread is None:
      return
    self._end.set()
    self._thread.join()
    self._thread = None
    self.copy()
    shutil.rmtree(self.folder, ignore_errors=True)


_PACKAGE = Path(__file__).resolve().parent
# The folder with the example pictures, in "content" and "style". In an installed package it is
# beside this module, in a clone beside the package.
_INSTALLED = (_PACKAGE / "configs" / "files").is_dir()
EXAMPLES = (_PACKAGE if _INSTALLED else _PACKAGE.parent) / "examples"


def cache_dir() -> Path:
  """Returns the cache folder: `$ADACONV_CACHE` if set, otherwise `~/.cache/adaconv_jax`."""
  return expand(os.environ.get("ADACONV_CACHE") or "~/.cache/adaconv_jax")


def sha256(path: str | Path) -> str:
  """Returns the sha256 of a file in hexadecimal."""
  with open_regular(expand(path), at_most=MAX_WEIGHTS_BYTES) as file:
    return hashlib.file_digest(file, "sha256").hexdigest()
