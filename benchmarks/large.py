"""Large pictures: time and peak memory of `adaconv stylize`, and strips against the whole.

    python -m benchmarks.large [--side 8192] [--compare 1536] [--model NAME ...]
    python -m benchmarks.large --side 4096 --compare 0 -- --alpha 0.5

The content is an example photograph, enlarged. The process is a whole `adaconv stylize`, with its
defaults, from its start to the written picture; what follows `--` are options of it, and MASK among
them is a mask of the left half. The comparison renders a picture that fits whole, and the same in
strips of which nothing large is kept, as in pictures of more than 16 megapixels.
"""

import argparse
import functools
import resource
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from adaconv_jax import load_model, shipped_models, stages
from adaconv_jax.models.stylizer import Stylizer
from adaconv_jax.ops import tiling
from benchmarks.memory import ROOT, watch
from benchmarks.run import describe_machine

LIMIT = 8e9  # bytes
CONTENT, STYLE = (ROOT / "examples" / name for name in ("content/palace.jpg", "style/night.jpg"))


def main() -> None:
  """Prints a line per model and measure."""
  parser = argparse.ArgumentParser()
  parser.add_argument("--side", type=int, default=8192)
  parser.add_argument("--compare", type=int, default=1536)
  parser.add_argument("--model", action="append", choices=shipped_models())
  parser.add_argument("options", nargs="*", help="of adaconv stylize, after --")
  args = parser.parse_args()
  print(", ".join(f"{key}: {value}" for key, value in describe_machine(False).items()))
  for name in args.model or shipped_models():
    if args.side:
      print(
        f"{name}, {args.side} x {args.side}: {process(name, args.side, args.options)}", flush=True
      )
    if args.compare:
      size = f"{args.compare} x {args.compare}"
      print(f"{name}, {size}, strips against the whole: {difference(name, args.compare)}")


def enlarged(side: int) -> Image.Image:
  """Cuts the upper left square of the example photograph, and enlarges it."""
  photo = Image.open(CONTENT).convert("RGB")
  short = min(photo.size)
  return photo.resize((side, side), Image.Resampling.BICUBIC, (0, 0, short, short))


def process(name: str, side: int, options: Sequence[str] = ()) -> str:
  """Runs `adaconv stylize` with more `options` on a square of `side` pixels."""
  with tempfile.TemporaryDirectory() as folder:
    content, output, mask = (Path(folder) / f"{role}.png" for role in ("content", "output", "mask"))
    enlarged(side).save(content, compress_level=1)
    half = np.zeros((64, 64), np.uint8)
    half[:, :32] = 255
    Image.fromarray(half).save(mask)
    command = [sys.executable, "-m", "adaconv_jax", "stylize", "--model", name]
    command += ["--content", str(content), "--style", str(STYLE), "--output", str(output)]
    command += [str(mask) if option == "MASK" else option for option in options]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = watch(command, env={"ADACONV_CACHE": str(Path(folder) / "cache")})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
  seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
  if done.stopped:
    return f"stopped, because the free memory does not suffice, at {(done.peak or 0) / 1e9:.2f} GB"
  peak = "unknown" if done.peak is None else f"{done.peak / 1e9:.2f} GB"
  within = "" if done.peak is None else f" ({done.peak / LIMIT:.0%} of {LIMIT / 1e9:g} GB)"
  return f"{done.seconds:.0f} s, of the processor {seconds:.0f} s, peak {peak}{within}"


def difference(name: str, side: int) -> str:
  """Renders a square whole and in strips, and compares them."""
  stylizer, content = load_model(name), np.asarray(enlarged(side))[None]
  style = np.asarray(Image.open(STYLE).convert("RGB"))[None]
  code = stages.encode(stylizer, style)

  def render(stylizer: Stylizer, content: Any, code: Any) -> jax.Array:
    return stylizer.stylize(content, code, detail=0.5)

  whole = with_limits(render, (stylizer, content, code), whole=2**62, kept=2**62)
  strips = with_limits(render, (stylizer, content, code), whole=2**24, kept=0)
  apart = np.abs(whole.astype(int) - strips.astype(int))
  share = (apart > 0).mean()
  return f"at most {apart.max()} of 255 levels apart, {share:.2%} of the values differ"


def with_limits(
  render: Callable[..., jax.Array], arguments: Any, *, whole: int, kept: int
) -> np.ndarray:
  """Compiles and runs `render` with other limits of `ops/tiling.py`."""
  before = tiling.WHOLE_BYTES, tiling.KEPT_BYTES
  tiling.WHOLE_BYTES, tiling.KEPT_BYTES = whole, kept
  try:
    # Another function, so that an earlier trace is not used.
    return np.asarray(jax.jit(functools.partial(render))(*arguments))
  finally:
    tiling.WHOLE_BYTES, tiling.KEPT_BYTES = before


if __name__ == "__main__":
  main()
