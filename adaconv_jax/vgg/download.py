"""Downloads a file over HTTPS and checks it, so that a broken one never gets its final name."""

import hashlib
import http.client
import re
import ssl
import urllib.error
import urllib.request
from pathlib import Path

from tqdm import tqdm

from adaconv_jax.files import replacing

_BROKEN = (
  urllib.error.URLError,
  http.client.HTTPException,
  ssl.SSLError,
  ConnectionError,
  TimeoutError,
)
CHUNK_BYTES = 1 << 20
TIMEOUT_SECONDS = 30


class DownloadError(RuntimeError):
  """The file could not be fetched whole, or is not the one it should be."""


class _Redirects(urllib.request.HTTPRedirectHandler):
  """Follows redirects, never from https to http, and keeps the hash that a hub sends with one.

  Hugging Face answers with a redirect to a storage server, and only that answer has the sha256 of
  the file, as `X-Linked-ETag`. (The storage server's own ETag may look like a sha256 and is not.)
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
  """Downloads `url` to `target`, with a progress bar.

  The data go to a temporary name beside `target`, are checked (length, sha256) and then renamed,
  so two processes may download the same file at once, and what stands at `target` stays as it is
  until then.

  Args:
    url: what to download.
    target: the file's name; its folder is made.
    sha256: the hash or its beginning, in hexadecimal. A hash that the server sends (see
      `_Redirects`) is checked as well.

  Returns:
    The sha256 of the file.

  Raises:
    DownloadError: no connection, an HTTP error, an interrupted transfer, or a wrong hash.
    OSError: the file cannot be written.
  """
  with replacing(target) as temporary:
    actual, sent = _transfer(url, temporary, Path(target).name)
    for expected, origin in ((sha256, "expected"), (sent, "announced by the server")):
      if expected and not actual.startswith(expected.lower()):
        raise DownloadError(f"wrong sha256: {actual}, {origin} {expected}")
  return actual


def _transfer(url: str, temporary: Path, name: str) -> tuple[str, str | None]:
  """Writes `url` to `temporary`; returns its sha256 and the one that the server sent, if any."""
  redirects = _Redirects()
  request = urllib.request.Request(url, headers={"User-Agent": "adaconv_jax"})
  digest, received = hashlib.sha256(), 0
  with open(temporary, "xb") as file:
    try:
      opener = urllib.request.build_opener(redirects)
      with opener.open(request, timeout=TIMEOUT_SECONDS) as response:
        redirects.note(response.headers)
        length = int(response.headers.get("Content-Length") or 0)
        with tqdm(total=length or None, unit="B", unit_scale=True, desc=name) as progress:
          while chunk := response.read(CHUNK_BYTES):
            file.write(chunk)
            digest.update(chunk)
            received += len(chunk)
            progress.update(len(chunk))
    except urllib.error.HTTPError as error:
      error.close()
      raise DownloadError(f"the server answered {error.code} {error.reason}") from error
    except _BROKEN as error:
      raise DownloadError(
        f"no connection, or it broke after {received} bytes ({error}); try again"
      ) from error
  # http.client returns what it has, without an error, when the connection ends too early.
  if received < length:
    raise DownloadError(f"the transfer ended after {received} of {length} bytes; try again")
  return digest.hexdigest(), redirects.sha256
