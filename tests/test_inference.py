"""`stylize` as a JAX function.

Most tests use AdaIN: AdaConv takes several times longer to compile.
"""

import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from small_models import picture, small_stylizer

import adaconv_jax
import infer
from adaconv_jax import images, inference, rooms, save_bundle, stages, stylize
from adaconv_jax.models.build import make_model
from adaconv_jax.models.stylizer import ContentCode, Stylizer
from adaconv_jax.ops.detail import add_detail
from adaconv_jax.ops.extent import Extent

TRANSFORMS = ["adain", "adaconv"]


@pytest.fixture(scope="module")
def stylizers():
  return {transform: small_stylizer(transform) for transform in TRANSFORMS}


@pytest.fixture(scope="module")
def adain(stylizers):
  return stylizers["adain"]


# Multiples of 8, so that what AdaIN's decoder gets of a content is what its code is made of.
CONTENT, STYLE = picture(0, 2, 16, 24), picture(1, 16, 24)


def test_it_is_the_same_under_all_its_names():
  assert adaconv_jax.stylize is inference.stylize is infer.stylize
  assert adaconv_jax.Stylizer is Stylizer


@pytest.mark.parametrize("transform", ["adain", pytest.param("adaconv", marks=pytest.mark.slow)])
def test_it_is_the_stylizer_with_one_style_for_all_contents(stylizers, transform):
  stylizer = stylizers[transform]
  direct = jax.jit(lambda s, x, y, a: s.stylize(x, s.encode_style(y), a))
  expected = direct(stylizer, CONTENT, np.stack([STYLE, STYLE]), jnp.float32(0.3))
  got = stylize(CONTENT, STYLE, model=stylizer, alpha=0.3)
  assert got.shape == CONTENT.shape and got.dtype == np.float32
  np.testing.assert_allclose(got, expected, atol=1e-4)  # another order of the same sums
  assert 0.05 < got.std() < 0.5  # or the comparison would say nothing


def test_every_content_gets_its_own_style(adain):
  styles = np.stack([STYLE, 1 - STYLE**2])
  together = stylize(CONTENT, styles, model=adain)
  for content, style, expected in zip(CONTENT, styles, together, strict=True):
    np.testing.assert_allclose(stylize(content, style, model=adain), expected, atol=2e-5)
  assert np.abs(together[1] - stylize(CONTENT[1], styles[0], model=adain)).max() > 0.01


@pytest.mark.parametrize("transform", ["adain", pytest.param("adaconv", marks=pytest.mark.slow)])
def test_alpha_goes_from_the_content_to_the_style(stylizers, transform):
  stylizer = stylizers[transform]
  plain = stylize(CONTENT, STYLE, model=stylizer)
  full = stylize(CONTENT, STYLE, model=stylizer, alpha=jnp.ones(()))
  np.testing.assert_allclose(full, plain, atol=2e-5)  # 1 as an array has another program
  # At 0 nothing of the style is left, and nothing of the content is lost.
  none = stylize(CONTENT, STYLE, model=stylizer, alpha=0)
  np.testing.assert_allclose(none, CONTENT, atol=2e-6)
  assert np.abs(np.asarray(none - full)).max() > 0.01
  # From there to the style, every step leads away from the content.
  steps = [stylize(CONTENT, STYLE, model=stylizer, alpha=a) for a in (0.25, 0.5, 0.75)]
  distances = [np.abs(np.asarray(x) - CONTENT).mean() for x in (none, *steps, full)]
  assert distances == sorted(distances)


@pytest.mark.parametrize("transform", [pytest.param("adaconv", marks=pytest.mark.slow), "adain"])
def test_bytes_at_alpha_0_are_those_of_the_content(stylizers, transform):
  content, style = (images.to_uint8(x) for x in (CONTENT[0], STYLE))
  for detail in (0, 0.5):
    got = stylize(content, style, model=stylizers[transform], alpha=0, detail=detail)
    np.testing.assert_array_equal(got, content)


@pytest.mark.slow
@pytest.mark.parametrize("transform", ["adaconv", "adain"])
def test_every_content_may_have_its_own_alpha_and_detail(stylizers, transform):
  stylizer, weights = stylizers[transform], np.array([[0.2, 0.9], [0.7, 0.1]])
  for style in (STYLE, np.stack([STYLE, 1 - STYLE**2])):
    got = stylize(CONTENT, style, model=stylizer, alpha=weights[0], detail=weights[1])
    for i, (alpha, detail) in enumerate(zip(*weights, strict=True)):
      own = style if style.ndim == 3 else style[i]
      alone = stylize(CONTENT[i], own, model=stylizer, alpha=alpha, detail=detail)
      np.testing.assert_allclose(got[i], alone, atol=5e-5)


