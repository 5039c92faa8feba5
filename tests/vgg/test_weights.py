"""Finding VGG's weights: a given path, the cache, the package, a download."""

import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import jax
import numpy as np
import pytest
from published_vgg import published, write_imported
from safetensors.numpy import save_file

from adaconv_jax.files import sha256
from adaconv_jax.images import find_images
from adaconv_jax.vgg import normalize as vgg_normalize
from adaconv_jax.vgg import weights as vgg_weights
from adaconv_jax.vgg.file import read_file, to_params


@pytest.fixture(scope="module")
def imported_vgg19(tmp_path_factory):
  return write_imported(tmp_path_factory.mktemp("imported"))


@pytest.fixture(scope="module")
def timm_vgg19(imported_vgg19):
  return imported_vgg19.parent / "model.safetensors"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  """An empty cache, and no network."""
  monkeypatch.setenv("ADACONV_CACHE", str(tmp_path / "cache"))
  monkeypatch.setenv("NO_PROXY", "127.0.0.1")
  monkeypatch.setenv("no_proxy", "127.0.0.1")
  monkeypatch.setattr(
    vgg_weights, "SOURCES", {"vgg19": (("http://127.0.0.1:9/x.safetensors", None),)}
  )
  return tmp_path / "cache"


def test_vgg16_comes_with_the_package_and_says_whose_it_is(cache):
  params, info = vgg_weights.load("vgg16")
  assert not cache.exists()
  assert "CC BY 4.0" in info["license"] and "Visual Geometry Group" in info["license"]
  assert info["last"] == "relu4_1" and "mean activation 1" in info["scaled"]
  assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(params))
  # float16 has neither overflowed nor lost small values.
  stored, _ = read_file(vgg_weights.PACKAGED / "vgg16.safetensors")
  for name, tensor in stored.items():
    assert np.isfinite(tensor).all()
    assert np.abs(tensor).max() < 1000 and (tensor == 0).mean() < 1e-3, name


@pytest.mark.slow
def test_packaged_activations_average_one_on_photographs():
  photographs = Path(__file__).parents[2] / "examples" / "content"
  params, _ = vgg_weights.load("vgg16")
  batches = vgg_normalize.photographs(find_images(photographs))
  for name, mean in vgg_normalize.mean_activations(params, batches, "vgg16").items():
    # The photographs are few, and not those that the weights were scaled with.
    assert 0.75 < mean.mean() < 1.33, name
    assert np.median(np.abs(np.log(mean))) < 0.3, name


def test_a_given_path_comes_before_the_cache_and_the_cache_before_the_package(
  imported_vgg19, cache, tmp_path
):
  cache.mkdir()
  shutil.copy(imported_vgg19, cache / "vgg19.safetensors")
  assert vgg_weights.load("vgg19")[1]["path"] == str(cache / "vgg19.safetensors")
  assert vgg_weights.load("vgg19", imported_vgg19)[1]["path"] == str(imported_vgg19)
  shutil.copy(vgg_weights.PACKAGED / "vgg16.safetensors", cache)
  assert vgg_weights.find("vgg16") == cache / "vgg16.safetensors"


def test_without_a_variable_the_cache_is_in_the_home_folder(monkeypatch, tmp_path):
  monkeypatch.delenv("ADACONV_CACHE")
  monkeypatch.setenv("HOME", str(tmp_path))
  assert vgg_weights.cache_dir() == tmp_path / ".cache" / "adaconv_jax"


@pytest.mark.slow
def test_weights_are_normalized_over_the_example_photographs():
  tensors, _ = read_file(vgg_weights.PACKAGED / "vgg16.safetensors")
  scaled, metadata = vgg_weights.normalized(tensors, "vgg16")
  photographs = find_images(Path(__file__).parents[2] / "examples" / "content")
  assert metadata["scaled"] == f"mean activation 1 over the {len(photographs)} example photographs"
  batches = vgg_normalize.photographs(photographs)
  means = vgg_normalize.mean_activations(to_params(scaled), batches, "vgg16")
  for name, mean in means.items():
    # Those that hardly respond to these few photographs stay below 1.
    assert (np.abs(mean - 1) < 1e-3).mean() > 0.95 and mean.max() < 1.001, name


