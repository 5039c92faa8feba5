"""Builds the trained parts of models from names and settings, and describes them as such."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from adaconv_jax.files import Json
from adaconv_jax.models.adaconv import AdaConv, check_settings
from adaconv_jax.models.adaconv_plus import AdaConvPlus
from adaconv_jax.models.adain import AdaIN
from adaconv_jax.models.decoder import SCALES
from adaconv_jax.models.transfer_model import Params, TransferModel
from adaconv_jax.ops.conv import only_shapes
from adaconv_jax.vgg.network import BLOCKS, PADDINGS, STRIDE, VGG

BuiltModel = AdaIN | AdaConv | AdaConvPlus
# Settings that came after version 0.2, with their defaults.
_ADDED = (("style_fit", "squeeze"),)
TRANSFORMS = {cls.transform: cls for cls in (AdaIN, AdaConv, AdaConvPlus)}


def make_model(transform: str, settings: Json | None = None) -> BuiltModel:
  """Builds the module named by `transform`.

  Args:
    transform: "adain", "adaconv" or "adaconv_plus".
    settings: attributes of the module that differ from the published ones; see `AdaConv`.

  Raises:
    ValueError: unknown `transform` or setting, or a setting out of its range. Nothing is allocated
      before.
  """
  if not isinstance(transform, str) or transform not in TRANSFORMS:
    raise ValueError(f"transform: expected one of {sorted(TRANSFORMS)}, got {transform!r}")
  try:
    cls, settings = TRANSFORMS[transform], dict(settings or {})
  except (TypeError, ValueError) as error:
    raise ValueError(f"settings: expected names and values, got {settings!r}") from error
  known = {f.name for f in dataclasses.fields(cls)} - {"name", "parent"}
  if unknown := settings.keys() - known:
    raise ValueError(f"{transform}: unknown settings {sorted(unknown)}; it has {sorted(known)}")
  if "groups" in settings:
    if not isinstance(settings["groups"], list | tuple):
      raise ValueError(f"groups: expected one number per scale, got {settings['groups']!r}")
    settings["groups"] = tuple(settings["groups"])
  model = cls(**settings)
  if isinstance(model, AdaConv):
    check_settings(model)
  return model


def make_encoder(arch: str, padding: str) -> VGG:
  """Builds the encoder that a config or a file describes.

  Raises:
    ValueError: unknown `arch` or `padding`.
  """
  for name, value, known in (("vgg", arch, sorted(BLOCKS)), ("padding", padding, PADDINGS)):
    if value not in known:
      raise ValueError(f"{name}: expected one of {list(known)}, got {value!r}")
  return VGG(arch, padding)


def model_settings(model: TransferModel) -> Json:
  """The inverse of `make_model`: `{"transform": ..., "settings": {...}}`, valid for JSON."""
  module: Any = model  # a Protocol cannot ask for a dataclass
  settings = {
    f.name: getattr(model, f.name)
    for f in dataclasses.fields(module)
    if f.name not in ("name", "parent")
  }
  return {"transform": model.transform, "settings": settings}


def stored_settings(model: TransferModel) -> Json:
  """Does as `model_settings`, for a file.

  A setting that earlier versions do not have is left out where it is the default, so they can read
  the file.
  """
  described = model_settings(model)
  settings = {
    name: value for name, value in described["settings"].items() if (name, value) not in _ADDED
  }
  return described | {"settings": settings}


def init_params(model: TransferModel, key: jax.Array) -> Params:
  """Initializes the trained parameters from a PRNG key."""
  channels = SCALES[0][0]
  side = (model.style_size or 64) // STRIDE
  content = jnp.zeros((1, 2, 2, channels))
  style = jnp.zeros((1, side, side, channels))

  @jax.jit
  def init(key: jax.Array) -> Params:
    # The values do not depend on those of features.
    with only_shapes():
      return model.init(key, content, style)["params"]

  return init(key)
