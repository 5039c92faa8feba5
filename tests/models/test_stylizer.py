"""The whole model: sizes, alpha, style codes, settings and gradients."""

import dataclasses
import functools
import json
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from small_models import small_stylizer

from adaconv_jax.models.adaconv import AdaConv
from adaconv_jax.models.adain import AdaIN
from adaconv_jax.models.build import init_params, make_model, model_settings
from adaconv_jax.models.decoder import SCALES, Decoder
from adaconv_jax.models.networks import Networks
from adaconv_jax.models.style_code import blend, mix_codes
from adaconv_jax.models.stylizer import Stylizer
from adaconv_jax.ops.adaconv import adaconv
from adaconv_jax.ops.adain import EPS, ChannelStats
from adaconv_jax.ops.conv import upsample
from adaconv_jax.ops.extent import Extent

TRANSFORMS = ["adain", "adaconv"]
FAST = ["adain", pytest.param("adaconv", marks=pytest.mark.slow)]
ALL = [*FAST, pytest.param("adaconv_plus", marks=pytest.mark.slow)]
GROUPS = (512, 128, 32, 8)
cached_stylizer = functools.lru_cache(small_stylizer)

# Stylizers are arguments of compiled functions here: they are pytrees.
encode = jax.jit(lambda stylizer, style: stylizer.encode_style(style))
render = jax.jit(lambda stylizer, *args: stylizer.stylize(*args))
features_of = jax.jit(
  lambda stylizer, x: stylizer.vgg.apply({"params": stylizer.vgg_params}, x, ("relu4_1",))
)


def pictures(n: int, h: int, w: int, seed: int = 0) -> Any:
  """Blurred noise with a color cast of its own for each picture, in [0, 1]."""
  rng = np.random.default_rng([seed, n, h, w])
  noise = rng.random((n, h, w, 3)) + rng.uniform(-0.5, 0.5, (n, 1, 1, 3))
  for axis in (1, 2):
    noise = (noise + np.roll(noise, 1, axis)) / 2
  return np.clip(noise, 0, 1).astype(np.float32)


# Few shapes, because each is compiled by itself.
CONTENTS, STYLES = pictures(2, 16, 16), pictures(2, 64, 64, seed=1)


@functools.cache
def codes(transform: str):
  return encode(cached_stylizer(transform), STYLES)


def one(code, i: int):
  return jax.tree.map(lambda x: x[i : i + 1], code)


def assert_same(got, expected, tolerance=2e-5):
  """Sums over hundreds of float32 products, in another order."""
  for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * (1 + np.abs(theirs).max()))


def differ(a, b) -> bool:
  return np.abs(np.asarray(a) - np.asarray(b)).max() > 1e-2


# --- sizes ---


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize(
  "size", [(1, 1), (7, 2), (8, 16), (33, 47), pytest.param((511, 769), marks=pytest.mark.slow)]
)
def test_output_has_the_size_of_the_content(transform, size):
  content = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
  for alpha in (1.0, 0.5):
    run = functools.partial(cached_stylizer(transform).stylize, alpha=alpha)
    out = jax.eval_shape(run, content, codes(transform))
    assert (out.shape, out.dtype) == (content.shape, jnp.float32)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (15, 17), (64, 64), (513, 333)])
def test_the_size_of_the_style_does_not_show_in_its_code(transform, size):
  style = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
  got = jax.eval_shape(cached_stylizer(transform).encode_style, style)
  assert jax.tree.map(jnp.shape, got) == jax.tree.map(jnp.shape, codes(transform))


@pytest.mark.parametrize("transform", ALL)
def test_single_pixels_are_contents_and_styles(transform):
  stylizer = cached_stylizer(transform)
  code = encode(stylizer, pictures(1, 1, 1))
  assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(code))
  out = np.asarray(render(stylizer, pictures(1, 1, 1, seed=2), code))
  assert np.isfinite(out).all() and 0 <= out.min() <= out.max() <= 1


