"""Paths in a bucket, against an emulator of Cloud Storage on this machine."""

import hashlib
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from buckets import CUT, HALF, LOST, emulator, in_environment
from processes import end, full_disk, read_until, start

from adaconv_jax import compilation, files, lock
from adaconv_jax.extras import MissingExtra
from adaconv_jax.files import expand, files_below, local_copy, read_json, replacing, sha256


@pytest.fixture(scope="module")
def server():
  with emulator() as found:
    yield found


@pytest.fixture
def bucket(server):
  with in_environment(server):
    yield server


@pytest.fixture
def folder(bucket, request):
  return expand(f"gs://runs/{request.node.name}")


def test_paths_of_a_bucket_keep_their_name_whatever_they_are_made_from(bucket):
  path = expand("gs://runs/a/b.tar.gz")
  assert str(path) == "gs://runs/a/b.tar.gz" and (path.name, path.suffix) == ("b.tar.gz", ".gz")
  assert (
    str(path.parent / "c") == "gs://runs/a/c" and str(path.relative_to("gs://runs")) == "a/b.tar.gz"
  )
  for same in (path, Path("gs://runs/a/b.tar.gz"), "GS://runs/a/b.tar.gz"):
    assert expand(same) == path and files.absolute(expand(same)) == str(path)
  assert pickle.loads(pickle.dumps(path)) == path
  assert str(path.resolve()) == files.real(path) == str(path)


def test_compiled_programs_are_kept_in_the_bucket_without_a_question_before(bucket, monkeypatch):
  set_to = {}
  monkeypatch.setattr(compilation.jax.config, "update", set_to.__setitem__)
  before = len(bucket.requests)
  assert str(compilation.keep_compiled("gs://runs/cache")) == "gs://runs/cache"
  assert set_to["jax_compilation_cache_dir"] == "gs://runs/cache"
  assert len(bucket.requests) == before


