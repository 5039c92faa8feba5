"""Similar sizes share compiled programs, and pictures come out as without padding."""

import itertools
import logging
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import picture, small_stylizer
from strips import use_strips

from adaconv_jax import inference, rooms, stylize
from adaconv_jax.rooms import SPARE, WORTH_COMPILING, Rooms, bucket

# In an order in which neither the first nor the largest holds all.
SIZES = [
  (427, 640), (300, 300), (333, 500), (640, 427), (512, 384), (375, 500), (640, 640), (301, 639),
  (450, 600), (320, 480),
]  # fmt: skip


@pytest.fixture(scope="module")
def adain():
  return small_stylizer("adain")


@pytest.fixture
def fresh(monkeypatch):
  monkeypatch.setattr(inference, "_ROOMS", Rooms())


class Programs(logging.Handler):
  """Names of the programs that JAX compiles, those of single operations included."""

  def __init__(self):
    super().__init__()
    self.names: list[str] = []

  def emit(self, record):
    found = re.match(r"Compiling (?:jit\()?(\w+)\)? with global shapes", record.getMessage())
    if found:
      self.names.append(found[1])


@pytest.fixture
def compiled():
  handler, logger = Programs(), logging.getLogger("jax._src.interpreters.pxla")
  before = jax.config.values["jax_log_compiles"]
  jax.config.update("jax_log_compiles", True)
  logger.addHandler(handler)
  yield handler.names
  logger.removeHandler(handler)
  jax.config.update("jax_log_compiles", before)


def scaled(size, factor=16):
  """The sizes at a sixteenth: 19 to 40 pixels."""
  return tuple(max(round(side / factor), 16) for side in size)


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("as_array", [np.asarray, jax.device_put])
def test_ten_sizes_are_a_few_programs_and_nothing_else_is_compiled(adain, compiled, as_array):
  # A process has these already for the first picture.
  stylize(picture(0, 16, 16), picture(0, 16, 16), model=adain)
  del compiled[:]
  style = as_array(picture(1, 16, 16))
  for index, size in enumerate(SIZES):
    stylize(as_array(picture(index, *scaled(size))), style, model=adain)
  assert len(compiled) <= 2 and set(compiled) <= {"render"}


@pytest.mark.slow
@pytest.mark.usefixtures("fresh")
def test_ten_sizes_of_photographs_are_three_programs(adain, compiled):
  style = np.round(255 * picture(1, 64, 64)).astype(np.uint8)
  stylize(style, style, model=adain)
  del compiled[:]
  for index, size in enumerate(SIZES):
    made = stylize(np.round(255 * picture(index, *size)).astype(np.uint8), style, model=adain)
    assert made.shape == (*size, 3)
  assert 1 <= len(compiled) <= 3 and set(compiled) == {"render"}


@pytest.mark.usefixtures("fresh")
def test_ten_sizes_of_styles_are_a_few_programs_too(adain, compiled):
  content = picture(0, 16, 16)
  stylize(content, picture(0, 16, 16), model=adain)
  del compiled[:]
  for index, size in enumerate(SIZES):
    stylize(content, picture(index, *scaled(size)), model=adain)
  assert len(compiled) <= 4 and set(compiled) <= {"_fit_style", "_encode_fitted"}


@pytest.mark.parametrize("order", range(3))
def test_any_ten_sizes_between_300_and_640_need_three(adain, order):
  rng, found = np.random.default_rng(order), Rooms()
  sizes = rng.integers(300, 641, (10, 2))
  made = {found.find("any", 1, *bucket_of(adain, *size)) for size in sizes.tolist()}
  assert len(made) <= 3
  for size in sorted(itertools.product(range(300, 641, 17), repeat=2)):
    least = bucket_of(adain, *size)
    room = Rooms().find("any", 1, *least)
    assert room >= least and room[0] == room[1] in (384, 512, 640)


def bucket_of(stylizer, height, width):
  size = bucket(stylizer, height, width)
  assert size is not None
  return size


def test_a_size_that_comes_often_gets_its_own_program():
  found, sizes = Rooms(), []
  while not sizes or sizes[-1] != (320, 640):
    sizes.append(found.find("any", 1, 320, 640))
  added = 640 * 640 - 320 * 640
  assert set(sizes[:-1]) == {(640, 640)}
  assert (len(sizes) - 1) * added <= WORTH_COMPILING < len(sizes) * added
  assert found.find("any", 1, 320, 640) == (320, 640)
  assert found.find("any", 1, 640, 320) == (640, 640)  # which others keep
  assert found.find("another", 1, 320, 640) == (640, 640)


def test_large_pictures_and_batches_are_padded_no_more_than_needed():
  for count, height, width in ((1, 1024, 1408), (4, 320, 640), (1, 896, 1280)):
    assert Rooms().find("any", count, height, width) == (height, width)
  found = Rooms()
  found.find("any", 1, 1280, 1280)
  assert found.find("any", 1, 960, 1280) == (960, 1280)
  assert 1280 * (1280 - 960) > SPARE


