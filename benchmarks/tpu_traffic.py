"""Which parts of a training step move how many bytes of memory on a TPU, from the TPU compiler.

    python -m benchmarks.tpu_traffic [--config adaconv] [--type bfloat16] [--slice v5litepod-1]

It needs libtpu (`pip install -e '.[tpu]'`) but no TPU, and takes some minutes. It adds up the sizes
of what the instructions of the compiled step read and write, at 8 pairs per device. The compiler's
own count, in `benchmarks.tpu_steps`, is larger.
"""

import argparse
import math
import re
from collections import Counter

from adaconv_jax.training import aot
from benchmarks.report import markdown
from benchmarks.tpu_steps import CONFIGS, PAIRS, TYPES, load

# Parts of a step, by what the names of their instructions have in them; the first that fits.
PARTS = {
  "VGG": "VGG",
  "decode_scale/vmap": "adaptive convolutions",
  "decode_scale": "convolutions of the decoder",
  "style_encoder": "style encoder",
  "predictors": "kernel predictors",
}
REST = "losses, checks, optimizer"
# Those that move nothing, or a second time what an instruction that begins with it moves.
_NO_TRAFFIC = {
  "after-all", "async-done", "async-start", "bitcast", "constant", "copy-done", "copy-start",
  "get-tuple-element", "parameter", "slice-done", "slice-start", "tuple",
}  # fmt: skip
_NO_WORK = re.compile(r'custom_call_target="(AllocateBuffer|ConcatBitcast)"')
_INSTRUCTION = re.compile(r"\s*(?:ROOT )?%([\w.-]+) = (\(.*?\)|\S+) ([\w-]+)\((.*)")
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+))\[([\d,]*)\]")


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(prog="python -m benchmarks.tpu_traffic")
  parser.add_argument("--config", choices=CONFIGS, default="adaconv")
  parser.add_argument("--type", choices=TYPES, default="bfloat16")
  parser.add_argument("--slice", default="v5litepod-1")
  args = parser.parse_args()
  tpu = aot.Slice.parse(args.slice)
  config = load(args.config, args.type)
  config.batch_size = PAIRS * tpu.chips
  moved = traffic(aot.compile_config(config, tpu).as_text() or "")
  total = sum(moved.values())
  rows = []
  for part in (*PARTS.values(), REST):
    ways = [moved[part, backward] for backward in (False, True)]
    rows.append([part, *(f"{way / 1e9:.2f}" for way in ways), f"{sum(ways) / total:.0%}"])
  rows.append(["all", *(f"{sum(n for (_, b), n in moved.items() if b is way) / 1e9:.2f}"
                        for way in (False, True)), "100%"])  # fmt: skip
  print(markdown(["part", "GB, forward", "GB, backward", "share"], rows))


def traffic(hlo: str) -> Counter[tuple[str, bool]]:
  """Adds up what the instructions of a compiled program read and write.

  Args:
    hlo: its text.

  Returns:
    Bytes by the part of the step, and whether they are of the backward pass.
  """
  sizes: dict[str, int] = {}
  moved: Counter[tuple[str, bool]] = Counter()
  for line in hlo[hlo.index("ENTRY ") :].splitlines():
    if (found := _INSTRUCTION.match(line)) is None:
      continue
    name, shape, kind, rest = found.groups()
    sizes[name] = _bytes(shape)
    if kind in _NO_TRAFFIC or _NO_WORK.search(rest):
      continue
    operands = re.findall(r"%([\w.-]+)", rest.split(")")[0])
    described = re.search(r'op_name="([^"]*)"', line)
    origin = described[1] if described else ""
    part = next((part for key, part in PARTS.items() if key in origin), REST)
    count = sizes[name] + sum(sizes.get(operand, 0) for operand in operands)
    moved[part, "transpose(" in origin] += count
  return moved


def _bytes(shape: str) -> int:
  """The size of an array, or of all in a tuple, such as "bf16[8,256,256,64]{3,0,2,1}"."""
  total = 0
  for kind, bits, sides in _ARRAY.findall(shape):
    each = 1 if kind == "pred" else int(bits) // 8
    total += each * math.prod(int(side) for side in sides.split(",") if side)
  return total


if __name__ == "__main__":
  main()
