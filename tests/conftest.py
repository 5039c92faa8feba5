"""Most of the tests' time is compilation: a program is compiled once per session, and quickly."""

import os

import jax
import pytest


def pytest_configure(config):
  # It cannot be undone, and tests share a process.
  os.environ["ADACONV_KEEP_MEMORY"] = "off"
  # The same operations without LLVM's optimizations compile in half the time. Slow tests, and
  # programs that tests start, run what users run.
  if config.getoption("markexpr") != "slow":
    os.environ["XLA_FLAGS"] = (
      f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"
    )


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory):
  folder = str(tmp_path_factory.mktemp("compiled"))
  jax.config.update("jax_compilation_cache_dir", folder)
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
  yield folder
  jax.config.update("jax_compilation_cache_dir", None)
