"""The processor's instruction sets, and memory settings for programs that run on a CPU.

A feature map takes tens of megabytes. By default, glibc returns such blocks to the system when they
are freed, so every use starts with thousands of page faults, which cost more than many
convolutions. `keep_memory` keeps them, in huge pages, which saves a quarter of the time of a
training.
"""

import ctypes
import functools
import os
import platform
from pathlib import Path

# From glibc's malloc.h and Linux's mman.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
_MADV_HUGEPAGE = 14
_HUGE_PAGE = 2**21

_kept = False


@functools.cache
def instruction_sets() -> frozenset[str]:
  """Returns the processor's instruction sets, by Linux's names; empty on other systems."""
  try:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
  except OSError:
    return frozenset()
  flags = (line.partition(":")[2].split() for line in lines if line.startswith("flags"))
  return frozenset(next(flags, ()))


def has_wide_vectors() -> bool:
  """Whether the processor has vectors of 512 bits."""
  return "avx512f" in instruction_sets()


def multiplies_bfloat16() -> bool:
  """Whether the processor multiplies bfloat16 matrices several times faster than float32 ones."""
  return "amx_bf16" in instruction_sets()


def memory_is_kept() -> bool:
  """Whether `keep_memory` is in effect."""
  return _kept


def keep_memory() -> bool:
  """Makes this process keep the memory it frees, in huge pages; for programs that run on CPUs.

  It is meant for a process that does nothing else, such as a training, because the process keeps
  its peak memory. Call it before JAX starts its threads, that is, before any array is created.
  `ADACONV_KEEP_MEMORY=off` in the environment turns it off.

  Returns:
    Whether memory is kept now. It is not if JAX may run on an accelerator, or without Linux and
    glibc's own malloc.
  """
  global _kept
  off = os.environ.get("ADACONV_KEEP_MEMORY", "").lower() == "off"
  replaced = "malloc" in os.environ.get("LD_PRELOAD", "")
  if _kept or off or replaced or _may_use_accelerator():
    return _kept
  if platform.system() == "Linux" and platform.libc_ver()[0] == "glibc":
    _kept = _keep(_memory_bytes() // 2)
  return _kept


def return_memory() -> None:
  """Returns what `keep_memory` has kept so far to the system, before something quite different.

  Blocks of other sizes need not fit where the kept ones were, and not all threads share a heap, so
  the next program may take new memory beside it.
  """
  if _kept:
    ctypes.CDLL(None).malloc_trim(0)


def _may_use_accelerator() -> bool:
  if os.environ.get("JAX_PLATFORMS") == "cpu":
    return False
  patterns = ("accel*", "vfio/[0-9]*", "nvidia[0-9]*", "kfd")
  return any(path for pattern in patterns for path in Path("/dev").glob(pattern))


def _keep(size: int) -> bool:
  libc = ctypes.CDLL(None)
  libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
  libc.free.argtypes, libc.free.restype = [ctypes.c_void_p], None
  libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
  # One heap for all threads, no separate mapping for large blocks, and no shrinking.
  settings = ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1))
  if not all(libc.mallopt(name, value) for name, value in settings):
    return False
  # This takes addresses only; memory is used where something is written.
  block = libc.malloc(size)
  if block:
    start = -(-block // _HUGE_PAGE) * _HUGE_PAGE
    libc.madvise(start, (block + size - start) // _HUGE_PAGE * _HUGE_PAGE, _MADV_HUGEPAGE)
    libc.free(block)
  return True


def _memory_bytes() -> int:
  return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
