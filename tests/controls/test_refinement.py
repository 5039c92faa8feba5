"""`refine`: codes that bring the outputs closer to the style, and with which other controls."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from small_models import picture, small_stylizer

from adaconv_jax import load_model, stylize
from adaconv_jax.models import refinement
from adaconv_jax.ops.extent import Extent

CONTENT, STYLE, OTHER = picture(0, 32, 48), picture(1, 24, 24) ** 3, 1 - 0.5 * picture(2, 24, 24)
MODELS = ("adain", "adaconv", "adaconv_plus")


@pytest.fixture(scope="module", params=MODELS)
def stylizer(request):
  return small_stylizer(request.param)


@pytest.fixture(scope="module")
def adain():
  return small_stylizer("adain")


def misses(stylizer, stylized, style) -> float:
  """How far VGG's statistics of two pictures are apart, by NumPy."""
  layers, total = ("relu1_1", "relu2_1", "relu3_1", "relu4_1"), 0.0
  seen, wanted = (
    stylizer.vgg.apply({"params": stylizer.vgg_params}, jnp.asarray(x)[None], layers)
    for x in (stylized, style)
  )
  for layer in layers:
    ours, theirs = np.asarray(seen[layer], np.float64), np.asarray(wanted[layer], np.float64)
    total += np.mean((ours.mean((0, 1, 2)) - theirs.mean((0, 1, 2))) ** 2)
    total += np.mean((ours.std((0, 1, 2)) - theirs.std((0, 1, 2))) ** 2)
  return float(total)


def example(kind: str, name: str, width: int, height: int) -> np.ndarray:
  file = Path(__file__).parents[2] / "examples" / kind / f"{name}.jpg"
  return np.asarray(Image.open(file).resize((width, height))) / np.float32(255)


def test_outputs_come_closer_to_the_style():
  shipped = load_model("adaconv")
  content, style = example("content", "palace", 48, 32), example("style", "night", 32, 32)
  plain, refined = (stylize(content, style, model=shipped, refine=steps) for steps in (0, 6))
  assert misses(shipped, refined, style) < 0.9 * misses(shipped, plain, style)


@pytest.mark.slow
def test_0_steps_are_what_it_is_without_it(adain):
  np.testing.assert_array_equal(
    stylize(CONTENT, STYLE, model=adain, refine=0), stylize(CONTENT, STYLE, model=adain)
  )


@pytest.mark.slow
def test_no_step_changes_no_code(stylizer):
  code = stylizer.encode_style(STYLE)
  same = stylizer.refine(code, CONTENT, STYLE, 0)
  jax.tree.map(np.testing.assert_array_equal, same, code)


@pytest.mark.slow
def test_every_content_of_a_batch_has_its_own_code(stylizer):
  contents = np.stack([CONTENT, CONTENT**2])
  given = stylize(contents, STYLE, model=stylizer, refine=3)
  for content, one in zip(contents, given, strict=True):
    alone = stylize(content, STYLE, model=stylizer, refine=3)
    # Adam divides by the size of the gradient, so where that is small, rounding is not.
    plain = stylize(content, STYLE, model=stylizer)
    assert np.abs(one - alone).mean() < 0.05 * np.abs(one - plain).mean()


@pytest.mark.slow
def test_one_code_for_several_contents_is_refined_for_all():
  model, style = load_model("adaconv"), example("style", "night", 256, 256)
  contents = np.stack([example("content", name, 256, 256) for name in ("palace", "cat")])
  code = model.encode_style(style)
  together = model.refine(code, contents, style, 4)
  assert jax.tree.map(np.shape, together) == jax.tree.map(np.shape, code)

  def missed(code: Any) -> float:
    return sum(misses(model, model.stylize(content, code), style) for content in contents)

  assert missed(together) < 0.8 * missed(code)


def tiles(pictures, starts_y, starts_x):
  half = refinement.SIDE // 2
  rows = (
    np.concatenate([pictures[:, y : y + half, x : x + half] for x in starts_x], 2) for y in starts_y
  )
  return np.concatenate(list(rows), 1)


