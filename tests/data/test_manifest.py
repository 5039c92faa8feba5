import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adaconv_jax.data.heldout import load_images
from adaconv_jax.data.manifest import Images, Manifest, read_names, scan, split_heldout, split_named
from adaconv_jax.data.sources import open_source


def encode(width, height, *, kind="PNG", seed=0) -> bytes:
  pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, kind)
  return file.getvalue()


def scan_folder(folder, min_size=32) -> Manifest:
  return scan(open_source(str(folder), role="content"), role="content", min_size=min_size)


@pytest.fixture
def folder(tmp_path) -> Path:
  root = tmp_path / "photos"
  (root / "b" / "deep").mkdir(parents=True)
  (root / "a.png").write_bytes(encode(40, 50, seed=1))
  (root / "b" / "Überraschung 日本.jpg").write_bytes(encode(60, 32, kind="JPEG", seed=2))
  (root / "b" / "deep" / "c.PNG").write_bytes(encode(32, 32, seed=3))
  return root


GOOD = ["a.png", "b/deep/c.PNG", "b/Überraschung 日本.jpg"]


def add_bad_files(root):
  whole = encode(64, 64, kind="JPEG")
  (root / "cut.jpg").write_bytes(whole[: len(whole) // 2])
  (root / "tiny.png").write_bytes(encode(100, 31))
  (root / "tiny2.png").write_bytes(encode(8, 100))
  (root / "text.jpg").write_text("no picture")
  (root / "gone.jpg").symlink_to(root / "nowhere.jpg")


def test_scan_keeps_usable_images_and_reports_the_others_with_reasons(folder):
  add_bad_files(folder)
  manifest = scan_folder(folder)
  assert [name for name, _ in manifest.kept] == GOOD
  assert all(size == (folder / name).stat().st_size for name, size in manifest.kept)
  reasons = dict(manifest.skipped)
  assert set(reasons) == {"cut.jpg", "tiny.png", "tiny2.png", "text.jpg", "gone.jpg"}
  assert "truncated" in reasons["cut.jpg"]
  assert reasons["tiny.png"].startswith("too small (100 x 31")
  assert "not an image" in reasons["text.jpg"]
  assert "cannot be read" in reasons["gone.jpg"]
  report = manifest.report()
  assert "content: 3 images" in report
  assert "skipped 5 (2 too small, " in report
  assert "first: cut.jpg: truncated" in report


def test_size_limit_is_the_shorter_side_of_the_file_also_for_jpegs_decoded_at_low_resolution(
  tmp_path,
):
  for name, size in [
    ("exact.jpg", (400, 100)),
    ("below.jpg", (99, 400)),
    ("large.jpg", (900, 801)),
  ]:
    (tmp_path / name).write_bytes(encode(*size, kind="JPEG"))
  manifest = scan_folder(tmp_path, min_size=100)
  assert [name for name, _ in manifest.kept] == ["exact.jpg", "large.jpg"]
  assert "(99 x 400" in manifest.skipped[0][1]


def test_a_smallest_size_of_0_takes_every_image(tmp_path):
  for name in ("a.jpg", "b.png"):
    Image.new("RGB", (3, 2)).save(tmp_path / name)
  assert [name for name, _ in scan_folder(tmp_path, min_size=0).kept] == ["a.jpg", "b.png"]


def test_scan_is_deterministic_and_its_fingerprint_follows_names_and_sizes(folder):
  first = scan_folder(folder)
  assert scan_folder(folder) == first
  add_bad_files(folder)
  assert scan_folder(folder).fingerprint == first.fingerprint
  renamed = ((first.kept[0][0] + "x", first.kept[0][1]), *first.kept[1:])
  resized = ((first.kept[0][0], first.kept[0][1] + 1), *first.kept[1:])
  for kept in (renamed, resized, first.kept[:-1], first.kept[::-1]):
    assert dataclasses.replace(first, kept=kept).fingerprint != first.fingerprint


def test_nothing_usable_is_an_error_with_numbers_and_reason(tmp_path):
  for index in range(3):
    (tmp_path / f"{index}.png").write_bytes(encode(10, 10))
  (tmp_path / "text.png").write_text("no picture")
  with pytest.raises(ValueError, match=r"style: no usable image.* skipped 4 \(3 too small, 1 not"):
    scan(open_source(str(tmp_path), role="style"), role="style", min_size=32)


def test_manifest_survives_json_with_any_file_name(folder):
  (folder / "not utf-8 \udcff.png").write_bytes(encode(40, 40))
  add_bad_files(folder)
  manifest = scan_folder(folder)
  assert len(manifest.kept) == 4
  text = manifest.to_json()
  assert text.isascii()
  assert Manifest.from_json(text) == manifest
  assert len(Images(Manifest.from_json(text))) == 4


def test_changed_or_foreign_manifest_json_is_rejected(folder):
  text = scan_folder(folder).to_json()
  with pytest.raises(ValueError, match="fingerprint"):
    Manifest.from_json(text.replace("a.png", "z.png"))
  for wrong in ("", "[]", "{}", text[:-20], text.replace('"kept"', '"keep"')):
    with pytest.raises(ValueError, match="manifest: not the JSON"):
      Manifest.from_json(wrong)


def test_images_of_a_manifest_are_the_same_when_files_were_added(folder):
  manifest = scan_folder(folder)
  before = [Images(manifest)[index] for index in range(3)]
  (folder / "a new.png").write_bytes(encode(40, 40))
  add_bad_files(folder)
  images = Images(manifest)
  assert [images[index] for index in range(len(images))] == before
  assert [name for name, _ in before] == GOOD


def test_images_can_have_moved(folder):
  manifest = scan_folder(folder)
  moved = folder.rename(folder.parent / "elsewhere")
  assert Images(manifest, spec=str(moved))[0] == ("a.png", (moved / "a.png").read_bytes())
  with pytest.raises(ValueError, match="content: .*photos"):
    Images(manifest)


def test_missing_and_changed_images_are_errors_that_name_them(folder):
  manifest = scan_folder(folder)
  opened = Images(manifest)
  (folder / "a.png").write_bytes(encode(45, 45))
  with pytest.raises(ValueError, match="content: a.png in .* bytes"):
    Images(manifest)
  with pytest.raises(ValueError, match="content: a.png in .* bytes"):
    opened[0]
  (folder / "a.png").unlink()
  with pytest.raises(ValueError, match="1 of 3 images are missing .* a.png"):
    Images(manifest)


def many(count) -> Manifest:
  return Manifest("content", "photos", tuple((f"{i}.jpg", i) for i in range(count)))


def test_heldout_images_leave_the_training_list_and_depend_on_the_seed_only():
  manifest = many(50)
  train, heldout = split_heldout(manifest, 8, seed=3)
  assert (len(train.kept), len(heldout.kept)) == (42, 8)
  assert sorted(train.kept + heldout.kept) == sorted(manifest.kept)
  assert split_heldout(manifest, 8, seed=3) == (train, heldout)
  assert split_heldout(manifest, 8, seed=4)[1] != heldout
  assert set(split_heldout(manifest, 5, seed=3)[1].kept) < set(heldout.kept)
  assert split_heldout(manifest, 0, seed=3)[0] == manifest


@pytest.mark.parametrize("count", [3, 4, -1])
def test_holding_out_everything_is_an_error(count):
  message = rf"content: cannot hold out {count} of 3 .* \(config\.data\.heldout_content\)"
  with pytest.raises(ValueError, match=message):
    split_heldout(many(3), count, seed=0)


def test_heldout_images_load_as_centre_squares(tmp_path):
  x, y = np.meshgrid(np.arange(90), np.arange(60))
  pixels = np.stack([x, y, np.full_like(x, 7)], -1).astype(np.uint8)
  Image.fromarray(pixels).save(tmp_path / "wide.png")
  Image.fromarray(pixels.transpose(1, 0, 2)).save(tmp_path / "high.png")
  Image.new("RGB", (240, 180), (0, 128, 255)).save(tmp_path / "large.png")
  squares = load_images(Images(scan_folder(tmp_path)), 60, 4)
  assert squares.dtype == np.float32 and squares.shape == (3, 60, 60, 3)
  high, large, wide = np.rint(squares * 255).astype(int)
  np.testing.assert_array_equal(wide, pixels[:, 15:75])
  np.testing.assert_array_equal(high, pixels[:, 15:75].transpose(1, 0, 2))
  np.testing.assert_array_equal(large, np.broadcast_to([0, 128, 255], (60, 60, 3)))
  np.testing.assert_array_equal(load_images(Images(scan_folder(tmp_path)), 60, 2), squares[:2])


def test_listed_images_are_held_out_in_the_order_of_the_list():
  train, heldout = split_named(many(50), ["30.jpg", "7.jpg", "30.jpg"])
  assert heldout.kept == (("30.jpg", 30), ("7.jpg", 7))
  assert train.kept == tuple(entry for entry in many(50).kept if entry[1] not in (7, 30))


def test_listed_images_that_cannot_be_used_are_named_with_the_reason(folder):
  add_bad_files(folder)
  manifest = scan_folder(folder)
  with pytest.raises(ValueError, match=r"content: 2 of the 3 .* the first: c\.png: no such image"):
    split_named(manifest, ["a.png", "c.png", "d.png"])
  with pytest.raises(ValueError, match=r"1 of the 1 .*photos, the first: tiny\.png: too small"):
    split_named(manifest, ["tiny.png"])
  with pytest.raises(ValueError, match="all 3 usable images are held out; list fewer"):
    split_named(manifest, GOOD)


def test_list_of_names_is_read_with_any_file_name_and_line_ending(tmp_path):
  path = tmp_path / "names.txt"
  names = ["a b.png", *GOOD[1:], "not utf-8 \udcff.png"]
  path.write_bytes("\r\n\n".join([*names, " "]).encode("utf-8", "surrogateescape"))
  assert read_names(path) == names
  path.write_text(" \n")
  with pytest.raises(ValueError, match=r"names\.txt: expected names of images"):
    read_names(path)
