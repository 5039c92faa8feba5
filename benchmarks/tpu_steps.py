"""What a training step of the published configs needs on TPU slices, from the TPU compiler.

    python -m benchmarks.tpu_steps                      # a table of docs/performance.md, hours
    python -m benchmarks.tpu_steps --largest            # the other one, longer
    python -m benchmarks.tpu_steps --slices v5litepod-1 --configs adaconv --types bfloat16

It needs libtpu (`pip install -e '.[tpu]'`) but no TPU. Every row is 8 pairs per device, in a
process of its own; with `--largest`, a row is of about as many pairs per device as fit.

That number is found with up to five quick compilations (the least effort), whose memory differs by
some percent, and is taken if it needs nine tenths of the memory; the row is compiled as usual,
which shows that it fits. More may fit, because the compiler saves memory where it is short, by
computing things twice; the last column is a number that was tried and did not. Compiling for one
chip takes as long as for eight, and gives the same memory.
"""

import argparse
import contextlib
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
# Shares of the memory: what the largest number of pairs is to take at least, and what is tried.
_FULL, _AIM = 0.9, 0.95
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


def largest(name: str, dtype: str, text: str) -> dict[str, object]:
  """Compiles a row with about as many pairs per device as fit.

  Returns:
    The row, also with "too_many", the smallest number that was seen not to fit, None if all that
    were tried did.
  """

  def needed(pairs: int) -> float | None:
    found = in_process(name, dtype, text, pairs, quick=True).get("memory")
    return None if found is None else float(str(found))

  pairs, too_many = search(needed, aot.Slice.parse(text).chip.memory)
  found: dict[str, object] = {}
  while pairs and "memory" not in (found := in_process(name, dtype, text, pairs)):
    pairs, too_many = int(0.9 * pairs), pairs
  return found | {"too_many": too_many}


def search(needed: Callable[[int], float | None], room: float) -> tuple[int, int | None]:
  """Finds about how many pairs per device fit, with at most five compilations.

  Args:
    needed: returns GB of a step of so many pairs; None: they do not fit.
    room: GB of a device.

  Returns:
    The largest number that was seen to fit, 0 if `PAIRS` do not, and the smallest that was seen not
    to, None if all that were tried fit.
  """
  fits, used, too_many, guess = 0, 0.0, None, PAIRS
  for _ in range(5):
    found = needed(guess)
    if found is None:
      too_many = guess
    else:
      slope = (found - used) / (guess - fits)
      more = (_AIM * room - found) / slope if slope > 0 else 0
      fits, used, guess = guess, found, int(guess + max(more, 0.1 * guess + 1))
      if used >= _FULL * room:
        break
    if too_many is not None:
      guess = (fits + too_many) // 2
  return fits, too_many


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
  head = _HEAD + " too many |" * args.largest
  print(head)
  print("|" + "---|" * (head.count("|") - 1))
  for name in args.configs:
    for dtype in args.types:
      for text in args.slices:
        key = (name, dtype, text)
        found = largest(*key) if args.largest else in_process(*key, PAIRS)
        cells = [*key]
        if "memory" not in found:
          cells += [str(PAIRS), "does not fit", *[""] * (5 + args.largest)]
        else:
          reduced = found["collectives"]
          assert isinstance(reduced, dict) and set(reduced) <= {"all-reduce"}, reduced
          cells += [str(found["pairs"])]
          cells += [f"{found[part]:.3g}" for part in ("memory", "tflop", "traffic")]
          cells += [str(reduced.get("all-reduce", 0))]
          cells += [f"{max(found['operations_ms'], found['traffic_ms']):.3g}"]  # pyright: ignore
          cells += [f"{found['images_per_second']:.0f}"]
          if args.largest:
            cells += [str(found["too_many"] or "")]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
  main()
