"""Downloads from a server on this machine: whole, broken, wrong, redirected and two at once."""

import hashlib
import io
import subprocess
import sys
import threading
import urllib.request
from http.client import HTTPMessage as Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from local_server import serving

from adaconv_jax.vgg import download as module
from adaconv_jax.vgg.download import DownloadError, download

DATA = bytes(range(256)) * 9000  # More than two chunks.
SHA256 = hashlib.sha256(DATA).hexdigest()
both_are_here = threading.Barrier(2)


class Handler(BaseHTTPRequestHandler):
  def do_GET(self):
    if self.path == "/missing":
      return self.send_error(404)
    if self.path.startswith("/hub-"):
      # Like the hub's answer: the hash is in the redirect, and the target has another ETag.
      self.send_response(302)
      self.send_header("X-Linked-ETag", f'"{SHA256 if self.path == "/hub-good" else "0" * 64}"')
      self.send_header("Location", "/storage")
      return self.end_headers()
    self.send_response(200)
    if self.path != "/endless":
      self.send_header("Content-Length", str(len(DATA)))
    if self.path == "/storage":
      self.send_header("ETag", f'"{"1" * 64}"')
    self.end_headers()
    if self.path == "/together":
      both_are_here.wait(timeout=20)
    self.wfile.write(DATA[: len(DATA) // 2] if self.path == "/short" else DATA)

  def log_message(self, *args):
    pass


@pytest.fixture(scope="module")
def server():
  with serving(Handler) as address:
    yield address


@pytest.fixture(autouse=True)
def without_proxy(no_proxy):
  pass


@pytest.mark.parametrize(
  "page, sha256",
  [
    *((page, hash) for page in ("whole", "endless") for hash in (SHA256, SHA256[:8].upper())),
    ("hub-good", None),
    ("hub-good", SHA256),
  ],
)
def test_a_whole_file_arrives_and_leaves_nothing_else(server, tmp_path, page, sha256):
  target = tmp_path / "new folder" / "file.bin"
  assert download(f"{server}/{page}", target, sha256=sha256) == SHA256
  assert target.read_bytes() == DATA
  assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize(
  "page, sha256, message",
  [
    ("short", None, f"after {len(DATA) // 2} of {len(DATA)} bytes"),
    ("missing", None, "answered 404"),
    ("whole", "0123abcd", f"wrong sha256: {SHA256}, expected 0123abcd"),
    ("hub-bad", None, "announced by the server 0000"),
    ("hub-bad", SHA256, "announced by the server 0000"),
  ],
)
def test_a_failure_says_why_and_keeps_what_was_there(server, tmp_path, page, sha256, message):
  target = tmp_path / "file.bin"
  target.write_bytes(b"old")
  with pytest.raises(DownloadError, match=message):
    download(f"{server}/{page}", target, sha256=sha256)
  assert target.read_bytes() == b"old"
  assert list(tmp_path.iterdir()) == [target]


def test_no_connection_is_a_download_error(tmp_path):
  with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as closed:
    port = closed.server_port
  with pytest.raises(DownloadError, match="no connection"):
    download(f"http://127.0.0.1:{port}/whole", tmp_path / "file.bin")
  assert not list(tmp_path.iterdir())


def test_a_server_that_stops_answering_times_out(tmp_path, monkeypatch):
  release = threading.Event()

  class Silent(Handler):
    def do_GET(self):
      self.send_response(200)
      self.send_header("Content-Length", "100")
      self.end_headers()
      self.wfile.write(b"begin")
      self.wfile.flush()
      release.wait(10)

  monkeypatch.setattr(module, "TIMEOUT_SECONDS", 0.2)
  with ThreadingHTTPServer(("127.0.0.1", 0), Silent) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with pytest.raises(DownloadError, match="timed out"):
      download(f"http://127.0.0.1:{server.server_port}/", tmp_path / "file.bin")
    release.set()
    server.shutdown()
  assert not list(tmp_path.iterdir())


def test_ctrl_c_leaves_no_partial_file(server, tmp_path, monkeypatch):
  class Interrupted(module.Bar):
    def update(self, n=1):
      raise KeyboardInterrupt

  monkeypatch.setattr(module, "Bar", Interrupted)
  with pytest.raises(KeyboardInterrupt):
    download(f"{server}/whole", tmp_path / "file.bin")
  assert not list(tmp_path.iterdir())


def test_two_processes_download_the_same_file_at_once(server, tmp_path):
  code = (
    "import sys; from adaconv_jax.vgg.download import download;"
    "download(*sys.argv[1:3], sha256=sys.argv[3])"
  )
  target = tmp_path / "file.bin"
  command = [sys.executable, "-c", code, f"{server}/together", str(target), SHA256]
  processes = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(2)]
  for process in processes:
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr.decode()
  assert target.read_bytes() == DATA
  assert list(tmp_path.iterdir()) == [target]


def test_a_redirect_from_https_to_http_is_refused():
  request = urllib.request.Request("https://example.org/file")
  location = "http://example.org/file"
  with pytest.raises(DownloadError, match="from https to http://"):
    module._Redirects().redirect_request(request, io.BytesIO(), 302, "", Message(), location)
