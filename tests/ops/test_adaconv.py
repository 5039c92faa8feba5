"""AdaConv's operation against NumPy loops, and its batching."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from other_platforms import as_on

from adaconv_jax.ops.adaconv import adaconv, apply_kernels, compose_kernels
from adaconv_jax.ops.adain import EPS, instance_norm
from adaconv_jax.ops.extent import Borders, Extent

# k, c_in, c_out, groups: from one group to one group per channel, and unequal channels.


def slow(*values):
  return pytest.param(*values, marks=pytest.mark.slow)


SHAPES = [(k, 4, 4, groups) for k in (1, 3) for groups in (1, 2, 4)]
SHAPES += [(5, 4, 4, 2), slow(5, 4, 4, 1), slow(5, 4, 4, 4)]
SHAPES += [(3, 4, 8, 4), (3, 8, 4, 2), (3, 6, 9, 3)]
# c_in, c_out, groups: of a composed kernel, and of depthwise products.
BOTH_FORMS = [(4, 4, 2), (3, 3, 3)]


def random(*shape: int, seed: int = 0) -> Any:
  return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


def arguments(size, k, c_in, c_out, groups, lead=(), lead_kernels=None) -> list[Any]:
  """Features (with means and deviations other than 0 and 1), kernels and bias."""
  lead_kernels = lead if lead_kernels is None else lead_kernels
  return [
    random(*lead, *size, c_in) * 1.5 + 0.5,
    random(*lead_kernels, k, k, c_in // groups, c_out),
    random(*lead_kernels, 1, 1, c_out // groups, c_out),
    random(*lead_kernels, c_out),
  ]


def mirrored(i: int, n: int) -> int:
  """The pixel that reflect padding shows at position i of a row of n pixels."""
  period = max(2 * (n - 1), 1)
  return min(i % period, period - i % period) if n > 1 else 0


def adaconv_loops(features, spatial, pointwise, bias, *, groups, eps=EPS) -> np.ndarray:
  """Equations 3 and 4 as the paper writes them: first one convolution, then the other.

  Every pixel and group by itself. Any array may be complex or have one leading batch axis.
  """
  (h, w, c_in), (k, _, _, c_out) = features.shape[-3:], spatial.shape[-4:]
  args = (features, spatial, pointwise, bias)
  ranks = (3, 4, 4, 1)
  lead = np.broadcast_shapes(*(a.shape[: a.ndim - n] for a, n in zip(args, ranks, strict=True)))
  features, spatial, pointwise, bias = (a.astype(np.result_type(np.float64, a)) for a in args)
  mean = features.sum((-3, -2), keepdims=True) / (h * w)
  variance = ((features - mean) ** 2).sum((-3, -2), keepdims=True) / (h * w)  # biased
  normalized = (features - mean) / np.sqrt(variance + eps)
  out = np.zeros((*lead, h, w, c_out), np.result_type(features, spatial, pointwise, bias))
  group_in, group_out = c_in // groups, c_out // groups
  for y, x, group in np.ndindex(h, w, groups):
    rows = [mirrored(y + i - k // 2, h) for i in range(k)]
    columns = [mirrored(x + j - k // 2, w) for j in range(k)]
    window = normalized[..., rows, :, :][..., columns, :]
    window = window[..., group * group_in : (group + 1) * group_in]
    outputs = slice(group * group_out, (group + 1) * group_out)
    value = (window[..., None] * spatial[..., outputs]).sum((-4, -3, -2))
    value = (value[..., None] * pointwise[..., 0, 0, :, outputs]).sum(-2)
    out[..., y, x, outputs] = value + bias[..., outputs]
  return out


def gradient_loops(args, weights, *, groups) -> list[np.ndarray]:
  """Derivatives of `sum(weights * adaconv_loops)` by complex steps: exact to rounding."""
  gradients = []
  for argnum, value in enumerate(args):
    steps = 1e-30j * np.eye(value.size).reshape(-1, *value.shape)
    moved = [*args[:argnum], value + steps, *args[argnum + 1 :]]
    out: Any = adaconv_loops(*moved, groups=groups)
    slopes = (out.imag * weights).sum((1, 2, 3)) / 1e-30
    gradients.append(slopes.reshape(value.shape))
  return gradients


def value_and_gradients(function, platform="cpu"):
  """Of `sum(weights * function)`, for weights of the output's shape."""

  def both(args, weights):
    out, pull = jax.vjp(function, *args)
    return out, pull(weights)

  return as_on(platform, both)


