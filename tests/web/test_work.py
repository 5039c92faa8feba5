"""What the page makes, without a browser and without Gradio."""

import io
import itertools
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_files import png, png_chunk
from PIL import Image
from small_models import small_stylizer

from adaconv_jax import images, inference, stages
from adaconv_jax.models import canvas
from adaconv_jax.web import work
from adaconv_jax.web.work import Made, Refused, Studio, Wish


@pytest.fixture(scope="module")
def adain():
  return small_stylizer("adain")


@pytest.fixture
def studio(monkeypatch, adain):
  monkeypatch.setattr(work, "load_model", lambda model, *, vgg_weights=None: adain)
  return Studio({"adain": "adain"})


@pytest.fixture
def files(tmp_path):
  """Two contents of nearly one size, and two styles."""
  paths = {}
  for seed, (name, size) in enumerate(
    {"content": (48, 64), "similar": (46, 63), "style": (40, 40), "other": (40, 40)}.items()
  ):
    paths[name] = tmp_path / f"{name}.png"
    values = np.random.default_rng(seed).random((*size, 3), np.float32)
    images.save(paths[name], values * 0.3 if name == "other" else values)
  return paths


def wish(files, **changes) -> Wish:
  return Wish(**{"content": files["content"], "style": files["style"], "model": "adain", **changes})


def make(studio, asked: Wish) -> tuple[list[str], Made]:
  *steps, made = studio.render(asked)
  assert all(isinstance(step, str) for step in steps)
  return steps, made


def pixels(path) -> np.ndarray:
  return np.asarray(Image.open(path))


def levels(a, b) -> int:
  return int(np.abs(np.asarray(a, int) - np.asarray(b, int)).max())


@pytest.mark.slow
def test_the_picture_is_what_stylize_makes(studio, files, adain):
  _, made = make(studio, wish(files, alpha=0.6, detail=0.4, color="luminance"))
  expected = inference.stylize(
    pixels(files["content"]), pixels(files["style"]),
    model=adain, alpha=0.6, detail=0.4, color="luminance",
  )  # fmt: skip
  assert made.after.dtype == np.uint8 and levels(made.after, expected) <= 1
  assert np.array_equal(made.before, pixels(files["content"]))


@pytest.mark.slow
def test_matched_colors_are_those_of_stylize(studio, files, adain):
  _, made = make(studio, wish(files, color="match"))
  expected = inference.stylize(
    pixels(files["content"]), pixels(files["style"]), model=adain, color="match"
  )
  assert levels(made.after, expected) <= 1


def test_the_first_picture_says_that_it_waits_for_compilation_and_a_similar_one_does_not(
  studio, files
):
  first, made = make(studio, wish(files))
  assert made.compiled and any("Compiling" in step for step in first)
  render: Any = stages.render_encoded.jitted
  programs = render.programs()
  steps, made = make(studio, wish(files, content=files["similar"]))
  assert not made.compiled and not any("Compiling" in step for step in steps)
  assert render.programs() == programs
  assert [step[:6] for step in steps[-3:]] == ["1 of 3", "2 of 3", "3 of 3"]


def test_what_is_compiled_ahead_is_not_compiled_for_the_first_picture(studio, files):
  studio.compile_ahead(wish(files)).join()
  steps, made = make(studio, wish(files))
  assert not made.compiled and not any("Compiling" in step for step in steps)


def test_compiling_ahead_ends_when_a_picture_is_asked_for(studio, files, monkeypatch):
  steps, begun, asked = [], threading.Event(), threading.Event()

  def painting(self, *arguments):
    for step in ("1", "2", "3"):
      steps.append(step)
      begun.set()
      asked.wait()
      yield step

  monkeypatch.setattr(Studio, "_paint", painting)
  ahead = studio.compile_ahead(wish(files))
  begun.wait()
  next(studio.render(wish(files)))
  asked.set()
  ahead.join()
  assert steps == ["1"]


def test_what_fails_ahead_is_reported_to_who_asks_for_it(studio, files):
  gone = wish(files, content=Path("gone.png"))
  studio.compile_ahead(gone).join()
  with pytest.raises(FileNotFoundError):
    make(studio, gone)


def test_a_second_style_with_no_share_is_none_and_with_all_of_it_the_only_one(studio, files):
  _, alone = make(studio, wish(files))
  _, other = make(studio, wish(files, style=files["other"]))
  for share, expected in ((0.0, alone), (1.0, other)):
    _, made = make(studio, wish(files, second=files["other"], share=share))
    assert levels(made.after, expected.after) <= 1
  _, half = make(studio, wish(files, second=files["other"]))
  assert levels(half.after, alone.after) > 3 and levels(half.after, other.after) > 3


