"""`stroke` and `look_size`: how coarse the strokes are."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from small_models import picture, small_stylizer

from adaconv_jax import images, rooms, stylize
from adaconv_jax.cli import stylize as command
from adaconv_jax.ops import tiling
from adaconv_jax.ops.extent import Extent
from adaconv_jax.ops.stroke import enlarge, painted_size, resize_from


@pytest.fixture(scope="module")
def adain():
  return small_stylizer("adain")


CONTENT, STYLE = picture(0, 32, 48), picture(1, 16, 24)
enlarged = jax.jit(enlarge)


def shrunk(content, height=16, width=24):
  shape = (*content.shape[:-3], height, width, 3)
  return np.asarray(jax.image.resize(content, shape, "linear", antialias=True))


def test_the_canvas_has_the_size_over_the_stroke_but_16_pixels_at_least():
  assert painted_size(300, 401, 2) == (150, 200)
  assert painted_size(300, 401, 0.5) == (600, 802)
  assert painted_size(30, 60, 4) == (16, 32)
  assert painted_size(9, 7, 4) == (9, 7)


def test_a_canvas_larger_than_any_file_is_refused_with_its_size_and_the_way_out(adain):
  large = 10_000, 10_000  # its own size is taken, as it is given in memory
  assert painted_size(*large, 1) == large
  message = "stroke and look_size: .* at 125000 x 100000, 12500 million pixels, .*smaller look_size"
  with pytest.raises(ValueError, match=message):
    stylize(CONTENT[:, :40], STYLE, model=adain, look_size=100_000)
  with pytest.raises(ValueError, match="stroke and look_size: .* larger stroke"):
    stylize(CONTENT, STYLE, model=adain, stroke=1e-320)
  for name in ("stroke", "look_size"):  # which no float holds
    with pytest.raises(ValueError, match=f"{name}: expected a number above 0"):
      stylize(CONTENT, STYLE, model=adain, **{name: 10**400})


@pytest.mark.slow
def test_a_small_picture_may_be_painted_in_strips(adain, monkeypatch):
  expected = adain.stylize(CONTENT, adain.encode_style(STYLE), 0.7, look_size=45)
  monkeypatch.setattr(rooms, "WHOLE_BYTES", tiling.image_bytes(40, 56))
  got = stylize(CONTENT, STYLE, model=adain, alpha=0.7, look_size=45)  # at 45 x 68
  np.testing.assert_allclose(got, expected, atol=1e-5)


def test_a_canvas_that_is_not_painted_on_becomes_the_content_again():
  canvas = shrunk(CONTENT[None])
  np.testing.assert_allclose(enlarged(canvas, canvas, CONTENT[None], 1.0)[0], CONTENT, atol=1e-6)
  luma = np.array([0.299, 0.587, 0.114])
  got = np.asarray(enlarged(canvas, canvas, CONTENT[None], 0.0)[0])
  np.testing.assert_allclose(got @ luma, CONTENT @ luma, atol=1e-5)


def test_edges_come_back_with_the_contrast_that_the_painting_has():
  edge = np.where(np.arange(48) < 25, 0.3, 0.6).astype(np.float32)[None, None, :, None]
  content = np.broadcast_to(edge, (1, 32, 48, 3))
  canvas = shrunk(content)
  for contrast in (1.5, 0.5, -1.0):
    painted = 0.5 + contrast * (canvas - 0.45)
    got = np.asarray(enlarged(painted, canvas, content))[0, 8:-8, :, 0]
    soft = np.asarray(resize_from(jnp.asarray(painted), None, jnp.asarray(content), None, "cubic"))[
      0, 8:-8, :, 0
    ]
    sharp = 0.5 + contrast * (content[0, 8:-8, :, 0] - 0.45)
    assert np.abs(got - sharp).max() < 0.3 * np.abs(soft - sharp).max()


def test_a_texture_too_fine_for_the_canvas_makes_no_fringe_in_strokes_that_follow_nothing():
  phase = 2 * np.pi * (np.arange(160) * 0.43)[None, None, :, None]  # of which the canvas has traces
  content = np.broadcast_to(0.5 + 0.2 * np.sin(phase), (1, 160, 160, 3)).astype(np.float32)
  canvas = shrunk(content, 64, 64)
  random = np.random.default_rng(0).normal(0, 1, (1, 66, 66, 1)).astype(np.float32)
  strokes = sum(random[:, y : y + 64, x : x + 64] for y in range(3) for x in range(3)) / 9
  painted = np.broadcast_to(0.5 + 0.3 * strokes, canvas.shape)
  smooth = shrunk(canvas, 160, 160)  # the content, without the texture
  texture = np.asarray(enlarged(painted, canvas, content) - enlarged(painted, canvas, smooth))
  assert texture.std() < 0.25 * content.std()


def test_what_is_beyond_the_picture_has_no_influence():
  content, painted = CONTENT[None, :27, :41], picture(2, 1, 13, 20)
  canvas = shrunk(content, 13, 20)
  expected = enlarged(painted, canvas, content, 0.5)

  def padded(x, height, width):
    pads = ((0, 0), (0, height - x.shape[1]), (0, width - x.shape[2]), (0, 0))
    return np.pad(x, pads, constant_values=7)

  got = enlarged(
    padded(painted, 16, 24), padded(canvas, 16, 24), padded(content, 32, 48), 0.5,
    Extent(13, 20), Extent(27, 41),
  )  # fmt: skip
  np.testing.assert_allclose(got[:, :27, :41], expected, atol=1e-4)


def test_a_stroke_of_2_is_painted_at_half_the_size(adain):
  canvas = shrunk(CONTENT)
  painted = stylize(canvas, STYLE, model=adain)
  expected = np.clip(enlarged(painted[None], canvas[None], CONTENT[None])[0], 0, 1)
  got = stylize(CONTENT, STYLE, model=adain, stroke=2)
  assert got.shape == CONTENT.shape
  np.testing.assert_allclose(got, expected, atol=5e-5)
  choices: list[dict[str, Any]] = [{"look_size": 16}, {"look_size": 32, "stroke": 2.0}]
  for options in choices:
    again = stylize(CONTENT, STYLE, model=adain, **options)
    np.testing.assert_allclose(again, got, atol=1e-6)


def test_a_stroke_of_1_changes_nothing(adain):
  content = CONTENT[:16, :24]
  plain = stylize(content, STYLE, model=adain)
  choices: list[dict[str, Any]] = [{"stroke": 1.0}, {"look_size": 16}]
  for options in choices:
    np.testing.assert_allclose(stylize(content, STYLE, model=adain, **options), plain, atol=1e-6)


@pytest.mark.slow
def test_alpha_0_stays_the_photograph(adain):
  content, style = images.to_uint8(CONTENT), images.to_uint8(STYLE)
  got = stylize(content, style, model=adain, stroke=2, alpha=0)
  np.testing.assert_array_equal(got, content)


@pytest.mark.slow
def test_masks_keep_their_sharp_edges(adain):
  left = np.broadcast_to(np.arange(48) < 19, (32, 48))
  other = 1 - STYLE**3
  both = [stylize(CONTENT, s, model=adain, stroke=2) for s in (STYLE, other)]
  got = stylize(CONTENT, [STYLE, other], model=adain, stroke=2, masks=np.stack([left, ~left]))
  assert got.shape == CONTENT.shape
  alone = stylize(CONTENT, [STYLE, STYLE], model=adain, stroke=2, masks=np.stack([left, ~left]))
  np.testing.assert_array_equal(np.asarray(got)[left], np.asarray(alone)[left])
  assert np.abs(np.asarray(both[0] - both[1])).max() > 0.01


@pytest.mark.parametrize("name", ["stroke", "look_size"])
@pytest.mark.parametrize("value", [0, -1, np.nan, np.inf, "2", True, (1, 2), jnp.ones(())])
def test_what_is_no_number_above_0_is_refused(adain, name, value: Any):
  with pytest.raises(ValueError, match=f"^{name}: expected a number above 0, not an array, got"):
    options: Any = {name: value}
    stylize(CONTENT, STYLE, model=adain, **options)


@pytest.mark.slow
@pytest.mark.parametrize("options", [["--stroke", "2"], ["--look-size", "16"]])
def test_the_command_makes_what_stylize_makes(adain, tmp_path, monkeypatch, options):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(command, "load_model", lambda model, *, vgg_weights=None: adain)
  images.save("cat.png", CONTENT[:, :42])
  images.save("s.png", STYLE)
  arguments = [
    "--content",
    "cat.png",
    "--style",
    "s.png",
    "--output",
    "out.png",
    "--detail=0",
    "--palette=0",
    "--refine=0",
  ]
  assert command.main([*arguments, *options]) == 0
  content, style = (np.asarray(Image.open(name)) for name in ("cat.png", "s.png"))
  expected = stylize(content, style, model=adain, stroke=2)
  assert np.abs(np.asarray(Image.open("out.png"), int) - np.asarray(expected, int)).max() <= 1
