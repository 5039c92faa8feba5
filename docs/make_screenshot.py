"""Makes page.jpg, the picture of docs/page.md, with the shipped model.

    pip install -e '.[web]' playwright && python docs/make_screenshot.py [--chromium FILE]

It starts `adaconv web`, opens it in headless Chromium, and makes a picture as a user does.
"""

import argparse
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright  # pyright: ignore[reportMissingImports]

DOCS = Path(__file__).parent
WIDTH, HEIGHT, QUALITY = 1280, 960, 82
CONTENT, STYLE = "palace", "night"
MOST_BYTES = 250_000


def main() -> None:
  """Writes the picture."""
  parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
  parser.add_argument("--chromium", default=shutil.which("chromium"), help="its program")
  parser.add_argument("--port", default="7861")
  args = parser.parse_args()
  server = subprocess.Popen(
    [sys.executable, "-m", "adaconv_jax", "web", "--port", args.port],
    stdout=subprocess.PIPE, text=True, cwd=DOCS.parent,
  )  # fmt: skip
  try:
    assert server.stdout is not None
    line = server.stdout.readline()
    address = re.search(r"http://\S+", line)
    if address is None:
      sys.exit(f"the page did not start: {line}")
    with sync_playwright() as play:
      browser = play.chromium.launch(executable_path=args.chromium, args=["--no-sandbox"])
      page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
      page.goto(address[0])
      for name in (CONTENT, STYLE):
        page.get_by_label(name, exact=True).first.check(force=True)
      page.get_by_role("button", name="Stylize").click()
      page.wait_for_selector(".compare", timeout=300_000)
      page.wait_for_function("document.querySelector('.compare img').complete")
      page.screenshot(path=DOCS / "page.jpg", type="jpeg", quality=QUALITY)
      browser.close()
  finally:
    server.send_signal(signal.SIGINT)
    server.wait()
  size = (DOCS / "page.jpg").stat().st_size
  print(f"page.jpg: {size / 1000:.0f} kB")
  if size > MOST_BYTES:
    sys.exit(f"page.jpg: expected at most {MOST_BYTES / 1000:.0f} kB; lower QUALITY")


if __name__ == "__main__":
  main()