def test_sides_of_squares_hold_what_they_are_for():
  for side in range(1, 1500):
    square = rooms.square_side(side)
    assert side <= square < max(2 * side, side + 128, 33)


OPTIONS: list[Any] = [
  pytest.param({"detail": 0.5, "color": "luminance"}, marks=pytest.mark.slow),
  pytest.param({"alpha": 0.4}, marks=pytest.mark.slow),
  pytest.param(
    {"alpha": np.linspace(0, 1, 21 * 37, dtype=np.float32).reshape(21, 37)}, marks=pytest.mark.slow
  ),
  pytest.param({"stroke": 1.3, "alpha": 0.5}, marks=pytest.mark.slow),
  pytest.param({"look_size": 16, "detail": 0.5}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("transform", ["adain", pytest.param("adaconv", marks=pytest.mark.slow)])
def test_padding_changes_nothing(adain, transform, options):
  model = adain if transform == "adain" else small_stylizer(transform)
  content, style = picture(0, 21, 37), picture(1, 27, 19)
  # Within `jit`, nothing is padded.
  plain = jax.jit(lambda x, y: stylize(x, y, model=model, **options))
  np.testing.assert_allclose(
    stylize(content, style, model=model, **options), plain(content, style), atol=5e-4
  )


@pytest.mark.slow
def test_padding_changes_nothing_with_masks_and_matched_colors(adain):
  content, styles = picture(0, 21, 37), [picture(1, 27, 19), picture(2, 18, 33)]
  masks = np.zeros((2, 21, 37), bool)
  masks[0, :, :20], masks[1, 5:, 15:] = True, True
  options: dict[str, Any] = {"model": adain, "masks": masks, "color": "match"}
  plain = jax.jit(lambda x, y: stylize(x, y, **options))
  np.testing.assert_allclose(stylize(content, styles, **options), plain(content, styles), atol=2e-4)


@pytest.mark.slow
def test_batches_and_committed_arrays_are_padded_where_they_are(adain):
  device = jax.devices()[0]
  content = jax.device_put(picture(0, 2, 21, 37), device)
  made = stylize(content, picture(1, 27, 19), model=adain)
  assert made.shape == content.shape and made.devices() == {device}
  alone = stylize(content[1], picture(1, 27, 19), model=adain)
  np.testing.assert_allclose(made[1], alone, atol=1e-4)


def test_what_is_traced_is_not_padded(adain, monkeypatch):
  monkeypatch.setattr(inference, "bucket", None)
  content, style = picture(0, 18, 20), picture(1, 18, 20)
  for arguments in ((content, style), (jnp.asarray(content), jnp.asarray(style))):
    shape = jax.eval_shape(lambda a=arguments: stylize(*a, model=adain)).shape
    assert shape == (18, 20, 3)
  assert jax.eval_shape(lambda x: stylize(content, x, model=adain), style).shape == (18, 20, 3)


@pytest.mark.slow
def test_progress_is_called_for_every_strip_and_changes_nothing(adain, monkeypatch):
  content, style = picture(0, 203, 24), picture(1, 16, 16)
  cases: list[dict[str, Any]] = [{"alpha": 0.5}, {"masks": np.ones((1, 203, 24), bool)}]
  for options in cases:
    styles = [style] if "masks" in options else style
    expected = stylize(content, styles, model=adain, **options)
    seen = []
    with monkeypatch.context() as patch:
      patch.setattr(rooms, "WHOLE_BYTES", 0)
      use_strips(patch, 4 * 24 * 64 * 40)
      report = lambda done, total, seen=seen: seen.append((done, total))  # noqa: E731
      got = stylize(content, styles, model=adain, progress=report, **options)
    np.testing.assert_allclose(got, expected, atol=1e-4)
    total = len(seen)
    assert total > 10 and seen == [(n, total) for n in range(1, total + 1)]


def test_what_progress_raises_is_raised_and_the_next_picture_is_made(adain, monkeypatch, caplog):
  monkeypatch.setattr(rooms, "WHOLE_BYTES", 0)
  use_strips(monkeypatch, 4 * 24 * 64 * 40)
  content, style = picture(0, 203, 24), picture(1, 18, 20)

  def stop(done, total):
    raise InterruptedError(f"{done} of {total}")

  with pytest.raises(InterruptedError, match="^1 of "):
    stylize(content, style, model=adain, progress=stop)
  assert not [record for record in caplog.records if record.exc_info]  # of JAX, a traceback
  jax.effects_barrier()  # what JAX waits for when the process ends
  assert stylize(content, style, model=adain).shape == content.shape


def test_progress_that_is_no_function_is_refused_by_name(adain):
  progress: Any = 5
  with pytest.raises(ValueError, match="progress: expected a function of two numbers.*got 5"):
    stylize(picture(0, 18, 20), picture(1, 18, 20), model=adain, progress=progress)


def test_progress_of_a_small_picture_is_not_called(adain):
  progress: Any = pytest.fail
  made = stylize(picture(0, 18, 20), picture(1, 18, 20), model=adain, progress=progress)
  assert made.shape == (18, 20, 3)
