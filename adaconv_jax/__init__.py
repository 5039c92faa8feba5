"""Arbitrary style transfer in JAX: AdaIN and AdaConv.

    import numpy as np
    from adaconv_jax import stylize
    content, style = np.random.rand(2, 256, 256, 3)       # RGB in [0, 1], or uint8
    stylized = stylize(content, style, model="adaconv")   # has content's shape

stylize        renders pictures in the style of others; the place to begin
keep_compiled  keeps compiled programs for the next process
load_model     loads a trained model, a `Stylizer`: a shipped one, a training's, or a file
shipped_models lists the models that come with the package
save_bundle    writes a trained model as one file
Stylizer       a trained model: encodes styles once, for many contents
adain          the operation of AdaIN on feature maps
adaconv        the operation of AdaConv on feature maps

The command `adaconv` stylizes picture files, and trains, evaluates and exports models; see
`adaconv --help`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from adaconv_jax.checkpoints.bundle import save_bundle
  from adaconv_jax.checkpoints.load import load_model, shipped_models
  from adaconv_jax.compilation import keep_compiled
  from adaconv_jax.inference import stylize
  from adaconv_jax.models.stylizer import Stylizer
  from adaconv_jax.ops.adaconv import adaconv
  from adaconv_jax.ops.adain import adain

__version__ = "0.2.0"
__all__ = [
  "Stylizer",
  "adaconv",
  "adain",
  "keep_compiled",
  "load_model",
  "save_bundle",
  "shipped_models",
  "stylize",
]

_MODULES = {
  "Stylizer": "models.stylizer",
  "adaconv": "ops.adaconv",
  "adain": "ops.adain",
  "keep_compiled": "compilation",
  "load_model": "checkpoints.load",
  "save_bundle": "checkpoints.bundle",
  "shipped_models": "checkpoints.load",
  "stylize": "inference",
}


def __getattr__(name: str) -> Any:
  # On demand, because the processes that decode images import this package and need no JAX.
  if name not in _MODULES:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})
