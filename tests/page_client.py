"""What the page's own script does, with nothing but HTTP."""

import json
import re
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import processes
from PIL import Image

# Notes every address that the process connects to or looks up in the file of its first argument.
NOTING = """
import sys
log = open(sys.argv.pop(1), "a", buffering=1)
def hook(event, arguments):
  if event == "socket.connect":
    log.write(f"{arguments[1][0]}\\n")
  elif event == "socket.getaddrinfo":
    log.write(f"{arguments[0]}\\n")
sys.addaudithook(hook)
from adaconv_jax.cli.main import cli
cli()
"""


def start(*options: object, log: Path | None = None) -> "Client":
  """Starts `adaconv web`, and waits until it listens.

  Args:
    *options: of the command.
    log: a file that gets every host that the server connects to.
  """
  port = processes.free_address().partition(":")[2]
  program = ["-m", "adaconv_jax"] if log is None else ["-c", NOTING, log]
  process = processes.start(*program, "web", "--port", port, *options)
  processes.read_until(process, "the page is at")
  return Client(process, f"http://127.0.0.1:{port}")


class Client:
  """One page, opened by any number of users.

  Attributes:
    process: the server.
    url: its address, without a slash.
  """

  def __init__(self, process: Any, url: str):
    self.process, self.url = process, url
    self.config = json.loads(self.get("/config"))
    self._parts = {part["id"]: part for part in self.config["components"]}
    events = self.config["dependencies"]
    # The one with all controls is that of the button.
    self._paint = max(range(len(events)), key=lambda index: len(events[index]["inputs"]))
    self._inputs = [self._parts[number] for number in events[self._paint]["inputs"]]

  def end(self) -> None:
    """Ends the server as a user does, so that it deletes its files."""
    self.process.terminate()
    self.process.wait(timeout=60)

  def get(self, path: str) -> bytes:
    """Returns what is at a path."""
    return _ask(self.url + path)

  def upload(self, data: bytes, name: str) -> dict[str, Any]:
    """Uploads a file, and returns what the page sends for it."""
    (path,) = json.loads(self._send("/gradio_api/upload", "files", name, data, {}))
    return file_at(path, name)

  def draw(self, data: bytes, picture: str, *, kind: str = "layer", index: str = "0") -> None:
    """Sends a part of what is painted with the brush, as the editor does before the button.

    Args:
      data: the file.
      picture: what the button calls the whole.
      kind: "layer", "background" or "composite".
      index: of a layer.
    """
    (brush,) = (part["id"] for part in self._inputs if part["props"].get("elem_id") == "brush")
    fields = {"type": kind, "index": index, "id": picture}
    fields |= {"fn_name": "accept_blobs", "component_id": brush, "session_hash": uuid.uuid4().hex}
    self._send("/gradio_api/component_server", "file", "layer.png", data, fields)

  def _send(self, path: str, key: str, name: str, data: bytes, fields: dict[str, Any]) -> bytes:
    mark = uuid.uuid4().hex
    parts = [
      f'--{mark}\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n{value}\r\n'
      for field, value in fields.items()
    ]
    head = f'--{mark}\r\nContent-Disposition: form-data; name="{key}"; filename="{name}"\r\n\r\n'
    request = urllib.request.Request(
      f"{self.url}{path}",
      "".join([*parts, head]).encode() + data + f"\r\n--{mark}--\r\n".encode(),
      {"Content-Type": f"multipart/form-data; boundary={mark}"},
    )
    return _ask(request)

  def join(self, **values: Any) -> tuple[str, str]:
    """Presses the button, and returns the name of the session and the answer.

    Args:
      **values: of controls, by their ids in the page, or by their labels with _ for spaces.
    """
    data = []
    for part in self._inputs:
      props = part["props"]
      keys = [str(props.get("elem_id")), str(props.get("label")).split(":")[0].replace(" ", "_")]
      value = next((values[key] for key in keys if key in values), props.get("value"))
      data.append(value)
    session = uuid.uuid4().hex
    body = {"data": data, "fn_index": self._paint, "session_hash": session}
    request = urllib.request.Request(
      f"{self.url}/gradio_api/queue/join",
      json.dumps(body).encode(),
      {"Content-Type": "application/json"},
    )
    try:
      return session, _ask(request).decode()
    except Refused as refused:
      return session, str(refused)

  def paint(self, **values: Any) -> str:
    """Presses the button, and returns all that the server says until it is done; see `join`."""
    session, answer = self.join(**values)
    if '"event_id"' not in answer:  # it was not queued
      return answer
    said = []
    with urllib.request.urlopen(
      f"{self.url}/gradio_api/queue/data?session_hash={session}", timeout=300
    ) as answer:
      for line in answer:
        said.append(line.decode())
        if '"process_completed"' in said[-1] or '"close_stream"' in said[-1]:
          break
    return "".join(said)

  def picture(self, said: str, suffix: str = ".png") -> np.ndarray:
    """Downloads the result that the server has named."""
    found = re.findall(r'"path": ?"([^"]+' + re.escape(suffix) + ")", said)
    assert found, said[-2000:]
    with urllib.request.urlopen(f"{self.url}/gradio_api/file={found[-1]}", timeout=60) as answer:
      return np.asarray(Image.open(answer))


class Refused(Exception):
  """The server has refused a request; the message is its answer.

  Attributes:
    code: HTTP's.
  """

  def __init__(self, code: int, answer: str):
    super().__init__(answer)
    self.code = code


def _ask(request: str | urllib.request.Request) -> bytes:
  try:
    with urllib.request.urlopen(request, timeout=120) as answer:
      return answer.read()
  except urllib.error.HTTPError as error:
    with error:
      raise Refused(error.code, error.read().decode(errors="replace")) from None


def file_at(path: str, name: str) -> dict[str, Any]:
  """What the page sends for a file."""
  return {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}
