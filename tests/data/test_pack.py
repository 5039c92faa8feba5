"""Packed sets: what is packed, how it is found again, and what a kill leaves."""

import contextlib
import errno
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader
from PIL import Image, ImageCms

from adaconv_jax import images
from adaconv_jax.bucket import AccessRefused
from adaconv_jax.cli import pack as command
from adaconv_jax.data import manifest as reading
from adaconv_jax.data import pack as packing
from adaconv_jax.data.batches import CropSpec, _Cutter, _Example
from adaconv_jax.data.manifest import Images, scan
from adaconv_jax.data.pack import Settings, pack, prepare
from adaconv_jax.data.packed import INDEX, PackedSource, read_index, shard_name, to_json
from adaconv_jax.data.records import (
  BLOCK_BYTES,
  BLOCK_HEADER_BYTES,
  Place,
  read_record,
  write_shard,
)
from adaconv_jax.data.sources import FolderSource, open_source
from adaconv_jax.lock import NAME as LOCK
from adaconv_jax.lock import WorkdirInUse

needs_pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="it has no pipes with names")


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
  noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
  return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def file_of(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
  file = io.BytesIO()
  image.save(file, kind, **options)
  return file.getvalue()


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """Eleven images, of which three cannot be read, for shards of four."""
  monkeypatch.setattr(packing, "SHARD_IMAGES", 4)
  root = tmp_path / "photos"
  (root / "b").mkdir(parents=True)
  for index in range(8):
    size = (90 + index, 70) if index % 2 else (60, 50 + index)
    where = root / ("b" if index > 4 else "") / f"{index}.{'png' if index == 3 else 'jpg'}"
    photo(*size, seed=index).save(where)
  (root / "1b.jpg").write_bytes((root / "1.jpg").read_bytes()[:-200])
  (root / "b" / "x.png").write_bytes(b"not an image")
  (root / "empty.jpg").write_bytes(b"")
  return root


def packed_files(output: Path) -> dict[str, bytes]:
  return {path.name: path.read_bytes() for path in sorted(output.iterdir())}


@pytest.mark.parametrize(
  "lengths", [[1], [0, 5, 0], [3, 70_000, 200, BLOCK_BYTES, 1_000_000, 2], [65_400] * 5]
)
def test_records_are_found_by_place_and_are_what_the_library_reads(lengths, tmp_path):
  rng = np.random.default_rng(0)
  records = [rng.bytes(length) for length in lengths]
  places = write_shard(tmp_path / "x", records)
  assert [read_record(tmp_path / "x", place) for place in places] == records
  assert ArrayRecordReader(str(tmp_path / "x")).read_all() == records


def test_every_position_of_a_record_in_its_blocks_is_read_right(tmp_path):
  # One byte of padding after the other moves the second record over the end of a block.
  rng = np.random.default_rng(1)
  for length in range(BLOCK_BYTES - 250, BLOCK_BYTES - 40, 7):
    records = [rng.bytes(length), rng.bytes(300)]
    places = write_shard(tmp_path / "x", records)
    assert [read_record(tmp_path / "x", place) for place in places] == records
    assert ArrayRecordReader(str(tmp_path / "x")).read_all() == records
  assert BLOCK_HEADER_BYTES == 24


def test_a_shard_that_is_cut_is_an_error_that_names_it(tmp_path):
  (place,) = write_shard(tmp_path / "x", [b"a" * 1000])
  (tmp_path / "x").write_bytes((tmp_path / "x").read_bytes()[:500])
  with pytest.raises(OSError, match="x: ends before byte"):
    read_record(tmp_path / "x", place)
  with pytest.raises(OSError):
    read_record(tmp_path / "x", Place(10**9, 5))


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
  ("kind", "values", "reason"),
  [
    ("sparse", {"length": 2**30}, "at most .* MB, its index says"),
    ("file", {"length": 10**8}, "ends before byte"),
    ("file", {"offset": 10**30}, "ends before byte"),
    pytest.param("pipe", {}, "expected a regular file, got a pipe", marks=needs_pipes),
  ],
)
def test_an_index_that_claims_anything_is_an_error_of_its_images(kind, values, reason, tmp_path):
  (tmp_path / "photos").mkdir()
  photo(40, 30).save(tmp_path / "photos" / "a.jpg")
  folder = tmp_path / "packed"
  pack(open_source(str(tmp_path / "photos"), role="style"), folder, Settings())
  entries, index = read_index(folder)
  (folder / INDEX).write_text(
    to_json([entries[0]._replace(**values)], [], identity=index["identity"])
  )
  if kind == "sparse":
    os.truncate(folder / shard_name(0), 2**31)
  if kind == "pipe":
    (folder / shard_name(0)).unlink()
    os.mkfifo(folder / shard_name(0))
  manifest = scan(open_source(str(folder), role="style"), role="style", min_size=16)
  with pytest.raises(ValueError, match=f"a.jpg: .*{reason}"):
    Images(manifest)


