"""Strength and styles that vary over the picture: `alpha` maps and `masks`.

Pictures have one size and programs are shared, because AdaConv takes long to compile.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from small_models import picture, small_stylizer

from adaconv_jax import images, stylize
from adaconv_jax.cli import stylize as command
from adaconv_jax.files import EXAMPLES
from adaconv_jax.models.networks import Networks

TRANSFORMS = ["adain", "adaconv", "adaconv_plus"]
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in TRANSFORMS[1:]]
H, W = 16, 24


@pytest.fixture(scope="module")
def stylizers():
  return {transform: small_stylizer(transform) for transform in TRANSFORMS}


@pytest.fixture(scope="module")
def adain(stylizers):
  return stylizers["adain"]


CONTENT, FIRST, SECOND = picture(0, H, W), picture(1, H, W), picture(2, H, W) ** 3
LEFT = np.broadcast_to((np.arange(W) < W // 3).astype(np.float32), (H, W))
SPLIT = np.stack([LEFT, 1 - LEFT])


def test_a_map_of_alpha_goes_from_the_content_to_the_style_pixel_by_pixel(adain):
  strength = np.random.default_rng(3).random((H, W), np.float32)
  strength[0], strength[1] = 0, 1
  content, style = images.to_uint8(CONTENT), images.to_uint8(FIRST)
  plain = np.asarray(stylize(content, style, model=adain))
  got = np.asarray(stylize(content, style, model=adain, alpha=strength))
  np.testing.assert_array_equal(got[0], content[0])
  np.testing.assert_array_equal(got[1], plain[1])
  mixed = strength[..., None] * plain + (1 - strength[..., None]) * content.astype(np.float32)
  assert np.abs(got - mixed).max() < 1.01


@pytest.mark.slow
def test_every_content_may_have_its_own_map(adain):
  contents, maps = np.stack([CONTENT, CONTENT]), np.stack([LEFT, 1 - LEFT])
  got = np.asarray(stylize(contents, FIRST, model=adain, alpha=maps))
  plain = np.asarray(stylize(contents, FIRST, model=adain))
  for ours, mask, full in zip(got, maps[..., None], plain, strict=True):
    np.testing.assert_allclose(ours, mask * full + (1 - mask) * CONTENT, atol=1e-5)


@pytest.mark.parametrize("transform", ["adain", *SLOW])
def test_a_mask_of_ones_equals_no_mask(stylizers, transform):
  stylizer = stylizers[transform]
  plain = stylize(CONTENT, FIRST, model=stylizer)
  ones = np.ones((H, W), np.float32)
  got = stylize(CONTENT, [FIRST, SECOND], model=stylizer, masks=np.stack([ones, 0 * ones]))
  np.testing.assert_allclose(got, plain, atol=5e-5)
  assert np.abs(np.asarray(plain) - CONTENT).max() > 0.05


@pytest.mark.slow
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_nothing_of_a_style_is_in_the_region_of_another(stylizers, transform):
  stylizer, third = stylizers[transform], picture(4, H, W)
  got = stylize(CONTENT, [FIRST, SECOND], model=stylizer, masks=SPLIT)
  other = stylize(CONTENT, [FIRST, third], model=stylizer, masks=SPLIT)
  inside = LEFT.astype(bool)
  np.testing.assert_array_equal(np.asarray(got)[inside], np.asarray(other)[inside])
  assert np.abs(np.asarray(got - other))[~inside].max() > 1e-3


@pytest.mark.parametrize("transform", ["adain", "adaconv", SLOW[-1]])
def test_what_is_in_no_region_is_in_no_statistics(stylizers, transform):
  got = stylize(CONTENT, [FIRST, SECOND], model=stylizers[transform], masks=SPLIT)
  masks = np.stack([LEFT, 0 * LEFT])
  alone = stylize(CONTENT, [FIRST, SECOND], model=stylizers[transform], masks=masks)
  inside = LEFT.astype(bool)
  np.testing.assert_allclose(np.asarray(got)[inside], np.asarray(alone)[inside], atol=1e-5)
  np.testing.assert_array_equal(np.asarray(alone)[~inside], CONTENT[~inside])


@pytest.mark.parametrize(
  ("masks", "shares"),
  [((1, 1), (0.5, 0.5)), ((0.6, 0.2), (0.6, 0.2)), ((0.9, 0.3), (0.75, 0.25)), ((0, 0), (0, 0))],
)
def test_overlaps_are_divided_and_what_is_not_covered_stays_the_content(adain, masks, shares):
  # Masks of one value everywhere: the statistics are those of the whole picture.
  contents = np.stack([CONTENT, 1 - CONTENT])
  everywhere = np.stack([np.full((H, W), value, np.float32) for value in masks])
  got = stylize(contents, [FIRST, SECOND], model=adain, masks=everywhere)
  plain = [np.asarray(stylize(contents, style, model=adain)) for style in (FIRST, SECOND)]
  expected = shares[0] * plain[0] + shares[1] * plain[1] + (1 - sum(shares)) * contents
  np.testing.assert_allclose(got, expected, atol=5e-5)


@pytest.mark.parametrize("transform", ["adain", *SLOW])
def test_alpha_0_is_the_content_with_masks_too(stylizers, transform):
  content = images.to_uint8(CONTENT)
  styles = [images.to_uint8(x) for x in (FIRST, SECOND)]
  got = stylize(content, styles, model=stylizers[transform], masks=SPLIT, alpha=0)
  np.testing.assert_array_equal(got, content)


def test_the_content_is_encoded_once_and_decoded_once_per_style(adain, monkeypatch):
  encoded, decoded = [], []
  encode, decode = Networks.encode, Networks.decode_scales
  monkeypatch.setattr(
    Networks, "encode", lambda s, x, *a: encoded.append(x.shape[0]) or encode(s, x, *a)
  )
  monkeypatch.setattr(
    Networks,
    "decode_scales",
    lambda s, x, *a, **k: decoded.append(x.shape[0]) or decode(s, x, *a, **k),
  )
  code = adain.encode_style
  codes = [jax.eval_shape(lambda x: code(x), style) for style in (FIRST, SECOND, FIRST)]
  encoded.clear()
  masks = np.ones((3, H, W), np.float32)
  jax.eval_shape(lambda x, c: adain.stylize(x, c, masks=masks), CONTENT, codes)
  assert (encoded, decoded) == ([1], [3])


def example(role, name):
  path = EXAMPLES / role / f"{name}.jpg"
  return images.to_float(images.decode_square(path.read_bytes(), name=name, size=256))


@pytest.mark.slow
@pytest.mark.parametrize("model", ["adain", "adaconv"])  # random ones answer to small differences
def test_far_from_the_seam_a_half_is_nearly_what_it_is_alone(model):
  halves = [example("content", name) for name in ("palace", "coffee")]
  styles = [example("style", name) for name in ("night", "woodblock")]
  both = np.concatenate(halves, 1)
  masks = np.zeros((2, 256, 512), np.float32)
  masks[0, :, :256], masks[1, :, 256:] = 1, 1
  got = np.asarray(stylize(both, styles, model=model, masks=masks))
  for half, style, far in zip(halves, styles, (np.s_[:, :128], np.s_[:, -128:]), strict=True):
    alone = np.asarray(stylize(half, style, model=model))[far]
    unmasked = np.asarray(stylize(both, style, model=model))[far]
    # What is near the seam is in the statistics of the half, and has a neighbor that it has not
    # alone.
    error = np.abs(got[far] - alone).mean()
    assert error < 0.1 * np.abs(alone - half[far]).mean()
    assert error < 0.5 * np.abs(unmasked - alone).mean()


@pytest.mark.slow
def test_it_is_pure_under_jit_vmap_and_grad(adain):
  def loss(content, styles, masks, alpha):
    return stylize(content, styles, model=adain, masks=masks, alpha=alpha)

  strength = 0.25 + 0.5 * LEFT  # nowhere 0, where a style would not matter
  arguments = (CONTENT[None], [FIRST, SECOND], SPLIT[None], strength[None])
  expected = loss(CONTENT, [FIRST, SECOND], SPLIT, strength)
  mapped = jax.jit(jax.vmap(loss, in_axes=(0, None, 0, 0)))(*arguments)
  np.testing.assert_allclose(mapped[0], expected, atol=5e-5)
  gradients = jax.jit(jax.grad(lambda *x: loss(*x).sum(), argnums=(0, 1, 2, 3)))
  for gradient in jax.tree.leaves(gradients(CONTENT, [FIRST, SECOND], SPLIT, strength)):
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"style": FIRST, "masks": SPLIT}, "^masks and style: expected a list of styles beside masks"),
    ({"masks": SPLIT, "weights": (1, 0)}, "^weights and masks: expected one of them"),
    ({"masks": LEFT}, r"^masks: expected one per style and .* \[2, 16, 24\], .*got \[16, 24\]"),
    ({"masks": SPLIT[:, 1:]}, r"^masks: .*got \[2, 15, 24\]"),
    ({"masks": 2 * SPLIT}, r"^masks: expected float values in \[0, 1\], got 0 to 2"),
    ({"masks": SPLIT * np.nan}, "^masks: .*NaN"),
    ({"masks": SPLIT.astype(int)}, "^masks: expected float in .*, boolean or uint8, got int64"),
    ({"alpha": LEFT[1:]}, r"^alpha: expected one number .* a map \[16, 24\] .*got float32\[15, 24"),
    ({"alpha": LEFT + 0.5}, r"^alpha: expected a number in \[0, 1\], got 1.5"),
  ],
)
def test_bad_maps_and_masks_are_refused_by_name(adain, options, message):
  with pytest.raises(ValueError, match=message):
    stylize(CONTENT, **{"style": [FIRST, SECOND], "model": adain} | options)


def test_a_list_of_codes_belongs_to_masks(adain):
  content = jax.eval_shape(adain.encode_content, CONTENT)
  code = jax.eval_shape(adain.encode_style, FIRST)
  for given, masks in (([code, code], None), (code, SPLIT)):
    with pytest.raises(ValueError, match="^code and masks: expected a list of codes beside masks"):
      jax.eval_shape(lambda c, s, m=masks: adain.render(c, s, masks=m), content, given)


@pytest.fixture
def folder(tmp_path, monkeypatch, adain):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(command, "load_model", lambda model, *, vgg_weights=None: adain)
  images.save("cat.png", CONTENT[:15, :21])
  images.save("dots.png", FIRST)
  images.save("ink.png", SECOND)
  gray = images.to_uint8(LEFT[:15, :21])
  Image.fromarray(gray).save("left.png")
  Image.fromarray(255 - gray).save("right.png")
  labels = np.where(gray[..., None] > 0, [0, 0, 90], [200, 180, 0]).astype(np.uint8)
  labels[:, -3:] = 0
  Image.fromarray(labels).save("labels.png")


def pixels(path):
  return np.asarray(Image.open(path))


def made(*options):
  arguments = [
    "--content",
    "cat.png",
    "--style",
    "dots.png",
    "ink.png",
    "--detail=0",
    "--palette=0",
    "--refine=0",
  ]
  assert command.main([*arguments, "--output", "out.png", "--overwrite", *options]) == 0
  return pixels("out.png").astype(int)


def test_the_command_takes_one_mask_per_style_or_a_label_picture(adain, folder):
  content, styles = pixels("cat.png"), [pixels("dots.png"), pixels("ink.png")]
  masks = SPLIT[:, :15, :21].copy()
  expected = stylize(content, styles, model=adain, masks=masks)
  got = made("--mask", "left.png", "right.png")
  assert np.abs(got - np.asarray(expected, int)).max() <= 1
  masks[:, :, -3:] = 0
  expected = stylize(content, styles, model=adain, masks=masks)
  got = made("--mask", "labels.png")
  assert np.abs(got - np.asarray(expected, int)).max() <= 1
  np.testing.assert_array_equal(got[:, -3:], content[:, -3:])


def test_the_command_takes_a_mask_for_alpha(adain, folder):
  expected = stylize(pixels("cat.png"), pixels("dots.png"), model=adain, alpha=0.5 * LEFT[:15, :21])
  arguments = ["--content", "cat.png", "--style", "dots.png", "--output", "one.png"]
  options = [
    "--alpha-mask",
    "left.png",
    "--alpha",
    "0.5",
    "--detail=0",
    "--palette=0",
    "--refine=0",
  ]
  assert command.main([*arguments, *options]) == 0
  assert np.abs(pixels("one.png") - np.asarray(expected, int)).max() <= 1


def test_a_mask_is_stretched_over_the_content(folder):
  Image.open("left.png").resize((42, 60), Image.Resampling.NEAREST).save("large.png")
  Image.open("right.png").resize((42, 60), Image.Resampling.NEAREST).save("other.png")
  small = made("--mask", "left.png", "right.png")
  assert np.abs(small - made("--mask", "large.png", "other.png")).max() <= 1


def test_a_mask_that_cannot_be_read_is_an_error_before_any_work(folder, capsys):
  arguments = ["--content", "cat.png", "--style", "dots.png", "--output", "new.png"]
  assert command.main([*arguments, "--mask", "gone.png"]) == 2
  assert "gone.png" in capsys.readouterr().err and not Path("new.png").exists()


@pytest.mark.slow
def test_masks_may_be_boolean_or_bytes(adain):
  expected = stylize(CONTENT, [FIRST, SECOND], model=adain, masks=SPLIT)
  for masks in (SPLIT.astype(bool), images.to_uint8(SPLIT), jnp.asarray(SPLIT)):
    got = stylize(CONTENT, [FIRST, SECOND], model=adain, masks=masks)
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("color", ["style", "match"])
def test_the_same_style_may_be_in_two_regions(tmp_path, monkeypatch, adain, color):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(command, "load_model", lambda model, *, vgg_weights=None: adain)
  for name, pixels in {"cat": CONTENT, "dots": FIRST, "ink": SECOND}.items():
    images.save(f"{name}.png", pixels)
  thirds = [np.broadcast_to(np.arange(W) // 8 == k, (H, W)) for k in range(3)]
  for k, mask in enumerate(thirds):
    images.save(f"m{k}.png", np.repeat(mask[..., None], 3, -1).astype(np.float32))
  masks, styles = ["m0.png", "m1.png", "m2.png"], ["dots.png", "ink.png", "dots.png"]
  options = ["--color", color, "--detail=0", "--palette=0", "--refine=0", "--output", "out.png"]
  assert command.main(["--content=cat.png", "--style", *styles, "--mask", *masks, *options]) == 0
  pixels = {name: np.asarray(Image.open(f"{name}.png")) for name in ("cat", "dots", "ink")}
  given = [pixels[name] for name in ("dots", "ink", "dots")]
  expected = stylize(pixels["cat"], given, model=adain, masks=np.stack(thirds), color=color)
  got = np.asarray(Image.open("out.png"), int)
  assert np.abs(got - np.asarray(expected, int)).max() <= 1
