"""Rescaling VGG to a mean activation of 1: the same features, each over its own constant."""

from typing import Any, cast

import jax
import numpy as np
import pytest
from published_vgg import write_imported

from adaconv_jax.vgg import normalize as vgg_normalize
from adaconv_jax.vgg.file import read_file, to_params
from adaconv_jax.vgg.network import VGG


def run(arch: str, params, images, layers) -> dict[str, Any]:
  return cast(dict, VGG(arch).apply({"params": params}, images, layers))


@pytest.fixture(scope="module")
def imported_vgg19(tmp_path_factory):
  return write_imported(tmp_path_factory.mktemp("imported"))


def test_rescaled_features_are_the_old_ones_over_their_means(imported_vgg19):
  tensors, _ = read_file(imported_vgg19)
  params = to_params({n: t for n, t in tensors.items() if n < "conv2_2" or n == "zero"})
  rng = np.random.default_rng(0)
  # Two batches of different size: every picture has the same weight.
  batches = [rng.random((n, 20, 18, 3), np.float32) for n in (3, 1)]
  images = np.concatenate(batches)
  scaled = vgg_normalize.normalize(params, batches, "vgg19")
  layers = ["relu1_1", "relu1_2", "relu2_1"]
  old = run("vgg19", params, images, layers)
  new = run("vgg19", scaled, images, layers)
  for layer in layers:
    mean = np.asarray(old[layer], np.float64).mean((0, 1, 2))
    # Many filters of a random network rarely respond; they get the floor.
    alive = mean > 1.01 * vgg_normalize.FLOOR * mean.mean()
    assert alive.mean() > 0.6
    expected = (old[layer] / mean)[..., alive]
    np.testing.assert_allclose(new[layer][..., alive], expected, atol=1e-5 * expected.max())
    np.testing.assert_allclose(new[layer].mean((0, 1, 2))[alive], 1, rtol=1e-4)


def test_a_dead_filter_stays_dead_and_finite(imported_vgg19):
  tensors, _ = read_file(imported_vgg19)
  params = to_params({n: t for n, t in tensors.items() if n < "conv2_1" or n == "zero"})
  params["conv1_1"]["bias"][7] = -1e4
  images = np.random.default_rng(0).random((1, 16, 16, 3), np.float32)
  scaled = vgg_normalize.normalize(params, [images], "vgg19")
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(scaled))
  new = run("vgg19", scaled, images, ["relu1_1", "relu1_2"])
  assert (new["relu1_1"][..., 7] == 0).all()
  np.testing.assert_allclose(new["relu1_2"].mean((0, 1, 2)), 1, rtol=1e-4)


def test_normalizing_needs_images(imported_vgg19):
  with pytest.raises(ValueError, match="images: "):
    vgg_normalize.normalize(to_params(read_file(imported_vgg19)[0]), [], "vgg19")