def assert_close(got, expected, tolerance=1e-5):
  """Each array within `tolerance` of its largest value: sums of float32 round by that much."""
  for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * (1 + np.abs(theirs).max()))


# --- the operation ---


@pytest.mark.parametrize("k, c_in, c_out, groups", SHAPES)
def test_adaconv_and_all_its_gradients_equal_loops(k, c_in, c_out, groups):
  args = arguments((5, 3), k, c_in, c_out, groups)
  weights = random(5, 3, c_out, seed=1)
  out, gradients = value_and_gradients(functools.partial(adaconv, groups=groups))(args, weights)
  assert_close(out, adaconv_loops(*args, groups=groups))
  assert_close(gradients, tuple(gradient_loops(args, weights, groups=groups)))


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (2, 3)])
@pytest.mark.parametrize("c_in, c_out, groups", BOTH_FORMS)
def test_any_size_is_padded_by_reflection(size, c_in, c_out, groups):
  args = arguments(size, 5, c_in, c_out, groups)
  got = jax.jit(functools.partial(adaconv, groups=groups))(*args)
  assert_close(got, adaconv_loops(*args, groups=groups))


@pytest.mark.parametrize("c_in, c_out, groups", BOTH_FORMS)
def test_gradients_at_flat_channels_are_finite_and_those_of_loops(c_in, c_out, groups):
  args = arguments((3, 3), 3, c_in, c_out, groups)
  weights = random(3, 3, c_out, seed=1)
  function = value_and_gradients(functools.partial(adaconv, groups=groups))
  for flat in ([1], list(range(c_in))):
    args[0][..., flat] = 0.25
    out, gradients = function(args, weights)
    assert all(jnp.isfinite(g).all() for g in gradients)
    assert_close(out, adaconv_loops(*args, groups=groups))
    assert_close(gradients, tuple(gradient_loops(args, weights, groups=groups)))


@pytest.mark.parametrize("eps", [0.0, 0.5])
@pytest.mark.parametrize("c_in, c_out, groups", BOTH_FORMS)
def test_eps_is_added_to_the_biased_variance(eps, c_in, c_out, groups):
  args = arguments((3, 2), 3, c_in, c_out, groups)
  got = adaconv(*args, groups=groups, eps=eps)
  assert_close(got, adaconv_loops(*args, groups=groups, eps=eps))


@pytest.mark.parametrize("c_in, c_out, groups", BOTH_FORMS)
def test_scale_and_shift_of_a_channel_do_not_matter(c_in, c_out, groups):
  features, *kernels = arguments((4, 5), 3, c_in, c_out, groups)
  other = features * np.arange(2, 2 + c_in, dtype=np.float32) - np.arange(c_in, dtype=np.float32)
  apply = functools.partial(adaconv, groups=groups)
  # Not exactly: eps is a smaller part of the larger variance.
  assert_close(apply(other, *kernels), np.asarray(apply(features, *kernels)), 1e-4)


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@pytest.mark.parametrize("c_in, c_out, groups", [(6, 9, 3), (4, 4, 4), (4, 2, 1)])
def test_composed_kernel_is_block_diagonal_and_equals_two_grouped_convolutions(
  c_in, c_out, groups, platform
):
  _, spatial, pointwise, _ = arguments((1, 1), 3, c_in, c_out, groups)
  compose = as_on(platform, functools.partial(compose_kernels, groups=groups))
  dense = compose(spatial, pointwise)
  composed = np.asarray(dense)
  expected = np.zeros((3, 3, c_in, c_out))
  per_in, per_out = c_in // groups, c_out // groups
  for i, o in np.ndindex(c_in, c_out):
    if i // per_in == o // per_out:
      for m in range(per_out):
        between = o // per_out * per_out + m
        expected[:, :, i, o] += spatial[:, :, i % per_in, between] * pointwise[0, 0, m, o]
    else:
      assert (composed[:, :, i, o] == 0).all()
  assert_close(composed, expected)
  image = random(1, 6, 5, c_in)
  conv = functools.partial(
    lax.conv_general_dilated,
    window_strides=(1, 1),
    padding="VALID",
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )
  one_by_one = conv(image, spatial, feature_group_count=groups)
  one_by_one = conv(one_by_one, pointwise, feature_group_count=groups)
  assert_close(conv(image, dense), np.asarray(one_by_one))


