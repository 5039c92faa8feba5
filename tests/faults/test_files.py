"""Files that are none, or too many bytes: every reader refuses them at once, and names them."""

import errno
import json
import os
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adaconv_jax import files, images, tensor_files
from adaconv_jax.checkpoints.load import load_model
from adaconv_jax.cli import render_files
from adaconv_jax.data.manifest import Manifest, read_names, scan
from adaconv_jax.data.prepare import prepare_images
from adaconv_jax.data.sources import open_source
from adaconv_jax.evaluation.faces import read_faces
from adaconv_jax.vgg import convert as vgg_import
from adaconv_jax.vgg import normalize
from adaconv_jax.vgg.file import read_file
from adaconv_jax.vgg.pth import check_pth

pytestmark = pytest.mark.timeout(60)  # what waits for a pipe waits for ever


def make(kind: str, path: Path) -> Path:
  if kind == "pipe":
    os.mkfifo(path)
  elif kind == "device":
    path.symlink_to("/dev/zero")
  elif kind == "socket":
    here = os.getcwd()
    os.chdir(path.parent)  # the paths of sockets are short
    with socket.socket(socket.AF_UNIX) as made:
      made.bind(path.name)
    os.chdir(here)
  else:
    with open(path, "wb") as file:
      file.truncate(5_000_000_000)
  return path


