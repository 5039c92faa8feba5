"""Programs that a later process of a command runs without tracing them again.

`keep_compiled` saves the time of XLA. To ask its cache, JAX must trace and lower a function, which
takes as long as all the rest of a first picture. Here, executables are kept by what they are made
from: the sources of this package, the versions of what traces them, the settings of JAX and XLA,
the processor, and the tree, shapes and types of the arguments. Nothing that a trace depends on may
be missing there.

    @kept("color")
    def render(pictures, color): ...    # as by `jax.jit` with static_argnames="color"

    programs.keep_in(folder)            # from here on; `adaconv stylize` does so

Two kinds of files are kept. An `.index` has the name of a program and the tree of its results; its
own name is made from the sources. A `.program` is named by its lowered text, so a change of sources
that leaves it as it is costs no compilation. Whatever fails is done as by `jax.jit`, silently.

An executable is native code, and is unpickled: files are only read if no other user can have
written them. Only for arrays on the one CPU device of a process.
"""

import collections
import contextlib
import functools
import hashlib
import importlib.metadata
import inspect
import os
import pickle
import platform
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

import jax
import numpy as np
from jax.core import Tracer

from adaconv_jax import host_cpu
from adaconv_jax.compilation import QuickJit, given_flags, quick_options
from adaconv_jax.files import in_bucket, replacing

R = TypeVar("R")

# Of all files; the least recently used ones are removed. A size of picture takes some megabytes.
MOST_BYTES = 2**29
_TRACED_BY = ("jax", "jaxlib", "flax", "numpy", "ml_dtypes")
_DIGEST_BYTES = hashlib.sha256().digest_size
_HIT = "/jax/compilation_cache/cache_hits"

_folder: Path | None = None


def keep_in(folder: Path | None) -> None:
  """Keeps the programs of this process in a folder, and takes those that are there.

  Args:
    folder: it is made, for this user only; None: none are kept from here on.
  """
  global _folder
  _folder = None
  if folder is None or not hasattr(os, "geteuid"):
    return
  with contextlib.suppress(OSError, ValueError):  # or a path to no bucket that is known
    if in_bucket(folder) is not None:
      return
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    _folder = folder if _is_ours(folder.lstat(), stat.S_ISDIR) else None


def kept(*static: str) -> "Callable[[Callable[..., R]], Kept[R]]":
  """Does as `QuickJit`, and lets the program be kept.

  Args:
    *static: names of arguments that are not arrays, whose `repr` has all of their value.
  """
  return lambda function: Kept(function, static)


class Kept(Generic[R]):
  """A function from `kept`.

  Attributes:
    jitted: the same, never kept.
  """

  def __init__(self, function: Callable[..., R], static: tuple[str, ...]):
    functools.update_wrapper(self, function)
    self.jitted = QuickJit(function, static)
    self._function, self._static = function, static
    self._signature = inspect.signature(function)
    self._name = function.__name__.strip("_")
    self._programs: dict[Any, Callable[..., R] | None] = {}
    self._locks = collections.defaultdict(threading.Lock)

  def __call__(self, *args: Any, **kwargs: Any) -> R:
    """Calls the function, compiled."""
    if _folder is not None:
      with contextlib.suppress(Exception):  # it is raised again below, if it is not of this file
        program, arrays = self._find(_folder, args, kwargs)
        if program is not None:
          return program(**arrays)
    return self.jitted(*args, **kwargs)

  def prepare(self, *args: Any, **kwargs: Any) -> None:
    """Gets the program ready for such arguments, of which any may be a `jax.ShapeDtypeStruct`."""
    if _folder is not None:
      with contextlib.suppress(Exception):
        if self._find(_folder, args, kwargs)[0] is not None:
          return
    self.jitted.prepare(*args, **kwargs)

  def _find(
    self, folder: Path, args: Any, kwargs: Any
  ) -> tuple[Callable[..., R] | None, dict[str, Any]]:
    bound = self._signature.bind(*args, **kwargs)
    bound.apply_defaults()
    arrays = {k: v for k, v in bound.arguments.items() if k not in self._static}
    fixed = {k: v for k, v in bound.arguments.items() if k in self._static}
    leaves, tree = jax.tree.flatten(arrays)
    kinds = tuple(map(_kind, leaves))
    if None in kinds or jax.config.values["jax_disable_jit"] or not _is_plain():
      return None, arrays
    known = tree, kinds, repr(fixed), _settings()
    with self._locks[known]:
      if known not in self._programs:
        self._programs[known] = None  # if this fails, it is not tried again
        self._programs[known] = self._load_or_make(folder, known, arrays, fixed)
      return self._programs[known], arrays

  def _load_or_make(
    self, folder: Path, known: tuple[Any, ...], arrays: dict[str, Any], fixed: dict[str, Any]
  ) -> Callable[..., R] | None:
    tree, *others = known
    described = repr((str(tree), others))
    if " at 0x" in described:  # an object that another process would not know
      return None
    inputs = jax.tree.structure(((), arrays))
    index = folder / f"{self._name}-{_hash(_sources(), _machine(), described)}.index"
    with contextlib.suppress(Exception):
      name, results = pickle.loads(_read(index))
      return _load(folder / name, inputs, jax.tree.structure(results))

    def named(**arrays: Any) -> R:
      return self._function(**arrays, **fixed)

    named.__name__ = f"kept_{self._name}"
    lowered = jax.jit(named).lower(**arrays)
    name = f"{self._name}-{_hash(_machine(), repr(others), lowered.as_text())}.program"
    results = jax.tree.unflatten(lowered.out_tree, range(lowered.out_tree.num_leaves))
    with contextlib.suppress(Exception):
      program = _load(folder / name, inputs, lowered.out_tree)
      _write(index, pickle.dumps((name, results)))
      return program
    compiled, executable = _compile(lowered, named.__name__)
    if executable is not None:
      with contextlib.suppress(Exception):
        _write(folder / name, executable)
        _write(index, pickle.dumps((name, results)))
        _remove_oldest(folder)
    return compiled