@pytest.mark.parametrize("transform", ["adain"])  # which has no part in it
def test_contents_are_mirrored_to_a_multiple_of_8_and_cropped_back(transform):
  cropped = CONTENTS[:, :13, :15]
  padded = np.pad(cropped, ((0, 0), (0, 3), (0, 1), (0, 0)), mode="reflect")
  stylizer, code = cached_stylizer(transform), codes(transform)
  expected = np.asarray(render(stylizer, padded, code))[:, :13, :15]
  assert_same(render(stylizer, cropped, code), expected)


def test_adain_keeps_styles_at_their_size_from_16_pixels_on():
  stylizer = cached_stylizer("adain")
  style = pictures(1, 16, 24)
  features = features_of(stylizer, style)["relu4_1"]
  assert features.shape == (1, 2, 3, 512)
  assert_same(encode(stylizer, style).mean, np.asarray(features).mean((1, 2)))


def test_adaconv_resizes_styles_with_antialiasing_as_pillow_does():
  stylizer, style = cached_stylizer("adaconv"), pictures(1, 150, 96)
  style[:, ::2, :, 1] = 0  # stripes, which without antialiasing would become moire
  channels = [
    np.asarray(Image.fromarray(style[0, :, :, c]).resize((64, 64), Image.Resampling.BILINEAR))
    for c in range(3)
  ]
  assert_same(encode(stylizer, style), encode(stylizer, np.stack(channels, -1)[None]), 1e-3)


# --- the two transforms ---


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_output_is_within_0_and_1_and_depends_on_content_and_style(transform):
  stylizer, code = cached_stylizer(transform), codes(transform)
  out = np.asarray(render(stylizer, CONTENTS, code))
  assert out.min() >= 0 and out.max() <= 1
  assert np.mean((out > 0) & (out < 1)) > 0.5  # else the other tests would compare clipped values
  assert differ(out[0], out[1])
  assert differ(render(stylizer, CONTENTS, jax.tree.map(lambda x: x[::-1], code)), out)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_pixels_outside_of_0_and_1_are_clipped(transform):
  stylizer, shift = cached_stylizer(transform), np.array([1, 0, -1], np.float32)
  params = dict(stylizer.params, decoder=dict(stylizer.params["decoder"]))
  last = params["decoder"]["conv1_2"]
  params["decoder"]["conv1_2"] = {**last, "bias": last["bias"] + shift}
  out = np.asarray(render(stylizer, CONTENTS, codes(transform)))
  inside = (out > 0) & (out < 1)
  other = dataclasses.replace(stylizer, params=params)
  moved = np.asarray(render(other, CONTENTS, codes(transform)))
  assert_same(moved[inside], np.clip(out + shift, 0, 1)[inside])


def test_adain_target_has_the_style_statistics_at_relu4_1():
  stylizer = cached_stylizer("adain")
  content = features_of(stylizer, pictures(2, 48, 40))["relu4_1"]
  style = np.asarray(features_of(stylizer, STYLES)["relu4_1"], np.float64)
  target = AdaIN().apply({}, content, codes("adain"), method="content_target")
  target = np.asarray(target, np.float64)
  mean, std = style.mean((1, 2)), np.sqrt(style.var((1, 2)) + EPS)
  assert np.asarray(content).var((1, 2)).max() > 0.1
  scale = mean.max()
  np.testing.assert_allclose(target.mean((1, 2)), mean, rtol=0, atol=1e-5 * scale)
  # eps shortens the deviation where the content's own variance is not far above it.
  variance = np.asarray(content, np.float64).var((1, 2))
  expected = std * np.sqrt(variance / (variance + EPS))
  np.testing.assert_allclose(target.std((1, 2)), expected, rtol=0, atol=1e-4 * scale)


