"""The documentation as a site: `sphinx-build -W -b html docs build/site`."""

import adaconv_jax

project = "adaconv_jax"
author = "the adaconv_jax authors"
copyright = "the adaconv_jax authors, Apache-2.0"  # noqa: A001 (Sphinx's)
version = release = adaconv_jax.__version__

extensions = [
  "myst_nb",
  "sphinx.ext.autodoc",
  "sphinx.ext.napoleon",
  "sphinx.ext.viewcode",
  "sphinx-mathjax-offline",  # brings the files, so that formulas need no other host
]
root_doc = "index"
# GitHub shows README.md for the folder; index.md has its place here.
exclude_patterns = ["README.md"]
templates_path: list[str] = []

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_title = f"adaconv_jax {version}"
html_theme_options = {"navigation_with_keys": True}

# html_image: so that <img>, which gives a width, brings its file into the site.
myst_enable_extensions = ["dollarmath", "html_image"]
myst_heading_anchors = 3
# `.ci/run` executes the notebook; here its saved outputs are shown.
nb_execution_mode = "off"

autodoc_typehints = "description"
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False
default_role = "code"  # `name` in docstrings


def _mark_code(app, what, name, obj, options, lines: list[str]) -> None:
  """Marks the indented blocks of a docstring as code, which they are without a mark."""
  del app, what, name, obj, options
  marked: list[str] = []
  indent = 0
  in_block = False
  for line in lines:
    depth = len(line) - len(line.lstrip())
    if line.strip():
      after_blank = not marked or not marked[-1].strip()
      if in_block and depth <= indent:
        in_block = False
      if not in_block and after_blank and depth >= indent + 4 and not line.lstrip().startswith(":"):
        marked += [" " * indent + "::", ""]
        in_block = True
      if not in_block:
        indent = depth
    marked.append(line)
  lines[:] = marked


def setup(app) -> None:
  """Registers it before napoleon, which reads the sections."""
  app.connect("autodoc-process-docstring", _mark_code, priority=100)
