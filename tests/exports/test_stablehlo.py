"""StableHLO files, run by plain JAX."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax import export
from small_models import CROPPED, cropping_stylizer, picture, small_stylizer

from adaconv_jax import stages
from adaconv_jax.exports import stablehlo

pytest.importorskip("flatbuffers", reason="needs flatbuffers")

EXACT = 0.1  # levels of 255
TRANSFORMS = ["adain", "adaconv", pytest.param("adaconv_plus", marks=pytest.mark.slow)]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", params=TRANSFORMS)
def stylizer(request):
  return small_stylizer(request.param)


@pytest.fixture(scope="module")
def files(stylizer, tmp_path_factory):
  folder = tmp_path_factory.mktemp("files")
  for graph in ("style", "content", "stylize"):
    data = stablehlo.write(stylizer, graph, dtype="float16" if graph == "style" else "float32")
    (folder / graph).write_bytes(stablehlo.with_metadata(data, {"graph": graph}))
  return folder


@pytest.fixture(scope="module")
def cropping(tmp_path_factory):
  stylizer = cropping_stylizer()
  path = tmp_path_factory.mktemp("crop") / "style"
  path.write_bytes(stablehlo.write(stylizer, "style", dtype="float32"))
  return stylizer, stablehlo.load(path)


def number(alpha):
  return np.asarray(alpha, np.float32)


def levels(one, other):
  return float(255 * np.abs(np.asarray(one) - np.asarray(other)).max())


@pytest.mark.parametrize(("content_size", "style_size"), [((37, 50), (70, 45)), ((1, 2), (16, 64))])
def test_any_size_is_stylized_as_by_the_stylizer(stylizer, files, content_size, style_size):
  content, style = picture(0, 1, *content_size), picture(1, 1, *style_size)
  run = stablehlo.load(files / "stylize")
  code = stages.encode(stylizer, style)
  for alpha in (0.0, 0.5, 1.0):
    got = run(content=content, style=style, alpha=number(alpha))
    assert got.shape == content.shape
    expected = stages.render(stylizer, content, code, number(alpha))
    assert levels(got, expected) < EXACT, alpha


@pytest.mark.parametrize("size", CROPPED)
def test_a_model_that_crops_styles_gets_their_middle_square(size, cropping):
  stylizer, encode = cropping
  style = picture(0, 1, *size)
  code = jax.tree.leaves(stages.encode(stylizer, style))
  expected = np.concatenate([np.ravel(leaf) for leaf in code])
  assert np.abs(encode(style=style)[0] - expected).max() < 1e-4 * np.abs(expected).max()


def test_split_graphs_compute_the_same_as_the_single_one(files):
  encode, render, whole = (stablehlo.load(files / g) for g in ("style", "content", "stylize"))
  content, style = picture(2, 1, 33, 21), picture(3, 1, 30, 70)
  code = encode(style=style)
  single = whole(content=content, style=style, alpha=number(0.5))
  # The weights of one of them are float16.
  assert levels(render(content=content, code=code, alpha=number(0.5)), single) < 2


def test_a_file_is_for_three_platforms_and_has_no_calls_of_other_libraries(files):
  for path in files.iterdir():
    exported = export.deserialize(bytearray(path.read_bytes()))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    calls = set(re.findall(r"custom_call @(\w+)", exported.mlir_module()))
    assert calls <= {"shape_assertion"}, calls


def test_a_style_that_is_too_small_for_adain_is_refused(stylizer, files):
  run, inputs = stablehlo.load(files / "style"), {"style": picture(0, 1, 9, 20)}
  if stylizer.model.style_size:  # resized
    assert np.isfinite(run(**inputs)).all()
  else:
    with pytest.raises(ValueError, match="style_h >= 16|refining shapes"):  # by where JAX notices
      run(**inputs)


def test_metadata_are_the_last_line(files):
  assert stablehlo.read_metadata(files / "style") == {"graph": "style"}


PLAIN = """
import sys
sys.modules["adaconv_jax"] = None  # importing it fails
import numpy as np
from jax import export
file, pictures = sys.argv[1:]
exported = export.deserialize(bytearray(open(file, "rb").read()))
given = np.load(pictures)
picture = exported.call(given["content"], given["style"], np.float32(1))
np.save(sys.stdout.buffer, picture)
"""


def test_a_fresh_process_without_this_package_runs_a_file(stylizer, files, tmp_path):
  content, style = picture(2, 1, 20, 21), picture(3, 1, 30, 20)
  np.savez(tmp_path / "pictures.npz", content=content, style=style)
  environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {
    "JAX_PLATFORMS": "cpu"
  }
  done = subprocess.run(
    [sys.executable, "-c", PLAIN, files / "stylize", tmp_path / "pictures.npz"],
    capture_output=True, cwd=tmp_path, env=environment, timeout=200,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr.decode()
  (tmp_path / "got.npy").write_bytes(done.stdout)
  code = stages.encode(stylizer, style)
  expected = stages.render(stylizer, content, code, jax.numpy.float32(1))
  assert levels(np.load(tmp_path / "got.npy"), expected) < EXACT
