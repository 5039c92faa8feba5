"""All settings of a training and their ranges, checked before any work and before any file."""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from adaconv_jax.files import expand_named
from adaconv_jax.models.adaconv import MAX_KERNEL_SIZE, STYLE_FITS
from adaconv_jax.training.from_config import Config
from adaconv_jax.vgg.network import BLOCKS, COMPUTE_DTYPES, ENCODER_LAYER, conv_shapes

_MOST = 2**31 - 1  # counts are int32 on the device
_STYLE_LAYERS = "loss.style_layers"


@dataclasses.dataclass(frozen=True)
class Rule:
  """The range of a setting.

  Attributes:
    words: the range in words, to follow "expected".
    holds: returns whether a value is in it.
    optional: whether the setting may be missing, as in configs of older versions.
  """

  words: str
  holds: Callable[[Any], bool]
  optional: bool = False


def _count(low: int, high: int = _MOST, *, optional: bool = False) -> Rule:
  words = f"a whole number, {low} to {high}"
  return Rule(words, lambda x: _is_whole(x) and low <= x <= high, optional)


def _number(low: float, high: float = math.inf, *, optional: bool = False) -> Rule:
  words = f"a number of at least {low}" if high == math.inf else f"a number, {low} to {high}"
  return Rule(words, lambda x: _is_number(x) and low <= x <= high, optional)


def _positive(high: float) -> Rule:
  return Rule(f"a number above 0, at most {high}", lambda x: _is_number(x) and 0 < x <= high)


def _choice(*names: str) -> Rule:
  return Rule(f"one of {', '.join(map(repr, sorted(names)))}", lambda x: x in names)


def _is_whole(value: Any) -> bool:
  return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
  return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


_TEXT = Rule("a text", lambda x: isinstance(x, str))
_PERIOD = _count(0)  # 0: off
_WEIGHT = _number(0, 1e12)
# In smaller pictures, relu4_1 has one pixel, and so no standard deviation.
_PIXELS = _count(16, 65_535)

RULES: Mapping[str, Rule] = {
  "seed": _count(0, 2**32 - 1),
  "init_from": _TEXT,
  "batch_size": _count(1),
  "num_steps": _count(1),
  "reconstruct_steps": _count(0),
  "model.transform": _TEXT,  # `make_model` checks the name
  "model.vgg": _choice(*BLOCKS),
  "model.vgg_weights": _TEXT,
  "model.vgg_padding": _choice("reflect", "zero"),
  "model.compute_dtype": _choice(*COMPUTE_DTYPES),
  "data.content": _TEXT,
  "data.style": _TEXT,
  "data.min_size": _count(0, 65_535),
  "data.heldout_content": _count(0),
  "data.heldout_style": _count(0),
  "data.heldout_content_names": _TEXT,
  "data.heldout_style_names": _TEXT,
  "data.content_resize": _PIXELS,
  "data.content_crop": _PIXELS,
  "data.style_resize": _PIXELS,
  "data.style_crop": _PIXELS,
  "data.kept_style_crops": _count(0, 10_000),
  "data.num_workers": _count(0, 1024),
  "data.max_broken_share": _number(0, 1, optional=True),
  "loss.content_weight": _WEIGHT,
  "loss.style_weight": _WEIGHT,
  "loss.style_ramp_steps": _count(0),
  "loss.pixel_weight": _WEIGHT,
  "loss.checkerboard_weight": _WEIGHT,
  "loss.self_similarity_weight": _WEIGHT,
  "loss.palette_weight": _WEIGHT,
  "loss.detail_weight": _number(0, 1e12, optional=True),
  "loss.structure_weight": _number(0, 1e12, optional=True),
  "loss.evenness_weight": _number(0, 1e12, optional=True),
  "optimizer.learning_rate": _positive(1),
  "optimizer.warmup_steps": _count(0),
  "optimizer.decay": _choice("inverse_time", "cosine"),
  "optimizer.decay_rate": _number(0, 1e12),
  "optimizer.clip_norm": _number(0, 1e12),
  "optimizer.style_rate": _positive(1e6),
  "ema_decay": Rule(
    "0 (no average) or a number below 1 such as 0.999", lambda x: _is_number(x) and 0 <= x < 1
  ),
  "skip_loss_above": _number(0, 1e6, optional=True),
  "max_skipped_steps": _count(1, optional=True),
  "log_every_steps": _PERIOD,
  "eval_every_steps": _PERIOD,
  "sample_every_steps": _PERIOD,
  "sample_size": _PIXELS,
  "sample_images": _count(0, 1000),
  "checkpoint_every_steps": _PERIOD,
  "keep_last": _count(1),
  "keep_every_steps": _PERIOD,
}
# Settings that name a file or a folder, also in a bucket.
_PATHS = (
  "model.vgg_weights",
  "data.content",
  "data.style",
  "data.heldout_content_names",
  "data.heldout_style_names",
)
# Those of `config.model.settings`, which only some transforms have.
MODEL_RULES: Mapping[str, Rule] = {
  "style_dim": _count(1, 16_384),
  "kernel_size": _count(1, MAX_KERNEL_SIZE),
  "encoder_width": _count(1, 16_384),
  "style_size": _count(64, 4096),
  "style_fit": _choice(*STYLE_FITS),
}


