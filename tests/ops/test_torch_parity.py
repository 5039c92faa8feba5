"""The operation, the statistics, the networks and the losses against PyTorch, with gradients.

Without torch these tests are skipped: `pip install 'adaconv_jax[parity]'`. The encoder's parity is
tested in test_vgg_parity.py.
"""

import functools
from typing import Any

import jax
import numpy as np
import pytest

from adaconv_jax.models.adaconv import GlobalStyleEncoder, KernelPredictor
from adaconv_jax.models.decoder import Decoder
from adaconv_jax.ops.adaconv import adaconv
from adaconv_jax.ops.adain import EPS, adain, instance_norm
from adaconv_jax.ops.losses import content_loss, style_loss

torch: Any = pytest.importorskip("torch")
F = torch.nn.functional

# k, c_in, c_out, groups: from one group to one group per channel, and unequal channels.
SHAPES = [(k, 4, 4, groups) for k in (1, 3, 5) for groups in (1, 2, 4)]
SHAPES += [(k, *channels) for k in (1, 3, 5) for channels in ((4, 8, 4), (8, 4, 2), (6, 9, 3))]


def random(*shape: int, seed: int = 0) -> Any:
  return np.random.default_rng([seed, *shape]).normal(0.3, 1.2, shape).astype(np.float32)


def tensor(x: np.ndarray, *order: int):
  """A leaf of torch's graph in float64, so that only our side rounds."""
  x = np.ascontiguousarray(x.transpose(order) if order else x)
  return torch.from_numpy(x).double().requires_grad_()


def images(x):
  return tensor(x, 0, 3, 1, 2)  # NCHW


def kernels(x):
  return tensor(x, 3, 2, 0, 1)  # OIHW


def assert_close(got, expected, *back: int, tolerance=1e-5):
  expected = expected.detach().numpy()
  expected = expected.transpose(back) if back else expected
  assert got.shape == expected.shape
  np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * (1 + np.abs(expected).max()))


def assert_same_images(got, expected):
  assert_close(got, expected, 0, 2, 3, 1)


def value_and_gradients(function):
  """The function's output, and the gradients of `sum(weights * output)`."""

  def both(args, weights):
    out, pull = jax.vjp(function, *args)
    return out, pull(weights)

  return jax.jit(both)


def torch_adaconv(x, spatial, pointwise, bias, groups):
  """Two grouped convolutions, as the paper writes and every implementation has them."""
  pad = spatial.shape[-1] // 2
  x = F.pad(F.instance_norm(x, eps=EPS), (pad, pad, pad, pad), mode="reflect")
  return F.conv2d(F.conv2d(x, spatial, groups=groups), pointwise, bias, groups=groups)


