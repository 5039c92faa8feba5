"""`stylize` as a JAX function, and the command line around it, run in this process.

Most tests use AdaIN: AdaConv takes several times longer to compile.
"""

import os
import re
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from small_models import small_stylizer

import infer
from adaconv_jax import images, save_bundle
from adaconv_jax import inference as rendering
from adaconv_jax.cli import render_files
from adaconv_jax.models.stylizer import Stylizer
from infer import main, stylize

TRANSFORMS = ["adain", "adaconv"]


@pytest.fixture(scope="module")
def stylizers():
  return {transform: small_stylizer(transform) for transform in TRANSFORMS}


@pytest.fixture(scope="module")
def adain(stylizers):
  return stylizers["adain"]


def picture(seed, *shape):
  return np.random.default_rng(seed).random((*shape, 3), np.float32)


# Multiples of 8, so that what AdaIN's decoder gets of a content is what its code is made of.
CONTENT, STYLE = picture(0, 2, 16, 24), picture(1, 16, 24)


# stylize.


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_it_is_the_stylizer_with_one_style_for_all_contents(stylizers, transform):
  stylizer = stylizers[transform]
  direct = jax.jit(lambda s, x, y, a: s.stylize(x, s.encode_style(y), a))
  expected = direct(stylizer, CONTENT, np.stack([STYLE, STYLE]), jnp.float32(0.3))
  got = stylize(CONTENT, STYLE, model=stylizer, alpha=0.3)
  assert got.shape == CONTENT.shape and got.dtype == np.float32
  np.testing.assert_allclose(got, expected, atol=2e-5)  # another order of the same sums
  assert 0.05 < got.std() < 0.5  # or the comparison would say nothing


def test_every_content_gets_its_own_style(adain):
  styles = np.stack([STYLE, 1 - STYLE**2])
  together = stylize(CONTENT, styles, model=adain)
  for content, style, expected in zip(CONTENT, styles, together, strict=True):
    np.testing.assert_allclose(stylize(content, style, model=adain), expected, atol=2e-5)
  assert np.abs(together[1] - stylize(CONTENT[1], styles[0], model=adain)).max() > 0.01


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_alpha_goes_from_the_content_to_the_style(stylizers, transform):
  stylizer = stylizers[transform]
  plain = stylize(CONTENT, STYLE, model=stylizer)
  full = stylize(CONTENT, STYLE, model=stylizer, alpha=jnp.ones(()))
  np.testing.assert_allclose(full, plain, atol=2e-5)  # 1 as an array has another program
  # At 0 nothing of the style is left: every content is its own style.
  none = stylize(CONTENT, STYLE, model=stylizer, alpha=0)
  own = stylize(CONTENT, CONTENT, model=stylizer)
  np.testing.assert_allclose(none, own, atol=1e-4)
  assert np.abs(np.asarray(none - full)).max() > 0.01


def test_uint8_is_rounded_and_the_output_has_the_type_of_the_content(adain):
  content, style = (images.to_uint8(x) for x in (CONTENT[0], STYLE))
  expected = stylize(content / np.float32(255), style / np.float32(255), model=adain)
  got = stylize(content, style, model=adain)
  assert got.dtype == np.uint8
  assert np.abs(np.asarray(got, np.float32) - 255 * np.asarray(expected)).max() < 0.51
  mixed = stylize(jnp.asarray(content / np.float32(255), jnp.bfloat16), style, model=adain)
  assert mixed.dtype == jnp.bfloat16
  np.testing.assert_allclose(mixed.astype(np.float32), expected, atol=0.02)  # of 8 bits each
  assert stylize(content / np.float32(255).astype(float), style, model=adain).dtype == np.float32


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 5), (9, 17)])
def test_any_size_comes_back_as_it_was(adain, height, width):
  got = stylize(picture(2, height, width), picture(3, width, height), model=adain)
  assert got.shape == (height, width, 3) and np.isfinite(got).all()


