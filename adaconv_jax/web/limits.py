"""Bounds of requests that Gradio leaves open: how much one may send, and what is not offered."""

from collections.abc import Awaitable, Callable

from adaconv_jax.web.head import App, Message, Send

# Gradio edits videos that anybody sends, with ffmpeg, beside the queue and without an end.
CLOSED = ("/process_recording",)


class Limits:
  """A layer of the server that refuses requests with too much in them.

  Gradio bounds the files of an upload, one by one. It reads all other requests into memory whole.

  Args:
    app: the server below, by the protocol ASGI.
    most: bytes of a request's body.
  """

  def __init__(self, app: App, most: int):
    self._app, self._most = app, most

  async def __call__(
    self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Send
  ) -> None:
    """Answers a request."""
    if scope["type"] != "http":
      return await self._app(scope, receive, send)
    if scope["path"].rstrip("/").endswith(CLOSED):
      return await _answer(send, 404, b"Not found.")
    announced = dict(scope["headers"]).get(b"content-length", b"0")
    if announced.isdigit() and int(announced) > self._most:
      return await _answer(send, 413, b"The request is too large.")
    room, started = self._most, False

    async def bounded() -> Message:
      nonlocal room
      message = await receive()
      room -= len(message.get("body", b""))
      if room < 0:
        raise _TooLarge
      return message

    async def noted(message: Message) -> None:
      nonlocal started
      started = True
      await send(message)

    try:
      await self._app(scope, bounded, noted)
    except _TooLarge:
      if not started:
        await _answer(send, 413, b"The request is too large.")


class _TooLarge(Exception):
  """A request without a length has more than it may."""


async def _answer(send: Send, status: int, text: bytes) -> None:
  headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(text)).encode())]
  await send({"type": "http.response.start", "status": status, "headers": headers})
  await send({"type": "http.response.body", "body": text})