def test_a_small_upright_jpeg_is_kept_and_all_others_are_converted():
  settings = Settings(size=64)
  plain = file_of(photo(80, 64))
  assert prepare(plain, name="x", settings=settings) == (plain, (80, 64))
  exif = Image.Exif()
  exif[0x0112] = 6  # to be turned right
  profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
  for data, size in (
    (file_of(photo(160, 128)), (80, 64)),
    (file_of(photo(80, 50), exif=exif), (50, 80)),
    (file_of(photo(80, 64), icc_profile=profile), (80, 64)),
    (file_of(photo(80, 64).convert("L")), (80, 64)),
    (file_of(photo(80, 64).convert("CMYK")), (80, 64)),
    (file_of(photo(80, 64), "PNG"), (80, 64)),
  ):
    made, found = prepare(data, name="x", settings=settings)
    assert found == size and made != data
    image = Image.open(io.BytesIO(made))
    assert (image.format, image.mode, image.size) == ("JPEG", "RGB", size)
    expected = images.resize_shorter(images.decode(data, name="x", at_least=64), min(size))
    difference = np.abs(np.asarray(image, int) - np.asarray(expected, int))
    assert difference.mean() < 1.5


def test_a_packed_set_has_the_usable_images_under_their_names(folder, tmp_path):
  source = open_source(str(folder), role="content")
  packed = pack(source, tmp_path / "out", Settings(size=64))
  assert packed.images == 8 and {name for name, _ in packed.skipped} == {
    "1b.jpg", "b/x.png", "empty.jpg",
  }  # fmt: skip
  found = open_source(str(tmp_path / "out"), role="content")
  assert isinstance(found, PackedSource)
  assert list(found.names) == [n for n in source.names if n not in dict(packed.skipped)]
  for index, name in enumerate(found.names):
    assert found[index][0] == name
    made = images.decode(found[index][1], name=name)
    original = images.decode((folder / name).read_bytes(), name=name)
    assert min(made.size) == min(64, min(original.size)), name
  records = [
    record
    for path in sorted((tmp_path / "out").glob("*.array_record"))
    for record in ArrayRecordReader(str(path)).read_all()
  ]
  assert records == [found[index][1] for index in range(len(found))]


@pytest.mark.parametrize("workers", [2, 5])
def test_the_files_do_not_depend_on_the_number_of_workers(folder, tmp_path, workers):
  source = open_source(str(folder), role="content")
  for count in (1, workers):
    pack(source, tmp_path / str(count), Settings(size=64), workers=count)
  assert packed_files(tmp_path / "1") == packed_files(tmp_path / str(workers))
  assert set(packed_files(tmp_path / "1")) == {
    "packed.json", *(f"images-0000{n}.array_record" for n in range(3)),
  }  # fmt: skip


def test_a_scan_of_a_packed_set_decodes_nothing_and_finds_the_same(folder, tmp_path, monkeypatch):
  pack(open_source(str(folder), role="content"), tmp_path / "out", Settings(size=512))
  packed = open_source(str(tmp_path / "out"), role="content")
  plain = scan(open_source(str(folder), role="content"), role="content", min_size=55)
  monkeypatch.setattr("adaconv_jax.data.manifest.decode", None)
  found = scan(packed, role="content", min_size=55)
  assert [name for name, _ in found.kept] == [name for name, _ in plain.kept]
  assert {reason.split(" (")[0] for _, reason in found.skipped} == {"too small"}
  listed = Images(found)
  assert [listed[place][0] for place in range(len(listed))] == [name for name, _ in found.kept]


