"""Training in bfloat16: what stays float32, and how far the rest is from float32."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_models import small_stylizer

from adaconv_jax.ops.adain import channel_stats, instance_norm
from adaconv_jax.training import objective
from adaconv_jax.vgg.network import STYLE_LAYERS, VGG
from configs import adain

WEIGHTS = objective.LossWeights(content=1.0, style=10.0, layers=dict.fromkeys(STYLE_LAYERS, 1.0))


def batch() -> dict[str, np.ndarray]:
  # Smooth: on flat patches relu4_1 has deviations near zero, which rounding changes.
  coarse = np.random.default_rng(0).random((2, 2, 6, 6, 3), np.float32)
  images = np.asarray(jax.image.resize(coarse, (2, 2, 64, 64, 3), "cubic"))
  content, style = np.clip(images * 255, 0, 255).astype(np.uint8)
  return {"content": content, "style": style}


def make_gradient(stylizer) -> Any:
  loss = objective.make_loss(stylizer.model, stylizer.vgg, WEIGHTS, reconstruct=False)
  gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))
  return lambda params, vgg_params: gradient(params, vgg_params, batch(), 1.0)


def stylized(stylizer) -> jax.Array:
  content, style = (batch()[role] / np.float32(255) for role in ("content", "style"))
  stylize = jax.jit(lambda model: model.stylize(content, model.encode_style(style)))
  return stylize(stylizer)


def distance(tree, reference) -> float:
  difference: Any = jax.tree.map(lambda a, b: a - b, tree, reference)
  return float(optax.tree.norm(difference)) / float(optax.tree.norm(reference))


@pytest.mark.slow
@pytest.mark.parametrize("transform", ["adain", "adaconv"])
def test_bfloat16_stays_near_float32_and_gives_float32(transform):
  stylizer = small_stylizer(transform)
  vgg16 = stylizer.vgg.clone(compute_dtype="bfloat16")
  stylizer16 = dataclasses.replace(stylizer, vgg=vgg16)
  weights = stylizer.params, stylizer.vgg_params
  gradient = make_gradient(stylizer)
  (loss, _), grads = gradient(*weights)
  (loss16, _), grads16 = make_gradient(stylizer16)(*weights)
  image, image16 = stylized(stylizer), stylized(stylizer16)
  leaves: list[Any] = jax.tree.leaves((loss16, grads16, image16))
  assert all(leaf.dtype == jnp.float32 for leaf in leaves)
  # bfloat16 rounds by up to 2^-9 = 0.2 %, in each of some thirty layers.
  np.testing.assert_allclose(loss16, loss, rtol=0.02)
  # Measured: 0.013 for AdaConv, whose four normalizations amplify rounding errors before them.
  assert float(jnp.mean(jnp.abs(image16 - image))) < 0.02
  assert not np.array_equal(image16, image)  # bfloat16 was really used
  # Random networks are ill-conditioned: only rounding their weights, and computing in float32,
  # changes AdaConv's gradient by half of its norm. No bfloat16 computation can be closer.
  rounded = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16).astype(jnp.float32), weights)
  assert distance(grads16, grads) < 2 * distance(gradient(*rounded)[1], grads)


@pytest.mark.slow
def test_features_are_bfloat16_and_their_statistics_float32():
  stylizer = small_stylizer("adain")
  vgg = VGG("vgg16", "zero", "bfloat16")
  features: Any = vgg.apply({"params": stylizer.vgg_params}, jnp.ones((1, 16, 16, 3)))
  assert {f.dtype for f in features.values()} == {jnp.dtype("bfloat16")}
  relu1_1 = features["relu1_1"]
  assert instance_norm(relu1_1).dtype == jnp.bfloat16
  assert {s.dtype for s in channel_stats(relu1_1)} == {jnp.dtype("float32")}


def test_mean_of_many_bfloat16_values_is_exact_to_float32():
  features = jnp.full((1, 256, 256, 2), 1.5, jnp.bfloat16)
  np.testing.assert_allclose(channel_stats(features).mean, 1.5, rtol=1e-6)


def test_other_dtypes_are_refused_by_name_and_the_published_configs_use_float32():
  config: Any = adain.get_config()
  assert config.model.compute_dtype == "float32"
  with pytest.raises(ValueError, match="compute_dtype: .*'float32', 'bfloat16'.*'float16'"):
    VGG("vgg16", compute_dtype="float16")
