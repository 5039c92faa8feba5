"""`color` in `stylize` and on the command line."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from small_models import picture, small_stylizer

from adaconv_jax import images, stylize
from adaconv_jax.cli import stylize as command
from adaconv_jax.ops.color import keep_chroma, match_colors

LUMA = np.array([0.299, 0.587, 0.114])


@pytest.fixture(scope="module")
def adain():
  return small_stylizer("adain")


CONTENT, STYLE = picture(0, 2, 16, 24), picture(1, 16, 24) ** 2


def test_luminance_is_the_outputs_luma_with_the_contents_chroma(adain):
  plain = stylize(CONTENT, STYLE, model=adain)
  got = stylize(CONTENT, STYLE, model=adain, color="luminance")
  np.testing.assert_allclose(got, keep_chroma(plain, jnp.asarray(CONTENT)), atol=1e-5)
  np.testing.assert_allclose(np.asarray(got) @ LUMA, np.asarray(plain) @ LUMA, atol=1e-5)
  assert np.abs(np.asarray(got - plain)).max() > 0.05


@pytest.mark.slow
def test_match_is_a_style_with_the_colors_of_each_content(adain):
  got = stylize(CONTENT, STYLE, model=adain, color="match")
  for index, content in enumerate(CONTENT):
    matched = match_colors(jnp.asarray(STYLE), jnp.asarray(content))
    np.testing.assert_allclose(got[index], stylize(content, matched, model=adain), atol=1e-4)
  assert np.abs(np.asarray(got - stylize(CONTENT, STYLE, model=adain))).max() > 0.01


@pytest.mark.parametrize("color", ["luminance", pytest.param("match", marks=pytest.mark.slow)])
def test_alpha_0_stays_the_photograph(adain, color):
  content, style = images.to_uint8(CONTENT), images.to_uint8(STYLE)
  got = stylize(content, style, model=adain, color=color, alpha=0)
  np.testing.assert_array_equal(got, content)


@pytest.mark.slow
def test_it_works_under_jit_and_grad(adain):
  loss = lambda x, y: stylize(x, y, model=adain, color="match").sum()  # noqa: E731
  for gradient in jax.jit(jax.grad(loss, argnums=(0, 1)))(CONTENT, STYLE):
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0


def test_another_color_is_refused(adain):
  with pytest.raises(ValueError, match="^color: expected one of .*, got 'gray'"):
    stylize(CONTENT, STYLE, model=adain, color="gray")
  with pytest.raises(ValueError, match="^color: .*, got 'match'; match_colors changes a style"):
    adain.stylize(CONTENT, None, color="match")


@pytest.mark.parametrize("color", ["luminance", "match"])
def test_the_command_makes_what_stylize_makes(adain, color, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(command, "load_model", lambda model, *, vgg_weights=None: adain)
  for index, content in enumerate(CONTENT):
    images.save(f"c/{index}.png", content[:15, :21])
  images.save("s.png", STYLE[:, :19])
  arguments = [
    "--content",
    "c",
    "--style",
    "s.png",
    "--color",
    color,
    "--detail=0",
    "--palette=0",
    "--refine=0",
  ]
  assert command.main([*arguments, "--output", "out"]) == 0
  style = np.asarray(Image.open("s.png"))
  for path in Path("c").iterdir():
    expected = stylize(np.asarray(Image.open(path)), style, model=adain, color=color)
    got = np.asarray(Image.open(f"out/{path.stem}--s.png"))
    assert np.abs(got - np.asarray(expected, int)).max() <= 1