@pytest.mark.slow
@pytest.mark.parametrize("status", [403, 503])
def test_a_bucket_that_takes_no_compiled_programs_is_one_line_and_not_asked_again(bucket, status):
  program = """
import logging, jax, jax.numpy as jnp
from adaconv_jax.compilation import keep_compiled, mend_kept
logging.basicConfig(format="%(message)s")
mend_kept(keep_compiled("gs://runs/no-cache"))
for power in range(2, 5):
  print(jax.jit(lambda x: x**power)(jnp.float32(2)))
"""
  del bucket.requests[:]
  with bucket.failing(status, only="no-cache"):
    environment = {**os.environ, **bucket.environment, "JAX_PLATFORMS": "cpu"}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    done = subprocess.run(
      [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120
    )
  assert done.stdout.split() == ["4.0", "8.0", "16.0"]
  (line,) = done.stderr.splitlines()
  assert line.startswith("gs://runs/no-cache: compiled programs cannot be kept (")
  programs = {name for _, url in bucket.requests for name in re.findall(r"no-cache.*(jit\w+)", url)}
  assert len(programs) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("server")  # skipped without the emulator
def test_the_emulator_runs_as_a_program_that_says_how_to_find_it():
  process = start("tests/buckets.py")
  try:
    output = read_until(process, "gone after Ctrl-C")
    exports = dict(re.findall(r"export (\w+)=(.*)", output))
    program = (
      "from adaconv_jax.files import expand; p = expand('gs://runs/x'); p.write_bytes(b'7'); "
    )
    done = subprocess.run(
      [sys.executable, "-c", f"{program}print(p.read_bytes())"],
      env={**os.environ, **exports},
      capture_output=True,
      text=True,
    )
    assert done.stdout == "b'7'\n", done.stderr
  finally:
    process.send_signal(signal.SIGINT)
    assert end(process, within=20)[0] == 0


def test_local_paths_stay_local_paths():
  for text in ("a", "./~", "/a/b", "C:/a", "gs/a", "a:b", "./gs:/a", ""):
    assert type(expand(text)) is type(Path(text)) and not files.is_remote(expand(text))


def test_a_file_is_written_read_listed_and_removed(folder):
  path = folder / "a" / "b.json"
  assert not path.exists() and not folder.exists() and not folder.is_dir()
  with replacing(path) as temporary:
    assert temporary.suffix == ".json" and not path.exists()
    temporary.write_text('{"a": 1}')
  assert path.is_file() and not path.is_dir() and folder.is_dir() and not folder.is_file()
  assert read_json(path) == {"a": 1} and path.read_text() == '{"a": 1}'
  assert sha256(path) == hashlib.sha256(b'{"a": 1}').hexdigest()
  (folder / "c").write_bytes(b"")
  (folder / ".hidden").write_bytes(b"x")
  (folder / ".h" / "x").write_bytes(b"x")
  assert sorted(path.name for path in folder.iterdir()) == [".h", ".hidden", "a", "c"]
  assert files_below(folder) == {"a/b.json": 8, "c": 0}
  with local_copy(path) as local:
    assert local.read_text() == '{"a": 1}'
  assert not local.exists()
  path.unlink()
  assert not path.exists()
  with pytest.raises(FileNotFoundError, match="no such file in the bucket.*gs://runs/"):
    path.read_bytes()


def put_raw(name: str, data: bytes) -> None:
  """Uploads an object whose name a path would change."""
  import fsspec

  fsspec.filesystem("gs").pipe_file(f"gs://runs/{name}", data)


@pytest.mark.parametrize(
  "number, name",
  [*enumerate(["a//x.png", "/a/x.png", "a/./x.png", "./x.png"])],
  ids=["empty", "first", "dot", "dot-first"],
)
def test_an_object_whose_name_no_file_can_have_is_left_out_with_a_line(
  bucket, number, name, caplog
):
  folder = expand(f"gs://runs/odd-{number}")
  (folder / "a" / "x.png").write_bytes(b"B")
  put_raw(f"{folder.name}/a/marker/", b"")
  odd = f"{folder.name}/{name}"
  put_raw(odd, b"the other")
  assert files_below(folder)["a/x.png"] == 1 and len(files_below(folder)) == 1
  assert files.versions_below(folder, [name]) == [None]
  assert all(path.name == "a" for path in folder.iterdir())
  assert sorted(path.name for path in (folder / "a").iterdir()) == ["marker", "x.png"]
  line = next(line for line in caplog.messages if "left out" in line)
  assert line.startswith(f"{folder}: left out 1 object(s), because a file cannot have")
  assert line.endswith(f"rename it: gs://runs/{odd}")


def test_an_object_in_place_of_a_folder_is_an_obstacle_and_a_mark_of_a_folder_is_none(
  bucket, folder
):
  (folder / "x.png").write_bytes(b"x")
  put_raw(f"{folder.name}/marked/", b"")
  for below in ("x.png", "x.png/a", "x.png/a/b"):
    assert files.unwritable(folder / below) == f"{folder}/x.png is not a folder"
    assert files.obstacle(folder / below) == folder / "x.png"
  for free, levels in ((folder, 1), (folder / "new" / "a", 3), (folder / "marked", 2)):
    first = len(bucket.requests)
    assert files.obstacle(free) is None
    assert len(bucket.requests) - first <= levels
    assert files.unwritable(free) is None
  assert files.obstacle(expand("gs://runs")) is None
  with bucket.failing(403, only="GET"):  # who may write may be one who may not read
    assert files.unwritable(folder) is None


def test_a_file_is_read_in_parts_and_sizes_are_bounded(folder, monkeypatch):
  monkeypatch.setattr("adaconv_jax.bucket.PART_BYTES", 1000)
  data = bytes(range(256)) * 40
  (folder / "x").write_bytes(data)
  with files.open_regular(folder / "x", at_most=20_000) as file:
    assert file.read(10) == data[:10] and file.read(2500) == data[10:2510]
    assert file.seek(-5, 2) and file.read() == data[-5:] and file.read() == b""
  assert sha256(folder / "x") == hashlib.sha256(data).hexdigest()
  with pytest.raises(ValueError, match="gs://runs/.*/x: expected at most 0 MB"):
    files.read_regular(folder / "x", at_most=100)
  with pytest.raises(IsADirectoryError, match="folder"):
    files.read_regular(folder, at_most=100)


def test_a_bucket_that_is_busy_for_a_moment_is_asked_again(bucket, folder):
  (folder / "x").write_bytes(b"before")
  with bucket.failing(503, seconds=1.5):
    assert (folder / "x").read_bytes() == b"before"
    (folder / "x").write_bytes(b"after")
  assert (folder / "x").read_bytes() == b"after"


@pytest.mark.parametrize("status, kind", [(503, ConnectionError), (403, PermissionError)])
def test_an_upload_that_fails_is_one_line_and_leaves_the_earlier_file(
  bucket, folder, status, kind, monkeypatch
):
  no_waiting(monkeypatch)
  path = folder / "x"
  path.write_bytes(b"before")
  with bucket.failing(status, only="POST"):
    with pytest.raises(kind, match=re.escape(f"{path}: ")) as failed, replacing(path) as temporary:
      temporary.write_bytes(b"after")
  assert "\n" not in str(failed.value)
  assert path.read_bytes() == b"before" and not temporary.exists()


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")  # by gcsfs
@pytest.mark.parametrize("size", [10, 1_300_000])  # in one request, and in several
def test_of_two_writers_that_may_not_overwrite_the_first_to_finish_wins(bucket, size):
  path = expand(f"gs://runs/once-{size}")  # resumable uploads of the emulator know no brackets
  with pytest.raises(FileExistsError, match="exists already"):
    with replacing(path, overwrite=False) as slow:
      with replacing(path, overwrite=False) as fast:
        fast.write_bytes(b"fast" * size)
      slow.write_bytes(b"slow" * size)
  assert path.read_bytes() == b"fast" * size


def test_the_bucket_itself_refuses_to_overwrite_where_both_looked_before(folder, monkeypatch):
  path = folder / "both"
  path.write_bytes(b"fast")
  monkeypatch.setattr(type(path), "exists", lambda _: False)
  with pytest.raises(FileExistsError), replacing(path, overwrite=False) as slow:
    slow.write_bytes(b"slow")
  assert path.read_bytes() == b"fast"


def test_an_upload_whose_answer_was_lost_is_not_taken_for_that_of_another(folder):
  path = folder / "lost"
  with replacing(path, overwrite=False) as temporary:
    path.write_bytes(b"mine")  # as by the first request
    temporary.write_bytes(b"mine")
  assert path.read_bytes() == b"mine"


def no_waiting(monkeypatch):
  """Lets gcsfs repeat its requests without pauses."""
  import asyncio

  monkeypatch.setattr("gcsfs.retry.asyncio.sleep", lambda _, real=asyncio.sleep: real(0))


def test_an_address_where_nobody_answers_is_one_line(bucket, monkeypatch):
  import gcsfs  # pyright: ignore[reportMissingImports]

  no_waiting(monkeypatch)
  monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
  gcsfs.GCSFileSystem.clear_instance_cache()
  with pytest.raises(
    ConnectionError, match="^gs://runs/x: the bucket does not answer.*rerun"
  ) as it:
    expand("gs://runs/x").exists()
  assert "\n" not in str(it.value)


def test_a_process_that_is_killed_during_an_upload_leaves_the_earlier_file(bucket, folder):
  path = folder / "x"
  path.write_bytes(b"before" * 1000)
  reached = threading.Event()

  def wait(method, url):
    if "/o?" in url and method == "POST":
      reached.set()
      time.sleep(0.5)  # the client is killed meanwhile

  program = (
    "import sys; from adaconv_jax.files import replacing\n"
    "with replacing(sys.argv[1]) as temporary:\n"
    "  temporary.write_bytes(b'after' * 20_000_000)\n"
  )
  bucket.fault = wait
  environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
  process = subprocess.Popen([sys.executable, "-c", program, str(path)], env=environment)
  assert reached.wait(60)
  process.kill()
  process.wait()
  bucket.fault = lambda *_: None
  assert path.read_bytes() == b"before" * 1000
  assert [p.name for p in folder.iterdir()] == ["x"]


@pytest.mark.parametrize(
  "uri, message",
  [
    ("ftp://a/b", "^ftp://a/b: expected a local path or one of gs://, .*got ftp://$"),
    ("https://a/b", "got https://$"),
    ("gs://", "^gs://: expected gs://BUCKET/..., got no bucket$"),
    ("gs:///", "got no bucket$"),
    ("gs:///folder/x", "^gs:///folder/x: expected gs://BUCKET/..., got no bucket$"),
    ("gs://My-Bucket/x", "^gs://My-Bucket/x: expected the name of a bucket, 3 to 63 lower.*, got"),
    ("gs://ab/x", "expected the name of a bucket, .* got 'ab'$"),
    ("gs://-ab/x", "expected the name of a bucket"),
    ("gs://a b c/x", "expected the name of a bucket"),
    ("gs://abc..d/x", "expected the name of a bucket"),
    ("gs://192.168.5.4/x", "expected the name of a bucket"),
    (f"gs://{'a' * 64}/x", "expected the name of a bucket"),
    (f"gs://{'.'.join(['a' * 63] * 4)}/x", "expected the name of a bucket"),
    ("gs://runs/a/../b", r"^gs://runs/a/../b: expected a path without '\.\.'.*write the path"),
    ("gs://runs/..", r"expected a path without '\.\.'"),
    (f"gs://runs/{'é' * 513}", "expected at most 1024 bytes of name, got 1026$"),
    ("gs://runs/\udcff", "expected a name in UTF-8"),
    ("gs://runs/a\nb", "expected a name without line breaks"),
  ],
)
def test_a_path_of_an_unknown_kind_is_refused_in_one_line(uri, message):
  with pytest.raises(ValueError, match=message):
    expand(uri)


@pytest.mark.parametrize("bucket", ["abc", "0a-b_c", "a" * 63, "example.com", "a" * 63 + ".b"])
def test_names_that_a_bucket_may_have_are_taken(bucket):
  pytest.importorskip("gcsfs")
  for name in ("", "/a..b/...", "/.hidden", f"/{'é' * 512}"):
    assert str(expand(f"gs://{bucket}{name}")) == f"gs://{bucket}{name}"


@pytest.mark.parametrize("fault", [CUT, LOST, HALF, 408, 429, 500, 502, 503, 504])
def test_a_request_that_fails_once_is_repeated_and_has_its_effect_once(
  bucket, folder, fault, monkeypatch, tmp_path
):
  no_waiting(monkeypatch)
  (tmp_path / "local").write_bytes(b"new")

  def once(action):
    left = [fault]
    bucket.fault = lambda method, url: left.pop() if left else None
    try:
      return action()
    finally:
      bucket.fault = lambda method, url: None
      assert not left

  path = folder / "x"
  path.write_bytes(b"old" * 1000)
  assert once(path.read_bytes) == b"old" * 1000
  assert once(lambda: path.read_part(3, 9)) == b"oldold"
  assert once(path.size) == 3000 and once(path.exists)
  assert once(folder.find) == {"x": 3000}
  assert [found.name for found in once(lambda: list(folder.iterdir()))] == ["x"]
  once(lambda: path.download(tmp_path / "copy"))
  assert (tmp_path / "copy").read_bytes() == b"old" * 1000
  once(lambda: path.write_bytes(b"new"))
  assert path.read_bytes() == b"new"
  once(lambda: path.copy_to(folder / "y"))
  once(lambda: (folder / "z").upload(tmp_path / "local", create=True))
  assert (folder / "y").read_bytes() == (folder / "z").read_bytes() == b"new"
  once(lambda: path.unlink(missing_ok=True))
  assert sorted(folder.find()) == ["y", "z"]


@pytest.mark.parametrize("fault", [CUT, LOST, HALF, 503])
def test_a_lock_is_ours_though_the_answer_was_lost(bucket, folder, fault, monkeypatch):
  no_waiting(monkeypatch)
  for number in range(3):  # the requests that take it
    left = [None] * number + [fault]
    bucket.fault = lambda method, url, left=left: left.pop(0) if left else None
    with lock.locked(folder) as still_ours:
      assert not left
      still_ours()
    assert not (folder / lock.NAME).exists()


def test_a_request_that_is_refused_is_no_bucket_that_does_not_answer(bucket, folder):
  before = len(bucket.requests)
  with bucket.failing(400), pytest.raises(OSError, match="refuses the request.*check the") as it:
    (folder / "x").read_bytes()
  assert not isinstance(it.value, ConnectionError) and "\n" not in str(it.value)
  assert len(bucket.requests) == before + 1
  with pytest.raises(OSError, match="expected a name in UTF-8"):
    (folder / "\udcff").exists()


def test_a_part_behind_the_end_of_a_file_is_empty(bucket, folder):
  (folder / "x").write_bytes(b"12345")
  with bucket.failing(416, only="alt=media"):  # as Cloud Storage answers, unlike the emulator
    assert (folder / "x").read_part(100, 200) == b""


def test_a_full_disk_is_none_of_the_bucket_s_errors(folder, tmp_path):
  (folder / "x").write_bytes(b"12345")
  with full_disk(), pytest.raises(OSError, match="too large; it takes a copy of gs://runs") as it:
    (folder / "x").download(tmp_path / "x")
  assert not isinstance(it.value, ConnectionError) and "gs://" not in it.value.filename


def test_a_missing_package_is_refused_in_one_line(monkeypatch):
  monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
  install = r"^gs://runs/x: gs:// needs the package gcsfs.*pip install 'adaconv_jax\[gcs\]'$"
  with pytest.raises(ValueError, match=install):
    expand("gs://runs/x")


@pytest.mark.parametrize(
  "content, problem",
  [
    (None, r"expected a file .*No such file or directory\)"),
    ("not JSON", "expected a JSON file .*which is none"),
    ("[]", "expected a JSON file .*which is none"),
    ('{"no": "type"}', "expected a JSON file .*which is none"),
    ("[" * 100_000, "expected a JSON file .*which is none"),
  ],
  ids=["missing", "text", "list", "type", "deep"],
)
def test_credentials_that_are_none_are_one_line_before_any_request(
  monkeypatch, tmp_path, content, problem
):
  pytest.importorskip("gcsfs")
  monkeypatch.setattr("fsspec.filesystem", None)
  monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
  if content is not None:
    (tmp_path / "key.json").write_text(content)
  monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
  way_out = "correct the variable, or unset it and run `gcloud auth"
  with pytest.raises(ValueError, match=f"^GOOGLE_APPLICATION_CREDENTIALS: {problem}; {way_out}"):
    expand("gs://runs/x")
  (tmp_path / "key.json").write_text('{"type": "authorized_user"}')
  assert str(expand("gs://runs/x")) == "gs://runs/x"


def test_credentials_from_a_pipe_are_left_to_who_uses_them(monkeypatch, tmp_path):
  pytest.importorskip("gcsfs")
  monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
  os.mkfifo(tmp_path / "pipe")
  monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "pipe"))
  assert str(expand("gs://runs/x")) == "gs://runs/x"


