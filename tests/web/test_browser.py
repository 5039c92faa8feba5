"""The page in headless Chromium, as a user sees it."""

import io
import shutil

import numpy as np
import page_client
import pytest
from PIL import Image
from small_models import small_stylizer

from adaconv_jax import save_bundle

pytest.importorskip("gradio", reason="the page needs Gradio")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
CHROMIUM = next(
  filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")

# The second and third are a camera without a camera.
ARGUMENTS = (
  "--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
)  # fmt: skip
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
  path = tmp_path_factory.mktemp("models") / "small.safetensors"
  save_bundle(small_stylizer("adain"), path)
  client = page_client.start("--model", path)
  yield client
  client.end()


@pytest.fixture(scope="module")
def chromium():
  with playwright.sync_playwright() as play:
    browser = play.chromium.launch(executable_path=CHROMIUM, args=[*ARGUMENTS])
    yield browser
    browser.close()


@pytest.fixture
def open_page(server, chromium):
  """Opens the page in a window; notes what it asks of other hosts, and its errors."""
  contexts = []

  def open_in(viewport):
    context = chromium.new_context(viewport=viewport, accept_downloads=True, permissions=["camera"])
    context.set_default_timeout(90_000)  # the machine may be busy
    contexts.append(context)
    page = context.new_page()
    page.elsewhere, page.errors = [], []
    page.on(
      "request",
      lambda request: (
        request.url.startswith((server.url, "data:", "blob:")) or page.elsewhere.append(request.url)
      ),
    )
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.goto(server.url)
    page.get_by_role("button", name="Stylize").wait_for()
    return page

  yield open_in
  for context in contexts:
    context.close()


def photo(seed: int, height: int, width: int) -> tuple[dict, np.ndarray]:
  pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, "PNG")
  return {"name": "mine.png", "mimeType": "image/png", "buffer": file.getvalue()}, pixels


def upload(page, file: dict) -> None:
  """Uploads the picture; again where the page shows its controls before it listens to them."""
  for _ in range(6):
    page.locator("#upload input[type=file]").set_input_files(file)
    try:
      return page.locator(".status", has_text="Ready").wait_for(timeout=10_000)
    except playwright.TimeoutError:
      if not page.locator("#upload input[type=file]").count():  # it is there, and not checked yet
        return page.locator(".status", has_text="Ready").wait_for()
  raise AssertionError("the page does not take the upload")


def press(page) -> str:
  page.locator(".status").evaluate("status => status.textContent = ''")  # of an earlier picture
  page.get_by_role("button", name="Stylize").click()
  page.locator(".status", has_text="Done in").wait_for(timeout=120_000)
  return page.locator(".status").inner_text()


def test_an_upload_is_painted_compared_and_downloaded_and_no_other_host_is_asked(open_page):
  page = open_page(DESKTOP)
  file, pixels = photo(0, 60, 90)
  upload(page, file)
  page.get_by_label("Strength").first.fill("0")
  page.keyboard.press("Tab")
  assert "90 x 60 pixels" in press(page)
  with page.expect_download() as download:
    page.locator("#png").click()
  assert download.value.suggested_filename == "mine--night.png"
  with Image.open(download.value.path()) as saved:
    assert np.array_equal(np.asarray(saved), pixels)
  pictures = page.locator(".compare img")
  assert [picture.get_attribute("alt") for picture in pictures.all()] == [
    "After: mine in the style of night", "Before: mine"
  ]  # fmt: skip
  assert page.elsewhere == [] and page.errors == []


def test_the_border_between_before_and_after_moves_by_keyboard(open_page):
  page = open_page(DESKTOP)
  press(page)
  page.locator(".compare input").focus()
  for _ in range(3):
    page.keyboard.press("ArrowRight")
  assert page.locator(".compare").evaluate("e => e.style.getPropertyValue('--at')") == "53%"


def test_a_bad_file_is_a_message_and_the_example_is_chosen_again(open_page):
  page = open_page(DESKTOP)
  bad = {"name": "bad.png", "mimeType": "image/png", "buffer": b"hello"}
  page.locator("#upload input[type=file]").set_input_files(bad)
  page.locator(".status.failed", has_text="bad.png: not an image").wait_for()
  assert page.locator("#contents input:checked").get_attribute("value") == "cat"
  assert "Done in" in press(page)


def test_the_camera_is_taken_for_the_picture(open_page):
  page = open_page(DESKTOP)
  page.get_by_label("Capture from camera").click()
  page.locator("#upload").get_by_text("Click to Access Webcam").click()
  # A picture taken before the camera's first frame is empty, and Gradio drops it without a word.
  page.wait_for_function("document.querySelector('#upload video')?.videoWidth > 0")
  for _ in range(6):
    page.get_by_label("capture photo").click()
    try:
      page.locator(".status", has_text="Ready").wait_for(timeout=10_000)
      break
    except playwright.TimeoutError:
      if not page.get_by_label("capture photo").count():  # it is taken, and not checked yet
        page.locator(".status", has_text="Ready").wait_for()
        break
  assert page.locator("#contents input:checked").count() == 0
  assert page.locator("#upload img").get_attribute("alt") == "Your picture"


def test_every_control_has_a_name_and_can_be_reached_with_tab(open_page):
  page = open_page(DESKTOP)
  unnamed = page.evaluate("""() => [...document.querySelectorAll('input, button, select, img')]
    .filter(e => e.offsetParent && !(e.getAttribute('aria-label') || e.title || e.alt
      || e.innerText?.trim() || [...(e.labels ?? [])].some(l => l.innerText.trim())))
    .map(e => e.outerHTML.slice(0, 200))""")
  assert unnamed == []
  reached = set()
  for _ in range(60):
    page.keyboard.press("Tab")
    reached.add(
      page.evaluate("(e => e.value || e.innerText || e.ariaLabel || '')(document.activeElement)")
    )
    if "Stylize" in reached:
      break
  assert {"cat", "night", "Stylize"} <= {text.strip() for text in reached}


def test_a_phone_shows_everything_in_one_column_with_the_result_below_the_button(open_page):
  page = open_page(PHONE)
  press(page)
  assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
  boxes = [page.locator(selector).bounding_box() for selector in ("#styles", "#go", "#result")]
  tops = [box["y"] for box in boxes]
  assert tops == sorted(tops) and all(box["width"] <= PHONE["width"] for box in boxes)
  assert page.elsewhere == [] and page.errors == []


def test_the_brush_keeps_the_style_to_where_is_painted(open_page):
  page = open_page(DESKTOP)
  file, pixels = photo(1, 200, 300)
  upload(page, file)
  page.get_by_role("button", name="Brush: where the style applies").click()
  page.get_by_label("where I paint").check()
  canvas = page.locator("#brush canvas").first
  canvas.wait_for()
  canvas.scroll_into_view_if_needed()
  box = canvas.bounding_box()
  middle = box["y"] + box["height"] / 2
  for pause in (1500, 3000, 6000):  # the editor shows no sign when the picture is there
    page.wait_for_timeout(pause)
    page.mouse.move(box["x"] + box["width"] * 0.45, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.55, middle, steps=10)
    page.mouse.up()
    page.wait_for_timeout(pause)
    press(page)
    with page.expect_download() as download:
      page.locator("#png").click()
    with Image.open(download.value.path()) as saved:
      changed = (np.asarray(saved).astype(int) != pixels).any(-1)
    if 0 < changed.mean() < 1:  # the stroke was taken
      break
  assert changed[100, 150] and 0.002 < changed.mean() < 0.3
  for corner in (changed[:30, :30], changed[-30:, -30:]):
    assert not corner.any()