# --- batches ---

# Axes of features, spatial kernel, pointwise kernel and bias.
AXES = [(0, 0, 0, 0), (0, None, None, None), (None, 0, 0, 0)]


# Depthwise products are the same on every platform. test_conv.py tests the other axes elsewhere.
@pytest.mark.parametrize(
  "axes, groups, platform",
  [
    *((axes, 2, "cpu") for axes in AXES),
    (AXES[0], 4, "cpu"),
    *(slow(axes, 4, "cpu") for axes in AXES[1:]),
    (AXES[0], 2, "cuda"),
    (AXES[0], 2, "tpu"),
    *(slow(axes, 2, "tpu") for axes in AXES[1:]),
  ],
)
def test_vmap_and_its_gradients_equal_a_loop_over_images(axes, groups, platform):
  c_in = c_out = 4
  args = arguments((4, 3), 3, c_in, c_out, groups)
  batch = [
    arg if axis is None else np.stack([arg, arg[::-1], 2 * arg])
    for arg, axis in zip(args, axes, strict=True)
  ]
  weights = random(3, 4, 3, c_out, seed=1)
  function = jax.vmap(functools.partial(adaconv, groups=groups), axes)
  out, gradients = value_and_gradients(function, platform)(batch, weights)
  sums = [np.zeros(b.shape) for b in batch]
  for i in range(3):
    own = [b if axis is None else b[i] for b, axis in zip(batch, axes, strict=True)]
    assert_close(out[i], adaconv_loops(*own, groups=groups))
    for total, gradient, axis in zip(
      sums, gradient_loops(own, weights[i], groups=groups), axes, strict=True
    ):
      total[... if axis is None else i] += gradient
  assert_close(gradients, tuple(sums))


@pytest.mark.parametrize("c_in, c_out, groups", [BOTH_FORMS[0], slow(*BOTH_FORMS[1])])
def test_gradients_under_vmap_are_those_of_each_image(c_in, c_out, groups):
  args = arguments((4, 3), 3, c_in, c_out, groups, lead=(2,))
  weights = random(2, 4, 3, c_out, seed=1)
  one = value_and_gradients(functools.partial(adaconv, groups=groups))
  out, gradients = jax.vmap(one)(args, weights)
  for i in range(2):
    own = [arg[i] for arg in args]
    assert_close(out[i], adaconv_loops(*own, groups=groups))
    expected = tuple(gradient_loops(own, weights[i], groups=groups))
    assert_close([g[i] for g in gradients], expected)


@pytest.mark.parametrize("c_in, c_out, groups", [slow(*BOTH_FORMS[0]), BOTH_FORMS[1]])
def test_nested_vmap_applies_every_style_to_every_content(c_in, c_out, groups):
  features, *kernels = arguments((4, 3), 3, c_in, c_out, groups, (2,), (3,))
  weights = random(3, 2, 4, 3, c_out, seed=1)
  apply = functools.partial(adaconv, groups=groups)
  table = jax.vmap(jax.vmap(apply, AXES[1]), AXES[2])  # styles outside, contents inside
  out, (for_features, *for_kernels) = value_and_gradients(table)((features, *kernels), weights)
  assert out.shape == (3, 2, 4, 3, c_out)
  sums = [np.zeros(features.shape), *(np.zeros(kernel.shape) for kernel in kernels)]
  for s, c in np.ndindex(3, 2):
    own = [features[c], *(kernel[s] for kernel in kernels)]
    assert_close(out[s, c], adaconv_loops(*own, groups=groups))
    gradients = gradient_loops(own, weights[s, c], groups=groups)
    sums[0][c] += gradients[0]
    for total, gradient in zip(sums[1:], gradients[1:], strict=True):
      total[s] += gradient
  assert_close((for_features, *for_kernels), tuple(sums))


