"""Whatever is in a file: a picture or a model, or one error that names the file."""

import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutations import model_files, mutate, pictures

from adaconv_jax import files, images
from adaconv_jax.checkpoints.load import load_model
from adaconv_jax.data.manifest import Manifest
from adaconv_jax.vgg import convert as vgg_import
from adaconv_jax.vgg.file import read_file
from adaconv_jax.vgg.pth import check_pth

pytestmark = pytest.mark.timeout(120)
PICTURES, MODELS = pictures(), model_files()
SOME = settings(
  max_examples=200,
  deadline=None,
  derandomize=True,
  database=None,
  suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
seeds = st.integers(0, 2**32 - 1)


def changed(files_by_name):
  """One of the files, mutated by a random generator, or with bytes that hypothesis chooses."""

  def splice(data: bytes, at: float, new: bytes, kept: float) -> bytes:
    start = int(at * len(data))
    return data[:start] + new + data[start + int(kept * 16) :]

  some = st.sampled_from(sorted(files_by_name)).map(files_by_name.get)
  fraction = st.floats(0, 1)
  return st.one_of(
    st.binary(max_size=200),
    st.builds(lambda data, seed: mutate(data, np.random.default_rng(seed)), some, seeds),
    st.builds(splice, some, fraction, st.binary(max_size=16), fraction),
  )


@pytest.mark.parametrize("name", PICTURES)
def test_the_pictures_themselves_are_read(name):
  assert min(images.decode(PICTURES[name], name=name).size) >= 2


@SOME
@given(changed(PICTURES), st.sampled_from([None, 1, 8, 100]))
def test_bytes_are_an_rgb_picture_or_an_image_error_that_names_the_file(data, at_least):
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")
      picture = images.decode(data, name="any.img", at_least=at_least)
  except images.ImageError as error:
    assert str(error).startswith("any.img: ")
  else:
    assert picture.mode == "RGB" and np.asarray(picture).shape == (*picture.size[::-1], 3)


@SOME
@given(changed(MODELS))
def test_bytes_are_no_model_and_one_value_error_that_names_the_file(tmp_path_factory, data):
  path = tmp_path_factory.getbasetemp() / "any.model"
  path.write_bytes(data)
  for read in (load_model, read_file):
    with pytest.raises(ValueError, match=r"any\.model"):
      read(path)
  if data[:4] == b"PK\3\4" or data[:1] == b"\x80":
    try:
      check_pth(path)
    except ValueError as error:
      assert "any.model: " in str(error)
  else:
    with pytest.raises((ValueError, ModuleNotFoundError), match=r"any\.model"):
      vgg_import.convert(path, "vgg16")


json_values = st.recursive(
  st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
  lambda inner: (
    st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
  ),
)


@SOME
@given(st.text(max_size=50) | st.binary(max_size=50))
def test_text_is_json_or_one_value_error_that_names_it(text):
  try:
    files.parse_json(text, what="any.json")
  except ValueError as error:
    assert str(error).startswith("any.json: ")


@SOME
@given(json_values, json_values, json_values)
def test_json_is_a_list_of_images_or_one_value_error(kept, skipped, fingerprint):
  import json

  for value in (kept, {"kept": kept, "skipped": skipped, "role": "x", "fingerprint": fingerprint}):
    with pytest.raises(ValueError, match="^manifest: "):
      Manifest.from_json(json.dumps(value))


@SOME
@given(json_values, st.sampled_from(["style_dim", "kernel_size", "groups", "style_size", "other"]))
def test_json_is_a_setting_of_a_model_or_one_value_error(value, name):
  from adaconv_jax.models.build import make_model

  try:
    make_model("adaconv", {name: value})
  except ValueError as error:
    assert name in str(error)