@pytest.mark.slow
def test_detail_is_the_exchange_of_fine_structure_in_the_output(adain):
  plain = stylize(CONTENT, STYLE, model=adain)
  expected = np.clip(add_detail(plain, jnp.asarray(CONTENT), 0.6), 0, 1)
  got = stylize(CONTENT, STYLE, model=adain, detail=0.6)
  np.testing.assert_allclose(got, expected, atol=2e-5)
  assert np.abs(np.asarray(got - plain)).max() > 1e-3  # untrained decoders make little structure
  np.testing.assert_array_equal(stylize(CONTENT, STYLE, model=adain, detail=0), plain)
  traced = stylize(CONTENT, STYLE, model=adain, detail=jnp.zeros(2))  # has another program
  np.testing.assert_allclose(traced, plain, atol=2e-5)


def test_uint8_is_rounded_and_the_output_has_the_type_of_the_content(adain):
  content, style = (images.to_uint8(x) for x in (CONTENT[0], STYLE))
  expected = stylize(content / np.float32(255), style / np.float32(255), model=adain)
  got = stylize(content, style, model=adain)
  assert got.dtype == np.uint8
  assert np.abs(np.asarray(got, np.float32) - 255 * np.asarray(expected)).max() < 0.51
  mixed = stylize(jnp.asarray(content / np.float32(255), jnp.bfloat16), style, model=adain)
  assert mixed.dtype == jnp.bfloat16
  np.testing.assert_allclose(mixed.astype(np.float32), expected, atol=0.02)  # of 8 bits each
  assert stylize(content / np.float32(255).astype(float), style, model=adain).dtype == np.float32


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 5), (9, 17)])
def test_any_size_comes_back_as_it_was(adain, height, width):
  got = stylize(picture(2, height, width), picture(3, width, height), model=adain)
  assert got.shape == (height, width, 3) and np.isfinite(got).all()


def test_a_shape_is_compiled_once_whatever_the_values(adain, monkeypatch):
  jax.clear_caches()  # of programs for pictures that are padded to the same size
  traced = []
  for name in ("encode_style", "stylize"):
    method = getattr(Stylizer, name)
    monkeypatch.setattr(
      Stylizer, name, lambda *args, m=method, n=name, **kw: traced.append(n) or m(*args, **kw)
    )
  content, style = picture(4, 11, 13), picture(5, 18, 19)
  other = jax.tree.map(lambda x: x / 2, adain.params)
  for model in (adain, adain.replace(params=other)):
    for alpha in (0.2, 0, np.float32(0.4), jnp.asarray(0.6)):
      stylize(content * alpha, style * alpha, model=model, alpha=alpha, detail=1 - alpha)
  assert traced == ["encode_style", "stylize"]
  for scale in (1, 0.5):
    stylize(content, style * scale, model=adain)
    stylize(content, style * scale, model=adain, alpha=1)
  assert traced == ["encode_style", "stylize", "stylize"]  # alpha of 1 has a program of its own


def test_adaconv_compiles_for_the_first_size_of_style_only(stylizers, monkeypatch):
  stylize(CONTENT, STYLE, model=stylizers["adaconv"])
  monkeypatch.setattr(Stylizer, "encode_style", None)
  monkeypatch.setattr(Stylizer, "stylize", None)
  stylize(CONTENT, picture(6, 21, 30), model=stylizers["adaconv"])


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compiler")
def test_jit_and_vmap_give_what_separate_calls_give(adain):
  content, style = CONTENT[:, :9], picture(6, 10, 9)
  expected = stylize(content, style, model=adain, alpha=0.5, detail=0.5)
  jitted = jax.jit(lambda x, y, a: stylize(x, y, model=adain, alpha=a, detail=a))
  np.testing.assert_allclose(jitted(content, style, 0.5), expected, atol=2e-5)
  mapped = jax.vmap(lambda x, a: stylize(x, style, model=adain, alpha=a, detail=a))
  np.testing.assert_allclose(mapped(content, jnp.full(2, 0.5)), expected, atol=2e-5)
  # Values are unknown inside of jit, so that nothing of them is checked.
  assert np.isnan(jitted(content * np.nan, style, 0.5)).any()


