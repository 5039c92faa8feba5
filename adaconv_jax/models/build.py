"""Builds the trained parts of models from names and settings, and names and settings from them."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from adaconv_jax.files import Json
from adaconv_jax.models.adaconv import AdaConv
from adaconv_jax.models.adain import AdaIN
from adaconv_jax.models.decoder import SCALES
from adaconv_jax.models.transfer_model import Params, TransferModel
from adaconv_jax.vgg.network import STRIDE

BuiltModel = AdaIN | AdaConv
TRANSFORMS = {cls.transform: cls for cls in (AdaIN, AdaConv)}


def make_model(transform: str, settings: Json | None = None) -> BuiltModel:
  """Builds the module named by `transform`.

  Args:
    transform: "adain" or "adaconv".
    settings: the module's attributes that differ from the published ones; see `AdaConv`.

  Raises:
    ValueError: unknown `transform` or setting, or `groups` is not a sequence.
  """
  if transform not in TRANSFORMS:
    raise ValueError(f"transform: expected one of {sorted(TRANSFORMS)}, got {transform!r}")
  cls, settings = TRANSFORMS[transform], dict(settings or {})
  known = {f.name for f in dataclasses.fields(cls)} - {"name", "parent"}
  if unknown := settings.keys() - known:
    raise ValueError(f"{transform}: unknown settings {sorted(unknown)}; it has {sorted(known)}")
  if "groups" in settings:
    if not isinstance(settings["groups"], list | tuple):
      raise ValueError(f"groups: expected one number per scale, got {settings['groups']!r}")
    settings["groups"] = tuple(settings["groups"])
  return cls(**settings)


def model_settings(model: TransferModel) -> Json:
  """The inverse of `make_model`: `{"transform": ..., "settings": {...}}`, fit for JSON."""
  module: Any = model  # a Protocol cannot ask for a dataclass
  settings = {
    f.name: getattr(model, f.name)
    for f in dataclasses.fields(module)
    if f.name not in ("name", "parent")
  }
  return {"transform": model.transform, "settings": settings}


def init_params(model: TransferModel, key: jax.Array) -> Params:
  """Initializes the trained parameters from a PRNG key."""
  side = (model.style_size or 64) // STRIDE
  features = jnp.zeros((1, side, side, SCALES[0][0]))
  return jax.jit(model.init)(key, features, features)["params"]
