"""The README and the pages in docs/: what they name exists, and their commands and code work."""

import importlib
import importlib.util
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from absl import flags
from PIL import Image
from small_models import small_stylizer

from adaconv_jax import save_bundle
from adaconv_jax.cli.main import COMMANDS
from adaconv_jax.evaluation.report import MEANINGS
from adaconv_jax.exports import onnx, stablehlo

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("[!_]*.py"))
TEXTS = {str(path.relative_to(ROOT)): path.read_text() for path in PAGES}
BLOCKS = [
  (name, block)
  for name, text in TEXTS.items()
  for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL)
]


def commands() -> list[tuple[str, list[str]]]:
  """Page and words of every indented command; lines that end in a backslash are joined."""
  lines = [
    (name, line)
    for name, text in TEXTS.items()
    for line in re.findall(r"^ {4}(\S.*)$", text.replace("\\\n", " "), re.MULTILINE)
  ]
  return [(n, shlex.split(part)) for n, line in lines for part in line.split(" && ")]


def arguments(*program: str) -> list[list[str]]:
  """The arguments of every command that begins with the words of `program`."""
  count = len(program)
  return [words[count:] for _, words in commands() if tuple(words[:count]) == program]


def test_the_readme_has_fewer_than_900_words():
  assert len(README.read_text().split()) < 900


