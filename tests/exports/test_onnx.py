"""ONNX files, run by onnxruntime."""

import dataclasses
import json
from typing import Any

import jax
import numpy as np
import pytest
from small_models import CROPPED, SETTINGS, cropping_stylizer, picture, small_stylizer

from adaconv_jax import stages
from adaconv_jax.exports import onnx as onnx_format
from adaconv_jax.exports.graph import Graph, code_length
from adaconv_jax.models.adaconv import AdaConv
from adaconv_jax.models.adaconv_plus import AdaConvPlus
from adaconv_jax.models.build import init_params, make_model
from adaconv_jax.vgg.network import VGG

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

# In levels of 255. Random models enlarge rounding more than trained ones.
EXACT, ROUNDED = 0.1, 2.0
TRANSFORMS = ["adain", "adaconv", pytest.param("adaconv_plus", marks=pytest.mark.slow)]
SIZES = [((37, 50), (70, 45)), ((5, 9), (9, 30)), ((1, 1), (64, 64)), ((16, 24), (8, 200))]


@pytest.fixture(scope="module", params=TRANSFORMS)
def stylizer(request):
  return small_stylizer(request.param)


def load(stylizer, folder, graph, dtype="float32"):
  path = folder / f"{graph}.onnx"
  path.write_bytes(onnx_format.write(stylizer, graph, dtype=dtype))
  return onnx_format.load(path)


@pytest.fixture(scope="module")
def whole(stylizer, tmp_path_factory):
  return load(stylizer, tmp_path_factory.mktemp("one"), "stylize")


@pytest.fixture(scope="module")
def cropping(tmp_path_factory):
  stylizer = cropping_stylizer()
  return stylizer, load(stylizer, tmp_path_factory.mktemp("crop"), "style")


def number(alpha):
  return np.asarray(alpha, np.float32)


def levels(one, other):
  return float(255 * np.abs(np.asarray(one) - np.asarray(other)).max())


@pytest.mark.parametrize(("content_size", "style_size"), SIZES)
def test_any_size_is_stylized_as_by_the_stylizer(stylizer, whole, content_size, style_size):
  content, style = picture(0, 1, *content_size), picture(1, 1, *style_size)
  code = stages.encode(stylizer, style)
  for alpha in (0.0, 0.5, 1.0):
    got = whole(content=content, style=style, alpha=number(alpha))
    assert got.shape == content.shape and got.dtype == np.float32
    expected = stages.render(stylizer, content, code, number(alpha))
    assert levels(got, expected) < EXACT, alpha


@pytest.mark.parametrize("size", CROPPED)
def test_a_model_that_crops_styles_gets_their_middle_square(size, cropping):
  stylizer, encode = cropping
  style = picture(0, 1, *size)
  code = jax.tree.leaves(stages.encode(stylizer, style))
  expected = np.concatenate([np.ravel(leaf) for leaf in code])
  assert np.abs(encode(style=style)[0] - expected).max() < 1e-4 * np.abs(expected).max()


def test_alpha_0_is_the_content_and_alpha_beyond_1_is_1(whole):
  content, style = picture(0, 1, 24, 17), picture(1, 1, 40, 40)
  assert levels(whole(content=content, style=style, alpha=number(0)), content) < EXACT
  one, more = (whole(content=content, style=style, alpha=number(a)) for a in (1, 3))
  np.testing.assert_array_equal(one, more)
  assert levels(one, content) > 10


def test_split_graphs_compute_the_same_as_the_single_one(stylizer, whole, tmp_path):
  encode, render = (load(stylizer, tmp_path, graph) for graph in ("style", "content"))
  content, style = picture(2, 1, 33, 21), picture(3, 1, 30, 70)
  code = encode(style=style)
  assert code.shape == (1, code_length(stylizer))
  for alpha in (0.3, 1.0):
    single = whole(content=content, style=style, alpha=number(alpha))
    assert levels(render(content=content, code=code, alpha=number(alpha)), single) < EXACT


