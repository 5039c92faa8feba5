"""A soak: a training that is killed again and again, against one that nothing interrupts.

    python tests/soak.py --minutes 10

trains a small model, kills it with SIGKILL about once a minute, and resumes it. After that time
the run is stopped, and a second one trains for as many steps in one go. Both must have the same
state, and the same metrics of every step, bit for bit, also those of steps that were done twice.
The exit code is 1 if anything differs, or if a process or a file of a killed run is left. The
programs are compiled once, into a cache, so that a restart takes seconds.
"""  # fmt: skip

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

# Seconds that a process may take to end, and a start until its first step.
PATIENCE, START = 60.0, 300.0
ENDLESS = 10**6
# Metrics that are measured, and so differ.
TIMES = ("images_per_second", "step_seconds", "waiting")


def config_of(folder: Path) -> Any:
  """A training with both programs, held-out losses, an average and a worker process."""
  from small_runs import small_config

  config = small_config(folder)
  config.num_steps, config.reconstruct_steps = ENDLESS, 20
  config.checkpoint_every_steps, config.eval_every_steps = 10, 25
  config.sample_every_steps = 0
  config.data.num_workers = 1
  return config


def train(folder: Path, workdir: Path, last: int) -> int:
  """Trains until a signal or, as if one came, until step `last`; 0 for no such step."""
  from adaconv_jax.training import loop
  from adaconv_jax.training.hosts import StopRequest

  class StopsAt(StopRequest):
    def reached(self, step: int) -> bool:
      return super().reached(step) or step == last

  with StopsAt() as stop:
    loop.train_and_evaluate(config_of(folder), workdir, stop)
    return stop.exit_code if stop.signal else 0


def start(folder: Path, workdir: Path, last: int = 0) -> subprocess.Popen:
  """Starts `train` in a process group of its own."""
  environment = os.environ | {
    "JAX_PLATFORMS": "cpu",
    "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
  }
  with open(folder / "log", "ab") as log:
    return subprocess.Popen(
      [sys.executable, __file__, "--train", folder, workdir, str(last)],
      env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
    )  # fmt: skip


def metrics(workdir: Path) -> tuple[dict[tuple[int, bool], dict[str, float]], int, list[str]]:
  """Reads the metrics of a run.

  Returns:
    The metrics by step and by whether they are held-out ones; the number of lines that repeat an
    earlier one, of steps that were done again; and what differs in these.
  """
  found: dict[tuple[int, bool], dict[str, float]] = {}
  repeated, faults = 0, []
  path = workdir / "metrics.jsonl"
  for line in path.read_text().splitlines() if path.exists() else ():
    try:
      values = json.loads(line)
    except ValueError:
      continue  # cut off by a kill
    key = values["step"], "pairs_seen" in values
    values = {name: value for name, value in values.items() if name not in TIMES}
    if key in found:
      repeated += 1
      if found[key] != values:
        faults.append(f"step {key[0]} has other metrics when it is done again")
    found[key] = values
  return found, repeated, faults


def group_is_gone(group: int) -> bool:
  """Returns whether all processes of a group end, in time."""
  deadline = time.monotonic() + PATIENCE
  while time.monotonic() < deadline:
    try:
      os.killpg(group, 0)
    except ProcessLookupError:
      return True
    time.sleep(0.2)
  os.killpg(group, signal.SIGKILL)
  return False


def steps_in(workdir: Path) -> int:
  """Returns the number of the last step that was logged."""
  return max((step for step, _ in metrics(workdir)[0]), default=0)


