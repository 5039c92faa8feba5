import ast
import configparser
import importlib
import importlib.metadata
import inspect
import os
import pydoc
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import adaconv_jax
from adaconv_jax import configs

ROOT = Path(__file__).parents[1]
PROGRAMS = ["train", "infer"]
IMPORTED_LATER = ["tensorflow_datasets"]  # inside a function, because it takes a second
NEEDS_GRADIO = {"adaconv_jax.web.page"}
MODULES = sorted(
  {
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "adaconv_jax").rglob("*.py")
    if path.stem != "__init__"
  }
  - NEEDS_GRADIO
)
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")


def requirements(section: str, key: str) -> set[str]:
  """Names of the distributions listed in setup.cfg, normalized as in PEP 503."""
  lines = SETUP[section][key].splitlines()
  names = [re.match(r"[\w.-]+", line) for line in lines if not line.startswith("#")]
  return {normalized(match[0]) for match in names if match}


def normalized(name: str) -> str:
  return re.sub(r"[-_.]+", "-", name).lower()


IMPORT_ALL = """
import importlib, importlib.abc, sys

class Recorder(importlib.abc.MetaPathFinder):
  tried = []
  def find_spec(self, name, path=None, target=None):
    if name.partition(".")[0] == "tensorflow":
      self.tried.append(name)
    return None

sys.meta_path.insert(0, Recorder())
for name in sys.argv[1:]:
  importlib.import_module(name)
print("tried:", Recorder.tried)
"""


def test_all_modules_import_and_none_of_them_asks_for_tensorflow():
  # Asks, not gets: where TensorFlow is missing, an optional import of it would go unnoticed.
  environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
  done = subprocess.run(
    [sys.executable, "-W", "error", "-c", IMPORT_ALL, *MODULES, *PROGRAMS, *IMPORTED_LATER],
    capture_output=True, text=True, cwd=ROOT, env=environment,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  assert done.stdout.strip().endswith("tried: []"), done.stdout


def test_version_is_stated_once_and_cited():
  assert SETUP["metadata"]["version"] == "attr: adaconv_jax.__version__"
  assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+)?", adaconv_jax.__version__)
  citation = (ROOT / "CITATION.cff").read_text()
  assert re.findall(r"^version: (.*)$", citation, re.MULTILINE) == [adaconv_jax.__version__]
  try:
    installed = importlib.metadata.version("adaconv_jax")
  except importlib.metadata.PackageNotFoundError:
    pytest.skip("not installed; `pip install -e '.[dev]'`")
  assert installed == adaconv_jax.__version__


def imported_names(tree: ast.AST) -> set[str]:
  names = set()
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      names |= {alias.name.partition(".")[0] for alias in node.names}
    elif isinstance(node, ast.ImportFrom) and not node.level:
      names.add((node.module or "").partition(".")[0])
  return names


def test_every_import_is_a_declared_requirement():
  declared = requirements("options", "install_requires")
  for extra in ("convert", "gcs", "hub", "onnx", "tflite", "video", "web"):
    declared |= requirements("options.extras_require", extra)
  declared.add("array-record")  # Grain requires it, except on Windows, which has none
  distributions = importlib.metadata.packages_distributions()
  own = {"adaconv_jax", "configs", *PROGRAMS}
  sources = [*(ROOT / "adaconv_jax").rglob("*.py"), *(ROOT / "configs").glob("*.py")]
  for path in [*sources, *(ROOT / f"{name}.py" for name in PROGRAMS)]:
    names = imported_names(ast.parse(path.read_text()))
    for name in names - own - set(sys.stdlib_module_names):
      providers = {normalized(provider) for provider in distributions.get(name, [name])}
      assert providers & declared, f"{path.name} imports {name}, which setup.cfg does not require"


def folders_of_packages() -> dict[str, Path]:
  """The folder of the repository that each package is installed from."""
  mapping = {
    name.strip(): folder.strip()
    for name, _, folder in (
      line.partition("=") for line in SETUP["options"]["package_dir"].splitlines() if line
    )
  }
  names = [line for line in SETUP["options"]["packages"].split("\n") if line and line[0] != "#"]
  return {name: ROOT / mapping.get(name, name.replace(".", "/")) for name in names}


def test_every_package_is_listed():
  folders = folders_of_packages()
  own = {path.parent for path in (ROOT / "adaconv_jax").rglob("*.py")}
  assert {path for path in folders.values() if path.is_relative_to(ROOT / "adaconv_jax")} == own
  assert all((folder / "__init__.py").is_file() for folder in own)
  assert SETUP["options"]["py_modules"].split() == PROGRAMS


