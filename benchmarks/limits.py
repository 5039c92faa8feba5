"""The machine's limits: the speed of one large product and one large convolution."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import flops
from benchmarks.operation import random
from benchmarks.timing import alternate

SIDE = 3072  # of the matrices: 58 GFLOP
CONV = (4, 128, 128, 256, 256)  # batch, height, width, c_in, c_out: 77 GFLOP


def measure(rounds: int, *, torch: Any = None) -> dict[str, dict[str, float]]:
  """Measures GFLOP/s of a float32 product and of a zero-padded 3x3 convolution.

  Args:
    rounds: calls of each; the fastest is used, because this is a limit.
    torch: the module, or None to measure JAX only.

  Returns:
    GFLOP/s by name of the measurement and then of the library.
  """
  n, h, w, c_in, c_out = CONV
  gflop = {"matmul": 2 * SIDE**3 / 1e9, "conv 3x3": n * flops.conv(c_in, c_out, h, w) / 1e9}
  ours, peers = _jax(), _torch(torch) if torch else {}
  found = {}
  for name, work in gflop.items():
    for function in (ours[name], peers.get(name)):
      if function:
        jax.block_until_ready(function())
    times = alternate(ours[name], peers.get(name), rounds)
    found[name] = {"jax": work / min(times.ours)}
    if times.peer:
      found[name]["torch"] = work / min(times.peer)
  return found


def _jax() -> dict[str, Callable[[], Any]]:
  n, h, w, c_in, c_out = CONV
  a, b = random((SIDE, SIDE), 0), random((SIDE, SIDE), 1)
  images, kernel = random((n, h, w, c_in), 2), random((3, 3, c_in, c_out), 3)
  matmul = jax.jit(jnp.matmul)
  conv = jax.jit(
    lambda x, k: jax.lax.conv_general_dilated(
      x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
  )
  return {"matmul": lambda: matmul(a, b), "conv 3x3": lambda: conv(images, kernel)}


def _torch(torch: Any) -> dict[str, Callable[[], Any]]:
  n, h, w, c_in, c_out = CONV
  a, b = torch.randn(SIDE, SIDE), torch.randn(SIDE, SIDE)
  images, kernel = torch.randn(n, c_in, h, w), torch.randn(c_out, c_in, 3, 3)
  return {
    "matmul": lambda: a @ b,
    "conv 3x3": lambda: torch.nn.functional.conv2d(images, kernel, padding=1),
  }
