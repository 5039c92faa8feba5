"""The networks that predict AdaConv's kernels, against NumPy."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adaconv_jax.models.adaconv import GlobalStyleEncoder, KernelPredictor
from adaconv_jax.models.style_code import AdaConvKernels
from adaconv_jax.ops.adaconv import adaconv
from adaconv_jax.ops.adain import instance_norm


def random(*shape: int, seed: int = 0) -> Any:
  return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


def assert_close(got, expected, tolerance=1e-5):
  """Each array within `tolerance` of its largest value: sums of float32 round by that much."""
  for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * (1 + np.abs(theirs).max()))


def conv_numpy(x: np.ndarray, params: dict) -> np.ndarray:
  kernel, bias = np.asarray(params["kernel"], np.float64), params["bias"]
  (h, w), k = x.shape[1:3], kernel.shape[0]
  pad = k // 2
  padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="reflect")
  taps = (padded[:, i : i + h, j : j + w] @ kernel[i, j] for i in range(k) for j in range(k))
  return sum(taps) + np.asarray(bias)


def random_like(tree, scale=0.3):
  leaves, structure = jax.tree.flatten(tree)
  return structure.unflatten([scale * random(*leaf.shape, seed=i) for i, leaf in enumerate(leaves)])


def random_params(module: nn.Module, features: np.ndarray) -> dict:
  return random_like(jax.eval_shape(module.init, jax.random.key(0), features)["params"])


@pytest.mark.parametrize("size", [(8, 16), (17, 9)])
def test_style_encoder_is_three_times_conv_leaky_relu_pool_and_one_layer(size):
  encoder, x = GlobalStyleEncoder(style_dim=4, descriptor_size=3, width=5), random(2, *size, 3)
  params = random_params(encoder, x)
  assert len(params) == 4
  got = jax.jit(encoder.apply)({"params": params}, x)
  for i in (1, 2, 3):
    x = conv_numpy(x, params[f"conv{i}"])
    x = np.where(x > 0, x, 0.01 * x)
    n, h, w, c = x.shape
    x = x[:, : h // 2 * 2, : w // 2 * 2].reshape(n, h // 2, 2, w // 2, 2, c).mean((2, 4))
  (dense,) = (value for name, value in params.items() if not name.startswith("conv"))
  expected = x.reshape(2, -1) @ dense["kernel"] + dense["bias"]
  assert_close(got, expected.reshape(2, 3, 3, 4))


@pytest.mark.parametrize("k, channels, groups", [(3, 6, 2), (5, 4, 4), (1, 4, 1)])
def test_kernel_predictor_adds_three_branches_to_the_identity(k, channels, groups):
  predictor, descriptor = KernelPredictor(channels, groups), random(2, k, k, 3)
  params, group = random_params(predictor, descriptor), channels // groups
  got = jax.jit(predictor.apply)({"params": params}, descriptor)
  assert isinstance(got, AdaConvKernels)
  spatial = conv_numpy(descriptor, params["spatial"]).reshape(2, k, k, group, channels)
  pooled = descriptor.mean((1, 2))
  pointwise = pooled @ params["pointwise"]["kernel"] + params["pointwise"]["bias"]
  pointwise = pointwise.reshape(2, 1, 1, group, channels)
  for channel in range(channels):  # each output takes its own group's channel of the same place
    spatial[:, k // 2, k // 2, channel % group, channel] += 1
    pointwise[:, 0, 0, channel % group, channel] += 1
  assert_close(got.spatial, spatial)
  assert_close(got.pointwise, pointwise)
  assert_close(got.bias, pooled @ params["bias"]["kernel"] + params["bias"]["bias"])


def test_training_starts_at_instance_normalization():
  channels, groups = 6, 2
  predictor, descriptor = KernelPredictor(channels, groups), jnp.zeros((1, 3, 3, 2))
  kernels, _ = jax.jit(predictor.init_with_output)(jax.random.key(0), descriptor)
  features = random(5, 4, channels)
  got = adaconv(features, *(kernel[0] for kernel in kernels), groups=groups)
  assert_close(got, np.asarray(instance_norm(features)), 1e-6)


def count(tree) -> int:
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_published_style_encoder_has_38_million_parameters_after_7_million():
  features = jax.ShapeDtypeStruct((8, 32, 32, 512), jnp.float32)
  out, variables = jax.eval_shape(
    GlobalStyleEncoder().init_with_output, jax.random.key(0), features
  )
  assert out.shape == (8, 3, 3, 512)
  (dense,) = (value for name, value in variables["params"].items() if "conv" not in name)
  assert dense["kernel"].shape == (4 * 4 * 512, 3 * 3 * 512)
  assert round(count(dense) / 1e6) == 38
  assert round((count(variables) - count(dense)) / 1e6) == 7


@pytest.mark.parametrize("channels, groups", [(512, 512), (256, 128), (128, 32), (64, 8)])
def test_published_predictors_have_512_spatial_filters(channels, groups):
  descriptor = jax.ShapeDtypeStruct((8, 3, 3, 512), jnp.float32)
  kernels, variables = jax.eval_shape(
    KernelPredictor(channels, groups).init_with_output, jax.random.key(0), descriptor
  )
  per_group = channels // groups
  assert variables["params"]["spatial"]["kernel"].shape == (3, 3, 512, 512)
  assert kernels.spatial.shape == (8, 3, 3, per_group, channels)
  assert kernels.pointwise.shape == (8, 1, 1, per_group, channels)
  assert kernels.bias.shape == (8, channels)


def test_published_predictors_have_11_million_parameters():
  descriptor = jax.ShapeDtypeStruct((1, 3, 3, 512), jnp.float32)
  total = sum(
    count(jax.eval_shape(KernelPredictor(c, g).init, jax.random.key(0), descriptor))
    for c, g in [(512, 512), (256, 128), (128, 32), (64, 8)]
  )
  assert round(total / 1e6) == 11