def test_a_code_is_that_of_the_stylizer_array_after_array(stylizer, tmp_path):
  style = picture(3, 1, 70, 50)
  arrays = jax.tree.leaves(stages.encode(stylizer, style))
  expected = np.concatenate([np.ravel(x) for x in arrays])
  got = load(stylizer, tmp_path, "style")(style=style)[0]
  np.testing.assert_allclose(got, expected, atol=1e-3 * np.abs(expected).max())


def test_float16_halves_the_file_and_changes_little(stylizer, whole, tmp_path):
  short = load(stylizer, tmp_path, "stylize", "float16")
  size = len(onnx_format.write(stylizer, "stylize", dtype="float32"))
  assert (tmp_path / "stylize.onnx").stat().st_size < 0.55 * size
  inputs = {"content": picture(0, 1, 25, 33), "style": picture(1, 1, 33, 25), "alpha": number(1)}
  # Random skips enlarge rounding once more.
  bound = 2 * ROUNDED if isinstance(stylizer.model, AdaConvPlus) else ROUNDED
  assert 0 < levels(short(**inputs), whole(**inputs)) < bound


def test_only_standard_operators_of_one_opset_are_used(stylizer):
  model = onnx.load_model_from_string(onnx_format.write(stylizer, "stylize", dtype="float16"))
  assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 17)]
  inputs = {value.name: value.type.tensor_type for value in model.graph.input}
  assert {tensor.elem_type for tensor in inputs.values()} == {onnx.TensorProto.FLOAT}
  assert [d.dim_param or d.dim_value for d in inputs["content"].shape.dim] == [
    1, "height", "width", 3,
  ]  # fmt: skip


def test_metadata_are_read_without_this_package(stylizer, tmp_path):
  import onnxruntime  # pyright: ignore[reportMissingImports]

  data = onnx_format.write(stylizer, "style", dtype="float16")
  path = tmp_path / "m.onnx"
  path.write_bytes(onnx_format.with_metadata(data, {"model": json.dumps({"a": "b"})}))
  session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
  assert session.get_modelmeta().custom_metadata_map == {"model": '{"a": "b"}'}


@pytest.mark.parametrize("padding", ["zero", "reflect"])
def test_encoders_pad_as_the_model_says(padding, tmp_path):
  stylizer = small_stylizer("adain")
  stylizer = dataclasses.replace(stylizer, vgg=VGG("vgg16", padding))
  style = picture(3, 1, 31, 40)
  expected = np.concatenate([np.ravel(x) for x in stages.encode(stylizer, style)])
  got = load(stylizer, tmp_path, "style")(style=style)[0]
  np.testing.assert_allclose(got, expected, atol=1e-4 * np.abs(expected).max())


def test_kernels_of_other_sizes_and_groups_are_applied(tmp_path):
  settings = SETTINGS["adaconv"] | {"kernel_size": 5, "groups": [64, 256, 16, 1], "style_size": 76}
  model = make_model("adaconv", settings)
  stylizer = small_stylizer("adaconv")
  params = init_params(model, jax.random.key(0))
  params = params | {"decoder": stylizer.params["decoder"]}
  stylizer = dataclasses.replace(stylizer, params=params, model=model)
  run = load(stylizer, tmp_path, "stylize")
  for size in ((4, 20), (19, 33)):
    content, style = picture(0, 1, *size), picture(1, 1, 90, 60)
    code = stages.encode(stylizer, style)
    for alpha in (0.5, 1.0):
      got = run(content=content, style=style, alpha=number(alpha))
      assert levels(got, stages.render(stylizer, content, code, number(alpha))) < EXACT


def test_a_model_of_another_kind_is_refused():
  class Other(AdaConv):
    pass

  other: Any = dataclasses.replace(small_stylizer("adain"), model=None)  # type: ignore[arg-type]
  with pytest.raises(ValueError, match="model: expected AdaIN, AdaConv or .*, got NoneType"):
    Graph(other, other)
  more: Any = dataclasses.replace(small_stylizer("adaconv"), model=Other())
  with pytest.raises(ValueError, match="AdaConvPlus, got Other, .*save_bundle"):
    Graph(more, more)
