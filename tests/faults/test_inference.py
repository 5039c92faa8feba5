"""Stylizing under settings of JAX that users have, and pictures of odd sizes."""

import contextlib
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from small_models import picture, small_stylizer

from adaconv_jax import inference, load_model, save_bundle, stylize
from adaconv_jax.models import pictures
from adaconv_jax.models.adaconv import GlobalStyleEncoder
from adaconv_jax.models.pictures import check_pictures, check_weight
from adaconv_jax.models.style_code import mix_codes
from adaconv_jax.ops.adaconv import adaconv
from adaconv_jax.ops.adain import adain
from adaconv_jax.ops.color import match_colors
from adaconv_jax.ops.conv import conv
from adaconv_jax.ops.losses import checkerboard_loss, style_loss
from adaconv_jax.ops.palette import match_palette, measure_palette
from adaconv_jax.rooms import in_bucket
from adaconv_jax.stages import encode, encode_content, render_encoded

TRANSFORMS = ["adain", "adaconv", "adaconv_plus"]


def slow(value):
  """Marks one value of a parameter."""
  return pytest.param(value, marks=pytest.mark.slow)


FAST = ["adain", slow("adaconv"), slow("adaconv_plus")]


@pytest.fixture(scope="module")
def stylizers():
  return {transform: small_stylizer(transform) for transform in TRANSFORMS}


# Odd sizes.


@pytest.mark.slow
@pytest.mark.parametrize("size", [(16, 23), *map(slow, [(63, 57), (17, 40), (31, 16)])])
def test_a_picture_in_its_own_style_and_what_that_loses_are_the_picture(stylizers, size):
  content, stylizer = picture(0, *size), stylizers["adain"]
  own = stylize(content, content, model=stylizer)
  lost = np.asarray(encode_content(stylizer, content[None], None, True).lost)
  assert np.abs(np.asarray(own + lost) - content).max() < 1e-4
  assert np.std(own) > 0.05 and np.std(lost) > 0.05
  none = stylize(content, picture(1, 16, 16), model=stylizer, alpha=0)
  np.testing.assert_allclose(none, content, atol=2e-6)


@pytest.mark.parametrize("size", [slow((63, 57)), slow((16, 23))])
def test_the_same_holds_in_a_bucket(stylizers, size):
  stylizer, pixels = stylizers["adain"], (255 * picture(0, *size)).astype(np.uint8)
  batch, extent = in_bucket(stylizer, pixels)
  assert extent is not None and batch.shape[1:3] != size
  content = encode_content(stylizer, batch, extent, True)
  own = render_encoded(stylizer, content, encode(stylizer, batch, extent), None)
  alone = stylize(pixels, pixels, model=stylizer)
  difference = np.asarray(own)[0, : size[0], : size[1]].astype(int) - np.asarray(alone)
  assert np.abs(difference).max() <= 1
  code = encode(stylizer, picture(1, 1, 16, 24))
  none = render_encoded(stylizer, content, code, jnp.float32(0), jnp.float32(0.4))
  np.testing.assert_array_equal(np.asarray(none)[0, : size[0], : size[1]], pixels)


def test_all_rows_and_columns_of_an_odd_style_count(stylizers):
  style = picture(1, 23, 23)
  base = encode(stylizers["adain"], style[None])
  for rows, columns in ((slice(-1, None), slice(None)), (slice(None), slice(-1, None))):
    changed = style.copy()
    changed[rows, columns] = 1 - changed[rows, columns]
    other = encode(stylizers["adain"], changed[None])
    assert np.abs(np.asarray(base.mean - other.mean)).max() > 1e-3


# Ranks.


@pytest.fixture
def strict_ranks():
  before = jax.config.values["jax_numpy_rank_promotion"]
  jax.config.update("jax_numpy_rank_promotion", "raise")
  yield
  jax.config.update("jax_numpy_rank_promotion", before)


@pytest.mark.slow
@pytest.mark.usefixtures("strict_ranks")
@pytest.mark.parametrize("transform", FAST)
@pytest.mark.parametrize("alpha", [slow(1.0), 0.7])
def test_nothing_relies_on_arrays_of_different_ranks(stylizers, transform, alpha):
  arguments = picture(0, 2, 17, 24), picture(1, 16, 24)
  for weight in (alpha, np.array([alpha, 0.5])):
    out = stylize(*arguments, model=stylizers[transform], alpha=weight, detail=weight)
    assert out.shape == (2, 17, 24, 3)