def test_a_record_that_was_changed_is_noticed(folder, tmp_path):
  pack(open_source(str(folder), role="content"), tmp_path / "out", Settings(size=64))
  manifest = scan(open_source(str(tmp_path / "out"), role="content"), role="content", min_size=1)
  entry = read_index(tmp_path / "out")[0][2]
  shard = tmp_path / "out" / f"images-{entry.shard:05}.array_record"
  data = bytearray(shard.read_bytes())
  data[entry.offset + entry.length // 2] ^= 1
  shard.write_bytes(bytes(data))
  with pytest.raises(ValueError, match=f"content: {entry.name} in .* is another image"):
    Images(manifest)


def test_a_run_that_failed_goes_on_after_the_shards_that_are_complete(
  folder, tmp_path, monkeypatch
):
  source, out = open_source(str(folder), role="content"), tmp_path / "out"
  pack(source, tmp_path / "whole", Settings(size=64))
  examined = []
  real = packing._examine

  def fails(source, index, settings):
    examined.append(index)
    if index == 9:
      raise ConnectionError("cut off")
    return real(source, index, settings)

  monkeypatch.setattr(packing, "_examine", fails)
  with pytest.raises(ConnectionError):
    pack(source, out, Settings(size=64))
  assert not (out / "packed.json").exists() and (out / "images-00000.json").exists()
  with pytest.raises(ValueError, match="content: .*out.* has a packed set that is not finished"):
    open_source(str(out), role="content")
  monkeypatch.setattr(packing, "_examine", lambda *a: examined.append(a[1]) or real(*a))
  examined.clear()
  done: list[int] = []
  again = pack(source, out, Settings(size=64), progress=done.append)
  assert min(examined) >= 4 and again.kept > 0 and sum(done) == len(source)
  assert packed_files(out) == packed_files(tmp_path / "whole")


def test_a_link_that_leads_nowhere_is_skipped_and_does_not_refuse_the_rest(folder, tmp_path):
  (folder / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
  (folder / "loop.jpg").symlink_to("loop.jpg")
  source = open_source(str(folder), role="style")
  packed = pack(source, tmp_path / "out", Settings())
  skipped = dict(packed.skipped)
  assert packed.images == 8 and "cannot be read" in skipped["gone.jpg"] and skipped["loop.jpg"]
  assert pack(source, tmp_path / "out", Settings()).kept == 8


def away(monkeypatch, names, error) -> pytest.MonkeyPatch:
  """Lets the files of these names raise an error when they are read."""
  real = FolderSource.__getitem__

  def read(self, index):
    if self.names[index] in names:
      raise error
    return real(self, index)

  monkeypatch.setattr(FolderSource, "__getitem__", read)
  return monkeypatch


GONE = OSError(5, "Input/output error")


def test_a_folder_that_goes_away_is_no_smaller_set_and_is_gone_on_with(
  folder, tmp_path, monkeypatch
):
  monkeypatch.setattr(reading, "FEW_UNREAD", 2)
  source, out = open_source(str(folder), role="content"), tmp_path / "out"
  pack(source, tmp_path / "whole", Settings(size=64))
  with monkeypatch.context() as patch, pytest.raises(ValueError) as failed:
    away(patch, source.names[-3:], GONE)
    pack(source, out, Settings(size=64))
  reason = f"3 of 11 images in {folder} cannot be read, the first: {source.names[-3]}: cannot be"
  assert reason in str(failed.value) and "rerun" in str(failed.value)
  assert not (out / "packed.json").exists()
  again = pack(source, out, Settings(size=64))
  assert again.kept > 0 and packed_files(out) == packed_files(tmp_path / "whole")
  with monkeypatch.context() as patch, pytest.raises(ValueError, match="config.data.style: 3 of"):
    away(patch, source.names[-3:], GONE)
    scan(source, role="style", min_size=1)


def test_an_image_that_could_not_be_read_then_is_tried_again(folder, tmp_path, monkeypatch):
  source, out = open_source(str(folder), role="content"), tmp_path / "out"
  pack(source, tmp_path / "whole", Settings(size=64))
  name = source.names[0]
  with monkeypatch.context() as patch:
    away(patch, [name], GONE)
    patch.setattr(packing, "to_json", interrupt_at_the_index(packing.to_json))
    with pytest.raises(KeyboardInterrupt):
      pack(source, out, Settings(size=64))
  pack(source, out, Settings(size=64))
  assert packed_files(out) == packed_files(tmp_path / "whole")
  with monkeypatch.context() as patch:
    away(patch, [name], GONE)
    assert pack(source, tmp_path / "less", Settings(size=64)).images == 7
    assert pack(source, tmp_path / "less", Settings(size=64)).kept == 7
  with pytest.raises(ValueError, match=f"without 1 images .* can be now, the first: {name}"):
    pack(source, tmp_path / "less", Settings(size=64))


def test_a_bucket_that_refuses_access_midway_is_no_broken_image(folder, tmp_path, monkeypatch):
  source = open_source(str(folder), role="content")
  images = Images(scan(source, role="content", min_size=1))
  away(monkeypatch, [images.name(len(images) - 1)], AccessRefused("gs://x: access is refused"))
  with pytest.raises(AccessRefused):
    pack(source, tmp_path / "out", Settings(size=64))
  with pytest.raises(AccessRefused):
    scan(source, role="content", min_size=1)
  cut = _Cutter(images, CropSpec(64, 32), replace=True)
  with pytest.raises(AccessRefused):
    cut(_Example(len(images) - 1, 0))


def test_a_folder_with_other_images_is_no_output(folder, tmp_path, capsys):
  photos = tmp_path / "own"
  photos.mkdir()
  photo(40, 40).save(photos / "mine.jpg")
  assert command.main([f"--input={folder}", f"--output={photos}"]) == 2
  assert "with 1 images, such as mine.jpg, which the packed set" in capsys.readouterr().err
  assert [path.name for path in photos.iterdir()] == ["mine.jpg"]
  (photos / "mine.jpg").rename(photos / "notes.txt")
  assert command.main([f"--input={folder}", f"--output={photos}"]) == 0


def test_shards_of_other_images_or_settings_are_made_again(folder, tmp_path, monkeypatch):
  source, out = open_source(str(folder), role="content"), tmp_path / "out"
  with monkeypatch.context() as patch:
    patch.setattr(packing, "to_json", interrupt_at_the_index(packing.to_json))
    with pytest.raises(KeyboardInterrupt):
      pack(source, out, Settings(size=64))
  assert pack(source, out, Settings(size=32)).kept == 0
  pack(source, tmp_path / "other", Settings(size=32))
  assert packed_files(out) == packed_files(tmp_path / "other")


def interrupt_at_the_index(real):
  def to_json(entries, skipped, **settings):
    if "size" in settings:
      raise KeyboardInterrupt
    return real(entries, skipped, **settings)

  return to_json


def test_a_finished_set_is_kept_and_never_mixed_with_another(folder, tmp_path, monkeypatch):
  source, out = open_source(str(folder), role="content"), tmp_path / "out"
  first = pack(source, out, Settings(size=64))
  monkeypatch.setattr(packing, "_examine", None)
  again = pack(source, out, Settings(size=64))
  assert (again.images, again.kept, again.skipped) == (first.images, first.images, first.skipped)
  with pytest.raises(ValueError, match="has a packed set of other images or settings"):
    pack(source, out, Settings(size=65))


def edit(path: Path) -> None:
  """Changes a byte in the middle of a file, which keeps its size, and says so to no one."""
  status, data = path.stat(), bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(bytes(data))
  os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_an_image_that_was_changed_and_kept_its_size_is_noticed(folder, tmp_path):
  source, out = open_source(str(folder), role="content"), tmp_path / "out"
  pack(source, out, Settings(size=64))
  before = packed_files(out)
  edit(folder / "b" / "6.jpg")
  with pytest.raises(
    ValueError, match=r"an image from 3.png to b/6.jpg was changed since then; use"
  ):
    pack(source, out, Settings(size=64))
  assert packed_files(out) == before
  edit(folder / "b" / "6.jpg")  # as it was, but written later
  assert pack(source, out, Settings(size=64)).kept == 8


def test_a_run_that_goes_on_packs_again_what_was_changed_meanwhile(folder, tmp_path, monkeypatch):
  source, out = open_source(str(folder), role="content"), tmp_path / "out"
  with monkeypatch.context() as patch:
    patch.setattr(packing, "to_json", interrupt_at_the_index(packing.to_json))
    with pytest.raises(KeyboardInterrupt):
      pack(source, out, Settings(size=64))
  edit(folder / "b" / "6.jpg")
  for path in folder.rglob("*.*"):
    os.utime(path)  # as of copies
  again = pack(source, out, Settings(size=64))
  assert again.kept == 4  # those of the shards without it
  pack(source, tmp_path / "whole", Settings(size=64))
  assert packed_files(out) == packed_files(tmp_path / "whole")


def test_an_older_set_that_does_not_say_when_its_images_were_written_is_kept(folder, tmp_path):
  source, out = open_source(str(folder), role="content"), tmp_path / "out"
  pack(source, out, Settings(size=64))
  index = json.loads((out / INDEX).read_text())
  for origins in ([1, 2, 3], None):
    index["origins"] = origins
    (out / INDEX).write_text(json.dumps(index))
    assert pack(source, out, Settings(size=64)).kept == 8


def test_nothing_of_an_earlier_run_on_more_images_is_left(folder, tmp_path, monkeypatch):
  out = tmp_path / "out"
  with monkeypatch.context() as patch:
    patch.setattr(packing, "to_json", interrupt_at_the_index(packing.to_json))
    with pytest.raises(KeyboardInterrupt):
      pack(open_source(str(folder), role="content"), out, Settings(size=64))
  for name in ("5.jpg", "6.jpg", "7.jpg", "x.png"):
    (folder / "b" / name).unlink()
  fewer = open_source(str(folder), role="content")
  pack(fewer, out, Settings(size=64))
  pack(fewer, tmp_path / "fresh", Settings(size=64))
  assert packed_files(out) == packed_files(tmp_path / "fresh")
  # A run that was killed after the index has left the lists.
  (out / "images-00001.json").write_text("{}")
  assert pack(fewer, out, Settings(size=64)).kept == 5
  assert packed_files(out) == packed_files(tmp_path / "fresh")


def test_a_shard_that_is_packed_again_has_no_list_until_it_is_complete(
  folder, tmp_path, monkeypatch
):
  """Otherwise the images of a first run would be looked for in the shard of a second one."""
  source, out = open_source(str(folder), role="content"), tmp_path / "out"

  def stop(*_):
    raise KeyboardInterrupt

  for name, size, function in (("to_json", 64, interrupt_at_the_index(packing.to_json)),
                               ("_hash", 32, stop)):  # fmt: skip
    monkeypatch.setattr(packing, "_versions", lambda source: ["0"] * 3)
    with monkeypatch.context() as patch:
      patch.setattr(packing, name, function)
      with pytest.raises(KeyboardInterrupt):
        pack(source, out, Settings(size=size))
  assert pack(source, out, Settings(size=64)).images == 8
  whole = PackedSource(out)
  for entry, index in zip(whole.entries, range(len(whole)), strict=True):
    assert packing.digest(whole[index][1]) == entry.digest


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_file_of_a_set_that_is_missing_or_cut_is_noticed_before_it_is_used(
  folder, tmp_path, monkeypatch, damage
):
  source, out = open_source(str(folder), role="content"), tmp_path / "out"
  with monkeypatch.context() as patch:
    patch.setattr(packing, "to_json", interrupt_at_the_index(packing.to_json))
    with pytest.raises(KeyboardInterrupt):
      pack(source, out, Settings(size=64))

  def do_damage():
    shard = out / shard_name(1)
    data = shard.read_bytes()[:500]
    shard.unlink()
    if damage == "cut":
      shard.write_bytes(data)

  do_damage()
  whole = pack(source, out, Settings(size=64))  # makes it again
  assert whole.kept < whole.images == 8
  manifest = scan(open_source(str(out), role="style"), role="style", min_size=1)
  Images(manifest)
  do_damage()
  reason = f"{shard_name(1)} is missing" if damage == "missing" else f"{shard_name(1)}: ends before"
  with pytest.raises(ValueError, match=f"{out}: damaged .*{reason}.* delete this one to pack"):
    pack(source, out, Settings(size=64))
  monkeypatch.setattr("adaconv_jax.data.manifest._COMPARED_AT_START", 1)  # not one of these
  with pytest.raises(ValueError, match=f"config.data.style: .*{reason}.*; restore it"):
    Images(manifest)


@pytest.mark.parametrize(
  ("changed", "reason"),
  [
    ("", "not whole or not JSON"),
    ("{}", "not the index of a packed set"),
    ("[1]", "not the index of a packed set"),
    ({"version": 2}, "version 2, this package reads 1"),
    ({"images": 5}, "damaged"),
    ({"images": [["a"]]}, "damaged"),
    ({"images": []}, "it lists no image"),
    ({"images": "twice"}, "two images have one name"),
    ({"skipped": None}, "damaged"),
    ({"skipped": [["a"]]}, "damaged"),
  ],
)
def test_an_index_that_was_edited_is_one_line_with_the_way_out(
  folder, tmp_path, changed, reason, capsys
):
  out = tmp_path / "out"
  arguments = [f"--input={folder}", f"--output={out}", "--size=64"]
  assert command.main(arguments) == 0
  capsys.readouterr()
  if isinstance(changed, dict):
    index = json.loads((out / INDEX).read_text())
    if changed.get("images") == "twice":
      changed = {"images": index["images"][:1] * 2}
    changed = json.dumps(index | changed)
  (out / INDEX).write_text(changed)
  with pytest.raises(ValueError, match=f"{INDEX}: .*{reason}") as error:
    open_source(str(out), role="style")
  assert "version 2" in reason or "pack the images again" in str(error.value)
  assert command.main(arguments) == 2
  (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
  assert reason in line


def test_the_command_lists_what_it_skipped(folder, tmp_path, capsys):
  arguments = [f"--input={folder}", f"--output={tmp_path / 'out'}", "--size=64", "--workers=2"]
  assert command.main(arguments) == 0
  printed = capsys.readouterr()
  assert "8 images" in printed.out and "3 skipped" in printed.out
  assert "skipped b/x.png: " in printed.err and "skipped 1b.jpg: " in printed.err
  skipped = json.loads((tmp_path / "out" / "packed.json").read_text())["skipped"]
  assert len(skipped) == 3
  assert command.main(arguments) == 0 and "8 of them by an earlier run" in capsys.readouterr().out


@pytest.mark.parametrize(
  "option, message",
  [
    ("--input={tmp}/none", "error: --input: expected images in"),
    ("--output={tmp}/file", "error: --output: expected a folder to write to"),
    ("--output={images}", "error: --output: expected another folder than --input"),
    ("--input={tmp}/file", "is not a folder"),
    ("--input=", "argument --input: expected a path, got an empty text"),
    ("--output=ftp://x/y", "expected a local path or one of gs://"),
    ("--input={tmp}", "--input: no image files"),
  ],
)
def test_arguments_that_are_wrong_are_one_line(folder, tmp_path, capsys, option, message):
  (tmp_path / "none-here").mkdir()
  (tmp_path / "none-here" / "file").write_text("x")
  values = {"--input": str(folder), "--output": str(tmp_path / "out")}
  name, _, value = option.format(tmp=tmp_path / "none-here", images=folder).partition("=")
  arguments = [f"{key}={given}" for key, given in (values | {name: value}).items()]
  try:
    code = command.main(arguments)
  except SystemExit as ended:  # argparse's
    code = ended.code
  assert code == 2
  errors = capsys.readouterr().err.strip().splitlines()
  assert message in errors[-1] and "error: " in errors[-1]
  assert not (tmp_path / "out").exists() and not (folder / "packed.json").exists()


@pytest.mark.slow
def test_a_killed_command_goes_on_and_ends_with_the_same_files(tmp_path):
  folder = tmp_path / "photos"
  folder.mkdir()
  for index in range(30):
    photo(900, 700, seed=index).save(folder / f"{index:03}.jpg")
  program = (
    "import sys; from adaconv_jax.data import pack as packing; packing.SHARD_IMAGES = 3\n"
    "from adaconv_jax.cli.pack import main; sys.exit(main(sys.argv[1:]))"
  )
  environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "JAX_PLATFORMS": "cpu"}

  def start(output: str) -> subprocess.Popen:
    arguments = [f"--input={folder}", f"--output={tmp_path / output}", "--size=64", "--workers=1"]
    return subprocess.Popen(
      [sys.executable, "-c", program, *arguments], env=environment, stdout=subprocess.PIPE,
      stderr=subprocess.PIPE, text=True,
    )  # fmt: skip

  first = start("killed")
  while not (tmp_path / "killed" / "images-00002.json").exists():
    assert first.poll() is None, first.communicate()
    time.sleep(0.002)
  first.kill()
  first.communicate()
  if not (tmp_path / "killed" / "packed.json").exists():  # unless it was faster
    second = start("killed")
    out, err = second.communicate(timeout=60)
    assert second.returncode == 0 and "by an earlier run" in out, err
  whole = start("whole")
  errors = whole.communicate(timeout=60)[1]
  assert whole.returncode == 0, errors
  named = {n: d for n, d in packed_files(tmp_path / "killed").items() if not n.startswith(".")}
  assert named == packed_files(tmp_path / "whole")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no full device")
def test_a_full_disk_is_an_error_of_the_system_that_names_the_shard():
  with pytest.raises(OSError) as full:
    write_shard(Path("/dev/full"), [b"record" * 100])
  assert full.value.errno == errno.ENOSPC and full.value.filename == "/dev/full"


def test_a_shard_that_cannot_be_written_is_one_line(folder, monkeypatch, capsys):
  def full(path, records):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

  monkeypatch.setattr(packing, "write_shard", full)
  output = folder.parent / "packed"
  assert command.main(["--input", str(folder), "--output", str(output), "--workers", "1"]) == 2
  message = capsys.readouterr().err.splitlines()[-1]
  assert message == f"error: {output / shard_name(0)}: No space left on device"
  assert os.listdir(output) == [LOCK]


def test_a_run_whose_lock_was_taken_over_writes_no_further_shards(folder, tmp_path, monkeypatch):
  """As in a bucket, after the machine was asleep."""

  @contextlib.contextmanager
  def lost(*_):
    def still_ours():
      raise WorkdirInUse("another process")

    yield still_ours

  monkeypatch.setattr(packing, "locked", lost)
  with pytest.raises(WorkdirInUse):
    pack(open_source(str(folder), role="input"), tmp_path / "out", Settings(64))
  assert shard_name(2) not in packed_files(tmp_path / "out")


def test_two_runs_into_one_folder_do_not_mix(folder, capsys):
  output, refused = folder.parent / "packed", []

  def other(count):
    if refused or not (output / shard_name(0)).exists():
      return
    for quality in (50, 95):
      with pytest.raises(WorkdirInUse, match=r"output: process \d+ on .* is packing in .*packed"):
        pack(open_source(str(folder), role="input"), output, Settings(64, quality))
    arguments = ["--input", str(folder), "--output", str(output)]
    assert command.main(arguments) == 2
    refused.append(capsys.readouterr().err)

  source = open_source(str(folder), role="input")
  packed = pack(source, output, Settings(64, 95), progress=other)
  assert len(refused) == 1 and refused[0].endswith("or use another --output\n")
  whole = PackedSource(output)
  assert len([whole[index] for index in range(len(whole))]) == packed.images == 8
  assert not (output / LOCK).exists()