@jax.jit
def decode(stylizer: Stylizer, features, code):
  """What `stylize` has to return for one image: no vmap, and AdaIN's code is in the features."""

  def all_scales(decoder: Decoder, x):
    for scale in range(4):
      x = upsample(x) if scale else x
      if not isinstance(code, ChannelStats):
        x = adaconv(x[0], *(kernel[0] for kernel in code[scale]), groups=GROUPS[scale])[None]
      x = decoder.decode_scale(scale, x, enlarge=False)
    return x

  params = {"params": stylizer.params["decoder"]}
  decoded = Decoder().apply(params, features, method=all_scales)
  return jnp.clip(cast(jax.Array, decoded), 0, 1)


@pytest.mark.parametrize("transform", FAST)
def test_alpha_blends_with_the_content_and_adds_what_its_reconstruction_loses(transform):
  stylizer, code = cached_stylizer(transform), codes(transform)
  if transform == "adain":
    features = np.asarray(features_of(stylizer, CONTENTS)["relu4_1"], np.float64)
    mean, std = features.mean((1, 2), keepdims=True), features.var((1, 2), keepdims=True) + EPS
    target = (features - mean) / np.sqrt(std) * np.asarray(code.std)[:, None, None]
    target, own = np.float32(target + np.asarray(code.mean)[:, None, None]), code
  else:
    features = target = features_of(stylizer, CONTENTS)["relu4_1"]
    own = encode(stylizer, CONTENTS)

  def decoded(alpha):
    x = (1 - alpha) * np.asarray(features, np.float32) + alpha * target
    c = code if transform == "adain" else blend(own, code, alpha)
    return np.stack([decode(stylizer, x[i : i + 1], one(c, i))[0] for i in range(2)])

  lost = CONTENTS - decoded(0.0)
  for alpha in (0.0, 0.4, 1.0):
    expected = np.clip(decoded(alpha) + (1 - alpha) * lost, 0, 1)
    assert_same(render(stylizer, CONTENTS, code, alpha), expected, 5e-5)
  assert differ(lost, 0) and differ(decoded(1.0), decoded(0.0))


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_only_an_alpha_below_1_decodes_once_more(transform, monkeypatch):
  stylizer, code, calls = cached_stylizer(transform), codes(transform), []
  decode = Networks.decode_scales
  counted = lambda *args, **kw: (calls.append(1), decode(*args, **kw))[1]  # noqa: E731
  monkeypatch.setattr(Networks, "decode_scales", counted)
  for alpha, times in ((1.0, 1), (1, 1), (0.5, 2), (np.array([1.0, 1.0]), 2)):
    calls.clear()
    jax.eval_shape(lambda x, a=alpha: stylizer.stylize(x, code, a), CONTENTS)
    assert len(calls) == times


@pytest.mark.parametrize("transform", ALL)
def test_a_python_1_is_a_traced_1(transform):
  stylizer, code = cached_stylizer(transform), codes(transform)
  traced = render(stylizer, CONTENTS, code, 1.0)
  integer = jax.jit(lambda *args: Stylizer.stylize(*args, alpha=1))
  assert_same(integer(stylizer, CONTENTS, code), np.asarray(traced))
  assert_same(render(stylizer, CONTENTS, code), np.asarray(traced))  # the default is a Python 1.0
  assert differ(render(stylizer, CONTENTS, code, 0.5), traced)


def test_at_a_python_1_the_start_is_not_computed_with():
  assert blend(None, "end", 1) == blend(None, "end", 1.0) == "end"
  start, end = {"a": jnp.float32(2), "b": jnp.ones(2)}, {"a": jnp.float32(4), "b": jnp.zeros(2)}
  np.testing.assert_allclose(blend(start, end, 0.25)["a"], 2.5)
  np.testing.assert_allclose(blend(start, end, jnp.float32(0.25))["b"], [0.75, 0.75])