def compare_adaconv(features, k, c_in, c_out, groups):
  args = [
    features,
    random(k, k, c_in // groups, c_out),
    random(1, 1, c_out // groups, c_out),
    random(c_out),
  ]
  weights = random(*features.shape[:2], c_out, seed=1)
  out, gradients = value_and_gradients(functools.partial(adaconv, groups=groups))(args, weights)
  theirs = [images(args[0][None]), kernels(args[1]), kernels(args[2]), tensor(args[3])]
  expected = torch_adaconv(theirs[0], theirs[1], theirs[2], theirs[3], groups)
  (expected * images(weights[None])).sum().backward()
  assert_same_images(out[None], expected)
  assert_same_images(gradients[0][None], theirs[0].grad)
  for ours, other in zip(gradients[1:3], theirs[1:3], strict=True):
    assert_close(ours, other.grad, 2, 3, 1, 0)
  assert_close(gradients[3], theirs[3].grad)


@pytest.mark.parametrize("k, c_in, c_out, groups", SHAPES)
def test_adaconv_and_all_its_gradients_equal_grouped_convolutions(k, c_in, c_out, groups):
  compare_adaconv(random(7, 5, c_in), k, c_in, c_out, groups)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_flat_channels_are_no_exception(groups):
  features = random(3, 5, 4)
  features[:, :, 1] = 0.25
  compare_adaconv(features, 3, 4, 4, groups)


@pytest.mark.parametrize("groups", [2, 4])
def test_a_batch_of_styles_equals_one_convolution_with_images_as_groups(groups):
  n, k, c, size = 3, 3, 4, (5, 6)
  args = [
    random(n, *size, c),
    random(n, k, k, c // groups, c),
    random(n, 1, 1, c // groups, c),
    random(n, c),
  ]
  weights = random(n, *size, c, seed=1)
  function = jax.vmap(functools.partial(adaconv, groups=groups))
  out, gradients = value_and_gradients(function)(args, weights)
  x, spatial, pointwise = images(args[0]), *(tensor(a, 0, 4, 3, 1, 2) for a in args[1:3])
  bias = tensor(args[3])
  # The usual trick: images become channels, and every image's groups are groups of its own.
  expected = torch_adaconv(
    x.reshape(1, n * c, *size),
    spatial.reshape(n * c, c // groups, k, k),
    pointwise.reshape(n * c, c // groups, 1, 1),
    bias.reshape(n * c),
    n * groups,
  ).reshape(n, c, *size)
  (expected * images(weights)).sum().backward()
  assert_same_images(out, expected)
  assert_same_images(gradients[0], x.grad)
  for ours, other in zip(gradients[1:3], (spatial, pointwise), strict=True):
    assert_close(ours, other.grad, 0, 3, 4, 2, 1)
  assert_close(gradients[3], bias.grad)


def torch_stats(x):
  """As the implementations compute them, but with the biased variance."""
  return x.mean((2, 3)), (x.var((2, 3), unbiased=False) + EPS).sqrt()


def test_instance_norm_is_that_of_torch():
  x = random(2, 5, 4, 3)
  assert_same_images(jax.jit(instance_norm)(x), F.instance_norm(images(x), eps=EPS))


def test_adain_and_its_gradients_equal_torch():
  content, style, weights = random(2, 5, 4, 3), random(2, 3, 6, 3) * 2, random(2, 5, 4, 3, seed=1)
  out, gradients = value_and_gradients(adain)((content, style), weights)
  theirs = images(content), images(style)
  mean, std = (s[:, :, None, None] for s in torch_stats(theirs[1]))
  expected = F.instance_norm(theirs[0], eps=EPS) * std + mean
  (expected * images(weights)).sum().backward()
  assert_same_images(out, expected)
  for ours, other in zip(gradients, theirs, strict=True):
    assert_same_images(ours, other.grad)


def test_losses_and_their_gradients_equal_torch():
  weights = {"relu1_1": 1.0, "relu4_1": 0.5}
  ours = {"relu1_1": random(2, 6, 5, 3), "relu4_1": random(2, 3, 2, 7)}
  style = {"relu1_1": random(2, 4, 4, 3), "relu4_1": random(2, 2, 2, 7, seed=2)}
  target = random(2, 3, 2, 7, seed=3)

  @jax.jit
  @jax.value_and_grad
  def loss(features):
    return content_loss(features["relu4_1"], target) + 10 * style_loss(features, style, weights)

  value, gradients = loss(ours)
  theirs = {layer: images(x) for layer, x in ours.items()}
  expected = F.mse_loss(theirs["relu4_1"], images(target))
  for layer, weight in weights.items():
    pairs = zip(torch_stats(theirs[layer]), torch_stats(images(style[layer])), strict=True)
    expected = expected + 10 * weight * sum(F.mse_loss(a, b) for a, b in pairs)
  expected.backward()
  assert_close(value, expected)
  for layer, x in theirs.items():
    assert_same_images(gradients[layer], x.grad)


def random_params(module, x) -> Any:
  shapes = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
  leaves, structure = jax.tree.flatten(shapes)
  scales = [np.sqrt(2 / max(np.prod(leaf.shape[:-1]), 16)) for leaf in leaves]
  return structure.unflatten(
    [
      np.float32(scale) * random(*leaf.shape, seed=i)
      for i, (leaf, scale) in enumerate(zip(leaves, scales, strict=True))
    ]
  )


def conv(x, params):
  """A 3x3 convolution after torch's own reflection padding."""
  pad = params["kernel"].shape[0] // 2
  x = torch.nn.ReflectionPad2d(pad)(x)
  return F.conv2d(x, kernels(params["kernel"]), tensor(params["bias"]))


def test_decoder_equals_torch():
  features = np.abs(random(1, 2, 3, 512))
  params = random_params(Decoder(), features)
  got = jax.jit(Decoder().apply)({"params": params}, features)
  x = images(features)
  for scale, count in ((4, 1), (3, 4), (2, 2), (1, 2)):
    if scale < 4:
      x = torch.nn.Upsample(scale_factor=2, mode="nearest")(x)
    for index in range(1, count + 1):
      x = conv(x, params[f"conv{scale}_{index}"])
      x = x if (scale, index) == (1, 2) else x.relu()
  assert_same_images(got, x)


def test_style_encoder_equals_torch():
  encoder, features = GlobalStyleEncoder(style_dim=4, width=5), random(2, 16, 8, 3)
  params = random_params(encoder, features)
  got = jax.jit(encoder.apply)({"params": params}, features)
  x = images(features)
  for index in (1, 2, 3):
    x = F.avg_pool2d(F.leaky_relu(conv(x, params[f"conv{index}"]), 0.01), 2)
  (dense,) = (value for name, value in params.items() if not name.startswith("conv"))
  x = x.permute(0, 2, 3, 1).flatten(1)  # our channels come last
  x = F.linear(x, tensor(dense["kernel"]).T, tensor(dense["bias"]))
  assert_close(got, x.reshape(2, 3, 3, 4))


@pytest.mark.parametrize("channels, groups", [(6, 2), (4, 4)])
def test_kernel_predictor_equals_torch(channels, groups):
  predictor, descriptor = KernelPredictor(channels, groups), random(2, 3, 3, 5)
  params, group = random_params(predictor, descriptor), channels // groups
  got = jax.jit(predictor.apply)({"params": params}, descriptor)
  x = images(descriptor)
  spatial = conv(x, params["spatial"]).reshape(2, group, channels, 3, 3)
  pooled = F.adaptive_avg_pool2d(x, 1)
  dense = {
    name: F.conv2d(pooled, kernels(p["kernel"][None, None]), tensor(p["bias"]))
    for name, p in params.items()
    if name != "spatial"
  }
  pointwise = dense["pointwise"].reshape(2, group, channels, 1, 1)
  # Ours are differences from the kernels that change nothing: torch's Dirac initialization.
  dirac = torch.zeros(channels, group, 3, 3).double()
  torch.nn.init.dirac_(dirac, groups)
  dirac = dirac.transpose(0, 1)
  assert_close(got.spatial, spatial + dirac, 0, 3, 4, 1, 2)
  assert_close(got.pointwise, pointwise + dirac[:, :, 1:2, 1:2], 0, 3, 4, 1, 2)
  assert_close(got.bias, dense["bias"].reshape(2, channels))