def test_weights_are_the_same_if_they_were_before_they_were_scaled_in_the_same_way():
  here = {"tensors_sha256": "a", "unscaled_sha256": "raw", "scaled": "over the examples"}
  assert vgg_weights.are_same(here, here | {"tensors_sha256": "b"})  # rounded differently
  assert vgg_weights.are_same({"tensors_sha256": "a"}, here)
  assert not vgg_weights.are_same({"tensors_sha256": "b"}, here)
  assert not vgg_weights.are_same(here, here | {"tensors_sha256": "b", "unscaled_sha256": "c"})
  assert not vgg_weights.are_same(here, here | {"tensors_sha256": "b", "scaled": "over others"})
  nothing = {"tensors_sha256": "b", "unscaled_sha256": "", "scaled": ""}
  assert not vgg_weights.are_same({**nothing, "tensors_sha256": "a"}, nothing)


@pytest.fixture
def server(timm_vgg19):
  class Handler(SimpleHTTPRequestHandler):
    def log_message(self, *args):
      pass

  handler = partial(Handler, directory=str(timm_vgg19.parent))
  with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()


def test_vgg19_is_downloaded_converted_and_then_found_without_a_connection(
  server, cache, timm_vgg19, imported_vgg19, monkeypatch
):
  url = f"{server}/model.safetensors"
  # The first source fails, the second works.
  sources = ((f"{server}/gone.safetensors", None), (url, sha256(timm_vgg19)))
  monkeypatch.setattr(vgg_weights, "SOURCES", {"vgg19": sources})
  _, info = vgg_weights.load("vgg19")
  assert info["source"] == f"torchvision weights, {url}"
  assert info["unscaled_sha256"] == read_file(imported_vgg19)[1]["tensors_sha256"]
  assert [p.name for p in cache.iterdir()] == ["vgg19.safetensors"]
  monkeypatch.setattr(vgg_weights, "SOURCES", {})
  assert vgg_weights.load("vgg19")[1]["file_sha256"] == info["file_sha256"]


@pytest.mark.slow
def test_two_at_once_both_get_the_weights(server, cache, timm_vgg19, monkeypatch):
  sources = ((f"{server}/model.safetensors", sha256(timm_vgg19)),)
  monkeypatch.setattr(vgg_weights, "SOURCES", {"vgg19": sources})
  results = []
  target = cache / "vgg19.safetensors"
  threads = [
    threading.Thread(target=lambda: results.append(vgg_weights._fetch("vgg19", target)))
    for _ in range(2)
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert results == [target, target]
  assert [p.name for p in cache.iterdir()] == ["vgg19.safetensors"]
  read_file(target)


def test_offline_the_error_says_what_to_put_where(cache, monkeypatch):
  with ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as closed:
    url = f"http://127.0.0.1:{closed.server_port}/model.safetensors"
  monkeypatch.setattr(vgg_weights, "SOURCES", {"vgg19": ((url, None),)})
  with pytest.raises(FileNotFoundError) as error:
    vgg_weights.load("vgg19")
  text = str(error.value)
  assert f"{url}: no connection" in text
  assert (
    f"adaconv vgg import model.safetensors --arch vgg19 --output {cache / 'vgg19.safetensors'}"
  ) in text
  assert "--config.model.vgg_weights=PATH" in text and "vgg16" in text
  assert not list(cache.iterdir())


def test_a_download_of_something_else_is_refused_and_not_kept(
  server, cache, timm_vgg19, monkeypatch
):
  other = timm_vgg19.parent / "vgg16.safetensors"
  save_file(published("vgg16"), other)
  sources = (
    (f"{server}/vgg16.safetensors", sha256(other)),
    (f"{server}/model.safetensors", "0123"),
  )
  monkeypatch.setattr(vgg_weights, "SOURCES", {"vgg19": sources})
  with pytest.raises(FileNotFoundError) as error:
    vgg_weights.load("vgg19")
  assert "the file holds vgg16" in str(error.value)
  assert "wrong sha256" in str(error.value)
  assert not list(cache.iterdir())


def test_a_pth_is_not_downloaded_where_torch_is_not_there_to_read_it(cache, monkeypatch):
  monkeypatch.setattr(vgg_weights.importlib.util, "find_spec", lambda name: None)
  monkeypatch.setattr(vgg_weights, "SOURCES", {"vgg19": (("http://127.0.0.1:9/a.pth", "00"),)})
  with pytest.raises(FileNotFoundError, match="a.pth: not tried, because reading it needs torch"):
    vgg_weights.load("vgg19")