def broken_run(folder: Path, seconds: float, kill_every: float) -> tuple[int, int, list[str]]:
  """Trains with kills for `seconds`, and stops.

  Returns:
    The number of kills; the last step, which is saved; and what went wrong.
  """
  workdir, rng, faults = folder / "killed", random.Random(0), []
  end, kills = time.monotonic() + seconds, 0
  while True:
    process = start(folder, workdir)
    # Not always at the same place between two checkpoints.
    kill = time.monotonic() + kill_every * rng.uniform(0.8, 1.2)
    before = steps_in(workdir)
    while time.monotonic() < min(kill, end) and process.poll() is None:
      time.sleep(0.1)
    if process.poll() is not None:
      return kills, before, [*faults, f"a run ended with {process.returncode} by itself"]
    if time.monotonic() >= end:
      break
    process.kill()
    process.wait()
    kills += 1
    if not group_is_gone(process.pid):
      faults.append("processes of a killed run did not end")
    print(f"killed {kills} times, at step {steps_in(workdir)}", flush=True)
  deadline = time.monotonic() + START  # there must be a step to stop at
  while steps_in(workdir) == before and time.monotonic() < deadline and process.poll() is None:
    time.sleep(0.2)
  process.terminate()
  try:
    code = process.wait(PATIENCE)
  except subprocess.TimeoutExpired:
    process.kill()
    code = "no code: it did not stop"
  if code != 128 + signal.SIGTERM:
    faults.append(f"the stopped run ended with {code}")
  if not group_is_gone(process.pid):
    faults.append("processes of a stopped run did not end")
  return kills, newest(workdir), faults


def newest(workdir: Path) -> int:
  """Returns the step of the newest checkpoint."""
  from adaconv_jax.checkpoints.record import newest_step

  return newest_step(workdir)


def compare(folder: Path) -> tuple[int, list[str]]:
  """Compares both runs; returns how many metrics were repeated, and what differs."""
  os.environ["JAX_PLATFORMS"] = "cpu"
  from small_runs import by_path, trained_state

  config = config_of(folder)
  killed, whole = (by_path(trained_state(config, folder / name)) for name in ("killed", "whole"))
  faults = [
    f"{name} differs"
    for name in sorted(killed.keys() | whole.keys())
    if name not in killed or name not in whole or killed[name].tobytes() != whole[name].tobytes()
  ]
  (of_killed, repeated, unequal), (of_whole, *_) = (
    metrics(folder / name) for name in ("killed", "whole")
  )
  faults += unequal
  for key in sorted(of_killed.keys() | of_whole.keys()):
    if of_killed.get(key) != of_whole.get(key):
      faults.append(f"the metrics of step {key[0]} differ")
  # Hidden files but the lock: rests of files that were being written.
  rests = [path for path in (folder / "killed").rglob(".*") if path.name != ".lock"]
  faults += [f"{path} is left of a killed run" for path in rests]
  return repeated, faults


def soak(folder: Path, *, minutes: float, kill_every: float) -> tuple[int, str]:
  """Runs the soak in an empty folder; returns an exit code, and what came of it in one line."""
  from small_runs import write_images

  write_images(folder)
  # Both programs and the held-out losses are compiled before the time begins.
  if start(folder, folder / "first", last=26).wait(START):
    return 1, f"the first run failed:\n{(folder / 'log').read_text()[-4000:]}"
  kills, last, faults = broken_run(folder, 60 * minutes, kill_every)
  repeated = 0
  if last and not faults:
    print(f"{last} steps; now without kills", flush=True)
    if start(folder, folder / "whole", last).wait(120 * minutes + START):
      faults.append("the run without kills failed")
    else:
      repeated, faults = compare(folder)
  more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
  result = f"FAILED: {'; '.join(faults[:5])}{more}" if faults or not last else "equal bit for bit"
  return int(bool(faults) or not last), (
    f"{kills} kills in {minutes:g} minutes, {last} steps, {repeated} of them logged again after a "
    f"kill: {result}"
  )


def main(argv: list[str] | None = None) -> int:
  """Runs the soak."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--minutes", type=float, default=10.0, help="default: %(default)s")
  parser.add_argument(
    "--kill-every", type=float, default=60.0, metavar="SECONDS", help="default: %(default)s"
  )
  parser.add_argument("--train", nargs=3, help=argparse.SUPPRESS)
  args = parser.parse_args(argv)
  if args.train:
    return train(Path(args.train[0]), Path(args.train[1]), int(args.train[2]))
  with tempfile.TemporaryDirectory() as folder:
    code, line = soak(Path(folder), minutes=args.minutes, kill_every=args.kill_every)
  print(line)
  return code


if __name__ == "__main__":
  sys.exit(main())