@pytest.mark.slow
@pytest.mark.usefixtures("strict_ranks")
@pytest.mark.parametrize("transform", FAST)
def test_neither_does_a_picture_in_a_bucket(stylizers, transform):
  stylizer = stylizers[transform]
  batch, extent = in_bucket(stylizer, (255 * picture(0, 17, 21)).astype(np.uint8))
  content = encode_content(stylizer, batch, extent, True)
  code = encode(stylizer, batch, extent)
  half = jnp.float32(0.5)
  assert render_encoded(stylizer, content, code, half, half).shape == batch.shape


@pytest.mark.slow
@pytest.mark.usefixtures("strict_ranks")
def test_neither_do_the_operations_and_their_gradients():
  x, kernel, bias = picture(0, 2, 16, 16), np.ones((3, 3, 3, 4), np.float32), np.ones(4, np.float32)
  for small in (x, x[:, :5, :5]):
    jax.jit(jax.grad(lambda *a: conv(*a).sum(), argnums=(0, 1, 2)))(small, kernel, bias)
  assert adain(x, x).shape == x.shape
  features = np.tile(x[0], (1, 1, 2))
  for groups, shape in ((2, (3, 3, 3, 6)), (6, (3, 3, 1, 6))):
    pointwise = np.ones((1, 1, shape[2], 6), np.float32)
    arguments = features, np.ones(shape, np.float32), pointwise, np.ones(6, np.float32)
    jax.jit(jax.grad(lambda *a, g=groups: adaconv(*a, groups=g).sum()))(*arguments)
  assert style_loss({"a": x}, {"a": x}, {"a": 1.0}) == 0
  assert np.isfinite(checkerboard_loss(x))


# Transfers.


@pytest.mark.slow
@pytest.mark.parametrize("transform", FAST)
def test_a_transfer_guard_lets_through_what_stylize_does(stylizers, transform):
  arrays = [jax.device_put(picture(i, 16, 24)) for i in (0, 1)]
  stylizer = jax.device_put(stylizers[transform])
  for content, style in (arrays, [np.asarray(x) for x in arrays]):
    for alpha in (0.7, 1, jax.device_put(np.float32(0.3))):
      with jax.transfer_guard("disallow"):
        out = stylize(content, style, model=stylizer, alpha=alpha, detail=alpha)
      assert out.shape == (16, 24, 3)


@pytest.mark.slow
def test_a_transfer_guard_lets_through_the_colors_of_regions(stylizers):
  arrays = picture(0, 16, 24), [picture(1, 16, 24), picture(2, 16, 24)]
  options = {"masks": np.ones((2, 16, 24), np.float32), "color": "match"}
  stylizer = jax.device_put(stylizers["adain"])
  with jax.transfer_guard("disallow"):
    assert stylize(*arrays, model=stylizer, **options).shape == (16, 24, 3)


@pytest.mark.slow
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_a_transfer_guard_lets_through_what_the_methods_of_a_model_do(stylizers, transform):
  stylizer = jax.device_put(stylizers[transform])
  host = [picture(seed, 16, 24) for seed in (0, 1)]
  bytes_ = [np.round(255 * x).astype(np.uint8) for x in host]
  device, half = jax.device_put((host, np.float32(0.5)))
  masks = np.ones((2, 16, 24), np.float32)
  for content, style in (host, bytes_, device):
    expected = stylizer.stylize(content, stylizer.encode_style(style), 0.5, detail=0.5)
    with jax.transfer_guard("disallow"):
      code = stylizer.encode_style(style)
      for strength in (0.5, half):
        got = stylizer.stylize(content, code, strength, detail=strength)
        np.testing.assert_allclose(got, expected, atol=1e-5)
      mixed = mix_codes([code, stylizer.encode_style(content)], [0.25, 0.75])
      stylizer.stylize(content, [code, mixed], masks=masks, color="luminance")
      stylizer.stylize(content, mixed, stroke=2.0)
      stylizer.content_stats(stylizer.encode_content(content), code)


def test_a_transfer_guard_lets_through_a_mix_of_codes_and_no_arrays_of_the_caller():
  codes = [jax.device_put(picture(seed, 1, 2)) for seed in (0, 1)]
  expected = 0.25 * np.asarray(codes[0]) + 0.75 * np.asarray(codes[1])
  with jax.transfer_guard("disallow"):
    got = mix_codes(codes, [0.25, 0.75])
    with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device"):
      _ = codes[0] + 1.0
  np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.slow