@pytest.mark.slow
def test_a_sample_is_the_picture_or_a_tile_of_each_quarter():
  side = refinement.SIDE
  picture_of_the_size = picture(0, 1, side, side)
  np.testing.assert_allclose(refinement.sample(picture_of_the_size), picture_of_the_size)
  large = picture(1, 2, 2 * side, 3 * side)
  expected = tiles(large, (side // 4, side * 5 // 4), (side // 2, side * 2))
  np.testing.assert_allclose(refinement.sample(large), expected, atol=1e-6)
  padded = np.pad(large, ((0, 0), (0, 8), (0, 24), (0, 0)), constant_values=1)
  inside = Extent(*jnp.array([2 * side, 3 * side]))
  np.testing.assert_allclose(
    refinement.sample(jnp.asarray(padded), None, inside), expected, atol=1e-6
  )


def test_a_sample_is_of_the_size_at_which_a_picture_is_painted():
  side = refinement.SIDE
  small = picture(0, 1, side // 2, side * 3 // 4)
  enlarged = jax.image.resize(small, (1, side, side, 3), "linear")
  np.testing.assert_allclose(refinement.sample(small), enlarged, atol=1e-5)
  large = picture(1, 1, 4 * side, 6 * side)
  painted = jax.image.resize(large, (1, 2 * side, 3 * side, 3), "linear", antialias=True)
  expected = tiles(painted, (side // 4, side * 5 // 4), (side // 2, side * 2))
  given = refinement.sample(large, (2 * side, 3 * side))
  np.testing.assert_allclose(given, expected, atol=1e-5)


def test_styles_are_compared_at_about_the_size_of_the_content():
  side = refinement.SIDE
  sizes = ((1, 1), (side, 3 * side), (1.4 * side, 2 * side), (2 * side, 2 * side), (9 * side,) * 2)
  found = [refinement.style_side(*size) / side for size in sizes]
  assert found == [1, 1, 1.5, 2, 2]


@pytest.mark.slow
def test_codes_allow_for_the_detail_that_pictures_get():
  model, style = load_model("adaconv"), example("style", "night", 256, 256)
  content = example("content", "palace", 256, 256)
  code = model.encode_style(style)
  with_it, without = (model.refine(code, content, style, 4, detail=share) for share in (0.5, 0.0))

  def missed(code: Any) -> float:
    return misses(model, model.stylize(content, code, detail=0.5), style)

  assert missed(with_it) < 0.85 * missed(without)
  pictures = (
    model.stylize(content, with_it, detail=0.5),
    stylize(content, style, model=model, detail=0.5, refine=4),
  )
  assert np.abs(pictures[0] - pictures[1]).mean() < 0.01


@pytest.mark.slow
def test_without_detail_the_program_has_none(adain, monkeypatch):
  def add_detail(*args):
    raise AssertionError("detail")

  monkeypatch.setattr(refinement, "add_detail", add_detail)
  code = jax.eval_shape(adain.encode_style, STYLE)
  jax.eval_shape(lambda code: adain.refine(code, CONTENT, STYLE, 1), code)
  with pytest.raises(AssertionError, match="detail"):
    jax.eval_shape(lambda code: adain.refine(code, CONTENT, STYLE, 1, detail=0.5), code)


@pytest.mark.slow
def test_detail_may_differ_between_contents(adain):
  contents = np.stack([CONTENT, CONTENT**2])
  code = jax.tree.map(lambda x: np.repeat(x, 2, 0), adain.encode_style(STYLE))
  given = adain.refine(code, contents, STYLE, 2, detail=np.array([0.0, 0.7]))
  for index, share in enumerate((0.0, 0.7)):
    one = jax.tree.map(lambda x, i=index: x[i : i + 1], code)
    alone = adain.refine(one, contents[index], STYLE, 2, detail=share)
    jax.tree.map(
      lambda x, y, i=index: np.testing.assert_allclose(x[i : i + 1], y, rtol=0.02, atol=0.02),
      given, alone,
    )  # fmt: skip


def test_a_detail_that_is_no_share_is_refused(adain):
  code = adain.encode_style(STYLE)
  with pytest.raises(ValueError, match="detail: expected"):
    adain.refine(code, CONTENT, STYLE, 2, detail=1.5)


@pytest.mark.slow
def test_a_mix_with_weight_1_and_a_mask_of_ones_are_the_first_style(adain):
  first = stylize(CONTENT, STYLE, model=adain, refine=2)
  mixed = stylize(CONTENT, [STYLE, OTHER], model=adain, refine=2, weights=(1.0, 0.0))
  np.testing.assert_allclose(mixed, first, atol=1e-4)
  masks = np.ones((1, 32, 48), np.float32)
  masked = stylize(CONTENT, [STYLE], model=adain, refine=2, masks=masks)
  np.testing.assert_allclose(masked, first, atol=2e-3)


@pytest.mark.slow
def test_alpha_0_is_the_content(adain):
  photograph = stylize(CONTENT, STYLE, model=adain, refine=2, alpha=0.0)
  np.testing.assert_allclose(photograph, CONTENT, atol=1e-4)


@pytest.mark.slow
def test_under_jit_and_vmap(adain):
  given = stylize(CONTENT, STYLE, model=adain, refine=2)
  function = lambda content: stylize(content, STYLE, model=adain, refine=2)  # noqa: E731
  np.testing.assert_allclose(jax.jit(function)(CONTENT), given, atol=2e-3)
  mapped = jax.vmap(function)(np.stack([CONTENT, CONTENT[::-1]]))
  np.testing.assert_allclose(mapped[0], given, atol=2e-3)


@pytest.mark.slow
def test_gradients_take_the_steps_for_constant(adain):
  code = adain.encode_style(STYLE)
  moved = jax.grad(lambda code: jnp.sum(adain.refine(code, CONTENT, STYLE, 2).std ** 2))(code)
  np.testing.assert_allclose(moved.std, 2 * adain.refine(code, CONTENT, STYLE, 2).std, rtol=1e-4)
  np.testing.assert_array_equal(moved.mean, 0)
  gradient = jax.grad(lambda c: jnp.mean(stylize(c, STYLE, model=adain, refine=2)))(
    jnp.asarray(CONTENT)
  )
  assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0


@pytest.mark.slow
@pytest.mark.parametrize("rate", [300.0, 1e38])
def test_steps_that_lead_astray_leave_the_code(adain, monkeypatch, rate):
  monkeypatch.setattr(refinement, "_RATE", rate)
  codes = adain.encode_style(np.stack([STYLE, OTHER]))
  kept = adain.refine(codes, np.stack([CONTENT, CONTENT**2]), np.stack([STYLE, OTHER]), 3)
  jax.tree.map(np.testing.assert_array_equal, kept, codes)


@pytest.mark.slow
def test_no_number_in_a_model_spoils_a_code_of_numbers(adain):
  broken = adain.replace(params=jax.tree.map(lambda x: np.full_like(x, np.nan), adain.params))
  code = adain.encode_style(STYLE)
  jax.tree.map(np.testing.assert_array_equal, broken.refine(code, CONTENT, STYLE, 2), code)


@pytest.mark.slow
@pytest.mark.parametrize("option", ["jax_enable_x64", "jax_numpy_dtype_promotion"])
def test_under_other_settings_of_jax(adain, option):
  code, steps = adain.encode_style(STYLE), np.int32(2)
  given = adain.refine(code, CONTENT, STYLE, jnp.asarray(steps))
  before = jax.config.values[option]
  jax.config.update(option, True if option == "jax_enable_x64" else "strict")
  try:
    same = adain.refine(code, CONTENT, STYLE, jnp.asarray(steps))
  finally:
    jax.config.update(option, before)
  for start, one, other in zip(code, given, same, strict=True):
    assert other.dtype == one.dtype
    # Adam divides by the size of the gradient, so where that is small, rounding is not.
    assert np.abs(other - one).mean() < 1e-3 * np.abs(one - start).mean()


@pytest.mark.parametrize("steps", [jnp.float32(2), jnp.arange(2)])
def test_arrays_of_jax_that_are_no_integer_are_refused(adain, steps):
  with pytest.raises(ValueError, match=r"^steps: expected an integer, got \["):
    adain.refine(adain.encode_style(STYLE), CONTENT, STYLE, steps)


@pytest.mark.parametrize("steps", [-1, 101, 1.5, True, "3", None, np.array([1, 2])])
def test_other_numbers_of_steps_are_refused(adain, steps):
  message = r"expected a whole number from 0 to 100, got"
  with pytest.raises(ValueError, match=rf"^refine: {message}"):
    stylize(CONTENT, STYLE, model=adain, refine=steps)
  with pytest.raises(ValueError, match=rf"^steps: {message}"):
    adain.refine(adain.encode_style(STYLE), CONTENT, STYLE, steps)


def test_an_array_of_jax_for_the_steps_of_a_picture_is_refused_with_the_way_out(adain):
  refined = lambda steps: stylize(CONTENT, STYLE, model=adain, refine=steps)  # noqa: E731
  for function in (refined, jax.jit(refined)):
    with pytest.raises(ValueError, match=r"^refine: expected .* got .*; pass a plain int, which"):
      function(jnp.int32(3))


def test_styles_that_do_not_fit_the_codes_are_refused(adain):
  code = adain.encode_style(STYLE)
  with pytest.raises(ValueError, match=r"^style: expected one, or those of the 1 codes, got 2"):
    adain.refine(code, CONTENT, np.stack([STYLE, STYLE]), 1)
  codes = adain.encode_style(np.stack([STYLE, STYLE]))
  with pytest.raises(ValueError, match="code: expected one style, or one for each of 1 contents"):
    adain.refine(codes, CONTENT, STYLE, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_shipped_models_miss_a_third_less_of_a_style(name):
  model = load_model(name)
  before = after = 0.0
  for content, style in (("flower", "mosaic"), ("palace", "night"), ("cat", "woodblock")):
    pictures = example("content", content, 256, 256), example("style", style, 256, 256)
    before += misses(model, stylize(*pictures, model=model), pictures[1])
    after += misses(model, stylize(*pictures, model=model, refine=8), pictures[1])
  assert refinement.SIDE == 256
  assert after < (0.85 if name == "adain" else 0.67) * before
