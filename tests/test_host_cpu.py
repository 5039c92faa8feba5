"""Memory that a process keeps; each test in its own process, because it cannot be undone."""

import os
import platform
import subprocess
import sys

import pytest

from adaconv_jax import host_cpu

WITH_GLIBC = platform.system() == "Linux" and platform.libc_ver()[0] == "glibc"

# Minor page faults of the third and fourth computation that needs some hundred megabytes.
FAULTS = """
import resource
from adaconv_jax import host_cpu
print(host_cpu.keep_memory())
import jax, jax.numpy as jnp
function = jax.jit(lambda x: jnp.sort(jnp.stack([x] * 8) * 2, axis=-1)[..., ::2])
x = jnp.ones((64, 64, 1024))
def compute():
  jax.block_until_ready(function(x))
compute(); compute()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
compute(); compute()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def kept_and_faults(**env: str) -> tuple[str, int]:
  environment = {**os.environ, "JAX_PLATFORMS": "cpu", **env}
  done = subprocess.run(
    [sys.executable, "-c", FAULTS], env=environment, capture_output=True, text=True, check=True
  )
  kept, faults = done.stdout.split()
  return kept, int(faults)


@pytest.mark.slow
@pytest.mark.skipif(not WITH_GLIBC, reason="needs Linux and glibc")
def test_kept_memory_is_not_requested_again():
  kept, faults = kept_and_faults(ADACONV_KEEP_MEMORY="on")
  assert kept == "True"
  off, faults_without = kept_and_faults(ADACONV_KEEP_MEMORY="off")
  assert off == "False"
  # XLA's and Python's own blocks vary; without it, every call has all of them again.
  assert faults < faults_without / 4
  assert faults_without > 10_000  # otherwise the program does not show the difference


# Megabytes of memory in use, with an array of 256 MB that was freed, and with its memory returned.
RETURNED = """
import os, pathlib
from adaconv_jax import host_cpu
def used():
  pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
  return pages * os.sysconf("SC_PAGE_SIZE") // 2**20
host_cpu.keep_memory()
import numpy as np
before = used()
np.ones(2**28, np.uint8)
print(used() - before)
host_cpu.return_memory()
print(used() - before)
"""


@pytest.mark.skipif(not WITH_GLIBC, reason="needs Linux and glibc")
def test_kept_memory_can_be_returned():
  environment = {**os.environ, "JAX_PLATFORMS": "cpu", "ADACONV_KEEP_MEMORY": "on"}
  done = subprocess.run(
    [sys.executable, "-c", RETURNED], env=environment, capture_output=True, text=True, check=True
  )
  kept, left = map(int, done.stdout.split())
  assert kept >= 250 and left < 50


@pytest.fixture
def not_off(monkeypatch):
  monkeypatch.delenv("ADACONV_KEEP_MEMORY")
  # If one of these tests fails, the process that runs the others is unchanged.
  monkeypatch.setattr(host_cpu, "_keep", lambda size: True)


def test_another_malloc_is_left_alone(not_off, monkeypatch):
  monkeypatch.setenv("LD_PRELOAD", "/usr/lib/libtcmalloc.so.4")
  assert not host_cpu.keep_memory()


def test_a_machine_with_an_accelerator_is_left_alone(not_off, monkeypatch):
  monkeypatch.delenv("JAX_PLATFORMS", raising=False)
  monkeypatch.setattr(host_cpu.Path, "glob", lambda *_: iter(["/dev/accel0"]))
  assert not host_cpu.keep_memory()