def test_adain_alpha_interpolates_between_the_feature_maps():
  stylizer, code = cached_stylizer("adain"), codes("adain")
  content = features_of(stylizer, CONTENTS)["relu4_1"]
  target = functools.partial(AdaIN().apply, {}, content, code, method="content_target")
  expected = 0.7 * np.asarray(content) + 0.3 * np.asarray(target())
  assert_same(target(alpha=0.3), expected)


@pytest.mark.slow
def test_adaconv_alpha_interpolates_between_the_style_descriptors():
  stylizer = cached_stylizer("adaconv")
  resized = jax.image.resize(CONTENTS, (2, 64, 64, 3), "linear")

  @jax.jit
  def predict_between(start, end):
    def mix(model):
      mixed = 0.7 * model.style_encoder(start) + 0.3 * model.style_encoder(end)
      return tuple(predict(mixed) for predict in model.predictors)

    return stylizer.model.apply({"params": stylizer.params}, method=mix)

  mixed = predict_between(*(features_of(stylizer, x)["relu4_1"] for x in (resized, STYLES)))
  assert_same(blend(encode(stylizer, CONTENTS), codes("adaconv"), 0.3), mixed)
  lost = CONTENTS - np.asarray(render(stylizer, CONTENTS, encode(stylizer, CONTENTS)))
  expected = np.clip(np.asarray(render(stylizer, CONTENTS, mixed)) + 0.7 * lost, 0, 1)
  assert_same(render(stylizer, CONTENTS, codes("adaconv"), 0.3), expected)


# --- buckets ---


@jax.jit
def render_inside(stylizer: Stylizer, content, style, alpha, extent, style_extent):
  code = stylizer.encode_style(style, style_extent)
  encoded = stylizer.encode_content(content, extent=extent)
  return stylizer.render(encoded, code, alpha, detail=1 - alpha)


@jax.jit
def render_alone(stylizer: Stylizer, content, style, alpha):
  return stylizer.stylize(content, stylizer.encode_style(style), alpha, detail=1 - alpha)


@pytest.fixture
def in_float64():
  """Both sides of a comparison would be up to 5e-5 away from this in float32."""
  with jax.enable_x64(True):
    yield lambda *trees: jax.tree.map(np.float64, trees)


def in_array(images, garbage: Any = 0.0):
  n, h, w, _ = images.shape
  padded = np.empty((n, 40, 40, 3), images.dtype)
  padded[:] = garbage
  padded[:, :h, :w] = images
  return padded, Extent(h, w)


# One pixel; an odd side and a multiple of 8; one that fills its array.
@pytest.mark.parametrize("transform", ALL)
@pytest.mark.parametrize(
  "size", [*(pytest.param(s, marks=pytest.mark.slow) for s in [(1, 1), (40, 40)]), (17, 32)]
)
def test_a_picture_in_a_bucket_is_rendered_as_if_alone(transform, size, in_float64):
  h, w = size
  stylizer, content, style = in_float64(
    cached_stylizer(transform), pictures(2, h, w), pictures(1, max(w, 16), max(h, 16), seed=1)
  )
  (padded, extent), (padded_style, style_extent) = in_array(content), in_array(style)
  for alpha in (1.0, 0.5):
    expected = np.asarray(render_alone(stylizer, content, style, alpha))
    got = render_inside(stylizer, padded, padded_style, alpha, extent, style_extent)
    assert expected.dtype == np.float64
    # One pixel is constant: every normalization enlarges the rounding, and skips have more of them.
    atol = 1e-8 if (transform, size) == ("adaconv_plus", (1, 1)) else 1e-10
    np.testing.assert_allclose(got[:, :h, :w], expected, rtol=0, atol=atol)


@pytest.mark.parametrize("transform", ALL)
def test_what_lies_beside_a_picture_in_a_bucket_has_no_influence(transform, in_float64):
  stylizer, content, style = in_float64(
    cached_stylizer(transform), pictures(2, 21, 30), pictures(1, 33, 18)
  )
  rng, outs = np.random.default_rng(0), []
  for garbage in (0, rng.normal(0, 1e20, (40, 40, 3)), np.nan):
    (padded, extent), (padded_style, style_extent) = (
      in_array(x, garbage) for x in (content, style)
    )
    out = render_inside(stylizer, padded, padded_style, 0.5, extent, style_extent)
    outs.append(np.asarray(out)[:, :21, :30])
  np.testing.assert_array_equal(outs[1], outs[0])
  np.testing.assert_array_equal(outs[2], outs[0])