def test_an_emulator_needs_no_credentials(bucket, monkeypatch):
  monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/none")
  assert not expand("gs://runs/without-credentials").exists()


@pytest.mark.parametrize("error", [ImportError("no symbol"), ValueError("gcsfs.__spec__ is None")])
def test_a_package_that_is_found_but_unusable_is_one_line_with_the_cause(monkeypatch, error):
  def find_spec(name):
    raise error

  monkeypatch.setattr("importlib.util.find_spec", find_spec)
  with pytest.raises(MissingExtra, match=rf"cannot be imported \(.*{error}\): pip install 'ada"):
    expand("gs://runs/x")


def test_a_package_that_fails_when_it_is_imported_is_one_line_with_the_cause(monkeypatch):
  pytest.importorskip("gcsfs")
  path = expand("gs://runs/x")

  def fails(name, **options):
    try:
      raise ImportError("libssl.so: no such\nfile")
    except ImportError as error:
      raise ImportError("Please install gcsfs to access Google Storage") from error

  monkeypatch.setattr("fsspec.filesystem", fails)
  cause = r"gcsfs, which cannot be imported \(ImportError: libssl.so: no such file\)"
  with pytest.raises(MissingExtra, match=rf"^{path}: .*{cause}: pip install 'adaconv_jax\[gcs"):
    path.exists()