# The published channels and groups at the sizes of a 256x256 image.
@pytest.mark.parametrize("side, c, groups", [(32, 512, 512), (64, 256, 128), (256, 64, 8)])
def test_full_size_shapes(side, c, groups):
  shapes = [(side, side, c), (3, 3, c // groups, c), (1, 1, c // groups, c), (c,)]
  args = [jax.ShapeDtypeStruct((8, *shape), jnp.float32) for shape in shapes]
  apply = jax.vmap(functools.partial(adaconv, groups=groups))
  assert jax.eval_shape(apply, *args).shape == (8, side, side, c)
  gradients = jax.eval_shape(jax.grad(lambda *args: apply(*args).sum(), (0, 1, 2, 3)), *args)
  assert [g.shape for g in gradients] == [arg.shape for arg in args]


@pytest.mark.parametrize(
  "changed, groups, message",
  [
    ({0: (2, 5, 5, 4)}, 2, r"features: .*\(2, 5, 5, 4\); vmap over a batch"),
    ({1: (3, 2, 4)}, 2, r"spatial_kernel: expected \[k, k, .*\(3, 2, 4\)"),
    ({1: (3, 5, 2, 4)}, 2, r"spatial_kernel: expected \[k, k, .*\(3, 5, 2, 4\)"),
    ({1: (2, 2, 2, 4)}, 2, r"spatial_kernel: expected an odd size, got \(2, 2, 2, 4\)"),
    ({}, 0, "groups: expected a divisor of c_in 4 and c_out 4, got 0"),
    ({}, 3, "groups: expected a divisor of c_in 4 and c_out 4, got 3"),
    ({1: (3, 3, 2, 6)}, 4, "groups: expected a divisor of c_in 4 and c_out 6, got 4"),
    ({1: (3, 3, 4, 4)}, 2, r"spatial_kernel: expected \(3, 3, 2, 4\) for groups=2, got \(3, 3, 4"),
    ({2: (1, 1, 4, 4)}, 2, r"pointwise_kernel: expected \(1, 1, 2, 4\) for groups=2, got \(1, 1"),
    ({2: (2, 4)}, 2, r"pointwise_kernel: expected \(1, 1, 2, 4\) for groups=2, got \(2, 4\)"),
    ({3: (1,)}, 2, r"bias: expected \(4,\) for groups=2, got \(1,\)"),
  ],
)
def test_errors_name_the_argument(changed, groups, message):
  shapes = {0: (5, 5, 4), 1: (3, 3, 2, 4), 2: (1, 1, 2, 4), 3: (4,)} | changed
  args = [jnp.zeros(shapes[i]) for i in range(4)]
  with pytest.raises(ValueError, match=f"^{message}"):
    adaconv(*args, groups=groups)


@pytest.mark.parametrize("c_in, c_out, groups", BOTH_FORMS)
@pytest.mark.parametrize("enlarge", [False, True])
@pytest.mark.parametrize("k, size", [slow(1, (3, 5)), (3, (3, 5)), (3, (1, 6)), slow(3, (7, 7))])
def test_within_an_extent_it_is_that_of_the_cropped_features(k, size, enlarge, c_in, c_out, groups):
  features, *rest = arguments(size, k, c_in, c_out, groups)
  padded = np.full((7, 7, c_in), 1e30, np.float32)
  padded[: size[0], : size[1]] = features
  options: Any = {"groups": groups, "enlarge": enlarge}
  expected = jax.jit(functools.partial(adaconv, **options))(features, *rest)

  @jax.jit
  def call(features, *kernels, extent):
    borders = Borders(extent, 7)
    normalized = instance_norm(features, where=borders.inside(features))
    return apply_kernels(borders.mirror(normalized, enlarge=enlarge), *kernels, **options)

  got = call(padded, *rest, extent=Extent(*size))
  h, w, _ = expected.shape
  np.testing.assert_allclose(got[:h, :w], expected, rtol=1e-5, atol=1e-5)


# --- the networks ---
