"""Frames of a shot share what normalizes them, and come out one by one.

The networks are small, and so are the frames.
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import small_stylizer

from adaconv_jax import stylize
from adaconv_jax.ops.adain import channel_stats
from adaconv_jax.ops.palette import match_palette, measure_palette
from adaconv_jax.video import steady
from adaconv_jax.video import stylize as module
from adaconv_jax.video.stylize import mix_styles, stylize_frames

# AdaConv takes long to compile.
TRANSFORMS = [
  "adain",
  *(pytest.param(name, marks=pytest.mark.slow) for name in ("adaconv", "adaconv_plus")),
]


@pytest.fixture(scope="module")
def adain():
  return small_stylizer("adain")


@pytest.fixture(scope="module")
def adaconv():
  return small_stylizer("adaconv")


@pytest.fixture(scope="module")
def adaconv_plus():
  return small_stylizer("adaconv_plus")


def pictures(count, seed=0, size=(16, 24)):
  rng = np.random.default_rng(seed)
  # Not so different that every frame is a cut.
  first = rng.random((1, *size, 3), np.float32) * 0.9
  return (first + 0.1 * rng.random((count, *size, 3), np.float32)).astype(np.float32)


STYLE = pictures(1, 9, (64, 64))[0]


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_each_frame_by_itself_is_what_stylize_makes(transform, request):
  model, frames = request.getfixturevalue(transform), pictures(3)
  made = stylize_frames(frames, STYLE, model=model, statistics="frame", blending=0)
  expected = model.stylize(frames, model.encode_style(STYLE))
  # Programs for another number of frames round differently; each normalization enlarges that.
  atol = {"adain": 1e-4, "adaconv": 3e-4, "adaconv_plus": 1e-3}[transform]
  np.testing.assert_allclose(np.stack(list(made)), expected, atol=atol)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("statistics", ["shot", "running"])
def test_a_shot_of_one_picture_is_what_stylize_makes(transform, statistics, request):
  model = request.getfixturevalue(transform)
  frames = np.repeat(pictures(1), 3, axis=0)
  made = stylize_frames(frames, STYLE, model=model, statistics=statistics, blending=0)
  expected = model.stylize(frames[0], model.encode_style(STYLE))
  for picture in made:
    np.testing.assert_allclose(picture, expected, atol=1e-3)


@pytest.mark.slow
def test_blending_leaves_a_still_picture_as_it_is(adain):
  frames = np.repeat(pictures(1, size=(48, 64)), 4, axis=0)
  made = np.stack(list(stylize_frames(frames, STYLE, model=adain)))
  expected = adain.stylize(frames[0], adain.encode_style(STYLE))
  # The frame is padded, which its border sees.
  assert np.abs(made - expected)[:, 8:-16, 8:-16].max() < 0.02
  assert np.abs(made[1:] - made[0]).max() < 0.01


@pytest.mark.parametrize("size", [(1, 1), (5, 40), pytest.param((16, 16), marks=pytest.mark.slow)])
def test_frames_may_be_small(adain, size):
  made = list(stylize_frames(pictures(3, size=size), STYLE, model=adain))
  assert [picture.shape for picture in made] == [(*size, 3)] * 3


def test_frames_of_a_shot_are_normalized_by_the_statistics_of_all_its_pixels(adain, monkeypatch):
  monkeypatch.setattr(module, "EVERY", 1)
  frames = pictures(4)
  made = stylize_frames(frames, STYLE, model=adain, blending=0)
  content = adain.encode_content(frames)
  n, h, w, c = content.features.shape
  together = channel_stats(content.features.reshape(1, n * h, w, c))
  expected = adain.render(content.replace(stats=(together,)), adain.encode_style(STYLE))
  np.testing.assert_allclose(np.stack(list(made)), expected, atol=1e-3)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_a_picture_that_changes_leaves_the_rest_of_its_shot_as_it_was(
  transform, request, monkeypatch
):
  """What enters a corner far away changes a frame's own statistics, but not those of the shot."""
  monkeypatch.setattr(module, "EVERY", 1)  # otherwise the second frame would not be in these
  model = request.getfixturevalue(transform)
  frames = np.repeat(pictures(1, size=(64, 160)), 2, axis=0) * 0.7
  frames[1, :, 144:] += 0.25
  left = []
  for statistics in ("frame", "shot"):
    made = list(stylize_frames(frames, STYLE, model=model, statistics=statistics, blending=0))
    left.append(np.abs(made[1] - made[0])[:, :16].mean())
  assert left[1] < 0.3 * left[0]


