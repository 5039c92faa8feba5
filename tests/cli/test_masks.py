"""Pictures as masks: gray ones, paint on a transparent ground, and labels."""

import numpy as np
import pytest
from PIL import Image

from adaconv_jax.cli.masks import read_mask, read_masks

H, W = 12, 20
LEFT = np.broadcast_to(np.arange(W) < 8, (H, W))
TOP = np.broadcast_to((np.arange(H) < 5)[:, None], (H, W))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)


def save(colors, alpha=None, name="m.png"):
  """Saves colors, one or `[h, w, 3]`, with an alpha `[h, w]` in 0 to 255."""
  pixels = np.broadcast_to(np.asarray(colors, np.uint8), (H, W, 3))
  image = Image.fromarray(np.ascontiguousarray(pixels))
  if alpha is not None:
    image.putalpha(Image.fromarray(np.asarray(alpha, np.uint8)))
  image.save(name)
  return name


def read(name="m.png"):
  return np.asarray(read_mask(name, "--mask"), int)


def test_an_opaque_picture_is_a_mask_by_its_brightness():
  gray = np.linspace(0, 255, H * W).astype(np.uint8).reshape(H, W)
  colors = np.repeat(gray[..., None], 3, -1)
  save(colors)
  np.testing.assert_array_equal(read(), gray)
  save(colors, np.full((H, W), 255))
  np.testing.assert_array_equal(read(), gray)


@pytest.mark.parametrize("color", [(255, 255, 255), (0, 0, 0), (230, 20, 20), (90, 90, 90)])
@pytest.mark.parametrize("hidden", [0, 255])
def test_paint_of_any_color_on_a_transparent_ground_is_the_mask(color, hidden):
  soft = np.where(LEFT, 255, 0)
  soft[:, 8] = 100  # the edge of a brush
  save(np.where(soft[..., None] > 0, color, hidden), soft)
  np.testing.assert_array_equal(read(), soft)


@pytest.mark.parametrize("gray", [False, True])
def test_the_cutout_of_a_photograph_is_the_mask(gray):
  photo = np.random.default_rng(0).integers(0, 256, (H, W, 1 if gray else 3))
  save(photo, np.where(LEFT, 255, 0))
  np.testing.assert_array_equal(read(), 255 * LEFT)


def test_black_paint_beside_white_takes_away_from_the_mask():
  save(np.where(TOP, 255, 0)[..., None], np.where(LEFT, 255, 0))
  np.testing.assert_array_equal(read(), 255 * (LEFT & TOP))


def test_paint_that_is_thin_everywhere_is_a_mask():
  thin = np.where(LEFT, 80, 0)
  save(0, thin)
  np.testing.assert_array_equal(read(), thin)


def test_a_picture_that_is_transparent_everywhere_is_an_empty_mask():
  save(255, np.zeros((H, W)))
  np.testing.assert_array_equal(read(), 0)


def test_a_gray_picture_whose_alpha_is_almost_opaque_stays_gray():
  """As lossy formats make it."""
  save(np.where(LEFT, 255, 0)[..., None], np.where(TOP, 254, 255))
  np.testing.assert_array_equal(read() > 128, LEFT)


@pytest.mark.parametrize("hidden", [0, 77, 255])
@pytest.mark.parametrize("dark", [0, 40])
def test_what_is_transparent_in_labels_stays_the_content(hidden, dark):
  colors = np.where(TOP, dark, 200)
  save(np.where(LEFT, colors, hidden)[..., None], np.where(LEFT, 255, 0))
  first, second = (np.asarray(mask) for mask in read_masks(["m.png"], 2))
  np.testing.assert_array_equal(first, 255 * (LEFT & TOP))
  np.testing.assert_array_equal(second, 255 * (LEFT & ~TOP))


def test_labels_of_another_number_are_refused_with_what_is_expected():
  save(np.where(TOP, 50, 200)[..., None], np.where(LEFT, 255, 0))
  with pytest.raises(ValueError, match="expected 3 colors in m.png, .*black or nothing.* got 2"):
    read_masks(["m.png"], 3)


def test_a_mask_that_cannot_be_read_is_named_with_its_option(tmp_path):
  (tmp_path / "text.png").write_text("no picture")
  with pytest.raises(ValueError, match=r"^--alpha-mask: .*gone\.png: No such file or directory$"):
    read_mask(str(tmp_path / "gone.png"), "--alpha-mask")
  with pytest.raises(ValueError, match=r"^--mask: .*text\.png: not an image"):
    read_masks([str(tmp_path / "text.png")], 1)
