from typing import Any

import jax
import numpy as np
import pytest
from small_models import small_stylizer

from adaconv_jax.ops.adain import ChannelStats
from adaconv_jax.training import objective
from adaconv_jax.training.style_cache import StyleCache
from adaconv_jax.vgg.network import STYLE_LAYERS

WEIGHTS = objective.LossWeights(
  content=1.5,
  style=7.0,
  layers=dict(zip(STYLE_LAYERS, (1.0, 0.5, 2.0, 1.0), strict=True)),
  palette=2.0,
)


def make_batch(keys, seed=0) -> dict[str, np.ndarray]:
  """Smooth images; equal keys have equal styles."""

  def image(number):
    coarse = np.random.default_rng((seed, number)).random((6, 6, 3), np.float32)
    smooth = np.asarray(jax.image.resize(coarse, (64, 64, 3), "cubic"))
    return np.clip(smooth * 255, 0, 255).astype(np.uint8)

  return {
    "content": np.stack([image(100 + index) for index in range(len(keys))]),
    "style": np.stack([image(key) for key in keys]),
    "style_key": np.asarray(keys),
  }


@pytest.mark.slow
@pytest.mark.parametrize("transform", ["adain", "adaconv"])
def test_loss_with_kept_features_is_that_with_the_images(transform):
  stylizer = small_stylizer(transform)
  parts = stylizer.model, stylizer.vgg
  style_features = objective.make_style_features(*parts, WEIGHTS.layers, colors=True)
  cache = StyleCache(style_features, stylizer.vgg_params)
  loss = jax.jit(objective.make_loss(*parts, WEIGHTS, reconstruct=False))
  cache(make_batch([4, 1]))
  batch = make_batch([1, 4])  # in the order of the request
  images = {role: batch[role] for role in ("content", "style")}
  kept, _ = loss(stylizer.params, stylizer.vgg_params, cache(batch), 0.5)
  direct, _ = loss(stylizer.params, stylizer.vgg_params, images, 0.5)
  swapped, _ = loss(stylizer.params, stylizer.vgg_params, cache(make_batch([4, 1])), 0.5)
  np.testing.assert_allclose(kept, direct, rtol=3e-4)
  assert not np.isclose(swapped, direct, rtol=3e-3)


def test_the_palette_is_kept_only_where_a_loss_uses_it():
  stylizer, batch = small_stylizer("adain"), make_batch([1, 4])
  parts, tree = (stylizer.model, stylizer.vgg), jax.tree.structure
  without = objective.make_style_features(*parts, WEIGHTS.layers)
  made = jax.eval_shape(without, stylizer.vgg_params, np.zeros((1, 64, 64, 3), np.float32))
  assert made.palette is None
  kept = StyleCache(without, stylizer.vgg_params)(batch)["style"]
  assert tree(kept) == tree(made) and kept.encoded.shape == (2, 8, 8, 512)


def test_features_of_a_crop_are_computed_once():
  traced_for: list[Any] = []

  def features(params, style):
    jax.debug.callback(lambda: traced_for.append(style.shape))
    stats = ChannelStats(style.mean((1, 2)), style.std((1, 2)))
    return objective.StyleFeatures(params * style, {"relu1_1": stats}, style.mean((1, 2)))

  scale: Any = 1e6  # for the weights
  cache = StyleCache(features, scale)
  for keys in ([0, 3], [3, 3], [0, 7]):
    batch = make_batch(keys)
    styles = cache(batch)["style"]
    assert styles.encoded.dtype == np.float16
    expected = np.clip(batch["style"] / np.float32(255) * 1e6, 0, 65504)  # float16's largest
    np.testing.assert_allclose(styles.encoded, expected, rtol=1e-3)
    assert styles.stats["relu1_1"].mean.shape == (2, 3)
  jax.effects_barrier()
  assert len(traced_for) == len(cache) == 3
