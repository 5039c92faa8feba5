"""Checks the links within a built site.

    python .ci/check_links.py SITE

Every relative link and picture of a page must exist, with the place in the page that it names.
Links to other sites are checked by `sphinx-build -b linkcheck`, which needs the network.
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
  """Collects what a page links to, and the places in it that links can name."""

  def __init__(self, path: Path):
    super().__init__()
    self.links: list[str] = []
    self.places = {"", "top"}
    self.feed(path.read_text())

  def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
    """Called by the parser for every element."""
    del tag
    for name, value in attrs:
      if name in ("href", "src") and value is not None:
        self.links.append(value)
      elif name == "id" and value:
        self.places.add(value)


def broken_links(site: Path) -> list[str]:
  """Returns a line for each broken link of the site's pages."""
  pages = {path.resolve(): Page(path) for path in sorted(site.rglob("*.html"))}
  lines = []
  for path, page in pages.items():
    for link in page.links:
      parts = urlsplit(link)
      if parts.scheme or parts.netloc:
        continue
      target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
      if target.is_dir():
        target /= "index.html"
      if not target.exists():
        lines.append(f"{path.relative_to(site.resolve())}: {link}: there is no such file")
      elif target in pages and unquote(parts.fragment) not in pages[target].places:
        lines.append(f"{path.relative_to(site.resolve())}: {link}: there is no such place")
  return lines


def main(site: str) -> int:
  """Prints the broken links of a site, and returns 1 if it has some or no page."""
  pages = len(list(Path(site).rglob("*.html")))
  lines = broken_links(Path(site))
  print("\n".join(lines) or f"{site}: {pages} pages without broken links")
  return 1 if lines or not pages else 0


if __name__ == "__main__":
  if len(sys.argv) != 2:
    sys.exit(__doc__)
  sys.exit(main(sys.argv[1]))
