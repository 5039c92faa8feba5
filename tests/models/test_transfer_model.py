"""What `Stylizer` requires of a model, with a third transform that no other file knows."""

import dataclasses
import functools
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import picture, small_stylizer

from adaconv_jax import rooms, stages, stylize
from adaconv_jax.models.adaconv import AdaConv
from adaconv_jax.models.adain import AdaIN
from adaconv_jax.models.build import init_params, make_model, model_settings
from adaconv_jax.models.decoder import Decoder
from adaconv_jax.models.style_code import blend
from adaconv_jax.models.transfer_model import TransferModel
from adaconv_jax.ops.extent import UNPADDED


class Shift(nn.Module):
  """Moves the mean of every channel to the style's, and keeps its deviation."""

  transform: ClassVar[str] = "shift"
  slow_params: ClassVar[tuple[str, ...]] = ()
  needs_scale_stats: ClassVar[bool] = False
  alpha_needs_own_style: ClassVar[bool] = False
  content_layers: ClassVar[tuple[str, ...]] = ()
  extends: ClassVar[str | None] = None

  def setup(self):
    self.decoder = Decoder()

  @property
  def style_size(self) -> int | None:
    return None

  @property
  def kernel_size(self) -> int:
    return 0

  def encode_style(self, style_features, where=None):
    return jnp.mean(style_features, axis=(1, 2), keepdims=True, where=where)

  def content_target(self, content_features, code, alpha=1.0, where=None):
    own = jnp.mean(content_features, axis=(1, 2), keepdims=True, where=where)
    return blend(content_features, content_features - own + code, alpha)

  def decode(self, target, code):
    return self.decoder(target)

  def decode_scale(self, scale, features, code, stats=None, borders=UNPADDED):
    assert stats is None
    return self.decoder.decode_scale(scale, features, enlarge=scale > 0, borders=borders)

  def __call__(self, content_features, style_features):
    code = self.encode_style(style_features)
    return self.decode(self.content_target(content_features, code), code)


@pytest.fixture(scope="module")
def shift():
  return dataclasses.replace(small_stylizer("adain"), model=Shift())


CONTENT, STYLE = picture(0, 1, 24, 24), picture(1, 1, 24, 24) ** 3


def features(stylizer, image):
  maps = stylizer.vgg.apply({"params": stylizer.vgg_params}, image, ("relu4_1",))
  return maps["relu4_1"]


def test_a_third_transform_needs_no_change_elsewhere(shift):
  model: TransferModel = shift.model
  assert model_settings(model) == {"transform": "shift", "settings": {}}
  content, style = (jax.jit(features)(shift, x) for x in (CONTENT, STYLE))
  decode = jax.jit(functools.partial(Decoder().apply, {"params": shift.params["decoder"]}))
  lost = CONTENT - np.clip(decode(content), 0, 1)
  for alpha in (1.0, 0.25):
    moved = content + alpha * (style.mean((1, 2)) - content.mean((1, 2)))
    expected = np.clip(np.clip(decode(moved), 0, 1) + (1 - alpha) * lost, 0, 1)
    got = stylize(CONTENT, STYLE, model=shift, alpha=alpha)
    np.testing.assert_allclose(got, expected, atol=2e-5)


@pytest.mark.slow
def test_a_third_transform_is_rendered_in_buckets(shift):
  content, style = picture(2, 17, 22), picture(3, 18, 25)
  (batch, extent), (styles, style_extent) = (rooms.in_bucket(shift, x) for x in (content, style))
  assert batch.shape[1:3] != content.shape[:2]
  code = stages.encode(shift, styles, style_extent)
  encoded = stages.encode_content(shift, batch, extent, False)
  got = np.asarray(stages.render_encoded(shift, encoded, code, None))[0, :17, :22]
  np.testing.assert_allclose(got, stylize(content, style, model=shift), atol=2e-5)


# Names in files.


@pytest.mark.parametrize("cls", [AdaIN, AdaConv])
def test_the_name_in_files_is_not_that_of_the_class(cls):
  renamed = type("Renamed", (cls,), {})()
  assert model_settings(renamed) == model_settings(cls())
  assert type(make_model(**model_settings(renamed))) is cls


def paths(model) -> set[str]:
  shapes = jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))
  leaves = jax.tree.flatten_with_path(shapes)[0]
  return {jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves}


def test_the_names_of_parameters_are_those_in_the_files():
  convs = ["4_1", "3_1", "3_2", "3_3", "3_4", "2_1", "2_2", "1_1", "1_2"]
  decoder = with_parts(f"decoder/conv{name}" for name in convs)
  assert paths(AdaIN()) == decoder
  encoder = with_parts(f"style_encoder/{name}" for name in ("conv1", "conv2", "conv3", "Dense_0"))
  heads = ("spatial", "pointwise", "bias")
  predictors = with_parts(f"predictors_{i}/{name}" for i in range(4) for name in heads)
  assert paths(AdaConv()) == decoder | encoder | predictors


def with_parts(layers) -> set[str]:
  return {f"{layer}/{part}" for layer in layers for part in ("kernel", "bias")}


@pytest.mark.slow
def test_parameters_are_those_that_flax_initializes_with_all_convolutions():
  model, key = small_stylizer("adaconv").model, jax.random.key(3)
  side = (model.style_size or 0) // 8
  features = jnp.zeros((1, side, side, 512))
  expected = jax.jit(model.init)(key, features, features)["params"]
  jax.tree.map(np.testing.assert_array_equal, init_params(model, key), expected)
