"""Measures how our own cost grows with the picture, the batch and the number of devices.

python -m benchmarks.growth [--quick]
"""

import argparse
import json
import statistics
import sys

from benchmarks import report, stylizing, timing, training_step
from benchmarks.memory import watch

TRANSFORMS = ("adain", "adaconv")
DEVICES_TEXT = """\
Simulated devices share the cores of this machine, so these times show what dividing the batch and
averaging the gradients cost, not what more devices would gain."""
DEVICE_BATCH, DEVICE_CROP = 8, 128


def main() -> None:
  """Prints three tables."""
  parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
  parser.formatter_class = argparse.RawDescriptionHelpFormatter
  parser.add_argument("--quick", action="store_true", help="skip what takes long")
  parser.add_argument("--step", choices=TRANSFORMS, help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.step:
    case = training_step.step_case(args.step, DEVICE_BATCH, DEVICE_CROP)
    print(json.dumps(_seconds(case.ours(), 3)))
    return
  print("## Size: one pair\n")
  sizes = [(size, 1) for size in ((256, 512) if args.quick else (256, 512, 1024, 2048))]
  print(_stylization_table(sizes, lambda size, count: f"{size} x {size}"))
  print("\n## Batch: pairs of 256 x 256, each with its own style\n")
  batches = [(256, count) for count in ((1, 4) if args.quick else (1, 2, 4, 8, 16))]
  print(_stylization_table(batches, lambda size, count: f"batch {count}"))
  print(f"\n## Devices: a training step on {DEVICE_BATCH} pairs of {DEVICE_CROP} x {DEVICE_CROP}\n")
  print(
    _devices_table((1, 2) if args.quick else (1, 2, 4, 8), TRANSFORMS[: 1 if args.quick else 2])
  )
  print(f"\n{DEVICES_TEXT}")


def _seconds(run, rounds: int) -> float:
  timing.seconds(run)  # compiles
  return statistics.median(timing.alternate(run, None, rounds).ours)


def _stylization_table(shapes, name) -> str:
  rows = []
  for size, count in shapes:
    row = [name(size, count)]
    for transform in TRANSFORMS:
      case = stylizing.pair_case("", transform, size, count, target=0)
      seconds = _seconds(case.ours(), 3)
      row += [report.format_seconds(seconds / count), f"{case.gflop / seconds:.0f}"]
    rows.append(row)
    print(" | ".join(row), file=sys.stderr, flush=True)
  return report.markdown(["", "AdaIN, per image", "GFLOP/s", "AdaConv, per image", "GFLOP/s"], rows)


def _devices_table(counts: tuple[int, ...], transforms: tuple[str, ...]) -> str:
  rows = []
  for count in counts:
    row = [str(count)]
    for transform in transforms:
      seconds = _step_seconds(transform, count)
      row += [report.format_seconds(seconds), f"{DEVICE_BATCH / seconds:.2f}"]
    rows.append(row)
  header = ["devices"]
  for transform in transforms:
    header += [f"{stylizing.label(transform)}, step", "pairs/s"]
  return report.markdown(header, rows)


def _step_seconds(transform: str, devices: int) -> float:
  """Times the step in its own process, because the number of devices is fixed at its start."""
  env = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
  done = watch([sys.executable, "-m", "benchmarks.growth", "--step", transform], env=env)
  return json.loads(done.output.splitlines()[-1])


if __name__ == "__main__":
  main()
