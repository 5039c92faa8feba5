"""Model files from strangers: claims, data elsewhere, settings without bounds; and downloads."""

import json
import os
import signal
import struct
import subprocess
import sys
import time
import tracemalloc
import zipfile
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest
from local_server import serving
from safetensors import safe_open
from safetensors.numpy import save
from small_models import small_stylizer

from adaconv_jax.checkpoints import bundle
from adaconv_jax.checkpoints.load import load_model
from adaconv_jax.models.build import make_encoder, make_model
from adaconv_jax.vgg import convert as vgg_import
from adaconv_jax.vgg import download as downloads
from adaconv_jax.vgg import file as vgg_file
from adaconv_jax.vgg import weights as vgg_weights
from adaconv_jax.vgg.download import DownloadError, download
from adaconv_jax.vgg.pth import check_pth

pytestmark = pytest.mark.timeout(120)

# Settings.

BAD_SETTINGS = [
  ("kernel_size", 10**9 + 1),
  ("kernel_size", 17),
  ("kernel_size", 2),
  ("kernel_size", 3.0),
  ("kernel_size", "3"),
  ("kernel_size", True),
  ("kernel_size", None),
  ("kernel_size", [3]),
  ("style_dim", 0),
  ("style_dim", -4),
  ("style_dim", 1.5),
  ("style_dim", "x"),
  ("style_dim", 10**9),
  ("style_dim", 60_000),
  ("encoder_width", 0),
  ("encoder_width", {}),
  ("encoder_width", 50_000),
  ("style_size", 0),
  ("style_size", 1e3),
  ("style_size", 10**6),
  ("style_size", 8000),
  ("groups", [512, 128, 32, 1.5]),
  ("groups", [512, 128, 32, "8"]),
  ("groups", [512, 128, 32, [8]]),
  ("groups", [512, 128, 32, -8]),
  ("groups", [1] * 100_000),
  ("groups", {"a": 1}),
  ("groups", "abcd"),
]


@pytest.mark.parametrize("name, value", BAD_SETTINGS)
def test_a_setting_out_of_its_range_is_refused_at_once_by_name(name, value):
  started = time.monotonic()
  with pytest.raises(ValueError, match=f"{name}.*: "):
    make_model("adaconv", {name: value})
  assert time.monotonic() - started < 1


def test_the_largest_settings_that_people_use_are_taken():
  for settings in (
    {"style_dim": 1024, "encoder_width": 1024},
    {"kernel_size": 5},
    {"style_size": 512},
    {"groups": [1, 1, 1, 1], "style_dim": 64},
  ):
    make_model("adaconv", settings)


@pytest.mark.parametrize("arch, padding", [("vgg13", "zero"), ([], "zero"), ("vgg16", None)])
def test_an_unknown_encoder_is_refused(arch, padding):
  with pytest.raises(ValueError, match="expected one of"):
    make_encoder(arch, padding)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
  path = tmp_path_factory.mktemp("bundle") / "m.safetensors"
  bundle.save_bundle(small_stylizer("adaconv"), path, dtype="float16")
  with safe_open(path, "numpy") as file:
    return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata())


def signed(parts, path: Path, change: dict[str, str]) -> Path:
  """A bundle whose hash is right, as whoever changes it would make it."""
  tensors, metadata = parts
  metadata = metadata | change
  metadata["sha256"] = bundle._sha256(tensors, metadata)
  path.write_bytes(save(tensors, metadata))
  return path


@pytest.mark.parametrize("name, value", [case for case in BAD_SETTINGS if case[0] != "groups"])
def test_a_bundle_with_such_a_setting_is_refused_by_name(name, value, parts, tmp_path):
  described = json.loads(parts[1]["model"])
  described["settings"][name] = value
  path = signed(parts, tmp_path / "bad.safetensors", {"model": json.dumps(described)})
  started = time.monotonic()
  with pytest.raises(ValueError, match=rf"bad\.safetensors: .*{name}"):
    load_model(path)
  assert time.monotonic() - started < 5


def test_a_bundle_of_a_type_without_a_buffer_is_refused_by_name(tmp_path):
  path = tmp_path / "short.safetensors"
  header = {
    "__metadata__": {"format": bundle.FORMAT, "version": "1"},
    "decoder": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]},
  }
  text = json.dumps(header).encode()
  path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
  with pytest.raises(ValueError, match=r"short\.safetensors: damaged or changed"):
    load_model(path)


