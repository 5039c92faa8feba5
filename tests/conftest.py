"""Most of the tests' time is compilation, so programs are compiled once per session, and fast."""

import os
import signal
import time
from pathlib import Path

import jax
import processes
import pytest

from adaconv_jax.models import refinement
from adaconv_jax.ops.conv import dispatch

# Where the processor's own forms of convolutions are tested.
OPS = Path(__file__).parent / "ops"


def pytest_configure(config):
  # `nohup` lets programs ignore it, and those that they start.
  if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
  # It cannot be undone, and tests share a process.
  os.environ["ADACONV_KEEP_MEMORY"] = "off"
  # The same operations without LLVM's optimizations compile in half the time. Slow tests, and
  # programs that tests start, run what users run.
  if config.getoption("markexpr") != "slow":
    flags = "--xla_backend_optimization_level=0"
    if jax.__version_info__ < (0, 11):  # whose XLA has an older form of loops, too
      flags += " --xla_cpu_use_fusion_emitters=false"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}"


def pytest_collection_modifyitems(items):
  """Where there is an end, another file is the first every time, so that all have their turn."""
  end = os.environ.get("ADACONV_TESTS_END")
  if end is not None and items:
    files = list(dict.fromkeys(item.path for item in items))
    first = files[int(float(end)) % len(files)]
    start = next(index for index, item in enumerate(items) if item.path == first)
    items[:] = items[start:] + items[:start]


def pytest_runtest_setup(item):
  """`.ci/run` has an end, also where processors are slow."""
  end = os.environ.get("ADACONV_TESTS_END")
  if end is not None and time.time() > float(end):
    pytest.skip("no time left, see ADACONV_TESTS_END")


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory):
  folder = str(tmp_path_factory.mktemp("compiled"))
  if (
    "PYTEST_XDIST_WORKER" in os.environ
  ):  # which share one: their folders are in that of the session
    shared = tmp_path_factory.getbasetemp().parent / "compiled"
    shared.mkdir(exist_ok=True)
    folder = str(shared)
  jax.config.update("jax_compilation_cache_dir", folder)
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
  yield folder
  jax.config.update("jax_compilation_cache_dir", None)


@pytest.fixture(scope="module", autouse=True)
def plain_convolutions(request):
  """Models have XLA's convolutions, which compile in two thirds of the time.

  Slow tests, programs that tests start and the tests of the operations have those of users.
  """
  before = dispatch.SMALLEST_ON_CPU
  if request.config.getoption("markexpr") != "slow" and OPS not in request.path.parents:
    dispatch.SMALLEST_ON_CPU = 2**20
  yield
  dispatch.SMALLEST_ON_CPU = before


@pytest.fixture(scope="session", autouse=True)
def small_refinement(request):
  """Codes are refined with pictures of 32 x 32, which takes a twentieth of the time.

  Slow tests and programs that tests start do what users do.
  """
  before = refinement.SIDE
  if request.config.getoption("markexpr") != "slow":
    refinement.SIDE = 32
  yield
  refinement.SIDE = before


@pytest.fixture(scope="module", autouse=True)
def compiled_programs_are_dropped():
  """A process may have 65,530 memory maps on Linux, and every compiled program takes some.

  Without this, XLA crashes after some thousand tests in one process.
  """
  yield
  jax.clear_caches()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
  """Has images to train on in `content` and `style`, and room for workdirs."""
  from small_runs import write_images

  path = tmp_path_factory.mktemp("data")
  write_images(path)
  return path


@pytest.fixture(scope="module", autouse=True)
def started_programs_are_ended():
  yield
  processes.end_all()


@pytest.fixture
def no_proxy(monkeypatch):
  """Lets requests to this machine pass by a proxy of the environment."""
  monkeypatch.setenv("NO_PROXY", "127.0.0.1")
  monkeypatch.setenv("no_proxy", "127.0.0.1")
