"""A Cloud Storage emulator on this machine, with requests that can be counted and made to fail.

As a program, `python tests/buckets.py` starts it, and prints what to give to the shell in which
commands are to find it. Ctrl-C ends it.
"""

import contextlib
import io
import json
import os
import re
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

import pytest

# The emulator has no such interface, for which gcsfs would look for credentials at every request.
# It is read when gcsfs is imported.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")

BUCKET = "runs"
# Faults of the connection, beside answers with a status: it ends before the request is done, after
# that without an answer, or in the middle of the answer.
CUT, LOST, HALF = -1, -2, -3


class Bucket:
  """A bucket of the emulator.

  Attributes:
    url: the emulator's address.
    requests: method and path of every request.
    fault: called with method and path before each request; a status that it returns is the answer,
      and `CUT`, `LOST` or `HALF` is what becomes of it.
    stopped: within it nothing listens at the address; after it the bucket is as it was.
  """

  stopped: Callable[[], contextlib.AbstractContextManager[None]]

  def __init__(self, url: str):
    self.url = url
    self.requests: list[tuple[str, str]] = []
    self.fault: Callable[[str, str], int | None] = lambda method, path: None

  @property
  def environment(self) -> dict[str, str]:
    """What clients need to find it."""
    return {
      "STORAGE_EMULATOR_HOST": self.url,
      "TENSORSTORE_GCS_HTTP_URL": self.url,
      "CLOUD_STORAGE_EMULATOR_ENDPOINT": self.url,  # array_record's reader
      "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
      "NO_PROXY": "127.0.0.1",
      "no_proxy": "127.0.0.1",
    }

  @contextlib.contextmanager
  def failing(self, status: int, *, seconds: float = 1e9, only: str = "") -> Iterator[None]:
    """Answers with `status` for some seconds, where method and path contain `only`."""
    until = time.monotonic() + seconds
    self.fault = lambda method, path: (
      status if time.monotonic() < until and only in f"{method} {path}" else None
    )
    try:
      yield
    finally:
      self.fault = lambda method, path: None


