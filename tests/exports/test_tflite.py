"""TensorFlow Lite files, run by LiteRT; skipped without TensorFlow, see the extra `tflite`."""

import importlib.util

import jax
import numpy as np
import pytest
from small_models import CROPPED, cropping_stylizer, picture, small_stylizer

from adaconv_jax import stages
from adaconv_jax.exports import tflite

# Not `importorskip`, which would import TensorFlow where the other tests run.
pytestmark = [
  pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("tensorflow", "ai_edge_litert"))),
    reason="needs TensorFlow",
  ),
  pytest.mark.filterwarnings("ignore"),  # TensorFlow's
]
# In levels of 255. Random models enlarge rounding more than trained ones.
EXACT, ROUNDED = 0.5, 2.0


@pytest.fixture(scope="module", params=["adain", "adaconv", "adaconv_plus"])
def stylizer(request):
  return small_stylizer(request.param)


def load(stylizer, folder, graph, size, dtype="float32"):
  data = tflite.write(stylizer, graph, dtype=dtype, size=size)
  path = folder / f"{graph}-{dtype}.tflite"
  path.write_bytes(tflite.with_metadata(data, {"graph": graph}))
  return tflite.load(path)


def number(alpha):
  return np.asarray(alpha, np.float32)


def levels(one, other):
  return float(255 * np.abs(np.asarray(one) - np.asarray(other)).max())


@pytest.mark.parametrize("size", [(37, 50), (9, 5)])
def test_pictures_are_stylized_as_by_the_stylizer(stylizer, size, tmp_path):
  run = load(stylizer, tmp_path, "stylize", size)
  content, style = picture(0, 1, *size), picture(1, 1, *size)
  code = stages.encode(stylizer, style)
  for alpha in (0.0, 0.5, 1.0):
    got = run(content=content, style=style, alpha=number(alpha))
    expected = stages.render(stylizer, content, code, number(alpha))
    assert levels(got, expected) < EXACT, alpha


@pytest.mark.parametrize("size", CROPPED)
def test_a_model_that_crops_styles_gets_their_middle_square(size, tmp_path):
  stylizer = cropping_stylizer()
  encode = load(stylizer, tmp_path, "style", size)
  style = picture(0, 1, *size)
  code = jax.tree.leaves(stages.encode(stylizer, style))
  expected = np.concatenate([np.ravel(leaf) for leaf in code])
  assert np.abs(encode(style=style)[0] - expected).max() < 1e-4 * np.abs(expected).max()


def test_split_graphs_compute_the_same_as_the_stylizer(stylizer, tmp_path):
  size = (24, 33)
  encode, render = (load(stylizer, tmp_path, graph, size) for graph in ("style", "content"))
  content, style = picture(2, 1, *size), picture(3, 1, *size)
  got = render(content=content, code=encode(style=style), alpha=number(0.5))
  code = stages.encode(stylizer, style)
  assert levels(got, stages.render(stylizer, content, code, number(0.5))) < EXACT


def test_float16_halves_the_file_and_changes_little(tmp_path):
  # A random AdaConv enlarges rounding to several levels.
  stylizer, size = small_stylizer("adain"), (24, 33)
  whole, short = (load(stylizer, tmp_path, "stylize", size, d) for d in ("float32", "float16"))
  sizes = [(tmp_path / f"stylize-{d}.tflite").stat().st_size for d in ("float32", "float16")]
  assert sizes[1] < 0.55 * sizes[0]
  inputs = {"content": picture(2, 1, *size), "style": picture(3, 1, *size), "alpha": number(1)}
  assert 0 < levels(short(**inputs), whole(**inputs)) < ROUNDED


def test_metadata_are_buffers_of_the_file(stylizer, tmp_path):
  load(stylizer, tmp_path, "style", (16, 16))
  from tensorflow.lite.python import (  # pyright: ignore[reportMissingImports]
    schema_py_generated as schema,
  )

  data = (tmp_path / "style-float32.tflite").read_bytes()
  model = schema.ModelT.InitFromPackedBuf(data, 0)
  entries = {entry.name: entry.buffer for entry in model.metadata}
  assert bytes(model.buffers[entries[b"graph"]].data) == b"style"
