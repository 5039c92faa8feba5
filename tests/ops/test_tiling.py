"""Strips give what the whole image gives."""

import functools
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, cast

import jax
import numpy as np
import pytest

from adaconv_jax.models.networks import Networks
from adaconv_jax.models.stylizer import Stylizer
from adaconv_jax.ops import tiling
from adaconv_jax.ops.adain import channel_stats
from adaconv_jax.ops.extent import Extent
from adaconv_jax.ops.tiling import by_strips, stats_by_strips
from adaconv_jax.vgg.network import ENCODER_LAYER, VGG, reach
from tests.small_models import small_stylizer
from tests.strips import use_strips

TWO = Fraction(2)
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("adaconv", "adaconv_plus")]


def blur(images: Any) -> Any:
  """Means of five rows, with zeros beyond the border."""
  padded = np.pad if isinstance(images, np.ndarray) else jax.numpy.pad
  rows = padded(images, ((0, 0), (2, 2), (0, 0), (0, 0)))
  shifted: Any = (rows[:, i : i + images.shape[1]] for i in range(5))
  return sum(shifted, start=0 * images) / 5


def enlarge(images):
  return blur(images).repeat(2, 1).repeat(2, 2)


def shrink(images):
  return blur(images)[:, ::2, ::2]


@pytest.mark.parametrize("height", [20, 22, 40, 64])
@pytest.mark.parametrize("function, scale", [(blur, 1), (enlarge, 2), (shrink, Fraction(1, 2))])
def test_strips_give_what_the_whole_gives(function, scale, height, monkeypatch):
  images = np.random.default_rng(0).random((2, height, 3, 2), np.float32)
  use_strips(monkeypatch, 600)  # six rows
  heights = []

  def seen(x):
    heights.append(x.shape[1])
    return function(x)

  call = functools.partial(by_strips, seen, reach=2, row_bytes=100, scale=Fraction(scale))
  np.testing.assert_allclose(jax.jit(call)(images), function(images), rtol=1e-6)
  assert set(heights) == {10}


