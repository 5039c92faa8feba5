"""Row 7: AdaConv's operation at the decoder's four scales, beside one with a shared kernel."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adaconv_jax.ops.adaconv import adaconv
from adaconv_jax.ops.conv import conv
from benchmarks import flops
from benchmarks.case import Case

# Batch, side, channels and groups of the published model's scales, for images of 256 x 256.
SCALES = ((8, 32, 512, 512), (8, 64, 256, 128), (4, 128, 128, 32), (2, 256, 64, 8))


def cases() -> list[Case]:
  """Row 7."""
  return [
    scale_case(batch, *shape, backward=backward)
    for batch, *shape in SCALES
    for backward in (False, True)
  ]


def scale_case(batch: int, side: int, channels: int, groups: int, *, backward: bool) -> Case:
  """One scale; the backward pass is with respect to features and kernels."""
  own = functools.partial(adaconv, groups=groups)

  def ours() -> Callable[[], Any]:
    group = channels // groups
    shapes = [(3, 3, group, channels), (1, 1, group, channels), (channels,)]
    kernels = [random((batch, *shape), index) for index, shape in enumerate(shapes)]
    return measured(jax.vmap(own), kernels)

  def shared() -> Callable[[], Any]:
    return measured(conv, [random((3, 3, channels, channels), 0), random((channels,), 1)])

  def measured(function: Callable[..., jax.Array], kernels: list[jax.Array]) -> Callable[[], Any]:
    features = random((batch, side, side, channels), 9)
    if not backward:
      return functools.partial(jax.jit(function), features, *kernels)
    weights = random(features.shape, 10)
    # The output is returned too, so that no part of the forward pass can be removed.
    step = jax.jit(lambda args: pull_back(function, args, weights))
    return functools.partial(step, (features, *kernels))

  passes = 3 if backward else 1
  return Case(
    "7",
    f"operation, {batch} x {side} x {side} x {channels}, n_g {groups}, "
    + ("forward and backward" if backward else "forward"),
    passes * batch * flops.adaconv_operation(channels, groups, side, side) / 1e9,
    ours,
    shared,
    1.25 if backward else None,
    peer_gflop=passes * batch * flops.conv(channels, channels, side, side) / 1e9,
    slowdown=True,
    note="peer: ours, one shared kernel; ratio is a slowdown",
  )


def pull_back(
  function: Callable[..., jax.Array], args: tuple[jax.Array, ...], weights: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
  """Computes `function(*args)` and the gradients of `sum(weights * output)`."""
  out, pull = jax.vjp(function, *args)
  return out, pull(weights)


def random(shape: tuple[int, ...], seed: int) -> jax.Array:
  """Draws normal numbers, on the device."""
  return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))
