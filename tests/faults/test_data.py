"""Images that break during a run cost neither the run nor what it has done."""

import itertools
import json
import logging
import multiprocessing
import shutil
from pathlib import Path

import numpy as np
import pytest
from small_runs import reconstruction_config, trained_state, write_images

from adaconv_jax.data.batches import Batches, CropSpec, DataError, allowed_broken, make_batches
from adaconv_jax.data.heldout import load_images
from adaconv_jax.data.manifest import Images, scan
from adaconv_jax.data.prepare import prepare_images
from adaconv_jax.data.sources import open_source
from adaconv_jax.training import loop


@pytest.fixture
def folder(tmp_path) -> Path:
  write_images(tmp_path, 10)
  return tmp_path


def images_in(folder: Path, role: str) -> Images:
  return Images(scan(open_source(str(folder / role), role=role), role=role, min_size=64))


def batches_of(content, style, **options) -> Batches:
  settings = {"batch_size": 5, "seed": 3, "max_broken_share": 0.2} | options
  crops = {"content_crop": CropSpec(64, 48, flip=True), "style_crop": CropSpec(64, 48)}
  return make_batches(content, style, **crops, **settings)


def take(count, *images, **options) -> list[dict[str, np.ndarray]]:
  with batches_of(*images, **options) as batches:
    return list(itertools.islice(batches, count))


def broken_images(folder: Path) -> tuple[Images, Images]:
  content, style = images_in(folder, "content"), images_in(folder, "style")
  (folder / "content" / "3.png").unlink()
  (folder / "style" / "5.png").write_bytes((folder / "style" / "6.png").read_bytes())
  (folder / "style" / "7.png").write_bytes(b"")
  return content, style