@pytest.fixture
def quick_compiler():
  """Programs that run once or twice: optimizing them takes longer than running them."""
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.slow
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_gradients_are_those_of_small_steps_and_finite_on_flat_images(stylizers, transform):
  stylizer, content, style = stylizers[transform], CONTENT[:1], STYLE
  weights = picture(7, 1, 16, 24)

  def loss(content, style, alpha):
    return (weights * stylize(content, style, model=stylizer, alpha=alpha)).sum()

  compiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))
  at = (jnp.asarray(content), jnp.asarray(style), jnp.asarray(0.5))
  for index, gradient in enumerate(compiled(*at)[1]):
    assert np.isfinite(gradient).all()
    step = 2e-4 * gradient / jnp.linalg.norm(gradient)
    there, back = (at[:index] + (at[index] + s,) + at[index + 1 :] for s in (step, -step))
    slope = (compiled(*there)[0] - compiled(*back)[0]) / 4e-4
    # ReLU and max pooling have kinks, which a step of this size may cross.
    np.testing.assert_allclose(slope, jnp.linalg.norm(gradient), rtol=0.2)
  flat = [jnp.full_like(x, 0.5) for x in at]  # no channel of a flat image deviates from its mean
  assert all(np.isfinite(gradient).all() for gradient in compiled(*flat)[1])


def with_value(value):
  image = picture(0, 4, 4).copy()
  image[1, 2, 0] = value
  return image


BAD_IMAGES = [
  (picture(0, 4)[..., 0], r"expected RGB of the shape \[h, w, 3\] or .* got \[4\]; gray pic"),
  (np.zeros((1, 1, 4, 4, 3)), r"got \[1, 1, 4, 4, 3\]"),
  (np.zeros((4, 4, 4), np.uint8), r"got \[4, 4, 4\]"),
  (jnp.zeros((3, 8, 8)), r"got \[3, 8, 8\]"),
  (np.zeros((0, 4, 3)), r"expected at least one pixel, got the shape \[0, 4, 3\]"),
  (np.zeros((0, 4, 4, 3)), r"expected at least one pixel, got the shape \[0, 4, 4, 3\]"),
  (np.zeros((4, 4, 3), int), r"expected float in \[0, 1\] or uint8, got int64"),
  (np.zeros((4, 4, 3), bool), r"expected float in \[0, 1\] or uint8, got bool"),
  (with_value(np.nan), r"expected values in \[0, 1\], got NaN"),
  (jnp.asarray(with_value(np.nan), jnp.bfloat16), r"expected values in \[0, 1\], got NaN"),
  (with_value(np.inf), r"expected float values in \[0, 1\], got .* to inf"),
  (with_value(255.0), r"expected float values in \[0, 1\], got .* to 255; divide"),
  (with_value(-0.1), r"expected float values in \[0, 1\], got -0.1 to"),
]


@pytest.mark.parametrize(("image", "message"), BAD_IMAGES)
@pytest.mark.parametrize("name", ["content", "style"])
def test_bad_images_are_refused_by_the_name_of_the_argument(adain, name, image, message):
  arguments: dict[str, Any] = {"content": CONTENT, "style": STYLE, name: image}
  with pytest.raises(ValueError, match=f"^{name}: .*{message}"):
    stylize(**arguments, model=adain)


def test_rounding_errors_outside_of_the_range_are_taken(adain):
  assert stylize(CONTENT[0] * 0 + 1.0005, STYLE, model=adain).max() <= 1


@pytest.mark.parametrize(
  ("alpha", "got"),
  [
    (-0.1, "-0.1"),
    (1.1, "1.1"),
    (np.nan, "nan"),
    (jnp.asarray(2), "2"),
    ([0.5, np.nan], "nan"),
    (jnp.asarray([0.5, 1.5]), "1.5"),
  ],
)
@pytest.mark.parametrize("name", ["alpha", "detail"])
def test_a_bad_alpha_or_detail_is_refused(adain, name, alpha, got):
  with pytest.raises(ValueError, match=f"^{name}: expected a number in \\[0, 1\\], got {got}"):
    stylize(CONTENT, STYLE, model=adain, **{name: alpha})


