"""The layer of the page's server that takes out Gradio's preview cards."""

import asyncio

import pytest

from adaconv_jax.web.head import NoCards

PAGE = b"""<head><meta charset="utf-8" />
<meta property="og:title" content="Gradio" />
<meta
  property="og:image"
  content="https://example.com/header.jpg"
/>
<meta content="x" name='twitter:card'>
<meta name="viewport" content="width=device-width" /></head>"""
LEFT = b"""<head><meta charset="utf-8" />
<meta name="viewport" content="width=device-width" /></head>"""


def answer(kind: bytes, *parts: bytes):
  """The headers and the parts that arrive, of a server that answers so."""

  async def app(scope, receive, send):
    length = str(sum(map(len, parts))).encode()
    headers = [(b"content-type", kind), (b"content-length", length)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for part in parts:
      await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body"})

  sent = []

  async def receive():
    return {"type": "http.request"}

  async def send(message):
    sent.append(message)

  asyncio.run(NoCards(app)({"type": "http"}, receive, send))
  return dict(sent[0]["headers"]), [message.get("body", b"") for message in sent[1:]]


@pytest.mark.parametrize("at", [len(PAGE), 60, 130])
def test_html_loses_the_cards_and_nothing_else_however_it_is_cut(at):
  headers, parts = answer(b"text/html; charset=utf-8", PAGE[:at], PAGE[at:])
  assert b"".join(parts) == LEFT
  assert headers[b"content-length"] == str(len(LEFT)).encode()


def test_what_is_not_html_goes_on_part_by_part():
  headers, parts = answer(b"text/event-stream", PAGE, b"more")
  assert parts == [PAGE, b"more", b""]
  assert headers[b"content-length"] == str(len(PAGE) + 4).encode()
