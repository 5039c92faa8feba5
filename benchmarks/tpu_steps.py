"""What a training step of the published configs needs on TPU slices, from the TPU compiler.

    python -m benchmarks.tpu_steps                      # the table of docs/cloud-tpu.md, hours
    python -m benchmarks.tpu_steps --slices v5litepod-1 --configs adaconv --types bfloat16

It needs libtpu (`pip install -e '.[tpu]'`) but no TPU. Every row is 8 pairs per device, in a
process of its own; `--largest` also searches for the largest number of pairs per device that fits.

That number was seen to fit, and a tenth more was seen not to. Where to look is found with quick
compilations, which take a tenth to a fifth of the time, and whose memory differs by some percent.
Compiling for one chip takes as long as for eight, and gives the same memory.
"""

import argparse
import contextlib
import functools
import importlib
import json
import subprocess
import sys
import time
from collections.abc import Callable

import jax

from adaconv_jax.training import aot
from adaconv_jax.training.from_config import Config

SLICES = ("v5litepod-8", "v5p-8", "v6e-8")
CONFIGS = ("adain", "adaconv")
TYPES = ("float32", "bfloat16")
PAIRS = 8  # per device
_HEAD = (
  "| config | type | slice | pairs per device | GB of memory | TFLOP | GB of traffic | "
  "all-reduces | ms at the peak | images/s at most |"
)


def load(name: str, dtype: str) -> Config:
  """Returns a packaged config, with another type of the activations."""
  config = importlib.import_module(f"adaconv_jax.configs.{name}").get_config().unlock()
  config.model.compute_dtype = dtype
  return config


def compiled(name: str, dtype: str, text: str, pairs: int) -> aot.Needs | None:
  """Compiles a step of `pairs` per device; None if the compiler runs out of the memory."""
  tpu = aot.Slice.parse(text)
  config = load(name, dtype)
  config.batch_size = pairs * tpu.chips
  with contextlib.suppress(ValueError):
    needs = aot.needs(aot.compile_config(config, tpu))
    return needs if needs.total <= tpu.memory else None
  return None


def row(name: str, dtype: str, text: str, pairs: int) -> dict[str, object]:
  """Compiles one row in this process."""
  begin = time.process_time()
  needs = compiled(name, dtype, text, pairs)
  found: dict[str, object] = {"seconds": time.process_time() - begin, "pairs": pairs}
  if needs is None:
    return found
  tpu = aot.Slice.parse(text)
  least = aot.bound(needs, tpu.chip)
  return found | {
    "memory": needs.total / aot.GB,
    "tflop": needs.flops / 1e12,
    "traffic": needs.bytes_accessed / aot.GB,
    "collectives": dict(needs.collectives),
    "operations_ms": 1e3 * least.operations,
    "traffic_ms": 1e3 * least.traffic,
    "images_per_second": 2 * pairs * tpu.chips / least.seconds,
  }


def in_process(
  name: str, dtype: str, text: str, pairs: int, *, quick: bool = False
) -> dict[str, object]:
  """Compiles one row in a process of its own, because libtpu knows one slice per process."""
  command = [
    sys.executable, "-m", "benchmarks.tpu_steps", "--row", name, dtype, text, str(pairs),
    *["--quick"] * quick,
  ]  # fmt: skip
  done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
  found = json.loads(done.stdout.splitlines()[-1])
  print(
    f"{name} {dtype} {text}, {pairs} pairs{' (quick)' * quick}: "
    f"{found.get('memory', 'too many')}, {found['seconds']:.0f} s",
    file=sys.stderr,
  )
  return found


def largest(name: str, dtype: str, text: str, memory: float) -> int:
  """Finds the largest number of pairs per device that fits, to a tenth.

  Args:
    name: of the config.
    dtype: of the activations.
    text: a slice.
    memory: GB of a step of `PAIRS`.

  Returns:
    A number that was seen to fit, where a tenth more was seen not to.
  """
  room = aot.Slice.parse(text).chip.memory

  def needed(pairs: int, *, quick: bool = False) -> float | None:
    found = in_process(name, dtype, text, pairs, quick=quick).get("memory")
    return None if found is None else float(str(found))

  guess = _guess(functools.partial(needed, quick=True), memory, room)
  fits, too_many = PAIRS, None
  while too_many is None or too_many > 1.1 * fits + 1:
    if needed(guess) is None:
      too_many = guess
    else:
      fits = guess
    if too_many is None:
      guess = int(1.1 * fits) + 1
    else:
      guess = max(int(too_many / 1.1), (fits + too_many) // 2)
  return fits


def _guess(quick: Callable[[int], float | None], memory: float, room: float) -> int:
  """Guesses how many pairs per device fit, from quick compilations.

  Args:
    quick: returns GB of a step of so many pairs, after a quick compilation; None: they do not fit.
    memory: GB of a step of `PAIRS`, after a usual one.
    room: GB of a device.
  """
  base = quick(PAIRS)
  share = memory / base if base else 1.0
  last, used = PAIRS, memory
  guess = int(PAIRS * room / memory)  # less than fit, because the parameters take a part of it
  for _ in range(2):
    found = quick(guess)
    if found is None:
      return int(guess / 1.1)
    slope = max((share * found - used) / (guess - last), memory / PAIRS / 4)
    last, used = guess, share * found
    guess = max(int(last + (room - used) / slope), PAIRS + 1)
    if abs(guess - last) < 0.05 * last:
      break
  return guess


def main() -> None:
  """Prints the table, row by row."""
  parser = argparse.ArgumentParser(description="What a training step needs on TPU slices.")
  parser.add_argument("--slices", nargs="+", default=SLICES)
  parser.add_argument("--configs", nargs="+", default=CONFIGS)
  parser.add_argument("--types", nargs="+", default=TYPES, choices=TYPES)
  parser.add_argument("--largest", action="store_true")
  parser.add_argument("--row", nargs=4, metavar=("CONFIG", "TYPE", "SLICE", "PAIRS"))
  parser.add_argument("--quick", action="store_true", help="compile a row with the least effort")
  args = parser.parse_args()
  if args.row:
    name, dtype, text, pairs = args.row
    if args.quick:
      jax.config.update("jax_exec_time_optimization_effort", -1.0)
    print(json.dumps(row(name, dtype, text, int(pairs))))
    return
  print(_HEAD + (" largest |" if args.largest else ""))
  print("|" + "---|" * (_HEAD.count("|") - 1 + args.largest))
  for name in args.configs:
    for dtype in args.types:
      for text in args.slices:
        found = in_process(name, dtype, text, PAIRS)
        cells = [name, dtype, text, str(PAIRS)]
        if "memory" not in found:
          cells += ["does not fit", *[""] * (5 + args.largest)]
        else:
          reduced = found["collectives"]
          assert isinstance(reduced, dict) and set(reduced) <= {"all-reduce"}, reduced
          cells += [f"{found[key]:.3g}" for key in ("memory", "tflop", "traffic")]
          cells += [str(reduced.get("all-reduce", 0))]
          cells += [f"{max(found['operations_ms'], found['traffic_ms']):.3g}"]  # pyright: ignore
          cells += [f"{found['images_per_second']:.0f}"]
          if args.largest:
            cells += [str(largest(name, dtype, text, float(str(found["memory"]))))]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
  main()