def test_where_the_brush_is_black_the_picture_stays_and_where_it_is_white_it_is_the_result(
  studio, files
):
  left = np.zeros((48, 64), np.uint8)
  left[:, :32] = 255
  _, made = make(studio, wish(files, brush=Image.fromarray(left)))
  _, whole = make(studio, wish(files))
  assert levels(made.after[:, 32:], pixels(files["content"])[:, 32:]) == 0
  assert levels(made.after[:, :32], whole.after[:, :32]) <= 1


def test_larger_pictures_are_scaled_down_and_smaller_ones_stay(studio, files):
  _, made = make(studio, wish(files, size=24))
  assert made.after.shape == (24, 32, 3) == made.before.shape
  _, made = make(studio, wish(files, size=None))
  assert made.after.shape == (48, 64, 3)


@pytest.mark.slow
def test_a_larger_size_has_the_strokes_of_the_smaller_one(studio, files, adain, monkeypatch):
  monkeypatch.setattr(canvas, "LOOK_SIZE", 24)
  _, made = make(studio, wish(files, size=None))
  expected = inference.stylize(
    pixels(files["content"]), pixels(files["style"]), model=adain, look_size=24
  )
  assert levels(made.after, expected) <= 1


def test_a_picture_that_is_too_large_is_refused_before_any_work(studio, files, monkeypatch):
  monkeypatch.setattr(work, "MAX_RESULT_PIXELS", 3000)
  monkeypatch.setattr(studio, "load", None)
  with pytest.raises(Refused, match="64 x 48 is .* choose a smaller size"):
    make(studio, wish(files))


def test_a_picture_that_would_take_too_long_is_refused_before_any_work():
  studio = Studio({}, max_seconds=30)
  asked = Wish(content=work.Path("a"), style=work.Path("b"), model="adain", strokes=0.25, size=None)
  with pytest.raises(Refused, match="would take about .* s, and this page allows 30"):
    studio.check((3000, 4000), asked)
  assert studio.check((256, 256), asked) > studio.check(
    (256, 256), work.dataclasses.replace(asked, strokes=1.0)
  )


def test_the_estimate_follows_what_pictures_take(studio, files):
  before = studio.check((512, 512), wish(files))
  for _ in range(20):
    studio._learn(seconds=0.5, estimate=studio.check((512, 512), wish(files)))
  assert studio.check((512, 512), wish(files)) == pytest.approx(0.5, rel=0.1) != before


def test_the_estimate_of_refinement_follows_it_too_and_the_refusal_names_it(studio, files):
  asked = wish(files, refine=8)

  def steps() -> float:
    return studio.check((64, 64), asked) - studio.check((64, 64), wish(files))

  before = steps()
  for _ in range(20):
    studio._learn(seconds=20.0, estimate=studio.check((64, 64), asked))
  assert studio.check((64, 64), asked) == pytest.approx(20.0, rel=0.1)
  assert steps() > 2 * before
  with pytest.raises(Refused, match="choose a smaller size, coarser strokes or less refinement"):
    studio.check((64, 64), wish(files, refine=100))


@pytest.mark.parametrize("steps", [2.5, float("nan"), -1, 10**9, "x", None, [3]])
def test_other_steps_than_a_slider_has_are_refused(files, steps):
  with pytest.raises(Refused, match="refine: expected a whole number from 0 to 100, got"):
    wish(files, refine=steps)


def test_running_out_of_memory_is_a_message_with_the_way_out(studio, files, monkeypatch):
  def fail(*arguments):
    raise MemoryError

  monkeypatch.setattr(work, "encode_content", fail)
  with pytest.raises(Refused, match="not enough memory for 64 x 48 pixels; choose a smaller size"):
    make(studio, wish(files))


@pytest.mark.slow
def test_programs_of_many_sizes_do_not_stay_in_memory(studio, files, monkeypatch):
  monkeypatch.setattr(work, "MAX_KINDS", 2)
  cleared = []
  monkeypatch.setattr(work.jax, "clear_caches", lambda: cleared.append(True))
  for size in (16, 24, 32, 40):
    make(studio, wish(files, size=size))
  assert len(studio._kinds) <= 2 and cleared


# Files.


def save_bytes(picture: Image.Image, kind: str, **options) -> bytes:
  file = io.BytesIO()
  picture.save(file, kind, **options)
  return file.getvalue()