@pytest.mark.slow
def test_a_cut_begins_with_new_statistics(adain):
  before, after = pictures(3, 1) * 0.3, 1 - pictures(3, 2) * 0.3
  made = list(stylize_frames(np.concatenate([before, after]), STYLE, model=adain))
  apart = [*stylize_frames(before, STYLE, model=adain), *stylize_frames(after, STYLE, model=adain)]
  np.testing.assert_allclose(made, apart, atol=1e-4)


def test_an_iterator_is_read_frame_by_frame(adain):
  read = []

  def stream():
    for frame in pictures(8):
      read.append(frame)
      yield frame

  made = stylize_frames(stream(), STYLE, model=adain)
  for count in range(1, 9):
    next(made)
    assert len(read) == max(count, 1 + steady.AHEAD)


@pytest.mark.parametrize("blending", [0, 0.9])
def test_an_error_of_the_frames_comes_after_the_frames_before_it(adain, blending):
  def broken():
    yield from pictures(3)
    raise OSError("no more")

  made = stylize_frames(broken(), STYLE, model=adain, blending=blending)
  assert len(list(itertools.islice(made, 3))) == 3
  with pytest.raises(OSError, match="no more"):
    next(made)


@pytest.mark.parametrize("cut", [0, 5])
def test_the_first_frame_of_a_shot_has_no_more_noise_than_the_others(adain, monkeypatch, cut):
  seen, on_grid = [], steady.on_grid

  def noted(followed, period):
    seen.append(followed.frame)
    return on_grid(followed, period)

  monkeypatch.setattr(steady, "on_grid", noted)
  rng = np.random.default_rng(0)
  size = (48, 64, 3)
  shots = [np.full((n, *size), color) for n, color in ((cut, 0.2), (12 - cut, 0.7))]
  clean = np.concatenate(shots).astype(np.float32)
  noisy = clean + rng.normal(0, 0.03, clean.shape).astype(np.float32)
  assert len(list(stylize_frames(noisy, STYLE, model=adain))) == 12
  noise = np.std(np.stack(seen) - clean, axis=(1, 2, 3))
  assert noise.max() < 0.9 * 0.03 and noise.max() < 1.25 * np.median(noise)


def test_a_running_average_follows_slowly(adain):
  dark, light = pictures(1)[0] * 0.5, pictures(1)[0] * 0.55
  frames = [dark] * 2 + [light] * 40
  made = list(stylize_frames(iter(frames), STYLE, model=adain, blending=0))
  # At first as with the dark frame's statistics, in the end as with its own.
  own = next(stylize_frames([light], STYLE, model=adain, blending=0))
  distances = [np.abs(picture - own).mean() for picture in made[2:]]
  assert distances[0] > 2 * distances[-1]


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_a_fade_goes_from_one_style_to_the_other(transform, request):
  model, other = request.getfixturevalue(transform), pictures(1, 5, (64, 64))[0]
  frames = np.repeat(pictures(1), 3, axis=0)
  made = list(stylize_frames(frames, STYLE, model=model, mix_to=other, blending=0))
  codes = [model.encode_style(style) for style in (STYLE, other)]
  np.testing.assert_allclose(made[0], model.stylize(frames[0], codes[0]), atol=1e-3)
  np.testing.assert_allclose(made[2], model.stylize(frames[0], codes[1]), atol=1e-3)
  assert np.abs(made[1] - made[0]).mean() > 1e-4


def test_styles_are_mixed_by_their_codes(adain):
  styles = [STYLE, pictures(1, 5, (64, 64))[0]]
  mixed = mix_styles(adain, styles, [0.25, 0.75])
  expected = jax.tree.map(
    lambda a, b: 0.25 * a + 0.75 * b, *(adain.encode_style(style) for style in styles)
  )
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), mixed, expected)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_alpha_weighs_the_style(transform, request):
  model, frames = request.getfixturevalue(transform), np.repeat(pictures(1), 2, axis=0)
  made = list(stylize_frames(frames, STYLE, model=model, alpha=0.4, blending=0))
  expected = model.stylize(frames[0], model.encode_style(STYLE), 0.4)
  np.testing.assert_allclose(made[0], expected, atol=1e-3)
  none = next(stylize_frames(frames, STYLE, model=model, alpha=0.0, blending=0))
  np.testing.assert_allclose(none, frames[0], atol=1e-4)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("sizes", [{"look_size": 24}, {"stroke": 2.0}])
