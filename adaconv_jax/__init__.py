"""Arbitrary style transfer in JAX: AdaIN and AdaConv."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from adaconv_jax.bundle import save_bundle
  from adaconv_jax.trained import load_model

__version__ = "0.2.0"
__all__ = ["load_model", "save_bundle"]


def __getattr__(name: str) -> Any:
  # On demand, because the processes that decode images import this package and need no JAX.
  if name not in __all__:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  from adaconv_jax import bundle, trained

  return getattr(trained if name == "load_model" else bundle, name)