def test_a_transfer_guard_lets_through_gradients_within_jit(stylizers):
  stylizer = jax.device_put(stylizers["adain"])
  content, style = jax.device_put((picture(0, 16, 24), picture(1, 16, 24)))

  @jax.jit
  @jax.grad
  def gradient(content, style, stylizer):
    return stylize(content, style, model=stylizer, alpha=0.5, detail=0.5).sum()

  expected = gradient(content, style, stylizer)
  jax.clear_caches()
  with jax.transfer_guard("disallow"):
    got = gradient(content, style, stylizer)
    # JAX itself transfers the 1 that a gradient begins with, where nothing is compiled.
    with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device"):
      jax.grad(lambda x: x.sum())(content)
  np.testing.assert_array_equal(got, expected)


@pytest.mark.slow
def test_a_transfer_guard_lets_through_the_loading_of_a_model(stylizers, tmp_path):
  save_bundle(stylizers["adain"], tmp_path / "m.safetensors")
  content = jax.device_put(picture(0, 16, 24))
  expected = stylize(content, content, model=stylizers["adain"])
  with jax.transfer_guard("disallow"):
    out = stylize(content, content, model=tmp_path / "m.safetensors")
  np.testing.assert_allclose(out, expected, atol=2e-5)


def test_pictures_on_a_device_are_checked_there(stylizers, monkeypatch):
  content = jax.device_put(picture(0, 16, 24))
  style = jax.device_put(picture(1, 16, 24))
  fetched, copied = [], []
  get, asarray = jax.device_get, np.asarray

  def record(x, *args, **kwargs):
    copied.append(x is content or x is style)
    return asarray(x, *args, **kwargs)

  with monkeypatch.context() as patch:
    for module in (inference, pictures):  # as on an accelerator
      patch.setattr(module, "is_on_host", lambda array: False)
    patch.setattr(jax, "device_get", lambda x: fetched.append(jax.tree.leaves(x)) or get(x))
    patch.setattr(np, "asarray", record)
    stylize(content, style, model=stylizers["adain"])
  assert not any(copied)
  assert fetched and all(leaf.size == 1 for leaves in fetched for leaf in leaves)
  for value in (np.nan, 2.0, -1.0, np.inf):
    with pytest.raises(ValueError, match="^content: "):
      stylize(content.at[3, 4, 1].set(value), style, model=stylizers["adain"])


def test_pictures_of_a_constant_are_checked_inside_of_jit_too(stylizers):
  bad = jax.device_put(picture(0, 16, 24) + 1)
  with pytest.raises(ValueError, match="^style: expected float values in"):
    jax.jit(lambda x: stylize(x, bad, model=stylizers["adain"]))(picture(1, 16, 24))


# Meshes whose axes are Explicit, as `jax.make_mesh` makes them.


@pytest.mark.slow
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_a_batch_over_an_explicit_mesh_comes_back_over_it(stylizers, transform):
  mesh = jax.make_mesh((1,), ("d",))
  sharding = NamedSharding(mesh, PartitionSpec("d"))
  contents, styles = picture(0, 2, 17, 24), picture(1, 2, 16, 21)
  spread = [jax.device_put(x, sharding) for x in (contents, styles)]
  for alpha in (1.0, 0.6):
    weights = {"alpha": alpha, "detail": [0.3, 0.6]}
    expected = stylize(contents, styles, model=stylizers[transform], **weights)
    got = stylize(*spread, model=stylizers[transform], **weights)
    np.testing.assert_allclose(got, expected, atol=5e-4)  # which was padded
    assert got.sharding.is_equivalent_to(sharding, 4)
  one = stylize(spread[0], styles[0], model=stylizers[transform])
  expected = stylize(contents, styles[0], model=stylizers[transform])
  np.testing.assert_allclose(one, expected, atol=5e-4)


@pytest.mark.slow
def test_the_same_holds_inside_of_jit_and_within_the_mesh(stylizers):
  mesh = jax.make_mesh((1,), ("d",))
  sharding = NamedSharding(mesh, PartitionSpec("d"))
  contents, style = picture(0, 2, 17, 24), picture(1, 16, 21)
  expected = stylize(contents, style, model=stylizers["adain"])
  spread = jax.device_put(contents, sharding)
  function = jax.jit(lambda x: stylize(x, style, model=stylizers["adain"]))
  np.testing.assert_allclose(function(spread), expected, atol=5e-4)
  with jax.set_mesh(mesh):
    got = stylize(spread, style, model=stylizers["adain"])
  np.testing.assert_allclose(got, expected, atol=2e-5)


