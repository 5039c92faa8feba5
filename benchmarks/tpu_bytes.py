"""Memory traffic of AdaConv's operation on a TPU, beside an ordinary convolution of its size.

    python -m benchmarks.tpu_bytes

The TPU compiler reports it, for one v5e device, batch 8, float32, k = 3, at the published scales.
It needs libtpu (`pip install -e '.[tpu]'`) but no TPU, and takes some minutes.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from adaconv_jax.ops.adaconv import adaconv
from adaconv_jax.ops.conv import conv
from adaconv_jax.training import aot

BATCH = 8
SCALES = ((32, 512, 512), (64, 256, 128), (128, 128, 32), (256, 64, 8))  # side, channels, groups


def with_gradients(function: Callable[..., jax.Array]) -> Callable[..., Any]:
  """Returns the function's output and the gradients of all arguments but the last, its own."""

  def both(*args: jax.Array) -> Any:
    out, backward = jax.vjp(function, *args[:-1])
    return out, backward(args[-1])

  return both


def megabytes(function: Callable[..., Any], device: Any, *shapes: tuple[int, ...]) -> float:
  """Compiles `function` of float32 arrays for `device` and returns the megabytes it moves."""
  place = jax.sharding.SingleDeviceSharding(device)
  compiled = jax.jit(function, in_shardings=place, out_shardings=place).lower(
    *(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)
  )
  return aot.needs(compiled.compile()).bytes_accessed / 1e6


def main() -> None:
  """Prints the table."""
  try:
    device = aot.tpu_devices(aot.Slice("v5e", "2x2"))[0]
  except FileNotFoundError as error:
    sys.exit(f"error: {error}")
  print(f"{'scale':<26}{'pass':<10}{'shared MB':>10}{'AdaConv MB':>12}{'ratio':>7}")
  for side, c, groups in SCALES:
    features, group = (BATCH, side, side, c), c // groups
    kernels = ((BATCH, 3, 3, group, c), (BATCH, 1, 1, group, c), (BATCH, c))
    own = jax.vmap(functools.partial(adaconv, groups=groups))
    for name, wrap, last in (
      ("forward", lambda f: f, ()),
      ("and back", with_gradients, (features,)),
    ):
      shared = megabytes(wrap(conv), device, features, (3, 3, c, c), (c,), *last)
      adaptive = megabytes(wrap(own), device, features, *kernels, *last)
      scale = f"{side}x{side}x{c}, n_g {groups}"
      ratio = adaptive / shared
      print(f"{scale:<26}{name:<10}{shared:>10.0f}{adaptive:>12.0f}{ratio:>7.2f}", flush=True)


if __name__ == "__main__":
  main()