# --- pictures as arguments ---


def to_bytes(images):
  return np.round(images * 255).astype(np.uint8)


@pytest.mark.parametrize("transform", ALL)
def test_uint8_is_scaled_and_the_output_has_the_type_of_the_content(transform):
  stylizer, content, style = cached_stylizer(transform), to_bytes(CONTENTS), to_bytes(STYLES[:1])
  scaled = content / np.float32(255), style / np.float32(255)
  expected = np.asarray(render(stylizer, scaled[0], encode(stylizer, scaled[1]), 0.5))
  code = encode(stylizer, style)
  got = render(stylizer, content, code, 0.5)
  assert got.dtype == np.uint8 and got.shape == content.shape
  # Rounding to whole numbers goes either way where the float is half between them, and random skips
  # enlarge that of the floats.
  limit = 0.6 if transform == "adaconv_plus" else 0.51
  assert np.abs(np.asarray(got, np.float32) - 255 * expected).max() < limit
  rounded = jnp.asarray(scaled[0], jnp.bfloat16)
  half = render(stylizer, rounded, code, 0.5)
  assert half.dtype == jnp.bfloat16
  expected = render(stylizer, rounded.astype(jnp.float32), code, 0.5)
  np.testing.assert_allclose(half.astype(np.float32), expected, rtol=2**-8, atol=1e-4)


@pytest.mark.parametrize("transform", ALL)
def test_one_picture_needs_no_batch_axis(transform):
  stylizer = cached_stylizer(transform)
  code = encode(stylizer, STYLES[0])
  assert jax.tree.map(jnp.shape, code) == jax.tree.map(jnp.shape, one(codes(transform), 0))
  expected = np.asarray(render(stylizer, CONTENTS[:1], code, 0.5))[0]
  got = render(stylizer, CONTENTS[0], code, 0.5)
  assert got.shape == (16, 16, 3)
  assert_same(got, expected)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("batch", [pytest.param((), marks=pytest.mark.slow), (2,)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, jnp.bfloat16])
def test_encoded_contents_are_rendered_in_their_shape_and_type(transform, batch, dtype):
  stylizer = cached_stylizer(transform)
  content = jax.ShapeDtypeStruct((*batch, 9, 17, 3), dtype)
  code = one(codes(transform), 0)
  for alpha in (1.0, 0.5):
    out = jax.eval_shape(
      lambda x, a=alpha: stylizer.render(stylizer.encode_content(x), code, a), content
    )
    assert (out.shape, out.dtype) == (content.shape, dtype)


@pytest.mark.slow
def test_vmap_maps_over_single_pictures():
  stylizer, code = cached_stylizer("adain"), one(codes("adain"), 0)
  mapped = jax.jit(jax.vmap(lambda x: stylizer.stylize(x, code)))
  assert_same(mapped(CONTENTS), np.asarray(render(stylizer, CONTENTS, code)))


BAD_PICTURES = [
  (np.zeros((4, 4), np.float32), r"expected RGB of the shape \[h, w, 3\] or .*, got \[4, 4\]"),
  (np.zeros((1, 4, 4, 4), np.uint8), r"expected RGB .*, got \[1, 4, 4, 4\]"),
  (np.zeros((0, 4, 3), np.float32), r"expected at least one pixel, got the shape \[0, 4, 3\]"),
  (np.zeros((4, 4, 3), int), r"expected float in \[0, 1\] or uint8, got int64"),
  (np.full((4, 4, 3), 255.0), r"expected float values in \[0, 1\], got 255 to 255; divide"),
  (np.full((4, 4, 3), np.nan), r"expected values in \[0, 1\], got NaN"),
]