@pytest.mark.parametrize(
  "change",
  [
    {"model": "[" * 50_000 + "]" * 50_000},
    {"model": "[]"},
    {"model": '{"transform": "adain", "settings": 5}'},
    {"model": '{"transform": ["adain"], "settings": {}}'},
    {"model": "not JSON"},
    {"vgg": "3"},
    {"vgg": '{"arch": [], "padding": "zero", "sha256": ""}'},
    {"vgg": '{"arch": "vgg16", "padding": "zero", "sha256": 7}'},
    {"vgg": '{"arch": "vgg16", "padding": 1, "sha256": "0"}'},
    {"info": "{"},
    {"info": "[1, 2]"},
    {"info": '{"a":' * 5000 + "1" + "}" * 5000},
    {"version": "9" * 6000},
  ],
)
def test_a_bundle_with_such_metadata_is_one_error_that_names_it(change, parts, tmp_path):
  path = signed(parts, tmp_path / "bad.safetensors", change)
  with pytest.raises(ValueError, match=r"bad\.safetensors: "):
    load_model(path)


# .pth: the sizes that its pickle claims.


def integer(value: int) -> bytes:
  data = value.to_bytes(16, "little", signed=True)
  return b"\x8a" + bytes([len(data)]) + data


def text(value: bytes) -> bytes:
  return b"X" + struct.pack("<I", len(value)) + value


def state_pickle(count: int, kind: bytes = b"FloatStorage") -> bytes:
  """What torch pickles of {"a": a tensor of one number}, whose storage has `count` numbers."""
  storage = b"(" + text(b"storage") + b"ctorch\n" + kind + b"\n" + text(b"0") + text(b"cpu")
  storage += integer(count) + b"tQ"
  tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage
  tensor += b"K\0K\1\x85K\1\x85\x89ccollections\nOrderedDict\n)RtR"
  return b"\x80\x02}" + text(b"a") + tensor + b"s."


def pth(path: Path, pickle: bytes, data: bytes = bytes(4), method: int = zipfile.ZIP_STORED):
  with zipfile.ZipFile(path, "w", method) as archive:
    archive.writestr("x/data.pkl", pickle)
    archive.writestr("x/data/0", data)
    archive.writestr("x/version", "3\n")
  return path


def test_a_sound_pth_passes(tmp_path):
  check_pth(pth(tmp_path / "a.pth", state_pickle(1)))
  check_pth(pth(tmp_path / "b.pth", state_pickle(2, b"HalfStorage")))


@pytest.mark.parametrize(
  "count, kind",
  [
    (2, b"FloatStorage"),
    (2**40, b"FloatStorage"),
    (2**100, b"FloatStorage"),
    (-1, b"FloatStorage"),
    (1, b"DoubleStorage"),
    (1, b"StrangeStorage"),
  ],
)
def test_a_pth_that_claims_more_than_it_has_is_refused(count, kind, tmp_path):
  with pytest.raises(ValueError, match=r"a\.pth: refused, because"):
    check_pth(pth(tmp_path / "a.pth", state_pickle(count, kind)))
  # In the form before torch 1.6 as well, whose data follow four pickles.
  number = b"\x80\x02" + integer(5) + b"."
  if count != 2 and kind == b"FloatStorage":
    (tmp_path / "old.pth").write_bytes(number * 3 + state_pickle(count, kind) + bytes(100))
    with pytest.raises(ValueError, match=r"old\.pth: refused, because"):
      check_pth(tmp_path / "old.pth")


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
  path = pth(tmp_path / "a.pth", state_pickle(1), bytes(300_000_000), zipfile.ZIP_DEFLATED)
  assert path.stat().st_size < 1_000_000
  with pytest.raises(ValueError, match=r"a\.pth: refused, because it is compressed"):
    check_pth(path)


def test_a_zip_whose_parts_overlap_is_refused(tmp_path):
  path = pth(tmp_path / "a.pth", state_pickle(1), bytes(1000))
  data = path.read_bytes()
  # The table says that there are a hundred parts where the one of 1000 bytes is.
  start = data.rindex(b"PK\5\6")
  table = data[data.index(b"PK\1\2") : start]
  entry = next(b"PK\1\2" + one for one in table.split(b"PK\1\2") if one.endswith(b"x/data/0"))
  more = b"".join(entry[:-8] + b"x/d/%04d" % i for i in range(100))
  end = bytearray(data[start:])
  count, size = (int.from_bytes(end[a:b], "little") for a, b in ((10, 12), (12, 16)))
  end[8:10] = end[10:12] = (count + 100).to_bytes(2, "little")
  end[12:16] = (size + len(more)).to_bytes(4, "little")
  path.write_bytes(data[:start] + more + end)
  with pytest.raises(ValueError, match=r"a\.pth: refused, because its parts claim 10\d{4} bytes"):
    check_pth(path)


