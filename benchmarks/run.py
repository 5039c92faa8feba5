"""Measures ours and PyTorch side by side, and prints the table.

    python -m benchmarks.run [--quick] [--rows 1,2] [--no-memory] [--json FILE] [--repeats N]

Both sides are warm (compilation and first calls are excluded, except in row 8), use all cores, take
turns, and are compared by their medians. Before a row is timed, both must give the same result.
"""

# Worker processes of row 9 import this file, so large modules are imported inside functions.
import argparse
import dataclasses
import importlib
import importlib.util
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from adaconv_jax.host_cpu import instruction_sets, keep_memory

ROWS = tuple("123456789")
# The instruction sets that determine the speed of products.
WIDE = frozenset({"avx2", "avx512f", "avx512_bf16", "amx_bf16"})
EXPLANATION = """\
ours, peer: medians. ratio: the peer's time over ours, above 1 if ours is faster (rows 1 to 6);
ours over the peer's where the target is "at most". GFLOP/s: operations of the direct algorithm over
time, the same number for both sides of rows 1 to 6. The peer runs in its faster memory format. MB:
peak memory of a fresh process that runs the row twice, above what importing the libraries takes
(rows 1 to 7)."""


def main() -> int:
  """Runs the command line; returns 2 if torch is needed but missing."""
  args = _parse()
  torch_rows = sorted(set(args.rows) & set("123456"))
  torch = importlib.util.find_spec("torch") is not None
  if torch_rows and not torch:
    print(
      f"error: rows {', '.join(torch_rows)} need torch: pip install -e '.[bench]'; or choose "
      "--rows 7,8,9",
      file=sys.stderr,
    )
    return 2
  keep_memory()  # for both sides, as in the commands
  with tempfile.TemporaryDirectory() as folder:
    result = _measure(args, torch, folder)
  if args.json:
    args.json.write_text(json.dumps(result, indent=2) + "\n")
  return 0


def _parse() -> argparse.Namespace:
  parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
  parser.formatter_class = argparse.RawDescriptionHelpFormatter
  parser.add_argument("--quick", action="store_true", help="smaller and fewer cases: minutes")
  parser.add_argument("--rows", type=_rows, default=ROWS, metavar="1,2", help="default: all")
  parser.add_argument("--no-memory", action="store_true", help="skip the memory columns")
  parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here too")
  parser.add_argument(
    "--repeats", type=int, metavar="N", help="calls of each side; default: 5, with --quick 3"
  )
  parser.add_argument(
    "--bfloat16",
    action=argparse.BooleanOptionalAction,
    default=bool(instruction_sets() & {"amx_bf16", "avx512_bf16"}),
    help="time rows 1 to 6 in bfloat16 too; default: if the processor has instructions for it",
  )
  args = parser.parse_args()
  args.repeats = args.repeats or (3 if args.quick else 5)
  return args


def _rows(text: str) -> tuple[str, ...]:
  rows = tuple(text.split(","))
  if not set(rows) <= set(ROWS):
    raise argparse.ArgumentTypeError(f"expected numbers from 1 to 9, such as 1,2, got {text!r}")
  return rows


def _measure(args: argparse.Namespace, torch: bool, folder: str) -> dict[str, Any]:
  import jax

  from benchmarks import limits, pipeline, report, startup

  # The processes of the memory columns load from here what this one compiled.
  jax.config.update("jax_compilation_cache_dir", folder)

  machine = describe_machine(torch)
  print("; ".join(f"{name}: {value}" for name, value in machine.items()), flush=True)
  module = None
  if torch:
    module = importlib.import_module("benchmarks.peer").torch
  reached = limits.measure(args.repeats, torch=module)
  print(_limits_table(reached), flush=True)
  found = _compare(args, folder)
  if "8" in args.rows:
    found += startup.lines(args.repeats, quick=args.quick, memory=not args.no_memory)
  if "9" in args.rows:
    found += pipeline.lines([line for line in found if line.row == "6"], quick=args.quick)
  print(f"\n{report.markdown(report.HEADER, [report.cells(line) for line in found])}")
  print(f"\n{EXPLANATION}")
  lines = [dataclasses.asdict(line) | {"met": line.met} for line in found]
  return {"machine": machine, "limits_gflops": reached, "lines": lines}


def _compare(args: argparse.Namespace, folder: str) -> list[Any]:
  """Measures rows 1 to 7, and shows each line as soon as it is measured."""
  from benchmarks import case as cases
  from benchmarks import memory, report, rows, timing

  found = []
  for case in rows.cases(quick=args.quick):
    if case.row not in args.rows:
      continue
    ours = case.ours()
    chosen, peer = _best_peer(case) if case.row in rows.TORCH_ROWS else ("", case.peer())
    difference = cases.check(case, ours, peer)
    line = report.case_line(case, timing.alternate(ours, peer, args.repeats), difference)
    if chosen:
      line.note += f"; peer: {chosen}"
      if args.bfloat16:
        line.bfloat16 = _bfloat16(case, peer, args.repeats)
    del ours, peer
    if not args.no_memory:
      ours, peer = (
        memory.peak_of_case(case.name, side, quick=args.quick, cache=folder)
        for side in ("ours", "peer")
      )
      line.memory = ours, peer
    print(" | ".join(report.cells(line)), flush=True)
    found.append(line)
  return found


def _best_peer(case: Any) -> tuple[str, Callable[[], Any]]:
  """Returns the peer of a case in its faster memory format, and the name of the format."""
  from benchmarks import peer, timing

  seconds = {}
  for name in peer.MEMORY_FORMATS:
    with peer.memory_format(name):
      run = case.peer()
    run()
    seconds[name] = timing.seconds(run)
    del run
  best = min(seconds, key=lambda name: seconds[name])
  with peer.memory_format(best):
    return best, case.peer()


def _bfloat16(case: Any, peer_run: Callable[[], Any], rounds: int) -> tuple[float, float]:
  """Returns seconds of ours and of the peer, both in bfloat16; results are not compared."""
  from benchmarks import inputs, peer, timing

  with inputs.compute_dtype("bfloat16"):
    ours = case.ours()
    times = timing.alternate(ours, peer.in_bfloat16(peer_run), rounds)
  seconds = times.medians
  return seconds[0] / case.ours_share, seconds[1] / case.peer_share


def describe_machine(torch: bool) -> dict[str, str]:
  """Describes what the numbers depend on: processor, cores and versions."""
  import importlib.metadata

  names = ["jax", "jaxlib", *(["torch"] if torch else [])]
  processor = platform.processor() or platform.machine()
  cpuinfo = Path("/proc/cpuinfo")
  if cpuinfo.exists():
    models = [x for x in cpuinfo.read_text().splitlines() if x.startswith("model name")]
    processor = models[0].partition(":")[2].strip() if models else processor
  return {
    "processor": processor,
    "instruction sets": " ".join(sorted(instruction_sets() & WIDE)) or "unknown",
    "cores": str(os.cpu_count()),
    "python": platform.python_version(),
    **{name: importlib.metadata.version(name) for name in names},
  }


def _limits_table(reached: dict[str, dict[str, float]]) -> str:
  from benchmarks import report

  rows = [
    [name, f"{values['jax']:.0f}", f"{values['torch']:.0f}" if "torch" in values else report.NONE]
    for name, values in reached.items()
  ]
  return report.markdown(["the machine's limits, GFLOP/s", "JAX", "PyTorch"], rows)


if __name__ == "__main__":
  sys.exit(main())
