"""Arbitrary style transfer in JAX: AdaIN and AdaConv."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from adaconv_jax.checkpoints.bundle import save_bundle
  from adaconv_jax.checkpoints.load import load_model
  from adaconv_jax.inference import stylize

__version__ = "0.2.0"
__all__ = ["load_model", "save_bundle", "stylize"]

_MODULES = {
  "load_model": "checkpoints.load",
  "save_bundle": "checkpoints.bundle",
  "stylize": "inference",
}


def __getattr__(name: str) -> Any:
  # On demand, because the processes that decode images import this package and need no JAX.
  if name not in _MODULES:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
