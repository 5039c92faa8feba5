"""A fuzz of everything that reads files of others; counts what comes of them.

    python tests/fuzz.py --minutes 20

decodes mutated pictures and loads mutated model files, in processes with bounded memory. What is
neither a result nor the one error that is promised is a failure: another exception, MemoryError, a
crash, or more than 20 seconds. Failing files go to --output, and the exit code is 1. A case follows
from its number: --first N --cases 1 repeats case N.
"""  # fmt: skip

import argparse
import collections
import multiprocessing
import resource
import sys
import tempfile
import time
import warnings
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

SECONDS = 20
MEMORY = 6 * 2**30
BATCH = 50


def picture_case(seeds: dict[str, bytes], number: int) -> tuple[str, bytes]:
  """Makes case `number` of the mutated pictures, and says what came of it."""
  from mutations import mutate

  from adaconv_jax import images

  rng = np.random.default_rng((1, number))
  name = sorted(seeds)[int(rng.integers(len(seeds)))]
  data = mutate(seeds[name], rng)
  at_least = [None, 8, 64][int(rng.integers(3))]
  try:
    picture = images.decode(data, name="x.img", at_least=at_least)
  except images.ImageError as error:
    text = str(error)
    named = text.startswith("x.img: ")
    return ("refused" if named else f"FAILED: unnamed: {text[:80]}"), data
  except BaseException as error:
    return f"FAILED: {type(error).__name__}: {str(error)[:80]}", data
  return ("picture" if picture.mode == "RGB" else f"FAILED: mode {picture.mode}"), data


def model_case(seeds: dict[str, bytes], number: int) -> tuple[str, bytes]:
  """Makes case `number` of the mutated model files, and says what came of it."""
  from mutations import mutate

  from adaconv_jax.checkpoints.load import load_model
  from adaconv_jax.vgg.convert import convert
  from adaconv_jax.vgg.file import read_file

  rng = np.random.default_rng((2, number))
  name = sorted(seeds)[int(rng.integers(len(seeds)))]
  data = mutate(seeds[name], rng)
  outcomes = []
  with tempfile.NamedTemporaryFile(suffix=".model") as file:
    file.write(data)
    file.flush()
    for read in (load_model, read_file, lambda path: convert(path, "vgg16")):
      try:
        read(Path(file.name))
        outcomes.append("loaded")
      except (ValueError, ModuleNotFoundError) as error:
        named = file.name in str(error)
        outcomes.append("refused" if named else f"FAILED: unnamed: {str(error)[:80]}")
      except BaseException as error:
        outcomes.append(f"FAILED: {type(error).__name__}: {str(error)[:80]}")
  return next((o for o in outcomes if o.startswith("FAILED")), outcomes[-1]), data


CASES = {"pictures": picture_case, "models": model_case}


def work(kind: str, pipe: Connection) -> None:
  """Runs cases by their numbers, until it gets None; sends each one's before it begins."""
  resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
  warnings.simplefilter("ignore")
  import mutations

  seeds = {"pictures": mutations.pictures, "models": mutations.model_files}[kind]()
  while (numbers := pipe.recv()) is not None:
    for number in numbers:
      pipe.send((number, None, b""))
      outcome, data = CASES[kind](seeds, number)
      pipe.send((number, outcome, data if outcome.startswith("FAILED") else b""))
    pipe.send(None)


class Worker:
  """A process that runs cases, and is replaced when it dies or hangs."""

  def __init__(self, kind: str):
    self.kind = kind
    self._start()

  def _start(self) -> None:
    context = multiprocessing.get_context("spawn")
    self.pipe, other = context.Pipe()
    self.process = context.Process(target=work, args=(self.kind, other), daemon=True)
    self.process.start()
    other.close()

  def run(self, numbers: range) -> list[tuple[int, str, bytes]]:
    """Returns number, outcome and, if it failed, data of each case."""
    results: list[tuple[int, str, bytes]] = []
    self.pipe.send(numbers)
    running, patience = numbers[0], 120  # the first one imports everything
    while True:
      try:
        # Second by second, so that a pause of this whole machine is no failure.
        if not any(self.pipe.poll(1) for _ in range(patience)):
          reason = f"FAILED: hung for more than {SECONDS} seconds"
          break
        got = self.pipe.recv()
      except (EOFError, OSError):
        self.process.join(5)
        reason = f"FAILED: the process died with {self.process.exitcode}"
        break
      if got is None:
        return results
      running, outcome, data = got
      patience = SECONDS
      if outcome is not None:
        results.append((running, outcome, data))
    self.process.kill()
    self.process.join()
    results.append((running, reason, b""))
    self._start()
    rest = range(running + 1, numbers.stop)
    return results + (self.run(rest) if rest else [])

  def close(self) -> None:
    """Ends the process."""
    self.pipe.send(None)
    self.process.join(10)
    self.process.kill()


def main(argv: list[str] | None = None) -> int:
  """Runs the fuzz; returns 1 if anything failed."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--minutes", type=float, default=20.0, help="default: %(default)s")
  parser.add_argument("--cases", type=int, help="of each kind, in place of minutes")
  parser.add_argument("--first", type=int, default=0, help="number of the first case")
  parser.add_argument("--kinds", nargs="+", choices=sorted(CASES), default=sorted(CASES))
  parser.add_argument("--output", type=Path, help="folder for the files that failed")
  args = parser.parse_args(argv)
  counts: dict[str, Any] = {kind: collections.Counter() for kind in args.kinds}
  workers = {kind: Worker(kind) for kind in args.kinds}
  next_case: Any = dict.fromkeys(args.kinds, args.first)
  end = time.monotonic() + 60 * args.minutes
  last = None if args.cases is None else args.first + args.cases
  spent = dict.fromkeys(args.kinds, 0.0)
  try:
    while time.monotonic() < end if last is None else min(next_case.values()) < last:
      kind = min(args.kinds, key=lambda kind: (next_case[kind] >= (last or 10**18), spent[kind]))
      first = next_case[kind]
      numbers = range(first, min(first + BATCH, last or first + BATCH))
      next_case[kind] = numbers.stop
      started = time.monotonic()
      for number, outcome, data in workers[kind].run(numbers):
        counts[kind][outcome] += 1
        if outcome.startswith("FAILED"):
          print(f"{kind} {number}: {outcome}", flush=True)
          if args.output is not None:
            args.output.mkdir(parents=True, exist_ok=True)
            (args.output / f"{kind}-{number}").write_bytes(data)
      spent[kind] += time.monotonic() - started
  finally:
    for worker in workers.values():
      worker.close()
  for kind in args.kinds:
    total = sum(counts[kind].values())
    parts = ", ".join(f"{count} {outcome}" for outcome, count in counts[kind].most_common())
    print(f"{kind}: {total} cases ({parts})")
  return int(any(outcome.startswith("FAILED") for kind in args.kinds for outcome in counts[kind]))


if __name__ == "__main__":
  sys.exit(main())
