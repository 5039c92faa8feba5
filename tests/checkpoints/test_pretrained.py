"""The shipped models: the claims about them, and their cards."""

import csv
from pathlib import Path

import jax
import numpy as np
import pytest

import infer
from adaconv_jax import images
from adaconv_jax.checkpoints.load import (
  DEFAULT_MODEL,
  find_model,
  load_model,
  read_model,
  shipped_models,
)
from adaconv_jax.evaluation.similarity import ssim
from adaconv_jax.files import sha256
from adaconv_jax.ops import losses
from adaconv_jax.vgg.network import STYLE_LAYERS

ROOT = Path(__file__).parents[2]
WEIGHTS = dict.fromkeys(STYLE_LAYERS, 1.0)


def example(folder, name, size) -> np.ndarray:
  path = ROOT / "examples" / folder / f"{name}.jpg"
  return images.to_float(images.center_square(images.decode(path.read_bytes(), name=name), size))


def test_the_models_that_are_shipped_are_small_and_one_of_them_is_the_default():
  assert DEFAULT_MODEL in shipped_models()
  files = list((ROOT / "adaconv_jax" / "pretrained").iterdir())
  assert sum(file.stat().st_size for file in files) < 80e6
  assert all(file.stat().st_size < 20e6 for file in files)


# Pairs of the training that another one continued.
BEFORE = {"adaconv": 110_400, "adaconv_plus": 4_000}


@pytest.mark.parametrize("name", shipped_models())
def test_a_shipped_model_has_a_card_that_names_this_file_and_its_training(name):
  info, card = read_model(name).info(), (ROOT / "docs" / "models" / f"{name}.md").read_text()
  assert sha256(find_model(name)) in card
  assert f"{info['pairs']:,} pairs" in card and f"{info['steps']:,} steps" in card
  assert info["data"]["content_heldout"] == info["data"]["style_heldout"] == 40
  for picture in (f"{name}.jpg", f"{name}_losses.png"):
    assert picture in card and (ROOT / "docs" / "models" / picture).is_file()
  with (ROOT / "docs" / "models" / f"{name}_losses.csv").open(newline="") as file:
    last = list(csv.DictReader(file))[-1]
  # Those of the model that the training started from come first.
  before = BEFORE.get(name, 0)
  assert int(last["pairs_seen"]) == before + info["pairs"]
  assert not before or f"{before:,} pairs" in card
  heldout = info["heldout_losses"]
  assert np.isclose(float(last["style_loss"]), heldout["heldout_style_loss"], rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", shipped_models())
def test_a_shipped_model_misses_less_than_half_of_the_style_and_keeps_the_content(name):
  stylizer = load_model(name)

  @jax.jit
  def style_loss(output, style):
    def features(x):
      return stylizer.vgg.apply({"params": stylizer.vgg_params}, x, STYLE_LAYERS)

    return losses.style_loss(features(output), features(style), WEIGHTS)  # pyright: ignore

  contents = np.stack([example("content", content, 192) for content in ("astronaut", "palace")])
  before, after, likeness = [], [], []
  for style in ("night", "woodblock"):
    painting = example("style", style, 192)[None]
    stylized = infer.stylize(contents, painting, model=name)
    for content, output in zip(contents, stylized, strict=True):
      before.append(style_loss(content[None], painting))
      after.append(style_loss(output[None], painting))
      likeness.append(ssim(content, output))
  assert np.mean(after) < 0.5 * np.mean(before)
  assert np.mean(likeness) > 0.2


@pytest.mark.slow
def test_stylize_needs_no_model():
  content, style = example("content", "cat", 64), example("style", "ink", 64)
  np.testing.assert_array_equal(
    infer.stylize(content, style), infer.stylize(content, style, model=DEFAULT_MODEL)
  )
