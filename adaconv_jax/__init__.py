"""Arbitrary style transfer in JAX: AdaIN and AdaConv."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from adaconv_jax.checkpoints.bundle import save_bundle
  from adaconv_jax.checkpoints.load import load_model

__version__ = "0.1.0"
__all__ = ["load_model", "save_bundle"]


def __getattr__(name: str) -> Any:
  # On demand, because the processes that decode images import this package and need no JAX.
  if name not in __all__:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  from adaconv_jax.checkpoints import bundle
  from adaconv_jax.checkpoints import load as trained

  return getattr(trained if name == "load_model" else bundle, name)
