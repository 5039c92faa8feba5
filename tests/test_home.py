"""`~` is the home folder in every path that a user gives."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_models import make_workdir, small_stylizer

from adaconv_jax import images, load_model, save_bundle, stylize
from adaconv_jax.checkpoints.load import load_start
from adaconv_jax.cli import evaluate, export, vgg
from adaconv_jax.cli import stylize as stylize_command
from adaconv_jax.data.prepare import prepare_images
from adaconv_jax.files import cache_dir, expand
from adaconv_jax.vgg import weights as vgg_weights
from adaconv_jax.vgg.file import read_file

ROOT = Path(__file__).parents[1]
PACKAGED_VGG = vgg_weights.PACKAGED / "vgg16.safetensors"


@pytest.fixture(scope="module")
def adain():
  return small_stylizer("adain")


@pytest.fixture
def home(tmp_path, monkeypatch, adain):
  """A home folder with pictures, a model and VGG weights; the current folder is another."""
  folder, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
  elsewhere.mkdir()
  monkeypatch.chdir(elsewhere)
  for seed, name in enumerate(("c/cat.png", "s/ink.png")):
    images.save(folder / name, np.random.default_rng(seed).random((64, 64, 3), np.float32))
  save_bundle(adain, folder / "m.safetensors")
  (folder / "vgg.safetensors").symlink_to(PACKAGED_VGG)
  monkeypatch.setenv("HOME", str(folder))
  yield folder
  assert not list(elsewhere.iterdir())  # no folder "~"


def test_expand_replaces_a_leading_tilde_only(home):
  assert expand("~/a") == home / "a" and expand(Path("~")) == home
  for path in ("a/~/b", "./~", "/~", "a~", ""):
    assert expand(path) == Path(path)
  assert str(expand("~nobody-of-this-name/a")) == "~nobody-of-this-name/a"


def test_the_cache_may_be_in_the_home_folder(home, monkeypatch):
  monkeypatch.delenv("ADACONV_CACHE", raising=False)
  assert cache_dir() == home / ".cache" / "adaconv_jax"
  monkeypatch.setenv("ADACONV_CACHE", "~/kept")
  assert cache_dir() == home / "kept"


def with_tilde(option: str, arguments: dict[str, str], home: Path) -> list[str]:
  """Arguments of which one has `~`, in the form that no shell expands."""
  return [
    f"--{name}={value if name == option else value.replace('~', str(home))}"
    for name, value in arguments.items()
  ]


STYLIZE = {
  "content": "~/c/cat.png", "style": "~/s", "output": "~/new/o.png", "model": "~/m.safetensors",
  "vgg-weights": "~/vgg.safetensors",
}  # fmt: skip


@pytest.mark.parametrize("option", STYLIZE)
def test_in_every_option_of_stylize(option, home, monkeypatch):
  loaded = []
  monkeypatch.setattr(
    stylize_command, "load_model", lambda *a, **k: loaded.append(load_model(*a, **k)) or "model"
  )
  made = []
  monkeypatch.setattr(
    stylize_command, "render_pairs", lambda _, pairs, **k: made.extend(pairs) or 0
  )
  assert stylize_command.main(with_tilde(option, STYLIZE, home)) == 0
  ((content, style, output),) = made
  assert (content.path, style.path) == (home / "c/cat.png", home / "s/ink.png")
  assert output == home / "new/o.png" and len(loaded) == 1


EVALUATE = STYLIZE | {"content": "~/c", "output": "~/results"}


@pytest.mark.parametrize("option", EVALUATE)
def test_in_every_option_of_evaluate(option, home, monkeypatch):
  made: Any = []

  def run(models, network, contents, styles, pairs, save, *_, **__):
    made.extend([*models, contents[0].picture.path, styles[0].picture.path])
    save("sheet.txt", lambda path: path.write_text("a sheet"))
    return evaluate.Results()

  monkeypatch.setattr(evaluate, "_run", run)
  assert evaluate.main(with_tilde(option, EVALUATE, home)) == 0
  assert made == ["m", home / "c/cat.png", home / "s/ink.png"]
  assert (home / "results/sheet.txt").read_text() == "a sheet"


@pytest.mark.parametrize("option", ["model", "file", "vgg-weights"])
def test_in_every_argument_of_export(option, home):
  arguments = {"model": "~/m.safetensors", "file": "~/e/x.safetensors"}
  paths = [p if n == option else p.replace("~", str(home)) for n, p in arguments.items()]
  weights = ["--vgg-weights=~/vgg.safetensors"] if option == "vgg-weights" else []
  assert export.main([*paths, *weights]) == 0
  assert (home / "e/x.safetensors").is_file()


@pytest.mark.parametrize("option", ["file", "images", "output"])
@pytest.mark.parametrize("command", ["import", "normalize"])
def test_in_every_argument_of_vgg(command, option, home, monkeypatch, capsys):
  arguments = {"file": "~/vgg.safetensors", "output": "~/v/n.safetensors"}
  if command == "normalize":
    arguments["images"] = "~/c"
    # Minutes of work; what is tested is which files are read and written.
    monkeypatch.setattr(vgg, "normalize", lambda params, batches, arch: params)
  else:
    monkeypatch.setattr(vgg.vgg_import, "convert", lambda path, arch: read_file(path))
    arguments["arch"] = "vgg16"
  first, *options = with_tilde(option, arguments, home)
  assert vgg.main([command, first.partition("=")[2], *options]) == 0
  assert (home / "v/n.safetensors").is_file()
  assert "~" not in capsys.readouterr().out


@pytest.mark.slow
def test_in_the_functions_of_the_package(home, adain):
  save_bundle(adain, "~/new/b.safetensors")
  loaded = load_model("~/new/b.safetensors", vgg_weights="~/vgg.safetensors")
  assert loaded.model == adain.model and (home / "new/b.safetensors").is_file()
  assert load_model(Path("~/m.safetensors")).model == adain.model
  picture = images.load("~/c/cat.png")
  assert stylize(picture, picture, model="~/m.safetensors").shape == picture.shape


def test_in_the_vgg_weights_that_a_training_has_recorded(home, adain):
  make_workdir(home / "run", [adain], vgg_path="~/vgg.safetensors")
  assert json.loads((home / "run/config.json").read_text())["model"]["vgg_weights"][0] == "~"
  assert load_model("~/run").model == adain.model


@pytest.mark.parametrize("setting", ["content", "names"])
def test_in_the_images_of_a_config(setting, home):
  (home / "names.txt").write_text("cat.png\n")
  images.save(home / "c/dog.png", np.zeros((64, 64, 3), np.uint8))
  spec, names = (
    value if name == setting else str(expand(value))
    for name, value in (("content", "~/c"), ("names", "~/names.txt"))
  )
  train, heldout = prepare_images(
    home / "run", "content", spec, min_size=1, heldout=0, names=names, seed=0
  )
  assert ([*train][0][0], [*heldout][0][0]) == ("dog.png", "cat.png")


def test_in_the_model_and_the_vgg_weights_of_a_config(home, adain):
  params, info = vgg_weights.load("vgg16", "~/vgg.safetensors")
  start = load_start("~/m.safetensors", adain.model, adain.vgg, params, info)[1]
  assert start["name"] == "m"


@pytest.mark.slow
@pytest.mark.parametrize(
  "vgg, message",
  [("vgg", "expected images in '~/empty'"), ("missing", "{home}/missing.safetensors")],
)
def test_in_config_workdir_and_settings_of_train(home, vgg, message):
  (home / "mine.py").write_text("from adaconv_jax.configs.quickstart import get_config\n")
  done = subprocess.run(
    [sys.executable, "-m", "adaconv_jax", "train", "--config=~/mine.py", "--workdir=~/runs/first",
     f"--config.model.vgg_weights=~/{vgg}.safetensors", "--config.data.content=~/empty"],
    env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
    capture_output=True, text=True, timeout=300,
  )  # fmt: skip
  # The weights are read before it looks for images.
  assert done.returncode == 1 and message.format(home=home) in done.stderr, done.stderr