def test_a_zip_with_a_huge_table_of_contents_is_refused(tmp_path):
  with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
    for i in range(60_000):
      archive.writestr(f"x/data/{i:030d}", b"")
  with pytest.raises(ValueError, match="refused, because its table of contents"):
    check_pth(tmp_path / "a.pth")


def test_a_pickle_that_names_a_huge_place_in_its_memo_takes_no_memory(tmp_path):
  code = b"\x80\x02K\1r\xff\xff\xff\xff."
  check_pth(pth(tmp_path / "a.pth", code))


@pytest.mark.parametrize("pickle", [b"", b"\x80\x02", b".", b"\x80\x02}", b"cos\nsystem\n"])
def test_a_broken_pickle_is_one_error_that_names_the_file(pickle, tmp_path):
  with pytest.raises(ValueError, match=r"a\.pth: "):
    check_pth(pth(tmp_path / "a.pth", pickle))


def test_the_error_of_a_pickle_does_not_repeat_its_bytes(tmp_path):
  name = b"\xff" + b"x" * 5000  # not UTF-8
  pickle = b"\x80\x02X" + len(name).to_bytes(4, "little") + name + b"."
  with pytest.raises(ValueError, match=r"a\.pth: not a whole file .*UnicodeDecodeError: ") as error:
    check_pth(pth(tmp_path / "a.pth", pickle))
  assert len(str(error.value).removeprefix(str(tmp_path))) < 300


def test_code_in_a_pickle_is_not_run_where_its_sizes_are_looked_at(tmp_path):
  evil = b"\x80\x02cos\nmkdir\n" + text(str(tmp_path / "made").encode()) + b"\x85R."
  with pytest.raises(ValueError, match=r"a\.pth: refused, because .*objects .*\(os\.mkdir\)"):
    check_pth(pth(tmp_path / "a.pth", evil))
  assert not (tmp_path / "made").exists()


