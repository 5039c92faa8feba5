"""The packaged configs: found by name, from any folder, in a clone and installed."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from adaconv_jax import configs
from adaconv_jax.checkpoints.record import write_record
from adaconv_jax.configs import pretrained_adain, quickstart
from adaconv_jax.data.manifest import read_names
from adaconv_jax.images import find_images

ROOT = Path(__file__).parents[1]
NAMES = [
  *("adaconv", "adaconv_plus", "adain", "finetune"),
  *("pretrained_adaconv", "pretrained_adain", "quickstart"),
]


def test_every_config_of_the_repository_is_packaged_by_its_name():
  assert configs.names() == NAMES
  assert configs.FOLDER == ROOT / "configs" and configs.EXAMPLES == ROOT / "examples"


@pytest.mark.parametrize("name", NAMES)
def test_a_config_is_a_module_and_the_files_that_it_names_are_there(name, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  module = importlib.import_module(f"adaconv_jax.configs.{name}")
  assert module.__file__ == str(ROOT / "configs" / f"{name}.py")
  data = module.get_config().data
  for role in ("content", "style"):
    if listed := data[f"heldout_{role}_names"]:
      assert len(read_names(listed)) == data[f"heldout_{role}"]
    if data[role]:
      assert len(find_images(data[role])) == 8
  assert bool(data.content) == (name in ("quickstart", "finetune"))
  assert bool(data.heldout_content_names) == name.startswith(("pretrained", "adaconv_plus"))


def test_a_name_means_the_packaged_config_and_a_path_the_file(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  Path("adain").touch()
  assert configs.find("adain") == configs.FOLDER / "adain.py"
  assert configs.find("./adain") == tmp_path / "adain"
  for unknown in ("adan", "adain.py", "", ".", str(tmp_path)):
    with pytest.raises(ValueError, match=f"--config: .*{', '.join(NAMES)}.* path .*{unknown!r}$"):
      configs.find(unknown)


@pytest.mark.parametrize("config", [pretrained_adain, quickstart])
def test_a_workdir_that_names_these_files_as_in_a_clone_is_resumed(config, tmp_path):
  settings, vgg = config.get_config().to_dict(), {"tensors_sha256": "0"}
  before = json.loads(json.dumps(settings))
  for name, value in before["data"].items():
    if str(value).startswith(str(ROOT)):  # as up to version 0.2
      before["data"][name] = str(Path(value).relative_to(ROOT))
  assert before["data"] != settings["data"]
  write_record(tmp_path, before, vgg)
  write_record(tmp_path, settings, vgg)
  assert json.loads((tmp_path / "config.json").read_text())["data"] == settings["data"]


INSTALLED = """
from adaconv_jax import configs
from adaconv_jax.configs import pretrained_adaconv, quickstart
data = pretrained_adaconv.get_config().data
print(pretrained_adaconv.__file__, data.heldout_content_names, data.heldout_style_names, sep="\\n")
print(quickstart.get_config().data.content, configs.find("adain"), sep="\\n")
"""


def test_an_installed_package_has_its_own_configs_and_examples(tmp_path):
  """Laid out as setup.cfg says, which `test_packaging.py` checks."""
  package = tmp_path / "site" / "adaconv_jax"
  for module in ("__init__.py", "files.py", "signals.py", "configs/__init__.py"):
    (package / module).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "adaconv_jax" / module, package / module)
  shutil.copytree(ROOT / "configs", package / "configs" / "files")
  (tmp_path / "site" / "configs").mkdir()  # of another package
  done = subprocess.run(
    [sys.executable, "-c", INSTALLED], cwd=tmp_path, capture_output=True, text=True, timeout=120,
    env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  files = package / "configs" / "files"
  assert done.stdout.split() == [
    str(files / "pretrained_adaconv.py"),
    str(files / "heldout_content.txt"),
    str(files / "heldout_style.txt"),
    str(package / "examples" / "content"),
    str(files / "adain.py"),
  ]