def test_a_shape_is_compiled_once_whatever_the_values(adain, monkeypatch):
  traced = []
  for name in ("encode_style", "stylize"):
    method = getattr(Stylizer, name)
    monkeypatch.setattr(
      Stylizer, name, lambda *args, m=method, n=name: traced.append(n) or m(*args)
    )
  content, style = picture(4, 11, 13), picture(5, 18, 19)
  other = jax.tree.map(lambda x: x / 2, adain.params)
  for model in (adain, adain.replace(params=other)):
    for alpha in (0.2, 0, np.float32(0.4), jnp.asarray(0.6)):
      stylize(content * alpha, style * alpha, model=model, alpha=alpha)
  assert traced == ["encode_style", "stylize"]
  for scale in (1, 0.5):
    stylize(content, style * scale, model=adain)
    stylize(content, style * scale, model=adain, alpha=1)
  assert traced == ["encode_style", "stylize", "stylize"]  # alpha of 1 has a program of its own


def test_adaconv_compiles_for_the_first_size_of_style_only(stylizers, monkeypatch):
  stylize(CONTENT, STYLE, model=stylizers["adaconv"])
  monkeypatch.setattr(Stylizer, "encode_style", None)
  monkeypatch.setattr(Stylizer, "stylize", None)
  stylize(CONTENT, picture(6, 21, 30), model=stylizers["adaconv"])


@pytest.mark.usefixtures("quick_compiler")
def test_jit_and_vmap_give_what_separate_calls_give(adain):
  content, style = CONTENT[:, :9], picture(6, 10, 9)
  expected = stylize(content, style, model=adain, alpha=0.5)
  jitted = jax.jit(lambda x, y, a: stylize(x, y, model=adain, alpha=a))
  np.testing.assert_allclose(jitted(content, style, 0.5), expected, atol=2e-5)
  mapped = jax.vmap(lambda x, a: stylize(x, style, model=adain, alpha=a))
  np.testing.assert_allclose(mapped(content, jnp.full(2, 0.5)), expected, atol=2e-5)
  # Values are unknown inside of jit, so that nothing of them is checked.
  assert np.isnan(jitted(content * np.nan, style, 0.5)).any()


@pytest.fixture
def quick_compiler():
  """Programs that run once or twice: optimizing them takes longer than running them."""
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.slow
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_gradients_are_those_of_small_steps_and_finite_on_flat_images(stylizers, transform):
  stylizer, content, style = stylizers[transform], CONTENT[:1], STYLE
  weights = picture(7, 1, 16, 24)

  def loss(content, style, alpha):
    return (weights * stylize(content, style, model=stylizer, alpha=alpha)).sum()

  compiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))
  at = (jnp.asarray(content), jnp.asarray(style), jnp.asarray(0.5))
  for index, gradient in enumerate(compiled(*at)[1]):
    assert np.isfinite(gradient).all()
    step = 2e-4 * gradient / jnp.linalg.norm(gradient)
    there, back = (at[:index] + (at[index] + s,) + at[index + 1 :] for s in (step, -step))
    slope = (compiled(*there)[0] - compiled(*back)[0]) / 4e-4
    # ReLU and max pooling have kinks, which a step of this size may cross.
    np.testing.assert_allclose(slope, jnp.linalg.norm(gradient), rtol=0.2)
  flat = [jnp.full_like(x, 0.5) for x in at]  # no channel of a flat image deviates from its mean
  assert all(np.isfinite(gradient).all() for gradient in compiled(*flat)[1])


def with_value(value):
  image = picture(0, 4, 4).copy()
  image[1, 2, 0] = value
  return image


BAD_IMAGES = [
  (picture(0, 4)[..., 0], r"expected RGB of the shape \[h, w, 3\] or .* got \[4\]; grey pic"),
  (np.zeros((1, 1, 4, 4, 3)), r"got \[1, 1, 4, 4, 3\]"),
  (np.zeros((4, 4, 4), np.uint8), r"got \[4, 4, 4\]"),
  (jnp.zeros((3, 8, 8)), r"got \[3, 8, 8\]"),
  (np.zeros((0, 4, 3)), r"expected at least one pixel, got the shape \[0, 4, 3\]"),
  (np.zeros((0, 4, 4, 3)), r"expected at least one pixel, got the shape \[0, 4, 4, 3\]"),
  (np.zeros((4, 4, 3), int), r"expected float in \[0, 1\] or uint8, got int64"),
  (np.zeros((4, 4, 3), bool), r"expected float in \[0, 1\] or uint8, got bool"),
  (with_value(np.nan), r"expected values in \[0, 1\], got NaN"),
  (jnp.asarray(with_value(np.nan), jnp.bfloat16), r"expected values in \[0, 1\], got NaN"),
  (with_value(np.inf), r"expected float values in \[0, 1\], got .* to inf"),
  (with_value(255.0), r"expected float values in \[0, 1\], got .* to 255; divide"),
  (with_value(-0.1), r"expected float values in \[0, 1\], got -0.1 to"),
]