TWINS = b"N" + b"2\x86" * 60  # a tuple of twice a tuple of twice ...: 2**60 leaves
BOMBS = {
  "a bytearray by its code": b"\x96" + (2**40).to_bytes(8, "little") + b".",
  "a bytearray by a call": b"cbuiltins\nbytearray\n" + integer(2**40) + b"\x85R.",
  "a tensor by a call": b"ctorch\nTensor\n" + integer(2**40) + b"\x85R.",
  "a key": b"}" + TWINS + b"Ns.",
  "a key of many": b"}(" + TWINS + b"Nu.",
  "a key of a dict in one go": b"(" + TWINS + b"Nd.",
  "a key of an OrderedDict": b"ccollections\nOrderedDict\n" + TWINS + b"N\x86\x85\x85R.",
  "a member of a set": b"\x8f(" + TWINS + b"\x90.",
  "a member of a frozen set": b"(" + TWINS + b"\x91.",
  "a reference": TWINS + b"Q.",
  "a type of data": b"(" + text(b"storage") + TWINS + text(b"0") + text(b"cpu") + b"K\1tQ.",
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", BOMBS)
def test_a_short_pickle_that_asks_for_endless_memory_or_time_is_refused(name, tmp_path):
  tracemalloc.start()
  try:
    with pytest.raises(ValueError, match=r"a\.pth: refused, because"):
      check_pth(pth(tmp_path / "a.pth", b"\x80\x02" + BOMBS[name]))
    assert tracemalloc.get_traced_memory()[1] < 2**24
  finally:
    tracemalloc.stop()


def test_a_view_of_more_numbers_than_are_stored_is_refused(tmp_path):
  torch = pytest.importorskip("torch")
  torch.save({"features.0.weight": torch.zeros(1, dtype=torch.half).expand(2**40)}, tmp_path / "v")
  with pytest.raises(ValueError, match="v: features.0.weight .* more numbers than are stored"):
    vgg_import.convert(tmp_path / "v", "vgg19")


@pytest.mark.parametrize("kind", ["sparse", "meta", "complex", "quantized"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_tensors_that_are_not_plain_are_one_error(kind, tmp_path):
  torch = pytest.importorskip("torch")
  tensor = {
    "sparse": lambda: torch.eye(3).to_sparse(),
    "meta": lambda: torch.empty(2**40, device="meta"),
    "complex": lambda: torch.zeros(3, dtype=torch.complex64),
    "quantized": lambda: torch.quantize_per_tensor(torch.zeros(3), 1.0, 0, torch.qint8),
  }[kind]()
  torch.save({"features.0.weight": tensor}, tmp_path / "v.pth")
  with pytest.raises(ValueError, match=r"v\.pth: "):
    vgg_import.convert(tmp_path / "v.pth", "vgg19")


# .h5: data in other files, and sizes without data.


def h5_faults(h5py, folder: Path) -> dict[str, Path]:
  paths = {}

  def new(name: str):
    paths[name] = folder / f"{name}.h5"
    return h5py.File(paths[name], "w")

  secret = folder / "secret"
  secret.write_bytes(bytes(3 * 3 * 3 * 64 * 4))
  shape = (3, 3, 3, 64)
  with new("external") as file:
    stored = [(str(secret), 0, h5py.h5f.UNLIMITED)]
    file.create_dataset("block1_conv1/kernel:0", shape, "<f4", external=stored)
  with h5py.File(folder / "other.h5", "w") as file:
    file["x"] = np.zeros(shape, np.float32)
  with new("virtual") as file:
    layout = h5py.VirtualLayout(shape, "<f4")
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "x", shape)
    file.create_virtual_dataset("block1_conv1/kernel:0", layout)
  with new("link") as file:
    file["block1_conv1/kernel:0"] = h5py.ExternalLink(str(folder / "other.h5"), "x")
  with new("empty") as file:
    file.create_dataset("block1_conv1/kernel:0", (10**6, 10**6, 1, 1), "<f4", chunks=(9, 9, 1, 1))
  with new("compressed") as file:
    file.create_dataset(
      "block1_conv1/kernel:0", (3, 3, 9000, 9000), "<f4", chunks=(1, 1, 90, 90), compression="gzip"
    )
  with new("text") as file:
    file.create_dataset("block1_conv1/bias:0", data="what", dtype=h5py.string_dtype())
  with new("null") as file:
    file["block1_conv1/bias:0"] = h5py.Empty("f")
  with new("integers") as file:
    file["block1_conv1/bias:0"] = np.zeros(64, np.int32)
  return paths


@pytest.mark.parametrize(
  "case, message",
  [
    ("external", "has its data in other files"),
    ("virtual", "has its data in other files"),
    ("link", "is in another file"),
    ("empty", "is larger than those of any VGG"),
    ("compressed", "is larger than those of any VGG"),
    ("text", "should be floating point"),
    ("null", "should be floating point"),
    ("integers", "should be floating point, got int32"),
  ],
)
def test_an_hdf5_file_that_does_not_hold_its_weights_is_refused(case, message, tmp_path):
  h5py = pytest.importorskip("h5py")
  path = h5_faults(h5py, tmp_path)[case]
  with pytest.raises(ValueError, match=rf"{case}\.h5: .*{message}"):
    vgg_import.convert(path, "vgg19")


@pytest.mark.parametrize(
  ("name", "data", "kind"),
  [
    ("v.h5", b"\x89HDF\r\n\x1a\n" + bytes(9000), "an HDF5 file"),
    ("v.h5", b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    ("v.pth", b"PK\x03\x04" + bytes(9000), "a zip archive"),
    ("v.pth", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "such as an old PyTorch file"),
    ("v.pth", b"", "not a whole safetensors file"),
  ],
)
def test_published_weights_where_imported_ones_are_expected_are_called_so(
  name, data, kind, tmp_path
):
  path = tmp_path / name
  path.write_bytes(data)
  for load in (vgg_file.read_file, lambda path: load_model("adain", vgg_weights=path)):
    with pytest.raises(ValueError, match=f"{name}: not a file of .*{kind}.* `adaconv vgg import "):
      load(path)
  path.unlink()
  path.mkdir()
  with pytest.raises(FileNotFoundError, match=f"{name}: expected a file .*, got a folder"):
    vgg_file.read_file(path)


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_weights_of_vgg_that_are_not_finite_are_neither_written_nor_read(
  value, tmp_path, monkeypatch
):
  tensors, info = vgg_file.read_file(vgg_weights.PACKAGED / "vgg16.safetensors")
  metadata = {name: text for name, text in info.items() if name not in ("path", "file_sha256")}
  tensors["conv3_1.kernel"] = tensors["conv3_1.kernel"].copy()
  tensors["conv3_1.kernel"][1, 1, 2, 3] = value
  path = tmp_path / "vgg16.safetensors"
  with pytest.raises(ValueError, match=f"^{path}: .*conv3_1.kernel has values that are not finite"):
    vgg_file.write_file(path, tensors, metadata)
  assert not path.exists()
  with monkeypatch.context() as without_check:
    without_check.setattr(vgg_file, "_check", lambda *args: None)
    vgg_file.write_file(path, tensors, metadata)
  with pytest.raises(ValueError, match=f"^{path}: .*conv3_1.kernel has values that are not finite"):
    vgg_file.read_file(path)


# Downloads.


class Handler(BaseHTTPRequestHandler):
  """Sends a few bytes, and the rest of them never, slowly, or without an end."""

  def do_GET(self):
    try:
      if self.path == "/headers":
        self.wfile.write(b"HTTP/1.0 200 OK\r\n")
        return self._drip(b"X: y\r\n")
      self.send_response(200)
      lengths = {"/huge": 10**15, "/wrong": "no number"}
      if self.path in lengths:
        self.send_header("Content-Length", str(lengths[self.path]))
      self.end_headers()
      if self.path == "/endless":
        while True:
          self.wfile.write(bytes(100_000))
      if self.path.startswith(("/drip", "/killed")):
        self.wfile.write(bytes(2_000_000 if self.path.startswith("/killed") else 10))
        return self._drip(b"x")
      self.wfile.write(b"all of it")
    except (BrokenPipeError, ConnectionResetError):
      pass

  def _drip(self, data: bytes):
    for _ in range(200):
      self.wfile.write(data)
      self.wfile.flush()
      time.sleep(0.05)

  def log_message(self, *args):
    pass


@pytest.fixture(scope="module")
def server():
  with serving(Handler) as address:
    yield address


@pytest.fixture(autouse=True)
def without_proxy(no_proxy):
  pass


@pytest.mark.parametrize("page", ["drip", "headers"])
@pytest.mark.parametrize("limit", ["MAX_SECONDS", "GRACE_SECONDS"])
def test_a_transfer_that_drips_has_an_end(page, limit, server, tmp_path, monkeypatch):
  monkeypatch.setattr(downloads, limit, 0.5)
  started = time.monotonic()
  with pytest.raises(DownloadError, match="too slow: only .* bytes in .* seconds"):
    download(f"{server}/{page}", tmp_path / "x", sha256="00")
  assert time.monotonic() - started < 5
  assert not list(tmp_path.iterdir())


def test_a_transfer_without_an_end_is_cut_off(server, tmp_path, monkeypatch):
  monkeypatch.setattr(downloads, "MAX_BYTES", 10_000_000)
  for page in ("endless", "huge"):
    with pytest.raises(DownloadError, match="10000000"):
      download(f"{server}/{page}", tmp_path / "x", sha256="00")
  assert not list(tmp_path.iterdir())


def test_what_no_hash_is_known_of_is_refused(server, tmp_path):
  for page in ("whole", "wrong"):
    with pytest.raises(DownloadError, match="its sha256 is not known"):
      download(f"{server}/{page}", tmp_path / "x")
  assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
  "number",
  [
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGKILL,
  ],
)
@pytest.mark.skipif(not os.path.isdir("/dev/fd"), reason="needs files without a name")
def test_a_download_that_is_killed_leaves_nothing(number, server, tmp_path):
  code = (
    "import sys; from adaconv_jax.vgg import weights as w;"
    "w.SOURCES = {'vgg19': ((sys.argv[1] + '/x.safetensors', '00'),)};"
    "from pathlib import Path; w._fetch('vgg19', Path(sys.argv[2]) / 'vgg19.safetensors')"
  )
  command = [sys.executable, "-c", code, f"{server}/killed", str(tmp_path)]
  process = subprocess.Popen(command, stderr=subprocess.PIPE)
  assert process.stderr is not None
  seen = b""
  while b"x.safetensors" not in seen:  # the progress bar
    seen += process.stderr.read(1)
  time.sleep(0.2)
  process.send_signal(number)
  process.communicate(timeout=60)
  assert process.returncode != 0
  assert not list(tmp_path.iterdir())


def test_weights_of_which_no_hash_is_known_are_not_kept(server, tmp_path, monkeypatch):
  monkeypatch.setenv("ADACONV_CACHE", str(tmp_path))
  sources = ((f"{server}/whole.safetensors", None),)
  monkeypatch.setattr(vgg_weights, "SOURCES", {"vgg19": sources})
  with pytest.raises(FileNotFoundError, match="its sha256 is not known"):
    vgg_weights.load("vgg19")
  assert not list(tmp_path.iterdir())


def test_a_message_about_downloaded_weights_names_their_file(tmp_path, monkeypatch):
  monkeypatch.setattr(vgg_weights, "download_into", lambda file, *a, **k: file.write(b"x" * 50))
  with pytest.raises(ValueError, match=r"^model\.safetensors: expected a \.pth"):
    vgg_weights._download_and_convert("http://x/model.safetensors", None, "vgg19", tmp_path)