TWO_DEVICES = """
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from small_models import small_stylizer
from adaconv_jax import stylize
rng = np.random.default_rng(0)
contents, styles = (rng.random((4, *size, 3), np.float32) for size in ((17, 24), (16, 21)))
sharding = NamedSharding(jax.make_mesh((2,), ("d",)), P("d"))
stylizer = small_stylizer("adain")
spread = [jax.device_put(x, sharding) for x in (contents, styles)]
for style, plain in ((spread[1], styles), (styles[0], styles[0])):
  got = stylize(spread[0], style, model=stylizer, alpha=0.6)
  assert got.sharding.is_equivalent_to(sharding, 4), got.sharding
  np.testing.assert_allclose(got, stylize(contents, plain, model=stylizer, alpha=0.6), atol=2e-5)
print("same")
"""


@pytest.mark.slow
def test_a_batch_over_two_devices_is_what_one_makes_of_it():
  flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
  environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
  environment["PYTHONPATH"] = os.pathsep.join(sys.path)
  done = subprocess.run(
    [sys.executable, "-c", TWO_DEVICES], env=environment, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.strip() == "same"


# Arguments of other kinds.


class Table:
  """An array by the protocol of NumPy, such as a column of pandas."""

  def __init__(self, values):
    self.values = values

  def __array__(self, dtype=None, copy=None):
    if self.values is None:
      raise RuntimeError("its file is closed")
    return self.values


@pytest.mark.parametrize(
  "kind",
  [np.asfortranarray, lambda x: x.astype(">f4"), lambda x: x.astype(np.longdouble), Table, list],
  ids=["Fortran's order", "big-endian", "long double", "a table", "a list"],
)
def test_whatever_numpy_takes_for_real_numbers_is_a_picture(kind):
  values = picture(0, 4, 5)
  checked = check_pictures("content", kind(values))
  assert checked.dtype in (np.float32, np.float64) and checked.dtype.isnative
  np.testing.assert_array_equal(np.asarray(checked, np.float32), values)


@pytest.mark.parametrize(
  ("value", "words"),
  [
    ([[1.0, 2.0], [3.0]], "an array, got list"),
    (Table(None), "its file is closed"),
    (np.ma.masked_greater(picture(0, 4, 5), 0.5), "no masked values"),
    (picture(0, 4, 5).astype(complex), "complex128"),
    (picture(0, 4, 5).astype(object), "object"),
    (picture(0, 4, 5).astype(jnp.float8_e5m2), "float8_e5m2"),
    (jnp.zeros((4, 5, 3), jnp.float8_e4m3fn), "float8_e4m3fn"),
  ],
)
def test_what_is_no_picture_is_refused_by_the_name_of_the_argument(value, words):
  with pytest.raises(ValueError, match=f"^content: .*{words}"):
    check_pictures("content", value)


@pytest.mark.parametrize("alpha", [0.5 + 0j, "0.5", None, True, [[0.5]], [[1.0], [0.5, 1.0]]])
def test_what_is_no_number_is_no_alpha(alpha):
  with pytest.raises(ValueError, match="^alpha: "):
    check_weight("alpha", alpha, 1)


@pytest.mark.parametrize("model", [None, 5, b"adain", ["adain"]])
def test_what_is_no_name_of_a_model_is_refused_by_its_type(model):
  with pytest.raises(ValueError, match=f"^model: .*got {type(model).__name__}$"):
    load_model(model)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.uint8, slow(jnp.float16), slow(jnp.bfloat16)])
def test_nothing_relies_on_the_promotion_of_types(stylizers, dtype):
  content = jnp.asarray(255 * picture(0, 16, 24)).astype(jnp.uint8)
  content = content if dtype == jnp.uint8 else (content / 255).astype(dtype)
  arguments = content, picture(1, 16, 16)
  expected = stylize(*arguments, model=stylizers["adain"], alpha=0.5, detail=0.5)
  with jax.numpy_dtype_promotion("strict"):
    strict = stylize(*arguments, model=stylizers["adain"], alpha=0.5, detail=0.5)
  assert strict.dtype == dtype
  np.testing.assert_array_equal(strict, expected)