def test_configs_and_example_pictures_are_installed_where_the_package_looks():
  folders = folders_of_packages()
  elsewhere = {n: f for n, f in folders.items() if not f.is_relative_to(ROOT / "adaconv_jax")}
  assert elsewhere == {
    "adaconv_jax.configs.files": configs.FOLDER,
    "adaconv_jax.examples.content": configs.EXAMPLES / "content",
    "adaconv_jax.examples.style": configs.EXAMPLES / "style",
  }
  for name, folder in elsewhere.items():
    patterns = SETUP["options.package_data"][name].split()
    packaged = {path for pattern in [*patterns, "*.py"] for path in folder.glob(pattern)}
    assert packaged == {path for path in folder.iterdir() if path.is_file()}
  size = sum(path.stat().st_size for path in configs.EXAMPLES.rglob("*.jpg"))
  assert 0 < size < 2e6


def test_the_container_gets_what_is_installed_and_no_more():
  ignored = (ROOT / ".dockerignore").read_text().splitlines()
  assert ignored[0] == "*"
  kept = {line[1:] for line in ignored if line.startswith("!")}
  needed = {folder.relative_to(ROOT).parts[0] for folder in folders_of_packages().values()}
  needed |= {Path(name).parts[0] for name in SETUP["metadata"]["license_files"].split()}
  assert kept == needed | {"setup.cfg", "pyproject.toml", "README.md", "train.py", "infer.py"}


def test_packaged_files_exist():
  patterns = SETUP["options.package_data"]["adaconv_jax"].split()
  packaged = {path for pattern in patterns for path in (ROOT / "adaconv_jax").glob(pattern)}
  assert ROOT / "adaconv_jax" / "pretrained" / "vgg16.safetensors" in packaged
  others = {path for path in (ROOT / "adaconv_jax").rglob("*.*") if path.is_file()}
  assert packaged == {p for p in others if p.suffix not in (".py", ".pyc")}
  for name in SETUP["metadata"]["license_files"].split():
    assert (ROOT / name).is_file()


def test_the_console_command_names_a_function():
  (script,) = SETUP["options.entry_points"]["console_scripts"].split("\n")[1:]
  assert script == "adaconv = adaconv_jax.cli.main:cli"
  assert callable(importlib.import_module("adaconv_jax.cli.main").cli)


def test_nothing_in_the_package_imports_the_programs_of_the_clone():
  for path in (ROOT / "adaconv_jax").rglob("*.py"):
    assert not imported_names(ast.parse(path.read_text())) & {*PROGRAMS, "benchmarks"}, path


# Public names.

DIR = """
import sys, adaconv_jax
assert "jax" not in sys.modules
print(dir(adaconv_jax))
assert "jax" not in sys.modules
print(adaconv_jax.stylize)
assert "jax" in sys.modules
"""


def test_the_package_lists_its_names_without_importing_jax(tmp_path):
  done = subprocess.run(
    [sys.executable, "-c", DIR], capture_output=True, text=True, cwd=tmp_path, timeout=120,
    env=os.environ | {"PYTHONPATH": str(ROOT)},
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  assert set(ast.literal_eval(done.stdout.splitlines()[0])) >= {*adaconv_jax.__all__, "__version__"}


def test_public_names_are_functions_of_their_modules_and_described():
  described = {
    line.split()[0]
    for line in str(adaconv_jax.__doc__).splitlines()
    if line.split() and line.split()[0] in adaconv_jax.__all__
  }
  assert described == set(adaconv_jax.__all__)
  for name in adaconv_jax.__all__:
    value = getattr(adaconv_jax, name)
    assert value.__name__ == name and inspect.getdoc(value)
    if inspect.isfunction(value) and inspect.signature(value).parameters:
      assert "\nArgs:\n" in str(inspect.getdoc(value)), name
  assert inspect.isfunction(adaconv_jax.adaconv) and inspect.isfunction(adaconv_jax.adain)
  assert "\nAttributes:\n" in str(inspect.getdoc(adaconv_jax.Stylizer))


def test_help_of_the_package_begins_with_an_example_and_shows_the_functions():
  text = pydoc.render_doc(adaconv_jax, renderer=vars(pydoc)["plaintext"])  # not in its stub
  assert text.index("from adaconv_jax import stylize") < text.index("PACKAGE CONTENTS")
  for name in adaconv_jax.__all__:
    assert re.search(rf"^    (class )?{name}\(", text, re.M), name
  example = "\n".join(re.findall(r"^    (.*)", str(adaconv_jax.__doc__), re.M)[:4])
  ast.parse(textwrap.dedent(example))
