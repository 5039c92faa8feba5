"""Convolutions against NumPy loops, and the program for each platform."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from other_platforms import as_on

from adaconv_jax import host_cpu
from adaconv_jax.models.layers import ReflectConv
from adaconv_jax.ops.conv import cpu as conv_cpu
from adaconv_jax.ops.conv import dispatch
from adaconv_jax.ops.conv.dispatch import (
  SMALLEST_ON_CPU,
  conv,
  conv_per_sample,
)
from adaconv_jax.ops.conv.reference import (
  conv_valid,
  plain_image_gradient,
  reflect_pad,
  reflect_pad_to_multiple,
  upsample,
)
from adaconv_jax.ops.extent import Borders, Extent


def random(*shape: int, seed: int = 0) -> Any:
  return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


def conv_loops(images: np.ndarray, kernel: np.ndarray) -> np.ndarray:
  """Every output pixel and channel by itself, in float64; no padding."""
  n, height, width, _ = images.shape
  k, _, _, c_out = kernel.shape
  out = np.zeros((n, height - k + 1, width - k + 1, c_out))
  for image, y, x, o in np.ndindex(*out.shape):
    window = images[image, y : y + k, x : x + k].astype(np.float64)
    out[image, y, x, o] = (window * kernel[:, :, :, o]).sum()
  return out


def gradient_loops(images, kernel, gradient) -> tuple[np.ndarray, np.ndarray]:
  """The gradients that every output pixel gives to its window and to the kernel."""
  k = kernel.shape[0]
  d_images, d_kernel = np.zeros(images.shape), np.zeros(kernel.shape)
  for image, y, x, o in np.ndindex(*gradient.shape):
    g = float(gradient[image, y, x, o])
    d_images[image, y : y + k, x : x + k] += g * kernel[:, :, :, o]
    d_kernel[:, :, :, o] += g * images[image, y : y + k, x : x + k]
  return d_images, d_kernel


def reflected_loops(images, kernel, gradient=None, enlarge=False):
  """Output of a reflect-padded convolution, and its gradients if that of the output is given."""
  scale, pad = 2 if enlarge else 1, kernel.shape[0] // 2
  rows, columns = (np.pad(np.arange(n).repeat(scale), pad, "reflect") for n in images.shape[1:3])
  padded = images[:, rows][:, :, columns]
  out = conv_loops(padded, kernel)
  if gradient is None:
    return out
  d_padded, d_kernel = gradient_loops(padded, kernel, gradient)
  d_images = np.zeros(images.shape)
  index: Any = (slice(None), rows[:, None], columns)
  np.add.at(d_images, index, d_padded)
  return out, (d_images, d_kernel)


def assert_close(got, expected):
  for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * (1 + np.abs(theirs).max()))


def forward_and_gradients(function, platform="cpu"):
  def both(image, kernel, gradient):
    out, pull = jax.vjp(function, image, kernel)
    return out, pull(gradient)

  return as_on(platform, both)


def convolutions(platform, function, *args) -> list[str]:
  """The convolutions in the program for `platform`, which this machine may not have."""
  lowered = jax.jit(function).trace(*args).lower(lowering_platforms=(platform,))
  return [line for line in lowered.as_text().splitlines() if "stablehlo.convolution" in line]


# --- one kernel for all ---


@pytest.mark.parametrize("platform", ["cpu", "cuda"])
@pytest.mark.parametrize("shape, k, c_out", [((2, 5, 4, 2), 1, 3), ((2, 3, 7, 3), 3, 2)])
def test_conv_valid_and_its_gradients_equal_loops(shape, k, c_out, platform):
  images, kernel = random(*shape), random(k, k, shape[-1], c_out)
  expected = conv_loops(images, kernel)
  gradient = random(*expected.shape)
  out, gradients = forward_and_gradients(conv_valid, platform)(images, kernel, gradient)
  assert_close(out, expected)
  assert_close(gradients, gradient_loops(images, kernel, gradient))


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (2, 5), (6, 3)])
@pytest.mark.parametrize("k", [1, 3, 5])
def test_conv_keeps_the_size_and_mirrors_at_the_borders(size, k):
  images, kernel, bias = random(1, *size, 2), random(k, k, 2, 3), random(3)
  pad = k // 2
  padded = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="reflect")
  got = jax.jit(lambda x, k: (conv(x, k, bias), conv(x, k)))(images, kernel)
  expected = conv_loops(padded, kernel)
  assert_close(got, (expected + bias, expected))


LEAST = SMALLEST_ON_CPU
# Sizes with and without the forms for CPUs; those go by tiles of 4 x 4 pixels.
SIZES = [(2, 5), (LEAST - 1, LEAST), (LEAST, LEAST + 1), (LEAST + 3, LEAST + 2), (LEAST, LEAST + 4)]


@pytest.mark.parametrize("enlarge", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_conv_and_its_gradients_equal_loops(size, enlarge):
  size = tuple(-(-side // 2) for side in size) if enlarge else size
  images, kernel = random(2, *size, 3), random(3, 3, 3, 2)
  gradient = random(2, *(side * (2 if enlarge else 1) for side in size), 2)
  got = forward_and_gradients(lambda x, k: conv(x, k, enlarge=enlarge))(images, kernel, gradient)
  assert_close(got, reflected_loops(images, kernel, gradient, enlarge))


def count_calls(monkeypatch, name):
  """Lists the arguments of every call of a function of `conv_cpu`."""
  calls, function = [], getattr(conv_cpu, name)
  monkeypatch.setattr(conv_cpu, name, lambda *args: (calls.append(args), function(*args))[1])
  return calls


@pytest.mark.parametrize("size", SIZES[2:])
def test_many_channels_take_winograd_s_form_and_equal_loops(size, monkeypatch):
  for name in ("WINOGRAD_CHANNELS", "WINOGRAD_PIXELS", "THIN_CHANNELS"):
    monkeypatch.setattr(conv_cpu, name, 2)
  calls = count_calls(monkeypatch, "_winograd")
  of_kernel = count_calls(monkeypatch, "_winograd_kernel_gradient")
  # Channels that no other test has, because a function is not traced twice for equal shapes.
  images, kernel, gradient = random(2, *size, 6), random(3, 3, 6, 5), random(2, *size, 5)
  got = forward_and_gradients(lambda x, k: conv(x, k))(images, kernel, gradient)
  assert_close(got, reflected_loops(images, kernel, gradient))
  assert (len(calls), len(of_kernel)) == (2, 1)  # the output and the images' gradient


@pytest.mark.parametrize("c_in, c_out", [(3, 11), (11, 3), (9, 10)])
@pytest.mark.parametrize("size, k", [((7, 5), 3), ((6, 9), 5), ((13, 12), 5), ((4, 4), 1)])
def test_no_kernel_gradient_on_cpu_is_a_convolution(size, k, c_in, c_out):
  images, kernel, gradient = (
    random(2, *size, c_in),
    random(k, k, c_in, c_out),
    random(2, *size, c_out),
  )
  pull = jax.vjp(lambda kernel: conv(images, kernel), kernel)[1]
  assert_close(jax.jit(pull)(gradient)[0], reflected_loops(images, kernel, gradient)[1][1])
  compiled = str(jax.jit(pull).lower(gradient).compile().as_text())
  assert " convolution(" not in compiled


@pytest.mark.parametrize("c_in, c_out", [(64, 64), (64, 3), (128, 256)])
def test_kernel_gradients_of_real_sizes_are_exact_to_float32_s_rounding(c_in, c_out):
  images, gradient = random(2, 24, 28, c_in), random(2, 24, 28, c_out)
  got = jax.jit(lambda x, g: conv_cpu.kernel_gradient(x, g, jnp.float32))(images, gradient)
  padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), "reflect").astype(np.float64)
  flat = gradient.reshape(-1, c_out).astype(np.float64)
  exact = np.array(
    [[padded[:, y : y + 24, x : x + 28].reshape(-1, c_in).T @ flat for x in range(3)]
     for y in range(3)]
  )  # fmt: skip
  # Winograd's sums of differences lose some digits; 1e-6 without it.
  assert np.abs(got - exact).max() < 2e-5 * np.abs(exact).max()


@pytest.mark.parametrize("enlarge", [False, True])
def test_where_bfloat16_is_fast_products_take_it_and_sum_up_in_float32(enlarge, monkeypatch):
  monkeypatch.setattr(host_cpu, "multiplies_bfloat16", lambda: True)
  size = (12, 13)
  images, kernel = (
    jnp.asarray(x, jnp.bfloat16) for x in (random(1, *size, 14), random(3, 3, 14, 13))
  )
  gradient = jnp.asarray(
    random(1, *(side * (2 if enlarge else 1) for side in size), 13), "bfloat16"
  )
  both = forward_and_gradients(lambda x, k: conv(x, k, enlarge=enlarge))
  got = both(images, kernel, gradient)
  text = both.lower(images, kernel, gradient).as_text()
  products = [line for line in text.splitlines() if "dot_general" in line]
  assert products
  assert any("bf16>) -> tensor" in x and x.rstrip().endswith("xf32>") for x in products)
  widened = [np.asarray(x, np.float32) for x in (images, kernel, gradient)]
  exact = reflected_loops(widened[0], widened[1], widened[2], enlarge)
  for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(exact), strict=True):
    assert ours.dtype == jnp.bfloat16
    # Taps and differences are rounded to 8 bits once more than the operands already are.
    error = np.abs(np.asarray(ours, np.float32) - theirs).max()
    assert error < 0.02 * np.abs(theirs).max()


def within_extent(images, kernel, enlarge=False):
  """The convolution of images in the top left of 16 x 16 pixels, with three kinds of garbage."""
  (n, h, w, c_in), scale = images.shape, 2 if enlarge else 1

  @jax.jit
  def function(x, kernel, extent):
    return conv(Borders(extent, 16).mirror(x, enlarge=enlarge), kernel, enlarge=enlarge)

  for garbage in (0, 1e30, np.nan):
    padded = np.full((n, 16, 16, c_in), garbage, np.float32)
    padded[:, :h, :w] = images
    yield np.asarray(function(padded, kernel, Extent(h, w)))[:, : scale * h, : scale * w]


@pytest.mark.parametrize("enlarge", [False, True])
@pytest.mark.parametrize("size", [(9, 14), (13, 15), (16, 16)])
def test_within_an_extent_nothing_else_has_influence(size, enlarge):
  images, kernel = random(2, *size, 7), random(3, 3, 7, 4)
  out, *others = within_extent(images, kernel, enlarge)
  assert_close(out, reflected_loops(images, kernel, enlarge=enlarge))
  for other in others:
    np.testing.assert_array_equal(other, out)


def test_within_an_extent_winograd_s_sums_have_no_influence(monkeypatch):
  for name in ("WINOGRAD_CHANNELS", "WINOGRAD_PIXELS"):
    monkeypatch.setattr(conv_cpu, name, 2)
  calls = count_calls(monkeypatch, "_winograd")
  # Channels that no other test has, as above.
  images, kernel = random(2, 9, 14, 8), random(3, 3, 8, 5)
  out, *others = within_extent(images, kernel)
  assert_close(out, reflected_loops(images, kernel))
  for other in others:
    np.testing.assert_array_equal(other, out)
  assert len(calls) == 1


@pytest.mark.parametrize("enlarge", [False, True])
@pytest.mark.parametrize("count, parts", [(1, 1), (3, 2), (9, 5)])
def test_the_kernel_s_gradient_is_the_same_in_parts(enlarge, count, parts, monkeypatch):
  side = 24 if enlarge else 12
  images, gradient = random(count, 12, 12, 9), random(count, side, side, 10)
  form = conv_cpu.enlarged_kernel_gradient if enlarge else conv_cpu.kernel_gradient
  whole = jax.jit(lambda x, g: form(x, g, jnp.float32))(images, gradient)
  monkeypatch.setattr(conv_cpu, "GRADIENT_PIXELS", 2 * side * side)
  name = "_product_gradients" if enlarge else "_winograd_kernel_gradient"
  calls = count_calls(monkeypatch, name)
  assert_close(jax.jit(lambda x, g: form(x, g, jnp.float32))(images, gradient), whole)
  assert len(calls) == parts


def test_shorter_types_are_convolved_in_float32_on_cpu():
  images, kernel = (
    jnp.asarray(x, jnp.bfloat16) for x in (random(1, 12, 13, 3), random(3, 3, 3, 2))
  )
  out = jax.jit(conv)(images, kernel)
  assert out.dtype == jnp.bfloat16
  exact = reflected_loops(np.asarray(images, np.float32), np.asarray(kernel, np.float32))
  np.testing.assert_allclose(np.asarray(out, np.float32), exact, rtol=2**-8)


@pytest.mark.parametrize("shape", [(1, 1, 1, 2), (2, 3, 5, 4)])
def test_upsample_repeats_pixels(shape):
  x = random(*shape)
  np.testing.assert_array_equal(upsample(jnp.asarray(x)), x.repeat(2, 1).repeat(2, 2))


def test_gradient_of_upsample_sums_each_pixel_s_copies():
  x, g = np.zeros((1, 2, 3, 2), np.float32), np.arange(48, dtype=np.float32).reshape(1, 4, 6, 2)
  (got,) = jax.vjp(upsample, x)[1](g)
  np.testing.assert_array_equal(got, g.reshape(1, 2, 2, 3, 2, 2).sum((2, 4)))


@pytest.mark.parametrize("pad", [0, 1, 2])
@pytest.mark.parametrize("size", [(1, 3), (2, 5), (4, 4)])
def test_reflect_pad_is_that_of_numpy(size, pad):
  images = random(2, *size, 3)
  expected = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="reflect")
  np.testing.assert_array_equal(reflect_pad(jnp.asarray(images), pad), expected)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 8), (8, 17)])
def test_reflect_pad_to_multiple_fills_up_at_the_bottom_and_right(size):
  images = random(1, *size, 2)
  below, right = [-(-side // 8) * 8 - side for side in size]
  expected = np.pad(images, ((0, 0), (0, below), (0, right), (0, 0)), mode="reflect")
  got = reflect_pad_to_multiple(jnp.asarray(images), 8)
  assert got.shape[1] % 8 == got.shape[2] % 8 == 0
  np.testing.assert_array_equal(got, expected)


def test_a_multiple_is_not_padded():
  images = jnp.asarray(random(1, 8, 16, 2))
  np.testing.assert_array_equal(reflect_pad_to_multiple(images, 8), images)


def test_only_cpu_gets_a_spare_row():
  args = random(1, 9, 9, 2), random(3, 3, 2, 4)
  (cpu,), (tpu,) = (convolutions(platform, conv_valid, *args) for platform in ("cpu", "tpu"))
  assert "pad = [[0, 1], [0, 0]]" in cpu and "x8x7x4xf32>" in cpu
  assert "pad = [[0, 0], [0, 0]]" in tpu and "x7x7x4xf32>" in tpu


# --- one kernel per image ---

AXES = [(0, 0), (0, None), (None, 0)]


def batch(*levels, size=(5, 4), k=3, c_in=2, c_out=3):
  """Images, kernels and the output's gradient; one pair of vmap axes for each vmap, outer first.

  The outer batch has 2 members and the inner 3.
  """
  h, w = size
  counts = (2, 3)[-len(levels) :] if levels else ()
  lead_image, lead_kernel = (
    tuple(count for count, axes in zip(counts, levels, strict=True) if axes[side] == 0)
    for side in (0, 1)
  )
  image, kernel = (h, w, c_in), (k, k, c_in, c_out)
  return random(*lead_image, *image), random(*lead_kernel, *kernel), random(*counts, h, w, c_out)


def per_image_loops(image, kernel, gradient, *levels):
  """Output, and gradients summed over what several outputs share, each pair by itself."""
  lead = gradient.shape[:-3]
  out, d_image, d_kernel = np.zeros(gradient.shape), np.zeros(image.shape), np.zeros(kernel.shape)
  for index in np.ndindex(*lead):
    at_image, at_kernel = (
      tuple(i for i, axes in zip(index, levels, strict=True) if axes[side] == 0) for side in (0, 1)
    )
    its_out, (for_image, for_kernel) = reflected_loops(
      image[at_image][None], kernel[at_kernel], gradient[index][None]
    )
    out[index] = its_out[0]
    d_image[at_image] += for_image[0]
    d_kernel[at_kernel] += for_kernel
  return out, (d_image, d_kernel)


@pytest.mark.parametrize("levels", [[], *([axes] for axes in AXES)], ids=lambda levels: str(levels))
@pytest.mark.parametrize(
  "platform, size", [("cpu", (5, 4)), ("cpu", (LEAST, LEAST)), ("cuda", (5, 4)), ("tpu", (5, 4))]
)
def test_vmap_and_its_gradients_equal_loops(levels, platform, size):
  args, function = batch(*levels, size=size), conv_per_sample
  for axes in levels:
    function = jax.vmap(function, axes)
  assert_close(forward_and_gradients(function, platform)(*args), per_image_loops(*args, *levels))


@pytest.mark.parametrize("form, count", [("grouped", 1), ("loop", 3)])
def test_a_kernel_per_image_runs_on_a_platform_as_the_table_says(form, count, monkeypatch):
  monkeypatch.setitem(dispatch.PER_IMAGE, "cuda", form)
  image, kernel, gradient = batch((0, 0), size=(5, 4))
  function = jax.vmap(lambda *args: conv_per_sample(*args))
  assert len(convolutions("cuda", function, image, kernel)) == count
  got = forward_and_gradients(function, "cuda")(image, kernel, gradient)
  assert_close(got, per_image_loops(image, kernel, gradient, (0, 0)))


# Lines that are the second from both sides, blocks of columns that do and do not overlap, and what
# has no form of its own.
@pytest.mark.parametrize("enlarge", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
  "size, k", [((1, 4), 3), ((2, 2), 3), ((3, 2), 3), ((2, 3), 3), ((4, 9), 3), ((3, 17), 3),
              ((4, 5), 1), ((4, 5), 5)]
)  # fmt: skip
def test_the_form_for_tpu_and_its_gradients_equal_loops(size, k, enlarge):
  image, kernel, _ = batch((0, 0), size=size, k=k)
  gradient = random(3, *(side * (2 if enlarge else 1) for side in size), 3)
  function = jax.vmap(lambda *args: conv_per_sample(*args, enlarge=enlarge))
  out, (d_image, d_kernel) = forward_and_gradients(function, "tpu")(image, kernel, gradient)
  for i in range(3):
    its_out, (for_image, for_kernel) = reflected_loops(
      image[i][None], kernel[i], gradient[i][None], enlarge
    )
    assert_close((out[i], d_image[i], d_kernel[i]), (its_out[0], for_image[0], for_kernel))


# Every pair of axes inside and outside; the other four combinations batch nothing new.
@pytest.mark.parametrize("platform", ["cpu", pytest.param("tpu", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
  "outer, inner",
  [((0, 0), (0, 0)), ((0, None), (None, 0)), ((None, 0), (0, 0)), ((0, 0), (0, None))],
)
def test_nested_vmap_and_its_gradients_equal_loops(outer, inner, platform):
  args = batch(outer, inner)
  function = jax.vmap(jax.vmap(conv_per_sample, inner), outer)
  got = forward_and_gradients(function, platform)(*args)
  assert_close(got, per_image_loops(*args, outer, inner))


@pytest.mark.parametrize("axes", AXES)
def test_gradients_under_vmap_are_those_of_each_image(axes):
  image, kernel, gradient = batch(axes)
  one = forward_and_gradients(conv_per_sample)
  out, (d_image, d_kernel) = jax.jit(jax.vmap(one, (*axes, 0)))(image, kernel, gradient)
  for i in range(3):
    x, k = (a if axis is None else a[i] for a, axis in zip((image, kernel), axes, strict=True))
    assert_close((out[i], (d_image[i], d_kernel[i])), per_image_loops(x, k, gradient[i]))


def test_cpu_runs_one_convolution_per_image_and_tpu_one_for_all():
  image, kernel, gradient = batch((0, 0))
  forward = jax.vmap(conv_per_sample)
  backward = lambda x, k, g: jax.vjp(forward, x, k)[1](g)  # noqa: E731
  cpu = convolutions("cpu", forward, image, kernel)
  tpu = convolutions("tpu", forward, image, kernel)
  assert len(cpu) == 3 and all("feature_group_count = 1 " in line for line in cpu)
  assert len(tpu) == 1 and "feature_group_count = 3 " in tpu[0]
  # Those of the images' gradients; the kernels' are matrix products.
  assert len(convolutions("cpu", backward, image, kernel, gradient)) == 3
  # Neither gradient takes more operations per image for more images: no image axis is dense.
  to_image, to_kernel = convolutions("tpu", backward, image, kernel, gradient)
  assert "feature_group_count = 3 " in to_image and "batch_group_count = 1 " in to_image
  assert "lhs_dilate = [3, 1, 1]" in to_kernel and "batch_group_count = 1 " in to_kernel


def test_one_kernel_for_all_images_is_one_ordinary_convolution_everywhere():
  image, kernel, _ = batch((0, None))
  for platform in ("cpu", "tpu"):
    found = convolutions(platform, jax.vmap(conv_per_sample, (0, None)), image, kernel)
    assert len(found) == 1 and "feature_group_count = 1 " in found[0]


def test_conv_per_sample_has_no_forward_mode():
  image, kernel, _ = batch()
  with pytest.raises(TypeError, match="forward-mode"):
    jax.jvp(conv_per_sample, (image, kernel), (image, kernel))


# --- the layer ---


def test_the_layer_starts_with_xavier_kernels_and_no_bias_and_convolves():
  images = random(2, 4, 5, 3)
  layer = ReflectConv(6, 5)
  out, variables = jax.jit(layer.init_with_output)(jax.random.key(0), images)
  kernel, bias = (np.asarray(variables["params"][name]) for name in ("kernel", "bias"))
  assert kernel.shape == (5, 5, 3, 6)
  limit = np.sqrt(6 / (25 * (3 + 6)))
  assert 0.9 * limit < np.abs(kernel).max() <= limit and abs(kernel.mean()) < 0.1 * limit
  np.testing.assert_array_equal(bias, np.zeros(6))
  padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
  assert_close(out, conv_loops(padded, kernel))
  shifted = layer.apply({"params": {"kernel": kernel, "bias": bias + 2}}, images)
  assert_close(shifted, np.asarray(out) + 2)


@pytest.mark.parametrize("enlarge", [False, True])
@pytest.mark.parametrize(("k", "size"), [(1, (1, 2)), (3, (1, 4)), (3, (5, 4)), (5, (3, 7))])
def test_image_gradient_of_the_plain_form_equals_loops(k, size, enlarge):
  images, kernel = random(2, *size, 3), random(k, k, 3, 4)
  gradient = random(2, *(side * (2 if enlarge else 1) for side in size), 4)
  _, (expected, _) = reflected_loops(images, kernel, gradient, enlarge)
  assert_close(plain_image_gradient(kernel, gradient, enlarge), expected)


@pytest.mark.parametrize("enlarge", [False, True])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_every_form_can_be_traced_in_64_bit_mode(dtype, enlarge):
  def gradients(*arrays):
    return jax.grad(lambda *a: conv(*a, enlarge=enlarge).sum(), argnums=(0, 1))(*arrays)

  for side in (6, 16, 64):
    shapes = [jax.ShapeDtypeStruct(x, dtype) for x in ((1, side, side, 64), (3, 3, 64, 64))]
    with jax.enable_x64(True):
      found = jax.eval_shape(gradients, *shapes)
    assert [x.dtype for x in found] == [dtype, dtype]