def test_a_folder_that_is_set_aside_in_a_bucket_loses_its_mark_first(bucket, folder):
  for name in ("a", "b/c", "mark"):
    (folder / "1" / name).write_text(name)
  first = len(bucket.requests)
  files.set_aside(folder / "1", folder / "1.damaged", "mark")
  assert files_below(folder) == {"1.damaged/a": 1, "1.damaged/b/c": 3, "1.damaged/mark": 4}
  deleted = [url for method, url in bucket.requests[first:] if method == "DELETE"]
  assert len(deleted) == 3 and "mark" in deleted[0]


def test_a_log_is_copied_while_it_grows_and_goes_on_where_an_earlier_process_ended(
  bucket, folder, monkeypatch
):
  monkeypatch.setattr(files, "MIRROR_SECONDS", 0.1)
  for part in ("first\n", "second\n"):
    mirror = files.Mirror(folder)
    mirror.fetch("log")
    with open(mirror.folder / "log", "a") as file:
      file.write(part)
    for _ in range(100):
      if (folder / "log").exists() and part in (folder / "log").read_text():
        break
      time.sleep(0.1)
    mirror.close()
    assert not mirror.folder.exists()
  assert (folder / "log").read_text() == "first\nsecond\n"


def test_a_log_that_cannot_be_copied_is_a_warning_and_copied_later(
  bucket, folder, monkeypatch, caplog
):
  no_waiting(monkeypatch)
  monkeypatch.setattr(files, "MIRROR_SECONDS", 1e9)
  mirror = files.Mirror(folder)
  (mirror.folder / "log").write_text("x")
  with bucket.failing(503):
    mirror.copy()
  assert "tried again" in caplog.text and not (folder / "log").exists()
  mirror.close()
  assert (folder / "log").read_text() == "x"


