"""Peak memory of processes.

As a program, it measures one side of one case in its own process:

    python -m benchmarks.memory [--quick] NAME ours|peer
"""

import argparse
import dataclasses
import gc
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from adaconv_jax.host_cpu import keep_memory

ROOT = Path(__file__).parents[1]
POLL_SECONDS = 0.02
# The share of the free memory at which a process is stopped, before the machine stops another one.
FREE_SHARE = 0.75


@dataclasses.dataclass(frozen=True)
class Watched:
  """What `watch` measured of a process.

  Attributes:
    seconds: from its start to its end.
    peak: most bytes that were resident; None if there is no /proc.
    stopped: whether it was stopped because it used too much memory.
    output: what it printed.
  """

  seconds: float
  peak: int | None
  stopped: bool
  output: str


def status(field: str, process: int | str = "self") -> int | None:
  """Reads a number of bytes from /proc, such as VmRSS or VmHWM; None if it is missing."""
  try:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
  except OSError:
    return None
  values = [int(line.split()[1]) for line in lines if line.startswith(f"{field}:")]
  return values[0] * 1024 if values else None


def free_memory() -> int:
  """Returns the bytes available to new processes; infinity without /proc."""
  try:
    lines = Path("/proc/meminfo").read_text().splitlines()
  except OSError:
    return sys.maxsize
  return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) * 1024


def watch(command: Sequence[str], *, env: Mapping[str, str] | None = None) -> Watched:
  """Runs a command in the repository's root, and stops it if it uses too much memory.

  Raises:
    RuntimeError: it fails; the message is what it wrote to stderr.
  """
  limit, peaks, stopped = free_memory() * FREE_SHARE, [0], threading.Event()
  with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
    start = time.perf_counter()
    # Not `resource.getrusage`, where a child's peak includes its parent's memory at the start.
    process = subprocess.Popen(
      command, stdout=output, stderr=errors, cwd=ROOT, env=dict(os.environ) | dict(env or {})
    )

    def poll() -> None:
      while process.returncode is None:
        peaks.append(status("VmHWM", process.pid) or 0)
        if peaks[-1] > limit:
          stopped.set()
          process.kill()
          return
        time.sleep(POLL_SECONDS)

    poller = threading.Thread(target=poll, daemon=True)
    poller.start()
    process.wait()
    seconds = time.perf_counter() - start
    poller.join()
    for file in (output, errors):
      file.seek(0)
    if process.returncode and not stopped.is_set():
      raise RuntimeError(f"{' '.join(command)}: {errors.read()}")
    return Watched(seconds, max(peaks) or None, stopped.is_set(), output.read())


def peak_of_case(name: str, side: str, *, quick: bool, cache: str) -> int | None:
  """Measures the peak memory of one side of a case, in a fresh process, above that of the imports.

  Args:
    name: name of the case.
    side: "ours" or "peer".
    quick: whether it is one of the quick cases.
    cache: folder with JAX's compiled programs.

  Returns:
    Bytes; None if they cannot be measured.
  """
  options = ["--quick"] if quick else []
  command = [sys.executable, "-m", "benchmarks.memory", *options, name, side]
  done = watch(command, env={"JAX_COMPILATION_CACHE_DIR": cache})
  return None if done.stopped else json.loads(done.output.splitlines()[-1])


def main() -> None:
  """Runs one side of a case twice and prints its peak memory above that of the imports."""
  parser = argparse.ArgumentParser()
  parser.add_argument("--quick", action="store_true")
  parser.add_argument("name")
  parser.add_argument("side", choices=["ours", "peer"])
  args = parser.parse_args()
  keep_memory()
  from benchmarks import inputs, rows

  (case,) = (case for case in rows.cases(quick=args.quick) if case.name == args.name)
  if args.side == "peer" and case.row in rows.TORCH_ROWS:
    from benchmarks import peer_training  # noqa: F401 (imported before memory is counted)
  imports = status("VmRSS")
  run = getattr(case, args.side)()
  # The peer's weights are copied from ours, whose memory is not the peer's.
  inputs.forget()
  gc.collect()
  forget_peak()
  for _ in range(2):
    run()
  peak = status("VmHWM")
  print(json.dumps(None if peak is None or imports is None else peak - imports))


def forget_peak() -> None:
  """Makes VmHWM count from now on, where the system allows it."""
  try:
    Path("/proc/self/clear_refs").write_text("5")
  except OSError:
    pass  # the peak then has what building took


if __name__ == "__main__":
  main()
