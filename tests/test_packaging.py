import ast
import configparser
import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import adaconv_jax

ROOT = Path(__file__).parents[1]
PROGRAMS = ["train", "infer"]
IMPORTED_LATER = ["tensorflow_datasets"]  # inside a function, because it takes a second
MODULES = sorted(
  ".".join(path.relative_to(ROOT).with_suffix("").parts)
  for path in (ROOT / "adaconv_jax").rglob("*.py")
  if path.stem != "__init__"
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
  declared |= requirements("options.extras_require", "convert")
  distributions = importlib.metadata.packages_distributions()
  own = {"adaconv_jax", "configs", *PROGRAMS}
  sources = [*(ROOT / "adaconv_jax").rglob("*.py"), *(ROOT / "configs").glob("*.py")]
  for path in [*sources, *(ROOT / f"{name}.py" for name in PROGRAMS)]:
    names = imported_names(ast.parse(path.read_text()))
    for name in names - own - set(sys.stdlib_module_names):
      providers = {normalized(provider) for provider in distributions.get(name, [name])}
      assert providers & declared, f"{path.name} imports {name}, which setup.cfg does not require"


def test_packaged_files_exist():
  assert SETUP["options"]["packages"] == "find:"
  include = SETUP["options.packages.find"]["include"].split()
  folders = {path.parent for path in (ROOT / "adaconv_jax").rglob("*.py")}
  assert include == ["adaconv_jax", "adaconv_jax.*"]
  assert all((folder / "__init__.py").is_file() for folder in folders)
  assert SETUP["options"]["py_modules"].split() == PROGRAMS
  patterns = SETUP["options.package_data"]["adaconv_jax"].split()
  packaged = {path for pattern in patterns for path in (ROOT / "adaconv_jax").glob(pattern)}
  assert ROOT / "adaconv_jax" / "pretrained" / "vgg16.safetensors" in packaged
  others = {path for path in (ROOT / "adaconv_jax").rglob("*.*") if path.is_file()}
  assert packaged == {p for p in others if p.suffix not in (".py", ".pyc")}
  for name in SETUP["metadata"]["license_files"].split():
    assert (ROOT / name).is_file()


@pytest.mark.parametrize("program", PROGRAMS)
def test_console_scripts_name_a_function(program):
  scripts = SETUP["options.entry_points"]["console_scripts"]
  assert f"adaconv-{program} = {program}:cli" in scripts.splitlines()
  tree = ast.parse((ROOT / f"{program}.py").read_text())
  imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
  assert "cli" in {alias.name for node in imports for alias in node.names}