@pytest.mark.parametrize("height", [20, 22, 64])
def test_maps_beside_the_images_are_cut_at_the_same_places(height, monkeypatch):
  rng = np.random.default_rng(0)
  images, double, fourfold = (rng.random((2, k * height, 3, 2), np.float32) for k in (1, 2, 4))
  use_strips(monkeypatch, 600)  # six rows

  def together(images, double, fourfold):
    return enlarge(images)[:, :, ::2] + blur(double) * shrink(fourfold).repeat(2, 2)[:, :, :3]

  sizes: Any = {"reach": 2, "row_bytes": 100, "scale": TWO}
  whole = together(images, double, fourfold)
  got = jax.jit(lambda *maps: by_strips(together, *maps, **sizes))(images, double, fourfold)
  np.testing.assert_allclose(got, whole, rtol=1e-6)
  stats = jax.jit(lambda *maps: stats_by_strips(together, *maps, **sizes))
  measured, expected = stats(images, double, fourfold), channel_stats(whole)
  for ours, theirs in zip(measured, expected, strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_a_reach_that_is_too_short_would_show(monkeypatch):
  images: Any = np.random.default_rng(0).random((1, 40, 3, 2), np.float32)
  use_strips(monkeypatch, 600)
  out = by_strips(blur, images, reach=1, row_bytes=100)
  assert np.abs(np.asarray(out) - blur(images)).max() > 0.01


def test_small_images_are_run_whole():
  images: Any = np.zeros((1, 40, 3, 2), np.float32)
  heights = []
  by_strips(lambda x: heights.append(x.shape[1]) or x, images, reach=1, row_bytes=100)
  assert heights == [40]


@pytest.mark.parametrize("height", [20, 22, 41, 64])
def test_statistics_in_strips_are_those_of_the_whole(height, monkeypatch):
  # A mean that is large beside the deviation, of which differences of squares would lose most.
  images = 100 + np.random.default_rng(0).random((2, height, 3, 2), np.float32)
  use_strips(monkeypatch, 600)
  stats = jax.jit(lambda x: tiling.stats_by_strips(enlarge, x, reach=2, row_bytes=100, scale=TWO))
  expected: Any = channel_stats(cast(Any, np.asarray(enlarge(images), np.float64)))
  got: Any = stats(images)
  np.testing.assert_allclose(got.mean, expected.mean, rtol=1e-6)
  np.testing.assert_allclose(got.std, expected.std, rtol=1e-4)


def test_statistics_of_small_images_are_not_in_strips():
  images: Any = np.zeros((1, 40, 3, 2), np.float32)
  assert tiling.stats_by_strips(blur, images, reach=1, row_bytes=100) is None


@pytest.mark.parametrize("n", [1, 2])
def test_every_strip_is_reported_once(n, monkeypatch):
  use_strips(monkeypatch, 600)
  monkeypatch.setattr(tiling, "ALONE_BYTES", 0)
  images: Any = np.random.default_rng(0).random((n, 40, 3, 2), np.float32)

  def strips(x):
    return tiling.by_strips(blur, x, reach=2, row_bytes=100)

  def run(x):
    return tiling.one_by_one(strips, x, size=(40, 3))

  planned, seen = [], []
  with tiling.reporting(planned):
    program = jax.jit(run).lower(images).compile()
  with tiling.watch(lambda: seen.append(None)):
    made = program(images)
  np.testing.assert_allclose(made, run(images), rtol=1e-6)
  assert len(seen) == sum(planned) == 7 * n
  program(images)  # nobody watches
  assert len(seen) == 7 * n


def test_what_has_to_be_run_whole_is(monkeypatch):
  use_strips(monkeypatch, 600)
  images: Any = np.zeros((1, 40, 3, 2), np.float32)
  heights = []
  call = functools.partial(by_strips, reach=1, row_bytes=100)
  call(lambda x: heights.append(x.shape[1]) or x, images, whole=True)
  assert heights == [40]


@pytest.mark.slow
@pytest.mark.parametrize("arch, expected", [("vgg16", 33), ("vgg19", 37)])
def test_vgg_s_reach_is_that_of_its_gradient(arch, expected):
  # 2 + 1 + 4 + 2 + (3 or 4) * 4 + 4 + 8
  assert reach(arch, ENCODER_LAYER) == expected
  vgg = VGG(arch)
  image = np.random.default_rng(0).random((1, 128, 16, 3), np.float32)
  shapes = jax.eval_shape(vgg.init, jax.random.key(0), image)["params"]
  params = jax.tree.map(lambda x: np.full(x.shape, 1 / np.prod(x.shape[:-1]), np.float32), shapes)

  def one_row(image):
    return vgg.apply({"params": params}, image, (ENCODER_LAYER,))[ENCODER_LAYER][0, 8].sum()  # pyright: ignore

  rows = np.flatnonzero(np.asarray(jax.grad(one_row)(image)).any(axis=(0, 2, 3)))
  assert 64 - expected <= rows.min() and rows.max() <= 71 + expected


@pytest.mark.parametrize("transform", ["adain", *SLOW])
def test_a_large_picture_is_the_same_in_strips(transform, monkeypatch):
  stylizer = small_stylizer(transform)
  rng = np.random.default_rng(0)
  content, style = rng.random((1, 205, 24, 3), np.float32), rng.random((1, 64, 64, 3), np.float32)
  code = jax.jit(Stylizer.encode_style)(stylizer, style)

  def run(stylizer: Stylizer, content, code):
    return stylizer.stylize(content, code, 0.6, detail=0.5)

  # Separate functions, so that the trace for the whole is not reused for the strips.
  whole = jax.jit(lambda *args: run(*args))(stylizer, content, code)
  use_strips(monkeypatch, 4 * 24 * 64 * 40)  # 40 rows of the picture
  loops = str(jax.make_jaxpr(lambda *args: run(*args))(stylizer, content, code))
  in_strips = jax.jit(lambda *args: run(*args))(stylizer, content, code)
  assert loops.count("scan[") + loops.count("while[") >= 3
  np.testing.assert_allclose(in_strips, whole, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("transform", ["adain", *SLOW])
def test_a_picture_whose_largest_maps_are_not_kept_is_the_same(transform, monkeypatch):
  stylizer = small_stylizer(transform)
  rng = np.random.default_rng(0)
  content, style = rng.random((1, 333, 24, 3), np.float32), rng.random((1, 64, 64, 3), np.float32)
  code = jax.jit(Stylizer.encode_style)(stylizer, style)

  def run(stylizer: Stylizer, content, code):
    return stylizer.stylize(content, code, detail=0.5)

  whole = jax.jit(lambda *args: run(*args))(stylizer, content, code)
  use_strips(monkeypatch, 4 * 24 * 64 * 40)  # 40 rows of the picture
  monkeypatch.setattr(tiling, "KEPT_BYTES", 0)
  program = jax.jit(lambda *args: run(*args)).lower(stylizer, content, code)
  atol = 3e-5 if transform == "adaconv_plus" else 1e-5  # random skips enlarge rounding
  np.testing.assert_allclose(program.compile()(stylizer, content, code), whole, rtol=0, atol=atol)
  # The input of the last scale, 64 channels at half the size, is nowhere whole.
  assert "tensor<1x168x12x64xf32>" not in program.as_text()
  assert "tensor<1x84x6x128xf32>" in program.as_text()


@pytest.mark.parametrize("transform", ["adain", "adaconv", "adaconv_plus"])
def test_no_map_of_a_large_picture_s_pixels_is_larger_than_a_strip(transform):
  """Memory is what a command has for each strip, whether VGG or the decoder fills it."""
  side = 8192
  content = jax.ShapeDtypeStruct((1, side, side, 3), np.uint8)
  stylizer = small_stylizer(transform)
  program = jax.make_jaxpr(Stylizer.stylize)(stylizer, content, stylizer.code_shapes())
  rows = [
    shape[1] for shape in shapes_in(program.jaxpr) if shape[0] == 1 and shape[2:] == (side, 64)
  ]
  own = tiling.STRIP_BYTES // tiling.image_bytes(1, side)
  # More for what the rows of a strip depend on beyond its borders.
  assert rows and max(rows) <= 2.5 * own


def shapes_in(program: Any) -> Iterator[tuple[int, ...]]:
  """The shapes of all 4-dimensional arrays that a program makes, in loops and calls too."""
  for equation in program.eqns:
    yield from (out.aval.shape for out in equation.outvars if len(out.aval.shape) == 4)
    for value in jax.tree.leaves(list(equation.params.values())):
      inner = getattr(value, "jaxpr", value)
      if hasattr(inner, "eqns"):
        yield from shapes_in(inner)


@pytest.mark.parametrize("transform", ["adain", "adaconv", "adaconv_plus"])
def test_a_picture_in_a_bucket_is_never_in_strips(transform, monkeypatch):
  """A strip would be treated as the whole, with the extent of the whole."""
  stylizer = small_stylizer(transform)
  use_strips(monkeypatch, 4 * 24 * 64 * 40)

  def both(content, extent):
    code = stylizer.encode_style(content, extent)
    return stylizer.render(stylizer.encode_content(content, extent=extent), code, 0.5)

  program = str(jax.make_jaxpr(both)(np.zeros((1, 208, 24, 3), np.float32), Extent(205, 23)))
  assert "scan[" not in program and "while[" not in program


def slow(*values):
  return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
  ("transform", "styles", "alpha"),
  # One style that alpha makes one code per content; one code for all; one per content.
  [
    slow("adaconv", 1, 0.5),
    slow("adain", 1, 1.0),
    slow("adaconv", 3, 1.0),
    slow("adaconv_plus", 1, 1.0),
    slow("adaconv_plus", 3, 0.5),
  ],
)
def test_images_one_by_one_are_those_of_the_batch(transform, styles, alpha, monkeypatch):
  stylizer = small_stylizer(transform)
  rng: Any = np.random.default_rng(0)
  content, style = (rng.random((n, 24, 32, 3), np.float32) for n in (3, styles))

  def run(stylizer: Stylizer):
    return stylizer.stylize(content, stylizer.encode_style(style), alpha)

  together = jax.jit(run)(stylizer)
  monkeypatch.setattr(tiling, "ALONE_BYTES", 0)
  sizes = []
  decode = Networks.decode_scales
  monkeypatch.setattr(
    Networks,
    "decode_scales",
    lambda self, x, *rest, **kw: (sizes.append(len(x)), decode(self, x, *rest, **kw))[1],
  )
  # A new function, because a function is not traced twice.
  apart = jax.jit(lambda stylizer: run(stylizer))(stylizer)
  assert 1 in sizes
  np.testing.assert_allclose(apart, together, atol=1e-4)


def test_small_images_and_single_ones_stay_together():
  seen = []

  def note(x):
    seen.append(x.shape)
    return x

  tiling.one_by_one(note, np.zeros((2, 8, 8, 3)), size=(8, 8))
  tiling.one_by_one(note, np.zeros((1, 4, 4, 3)), size=(1024, 1024))
  assert seen == [(2, 8, 8, 3), (1, 4, 4, 3)]


@pytest.mark.slow
def test_gradients_go_through_images_one_by_one(monkeypatch):
  stylizer = small_stylizer("adaconv")
  rng: Any = np.random.default_rng(0)
  content, style = (rng.random((2, 24, 32, 3), np.float32) for _ in range(2))

  def loss(content, style):
    return (stylizer.stylize(content, stylizer.encode_style(style)) ** 2).sum()

  together = jax.jit(jax.grad(loss, argnums=(0, 1)))(content, style)
  monkeypatch.setattr(tiling, "ALONE_BYTES", 0)
  apart = jax.jit(jax.grad(lambda *args: loss(*args), argnums=(0, 1)))(content, style)
  for one, other in zip(apart, together, strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-2, atol=1e-3 * float(np.abs(other).max()))
