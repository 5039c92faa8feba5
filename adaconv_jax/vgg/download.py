"""Downloads a file over HTTPS and checks it before it gets its final name.

A file whose hash is not known is refused. Every transfer ends, whatever the server does, and a
killed process leaves nothing, because its data are in a file without a name.
"""

import hashlib
import http.client
import re
import shutil
import ssl
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO

from adaconv_jax.bars import Bar
from adaconv_jax.files import MAX_WEIGHTS_BYTES, replacing

_BROKEN = (
  urllib.error.URLError,
  http.client.HTTPException,
  ssl.SSLError,
  ConnectionError,
  TimeoutError,
)
CHUNK_BYTES = 1 << 20
TIMEOUT_SECONDS = 30  # without a byte
# Limit of a whole transfer; VGG-19 takes that long at 80 kB per second.
MAX_SECONDS = 7200
# After this time, the mean rate must be at least the following.
GRACE_SECONDS = 60
LEAST_BYTES_PER_SECOND = 10_000
MAX_BYTES = MAX_WEIGHTS_BYTES


class DownloadError(RuntimeError):
  """The file could not be downloaded completely, or has the wrong hash."""


class _Redirects(urllib.request.HTTPRedirectHandler):
  """Follows redirects, but never from https to http, and keeps the hash that a hub sends with one.

  Hugging Face answers with a redirect to a storage server, and only that answer has the sha256 of
  the file, as `X-Linked-ETag`. (The storage server's own ETag may look like a sha256, but is not.)
  """

  def __init__(self):
    self.sha256: str | None = None

  def note(self, headers) -> None:
    """Keeps the sha256 in `headers`, if there is one."""
    etag = (headers.get("X-Linked-ETag") or "").removeprefix("W/").strip('"').lower()
    if re.fullmatch("[0-9a-f]{64}", etag):
      self.sha256 = etag

  def redirect_request(self, req, fp, code, msg, headers, newurl):
    if req.full_url.startswith("https:") and not newurl.startswith("https:"):
      raise DownloadError(f"redirected from https to {newurl}")
    self.note(headers)
    return super().redirect_request(req, fp, code, msg, headers, newurl)


def download(url: str, target: str | Path, *, sha256: str | None = None) -> str:
  """Downloads `url` to `target`, with a progress bar; see `download_into`.

  Until the whole file is received and checked, an existing `target` is unchanged. Two processes may
  download the same file at once, and one that is killed leaves nothing.

  Args:
    url: what to download.
    target: the file's name; its folder is created.
    sha256: the hash or its beginning.

  Returns:
    The sha256 of the file.

  Raises:
    DownloadError: see `download_into`.
    OSError: the file cannot be written.
  """
  target = Path(target)
  target.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryFile(dir=target.parent) as file:
    actual = download_into(file, url, name=target.name, sha256=sha256)
    file.seek(0)
    with replacing(target) as temporary, open(temporary, "xb") as copy:
      shutil.copyfileobj(file, copy, CHUNK_BYTES)
  return actual


def download_into(file: IO[bytes], url: str, *, name: str, sha256: str | None = None) -> str:
  """Downloads `url` to an open file, which may have no name, with a progress bar.

  Args:
    file: the file to write to.
    url: what to download.
    name: what the progress bar shows.
    sha256: the hash or its beginning, in hexadecimal. A hash that the server sends (see
      `_Redirects`) is checked too. One of the two is needed.

  Returns:
    The sha256 of the data.

  Raises:
    DownloadError: no connection, an HTTP error, an interrupted, endless or slow transfer, a wrong
      hash, or no hash to compare with.
    OSError: the file cannot be written.
  """
  actual, sent = _transfer(url, file, name)
  for expected, origin in ((sha256, "expected"), (sent, "announced by the server")):
    if expected and not actual.startswith(expected.lower()):
      raise DownloadError(f"wrong sha256: {actual}, {origin} {expected}")
  if not sha256 and not sent:
    raise DownloadError(
      f"its sha256 is not known and the server sends none, so a damaged file would not be noticed "
      f"(this one has {actual}); download it yourself"
    )
  return actual


class _Transfer:
  """State that the receiving thread shares with the waiting one."""

  def __init__(self):
    self.received = 0
    self.given_up = False
    self.result: tuple[str, str | None] | None = None
    self.error: BaseException | None = None


def _transfer(url: str, file: IO[bytes], name: str) -> tuple[str, str | None]:
  """Writes `url` to `file`; returns its sha256 and the one that the server sent, if any."""
  state = _Transfer()

  def receive() -> None:
    try:
      state.result = _receive(url, file, name, state)
    except BaseException as error:
      state.error = error

  # A thread, because a socket's timeout does not bound a whole transfer: a server that sends a byte
  # now and then, even in its headers, never exceeds it. If given up, it ends with the process.
  thread = threading.Thread(target=receive, daemon=True)
  started = time.monotonic()
  thread.start()
  try:
    while thread.is_alive():
      thread.join(0.1)
      seconds = time.monotonic() - started
      if seconds > MAX_SECONDS or (
        seconds > GRACE_SECONDS and state.received < seconds * LEAST_BYTES_PER_SECOND
      ):
        raise DownloadError(
          f"too slow: only {state.received} bytes in {seconds:.0f} seconds; try again"
        )
  finally:
    state.given_up = True
  if state.error is not None:
    raise state.error
  assert state.result is not None
  return state.result


def _receive(url: str, file: IO[bytes], name: str, state: _Transfer) -> tuple[str, str | None]:
  redirects = _Redirects()
  request = urllib.request.Request(url, headers={"User-Agent": "adaconv_jax"})
  digest = hashlib.sha256()
  try:
    opener = urllib.request.build_opener(redirects)
    with opener.open(request, timeout=TIMEOUT_SECONDS) as response:
      redirects.note(response.headers)
      length = _length(response.headers.get("Content-Length"))
      with Bar(total=length or None, unit="B", unit_scale=True, desc=name) as progress:
        # `read1` returns what has been received; `read` would wait for a whole chunk.
        while not state.given_up and (chunk := response.read1(CHUNK_BYTES)):
          state.received += len(chunk)
          if state.received > MAX_BYTES:
            raise DownloadError(f"expected at most {MAX_BYTES} bytes, got more")
          file.write(chunk)
          digest.update(chunk)
          progress.update(len(chunk))
  except urllib.error.HTTPError as error:
    error.close()
    raise DownloadError(f"the server answered {error.code} {error.reason}") from error
  except _BROKEN as error:
    raise DownloadError(
      f"no connection, or it broke after {state.received} bytes ({error}); try again"
    ) from error
  # If the connection ends too early, http.client returns what it has, without an error.
  if state.received < length:
    raise DownloadError(f"the transfer ended after {state.received} of {length} bytes; try again")
  file.flush()
  return digest.hexdigest(), redirects.sha256


def _length(header: str | None) -> int:
  """Returns the number of bytes that a server announces; 0 if it does not."""
  if header is None or not header.strip().isdecimal() or len(header) > 18:
    return 0
  if int(header) > MAX_BYTES:
    raise DownloadError(f"expected at most {MAX_BYTES} bytes, got {header}")
  return int(header)
