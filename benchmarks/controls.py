"""What the controls cost, beside the plain picture in one style.

    python -m benchmarks.controls [--size 384] [--styles 4] [--rounds 3] [--model NAME ...]
        [--only palette]

Every line is a program of its own, from the content's pixels to the output's; styles are encoded
before. Times are medians of calls taken in turns with the plain picture, and *share* is that of the
plain picture, so other work on the machine concerns both. Memory is what XLA allocates for the
program, beside its arguments. The bound of K masks is one encoding and K decodings.
"""

import argparse
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adaconv_jax import load_model, shipped_models
from adaconv_jax.models.style_code import mix_codes
from adaconv_jax.models.stylizer import Stylizer
from adaconv_jax.ops.evenness import even_out
from adaconv_jax.ops.palette import match_palette, measure_palette
from benchmarks.inputs import pictures
from benchmarks.report import format_seconds, markdown
from benchmarks.run import describe_machine
from benchmarks.timing import alternate

HEADER = ("model", "what", "seconds", "share", "MB", "share")


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(prog="python -m benchmarks.controls")
  parser.add_argument("--size", type=int, default=384)
  parser.add_argument("--styles", type=int, default=4)
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--only", default="", help="what the names of the controls have in them")
  parser.add_argument("--model", action="append", choices=shipped_models())
  args = parser.parse_args()
  print(", ".join(f"{key}: {value}" for key, value in describe_machine(False).items()))
  rows = []
  for name in args.model or shipped_models():
    rows += table(name, args.size, args.styles, args.rounds, args.only)
  print(markdown(HEADER, rows))


def table(name: str, size: int, count: int, rounds: int, only: str = "") -> list[list[str]]:
  """Measures the controls of a model whose names have `only` in them."""
  stylizer = load_model(name)
  content = jnp.asarray(pictures("content", 1, size))
  codes = [
    jax.jit(Stylizer.encode_style)(stylizer, style[None]) for style in pictures("style", count, 256)
  ]
  everywhere = jnp.ones((size, size), jnp.float32)
  masks = jnp.asarray(np.repeat(np.eye(count, dtype=np.float32), -(-size // count), 1)[:, :size])
  masks = jnp.repeat(masks[:, None], size, 1)  # side by side
  half = jnp.float32(0.5)

  def program(function: Any, *arguments: Any) -> tuple[Any, Any]:
    compiled = jax.jit(function).lower(stylizer, content, *arguments).compile()
    return compiled, functools.partial(compiled, stylizer, content, *arguments)

  def stylize(s: Stylizer, x: jax.Array, code: Any, *alpha: Any, **options: Any) -> jax.Array:
    return s.stylize(x, code, *alpha, **options)

  def in_palette(s: Stylizer, x: jax.Array, code: Any, palette: jax.Array) -> jax.Array:
    return match_palette(s.stylize(x, code), palette, 0.6)

  def evened(s: Stylizer, x: jax.Array, code: Any) -> jax.Array:
    return even_out(s.stylize(x, code), x, 1.0)

  def refined(s: Stylizer, x: jax.Array, code: Any, style: jax.Array) -> jax.Array:
    return s.stylize(x, s.refine(code, x, style, 3))

  encode = program(lambda s, x: s.encode_content(x, for_alpha=False))
  cases = {
    f"{count} styles mixed": lambda: program(lambda s, x, c: s.stylize(x, mix_codes(c)), codes),
    f"{count} masks": lambda: program(lambda s, x, c, m: s.stylize(x, c, masks=m), codes, masks),
    "map of alpha": lambda: program(stylize, codes[0], everywhere / 2),
    "alpha 0.5": lambda: program(stylize, codes[0], half),
    "detail 0.5": lambda: program(lambda s, x, c, d: s.stylize(x, c, detail=d), codes[0], half),
    "palette 0.6": lambda: program(in_palette, codes[0], measure_palette(content)),
    "evenness 1": lambda: program(evened, codes[0]),
    "refine 3": lambda: program(refined, codes[0], content),
    "color luminance": lambda: program(functools.partial(stylize, color="luminance"), codes[0]),
    "stroke 2": lambda: program(functools.partial(stylize, stroke=2), codes[0]),
    f"look size {size // 2}": lambda: program(
      functools.partial(stylize, look_size=size // 2), codes[0]
    ),
  }
  plain, run_plain = program(stylize, codes[0])
  base = alternate(encode[1], run_plain, rounds).medians
  memory = plain.memory_analysis().temp_size_in_bytes
  rows = [[name, "plain", format_seconds(base[1]), "1", f"{memory / 1e6:.0f}", "1"]]
  share = base[0] / base[1]
  rows.append([name, "encoder alone", format_seconds(base[0]), f"{share:.2f}", "", ""])
  for what, case in cases.items():
    if only not in what:
      continue
    compiled, run = case()
    ours, theirs = alternate(run, run_plain, rounds).medians
    bytes_ = compiled.memory_analysis().temp_size_in_bytes
    bound = f" (bound {share + count * (1 - share):.2f})" if what.endswith("masks") else ""
    rows.append([
      name, what, format_seconds(ours), f"{ours / theirs:.2f}{bound}", f"{bytes_ / 1e6:.0f}",
      f"{bytes_ / memory:.2f}",
    ])  # fmt: skip
    print(" | ".join(rows[-1]), flush=True)
  return rows


if __name__ == "__main__":
  main()