@pytest.mark.parametrize(("picture", "message"), BAD_PICTURES)
def test_bad_pictures_are_refused_by_the_name_of_the_argument(picture, message):
  stylizer, code = cached_stylizer("adain"), codes("adain")
  for name, call in {
    "content": lambda: stylizer.stylize(picture, code),
    "content ": lambda: stylizer.encode_content(picture),
    "style": lambda: stylizer.encode_style(picture),
    "style ": lambda: stylizer.fit_style(picture),
  }.items():
    with pytest.raises(ValueError, match=f"^{name.strip()}: {message}"):
      call()


def test_what_lies_beside_a_picture_in_a_bucket_is_not_checked():
  padded = np.full((24, 24, 3), np.nan, np.float32)
  padded[:16, :16] = CONTENTS[0]
  fitted = cached_stylizer("adain").fit_style(padded, Extent(16, 16))
  assert fitted.shape == (1, 24, 24, 3)


def test_models_whose_kernels_look_farther_than_one_pixel_take_no_bucket():
  model = make_model("adaconv", {"kernel_size": 5})
  wide = dataclasses.replace(cached_stylizer("adaconv"), model=model)
  with pytest.raises(ValueError, match="^extent: expected None for kernels larger than 3 x 3, got"):
    wide.encode_content(CONTENTS, extent=Extent(16, 16))


@pytest.mark.parametrize("name", ["alpha", "detail"])
@pytest.mark.parametrize("weight", [-0.1, 1.1, np.nan, [0.5, -1], [[0.5, 0.5]], []])
def test_a_bad_alpha_or_detail_is_refused_before_any_work(name, weight):
  stylizer = dataclasses.replace(cached_stylizer("adain"), params=None)
  with pytest.raises(ValueError, match=rf"^{name}: expected .* in \[0, 1\].*, got "):
    stylizer.stylize(CONTENTS, codes("adain"), **{name: weight})


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_an_alpha_below_1_needs_contents_that_were_encoded_for_it(transform):
  stylizer = cached_stylizer(transform)
  content = jax.eval_shape(lambda x: stylizer.encode_content(x, for_alpha=False), CONTENTS)
  message = r"^alpha: expected 1, because of encode_content\(\.\.\., for_alpha=False\)"
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(lambda c: stylizer.render(c, codes(transform), 0.5), content)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_pictures_in_place_of_codes_are_refused_with_the_way_out(transform):
  stylizer = cached_stylizer(transform)
  got = r"an array of the shape \[2, 64, 64, 3\]"
  with pytest.raises(
    ValueError, match=f"^code: expected what encode_style .* got {got}; encode the"
  ):
    jax.eval_shape(stylizer.stylize, CONTENTS, STYLES)
  with pytest.raises(
    ValueError, match=f"^content: expected what encode_content .* got {got}; `sty"
  ):
    stylizer.render(STYLES, codes(transform))


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_what_is_no_code_of_the_model_is_refused_by_every_method(transform):
  stylizer = cached_stylizer(transform)
  content = jax.eval_shape(stylizer.encode_content, CONTENTS)
  (other,) = set(TRANSFORMS) - {transform}
  code = codes(transform)
  without_axis = jax.tree.map(lambda x: x[0], code)
  ragged = jax.tree.unflatten(
    jax.tree.structure(code), [x[: 1 + (i == 0)] for i, x in enumerate(jax.tree.leaves(code))]
  )
  wrong = {
    "None": None,
    "tuple|ChannelStats": codes(other),
    "str": "adain",
    "one style without it": without_axis,
    "of one n": ragged,
  }
  for got, value in wrong.items():
    for method, given in (
      (stylizer.stylize, CONTENTS),
      (stylizer.render, content),
      (stylizer.content_stats, content),
    ):
      with pytest.raises(ValueError, match=f"^code: expected what encode_style of .*({got})"):
        jax.eval_shape(lambda x, method=method, value=value: method(x, value), given)


