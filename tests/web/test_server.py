"""`adaconv web` as a program: requests as the page makes them."""

import io
import re
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import page_client
import processes
import pytest
from local_server import serving
from PIL import Image
from small_models import small_stylizer

from adaconv_jax import save_bundle
from adaconv_jax.web import work

pytest.importorskip("gradio", reason="the page needs Gradio")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  path = tmp_path_factory.mktemp("models") / "small.safetensors"
  save_bundle(small_stylizer("adain"), path)
  return path


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
  """A file with the hosts that the server has connected to."""
  return tmp_path_factory.mktemp("log") / "hosts"


@pytest.fixture(scope="module")
def page(model, hosts):
  client = page_client.start("--model", model, log=hosts)
  yield client
  client.end()


def photo(seed: int, height: int = 40, width: int = 56) -> tuple[bytes, np.ndarray]:
  pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, "PNG")
  return file.getvalue(), pixels


def test_an_upload_at_strength_0_comes_back_as_it_was(page):
  data, pixels = photo(0)
  said = page.paint(upload=page.upload(data, "mine.png"), Strength=0)
  assert "Done in" in said and "56 x 40 pixels" in said
  assert np.array_equal(page.picture(said), pixels)
  jpeg = page.picture(said, ".jpg").astype(int)
  assert jpeg.shape == pixels.shape and np.abs(jpeg - pixels).mean() < 8


def test_an_example_is_painted_in_a_style_of_ones_own(page):
  data, _ = photo(1)
  said = page.paint(contents="cat", **{"own-style": page.upload(data, "mine.png")})
  with Image.open(work.examples("content")["cat"]) as cat:
    width, height = cat.size
  scale = min(512 / min(width, height), 1)
  assert page.picture(said).shape == (round(height * scale), round(width * scale), 3)


def test_a_mix_is_saved_with_the_names_of_both_styles(page):
  data, _ = photo(1)
  upload = page.upload(data, "mine.png")
  said = page.paint(upload=upload, styles="night", seconds="ink", Share_of_the_second_style=0.5)
  assert "mine--night+ink.png" in said
  said = page.paint(upload=upload, styles="night", seconds="ink", Share_of_the_second_style=0)
  assert "mine--night.png" in said


def test_two_users_at_once_get_their_own_pictures(page):
  got = {}

  def use(seed: int) -> None:
    data, pixels = photo(seed, 40 + seed, 56)
    said = page.paint(upload=page.upload(data, f"{seed}.png"), Strength=0)
    got[seed] = np.array_equal(page.picture(said), pixels)

  users = [threading.Thread(target=use, args=(seed,)) for seed in (2, 3, 4)]
  for user in users:
    user.start()
  for user in users:
    user.join(120)
  assert got == {2: True, 3: True, 4: True}


@pytest.mark.parametrize(
  "data, message",
  [(b"hello", "not an image"), (b"", "not an image"), (photo(0)[0][:200], "truncated or corrupt")],
)
def test_a_bad_file_is_a_message_and_the_page_goes_on(page, data, message):
  said = page.paint(upload=page.upload(data, "bad.png"))
  assert "Your picture: " in said and message in said
  assert "Traceback" not in said
  data, _ = photo(5)
  assert "Done in" in page.paint(upload=page.upload(data, "good.png"))


def test_when_too_many_wait_the_next_one_gets_a_message_and_the_page_goes_on(page):
  data, _ = photo(6, 90, 90)  # of another size, which is compiled first
  file = page.upload(data, "mine.png")
  answers = [page.join(upload=file)[1] for _ in range(40)]
  assert any("Queue is full" in answer for answer in answers)
  assert "Queue is full" not in answers[0]
  deadline = time.monotonic() + 240
  while "Done in" not in page.paint(upload=file):  # the last in the queue, so it is empty then
    assert time.monotonic() < deadline
    time.sleep(0.5)


def test_a_file_over_the_limit_is_refused_while_it_is_uploaded(page):
  with pytest.raises(page_client.Refused) as refused:
    page.upload(bytes(work.MAX_UPLOAD_BYTES + 1), "large.png")
  assert refused.value.code == 413


def test_no_file_of_the_machine_can_be_asked_for(page, model):
  said = page.paint(upload=page_client.file_at(str(model), "a.png"))
  # It may have waited in the queue before it was refused.
  assert '"success":false' in said.replace(" ", "") and "not uploaded by a user" in said
  assert "Done in" not in said
  with pytest.raises(page_client.Refused) as refused:
    page.get(f"/gradio_api/file={model}")
  assert refused.value.code in (403, 404)


@pytest.mark.parametrize("part", ["upload", "own-style", "own-second"])
@pytest.mark.parametrize("further", [{}, {"meta": {}}, {"meta": {"_type": "other"}}])
def test_a_picture_of_the_machine_is_not_read_if_it_is_not_called_a_file(page, part, further):
  path = str(work.examples("content")["cat"])
  said = page.paint(**{part: {"path": path, **further}}, Strength=0)
  assert "not uploaded by a user" in said and "Done in" not in said


@pytest.mark.parametrize(
  "values, message",
  [
    ({"Strength": float("nan")}, "alpha: expected"),
    ({"Detail": float("nan")}, "detail: expected"),
    ({"Share_of_the_second_style": float("nan"), "seconds": "ink"}, "share: expected"),
    ({"Strokes": float("nan")}, "strokes: expected"),
    ({"Colors": None}, "color: expected"),
    ({"Size": None}, "Choose a size"),
    ({"Model": None}, "Choose a size"),
  ],
)
def test_values_that_no_control_has_are_a_message_before_any_work(page, values, message):
  said = page.paint(**values)
  assert message in said and "1 of 3" not in said


