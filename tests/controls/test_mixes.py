"""Several styles in one picture: mixed by `weights`."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from small_models import picture, small_stylizer

from adaconv_jax import images, stylize
from adaconv_jax.cli import stylize as command
from adaconv_jax.models.style_code import mix_codes
from adaconv_jax.ops.adain import ChannelStats


@pytest.fixture(scope="module")
def adain():
  return small_stylizer("adain")


CONTENT, FIRST, SECOND = picture(0, 16, 24), picture(1, 16, 24), picture(2, 21, 18) ** 3


def code(seed, n=1):
  rng = np.random.default_rng(seed)
  return ChannelStats(*(jnp.asarray(rng.random((n, 5), np.float32)) for _ in range(2)))


def test_a_mix_is_the_weighted_sum_of_every_leaf():
  codes = [code(seed) for seed in range(3)]
  got = mix_codes(codes, (0.5, 0.3, 0.2))
  for name in ChannelStats._fields:
    leaves = [np.asarray(getattr(c, name), np.float64) for c in codes]
    np.testing.assert_allclose(getattr(got, name), np.tensordot((0.5, 0.3, 0.2), leaves, 1), 1e-6)
  for ours, theirs in zip(mix_codes(codes), mix_codes(codes, np.full(3, 1 / 3)), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_weights_1_0_give_the_first_code_to_the_last_bit():
  for got, first in zip(mix_codes([code(0), code(1)], (1, 0)), code(0), strict=True):
    np.testing.assert_array_equal(got, first)


def test_one_code_for_all_contents_mixes_with_one_for_each():
  got = mix_codes([code(0), code(1, 4)], (0.25, 0.75))
  np.testing.assert_allclose(got.mean, 0.25 * code(0).mean + 0.75 * code(1, 4).mean, rtol=1e-6)


def test_weights_are_known_to_gradients():
  loss = lambda w: mix_codes([code(0), code(1)], w).mean.sum()  # noqa: E731
  got = jax.jit(jax.grad(loss))(jnp.array([0.5, 0.5]))
  np.testing.assert_allclose(got, [code(0).mean.sum(), code(1).mean.sum()], rtol=1e-6)


def test_stylize_mixes_styles_of_different_sizes(adain):
  alone = [stylize(CONTENT, style, model=adain) for style in (FIRST, SECOND)]
  np.testing.assert_array_equal(
    stylize(CONTENT, [FIRST, SECOND], model=adain, weights=(1, 0)), alone[0]
  )
  np.testing.assert_array_equal(
    stylize(CONTENT, (FIRST, SECOND), model=adain, weights=(0, 1)), alone[1]
  )
  np.testing.assert_array_equal(stylize(CONTENT, [FIRST], model=adain), alone[0])
  half = np.asarray(stylize(CONTENT, [FIRST, SECOND], model=adain))
  distances = [np.abs(half - x).mean() for x in alone]
  whole = np.abs(np.asarray(alone[0] - alone[1])).mean()
  assert whole > 1e-3 and max(distances) < 0.8 * whole


@pytest.mark.parametrize(
  ("style", "weights", "message"),
  [
    (FIRST, (1.0,), "^weights and style: expected a list of styles beside weights"),
    ([FIRST, SECOND], (1.0,), r"^weights: expected 2 numbers that sum to 1, .* got \[1.0\]"),
    ([FIRST, SECOND], (0.5, 0.6), "^weights: expected 2 number.*got .*0.6"),
    ([FIRST, SECOND], (1.5, -0.5), "^weights: expected 2 number"),
    ([FIRST, SECOND], ("a", "b"), "^weights: expected numbers"),
    ([], None, "^style: expected at least one picture, got an empty list"),
    ([FIRST, SECOND[0]], None, r"^style\[1\]: expected RGB"),
  ],
)
def test_bad_mixes_are_refused_by_name(adain, style, weights, message):
  with pytest.raises(ValueError, match=message):
    stylize(CONTENT, style, model=adain, weights=weights)


@pytest.fixture
def folder(tmp_path, monkeypatch, adain):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(command, "load_model", lambda model, *, vgg_weights=None: adain)
  for name, pixels in (("c/cat", CONTENT), ("dots", FIRST), ("ink", SECOND)):
    images.save(f"{name}.png", pixels)


@pytest.mark.slow
def test_the_command_mixes_all_styles_in_every_output(adain, folder):
  arguments = [
    "--content",
    "c",
    "--style",
    "dots.png",
    "ink.png",
    "--detail=0",
    "--palette=0",
    "--refine=0",
  ]
  assert command.main([*arguments, "--mix", "0.7", "0.3", "--output", "out"]) == 0
  assert [path.name for path in Path("out").iterdir()] == ["cat--dots+ink.png"]
  styles = [np.asarray(Image.open(name)) for name in ("dots.png", "ink.png")]
  expected = stylize(np.asarray(Image.open("c/cat.png")), styles, model=adain, weights=(0.7, 0.3))
  got = np.asarray(Image.open("out/cat--dots+ink.png"), int)
  assert np.abs(got - np.asarray(expected, int)).max() <= 1


@pytest.mark.slow
def test_the_same_style_may_be_in_a_mix_twice(adain, folder):
  given = ["--content", "c", "--style", "dots.png", "ink.png", "dots.png", "--detail=0"]
  mixed = [*given, "--palette=0", "--refine=0", "--mix", "0.2", "0.5", "0.3", "--output", "twice"]
  assert command.main(mixed) == 0
  (output,) = Path("twice").iterdir()
  assert output.name == "cat--dots+ink+dots.png"
  styles = [np.asarray(Image.open(name)) for name in ("dots.png", "ink.png")]
  content = np.asarray(Image.open("c/cat.png"))
  expected = stylize(content, styles, model=adain, weights=(0.5, 0.5))
  listed = stylize(content, [*styles, styles[0]], model=adain, weights=(0.2, 0.5, 0.3))
  for made in (np.asarray(Image.open(output), int), np.asarray(listed, int)):
    assert np.abs(made - np.asarray(expected, int)).max() <= 1


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (("--mix", "1"), "--mix: expected 2 number(s) that sum to 1, one per --style, got 1.0"),
    (("--mix", "0.5", "0.6"), "--mix: expected 2 number(s) that sum to 1"),
    (("--mix", "0.5", "0.5", "--mask", "ink.png", "ink.png"), "--mix and --mask: expected one of"),
    (("--mask", "ink.png", "ink.png", "ink.png"), "--mask and --style: expected 2 mask(s), one"),
    (("--mask", "dots.png"), "--mask: expected 2 colors in dots.png, one per --style, and black"),
  ],
)
def test_options_that_do_not_fit_together_are_refused(folder, capsys, options, message):
  arguments = ["--content", "c", "--style", "dots.png", "ink.png", "--output", "out"]
  assert command.main([*arguments, *options]) == 2
  assert capsys.readouterr().err.startswith(f"error: {message}")
  assert not Path("out").exists()