def test_frames_have_the_strokes_of_pictures(transform, sizes, request):
  model, frames = request.getfixturevalue(transform), np.repeat(pictures(1, size=(48, 64)), 2, 0)
  made = next(stylize_frames(frames, STYLE, model=model, blending=0, alpha=0.4, **sizes))
  expected = stylize(frames[0], STYLE, model=model, alpha=0.4, **sizes)
  np.testing.assert_allclose(made, expected, atol=1e-3)


@pytest.mark.slow
def test_frames_are_refined_at_the_size_of_their_strokes(adain):
  frames = np.repeat(pictures(1, size=(48, 64)), 2, 0)
  look: Any = {"model": adain, "refine": 2, "palette": 0.6, "look_size": 24}
  made = next(stylize_frames(frames, STYLE, blending=0, **look))
  assert np.abs(made - stylize(frames[0], STYLE, **look)).mean() < 0.01


@pytest.mark.slow
def test_alpha_0_is_the_video_itself_though_frames_are_blended(adain):
  noise = np.random.default_rng(0).normal(0, 0.05, (6, 32, 40, 3))
  frames = np.clip(np.repeat(pictures(1, size=(32, 40)), 6, axis=0) + noise, 0, 1)
  frames = np.round(frames * 255).astype(np.uint8)
  look: Any = {"model": adain, "palette": 0.6, "evenness": 1, "refine": 1}
  made = list(stylize_frames(frames, STYLE, alpha=0, **look))
  np.testing.assert_array_equal(made, frames)
  changes = []
  for blending in (steady.STEADY, 0):
    made = list(stylize_frames(frames, STYLE, alpha=0.3, blending=blending, **look))
    changes.append(np.abs(np.diff(np.asarray(made, float), axis=0)[3:]).mean())
  assert changes[0] < 0.8 * changes[1]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_type_and_shape_are_those_of_the_frames(adain, dtype):
  frames = pictures(2, size=(17, 21)).astype(dtype)
  if dtype == np.uint8:
    frames = np.round(pictures(2, size=(17, 21)) * 255).astype(np.uint8)
  made = list(stylize_frames(frames, STYLE, model=adain))
  assert [(p.dtype, p.shape) for p in made] == [(dtype, (17, 21, 3))] * 2


def test_a_start_in_the_middle_continues(adain):
  frames = pictures(20)
  whole = list(stylize_frames(frames, STYLE, model=adain, blending=0.8))
  rest = list(stylize_frames(frames, STYLE, model=adain, blending=0.8, start=16))
  assert len(rest) == 4
  # The blend forgets its start.
  assert np.abs(np.stack(rest) - np.stack(whole[16:])).max() < 0.1
  plain = [list(stylize_frames(frames, STYLE, model=adain, blending=0, start=s)) for s in (0, 16)]
  np.testing.assert_allclose(plain[1], plain[0][16:], atol=1e-5)


@pytest.mark.slow
def test_a_size_is_compiled_once(adain):
  steps: tuple[Any, ...] = (module._render, module._measure, steady.follow, steady.blend)
  for function in steps:
    function.clear_cache()
  for seed in range(3):
    list(stylize_frames(pictures(10, seed), STYLE, model=adain))
  assert [function._cache_size() for function in steps] == [1, 1, 1, 1]


