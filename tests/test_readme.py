"""What the README shows is there, and its lines are taken by the programs as they stand."""

import importlib
import re
import shlex
from pathlib import Path

import numpy as np
from small_models import small_stylizer

from adaconv_jax import save_bundle
from adaconv_jax.cli import evaluate, stylize
from adaconv_jax.evaluation.report import MEANINGS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^ {4}(\S.*)$", README, re.MULTILINE)
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_every_file_that_is_named_exists():
  own = re.findall(r"\b(?:adaconv_jax|configs|docs|examples|tests)/[\w./-]*\w", README)
  links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
  assert own and links
  for name in {*own, *links}:
    assert (ROOT / name).exists(), name


def test_every_setting_that_is_named_is_in_the_configs():
  named = re.findall(r"--config\.([\w.]+)=", README)
  assert len(named) >= 3
  for path in (ROOT / "configs").glob("*.py"):
    config = importlib.import_module(f"configs.{path.stem}").get_config()
    for name in named:
      value = config
      for part in name.split("."):
        assert part in value, f"{path.name}: {name}"
        value = value[part]


def test_infer_lines_are_taken_by_its_parser():
  lines = [line for line in COMMANDS if line.startswith("python infer.py")]
  assert len(lines) >= 2
  for line in lines:
    stylize._parser().parse_args(shlex.split(line)[2:])


def test_the_evaluation_line_is_taken_by_its_parser_and_every_score_is_explained():
  (line,) = [line for line in COMMANDS if line.startswith("python -m adaconv_jax.cli.evaluate")]
  evaluate._parser().parse_args(shlex.split(line)[3:])
  table = README.partition("\n## Evaluation\n")[2].partition("\n## ")[0]
  for score in MEANINGS:
    assert f"`{score}`" in table or f"`{score.partition('_')[0]}_*`" in table, score


def test_python_of_the_readme_runs(tmp_path, monkeypatch):
  save_bundle(small_stylizer("adain"), tmp_path / "first.safetensors")
  monkeypatch.chdir(tmp_path)
  images = np.random.default_rng(0).random((2, 24, 24, 3), np.float32)
  names = {"content": images, "contents": images, "style": images[0], "styles": images[:1]}
  stylization = [block for block in BLOCKS if "stylize" in block or "encode_style" in block]
  assert len(stylization) == 2
  for block in stylization:
    exec(block.replace('"runs/first"', '"first.safetensors"'), names)
    assert names["out"].shape == images.shape
    assert np.ptp(names["out"]) > 0