def check_settings(config: Config) -> None:
  """Checks every setting of a training, and that no crop is larger than its image.

  Args:
    config: a ConfigDict as in `configs/`.

  Raises:
    ValueError: a setting is missing or out of its range; the message names it and the range.
    MissingExtra: a path is in a bucket, whose package is missing.
  """
  for name, rule in RULES.items():
    _check(name, _get(config, name), rule)
  for name in _PATHS:
    expand_named(f"config.{name}", _get(config, name))
  settings = _get(config, "model.settings")
  if not _is_group(settings):
    raise ValueError(f"config.model.settings: expected names and values, got {settings!r}")
  for name, rule in MODEL_RULES.items():
    if name in settings:
      _check(f"model.settings.{name}", settings[name], rule)
  _check_style_layers(config)
  for role in ("content", "style"):
    resize, crop = config.data[f"{role}_resize"], config.data[f"{role}_crop"]
    if crop > resize:
      raise ValueError(
        f"config.data.{role}_crop: expected at most {resize}, the shorter side that "
        f"config.data.{role}_resize scales to, got {crop}"
      )
  _check_recordable("config", config.to_dict())


def _check_recordable(name: str, value: Any) -> None:
  """Raises unless a setting, maybe one of the user's own, can be written to config.json."""
  if isinstance(value, dict):
    for key, item in value.items():
      _check_recordable(f"{name}.{key}", item)
    return
  try:
    json.dumps(value)
  except (TypeError, ValueError, RecursionError) as error:
    raise ValueError(
      f"{name}: expected text, numbers or lists of them, got {type(value).__name__}"
    ) from error


def _is_group(value: Any) -> bool:
  """Whether a value of a ConfigDict has settings below it."""
  return isinstance(value, ConfigDict)


def _get(config: Config, name: str) -> Any:
  """Returns the value of a setting such as "data.style"; None if it is missing."""
  value = config
  for part in name.split("."):
    if not _is_group(value) or part not in value:
      return None
    value = value[part]
  return value


def _check(name: str, value: Any, rule: Rule) -> None:
  if value is None and rule.optional:
    return
  if value is None:
    raise ValueError(f"config.{name}: expected {rule.words}, got none; add it to the config")
  if not rule.holds(value):
    raise ValueError(f"config.{name}: expected {rule.words}, got {value!r}")


def _check_style_layers(config: Config) -> None:
  layers = _get(config, _STYLE_LAYERS)
  # The weights end at the encoder's layer.
  shapes = conv_shapes(config.model.vgg, ENCODER_LAYER)
  known = [name.replace("conv", "relu") for name in shapes]
  if not _is_group(layers) or not layers or set(layers) - set(known):
    got = sorted(layers) if layers and _is_group(layers) else layers or "none"
    raise ValueError(f"config.{_STYLE_LAYERS}: expected some of {', '.join(known)}, got {got}")
  for name in layers:
    _check(f"{_STYLE_LAYERS}.{name}", layers[name], _WEIGHT)