@pytest.mark.parametrize("page", TEXTS)
def test_relative_links_lead_to_files_and_headings_that_exist(page):
  text = TEXTS[page]
  links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text)
  for link in links:
    if "://" in link:
      continue
    name, _, heading = link.partition("#")
    target = (ROOT / page).parent / name if name else ROOT / page
    assert target.exists(), link
    if heading:
      headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
      assert heading in {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", TEXTS)
def test_files_of_the_repository_that_are_named_exist(page):
  named = re.findall(
    r"(?<![\w./])(?:adaconv_jax|configs|docs|examples|tests)/[\w./-]*\w", TEXTS[page]
  )
  for name in named:
    assert (ROOT / name).exists(), name


# Pages that only Sphinx shows well.
SITE_ONLY = ("README.md", "index.md", "api.md", "changelog.md")


def test_every_page_is_linked_from_the_readme_or_the_index():
  linked = set()
  for page in ("README.md", "docs/README.md"):
    folder = (ROOT / page).parent
    linked |= {(folder / link).resolve() for link in re.findall(r"\]\(([^)#\s]+)\)", TEXTS[page])}
  assert {path for path in PAGES if path.name not in SITE_ONLY} <= linked


def test_every_page_is_in_the_site():
  text = (ROOT / "docs" / "index.md").read_text()
  listed = {
    line for block in re.findall(r"```{toctree}\n(?::.*\n)*\n([^`]*)```", text)
    for line in block.split()
  }  # fmt: skip
  folder = ROOT / "docs"
  pages = {str(p.relative_to(folder).with_suffix("")) for p in PAGES if p.is_relative_to(folder)}
  assert listed == pages - {"README", "index"} | {"walkthrough"}


def test_every_setting_that_is_named_is_in_every_config():
  named = {name for text in TEXTS.values() for name in re.findall(r"--config\.([\w.]+)[ =]", text)}
  assert len(named) >= 10
  for stem in CONFIGS:
    config = importlib.import_module(f"configs.{stem}").get_config()
    for name in named:
      value = config
      for part in name.split("."):
        assert part in value, f"{stem}: {name}"
        value = value[part]


@pytest.mark.parametrize(
  "command, programs, least",
  [
    ("stylize", [("python", "infer.py"), ("adaconv", "stylize")], 4),
    ("video", [("adaconv", "video")], 1),
    ("web", [("adaconv", "web")], 1),
    ("evaluate", [("adaconv", "evaluate")], 4),
    ("export", [("adaconv", "export")], 2),
    ("hub", [("adaconv", "hub")], 3),
    ("import", [("adaconv", "import")], 2),
    ("pack", [("adaconv", "pack")], 3),
    ("vgg", [("adaconv", "vgg")], 2),
  ],
)
def test_commands_are_accepted_by_their_parsers(command, programs, least):
  parser = importlib.import_module(f"adaconv_jax.cli.{command}")._parser()
  found = [words for program in programs for words in arguments(*program)]
  assert len(found) >= least
  for words in found:
    words = [re.sub(r"gs://\$?BUCKET", "gs://my-bucket", word) for word in words]
    # A path in a bucket needs the package `gcsfs`.
    if importlib.util.find_spec("gcsfs") or not any("gs://" in word for word in words):
      parser.parse_args(words)


def test_training_commands_name_flags_and_configs_that_exist():
  importlib.import_module("adaconv_jax.cli.train")  # which defines the flags
  found = arguments("adaconv", "train") + arguments("python", "train.py")
  assert len(found) >= 3
  for words in found:
    options = [word for word in words if word.startswith("--")]
    for option in options:
      name = option.removeprefix("--").partition("=")[0]
      assert name.startswith("config.") or name.replace("-", "_") in flags.FLAGS, option
    config = words[words.index("--config") + 1]
    assert config in CONFIGS or (ROOT / config).is_file()


def test_no_command_is_unknown():
  known = {"adaconv": set(COMMANDS)}
  known["python"] = {"infer.py", "train.py", "-m"}
  assert {words[0] for _, words in commands()} == {
    "adaconv",
    "docker",
    "python",
    "pip",
    "pytest",
    "tensorboard",
    "tflite/bin/adaconv",
    "tflite/bin/pip",
  }
  for page, words in commands():
    assert words[1] in known[words[0]] if words[0] in known else True, (page, words)


def test_the_table_of_scores_explains_every_score():
  table = TEXTS["docs/evaluation.md"].partition("\n## Scores\n")[2]
  for score in MEANINGS:
    assert f"`{score}`" in table or f"`{score.partition('_')[0]}_*`" in table, score


def export_small_models() -> None:
  """Writes the files that the page names into the current folder."""
  pytest.importorskip("onnx")
  pytest.importorskip("onnxruntime")
  pytest.importorskip("flatbuffers")
  adaconv = small_stylizer("adaconv")
  Path("split").mkdir()
  for path, graph in (
    ("adaconv", "stylize"),
    ("split/style", "style"),
    ("split/content", "content"),
  ):
    Path(f"{path}.onnx").write_bytes(onnx.write(adaconv, graph, dtype="float16"))
  adain = stablehlo.write(small_stylizer("adain"), "stylize", dtype="float16")
  Path("adain.stablehlo").write_bytes(adain)


# Models that a page names, which are not there.
_MODELS = re.compile(r'"(runs/first|adain\.safetensors|hf://user/name)"')


def pages():
  """Those with blocks of Python; the guides compile a dozen programs each."""
  for page in dict.fromkeys(name for name, _ in BLOCKS):
    minutes = page in ("README.md", "docs/stylizing.md", "docs/video.md")
    yield pytest.param(page, marks=[pytest.mark.slow] if minutes else [])


@pytest.mark.parametrize("page", list(pages()))
def test_python_of_the_page_runs(page, tmp_path, monkeypatch):
  """Runs the blocks of a page in order, with small pictures and a small model as runs/first."""
  save_bundle(small_stylizer("adain"), tmp_path / "first")
  monkeypatch.chdir(tmp_path)
  if page == "docs/exports.md":
    export_small_models()
  for name in ("cat.jpg", "night.jpg"):
    Image.new("RGB", (24, 24), "teal").save(name)
  rng = np.random.default_rng(0)
  images = rng.random((2, 24, 24, 3), np.float32)
  shapes = {
    "features": (8, 8, 8), "spatial_kernel": (3, 3, 4, 8), "pointwise_kernel": (1, 1, 4, 8),
    "bias": (8,),
  }  # fmt: skip
  names: dict[str, Any] = {
    "content": images, "contents": images, "style": images[0], "styles": images[:1], "groups": 2,
    "night": images[0], "mosaic": images[1], "background": images[0, ..., 0],
    "person": 1 - images[0, ..., 0],
    **{name: rng.random(shape, np.float32) for name, shape in shapes.items()},
  }  # fmt: skip
  for _, block in (item for item in BLOCKS if item[0] == page):
    names.pop("out", None)
    exec(_MODELS.sub('"./first"', block), names)
    if "out" in names:
      expected = names["features"].shape if "features" in block else images.shape
      assert names["out"].shape == expected
      assert np.ptp(names["out"]) > 0
    if "get_config" in block:
      assert names["get_config"]().batch_size == 16
