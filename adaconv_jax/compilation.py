"""Compiled programs are kept, so that the next process starts faster.

The commands do so by themselves. Python code asks for it:

    import adaconv_jax
    adaconv_jax.keep_compiled()
"""

import contextlib
import functools
import logging
import os
import re
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import jax
import numpy as np
from jax.core import Tracer
from jax.experimental.compilation_cache import compilation_cache

from adaconv_jax.files import (
  cache_dir,
  check_path,
  expand,
  in_bucket,
  is_remote,
  obstacle,
  printable,
)

log = logging.getLogger(__name__)

R = TypeVar("R")

# On a CPU. Compiling takes 0.4 of the time then, and running at most a twentieth more: LLVM's last
# level gains little for loops that are as simple as those between XLA's convolutions and matrix
# products, and each of the emitters that are left out runs dozens of passes.
_QUICK = {"xla_backend_optimization_level": 1, "xla_cpu_use_fusion_emitters": False}
# Of a pair of pictures, most programs compile in less than JAX's default of a second.
_LEAST_SECONDS = 0.1
_FAULT = re.compile(
  r"Error (reading|writing) persistent compilation cache entry for '(.+?)': (?:\w+: )?(.*)",
  re.DOTALL,
)


def keep_compiled(folder: str | os.PathLike[str] | None = None) -> Path | None:
  """Keeps what JAX compiles from here on in a folder, for this process and the next ones.

  It sets `jax_compilation_cache_dir`, so it concerns all programs of the process, also those of
  your own; the package never does so unless it is asked. Call it before the first picture.

  Without a `folder`, it does nothing if `ADACONV_COMPILATION_CACHE` is "off", or if JAX was given a
  folder of its own (`JAX_COMPILATION_CACHE_DIR`).

  Args:
    folder: where to keep the programs; None: `$ADACONV_CACHE/compiled`, else
      `~/.cache/adaconv_jax/compiled`, as the commands do.

  Returns:
    The folder in which programs are kept; None: they are not kept.

  Raises:
    ValueError: `ADACONV_COMPILATION_CACHE` is neither "on" nor "off", or there can be no folder.
  """
  if folder is not None:
    check_path("folder", folder, "a folder, or None")
  setting = os.environ.get("ADACONV_COMPILATION_CACHE", "on")
  if setting not in ("on", "off"):
    raise ValueError(f"ADACONV_COMPILATION_CACHE: expected 'on' or 'off', got {setting!r}")
  given = jax.config.values["jax_compilation_cache_dir"]
  if folder is None and given:
    return expand(given)
  if folder is None and setting == "off":
    return None
  path = cache_dir() / "compiled" if folder is None else expand(folder)
  if (remote := in_bucket(path)) is not None:
    remote.set_up()
  elif (place := obstacle(path)) is not None:
    name = "ADACONV_CACHE" if folder is None else "folder"
    raise ValueError(
      f"{name}: expected a folder for compiled programs, but {printable(place)} is none"
    )
  jax.config.update("jax_compilation_cache_dir", str(path))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", _LEAST_SECONDS)
  return path


def quick_jit(*static: str) -> "Callable[[Callable[..., R]], QuickJit[R]]":
  """Does as `jax.jit`, with `QuickJit`.

  Args:
    *static: names of arguments that are not arrays.
  """
  return lambda function: QuickJit(function, static)