def _kind(leaf: Any) -> tuple[Any, ...] | None:
  """What a program depends on in an argument; None: it is no array on one device."""
  if isinstance(leaf, bool | int | float):
    return (type(leaf).__name__,)
  if isinstance(leaf, Tracer):
    return None
  if isinstance(leaf, jax.Array):
    single = isinstance(leaf.sharding, jax.sharding.SingleDeviceSharding)
    return (leaf.shape, str(leaf.dtype), leaf.weak_type) if single else None
  if isinstance(leaf, jax.ShapeDtypeStruct):
    return (leaf.shape, str(leaf.dtype), leaf.weak_type) if leaf.sharding is None else None
  return (leaf.shape, str(leaf.dtype), False) if isinstance(leaf, np.ndarray | np.generic) else None


@functools.cache
def _is_plain() -> bool:
  """Whether all runs on one CPU device, whose instructions are known."""
  devices = jax.devices()
  single = len(devices) == 1 and jax.process_count() == 1
  return single and devices[0].platform == "cpu" and bool(host_cpu.instruction_sets())


def _settings() -> str:
  """What JAX is set to, also by a `with` block of this thread."""
  return repr([(name, getattr(jax.config, name, None)) for name in sorted(jax.config.values)])


@functools.cache
def _machine() -> str:
  device = jax.devices()[0]
  variables = {k: v for k, v in os.environ.items() if k.startswith(("XLA_", "JAX_", "TF_"))}
  facts = (
    [(name, importlib.metadata.version(name)) for name in _TRACED_BY],
    (sys.version, platform.machine(), device.client.platform_version, device.device_kind),
    (sorted(host_cpu.instruction_sets()), host_cpu.memory_is_kept()),
    (len(os.sched_getaffinity(0)), sorted(variables.items()), sorted(quick_options().items())),
    given_flags(),  # a variable may have no more than the name of a file
  )
  return repr(facts)


@functools.cache
def _sources() -> str:
  root = Path(__file__).parent
  paths = sorted(root.rglob("*.py"))
  return _hash(*(f"{path.relative_to(root)}\n{path.read_text()}" for path in paths))


def _hash(*texts: str) -> str:
  return hashlib.sha256(repr(texts).encode()).hexdigest()


def _compile(lowered: jax.stages.Lowered, name: str) -> tuple[jax.stages.Compiled, bytes | None]:
  """Compiles, and serializes what was compiled.

  XLA loses functions of an executable that was not compiled but loaded (XLA's CPU client, jaxlib
  0.10). So JAX's own cache must not have it, where it would be a second time, too.

  Returns:
    The program; and the bytes of it, None: it was not compiled here.
  """
  from jax.experimental import serialize_executable

  hits, thread = [], threading.get_ident()

  def listen(event: str, **_: Any) -> None:
    if event == _HIT and threading.get_ident() == thread:
      hits.append(event)

  with _out_of_cache(name):
    jax.monitoring.register_event_listener(listen)
    try:
      compiled = lowered.compile(compiler_options=quick_options())
    finally:
      jax.monitoring.unregister_event_listener(listen)
    try:
      executable = None if hits else serialize_executable.serialize(compiled)[0]
    except Exception:  # of several kinds
      executable = None
  return compiled, executable


@contextlib.contextmanager
def _out_of_cache(name: str) -> Iterator[None]:
  """Removes programs of a name from JAX's cache, before and after."""

  def remove() -> None:
    if cache := jax.config.values["jax_compilation_cache_dir"]:
      with contextlib.suppress(OSError):
        for path in Path(cache).glob(f"jit_{name}-*"):
          path.unlink(missing_ok=True)

  remove()
  try:
    yield
  finally:
    remove()


def _load(path: Path, inputs: Any, outputs: Any) -> jax.stages.Compiled:
  from jax.experimental import serialize_executable

  devices = jax.devices()
  return serialize_executable.deserialize_and_load(
    _read(path), inputs, outputs, execution_devices=devices
  )


def _is_ours(status: os.stat_result, is_kind: Callable[[int], bool]) -> bool:
  """Whether no other user can write it."""
  safe = not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
  return is_kind(status.st_mode) and safe and status.st_uid == os.geteuid()


def _read(path: Path) -> bytes:
  """Reads what `_write` wrote, and marks it as used.

  Raises:
    OSError: there is no such file.
    ValueError: it is damaged, or another user can have written it.
  """
  with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
    status = os.fstat(file.fileno())
    if not _is_ours(status, stat.S_ISREG) or status.st_size > MOST_BYTES:
      raise ValueError(f"{path}: expected a kept program of this user")
    digest, data = file.read(_DIGEST_BYTES), file.read()
  if hashlib.sha256(data).digest() != digest:
    raise ValueError(f"{path}: expected a whole kept program")
  with contextlib.suppress(OSError):
    os.utime(path)
  return data


def _write(path: Path, data: bytes) -> None:
  with (
    replacing(path) as temporary,
    open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file,
  ):
    file.write(hashlib.sha256(data).digest() + data)


def _remove_oldest(folder: Path) -> None:
  """Removes the files used least recently, until the rest has no more than `MOST_BYTES`."""
  used = []
  for path in folder.iterdir():
    with contextlib.suppress(OSError):  # another process has removed it
      used.append((path.stat().st_mtime_ns, path.stat().st_size, path))
  total = 0
  for _, size, path in sorted(used, reverse=True):
    total += size
    if total > MOST_BYTES:
      path.unlink(missing_ok=True)
