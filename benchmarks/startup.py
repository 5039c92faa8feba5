"""Row 8: whole processes of `infer.py`, from their start to the written picture.

Of the published networks with random weights, and of the shipped model that is the default.
"""

import statistics
import sys
import tempfile
from pathlib import Path

from PIL import Image

from adaconv_jax import save_bundle
from adaconv_jax.checkpoints.load import DEFAULT_MODEL
from adaconv_jax.cli.stylize import REFINE
from benchmarks.inputs import pictures, random_stylizer
from benchmarks.memory import Watched, watch
from benchmarks.report import Line
from benchmarks.stylizing import label

WARM_SHARE = 0.5  # of the cold time
LARGE_SIDE, LARGE_BYTES = 4096, 6e9


def lines(rounds: int, *, quick: bool, memory: bool) -> list[Line]:
  """Measures start-up, and in full runs a large picture's memory.

  Args:
    rounds: processes of each kind.
    quick: AdaIN only.
    memory: measure the large picture too.
  """
  found = []
  with tempfile.TemporaryDirectory() as folder:
    for transform in ("adain",) if quick else ("adain", "adaconv", DEFAULT_MODEL):
      found += [_start(Path(folder), transform, rounds, refine) for refine in (REFINE, 0)]
      if memory and not quick:
        found.append(_large(Path(folder), transform))
  return found


def _command(folder: Path, transform: str, size: int) -> list[str]:
  """Writes model and pictures, and returns the command line."""
  model = transform
  if transform != DEFAULT_MODEL:
    file = folder / f"{transform}.safetensors"
    if not file.exists():
      save_bundle(random_stylizer(transform), file)
    model = str(file)
  command = [sys.executable, "infer.py", "--model", model, "--overwrite"]
  for role, side in (("content", size), ("style", 512)):
    path = folder / f"{role}-{side}.png"
    if not path.exists():
      picture = Image.fromarray((pictures(role, 1, 512)[0] * 255).astype("uint8"))
      picture.resize((side, side), Image.Resampling.BICUBIC).save(path)
    command += [f"--{role}", str(path)]
  return [*command, "--output", str(folder / "output.png")]


def _start(folder: Path, transform: str, rounds: int, refine: int) -> Line:
  command = [*_command(folder, transform, 512), "--refine", str(refine)]
  cold = {"ADACONV_COMPILATION_CACHE": "off", "ADACONV_CACHE": str(folder / "cache")}
  warm = cold | {"ADACONV_COMPILATION_CACHE": "on"}
  watch(command, env=warm)  # fills the cache
  done: dict[str, list[Watched]] = {"cold": [], "warm": []}
  for _ in range(rounds):
    done["warm"].append(watch(command, env=warm))
    done["cold"].append(watch(command, env=cold))
  seconds = {kind: statistics.median(run.seconds for run in runs) for kind, runs in done.items()}
  return Line(
    "8",
    f"infer.py --refine {refine}, {label(transform)}, one 512 x 512 pair, warm compilation cache "
    "against none",
    seconds["warm"],
    seconds["cold"],
    seconds["warm"] / seconds["cold"],
    WARM_SHARE,
    at_most=True,
    memory=(done["warm"][-1].peak, done["cold"][-1].peak),
    note="peer: ours, cold; MB of the whole process",
  )


def _large(folder: Path, transform: str) -> Line:
  env = {"ADACONV_CACHE": str(folder / "cache")}
  run = watch(_command(folder, transform, LARGE_SIDE), env=env)
  gigabytes = (run.peak or 0) / 1e9
  note = f"ratio: peak memory in units of {LARGE_BYTES / 1e9:g} GB"
  if run.stopped:
    note += f"; stopped at {gigabytes:.1f} GB, before it was finished"
  return Line(
    "8",
    f"infer.py, {label(transform)}, one content of {LARGE_SIDE} x {LARGE_SIDE}, peak memory",
    None if run.stopped else run.seconds,
    ratio=gigabytes * 1e9 / LARGE_BYTES if run.peak else None,
    target=1.0,
    at_most=True,
    memory=(run.peak, None),
    note=note,
  )
