"""VGG against NumPy: padding, pooling, layer names, shapes and errors."""

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adaconv_jax.ops.extent import Borders, Extent
from adaconv_jax.vgg.network import BLOCKS, STYLE_LAYERS, VGG, conv_shapes, max_pool

MEAN = np.array((0.485, 0.456, 0.406))
STD = np.array((0.229, 0.224, 0.225))


def random_network(arch: str, last: str, seed: int = 0) -> dict:
  """Kernels and biases for normalized pictures, float64, before any folding."""
  rng = np.random.default_rng(seed)
  return {
    name: (rng.normal(0, np.sqrt(2 / np.prod(s[:3])), s), rng.normal(0, 0.1, s[3:]))
    for name, s in conv_shapes(arch, last).items()
  }


def folded(network: dict) -> dict:
  params: dict = {"zero": jnp.asarray(MEAN, jnp.float32)}
  for name, (kernel, bias) in network.items():
    if name == "conv1_1":
      bias = bias - np.einsum("hwio,i->o", kernel, MEAN / STD)
      kernel = kernel / STD[:, None]
    params[name] = {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}
  return jax.tree.map(lambda x: x.astype(jnp.float32), params)


def oracle(network: dict, images: np.ndarray, padding: str) -> dict[str, np.ndarray]:
  """The network as torchvision runs it: normalize, then pad, convolve, rectify; pool in loops."""
  x, outputs = (images.astype(np.float64) - MEAN) / STD, {}
  mode = {"reflect": "reflect", "zero": "constant"}[padding]
  for name, (kernel, bias) in network.items():
    if name[-2:] == "_1" and name != "conv1_1":
      n, h, w, c = x.shape
      pooled = np.empty((n, h // 2, w // 2, c))
      for i in range(h // 2):
        for j in range(w // 2):
          pooled[:, i, j] = x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].max((1, 2))
      x = pooled
    h, w = x.shape[1:3]
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode=mode)  # pyright: ignore
    x = bias + sum(
      padded[:, i : i + h, j : j + w] @ kernel[i, j] for i in range(3) for j in range(3)
    )
    x = np.maximum(x, 0)
    outputs[name.replace("conv", "relu")] = x
  return outputs


def run(vgg: VGG, params: dict, images: np.ndarray, layers) -> dict[str, Any]:
  return cast(dict, vgg.apply({"params": params}, images, layers))


@pytest.mark.parametrize("padding", ["reflect", "zero"])
@pytest.mark.parametrize("size", [(9, 12), (16, 11)])
def test_activations_are_those_of_the_unfolded_network(padding, size):
  network = random_network("vgg19", "relu3_1")
  images = np.random.default_rng(1).random((2, *size, 3), np.float32)
  expected = oracle(network, images, padding)
  got = run(VGG("vgg19", padding), folded(network), images, list(expected))
  assert list(got) == list(expected)
  for layer, value in expected.items():
    assert got[layer].shape == value.shape
    np.testing.assert_allclose(got[layer], value, rtol=0, atol=2e-5 * value.max())


@pytest.mark.parametrize("padding", ["reflect", "zero"])
@pytest.mark.parametrize("size", [(9, 12), (15, 11), (16, 16)])
def test_within_an_extent_activations_are_those_of_the_cropped_picture(padding, size):
  network = random_network("vgg16", "relu3_1")
  images = np.random.default_rng(1).random((2, *size, 3), np.float32)
  padded = np.full((2, 16, 16, 3), 1e30, np.float32)
  padded[:, : size[0], : size[1]] = images
  expected = oracle(network, images, padding)

  @jax.jit
  def call(params, images, extent):
    return VGG("vgg16", padding).apply(params, images, list(expected), Borders(extent, 16))

  got = cast(dict, call({"params": folded(network)}, padded, Extent(*size)))
  for layer, value in expected.items():
    within = got[layer][:, : value.shape[1], : value.shape[2]]
    np.testing.assert_allclose(within, value, rtol=0, atol=2e-5 * value.max())


def test_zero_padding_of_a_mean_colored_picture_leaves_no_frame_and_of_another_does():
  params = folded(random_network("vgg16", "relu1_1"))
  flat = np.broadcast_to(np.float32(MEAN), (1, 6, 6, 3))
  vgg = VGG("vgg16", "zero")
  value = run(vgg, params, flat, ["relu1_1"])["relu1_1"]
  np.testing.assert_allclose(value, np.broadcast_to(value[:, 3:4, 3:4], value.shape), atol=1e-5)
  black = run(vgg, params, 0 * flat, ["relu1_1"])["relu1_1"]
  assert np.abs(black[:, 0] - black[:, 3]).max() > 0.1


def test_reflect_padding_leaves_no_frame_on_a_flat_picture():
  params = folded(random_network("vgg16", "relu3_1"))
  flat = np.full((1, 12, 12, 3), 0.2, np.float32)
  value = run(VGG("vgg16"), params, flat, ["relu3_1"])["relu3_1"]
  assert np.ptp(value, axis=(1, 2)).max() < 1e-4 * value.max()


@pytest.mark.parametrize("size", [(4, 6), (5, 7), (2, 3), (1, 4)])
def test_max_pool_drops_an_odd_last_row_and_column(size):
  x = np.random.default_rng(2).normal(size=(2, *size, 3)).astype(np.float32)
  h, w = size[0] // 2, size[1] // 2
  expected = x[:, : 2 * h, : 2 * w].reshape(2, h, 2, w, 2, 3).max((2, 4), initial=-np.inf)
  np.testing.assert_array_equal(max_pool(jnp.asarray(x)), expected)


def test_gradient_of_max_pool_goes_to_the_maximum():
  x = jnp.asarray(np.random.default_rng(3).permutation(30).reshape(1, 5, 6, 1).astype(np.float32))
  grad = np.asarray(jax.grad(lambda x: max_pool(x).sum())(x))[0, :, :, 0]
  assert grad.sum() == 6 and (grad[4] == 0).all()
  blocks = grad[:4].reshape(2, 2, 3, 2).transpose(0, 2, 1, 3).reshape(6, 4)
  values = np.asarray(x)[0, :4, :, 0].reshape(2, 2, 3, 2).transpose(0, 2, 1, 3).reshape(6, 4)
  np.testing.assert_array_equal(blocks.argmax(1), values.argmax(1))


# The papers' layers, and the last layer of each: channels and stride.
@pytest.mark.parametrize("arch, last", [("vgg16", "relu5_3"), ("vgg19", "relu5_4")])
def test_full_size_shapes(arch, last):
  vgg = VGG(arch)
  images = jax.ShapeDtypeStruct((8, 513, 767, 3), jnp.float32)
  layers = [*STYLE_LAYERS, last]
  variables = jax.eval_shape(lambda x: vgg.init(jax.random.key(0), x, layers), images)
  outputs = jax.eval_shape(lambda v, x: vgg.apply(v, x, layers), variables, images)
  assert {name: f.shape for name, f in outputs.items()} == {
    "relu1_1": (8, 513, 767, 64),
    "relu2_1": (8, 256, 383, 128),
    "relu3_1": (8, 128, 191, 256),
    "relu4_1": (8, 64, 95, 512),
    last: (8, 32, 47, 512),
  }


@pytest.mark.parametrize("arch, weight_layers", [("vgg16", 16), ("vgg19", 19)])
def test_the_name_is_the_number_of_convolutions_and_fully_connected_layers(arch, weight_layers):
  assert len(conv_shapes(arch, f"relu5_{BLOCKS[arch][-1][0]}")) + 3 == weight_layers


def test_nothing_after_the_last_layer_is_computed():
  vgg = VGG("vgg19")
  images = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
  variables = jax.eval_shape(lambda x: vgg.init(jax.random.key(0), x, ["relu2_1"]), images)
  assert set(variables["params"]) == {"zero", "conv1_1", "conv1_2", "conv2_1"}


@pytest.mark.parametrize(
  "vgg, shape, layers, message",
  [
    (VGG("vgg11"), (1, 16, 16, 3), ["relu1_1"], "arch: .*'vgg11'"),
    (VGG("vgg16"), (1, 16, 16, 3), ["relu3_4"], "vgg16 has no 'relu3_4'"),
    (VGG("vgg16", "same"), (1, 16, 16, 3), ["relu1_1"], "padding: .*'same'"),
    (VGG("vgg16"), (1, 16, 16, 3), [], "layers: "),
    (VGG("vgg16"), (1, 16, 16, 3), "relu1_1", "layers: "),
    (VGG("vgg16"), (16, 16, 3), ["relu1_1"], r"images: .*\[16, 16, 3\]"),
    (VGG("vgg16"), (1, 16, 16, 1), ["relu1_1"], r"images: .*\[1, 16, 16, 1\]"),
    (VGG("vgg16"), (1, 7, 40, 3), ["relu1_1", "relu4_1"], "at least 8 x 8 pixels, got 7 x 40"),
  ],
)
def test_errors_name_the_argument(vgg, shape, layers, message):
  images = jax.ShapeDtypeStruct(shape, jnp.float32)
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(lambda x: vgg.init(jax.random.key(0), x, layers), images)


def test_the_smallest_picture_is_enough():
  images = jax.ShapeDtypeStruct((1, 8, 9, 3), jnp.float32)
  vgg = VGG("vgg19")
  outputs = jax.eval_shape(lambda x: vgg.init_with_output(jax.random.key(0), x), images)[0]
  assert outputs["relu4_1"].shape == (1, 1, 1, 512)