def test_a_log_on_a_disk_is_written_in_place(tmp_path):
  mirror = files.Mirror(tmp_path)
  assert mirror.folder == tmp_path
  mirror.fetch("log")
  mirror.copy()
  mirror.close()
  assert tmp_path.exists() and not list(tmp_path.iterdir())


def test_local_paths_import_no_package_of_buckets(tmp_path):
  program = (
    "import sys; from adaconv_jax import files\n"
    f"with files.replacing({str(tmp_path / 'x')!r}) as path: path.write_text('x')\n"
    "files.sha256(path.parent / 'x')\n"
    "print([m for m in ('etils', 'fsspec', 'gcsfs') if m in sys.modules])"
  )
  environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
  done = subprocess.run(
    [sys.executable, "-c", program], env=environment, capture_output=True, text=True
  )
  assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_an_index_of_a_large_checkpoint_is_written_twice(folder):
  import tensorstore as ts

  for name in ("a", "b"):
    store = ts.KvStore.open({"driver": "ocdbt", "base": f"{folder}/"}).result()
    store.write(name, b"x" * 2000).result()
  assert ts.KvStore.open({"driver": "ocdbt", "base": f"{folder}/"}).result().list().result() == [
    b"a", b"b",
  ]  # fmt: skip


@pytest.mark.parametrize("data", [b"", b"\r", b"a\r\n\r", b"\n\n", b"\r\n--", b" \x00"])
def test_a_file_is_read_as_it_was_written_whatever_its_last_bytes(folder, data, tmp_path):
  (folder / "a").write_bytes(data)
  assert (folder / "a").read_bytes() == data
  (tmp_path / "b").write_bytes(data)
  (folder / "b").upload(tmp_path / "b")
  assert (folder / "b").read_bytes() == data