@contextlib.contextmanager
def emulator() -> Iterator[Bucket]:
  """Starts the emulator with the empty bucket `BUCKET`, in memory."""
  server_module: Any = pytest.importorskip(
    "gcp_storage_emulator.server", reason="needs gcp-storage-emulator"
  )
  pytest.importorskip("gcsfs", reason="needs gcsfs")
  bucket = Bucket("")

  # Answers about parts of uploads that did not arrive. Cloud Storage repeats them, and the emulator
  # forgets an upload that is complete.
  lost: dict[str, bytes] = {}

  class OnlyNew:
    """The emulator's storage, with the condition of an upload, which the emulator ignores."""

    def __init__(self, storage):
      self._storage = storage

    def __getattr__(self, name):
      return getattr(self._storage, name)

    def create_file(self, bucket_name, name, *args):
      if name in self._storage.objects.get(bucket_name, {}):
        raise FileExistsError
      return self._storage.create_file(bucket_name, name, *args)

  class Router(server_module.Router):
    def handle(self, method):
      handler = self._request_handler
      bucket.requests.append((method, handler.path))
      status = bucket.fault(method, handler.path)
      # A client that was killed, or does not want the rest.
      with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        if handler.path in lost:
          handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
          handler.wfile.write(lost.pop(handler.path))
          return None
        if status in (LOST, HALF):
          return self._cut_off(method, whole=status == LOST)
        if status is not None:
          handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
          return None if status == CUT else self._answer(status)
        return self._do(method)
      return None

    def _cut_off(self, method, *, whole):
      """Does what is asked, and ends the connection before its answer or half way."""
      handler = self._request_handler
      stream, handler.wfile = handler.wfile, io.BytesIO()
      try:
        self._do(method)
        answer = handler.wfile.getvalue()
      finally:
        handler.wfile = stream
      if "upload_id=" in handler.path:
        lost[handler.path] = answer
      head = answer.find(b"\r\n\r\n") + 4
      stream.write(b"" if whole else answer[: (head + len(answer)) // 2])

    def _do(self, method):
      handler = self._request_handler
      if method == "DELETE" and "upload_id=" in handler.path:  # which the emulator does not know
        return self._answer(200)
      self._spell_out_range()
      if "ifGenerationMatch=0" in handler.path:
        handler.storage = OnlyNew(handler.storage)
      try:
        return super().handle(method)
      except FileExistsError:
        return self._answer(412)

    def _answer(self, status):
      handler = self._request_handler
      answer = json.dumps({"error": {"code": status, "message": "made to fail"}}).encode()
      handler.send_response(status)
      handler.send_header("Content-Length", str(len(answer)))
      handler.end_headers()
      handler.wfile.write(answer)

    def _spell_out_range(self):
      """The emulator does not know "the last n bytes", which array_record asks for."""
      handler = self._request_handler
      asked = re.fullmatch(r"bytes=-(\d+)", handler.headers.get("Range") or "")
      place = re.search(r"/b/([^/]+)/o/([^?]+)", handler.path)
      if asked and place:
        data = handler.storage.get_file(place[1], urllib.parse.unquote(place[2]))
        del handler.headers["Range"]
        handler.headers["Range"] = f"bytes={max(0, len(data) - int(asked[1]))}-"

  class Handler(server_module.RequestHandler):
    def log_message(self, *_):
      pass

    def end_headers(self):
      """The emulator leaves out the version of an object that is read.

      Without it, TensorStore cannot write an index twice, which it does in large checkpoints.
      """
      found = re.search(r"/b/([^/]+)/o/([^/?]+)\?(?:.*&)?alt=media(?:&|$)", self.path)
      if self.command == "GET" and found:
        objects = self.storage.objects.get(found[1], {})
        version = objects.get(urllib.parse.unquote(found[2]), {}).get("generation")
        if version is not None:
          self.send_header("x-goog-generation", version)
      super().end_headers()

  read_data = server_module._read_data

  def read_upload(handler, query):
    """The emulator takes an upload apart as e-mail, which drops a carriage return at its end."""
    kind = handler.headers.get("Content-Type") or ""
    boundary = re.search(r'boundary="?([^";]+)', kind)
    if boundary is None or not kind.startswith("multipart/related"):
      return read_data(handler, query)
    # gcsfs ends its lines with a line feed only.
    mark = f"--{boundary[1]}".encode()
    raw = server_module._read_raw_data(handler)
    _, meta, upload = raw.rpartition(b"\n" + mark)[0].split(mark, 2)
    header, _, content = upload.partition(b"\n\n")
    return {
      "meta": json.loads(meta.partition(b"\n\n")[2]),
      "content": content,
      "content-type": header.partition(b":")[2].strip().decode(),
    }

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(server_module, "_read_data", read_upload)
    patch.setattr(server_module, "Router", Router)
    patch.setattr(server_module, "RequestHandler", Handler)
    server = server_module.create_server("127.0.0.1", 0, True, default_bucket=BUCKET)
    server.start()
    port = server._api._httpd.server_port
    bucket.url = f"http://127.0.0.1:{port}"

    @contextlib.contextmanager
    def stopped() -> Iterator[None]:
      server.stop()
      try:
        yield
      finally:
        server._api = server_module.APIThread("127.0.0.1", port, server._storage)
        server.start()

    bucket.stopped = stopped
    try:
      yield bucket
    finally:
      server.stop()


@contextlib.contextmanager
def in_environment(bucket: Bucket) -> Iterator[None]:
  """Points this process at the emulator."""
  import fsspec.config
  import gcsfs  # pyright: ignore[reportMissingImports]
  from etils.epath.backend import fsspec_backend

  def forget():
    gcsfs.GCSFileSystem.clear_instance_cache()
    fsspec.config.conf.pop("gcs", None)
    type(fsspec_backend)._get_filesystem.cache_clear()  # the file system of epath, and so of Orbax

  before = dict(os.environ)
  os.environ.update(bucket.environment)
  forget()
  try:
    yield
  finally:
    os.environ.clear()
    os.environ.update(before)
    forget()


def main() -> None:
  """Starts the emulator, and prints the environment for its clients."""
  with emulator() as bucket, contextlib.suppress(KeyboardInterrupt):
    for name, value in bucket.environment.items():
      print(f"export {name}={value}")
    print(f"# gs://{BUCKET} is empty, in memory, and gone after Ctrl-C", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
  main()