def test_only_the_layer_that_is_painted_on_is_kept_however_many_are_sent(page):
  data, pixels = photo(7)
  layer = np.zeros((40, 56, 4), np.uint8)
  layer[:20] = 255
  file = io.BytesIO()
  Image.fromarray(layer).save(file, "PNG")
  page.draw(file.getvalue(), "mine")
  for kind, index in (("layer", "99"), ("layer", "-1"), ("background", "null"), ("composite", "")):
    page.draw(b"no picture", "mine", kind=kind, index=index)
  options = {"brush": {"id": "mine"}, "The_style_applies": "where I paint", "Detail": 0}
  said = page.paint(upload=page.upload(data, "mine.png"), **options)
  changed = (page.picture(said) != pixels).any(-1)
  assert changed[:15].mean() > 0.9 and not changed[25:].any()


def test_the_brush_keeps_no_part_that_is_not_used():
  from adaconv_jax.web import page

  brush = page.Brush()
  for kind, index in (("layer", "0"), ("layer", "99"), ("background", "null"), ("composite", "")):
    blob = {"type": kind, "index": index, "id": "mine"}
    sent = SimpleNamespace(data=blob, files=[("layer.png", bytes(1000))])
    brush.accept_blobs(sent)  # pyright: ignore
  kept = brush.blob_storage["mine"]
  assert [*kept.layers, kept.background, kept.composite] == [bytes(1000), None, None]


def test_a_request_that_is_larger_than_an_upload_is_not_read(page):
  try:
    _, answer = page.join(contents="x" * (work.MAX_UPLOAD_BYTES + 2**21))
  except OSError:  # the server has closed the connection before all was sent
    answer = "too large"
  assert "too large" in answer
  assert "Done in" in page.paint(Strength=0)


def test_the_server_fetches_no_address(page):
  asked = []

  class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
      asked.append(self.path)
      self.send_error(404)

    do_HEAD = do_GET

  with serving(Handler) as address:
    said = page.paint(upload=page_client.file_at(f"{address}/a.png", "a.png"))
  assert "Done in" not in said and not asked


def test_there_are_no_pages_of_an_api_and_nothing_of_other_hosts(page):
  for path in ("/docs", "/redoc", "/openapi.json"):
    with pytest.raises(page_client.Refused):
      page.get(path)
  info = page.get("/gradio_api/info").decode()
  assert '"named_endpoints":{}' in info.replace(" ", "")
  assert page.config["analytics_enabled"] is False and not page.config.get("footer_links")
  html = page.get("/").decode()
  # Of the head, addresses in <meta> are not fetched.
  assert not re.findall(r'<(?:link|script)[^>]*(?:href|src)="(https?://[^"]+)', html)


def test_what_is_compiled_ahead_is_what_the_page_asks_for_at_first(page):
  given = {part["props"].get("label"): part["props"].get("value") for part in page._inputs}
  wish = work.Wish(Path(), Path(), "")
  assert (given["Strength"], given["Colors"], given["Strokes"], work.SIZES[given["Size"]]) == (
    wish.alpha, wish.color, wish.strokes, wish.size,
  )  # fmt: skip
  assert (given["Second style"], given["The style applies"]) == ("none", "everywhere")


def test_the_page_has_no_preview_card_of_gradio(page):
  html = page.get("/").decode()
  assert 'name="viewport"' in html and "</html>" in html
  assert "og:" not in html and "twitter:" not in html


def test_the_server_itself_connects_to_nothing_else(page, hosts):
  data, _ = photo(7)
  assert "Done in" in page.paint(upload=page.upload(data, "mine.png"))
  found = set(hosts.read_text().split())
  assert found and found <= {"127.0.0.1", "localhost", "::1", "None"}


def test_no_stub_is_written_beside_the_page():
  assert not [*Path(work.__file__).parent.glob("*.pyi")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_one_line_and_deletes_uploads(model, number):
  page = page_client.start("--model", model)
  uploaded = Path(page.upload(photo(0)[0], "mine.png")["path"])
  assert uploaded.is_file()
  page.process.send_signal(number)
  code, output = processes.end(page.process, within=20)
  assert code == 128 + number
  assert output == "ended; uploads and results are deleted\n"
  assert not uploaded.exists() and not uploaded.parents[1].exists()


def rss(process) -> float:
  """Megabytes of memory."""
  text = Path(f"/proc/{process.pid}/status").read_text()
  return int(re.findall(r"VmRSS:\s+(\d+)", text)[0]) / 1024


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_memory_is_flat_over_200_pictures():
  page = page_client.start()
  sizes = [(100 + 9 * (seed % 3), 140 + 10 * (seed % 2)) for seed in range(200)]
  memory = {}
  begin = time.monotonic()
  for count, size in enumerate(sizes, 1):
    data, _ = photo(count, *size)
    # Every control that has its own program, in turn.
    said = page.paint(
      upload=page.upload(data, "mine.png"),
      Strength=(1, 0.5)[count % 2],
      styles=("night", "mosaic", "ink")[count % 3],
    )
    assert "Done in" in said
    memory[count] = rss(page.process)
  print({n: round(memory[n]) for n in (1, 20, 50, 100, 150, 200)}, time.monotonic() - begin)
  page.end()
  assert memory[200] < memory[20] * 1.1 + 50