def test_codes_of_two_models_cannot_be_mixed():
  with pytest.raises(ValueError, match=r"^codes: expected codes of one model, .* codes\[1\]"):
    mix_codes([codes("adain"), codes("adaconv")])


def test_a_stylizer_shows_itself_in_a_line():
  stylizer = cached_stylizer("adain")
  count = sum(np.size(leaf) for leaf in jax.tree.leaves(stylizer.params))
  assert repr(stylizer) == f"Stylizer(adain, {count:,} parameters, vgg16)"
  assert count == 3_505_219
  assert repr(cached_stylizer("adaconv")).startswith("Stylizer(adaconv, ")
  shapes = jax.eval_shape(lambda s: s, stylizer)
  assert repr(shapes) == repr(stylizer)
  assert jax.jit(lambda s: jnp.zeros(len(repr(s))))(stylizer).shape == (len(repr(stylizer)),)


# --- codes and pytrees ---


@pytest.mark.parametrize("transform", ALL)
def test_a_code_serves_many_contents(transform):
  stylizer, code = cached_stylizer(transform), one(codes(transform), 0)
  together = render(stylizer, CONTENTS, code)
  for i in range(2):
    alone = render(stylizer, CONTENTS[i : i + 1], code)
    assert_same(alone, np.asarray(together[i : i + 1]))
  repeated = jax.tree.map(lambda x: jnp.repeat(x, 2, axis=0), code)
  assert_same(render(stylizer, CONTENTS, repeated), np.asarray(together))


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_images_of_a_batch_do_not_touch_each_other(transform):
  stylizer, code = cached_stylizer(transform), codes(transform)
  together = render(stylizer, CONTENTS, code)
  assert_same(encode(stylizer, STYLES[:1]), one(code, 0))
  for i in range(2):
    alone = render(stylizer, CONTENTS[i : i + 1], one(code, i))
    assert_same(alone, np.asarray(together[i : i + 1]))


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("contents", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_neither_one_style_nor_one_per_content_is_an_error(transform, contents):
  message = f"code: expected one style, or one for each of {contents} contents, got 2"
  with pytest.raises(ValueError, match=message):
    cached_stylizer(transform).stylize(jnp.zeros((contents, 8, 8, 3)), codes(transform))


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_a_stylizer_survives_flattening_and_its_leaves_are_all_weights(transform):
  stylizer = cached_stylizer(transform)
  leaves, structure = jax.tree.flatten(stylizer)
  weights = jax.tree.leaves((stylizer.params, stylizer.vgg_params))
  assert [id(leaf) for leaf in leaves] == [id(leaf) for leaf in weights]
  again = structure.unflatten(leaves)
  assert isinstance(again, Stylizer)
  assert (again.model, again.vgg) == (stylizer.model, stylizer.vgg)
  traced = []
  run = jax.jit(lambda s: traced.append(s.model) or s.params["decoder"]["conv1_2"]["bias"] + 1)
  np.testing.assert_array_equal(run(again), run(stylizer))
  assert traced == [stylizer.model]  # an equal model is not compiled again


@jax.jit
def gradients(stylizer, content, style, alpha):
  def loss(content, style, alpha):
    return (stylizer.stylize(content, stylizer.encode_style(style), alpha) ** 2).sum()

  return jax.grad(loss, (0, 1, 2))(content, style, alpha)


@pytest.mark.slow
@pytest.mark.parametrize("transform", ALL)
def test_gradients_with_respect_to_content_style_and_alpha_are_finite(transform):
  stylizer, content, style = cached_stylizer(transform), CONTENTS[:1], STYLES[:1]
  for gradient in gradients(stylizer, content, style, 0.5):
    assert jnp.isfinite(gradient).all() and jnp.abs(gradient).max() > 0
  for gradient in gradients(stylizer, np.zeros_like(content), np.ones_like(style), 1.0):
    assert jnp.isfinite(gradient).all()


# --- models and their settings ---


def init_shapes(model):
  return jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))