@pytest.mark.parametrize(
  ("alpha", "got"),
  [
    ([0.5] * 3, r"float64\[3"),
    ([0.5], r"float64\[1"),
    ([[0.5, 0.5]], r"float64\[1, 2"),
  ],
)
@pytest.mark.parametrize("name", ["alpha", "detail"])
def test_neither_one_alpha_nor_one_per_content_is_an_error(adain, name, alpha, got):
  message = f"^{name}: expected one number in .*, or one for each of 2 contents, got {got}"
  with pytest.raises(ValueError, match=message):
    stylize(CONTENT, STYLE, model=adain, **{name: alpha})


@pytest.mark.parametrize("value", [None, "1", [None, 0.5]])
def test_what_is_no_number_is_refused_by_name(adain, value):
  for name in ("alpha", "detail"):
    with pytest.raises(ValueError, match=f"^{name}: expected numbers, got "):
      stylize(CONTENT, STYLE, model=adain, **{name: value})
  with pytest.raises(ValueError, match="^(masks|weights): expected "):
    stylize(CONTENT, [STYLE, STYLE], model=adain, weights=[value, value])
  if value is not None:
    with pytest.raises(ValueError, match="^masks: expected numbers, got "):
      stylize(CONTENT, [STYLE, STYLE], model=adain, masks=value)


def test_pictures_of_pillow_and_lists_of_numbers_are_taken_like_arrays(adain):
  content = np.round(CONTENT[0] * 255).astype(np.uint8)
  expected = stylize(content, STYLE, model=adain)
  opened: Any = Image.fromarray(content)
  np.testing.assert_array_equal(stylize(opened, STYLE, model=adain), expected)
  listed = stylize((content / np.float32(255)).tolist(), STYLE, model=adain)
  np.testing.assert_allclose(np.asarray(listed) * 255, expected, atol=0.51)


@pytest.mark.parametrize("value", ["cat.jpg", Path("cat.jpg"), b"cat.jpg", None])
def test_a_path_in_place_of_a_picture_says_how_to_open_it(adain, value):
  for arguments, name in (((value, STYLE), "content"), ((CONTENT, value), "style")):
    with pytest.raises(
      ValueError, match=rf"^{name}: expected an array of pixels, got .*Image\.open"
    ):
      stylize(*arguments, model=adain)
  with pytest.raises(ValueError, match=r"^style\[1\]: expected an array of pixels, got "):
    stylize(CONTENT, [STYLE, value], model=adain)


@pytest.mark.parametrize("shape", [(3, 64, 48), (2, 3, 64, 48)])
def test_channels_that_come_first_are_refused_with_the_way_to_move_them(adain, shape):
  picture = np.zeros(shape, np.float32)
  with pytest.raises(ValueError, match=r"^content: .*np\.moveaxis\(pictures, -3, -1\)"):
    stylize(picture, STYLE, model=adain)
  moved = np.moveaxis(picture, -3, -1)
  assert inference.check_pictures("content", moved).shape[-1] == 3


def test_batches_that_do_not_match_are_refused_even_under_jit(adain):
  for content, number in ((CONTENT, 2), (CONTENT[0], 1)):
    message = f"^style: expected one style, or one for each of the {number} contents, got 3"
    with pytest.raises(ValueError, match=message):
      jax.jit(lambda x, y: stylize(x, y, model=adain))(content, np.stack([STYLE] * 3))


def test_a_model_that_is_not_there_says_how_to_get_one():
  with pytest.raises(ValueError, match="^model: 'none' is neither .*train"):
    stylize(CONTENT, STYLE, model="none")


@pytest.fixture(scope="module")
def bundle(adain, tmp_path_factory):
  path = tmp_path_factory.mktemp("bundle") / "adain.safetensors"
  save_bundle(adain, path)
  return path


@pytest.mark.slow
def test_a_model_by_path_may_be_loaded_first_inside_of_jit(adain, bundle):
  inference._load_once.cache_clear()
  expected = stylize(CONTENT, STYLE, model=adain)
  jitted = jax.jit(lambda x: stylize(x, STYLE, model=bundle))(CONTENT)
  np.testing.assert_allclose(jitted, expected, atol=2e-5)
  np.testing.assert_array_equal(stylize(CONTENT, STYLE, model=str(bundle)), expected)


