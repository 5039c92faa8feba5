"""The layer of the page's server that bounds requests."""

import asyncio

import pytest

from adaconv_jax.web.limits import Limits


def ask(parts, *, most=100, path="/upload", length=None):
  """Returns the status of a request, and how many bytes the server below has read of it."""
  read = 0
  rest = [*parts]

  async def app(scope, receive, send):
    nonlocal read
    more = True
    while more:
      message = await receive()
      read += len(message["body"])
      more = message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body"})

  sent = []

  async def receive():
    part = rest.pop(0)
    return {"type": "http.request", "body": part, "more_body": bool(rest)}

  async def send(message):
    sent.append(message)

  headers = [] if length is None else [(b"content-length", str(length).encode())]
  scope = {"type": "http", "path": path, "headers": headers}
  asyncio.run(Limits(app, most)(scope, receive, send))
  return sent[0]["status"], read


def test_a_request_of_the_limit_arrives_whole():
  assert ask([bytes(60), bytes(40)], length=100) == (200, 100)


def test_a_larger_one_is_refused_before_any_of_it_is_read():
  assert ask([bytes(60), bytes(41)], length=101) == (413, 0)


@pytest.mark.parametrize("length", [None, 10])
def test_one_that_does_not_say_its_length_is_refused_where_it_exceeds_the_limit(length):
  assert ask([bytes(60), bytes(41), bytes(1000)], length=length) == (413, 60)


@pytest.mark.parametrize("path", ["/gradio_api/process_recording", "/process_recording/"])
def test_videos_are_not_edited(path):
  assert ask([b"video"], path=path) == (404, 0)