def test_adaconv_has_59_million_parameters_and_adain_3_5():
  shapes = {t: init_shapes(make_model(t)) for t in TRANSFORMS}
  sizes = {t: sum(x.size for x in jax.tree.leaves(tree)) / 1e6 for t, tree in shapes.items()}
  assert (round(sizes["adaconv"]), round(sizes["adain"], 1)) == (59, 3.5)
  assert shapes["adain"]["decoder"] == shapes["adaconv"]["decoder"]


def test_published_adaconv_kernels_of_a_batch():
  features = jax.ShapeDtypeStruct((8, 32, 32, 512), jnp.float32)
  model = AdaConv()
  params = init_shapes(model)
  encode = functools.partial(model.apply, method="encode_style")
  code = jax.eval_shape(encode, {"params": params}, features)
  for kernels, (channels, _), groups in zip(code, SCALES, GROUPS, strict=True):
    per_group = channels // groups
    assert kernels.spatial.shape == (8, 3, 3, per_group, channels)
    assert kernels.pointwise.shape == (8, 1, 1, per_group, channels)
    assert kernels.bias.shape == (8, channels)
  out = jax.eval_shape(model.apply, {"params": params}, features, features)
  assert out.shape == (8, 256, 256, 3)


SMALL = {"style_dim": 32, "kernel_size": 5, "groups": (256, 64, 16, 4), "style_size": 128}


@pytest.mark.parametrize(
  "transform, settings", [("adain", None), ("adaconv", None), ("adaconv", SMALL)]
)
def test_a_model_comes_back_from_the_json_of_its_settings(transform, settings):
  model = make_model(transform, settings)
  described = json.loads(json.dumps(model_settings(model)))
  again = make_model(**described)
  assert again == model and hash(again) == hash(model)
  assert described["transform"] == transform
  for name, value in (settings or {}).items():
    assert getattr(model, name) == value


def test_the_default_settings_are_the_published_ones():
  assert model_settings(AdaIN()) == {"transform": "adain", "settings": {}}
  assert model_settings(AdaConv())["settings"] == {
    "style_dim": 512,
    "kernel_size": 3,
    "groups": (512, 128, 32, 8),
    "encoder_width": 512,
    "style_size": 256,
    "style_fit": "squeeze",
  }


def test_unknown_transforms_and_settings_are_errors():
  with pytest.raises(
    ValueError, match=r"transform: expected one of \['adaconv', 'adaconv_plus', 'adain'\].*'wct'"
  ):
    make_model("wct")
  with pytest.raises(ValueError, match=r"adain: unknown settings \['style_dim'\]; it has \[\]"):
    make_model("adain", {"style_dim": 3})
  with pytest.raises(ValueError, match=r"adaconv: unknown settings \['name'\]; it has .*'groups'"):
    make_model("adaconv", {"name": "x"})


@pytest.mark.parametrize(
  "settings, message",
  [
    ({"kernel_size": 4}, "kernel_size: expected an odd number, got 4"),
    ({"kernel_size": -1}, "kernel_size: expected an odd number, got -1"),
    ({"groups": 1}, "groups: expected one number per scale, got 1"),
    ({"groups": (512, 128, 32)}, "groups: expected one number per scale .*, got .512, 128, 32"),
    ({"groups": (512, 100, 32, 8)}, "groups: expected divisors .*, got .512, 100, 32, 8"),
    ({"groups": (512, 128, 32, 0)}, "groups: expected divisors .*, got .512, 128, 32, 0"),
    ({"style_size": 63}, "style_size: expected at least 64, got 63"),
  ],
)
def test_settings_that_do_not_fit_are_errors(settings, message):
  with pytest.raises(ValueError, match=message):
    init_shapes(make_model("adaconv", settings))