KINDS = ["pipe", "device", "socket", "sparse"]
READERS = {
  "images.load": images.load,
  "images.read_file": images.read_file,
  "sha256": files.sha256,
  "read_json": files.read_json,
  "read_tensors": tensor_files.read_tensors,
  "read_tensor_metadata": tensor_files.read_tensor_metadata,
  "VGG's file": read_file,
  "import": lambda path: vgg_import.convert(path, "vgg19"),
  "pth": check_pth,
  "load_model": load_model,
  "names": read_names,
  "photographs": lambda path: list(normalize.photographs([path])),
  "faces": lambda path: read_faces(str(path)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reader", READERS)
def test_every_reader_refuses_what_is_no_bounded_file_by_name(kind, reader, tmp_path):
  path = make(kind, tmp_path / "x.png")
  with pytest.raises(ValueError) as refused:
    READERS[reader](path)
  assert str(path) in str(refused.value)
  expected = "MB" if kind == "sparse" else f"expected a regular file, got a {kind}"
  assert expected in str(refused.value)


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_says_that_a_folder_is_none_of_its_files(reader, tmp_path):
  with pytest.raises((OSError, ValueError), match="(folder|file|config.json)"):
    READERS[reader](tmp_path)


def test_files_that_are_sound_or_linked_are_read_whole(tmp_path):
  path = tmp_path / "x"
  path.write_bytes(bytes(range(256)) * 9000)
  (tmp_path / "link").symlink_to(path)
  for name in (path, str(path), tmp_path / "link"):
    assert files.read_regular(name, at_most=256 * 9000) == path.read_bytes()
    assert files.check_regular(name, at_most=256 * 9000) == 256 * 9000
    with pytest.raises(ValueError, match="at most"):
      files.read_regular(name, at_most=256 * 9000 - 1)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux")
def test_a_file_that_says_it_is_empty_is_read_within_bounds():
  assert files.read_regular("/proc/self/maps", at_most=2**24)
  with pytest.raises(ValueError, match="got more"):
    files.read_regular("/proc/self/maps", at_most=100)


def test_a_scan_skips_by_name_what_is_no_picture_file(tmp_path):
  for kind in KINDS:
    make(kind, tmp_path / f"{kind}.png")
  Image.new("RGB", (40, 40)).save(tmp_path / "good.png")
  manifest = scan(open_source(str(tmp_path), role="style"), role="style", min_size=32)
  assert [name for name, _ in manifest.kept] == ["good.png"]
  reasons = dict(manifest.skipped)
  assert set(reasons) == {f"{kind}.png" for kind in KINDS}
  assert reasons["pipe.png"] == "expected a regular file, got a pipe"
  assert reasons["sparse.png"].endswith("got 5000 MB")
  assert not any(str(tmp_path) in reason for reason in reasons.values())


def test_a_folder_that_cannot_be_read_is_never_taken_for_an_empty_one(
  tmp_path, monkeypatch, caplog
):
  for name in ("good.png", "secret/a.png"):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    Image.new("RGB", (40, 40)).save(tmp_path / name)
  real, closed = os.scandir, tmp_path / "secret"

  def scandir(path):
    if os.fspath(path) == os.fspath(closed):
      raise PermissionError(13, "Permission denied", os.fspath(path))
    return real(path)

  monkeypatch.setattr(os, "scandir", scandir)
  assert images.find_images(tmp_path) == [tmp_path / "good.png"]
  assert [f"{closed}: left out, because it cannot be read (Permission denied)"] == caplog.messages
  with pytest.raises(PermissionError, match="secret"):
    images.find_images(closed)


@pytest.mark.parametrize("kind", KINDS)
def test_stylizing_reports_what_is_no_picture_file_and_goes_on(kind, tmp_path, capsys):
  path = make(kind, tmp_path / "x.png")
  assert render_files._attempt(set(), path, render_files._read, None) is None
  assert f"error: {path}: " in capsys.readouterr().err


def test_a_content_that_scaling_would_blow_up_is_reported_and_the_rest_goes_on(tmp_path, capsys):
  Image.new("RGB", (2000, 1)).save(tmp_path / "line.png")
  assert render_files._attempt(set(), tmp_path / "line.png", render_files._read, 512) is None
  error = capsys.readouterr().err
  assert error.startswith(f"error: {tmp_path / 'line.png'}: 2000 x 1 scaled to 512 pixels")


# JSON.

NESTED = "[" * 100_000 + "]" * 100_000
BROKEN_JSON = {
  "nested": NESTED,
  "nested a little": "[" * 40 + "]" * 40,
  "nested objects": '{"a":' * 5000 + "1" + "}" * 5000,
  "cut off": '{"model": {"transform"',
  "empty": "",
  "binary": "\x00\x01",
  "a long number": "1" * 10_000,
}


@pytest.mark.parametrize("case", BROKEN_JSON)
def test_broken_json_is_one_error_that_names_the_file(case, tmp_path):
  path = tmp_path / "config.json"
  path.write_text(BROKEN_JSON[case])
  with pytest.raises(ValueError, match="config.json: .{10,}") as refused:
    files.read_json(path)
  assert len(str(refused.value)) < 500 + len(str(path))
  path.write_bytes(b'{"a": "\xff"}')
  with pytest.raises(ValueError, match="config.json: "):
    files.read_json(path)


def test_json_as_deep_as_ours_is_read(tmp_path):
  value = {"a": [{"b": [{"c": [1, 2.5, None, "é"]}]}]}
  assert files.parse_json(json.dumps(value), what="x") == value


@pytest.mark.parametrize("name", ["config.json", "vgg.json"])
@pytest.mark.parametrize("case", BROKEN_JSON)
def test_a_workdir_with_a_broken_record_is_refused_by_name(case, name, tmp_path):
  model = {"transform": "adain", "settings": {}, "vgg": "vgg16", "vgg_padding": "reflect"}
  config = {"model": {**model, "vgg_weights": ""}}
  (tmp_path / "checkpoints").mkdir()
  (tmp_path / "config.json").write_text(json.dumps(config))
  (tmp_path / "vgg.json").write_text(json.dumps({"tensors_sha256": "0" * 64}))
  (tmp_path / name).write_text(BROKEN_JSON[case])
  with pytest.raises(ValueError, match=f"{tmp_path}.*{name}"):
    load_model(tmp_path)


@pytest.mark.parametrize(
  "change",
  [
    {"vgg": ["vgg16"]},
    {"vgg": 3},
    {"vgg_padding": {}},
    {"vgg_weights": 7},
    {"transform": []},
    {"settings": [1]},
    {"settings": "x"},
  ],
)
def test_a_record_of_the_wrong_types_is_refused_by_name(change, tmp_path):
  model = {"transform": "adain", "settings": {}, "vgg": "vgg16", "vgg_padding": "reflect"}
  config = {"model": {**model, "vgg_weights": "", **change}}
  (tmp_path / "checkpoints").mkdir()
  (tmp_path / "config.json").write_text(json.dumps(config))
  (tmp_path / "vgg.json").write_text(json.dumps({"tensors_sha256": "0" * 64}))
  with pytest.raises(ValueError, match=f"^{tmp_path}: "):
    load_model(tmp_path)


@pytest.mark.parametrize(
  "text", [NESTED, '{"kept": [["a", 1e999]], "skipped": []}', "[]", "3", '{"kept": 1}', '{"kept":']
)
def test_a_broken_list_of_images_is_one_error_that_names_the_file(text, tmp_path):
  with pytest.raises(ValueError, match="^manifest: "):
    Manifest.from_json(text)
  (tmp_path / "data").mkdir()
  for part in ("train", "heldout"):
    (tmp_path / "data" / f"style_{part}.json").write_text(text)
  options = {"min_size": 1, "heldout": 0, "names": "", "seed": 0}
  with pytest.raises(ValueError, match=r"style_train\.json: .*--workdir"):
    prepare_images(tmp_path, "style", str(tmp_path), **options)


# safetensors.


def write_safetensors(path: Path, header: str | bytes, data: bytes, length: int | None = None):
  header = header.encode() if isinstance(header, str) else header
  length = len(header) if length is None else length
  path.write_bytes(length.to_bytes(8, "little") + header + data)
  return path


SAFETENSORS = {
  "float8": ('{"a":{"dtype":"F8_E4M3","shape":[3],"data_offsets":[0,3]}}', bytes(3)),
  "float8, the other": ('{"a":{"dtype":"F8_E5M2","shape":[3],"data_offsets":[0,3]}}', bytes(3)),
  "float4": ('{"a":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}}', bytes(1)),
  "scales": ('{"a":{"dtype":"F8_E8M0","shape":[3],"data_offsets":[0,3]}}', bytes(3)),
  "unknown type": ('{"a":{"dtype":"F9","shape":[3],"data_offsets":[0,3]}}', bytes(3)),
  "more than there is": ('{"a":{"dtype":"F32","shape":[999999999999],"data_offsets":[0,3]}}', b""),
  "overflow": ('{"a":{"dtype":"F32","shape":[18446744073709551615,4],"data_offsets":[0,0]}}', b""),
  "negative": ('{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}', bytes(4)),
  "nested": ('{"a":' + NESTED + "}", b""),
  "no object": ("[]", b""),
}


@pytest.mark.parametrize("case", SAFETENSORS)
def test_safetensors_that_cannot_be_are_one_error_that_names_the_file(case, tmp_path):
  path = write_safetensors(tmp_path / "m.safetensors", *SAFETENSORS[case])
  for read in (read_file, load_model, lambda path: vgg_import.convert(path, "vgg19")):
    with pytest.raises(ValueError, match=r"m\.safetensors: "):
      read(path)
  with pytest.raises(tensor_files.TensorFileError):
    tensor_files.read_tensors(path)


@pytest.mark.parametrize("length", [2**22 + 1, 2**40, 2**64 - 1])
def test_a_header_larger_than_any_of_ours_is_not_read(length, tmp_path):
  path = write_safetensors(tmp_path / "m.safetensors", "{" + " " * 100, b"", length)
  with pytest.raises(
    tensor_files.TensorFileError, match=f"expected a header of .* bytes, got {length}"
  ):
    tensor_files.read_tensors(path)


def test_tensors_that_are_not_wanted_are_not_read(tmp_path):
  header = (
    '{"head.a":{"dtype":"F8_E4M3","shape":[3],"data_offsets":[0,3]},'
    '"b":{"dtype":"F16","shape":[2],"data_offsets":[3,7]}}'
  )
  path = write_safetensors(tmp_path / "m.safetensors", header, bytes(3) + b"\0\x3c\0\xc0")
  tensors, metadata = tensor_files.read_tensors(path, unread=("head.",))
  assert metadata == {} and tensors["head.a"].size == 0
  assert np.array_equal(tensors["b"], [1, -2]) and tensors["b"].dtype == np.float16


# Writing.


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_file_is_never_replaced_by_one(kind, tmp_path):
  path = tmp_path / "out.png"
  if kind == "folder":
    path.mkdir()
  elif kind == "device":
    path.symlink_to("/dev/null")  # the device itself would be lost
  else:
    os.mkfifo(path)
  before = os.lstat(path)
  with pytest.raises(OSError, match=f"a {kind}") as refused, files.replacing(path):
    pass
  assert refused.value.filename == str(path) and os.lstat(path) == before
  assert os.listdir(tmp_path) == ["out.png"]


def test_links_that_lead_nowhere_are_replaced(tmp_path):
  for name, target in (("gone", "nothing"), ("loop", "loop")):
    (tmp_path / name).symlink_to(target)
    with files.replacing(tmp_path / name) as temporary:
      temporary.write_text("whole")
    assert (tmp_path / name).read_text() == "whole"


def test_a_place_where_no_file_can_be_made_is_known_before_it_is_tried(tmp_path, monkeypatch):
  (tmp_path / "file").touch()
  (tmp_path / "link").symlink_to("gone")
  assert files.unwritable(tmp_path) is None and files.unwritable(tmp_path / "a" / "b") is None
  assert files.unwritable(tmp_path / "file" / "a") == f"{tmp_path / 'file'} is not a folder"
  assert files.unwritable(tmp_path / "link") == f"{tmp_path / 'link'} is not a folder"
  monkeypatch.setattr(os, "access", lambda path, mode: False)  # as on a read-only file system
  assert files.unwritable(tmp_path / "a" / "b") == f"{tmp_path} cannot be written to"
  assert not (tmp_path / "a").exists()


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="this system has no /proc")
def test_a_place_that_takes_no_files_from_anyone_is_known_before_it_is_tried():
  assert "/proc takes no files" in str(files.unwritable("/proc/adaconv")) or os.geteuid()
  assert files.unwritable("/proc/adaconv") is not None


class Fixed(OSError):
  """An error whose name of a file cannot be changed, as FFmpeg's."""

  @property
  def filename(self):
    return super().filename


@pytest.mark.parametrize("kind", [OSError, Fixed])
def test_an_error_of_a_disk_names_the_file_also_where_a_library_has_an_absolute_path(
  kind, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(OSError) as full, files.replacing("a.mp4") as temporary:
    raise kind(errno.ENOSPC, "No space left on device", os.path.abspath(temporary))
  assert full.value.filename == "a.mp4" and full.value.errno == errno.ENOSPC