@pytest.mark.parametrize("kept_style_crops", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_broken_images_are_replaced_alike_for_all_workers_and_restarts(folder, kept_style_crops):
  whole = take(8, images_in(folder, "content"), images_in(folder, "style"))
  images, options = broken_images(folder), {"kept_style_crops": kept_style_crops}
  expected = take(8, *images, **options)
  others = [
    take(8, *images, num_workers=2, **options),
    take(3, *images, **options) + take(5, *images, start_step=3, **options),
  ]
  for other in others:
    for one, two in zip(expected, other, strict=True):
      assert one.keys() == two.keys()
      for name in one:
        np.testing.assert_array_equal(one[name], two[name])
  # All other examples are those of an unbroken run: one content in ten is another one.
  same = [
    np.array_equal(a, b)
    for one, two in zip(whole, expected, strict=True)
    for a, b in zip(one["content"], two["content"], strict=True)
  ]
  assert len(same) - sum(same) == 4


def test_broken_images_are_counted_and_reported_once_by_name(folder, caplog):
  images = broken_images(folder)
  with caplog.at_level(logging.WARNING, "adaconv_jax"), batches_of(*images) as batches:
    list(itertools.islice(batches, 8))
    assert batches.broken == {"content": {"3.png"}, "style": {"5.png", "7.png"}}
  assert len(caplog.messages) == 3
  start = "content: another image replaces a broken one (1 so far, 2 are allowed): "
  assert f"{start}3.png: No such file or directory" in caplog.messages


def test_a_batch_of_images_that_are_gone_names_one_without_numbers_of_the_system(folder):
  images = images_in(folder, "content"), images_in(folder, "style")
  shutil.rmtree(folder / "content")
  with batches_of(*images) as batches, pytest.raises(DataError) as error:
    loop._next(batches)
  start, path, reason = str(error.value).split(": ")
  assert (start, reason) == ("the next batch cannot be made", "No such file or directory")
  assert Path(path).parent == folder / "content"


def test_more_broken_images_than_the_share_are_an_error_that_names_the_setting(folder):
  images = broken_images(folder)
  with pytest.raises(DataError, match=r"style: 2 of 10 .* config\.data\.max_broken_share = 0\.15"):
    take(8, *images, max_broken_share=0.15)


def test_share_allows_one_image_of_a_few_but_zero_allows_none():
  assert [allowed_broken(10, share) for share in (0.0, 0.01, 0.25)] == [0, 1, 2]


def test_folder_that_is_gone_is_an_error(folder):
  images = images_in(folder, "content"), images_in(folder, "style")
  shutil.rmtree(folder / "content")
  with pytest.raises((OSError, DataError)):
    take(1, *images, max_broken_share=1.0)


@pytest.mark.slow
def test_dead_worker_is_an_error_and_no_hang(folder):
  images = images_in(folder, "content"), images_in(folder, "style")
  with batches_of(*images, num_workers=1) as batches:
    next(batches)
    for worker in multiprocessing.active_children():
      worker.kill()
    with pytest.raises(DataError, match="the next batch cannot be made: .*[Ww]orker"):
      for _ in range(10):
        loop._next(batches)


def heldout_run(folder: Path, heldout: int, monkeypatch):
  """A run of which everything but the images is left out; returns a function that starts it."""
  config, workdir = reconstruction_config(folder, 2), folder / "run"
  config.data.heldout_content = config.data.heldout_style = heldout
  config.data.max_broken_share = 0.2
  config.sample_every_steps, config.sample_images = 1, 3
  config.eval_every_steps = 1 if heldout else 0

  class Ready(Exception):
    pass

  def ready(*args, **kwargs):
    raise Ready

  monkeypatch.setattr(loop, "make_eval_step", ready)  # after the images, before the state

  def start():
    with pytest.raises(Ready):
      loop.train_and_evaluate(config, workdir)

  # The lists of a run, which it writes later.
  for role in loop.ROLES:
    prepare_images(
      workdir, role, str(folder / role), min_size=64, heldout=heldout, names="", seed=config.seed
    )
  return start


DAMAGES = {
  "missing": lambda path: path.unlink(),
  "cut off": lambda path: path.write_bytes(path.read_bytes()[:100]),
  "another": lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\1"),
  "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_broken_heldout_image_is_an_error_that_names_it_and_the_way_out(
  folder, damage, monkeypatch
):
  """Another one in its place would silently give other held-out losses."""
  start = heldout_run(folder, 2, monkeypatch)
  start()
  listed = json.loads((folder / "run" / "data" / "content_heldout.json").read_text())["kept"]
  DAMAGES[damage](folder / "content" / listed[1][0])
  with pytest.raises(ValueError, match=rf"content: .*{listed[1][0]}.*; restore it, or start a new"):
    start()


@pytest.mark.parametrize("damage", DAMAGES)
def test_broken_training_image_is_replaced_in_the_samples_too(folder, damage, monkeypatch):
  start = heldout_run(folder, 0, monkeypatch)
  loaded = []
  monkeypatch.setattr(
    loop, "load_images", lambda *args, **kw: loaded.append(load_images(*args, **kw))
  )
  start()
  listed = json.loads((folder / "run" / "data" / "content_train.json").read_text())["kept"]
  DAMAGES[damage](folder / "content" / listed[1][0])
  start()
  whole, style, replaced, same_style = loaded
  assert whole.shape == replaced.shape == (3, 64, 64, 3)
  np.testing.assert_array_equal(style, same_style)
  np.testing.assert_array_equal(whole[[0, 2]], replaced[:2])
  assert not (replaced[2] == whole[1]).all()


@pytest.mark.slow
def test_run_survives_an_image_that_breaks_and_can_be_resumed(folder, monkeypatch, caplog):
  config, workdir = reconstruction_config(folder, 12), folder / "run"
  config.data.max_broken_share = 0.1
  real, calls = Batches.__next__, []

  def breaks(self):
    calls.append(0)
    if len(calls) == 2:
      for role in ("content", "style"):
        listed = json.loads((workdir / "data" / f"{role}_train.json").read_text())["kept"]
        (folder / role / listed[3][0]).write_bytes(b"")
    return real(self)

  monkeypatch.setattr(Batches, "__next__", breaks)
  with caplog.at_level(logging.WARNING, "adaconv_jax"):
    assert loop.train_and_evaluate(config, workdir) == 12
    assert caplog.text.count("another image replaces a broken one") == 2
    config.num_steps = config.reconstruct_steps = 14
    assert loop.train_and_evaluate(config, workdir) == 14
  assert caplog.text.count("missing or changed, others replace them") == 2


@pytest.mark.slow
@pytest.mark.parametrize("error", [RuntimeError("a worker died"), OSError(5, "I/O error")])
def test_data_error_saves_what_was_done_and_is_one_line(folder, monkeypatch, error):
  config, workdir = reconstruction_config(folder, 9), folder / "run"
  real, calls = Batches.__next__, []

  def fails(self):
    calls.append(0)
    if len(calls) == 4:
      raise error
    return real(self)

  with monkeypatch.context() as patch:
    patch.setattr(Batches, "__next__", fails)
    with pytest.raises(DataError, match="the next batch cannot be made: ") as raised:
      loop.train_and_evaluate(config, workdir)
  assert "\n" not in str(raised.value)
  assert int(trained_state(config, workdir).step) == 3
  assert loop.train_and_evaluate(config, workdir) == 9


@pytest.mark.slow
def test_full_disk_saves_what_was_done_where_it_can(folder, monkeypatch):
  config, workdir = reconstruction_config(folder, 9), folder / "run"
  written = loop.Progress._write

  def full(self, step, values, prefix=""):
    if step == 3:
      raise OSError(28, "No space left on device")
    written(self, step, values, prefix)

  monkeypatch.setattr(loop.Progress, "_write", full)
  with pytest.raises(OSError, match="No space left"):
    loop.train_and_evaluate(config, workdir)
  assert int(trained_state(config, workdir).step) == 4