@pytest.mark.parametrize(("image", "message"), BAD_IMAGES)
@pytest.mark.parametrize("name", ["content", "style"])
def test_bad_images_are_refused_by_the_name_of_the_argument(adain, name, image, message):
  arguments = {"content": CONTENT, "style": STYLE} | {name: image}
  with pytest.raises(ValueError, match=f"^{name}: .*{message}"):
    stylize(**arguments, model=adain)


def test_rounding_errors_outside_of_the_range_are_taken(adain):
  assert stylize(CONTENT[0] * 0 + 1.0005, STYLE, model=adain).max() <= 1


@pytest.mark.parametrize(
  ("alpha", "got"),
  [
    (-0.1, "-0.1"),
    (1.1, "1.1"),
    (np.nan, "nan"),
    (jnp.asarray(2), "2"),
    ([0.5, 0.5], r"float64\[2"),
  ]
  + [("a", r"<U1\[")],
)
def test_a_bad_alpha_is_refused(adain, alpha, got):
  with pytest.raises(ValueError, match=f"^alpha: expected .* in \\[0, 1\\], got {got}"):
    stylize(CONTENT, STYLE, model=adain, alpha=alpha)


def test_batches_that_do_not_match_are_refused_even_under_jit(adain):
  for content, number in ((CONTENT, 2), (CONTENT[0], 1)):
    message = f"^style: expected one style, or one for each of the {number} contents, got 3"
    with pytest.raises(ValueError, match=message):
      jax.jit(lambda x, y: stylize(x, y, model=adain))(content, np.stack([STYLE] * 3))


def test_a_model_that_is_not_there_says_how_to_get_one():
  with pytest.raises(ValueError, match="^model: 'none' is neither .*python train.py"):
    stylize(CONTENT, STYLE, model="none")


@pytest.fixture(scope="module")
def bundle(adain, tmp_path_factory):
  path = tmp_path_factory.mktemp("bundle") / "adain.safetensors"
  save_bundle(adain, path)
  return path


def test_a_model_by_path_may_be_loaded_first_inside_of_jit(adain, bundle):
  infer._load_once.cache_clear()
  expected = stylize(CONTENT, STYLE, model=adain)
  jitted = jax.jit(lambda x: stylize(x, STYLE, model=bundle))(CONTENT)
  np.testing.assert_allclose(jitted, expected, atol=2e-5)
  np.testing.assert_array_equal(stylize(CONTENT, STYLE, model=str(bundle)), expected)


def test_a_model_by_path_is_loaded_again_only_when_it_changes(adain, tmp_path, monkeypatch):
  loads = []
  monkeypatch.setattr(infer, "load_model", lambda path: loads.append(path.name) or adain)
  monkeypatch.chdir(tmp_path)
  Path("m.safetensors").write_bytes(b"1")
  Path("run/checkpoints").mkdir(parents=True)
  Path("run/config.json").touch()
  for _ in range(2):
    for model in ("m.safetensors", tmp_path / "m.safetensors", "run", "run/checkpoints"):
      stylize(CONTENT, STYLE, model=model)
  assert loads == ["m.safetensors", "run", "checkpoints"]
  Path("run/checkpoints/100").mkdir()
  os.utime("m.safetensors", ns=(0, 0))
  for model in ("m.safetensors", "run", "run/checkpoints"):
    stylize(CONTENT, STYLE, model=model)
  assert loads[3:] == loads[:3]


# The command line.


