"""Runs a GPU's or a TPU's program on the CPU, to compare its numbers."""

from collections.abc import Callable
from typing import Any

import jax
from jax import export

ANYWHERE = [export.DisabledSafetyCheck.platform()]


def as_on(platform: str, function: Callable[..., Any]) -> Callable[..., Any]:
  """Compiles `function` of arrays as it is lowered for `platform`: cpu, cuda or tpu.

  Lowered, and not traced with another `lax.platform_dependent`: JAX keeps the traces of functions
  with their own rules for gradients and `vmap`, so that some would still be those of the CPU.
  """
  if platform == "cpu":
    return jax.jit(function)

  def run(*args: Any) -> Any:
    exported = export.export(jax.jit(function), platforms=[platform], disabled_checks=ANYWHERE)
    return jax.jit(exported(*args).call)(*args)

  return run
