"""`adaconv stylize`, run in this process.

Most tests use AdaIN: AdaConv takes several times longer to compile.
"""

import re
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from small_models import picture, small_stylizer
from strips import use_strips

from adaconv_jax import images, rooms, stages, stylize
from adaconv_jax.cli import render_files
from adaconv_jax.cli import stylize as command
from adaconv_jax.cli.stylize import main
from adaconv_jax.models import canvas
from adaconv_jax.ops import tiling
from adaconv_jax.ops.color import match_colors

SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def adain():
  return small_stylizer("adain")


@pytest.fixture
def folder(tmp_path, monkeypatch, adain):
  """Two contents and two styles of one size, which is compiled once for all tests."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(command, "load_model", lambda model, *, vgg_weights=None: adain)
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


def assert_same_refined(made, expected):
  """Of programs that pad otherwise, and so round otherwise: steps of refinement enlarge that."""
  levels = np.abs(np.int32(made) - np.int32(expected))
  assert levels.max() <= 1
  assert np.mean(levels > 0) < 0.01


def test_one_pair_becomes_the_file_that_stylize_makes(folder, capsys, adain):
  arguments = ("--content", "c/cat.png", "--style", "s/ink.png", "--alpha", "0.5")
  code = main([*arguments, "--output", "new/out.png"])
  assert (code, capsys.readouterr().err) == (0, "")  # no progress bar
  look = {"detail": command.DETAIL, "palette": command.PALETTE}
  look |= {"evenness": command.EVENNESS, "refine": command.REFINE}
  made = {"model": adain, "alpha": 0.5, **look}
  expected = stylize(pixels("c/cat.png"), pixels("s/ink.png"), **made)
  assert_same_refined(pixels("new/out.png"), expected)
  assert [path.name for path in Path("new").iterdir()] == ["out.png"]


@pytest.mark.slow
@pytest.mark.parametrize("output", ["out.png", "out/"])
def test_an_output_that_another_process_makes_meanwhile_is_not_replaced(
  folder, capsys, monkeypatch, output
):
  """As of two commands with one output: each begins where there is none."""
  made, render = Path("out.png" if output == "out.png" else "out/cat--ink.png"), []

  def other(*args):
    made.parent.mkdir(exist_ok=True)
    made.write_bytes(b"other")
    render.append(1)
    return stages.render_encoded(*args)

  monkeypatch.setattr(render_files, "render_encoded", other)
  arguments = ["--content", "c/cat.png", "--style", "s/ink.png", "--output", output]
  code, out, errors = run(capsys, *arguments)
  assert (code, out, len(render)) == (1, [], 1)
  message = "exists, because another process has made it meanwhile; --overwrite replaces it"
  assert errors == [f"error: {made}: {message}", "error: 1 of 1 failed"]
  assert made.read_bytes() == b"other"
  assert [p.name for p in made.parent.iterdir() if p.name.startswith(".")] == []
  assert run(capsys, *arguments, "--overwrite")[0] == 0
  assert pixels(made).shape == (16, 24, 3)


def test_folders_become_all_pairs_each_image_read_and_each_style_encoded_once(
  folder, capsys, adain, monkeypatch
):
  read, encoded = [], []
  encode = render_files.encode
  for name in ("decode", "decode_cutout"):  # of styles and of contents
    decode = getattr(images, name)
    monkeypatch.setattr(images, name, lambda d, f=decode, **k: read.append(k["name"]) or f(d, **k))
  monkeypatch.setattr(render_files, "encode", lambda *args: encoded.append(1) or encode(*args))
  assert main(["--content", "c", "--style", "s/ink.png", "s", "--output", "out"]) == 0
  out, err = capsys.readouterr()
  assert "4/4" in err and out == "wrote 4 pictures to out\n"
  names = {f"{content}--{style}.png" for content in ("cat", "dog") for style in ("dots", "ink")}
  assert {path.name for path in Path("out").iterdir()} == names
  assert sorted(read) == ["c/cat.png", "c/dog.png", "s/dots.png", "s/ink.png"]
  assert len(encoded) == 2
  look = {"detail": command.DETAIL, "palette": command.PALETTE}
  look |= {"evenness": command.EVENNESS, "refine": command.REFINE}
  made = {"model": adain, **look}
  expected = stylize(pixels("c/dog.png"), pixels("s/dots.png"), **made)
  assert_same_refined(pixels("out/dog--dots.png"), expected)


def test_the_first_style_is_encoded_beside_the_first_content(folder, monkeypatch):
  encoded, encode = threading.Event(), stages.encode
  read_content = render_files._read_content

  def noted(*args):
    code = encode(*args)
    encoded.set()
    return code

  def wait_for_the_style(*args):
    assert encoded.wait(60)
    return read_content(*args)

  monkeypatch.setattr(render_files, "encode", noted)
  monkeypatch.setattr(render_files, "_read_content", wait_for_the_style)
  assert main(["--content", "c/cat.png", "--style", "s", "--output", "out"]) == 0
  assert len(list(Path("out").iterdir())) == 2


@pytest.mark.parametrize("color", ["luminance", "match"])
def test_a_palette_beside_the_contents_colors_is_refused_and_the_default_is_none(
  folder, capsys, adain, color
):
  arguments = ("--content", "c/cat.png", "--style", "s/ink.png", "--color", color)
  code, out, errors = run(capsys, *arguments, "--output", "out.png", "--palette", "0.5")
  assert (code, out) == (2, [])
  assert errors[0].startswith("error: --palette and --color: expected --color style beside")
  assert main([*arguments, "--output", "out.png"]) == 0
  made = {"model": adain, "detail": command.DETAIL, "evenness": command.EVENNESS, "color": color}
  made["refine"] = command.REFINE
  expected = stylize(pixels("c/cat.png"), pixels("s/ink.png"), **made)
  assert_same_refined(pixels("out.png"), expected)


def test_repeated_options_all_count(folder):
  arguments = ["--content", "c/cat.png", "--style", "s/ink.png", "--output", "out"]
  assert main([*arguments, "--content", "c/dog.png", "--style", "s/dots.png"]) == 0
  assert {path.stem for path in Path("out").iterdir()} == {
    "cat--ink", "cat--dots", "dog--ink", "dog--dots",
  }  # fmt: skip


def odd_sizes(folder, *sizes):
  for seed, size in enumerate(sizes):
    images.save(f"{folder}/{size[0]}x{size[1]}.png", picture(seed, *size))


def compilations():
  names = ("_fit_style", "_encode_fitted", "_encode_content", "render_encoded")
  return [getattr(stages, name).jitted.programs() for name in names]


@pytest.mark.slow
def test_pictures_of_many_sizes_are_compiled_once_per_bucket(folder, monkeypatch):
  odd_sizes("photos", (25, 33), (31, 39), (32, 40), (26, 34), (41, 33))
  odd_sizes("paintings", (57, 60), (63, 58))
  before = compilations()
  assert main(["--content", "photos", "--style", "paintings", "--output", "out"]) == 0
  assert np.subtract(compilations(), before).tolist() == [1, 1, 2, 2]
  for path in Path("out").iterdir():
    height, width = map(int, path.name.split("--")[0].split("x"))
    assert pixels(path).shape == (height, width, 3)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("alpha", "detail"),
  [
    pytest.param("1", "0", marks=pytest.mark.slow),
    pytest.param("0.5", "0", marks=pytest.mark.slow),
    ("1", "0.7"),
  ],
)
def test_a_picture_of_an_odd_size_becomes_what_stylize_makes(folder, adain, alpha, detail):
  odd_sizes("photos", (27, 38))
  odd_sizes("paintings", (59, 61))
  arguments = [
    "--content",
    "photos",
    "--style",
    "paintings",
    "--alpha",
    alpha,
    "--palette",
    "0",
    "--refine",
    "0",
  ]
  assert main([*arguments, "--detail", detail, "--output", "out.png"]) == 0
  content, style = pixels("photos/27x38.png"), pixels("paintings/59x61.png")
  expected = stylize(content, style, model=adain, alpha=float(alpha), detail=float(detail))
  # Rounding to whole numbers goes either way where the float is half between them.
  difference = np.abs(pixels("out.png").astype(int) - np.asarray(expected, int))
  assert difference.max() <= 1 and difference.mean() < 1e-3


@pytest.mark.slow
def test_a_huge_picture_is_the_same_and_its_strips_are_shown(folder, monkeypatch):
  images.save("huge.png", picture(9, 203, 24))
  arguments = ["--content", "huge.png", "--style", "s/ink.png", "--alpha", "0.7"]
  arguments += ["--refine", "0"]  # whose steps enlarge rounding, which padding changes
  assert main([*arguments, "--output", "whole.png"]) == 0
  for module, name in (
    (render_files, "HUGE"), (rooms, "WHOLE_BYTES"), (tiling, "KEPT_BYTES"),
  ):  # fmt: skip
    monkeypatch.setattr(module, name, 0)
  use_strips(monkeypatch, 4 * 24 * 64 * 40)  # 40 rows
  shown = []

  class Shown(render_files.Bar):
    def __init__(self, *args, **kwargs):
      self.what = kwargs["unit"]
      super().__init__(*args, **kwargs)

    def update(self, n=1):
      shown.append((self.n + n, self.total, self.what))
      return super().update(n)

  monkeypatch.setattr(render_files, "Bar", Shown)
  assert main([*arguments, "--output", "strips.png"]) == 0
  assert np.abs(pixels("strips.png").astype(int) - pixels("whole.png")).max() <= 1
  strips = [step for step in shown if step[2] == "strip"]
  total = len(strips)
  assert total > 10 and strips == [(n, total, "strip") for n in range(1, total + 1)]


def cutout(kind, size=(24, 32)):
  """A picture whose upper left is transparent, over hidden colors, and its alpha."""
  alpha = np.full(size, 255, np.uint8)
  alpha[:11, :14], alpha[11:13, :14] = 0, 128
  colors = np.round(255 * picture(7, *size)).astype(np.uint8)
  image = Image.fromarray(colors)
  if kind == "LA":
    image = image.convert("L")
  if kind == "P":  # a color of the palette, which is transparent
    image = image.quantize(200)
    indices, alpha = np.array(image), np.where(alpha == 255, 255, 0).astype(np.uint8)
    indices[alpha == 0] = 255
    found = Image.frombytes("P", image.size, indices.tobytes())
    found.putpalette((image.getpalette() or []) + [0] * 168)
    found.info["transparency"] = 255
    return found, alpha
  image.putalpha(Image.fromarray(alpha))
  return image, alpha


@pytest.mark.parametrize(
  ("kind", "source", "target"),
  [
    ("RGBA", "c.png", "out.png"),
    ("LA", "c.png", "out.webp"),
    ("P", "c.png", "out.png"),
    ("RGBA", "c.webp", "out.tif"),
    ("P", "c.gif", "out.gif"),
  ],
)
def test_transparent_pixels_stay_transparent(folder, kind, source, target):
  image, alpha = cutout(kind)
  image.save(source, lossless=True)
  assert main(["--content", source, "--style", "s/ink.png", "--output", target]) == 0
  with Image.open(target) as image:
    made = image.convert("RGBA")
  np.testing.assert_array_equal(np.asarray(made)[..., 3], alpha)
  assert np.asarray(made)[..., :3][alpha == 255].std() > 5


def test_alpha_is_scaled_as_the_picture(folder):
  image, alpha = cutout("RGBA", (48, 64))
  image.save("c.png")
  arguments = ["--content", "c.png", "--style", "s/ink.png", "--size", "24"]
  assert main([*arguments, "--output", "out.png"]) == 0
  expected = Image.fromarray(alpha).resize((32, 24), Image.Resampling.BICUBIC)
  np.testing.assert_array_equal(pixels("out.png")[..., 3], np.asarray(expected))


def test_what_a_file_hides_has_no_influence(folder):
  image, alpha = cutout("RGBA")
  for name, hidden in (("a.png", 0), ("b.png", 255)):
    changed = np.array(image)
    changed[alpha == 0, :3] = hidden
    Image.fromarray(changed).save(name)
    arguments = ["--content", name, "--style", "s/ink.png"]
    assert main([*arguments, "--output", f"out-{name}"]) == 0
  np.testing.assert_array_equal(pixels("out-a.png"), pixels("out-b.png"))


@pytest.mark.slow
@pytest.mark.parametrize("masked", [False, True])
def test_colors_are_matched_to_what_is_seen_of_a_cutout(folder, monkeypatch, masked):
  colors = np.round(255 * picture(7, 24, 32) ** np.arange(1, 4)).astype(np.uint8)
  alpha = np.zeros((24, 32), np.uint8)
  alpha[:, 20:] = 255
  Image.fromarray(np.dstack([colors, alpha])).save("c.png")
  Image.fromarray(np.repeat(np.array([0, 255], np.uint8), 12)[:, None].repeat(32, 1)).save("m.png")
  encode, encoded = render_files.encode, []

  def listen(stylizer, styles, extent):
    encoded.append(styles[0, :16, :24])
    return encode(stylizer, styles, extent)

  monkeypatch.setattr(render_files, "encode", listen)
  arguments = ["--content", "c.png", "--style", "s/ink.png", "--color", "match"]
  options = ["--mask", "m.png"] if masked else []
  assert main([*arguments, *options, "--output", "out.png"]) == 0
  seen = colors[12 if masked else 0 :, 20:] / np.float32(255)
  expected = match_colors(jnp.asarray(pixels("s/ink.png") / np.float32(255)), jnp.asarray(seen))
  np.testing.assert_allclose(encoded[0], expected, atol=2e-3)


def test_in_a_format_without_alpha_transparent_pixels_are_painted_as_white(folder):
  image, _ = cutout("RGBA")
  image.save("c.png")
  ground = Image.new("RGB", image.size, "white")
  ground.paste(image, mask=image.getchannel("A"))
  ground.save("white.png")
  for name in ("c", "white"):
    arguments = ["--content", f"{name}.png", "--style", "s/ink.png"]
    assert main([*arguments, "--output", f"{name}-out.bmp"]) == 0
  np.testing.assert_array_equal(pixels("c-out.bmp"), pixels("white-out.bmp"))


def test_a_picture_that_is_opaque_everywhere_gets_no_alpha(folder):
  Image.fromarray(np.round(255 * picture(7, 24, 32)).astype(np.uint8)).convert("RGBA").save("c.png")
  arguments = ["--content", "c.png", "--style", "s/ink.png"]
  assert main([*arguments, "--output", "out.png"]) == 0
  assert pixels("out.png").shape == (24, 32, 3)


def test_at_alpha_0_the_file_is_the_photograph(folder):
  odd_sizes("photos", (27, 38))
  arguments = ["--content", "photos", "--style", "s/ink.png", "--alpha", "0"]
  assert main([*arguments, "--output", "out.png"]) == 0
  np.testing.assert_array_equal(pixels("out.png"), pixels("photos/27x38.png"))


def test_paths_none_of_which_exists_are_an_error_before_the_model_is_loaded(
  folder, capsys, monkeypatch
):
  monkeypatch.setattr(command, "load_model", lambda *_, **__: pytest.fail("it is loaded"))
  code, _, errors = run(capsys, "--content", "c", "--style", "no", "x.png", "--output", "new")
  assert (code, errors) == (2, ["error: --style: no such file or folder: no, x.png"])
  assert not Path("new").exists()


def test_bad_files_are_reported_and_the_rest_is_done(folder, capsys):
  good = Path("c/cat.png").read_bytes()
  Path("c/broken.png").write_bytes(good[: len(good) // 2])
  Path("s/text.jpg").write_text("no image")
  Path("out/dog--dots.png").mkdir(parents=True)
  arguments = ("--content", "c", "gone.png", "--style", "s", "--output", "out", "--overwrite")
  code, _, errors = run(capsys, *arguments)
  assert code == 1
  assert len(errors) == 5  # each file once, though it is in several pairs
  for error, start in zip(
    errors,
    (
      "error: c/broken.png: truncated or corrupt",
      "error: s/text.jpg: not an image",
      "error: out/dog--dots.png: expected a file, got a folder",
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


@pytest.mark.parametrize(
  "options",
  [
    ("--color", "match"),
    ("--mix", "0.5", "0.3", "0.2"),
    ("--mix", "0.5", "0.3", "0.2", "--color", "match"),
    ("--mask", "s/ink.png", "s/ink.png", "s/ink.png", "--color", "match"),
    ("--palette", "0.6"),
  ],
)
def test_a_file_that_cannot_be_read_is_reported_once_whatever_uses_it(folder, capsys, options):
  Path("bad.png").write_text("no image")
  styles = ("--style", "bad.png", "s/ink.png", "bad.png")
  arguments = ("--content", "bad.png", "c", *styles, "--output", "out", "--refine", "0")
  code, _, errors = run(capsys, *arguments, *options)
  assert code == 1
  assert len([e for e in errors if e.startswith("error: bad.png: not an image")]) == 1
  assert len(errors) == 2 and re.fullmatch(r"error: \d of \d failed", errors[1])


@pytest.mark.parametrize(
  ("option", "look_size"),
  [(None, 12), pytest.param("own", None, marks=SLOW), pytest.param("24", 24, marks=SLOW)],
)
def test_larger_contents_are_painted_as_at_the_usual_size(
  folder, adain, monkeypatch, option, look_size
):
  monkeypatch.setattr(canvas, "LOOK_SIZE", 12)
  arguments = ["--content", "c/cat.png", "--style", "s/ink.png", "--output", "out.png"]
  arguments += [] if option is None else ["--look-size", option]
  assert main([*arguments, "--refine", "0", "--palette", "0", "--evenness", "0"]) == 0
  made = {"model": adain, "detail": command.DETAIL, "look_size": look_size}
  expected = stylize(pixels("c/cat.png"), pixels("s/ink.png"), **made)
  assert np.abs(np.int32(pixels("out.png")) - np.int32(expected)).max() <= 1


def test_contents_up_to_the_usual_size_are_painted_as_at_their_own():
  sizes = [(512, 900), (513, 900), (900, 513), (40, 30)]
  assert [canvas.usual_look_size(*size) for size in sizes] == [None, 512, 512, None]


@pytest.mark.parametrize("text", ["15", "0", "-1", "none", ""])
def test_a_look_size_that_is_none_is_refused(text, capsys):
  with pytest.raises(SystemExit):
    main(["--content", "c", "--style", "s", "--output", "o", "--look-size", text])
  message = capsys.readouterr().err
  assert f"--look-size: expected a whole number of at least 16, got {text!r}; or 'own'" in message


def test_a_look_size_that_is_too_large_for_a_content_is_reported(folder, capsys):
  arguments = ["--content", "c/cat.png", "--style", "s/ink.png", "--look-size", "100000"]
  code, out, errors = run(capsys, *arguments, "--output", "out.png")
  assert code == 1 and not out and len(errors) == 2
  assert re.match("error: c/cat.png: --stroke and --look-size: .* a smaller --look-size", errors[0])
  assert not Path("out.png").exists()


@pytest.mark.slow
def test_sizes_are_those_of_the_shorter_side(folder, monkeypatch):
  shapes = []
  encode = render_files.encode
  monkeypatch.setattr(render_files, "encode", lambda s, x, e: shapes.append(e) or encode(s, x, e))
  sizes = ("--size", "8", "--style-size", "32")
  assert main(["--content", "c/cat.png", "--style", "s/ink.png", "--output", "o.png", *sizes]) == 0
  assert pixels("o.png").shape == (8, 12, 3) and shapes == [(32, 48)]


def test_an_existing_file_is_kept_without_overwrite(folder, capsys, monkeypatch):
  Path("out.png").write_bytes(b"old")
  arguments = ("--content", "c/cat.png", "--style", "s/ink.png", "--output", "out.png")
  with monkeypatch.context() as patch:
    patch.setattr(command, "load_model", None)  # reported before any work
    code, _, errors = run(capsys, *arguments)
  assert code == 2
  assert errors == ["error: --output: out.png exists; --overwrite replaces it"]
  assert Path("out.png").read_bytes() == b"old"
  assert run(capsys, *arguments, "--overwrite") == (0, ["wrote out.png"], [])
  assert pixels("out.png").shape == (16, 24, 3)


def test_the_same_command_resumes_an_interrupted_run_with_what_is_missing(
  folder, capsys, monkeypatch
):
  Path("out").mkdir()
  Path("out/cat--dots.png").write_bytes(b"old")
  arguments = ("--content", "c", "--style", "s", "--output", "out")
  code, out, errors = run(capsys, *arguments)
  assert (code, errors) == (0, [])
  kept, wrote = out
  assert kept.startswith("kept") and kept.endswith("out/cat--dots.png")
  assert wrote == "wrote 3 pictures to out"
  assert Path("out/cat--dots.png").read_bytes() == b"old" and len(list(Path("out").iterdir())) == 4
  monkeypatch.setattr(command, "load_model", None)
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
    ("--detail", "-0.1", "expected a number from 0 to 1, got '-0.1'"),
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
    command, "load_model", lambda model, *, vgg_weights: asked.append((model, vgg_weights)) or adain
  )
  arguments = ["--content", "c/cat.png", "--style", "s/ink.png", "--output"]
  assert main([*arguments, "1.png"]) == 0
  assert main([*arguments, "2.png", "--model", "runs/a", "--vgg-weights", "v"]) == 0
  assert asked == [("adaconv_plus", None), ("runs/a", "v")]


def test_help_describes_the_names_of_outputs_and_the_exit_codes(capsys):
  with pytest.raises(SystemExit) as stopped:
    main(["--help"])
  text = capsys.readouterr().out
  assert stopped.value.code == 0
  assert "CONTENT--STYLE" in text and "Exit code: 0 all rendered" in text