def test_a_model_by_path_is_loaded_again_only_when_it_changes(adain, tmp_path, monkeypatch):
  loads = []
  monkeypatch.setattr(inference, "load_model", lambda path: loads.append(path.name) or adain)
  monkeypatch.chdir(tmp_path)
  Path("m.safetensors").write_bytes(b"1")
  Path("run/checkpoints").mkdir(parents=True)
  Path("run/config.json").touch()
  for _ in range(2):
    for model in ("m.safetensors", tmp_path / "m.safetensors", "run", "run/checkpoints"):
      stylize(CONTENT, STYLE, model=model)
  assert loads == ["m.safetensors", "run", "checkpoints"]
  Path("run/checkpoints/100").mkdir()
  os.utime("m.safetensors", ns=(0, 0))
  for model in ("m.safetensors", "run", "run/checkpoints"):
    stylize(CONTENT, STYLE, model=model)
  assert loads[3:] == loads[:3]


# Buckets.


def test_a_bucket_adds_an_eighth_at_most_and_is_none_of_many():
  sides = range(1, 2049)
  buckets = [rooms.bucket_side(side, 8) for side in sides]
  assert buckets == sorted(buckets) and all(bucket % 8 == 0 for bucket in buckets)
  for side, bucket in zip(sides, buckets, strict=True):
    assert side <= bucket < max(side * 9 / 8, side + 8)
    assert rooms.bucket_side(bucket, 8) == bucket
  assert sorted({bucket for bucket in buckets if 256 < bucket <= 1024}) == [
    *range(288, 513, 32),
    *range(576, 1025, 64),
  ]


def test_a_picture_is_put_in_the_top_left_of_zeros_and_cut_out_again(adain):
  content = picture(8, 17, 21)
  batch, extent = rooms.in_bucket(adain, content)
  assert batch.shape == (1, 24, 24, 3) and extent == (17, 21)
  np.testing.assert_array_equal(batch[0, :17, :21], content)
  assert np.count_nonzero(batch) == np.count_nonzero(content)
  for kept, expected in ((extent, content), (None, batch[0])):
    code = ContentCode(jnp.asarray(batch), jnp.zeros(()), None, None, kept)
    np.testing.assert_array_equal(rooms.out_of_bucket(code, jnp.asarray(batch)), expected)


def test_a_bucket_holds_the_picture_in_multiples_of_8(adain):
  assert rooms.bucket(adain, 16, 17) == (16, 24)
  assert rooms.bucket(adain, 375, 500) == (384, 512)
  assert rooms.bucket(adain, 513, 512) == (576, 512)


def test_some_pictures_keep_their_size(stylizers):
  bucket, adain = rooms.bucket, stylizers["adain"]
  assert bucket(adain, 15, 100) is bucket(adain, 100, 15) is None  # enlarged as a style
  assert bucket(adain, 1408, 1408) == (1408, 1408)
  assert bucket(adain, 1409, 1408) is None  # rendered in strips
  batch, extent = rooms.in_bucket(adain, np.zeros((1600, 1500, 3), np.uint8))
  assert batch.shape == (1, 1600, 1500, 3) and extent is None
  for kernel_size, expected in ((1, (16, 16)), (3, (16, 16)), (5, None)):
    model = make_model("adaconv", {"kernel_size": kernel_size})
    assert bucket(stylizers["adaconv"].replace(model=model), 16, 16) == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adain", "adaconv"])
@pytest.mark.parametrize("masked", [False, True])
def test_what_is_compiled_beforehand_is_what_refines_and_renders(name, masked, caplog):
  """With an extent, detail and masks, as the command line has them."""
  stylizer = small_stylizer(name)
  content = np.zeros((1, 40, 48, 3), np.uint8)
  extent = Extent(37, 45)
  masks = np.ones((2, 40, 48), np.float32) if masked else None
  arguments = None, stages.detail_weight(0.5), masks, "style"
  encoded = stages.encode_content(stylizer, content, extent, False)
  code = stages.encode(stylizer, content)
  part = stages.sampled(content, extent, (37, 45))
  goal = stages.goal_of(stylizer, content, None, stages.goal_side((37, 45)))
  stages.compile_refined(stylizer, arguments[1])
  stages.compile_render_encoded(stylizer, encoded, 2 if masked else None, *arguments)
  with jax.log_compiles():
    code = stages.refined(stylizer, code, part, goal, 1, arguments[1])
    codes = [code, code] if masked else code
    stages.render_encoded(stylizer, encoded, codes, *arguments)
  assert not [record for record in caplog.records if "ompiling" in record.getMessage()]