@pytest.mark.slow
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_neither_do_the_methods_of_a_model_mixes_and_gradients(stylizers, transform):
  stylizer, style = stylizers[transform], picture(1, 16, 16)
  masks, half = np.ones((2, 16, 24), bool), jnp.float32(0.5)

  def results(content):
    code = stylizer.encode_style(style)
    mixed = mix_codes([code, stylizer.encode_style(content)], [0.25, 0.75])
    yield stylizer.stylize(content, code, 0.5, detail=0.5)
    yield stylizer.stylize(content, [code, mixed], half, masks=masks, color="luminance")
    yield stylizer.stylize(content, mixed, masks[0].astype(np.float32), stroke=2.0)
    yield stylize(content, style, model=stylizer, alpha=0.5, detail=0.5, look_size=12)
    yield stylize(content, [style, style], model=stylizer, weights=[0.5, 0.5], color="match")
    if content.dtype == jnp.float32:
      yield jax.grad(lambda x: stylizer.stylize(x, code, 0.5, detail=0.5).sum())(content)

  with jax.numpy_dtype_promotion("strict"):  # which is checked while a program is traced
    for dtype in (jnp.float32, jnp.uint8):
      like = jax.ShapeDtypeStruct((16, 24, 3), dtype)
      for got in jax.eval_shape(lambda content: list(results(content)), like):
        assert (got.shape, got.dtype) == (like.shape, dtype)


def test_neither_do_the_style_encoder_and_the_colors_of_a_part_of_a_picture():
  encoder = GlobalStyleEncoder(style_dim=4, descriptor_size=1, width=4)
  features = picture(0, 1, 8, 8).repeat(2, -1)
  pictures, where = picture(1, 1, 16, 24), jnp.ones((1, 16, 24, 1), bool)
  with jax.numpy_dtype_promotion("strict"):  # which is checked while a program is traced
    code = jax.eval_shape(lambda key: encoder.init_with_output(key, features)[0], jax.random.key(0))
    matched = jax.eval_shape(lambda x: match_colors(x, x, style_where=where), pictures)
  assert (code.shape, matched.shape) == ((1, 1, 1, 4), pictures.shape)


@pytest.mark.parametrize("long", [False, True])
def test_neither_does_a_palette(long):
  pictures = picture(0, 1, 16, 24)
  with strictest(long):
    moved = jax.eval_shape(lambda x: match_palette(x, measure_palette(x), 0.5), pictures)
  assert (moved.shape, moved.dtype) == (pictures.shape, np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("long", [False, True])
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_neither_does_a_refined_picture_with_detail_and_a_palette(stylizers, transform, long):
  content, style = picture(0, 16, 24), picture(1, 16, 24)

  def made(content, style, masks):
    options = {"model": stylizers[transform], "alpha": 0.7, "detail": 0.5, "refine": 2}
    yield stylize(content, style, palette=0.5, stroke=2.0, **options)
    yield stylize(content, [style, style], palette=0.5, weights=[0.5, 0.5], **options)
    yield stylize(content, [style, style], palette=0.5, masks=masks, **options)
    yield stylize(content, style, color="match", **options)

  arguments = content, style, np.ones((2, 16, 24), np.float32)
  with strictest(long):
    pictures = jax.eval_shape(lambda *arrays: list(made(*arrays)), *arguments)
  assert {(x.shape, x.dtype.name) for x in pictures} == {((16, 24, 3), "float32")}


@pytest.mark.slow
@pytest.mark.parametrize("option", ["palette", "refine", "match", "stroke", "masks"])
def test_neither_do_pictures_in_buckets_of_64_bits(stylizers, option):
  content, style = picture(0, 17, 25), picture(1, 20, 30)
  more = {
    "palette": {"palette": 0.5},
    "refine": {"refine": 1},
    "match": {"color": "match"},
    "stroke": {"stroke": 2.0},
    "masks": {"masks": np.ones((2, 17, 25), np.float32)},
  }[option]
  styles = [style, style] if option == "masks" else style
  expected = stylize(content, styles, model=stylizers["adain"], detail=0.3, **more)
  with strictest(True):
    got = stylize(content, styles, model=stylizers["adain"], detail=0.3, **more)
  assert got.dtype == np.float32
  # Adam divides by the size of the gradient, so where that is small, rounding is not.
  np.testing.assert_allclose(got, expected, atol=5e-3 if option == "refine" else 1e-4)


@contextlib.contextmanager
def strictest(long):
  """JAX's strict modes, which are checked while a program is traced, and its 64-bit mode."""
  with (
    jax.enable_x64(long),
    jax.numpy_dtype_promotion("strict"),
    jax.numpy_rank_promotion("raise"),
  ):
    yield
