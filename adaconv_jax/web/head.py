"""The page without the preview cards of Gradio, which name Gradio and a picture on another host."""

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Callable[[], Awaitable[Message]], Send], Awaitable[None]]

# What Open Graph and Twitter read. If Gradio writes others one day, they stay, and nothing breaks.
CARD = re.compile(rb"""<meta\s[^>]*\b(?:property|name)\s*=\s*["'](?:og|twitter):[^>]*>\s*""", re.I)


class NoCards:
  """A layer of the server that takes the tags of preview cards out of what is HTML.

  Args:
    app: the server below, by the protocol ASGI.
  """

  def __init__(self, app: App):
    self._app = app

  async def __call__(
    self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Send
  ) -> None:
    """Answers a request; all but HTML goes on as it comes."""
    start: Message | None = None
    body = b""

    async def without_cards(message: Message) -> None:
      nonlocal start, body
      if message["type"] == "http.response.start" and _is_html(message["headers"]):
        start = message
      elif start is None or message["type"] != "http.response.body":
        await send(message)
      else:
        body += message.get("body", b"")
        if not message.get("more_body"):
          body = CARD.sub(b"", body)
          length = (b"content-length", str(len(body)).encode())
          others = [pair for pair in start["headers"] if pair[0].lower() != length[0]]
          await send({**start, "headers": [*others, length]})
          await send({"type": "http.response.body", "body": body})

    await self._app(scope, receive, without_cards)


def _is_html(headers: list[tuple[bytes, bytes]]) -> bool:
  given = {name.lower(): value for name, value in headers}
  return given.get(b"content-type", b"").startswith(b"text/html")