@pytest.mark.parametrize(
  "arguments, message",
  [
    ({"statistics": "shots"}, "statistics: expected one of"),
    ({"blending": 1.0}, "blending: expected a number from 0 to below 1"),
    ({"blending": "0.5"}, "blending: expected a number from 0 to below 1, got '0.5'"),
    ({"start": -1}, "start: expected a whole number of at least 0, got -1"),
    ({"start": 0.5}, "start: expected a whole number of at least 0, got 0.5"),
    ({"mix_to": STYLE, "count": -5}, "count: expected a whole number of at least 1, got -5"),
    ({"style": []}, "style: expected at least one"),
    ({"weights": [0.5, 0.5]}, "weights: expected 1 numbers"),
    ({"alpha": 1.5}, "alpha: expected a number"),
    ({"palette": 1.5}, "palette: expected a number"),
    ({"refine": -1}, "refine: expected a whole number from 0 to 100, got -1"),
    ({"palette": [0.5, 0.5]}, "palette: expected one number"),
    ({"alpha": np.ones((16, 16))}, "alpha: expected one number in .* for all frames"),
    ({"frames": [np.zeros((16, 16, 4))]}, r"frames\[0\]: expected RGB"),
    ({"frames": [np.zeros((16, 16, 3)), np.zeros((16, 8, 3))]}, r"frames\[1\]: expected the shape"),
    ({"frames": "in.mp4"}, r"frames: expected pictures, such as open_video\(path\).*'in.mp4'"),
    ({"frames": None}, "frames: expected pictures"),
    ({"frames": 5}, "frames: expected pictures, .* got 5"),
    ({"mix_to": []}, "^mix_to: expected at least one"),
    ({"mix_to": "a.png"}, "^mix_to: expected an array of pixels, got 'a.png'"),
    ({"mix_to": STYLE[None]}, r"^mix_to: expected pictures \[h, w, 3\], got a batch"),
    ({"frames": iter([]), "statistics": "shot"}, "statistics: 'shot' takes frames that can be"),
    ({"frames": iter([]), "mix_to": STYLE}, "count: expected the number of frames"),
  ],
)
def test_wrong_arguments_are_named(adain, arguments, message):
  given = {
    "frames": [np.zeros((16, 16, 3), np.float32)],
    "style": STYLE,
    "model": adain,
  } | arguments
  with pytest.raises(ValueError, match=message):
    list(stylize_frames(given.pop("frames"), given.pop("style"), **given))


def test_no_frames_give_no_pictures(adain):
  assert list(stylize_frames([], STYLE, model=adain)) == []
  assert list(stylize_frames(iter([]), STYLE, model=adain)) == []


@pytest.mark.slow
@pytest.mark.parametrize(
  ("transform", "skips"), [("adaconv", []), ("adaconv_plus", [(2, 256), (2, 128), (2, 64)])]
)
def test_statistics_of_contents_are_those_that_render_uses(transform, skips, request):
  model, frames = request.getfixturevalue(transform), jnp.asarray(pictures(2))
  code = model.encode_style(STYLE)
  content = model.encode_content(frames, for_alpha=False)
  stats = model.content_stats(content, code)
  assert [s.mean.shape for s in stats] == [(2, 512), (2, 256), (2, 128), (2, 64), *skips]
  np.testing.assert_allclose(
    model.render(content.replace(stats=stats), code), model.render(content, code), atol=1e-4
  )


def recolored(pictures, styles, strength, weights=None):
  """What `match_palette` makes of all pictures together, as one tall one."""
  weights = weights or [1 / len(styles)] * len(styles)
  palettes = np.stack([measure_palette(jnp.asarray(style)[None]) for style in styles])
  palette = jnp.asarray(np.tensordot(np.asarray(weights, np.float32), palettes, 1))
  n, h, w, c = pictures.shape
  tall = match_palette(pictures.reshape(1, n * h, w, c), palette, strength)
  return np.asarray(tall).reshape(n, h, w, c)


@pytest.mark.slow
def test_frames_of_a_shot_get_the_palette_as_one_picture_does(adain, monkeypatch):
  monkeypatch.setattr(module, "EVERY", 1)
  frames, other = pictures(4), pictures(1, 5, (64, 64))[0] ** 3
  options: Any = {"model": adain, "blending": 0, "weights": [0.3, 0.7]}
  plain = np.stack(list(stylize_frames(frames, [STYLE, other], **options)))
  given = np.stack(list(stylize_frames(frames, [STYLE, other], **options, palette=0.7)))
  expected = recolored(plain, [STYLE, other], 0.7, [0.3, 0.7])
  np.testing.assert_allclose(given, expected, atol=2e-3)  # of as many pixels, but other ones
  assert np.abs(given - plain).mean() > 0.02


