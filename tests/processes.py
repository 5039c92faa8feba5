"""Programs that tests start, signal, and wait for, and the limits of processes."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


_started: list[subprocess.Popen] = []


def start(
  *args, stderr: int = subprocess.STDOUT, environment: dict[str, str] | None = None
) -> subprocess.Popen:
  """Starts Python with these arguments, and changes to its environment."""
  process = subprocess.Popen(
    [sys.executable, *map(str, args)], cwd=ROOT, text=True,
    env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}
    | (environment or {}),
    stdout=subprocess.PIPE, stderr=stderr,
  )  # fmt: skip
  _started.append(process)
  return process


def end_all() -> None:
  """Ends what a failed test left running, and closes its pipes, for the tests that follow."""
  while _started:
    process = _started.pop()
    process.kill()
    process.wait()
    for stream in (process.stdout, process.stderr):
      if stream is not None:
        stream.close()


def read_until(process: subprocess.Popen, text: str) -> str:
  """Returns the output up to the end of the line that has `text`, and leaves the rest unread."""
  assert process.stdout is not None
  seen = b""
  while text.encode() not in seen or not seen.endswith(b"\n"):
    # A buffered stream would keep what follows, where `end` does not find it.
    byte = os.read(process.stdout.fileno(), 1)
    assert byte, seen.decode()
    seen += byte
  return seen.decode()


def end(process: subprocess.Popen, within: float) -> tuple[int, str]:
  begin = time.monotonic()
  output, _ = process.communicate(timeout=120)
  assert time.monotonic() - begin < within, output
  return process.returncode, output


def wait_until(holds: Callable[[], object], *processes: subprocess.Popen) -> None:
  """Waits until something holds, while all processes run."""
  deadline = time.monotonic() + 300
  while not holds():
    for process in processes:
      assert process.poll() is None, process.communicate()[0]
    assert time.monotonic() < deadline
    time.sleep(0.2)


def free_address() -> str:
  """Address of a port of this machine that nothing listens on."""
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    return f"127.0.0.1:{probe.getsockname()[1]}"


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
  """Within it, this process can write to no file, as on a full disk."""
  resource = pytest.importorskip("resource", reason="Windows has no limits")
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
