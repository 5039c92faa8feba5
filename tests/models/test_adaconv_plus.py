"""AdaConv with skips: what the gains do, against AdaConv and NumPy."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import picture, small_stylizer

from adaconv_jax.models.adaconv_plus import AdaConvPlus, Skip
from adaconv_jax.models.build import init_params, make_model
from adaconv_jax.models.decoder import SCALES
from adaconv_jax.models.stylizer import Stylizer
from adaconv_jax.ops.adain import ChannelStats

encode = jax.jit(lambda stylizer, style: stylizer.encode_style(style))
render = jax.jit(lambda stylizer, content, code: stylizer.stylize(content, code))
plus = functools.lru_cache(small_stylizer)
CONTENT, STYLE = picture(0, 2, 24, 16), picture(1, 2, 64, 64) ** 3


@functools.cache
def code() -> Any:
  return encode(plus("adaconv_plus"), STYLE)


def test_a_skip_is_a_normalized_pointwise_convolution_times_the_gains():
  rng = np.random.default_rng(0)
  x, kernel = rng.random((2, 5, 4, 3)), rng.normal(size=(3, 3))
  gains = rng.normal(size=(2, 3))
  params = {"kernel": kernel, "gain": {"kernel": np.zeros((7, 3)), "bias": np.zeros(3)}}
  mean, std = x.mean((1, 2), keepdims=True), np.sqrt(x.var((1, 2), keepdims=True) + 1e-5)
  expected = ((x - mean) / std) @ (3 * kernel) * gains[:, None, None]
  got: Any = Skip(3).apply({"params": params}, jnp.asarray(x), jnp.asarray(gains))
  np.testing.assert_allclose(got, expected, atol=1e-5)
  given = ChannelStats(jnp.zeros((2, 3)), jnp.ones((2, 3)))
  got = Skip(3).apply({"params": params}, jnp.asarray(x), jnp.asarray(gains), given)
  np.testing.assert_allclose(got, x @ (3 * kernel) * gains[:, None, None], atol=1e-5)


def test_gains_follow_the_mean_of_the_descriptor():
  descriptor = np.random.default_rng(0).normal(size=(2, 3, 3, 5))
  gain = {"kernel": np.ones((5, 4)), "bias": np.arange(4.0)}
  params = {"kernel": np.zeros((4, 4)), "gain": gain}
  got: Any = Skip(4).apply({"params": params}, descriptor, method="predict")
  expected = 1 + 3 * (descriptor.mean((1, 2)).sum(-1, keepdims=True) + np.arange(4))
  np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.slow
def test_a_new_model_brings_nothing_of_the_layers():
  model = plus("adaconv_plus").model
  params = init_params(model, jax.random.key(0))
  skips = [params[f"skips_{index}"] for index in range(3)]
  assert not any(np.any(skip["kernel"]) for skip in skips)
  fresh = dataclasses.replace(plus("adaconv_plus"), params=params)
  for gains, (channels, _) in zip(encode(fresh, STYLE).gains, SCALES[1:], strict=True):
    np.testing.assert_array_equal(gains, np.ones((2, channels)))


@pytest.mark.slow
def test_without_gains_it_is_adaconv_to_the_last_bit():
  stylizer, adaconv = plus("adaconv_plus"), plus("adaconv")
  own = {name: value for name, value in stylizer.params.items() if "skips" not in name}
  assert own.keys() == adaconv.params.keys()
  adaconv = dataclasses.replace(adaconv, params=own)
  without = code()._replace(gains=tuple(jnp.zeros_like(x) for x in code().gains))
  expected = np.asarray(render(adaconv, CONTENT, encode(adaconv, STYLE)))
  np.testing.assert_array_equal(render(stylizer, CONTENT, without), expected)
  assert np.abs(np.asarray(render(stylizer, CONTENT, code())) - expected).max() > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1, 2, 3])
def test_every_skip_brings_its_layer_of_the_content(scale):
  """The gains of one scale change the picture by what NumPy computes of its layer."""
  stylizer, layer = plus("adaconv_plus"), AdaConvPlus.content_layers[scale - 1]
  seen: list[Any] = []
  gains = tuple(x * (i + 1 == scale) for i, x in enumerate(code().gains))

  class Watched(AdaConvPlus):
    def decode_scale(self, scale, features, code, stats=None, borders=None, skip=None, of=None):
      del stats, borders, of
      seen.append(skip)
      return super().decode_scale(scale, features, code, skip=skip)

  watched = dataclasses.replace(stylizer, model=Watched(**settings(stylizer)))
  made = watched.stylize(CONTENT, code()._replace(gains=gains))
  maps: Any = stylizer.vgg.apply({"params": stylizer.vgg_params}, CONTENT, (layer,))
  np.testing.assert_allclose(seen[scale], maps[layer], atol=1e-4)
  assert made.shape == CONTENT.shape


def settings(stylizer: Stylizer) -> dict[str, Any]:
  names = {f.name for f in dataclasses.fields(make_model("adaconv"))} - {"name", "parent"}
  return {name: getattr(stylizer.model, name) for name in names}


@pytest.mark.slow
@pytest.mark.parametrize("stroke", [1.0, 2.0])
def test_alpha_0_is_the_photograph_at_any_stroke(stroke):
  content = picture(2, 40, 32)
  paint = jax.jit(lambda s, x, code, a: s.stylize(x, code, a, stroke=stroke))
  one = jax.tree.map(lambda x: x[:1], code())
  got = paint(plus("adaconv_plus"), content, one, 0.0)
  np.testing.assert_allclose(got, content, atol=1e-5)
  assert np.abs(np.asarray(paint(plus("adaconv_plus"), content, one, 1.0)) - content).max() > 0.1