@pytest.fixture
def folder(tmp_path, monkeypatch, adain):
  """Two contents and two styles of one size, which is compiled once for all tests."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(infer, "load_model", lambda model, *, vgg_weights=None: adain)
  for seed, name in enumerate(("c/cat.png", "c/dog.png", "s/dots.png", "s/ink.png")):
    images.save(name, picture(seed, 16, 24))
  return tmp_path


def run(capsys, *arguments):
  """Returns exit code, and the lines of both outputs without the progress bar."""
  code = main([str(argument) for argument in arguments])
  out, err = capsys.readouterr()
  lines = [line.split("\r")[-1] for line in err.splitlines()]
  return code, out.splitlines(), [line for line in lines if line.startswith(("error", "inter"))]


def pixels(path):
  return np.asarray(Image.open(path))


def test_one_pair_becomes_the_file_that_stylize_makes(folder, capsys, adain):
  arguments = ("--content", "c/cat.png", "--style", "s/ink.png", "--alpha", "0.5")
  code = main([*arguments, "--output", "new/out.png"])
  assert (code, capsys.readouterr().err) == (0, "")  # no progress bar
  expected = stylize(pixels("c/cat.png"), pixels("s/ink.png"), model=adain, alpha=0.5)
  np.testing.assert_array_equal(pixels("new/out.png"), expected)
  assert [path.name for path in Path("new").iterdir()] == ["out.png"]


def test_folders_become_all_pairs_each_image_read_and_each_style_encoded_once(
  folder, capsys, adain, monkeypatch
):
  read, encoded = [], []
  decode, encode = images.decode, render_files.encode
  monkeypatch.setattr(images, "decode", lambda d, **k: read.append(k["name"]) or decode(d, **k))
  monkeypatch.setattr(render_files, "encode", lambda *args: encoded.append(1) or encode(*args))
  assert main(["--content", "c", "--style", "s/ink.png", "s", "--output", "out"]) == 0
  assert "4/4" in capsys.readouterr().err
  names = {f"{content}--{style}.png" for content in ("cat", "dog") for style in ("dots", "ink")}
  assert {path.name for path in Path("out").iterdir()} == names
  assert sorted(read) == ["c/cat.png", "c/dog.png", "s/dots.png", "s/ink.png"]
  assert len(encoded) == 2
  expected = stylize(pixels("c/dog.png"), pixels("s/dots.png"), model=adain)
  np.testing.assert_array_equal(pixels("out/dog--dots.png"), expected)


def odd_sizes(folder, *sizes):
  for seed, size in enumerate(sizes):
    images.save(f"{folder}/{size[0]}x{size[1]}.png", picture(seed, *size))


def compilations():
  names = ("_fit_style", "_encode_fitted", "encode_content", "render_encoded")
  functions: Any = [getattr(rendering, name) for name in names]
  return [function._cache_size() for function in functions]


def test_pictures_of_many_sizes_are_compiled_once_per_bucket(folder, monkeypatch):
  odd_sizes("photos", (25, 33), (31, 39), (32, 40), (26, 34), (41, 33))
  odd_sizes("paintings", (57, 60), (63, 58))
  before = compilations()
  assert main(["--content", "photos", "--style", "paintings", "--output", "out"]) == 0
  assert np.subtract(compilations(), before).tolist() == [1, 1, 2, 2]
  for path in Path("out").iterdir():
    height, width = map(int, path.name.split("--")[0].split("x"))
    assert pixels(path).shape == (height, width, 3)


@pytest.mark.parametrize("alpha", ["1", "0.5"])
def test_a_picture_of_an_odd_size_becomes_what_stylize_makes(folder, adain, alpha):
  odd_sizes("photos", (27, 38))
  odd_sizes("paintings", (59, 61))
  arguments = ["--content", "photos", "--style", "paintings", "--alpha", alpha]
  assert main([*arguments, "--output", "out.png"]) == 0
  content, style = pixels("photos/27x38.png"), pixels("paintings/59x61.png")
  expected = stylize(content, style, model=adain, alpha=float(alpha))
  # Rounding to whole numbers goes either way where the float is half between them.
  difference = np.abs(pixels("out.png").astype(int) - np.asarray(expected, int))
  assert difference.max() <= 1 and difference.mean() < 1e-3


def test_a_picture_that_is_rendered_in_strips_keeps_its_size(adain):
  large = np.zeros((1600, 1500, 3), np.uint8)
  batch, extent = render_files._in_bucket(adain, large)
  assert batch.shape == (1, 1600, 1500, 3) and extent is None


def test_bad_files_are_reported_and_the_rest_is_done(folder, capsys):
  good = Path("c/cat.png").read_bytes()
  Path("c/broken.png").write_bytes(good[: len(good) // 2])
  Path("s/text.jpg").write_text("no image")
  Path("out/dog--dots.png").mkdir(parents=True)
  arguments = ("--content", "c", "gone.png", "--style", "s", "--output", "out", "--overwrite")
  code, _, errors = run(capsys, *arguments)
  assert code == 1
  assert len(errors) == 5  # each file once, though it stands in several pairs
  for error, start in zip(
    errors,
    (
      "error: c/broken.png: truncated or corrupt",
      "error: s/text.jpg: not an image",
      "error: out/dog--dots.png: Is a directory",
      "error: gone.png: No such file or directory",
      "error: 9 of 12 failed",
    ),
    strict=True,
  ):
    assert error.startswith(start)
  assert {path.name for path in Path("out").iterdir() if path.is_file()} == {
    "cat--dots.png",
    "cat--ink.png",
    "dog--ink.png",
  }


def test_sizes_are_those_of_the_shorter_side(folder, monkeypatch):
  shapes = []
  encode = render_files.encode
  monkeypatch.setattr(render_files, "encode", lambda s, x, e: shapes.append(e) or encode(s, x, e))
  sizes = ("--size", "8", "--style-size", "32")
  assert main(["--content", "c/cat.png", "--style", "s/ink.png", "--output", "o.png", *sizes]) == 0
  assert pixels("o.png").shape == (8, 12, 3) and shapes == [(32, 48)]


def test_an_existing_file_is_kept_unless_told_otherwise(folder, capsys, monkeypatch):
  Path("out.png").write_bytes(b"old")
  arguments = ("--content", "c/cat.png", "--style", "s/ink.png", "--output", "out.png")
  with monkeypatch.context() as patch:
    patch.setattr(infer, "load_model", None)  # it is told before any work
    code, _, errors = run(capsys, *arguments)
  assert code == 2
  assert errors == ["error: --output: out.png exists; --overwrite replaces it"]
  assert Path("out.png").read_bytes() == b"old"
  assert run(capsys, *arguments, "--overwrite") == (0, [], [])
  assert pixels("out.png").shape == (16, 24, 3)


def test_an_interrupted_run_goes_on_with_what_is_missing(folder, capsys, monkeypatch):
  Path("out").mkdir()
  Path("out/cat--dots.png").write_bytes(b"old")
  arguments = ("--content", "c", "--style", "s", "--output", "out")
  code, out, errors = run(capsys, *arguments)
  assert (code, errors) == (0, [])
  assert len(out) == 1 and out[0].startswith("kept") and out[0].endswith("out/cat--dots.png")
  assert Path("out/cat--dots.png").read_bytes() == b"old" and len(list(Path("out").iterdir())) == 4
  monkeypatch.setattr(infer, "load_model", None)
  assert run(capsys, *arguments)[0] == 0  # nothing is left to do


def test_ctrl_c_leaves_whole_files_only(folder, capsys, monkeypatch):
  render, calls = render_files.render_encoded, []

  def interrupted(*args):
    calls.append(1)
    if len(calls) == 2:
      raise KeyboardInterrupt
    return render(*args)

  monkeypatch.setattr(render_files, "render_encoded", interrupted)
  code, _, errors = run(capsys, "--content", "c", "--style", "s", "--output", "out")
  assert code == 130 and errors == ["interrupted; what is written so far is whole"]
  assert [path.name for path in Path("out").iterdir()] == ["cat--dots.png"]


def test_an_image_that_does_not_fit_into_memory_does_not_stop_the_others(
  folder, capsys, monkeypatch
):
  render, calls = render_files.render_encoded, []

  def too_large(*args):
    calls.append(1)
    if len(calls) == 1:
      raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory\nmore\nlines")
    return render(*args)

  monkeypatch.setattr(render_files, "render_encoded", too_large)
  code, _, errors = run(capsys, "--content", "c", "--style", "s/ink.png", "--output", "out")
  assert (
    code == 1 and "error: out/cat--ink.png: RESOURCE_EXHAUSTED: out of memory; a sm" in errors[0]
  )
  assert [path.name for path in Path("out").iterdir()] == ["dog--ink.png"]


def test_a_full_disk_leaves_the_old_file_and_nothing_else(folder, capsys, monkeypatch):
  def half_written(path, image, **options):
    Path(path).write_bytes(b"half")
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(images, "save", half_written)
  Path("old.png").write_bytes(b"old")
  arguments = ("--content", "c/cat.png", "--style", "s/ink.png", "--output", "old.png")
  code, _, errors = run(capsys, *arguments, "--overwrite")
  assert code == 1 and errors[0] == "error: old.png: No space left on device"
  assert Path("old.png").read_bytes() == b"old"
  assert sorted(path.name for path in folder.iterdir()) == ["c", "old.png", "s"]


def test_quality_is_that_of_the_jpeg(folder):
  sizes = []
  for quality in (1, 100):
    output = f"{quality}.jpg"
    arguments = ["--content", "c/cat.png", "--style", "s/ink.png", "--output", output]
    assert main([*arguments, "--quality", str(quality)]) == 0
    sizes.append(Path(output).stat().st_size)
  assert sizes[0] < sizes[1]


@pytest.mark.parametrize(
  ("option", "value", "message"),
  [
    ("--alpha", "1.5", "expected a number from 0 to 1, got '1.5'"),
    ("--alpha", "nan", "expected a number from 0 to 1, got 'nan'"),
    ("--size", "0", "expected a whole number of at least 1, got '0'"),
    ("--style-size", "2.5", "expected a whole number of at least 1, got '2.5'"),
    ("--quality", "101", "expected a whole number from 1 to 100, got '101'"),
  ],
)
def test_a_bad_number_is_refused_with_its_range(capsys, option, value, message):
  with pytest.raises(SystemExit) as stopped:
    main(["--content", "c", "--style", "s", "--output", "o", option, value])
  assert stopped.value.code == 2
  assert f"argument {option}: {message}" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (("--output", "out", "--model", "nothing"), "error: model: 'nothing' is neither a model"),
    (("--output", "out", "--model", "c/cat.png"), "error: c/cat.png: not a safetensors file"),
    (("--output", "out", "--model", "c"), "error: model: .*/c has no config.json"),
    (("--output", "out.heic"), "error: --output: expected a name that ends in .jpg"),
  ],
)
def test_what_cannot_be_started_is_one_line_and_code_2(
  folder, capsys, monkeypatch, arguments, message
):
  monkeypatch.undo()  # the real load_model
  monkeypatch.chdir(folder)
  code, out, errors = run(capsys, "--content", "c/cat.png", "--style", "s/ink.png", *arguments)
  assert code == 2 and not out and len(errors) == 1
  assert re.match(message, errors[0])
  assert not Path("out").exists()


def test_the_model_and_its_vgg_weights_are_those_that_are_named(folder, adain, monkeypatch):
  asked = []
  monkeypatch.setattr(
    infer, "load_model", lambda model, *, vgg_weights: asked.append((model, vgg_weights)) or adain
  )
  arguments = ["--content", "c/cat.png", "--style", "s/ink.png", "--output"]
  assert main([*arguments, "1.png"]) == 0
  assert main([*arguments, "2.png", "--model", "runs/a", "--vgg-weights", "v"]) == 0
  assert asked == [("adaconv", None), ("runs/a", "v")]


def test_help_tells_the_names_of_outputs_and_the_exit_codes(capsys):
  with pytest.raises(SystemExit) as stopped:
    main(["--help"])
  text = capsys.readouterr().out
  assert stopped.value.code == 0
  assert "CONTENT--STYLE" in text and "Exit code: 0 all done" in text


def test_the_console_command_ends_with_the_exit_code(folder, monkeypatch):
  Path("c/cat.png").write_bytes(b"")
  arguments = ["adaconv-infer", "--content", "c", "--style", "s/ink.png", "--output", "out"]
  monkeypatch.setattr(sys, "argv", arguments)
  with pytest.raises(SystemExit) as stopped:
    infer.cli()
  assert stopped.value.code == 1
  assert [path.name for path in Path("out").iterdir()] == ["dog--ink.png"]