@pytest.mark.slow
def test_a_color_is_moved_alike_in_all_frames_of_a_shot(adain):
  """Also where another one enters, which changes how a frame alone would be moved."""
  frames = np.repeat(pictures(1, size=(64, 160)), 9, axis=0) * 0.7
  frames[8, :, 130:] += 0.25  # in the second of the frames that are measured
  options: Any = {"model": adain, "blending": 0.9, "palette": 1.0}
  made = [
    list(stylize_frames(frames, STYLE, **options, statistics=statistics))
    for statistics in ("shot", "frame")
  ]
  shot, alone = (np.abs(one[8] - one[7])[:, :16].mean() for one in made)
  assert shot < 0.3 * alone, (shot, alone)


@pytest.mark.slow
def test_frames_by_themselves_get_the_palette_that_stylize_gives_them(adain):
  frames = pictures(3)
  made = stylize_frames(
    frames, STYLE, model=adain, statistics="frame", blending=0, palette=0.6, alpha=0.5
  )
  plain = adain.stylize(frames, adain.encode_style(STYLE), 0.5)
  expected = match_palette(plain, measure_palette(jnp.asarray(STYLE)[None]), 0.3)
  np.testing.assert_allclose(np.stack(list(made)), expected, atol=2e-3)


@pytest.mark.slow
def test_a_stream_gets_the_palette_and_follows_slowly(adain):
  dark, light = pictures(1)[0] * 0.5, pictures(1)[0] * 0.55
  options: Any = {"model": adain, "blending": 0, "palette": 1.0}
  made = list(stylize_frames(iter([dark] * 2 + [light] * 40), STYLE, **options))
  own = [next(stylize_frames([frame], STYLE, **options)) for frame in (dark, light)]
  np.testing.assert_allclose(made[0], own[0], atol=1e-3)
  distances = [np.abs(picture - own[1]).mean() for picture in made[2:]]
  assert distances[0] > 2 * distances[-1]


@pytest.mark.slow
def test_a_fade_goes_from_one_palette_to_the_other(adain):
  other = pictures(1, 5, (64, 64))[0] ** 3
  frames = np.repeat(pictures(1), 5, axis=0)
  options: Any = {"model": adain, "blending": 0, "palette": 1.0}
  made = list(stylize_frames(frames, STYLE, **options, mix_to=other))
  for picture, style in ((made[0], STYLE), (made[-1], other)):
    own = next(stylize_frames(frames[:1], style, **options))
    np.testing.assert_allclose(picture, own, atol=1e-3)
  steps = [np.abs(b - a).mean() for a, b in itertools.pairwise(made)]
  assert max(steps) < 2 * min(steps)


def test_a_palette_of_0_is_none(adain):
  frames = pictures(2)
  plain = list(stylize_frames(frames, STYLE, model=adain))
  np.testing.assert_array_equal(list(stylize_frames(frames, STYLE, model=adain, palette=0)), plain)


@pytest.mark.parametrize("count", [1, 8, 9, 100, 1000])
def test_samples_of_a_shot_are_few_and_spread_evenly(count):
  samples = module._Samples()
  for index in range(count):
    samples.add(np.array(index))
  found = [int(frame) for frame in samples.frames]
  assert len(found) == count if count <= module.SAMPLES else 4 <= len(found) <= module.SAMPLES
  assert found[0] == 0 and len(set(np.diff(found))) <= 1
  assert count - found[-1] <= max(np.diff(found), default=1)


@pytest.mark.slow
def test_a_code_is_refined_for_frames_from_all_of_the_video(adain):
  frames = np.concatenate([pictures(5), pictures(5, 3) ** 2])
  given = list(stylize_frames(frames, STYLE, model=adain, statistics="frame", blending=0, refine=2))
  chosen = frames[[0, 4, 8, 0]]
  code = adain.refine(adain.encode_style(STYLE), chosen, STYLE, 2)
  np.testing.assert_allclose(np.stack(given), adain.stylize(frames, code), atol=2e-3)
  plain = adain.stylize(frames, adain.encode_style(STYLE))
  assert np.abs(np.stack(given) - plain).max() > 1e-3


def test_frames_that_are_seen_once_cannot_be_refined_for(adain):
  with pytest.raises(ValueError, match="^refine: expected 0 for an iterator, whose"):
    stylize_frames(iter(pictures(2)), STYLE, model=adain, refine=1)
