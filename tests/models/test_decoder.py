"""The decoder against NumPy, and its published shape."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adaconv_jax.models.decoder import SCALES, Decoder, near_identity

# Huang & Belongie's decoder, coarse to fine, as AdaConv's blocks divide it: 1, 4, 2, 2.
PUBLISHED = [
  [(512, 256)],
  [(256, 256), (256, 256), (256, 256), (256, 128)],
  [(128, 128), (128, 64)],
  [(64, 64), (64, 3)],
]


def shapes(size=(2, 3), n=1):
  features = jax.ShapeDtypeStruct((n, *size, 512), jnp.float32)
  return jax.eval_shape(Decoder().init_with_output, jax.random.key(0), features)


def random_params(seed: int = 0) -> dict:
  rng = np.random.default_rng(seed)

  def leaf(x):
    deviation = np.sqrt(2 / np.prod(x.shape[:-1])) if len(x.shape) > 1 else 0.2
    return (deviation * rng.standard_normal(x.shape)).astype(np.float32)

  return jax.tree.map(leaf, shapes()[1]["params"])


def decode_loops(params: dict, features: np.ndarray, scales=None) -> np.ndarray:
  """In float64, tap by tap, walking the published list, or only `scales` without upsampling."""
  x = features.astype(np.float64)
  for scale, convolutions in enumerate(PUBLISHED):
    if scales is not None and scale not in scales:
      continue
    x = x.repeat(2, axis=1).repeat(2, axis=2) if scale and scales is None else x
    for index, (c_in, c_out) in enumerate(convolutions, 1):
      kernel, bias = (params[f"conv{4 - scale}_{index}"][name] for name in ("kernel", "bias"))
      assert kernel.shape == (3, 3, c_in, c_out)
      h, w = x.shape[1:3]
      padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
      taps = (padded[:, i : i + h, j : j + w] @ kernel[i, j] for i in range(3) for j in range(3))
      x = sum(taps) + bias
      x = x if c_out == 3 else np.maximum(x, 0)
  return x


def test_decoder_equals_numpy_and_is_linear_at_the_end():
  params = random_params()
  features = np.random.default_rng(1).uniform(0, 5, (2, 1, 2, 512)).astype(np.float32)
  expected = decode_loops(params, features)
  got = jax.jit(Decoder().apply)({"params": params}, features)
  assert got.shape == (2, 8, 16, 3)
  assert expected.min() < 0 and expected.max() > 1
  np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("scale", range(4))
def test_a_scale_alone_is_its_part_of_the_whole(scale):
  params, c_in = random_params(), SCALES[scale][0]
  x = np.abs(np.random.default_rng(1).normal(size=(1, 2, 3, c_in))).astype(np.float32)
  decode = lambda p, x, enlarge: Decoder().apply(  # noqa: E731
    {"params": p}, scale, x, enlarge=enlarge, method="decode_scale"
  )
  got, expected = (
    np.asarray(jax.jit(functools.partial(decode, enlarge=enlarge))(params, features))
    for enlarge, features in ((True, x), (False, x.repeat(2, 1).repeat(2, 2)))
  )
  only = decode_loops(params, x.repeat(2, 1).repeat(2, 2), scales=[scale])
  for each in (got, expected):
    np.testing.assert_allclose(each, only, rtol=0, atol=1e-5 * np.abs(only).max())


@pytest.mark.parametrize("size", [(1, 1), (64, 95)])
def test_the_image_is_eight_times_as_large(size):
  out, _ = shapes(size, n=8)
  assert out.shape == (8, 8 * size[0], 8 * size[1], 3)


def test_the_decoder_is_the_published_one_with_3_5_million_parameters():
  params = shapes()[1]["params"]
  expected = {
    f"conv{4 - scale}_{index}": {"kernel": (3, 3, *channels), "bias": channels[1:]}
    for scale, convolutions in enumerate(PUBLISHED)
    for index, channels in enumerate(convolutions, 1)
  }
  assert jax.tree.map(lambda x: x.shape, params) == expected
  assert round(sum(x.size for x in jax.tree.leaves(params)) / 1e6, 1) == 3.5
  assert [len(widths) for _, widths in SCALES] == [1, 4, 2, 2]


def test_kernels_start_near_the_identity_where_the_channels_allow_it():
  xavier = jax.nn.initializers.xavier_uniform()
  square, other = (3, 3, 4, 4), (3, 3, 4, 6)
  draw = jax.jit(lambda key: [f(key, s) for s in (square, other) for f in (near_identity, xavier)])
  near, plain, near_other, plain_other = (np.asarray(x) for x in draw(jax.random.key(0)))
  expected = 0.1 * plain
  expected[1, 1] += np.eye(4)
  np.testing.assert_allclose(near, expected, atol=1e-6)
  np.testing.assert_array_equal(near_other, plain_other)


def test_the_last_layer_starts_out_gray_with_a_little_noise():
  features = np.zeros((1, 1, 1, 512), np.float32)
  draw = jax.jit(lambda key: Decoder().init(key, features)["params"]["conv1_2"])
  last = draw(jax.random.key(0))
  np.testing.assert_array_equal(last["bias"], np.full(3, 0.5))
  limit = np.sqrt(3e-3 / (9 * (64 + 3) / 2))  # of a uniform distribution with 1e-3 / fan_avg
  assert 0.9 * limit < np.abs(last["kernel"]).max() <= limit