@pytest.mark.parametrize(
  "data, message",
  [
    (b"hello", "cat.png: not an image"),
    (b"", "cat.png: not an image"),
    (save_bytes(Image.new("RGB", (64, 64)), "PNG")[:60], "cat.png: truncated or corrupt"),
    (save_bytes(Image.new("1", (20000, 20000)), "PNG"), "cat.png: .*over the limit of 89 million"),
  ],
)
def test_a_file_that_cannot_be_used_is_named_with_the_reason(data, message, tmp_path):
  path = tmp_path / "upload"
  path.write_bytes(data)
  with pytest.raises(images.ImageError, match=message):
    work.check_upload(path, name="cat.png")


def rotated() -> bytes:
  exif = Image.Exif()
  exif[0x0112] = 6
  return save_bytes(Image.new("RGB", (64, 48), "teal"), "JPEG", exif=exif)


def deep() -> bytes:
  return png(np.full((64, 48, 1), 40000), 16, 0, before=[png_chunk(b"gAMA", b"\0\0\xb1\x8f")])


ANIMATED = save_bytes(
  Image.new("L", (48, 64)), "GIF", save_all=True, append_images=[Image.new("L", (48, 64), 255)]
)


@pytest.mark.parametrize(
  "data",
  [
    ANIMATED,
    save_bytes(Image.new("CMYK", (48, 64), (0, 255, 0, 0)), "JPEG"),
    deep(),
    rotated(),
    save_bytes(Image.new("RGBA", (48, 64), (255, 0, 0, 0)), "WEBP"),
  ],
  ids=["animated", "cmyk", "16 bits", "turned", "transparent"],
)
def test_rare_pictures_work_and_are_upright(data, tmp_path):
  path = tmp_path / "upload"
  path.write_bytes(data)
  assert work.check_upload(path, name="a").size == (48, 64)
  assert work.read(path, 24, name="a").shape == (32, 24, 3)


def test_a_small_copy_fits_and_is_never_larger_than_the_picture():
  assert work.small(Image.new("RGB", (2000, 1000)), 640).size == (640, 320)
  assert work.small(Image.new("RGB", (100, 50)), 640).size == (100, 50)
  assert work.small(Image.new("RGB", (5000, 1)), 640).size == (640, 1)


def test_what_is_painted_is_what_is_opaque_whatever_its_color():
  layer = np.zeros((8, 8, 4), np.uint8)
  layer[2:4] = (229, 72, 77, 255)
  layer[4] = (0, 0, 0, 255)
  layer[5] = (255, 255, 255, 128)
  mask = work.painted_mask(save_bytes(Image.fromarray(layer), "PNG"))
  assert mask is not None
  rows = np.asarray(mask)[:, 0]
  assert rows[:2].tolist() == [0, 0] and rows[2:5].tolist() == [255] * 3
  assert abs(int(rows[5]) - 128) <= 1 and rows[6:].tolist() == [0, 0]
  assert work.painted_mask(save_bytes(Image.new("RGBA", (8, 8)), "PNG")) is None


def test_results_are_written_whole_in_both_formats_with_a_name_without_folders(tmp_path):
  picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
  paths = work.save(tmp_path, "../../x y--night", picture)
  assert [path.suffix for path in paths.values()] == [".png", ".jpg"]
  assert all(path.parent.parent == tmp_path for path in paths.values())
  assert np.array_equal(np.asarray(Image.open(paths[".png"])), picture)
  again = work.save(tmp_path, "../../x y--night", picture)
  assert not set(paths.values()) & set(again.values())


def test_a_long_name_in_any_script_is_shortened_to_what_file_systems_allow(tmp_path):
  name = 60 * "\N{CJK UNIFIED IDEOGRAPH-20000}"  # four bytes each
  paths = work.save(tmp_path, f"{name}--{name}", np.zeros((2, 3, 3), np.uint8))
  assert all(path.is_file() and path.name.startswith(name[:20]) for path in paths.values())


def test_a_painting_is_read_without_arrays_of_all_its_colors():
  layer = save_bytes(Image.new("RGBA", (1000, 800), (0, 0, 0, 255)), "PNG")
  tracemalloc.start()
  try:
    mask = work.painted_mask(layer)
    _, peak = tracemalloc.get_traced_memory()  # of NumPy and Python, not of Pillow
  finally:
    tracemalloc.stop()
  assert mask is not None and mask.size == (1000, 800) and mask.getextrema() == (255, 255)
  assert peak < 1000 * 800


def test_the_packaged_pictures_have_different_names():
  names = [*itertools.chain(work.examples("content"), work.examples("style"))]
  assert len(names) == len(set(names)) >= 16