class QuickJit(Generic[R]):
  """A function as `jax.jit` compiles it, sooner on a CPU.

  For programs that run a few times. Within a transformation it is the function that `jax.jit`
  makes, because only a whole program has options; and where an array is on an accelerator. Flags of
  XLA that the user has set stay as they are.
  """

  def __init__(self, function: Callable[..., R], static: tuple[str, ...]):
    """Takes a function, and the names of its arguments that are not arrays."""
    functools.update_wrapper(self, function)
    self._plain: Any = jax.jit(function, static_argnames=static)

    def quick() -> Any:
      options = quick_options()
      if not options:  # `jax.jit` would make another name of the same programs
        return self._plain
      return jax.jit(function, static_argnames=static, compiler_options=options)

    self._quick: Callable[[], Any] = functools.cache(quick)

  def __call__(self, *args: Any, **kwargs: Any) -> R:
    """Calls the function, compiled."""
    return self._here(args, kwargs)(*args, **kwargs)

  def prepare(self, *args: Any, **kwargs: Any) -> None:
    """Compiles for such arguments, of which any may be a `jax.ShapeDtypeStruct`."""
    self._here(args, kwargs).lower(*args, **kwargs).compile()

  def programs(self) -> int:
    """Returns the number of programs that calls have compiled."""
    return sum(function._cache_size() for function in {self._plain, self._quick()})

  def _here(self, args: Any, kwargs: Any) -> Any:
    # Within `jit`, even what is computed from constants is traced. Outside, this is put where what
    # is on no device yet goes.
    leaves = [jax.device_put(np.zeros((), np.float32)), *jax.tree.leaves((args, kwargs))]
    traced = any(isinstance(leaf, Tracer) for leaf in leaves)
    return self._quick() if not traced and _platforms(leaves) == {"cpu"} else self._plain


def _platforms(leaves: list[Any]) -> set[str]:
  """Where arrays are: a process whose default is the CPU may have put some on an accelerator."""
  arrays = (leaf for leaf in leaves if isinstance(leaf, jax.Array))
  return {device.platform for array in arrays for device in array.sharding.device_set}


@functools.cache
def quick_options() -> dict[str, Any]:
  """Returns the options of XLA with which this machine compiles sooner; none on accelerators."""
  if jax.default_backend() != "cpu":
    return {}
  given = given_flags()
  options = {name: value for name, value in _QUICK.items() if name not in given}
  if _takes(options):
    return options
  return {name: value for name, value in options.items() if _takes({name: value})}


def given_flags() -> str:
  """Returns what the user has set of XLA's flags, which has priority."""
  given = os.environ.get("XLA_FLAGS", "").lstrip()
  if given and not given.startswith("-"):  # the name of a file that XLA reads them from
    try:
      given = Path(given).read_text()
    except (OSError, ValueError):  # nor can XLA
      given = ""
  if jax.config.values["jax_disable_most_optimizations"]:
    given += " --xla_backend_optimization_level=0"
  return given


def _takes(options: dict[str, Any]) -> bool:
  """Whether XLA has such options, which differ between its versions."""
  try:
    jax.jit(lambda: 0, compiler_options=options).lower().compile()
  except Exception:
    return False
  return True


def mend_kept(folder: Path) -> None:
  """Lets this process remove kept programs that are cut off, in place of JAX's warnings.

  JAX writes a program under its final name. So a kill or a full disk leaves a part of one, of which
  JAX would warn in every process, and which it would never replace. A bucket has whole programs
  only. One that fails is not asked again, because every program would wait for it for a minute.

  Args:
    folder: from `keep_compiled`.
  """
  warnings.filterwarnings("always", "Error (reading|writing) persistent", UserWarning)
  show = warnings.showwarning
  said = False

  def show_others(message: Any, *args: Any, **kwargs: Any) -> None:
    nonlocal said
    if (fault := _FAULT.match(str(message))) is None:
      return show(message, *args, **kwargs)
    action, name, reason = fault.groups()
    removed = 0 if is_remote(folder) else _remove_cut_off(folder, name)
    if action == "writing" or not removed:
      if not said:
        line = " ".join(reason.split())
        log.warning("%s: compiled programs cannot be kept (%s)", printable(folder), line)
      said = True
      if is_remote(folder):
        jax.config.update("jax_enable_compilation_cache", False)
        compilation_cache.reset_cache()

  warnings.showwarning = show_others


def _remove_cut_off(folder: Path, name: str) -> int:
  """Removes the programs of a name that are not whole, and returns how many."""
  count = 0
  for path in folder.glob(f"{name}-*-cache"):
    with contextlib.suppress(OSError):
      try:
        zlib.decompress(path.read_bytes())
      except zlib.error:  # also if it was compressed by another library, and can be made again
        path.unlink()
        count += 1
  return count
