import dataclasses
import gc
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adaconv_jax.checkpoints import orbax
from adaconv_jax.checkpoints.errors import CheckpointError
from adaconv_jax.checkpoints.orbax import Checkpoints
from adaconv_jax.training.state import TrainState


def state(step: int, size: int = 500) -> TrainState:
  rng = np.random.default_rng(step)
  params = {"decoder": {"kernel": rng.standard_normal((size, 3)).astype(np.float32)}}
  number: Any = np.asarray(step, np.int32)
  opt_state = ({"mu": rng.standard_normal(size).astype(np.float32)}, ())
  return TrainState(number, params, opt_state)


def save(folder: Path, steps, **options) -> None:
  with Checkpoints(folder, **options) as checkpoints:
    for step in steps:
      checkpoints.save(state(step))


def assert_equal(got: TrainState, expected: TrainState) -> None:
  assert got.step == expected.step
  kernels = [s.params["decoder"]["kernel"] for s in (got, expected)]
  assert kernels[0].tobytes() == kernels[1].tobytes()
  assert got.opt_state[0]["mu"].tobytes() == expected.opt_state[0]["mu"].tobytes()
  assert isinstance(got.opt_state, tuple) and got.opt_state[1] == ()


def damage(folder: Path, step: int, part: str = "") -> None:
  """Flips one bit in the middle of every large file of a checkpoint."""
  files = [p for p in (folder / "checkpoints" / str(step)).rglob("*") if p.is_file()]
  files = [p for p in files if part in str(p) and p.stat().st_size > 1000 and "/d/" in str(p)]
  assert files
  for path in files:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_newest_state_comes_back_bit_for_bit(tmp_path):
  save(tmp_path, [1, 2])
  with Checkpoints(tmp_path) as checkpoints:
    restored = checkpoints.restore(state(0))
  assert restored is not None
  assert_equal(restored, state(2))


def test_a_bucket_that_does_not_answer_is_asked_for_a_minute_and_not_for_an_hour():
  from orbax.checkpoint._src.serialization import tensorstore_utils

  for use_ocdbt in (True, False):
    context = tensorstore_utils.get_ts_context(use_ocdbt=use_ocdbt)
    for name in ("gcs_request_retries", "s3_request_retries"):
      assert context[name].to_json()["max_retries"] == orbax.RETRIES
  assert sum(2**attempt for attempt in range(orbax.RETRIES)) == 63  # seconds of pauses


def test_empty_workdir_restores_nothing(tmp_path):
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.restore(state(0)) is None


def test_newest_and_every_kth_checkpoint_are_kept(tmp_path):
  save(tmp_path, range(1, 8), keep_last=2, keep_every=3)
  with Checkpoints(tmp_path) as checkpoints:
    assert {3, 6, 7} <= set(checkpoints.steps())
    assert not {1, 2, 4} & set(checkpoints.steps())


def test_flipped_bit_is_noticed_and_the_step_before_is_used(tmp_path, caplog):
  save(tmp_path, [1, 2])
  damage(tmp_path, 2)
  with caplog.at_level(logging.WARNING, "adaconv_jax"), Checkpoints(tmp_path) as checkpoints:
    restored = checkpoints.restore(state(0))
  assert restored is not None
  assert_equal(restored, state(1))
  assert "step 2" in caplog.text


@pytest.mark.parametrize("part", ["optimizer", "params"])
def test_unreadable_part_leaves_no_read_of_another_unfinished(tmp_path, part):
  save(tmp_path, [1, 2])
  manifest = tmp_path / "checkpoints" / "2" / part / "manifest.ocdbt"
  manifest.write_bytes(manifest.read_bytes()[:20])
  with Checkpoints(tmp_path) as checkpoints:
    restored = checkpoints.restore(state(2))
  gc.collect()  # a read that was never awaited fails the test here
  assert restored is not None and restored.step == 1


def test_only_damaged_checkpoints_are_an_error_and_never_a_fresh_start(tmp_path):
  save(tmp_path, [1, 2])
  damage(tmp_path, 1)
  damage(tmp_path, 2)
  with Checkpoints(tmp_path) as checkpoints, pytest.raises(CheckpointError, match="step 2.*step 1"):
    checkpoints.restore(state(0))


def test_checkpoint_of_another_shape_is_an_error_that_names_it(tmp_path):
  save(tmp_path, [1])
  with Checkpoints(tmp_path) as checkpoints, pytest.raises(CheckpointError, match="workdir"):
    checkpoints.restore(state(0, size=501))


def test_average_comes_back_is_left_out_or_starts_from_the_parameters(tmp_path, caplog):
  plain, kept = state(1), dataclasses.replace(state(2), averaged=state(7).params)
  for folder, saved in (("plain", plain), ("kept", kept)):
    with Checkpoints(tmp_path / folder) as checkpoints:
      checkpoints.save(saved)
  for folder, template, expected in (
    ("kept", kept, state(7)),
    ("kept", plain, None),
    ("plain", kept, plain),
    ("plain", plain, None),
  ):
    with caplog.at_level(logging.WARNING), Checkpoints(tmp_path / folder) as checkpoints:
      restored = checkpoints.restore(template)
    assert restored is not None and (restored.averaged is None) == (expected is None)
    if expected is not None:
      kernels = [params["decoder"]["kernel"] for params in (restored.averaged, expected.params)]
      np.testing.assert_array_equal(*kernels)
  assert caplog.messages == [
    "the average of the parameters starts at step 1, whose checkpoint has none"
  ]


def test_parameters_that_are_used_are_the_averaged_ones_of_each_checkpoint(tmp_path):
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(state(1))
    checkpoints.save(dataclasses.replace(state(2), averaged=state(7).params))
  with Checkpoints(tmp_path) as checkpoints:  # the save may take until the other one is closed
    for step, expected in ((1, state(1)), (2, state(7))):
      params, _ = checkpoints.restore_params(state(0).params, step) or ({}, 0)
      np.testing.assert_array_equal(
        params["decoder"]["kernel"], expected.params["decoder"]["kernel"]
      )


def test_damaged_average_is_noticed_and_the_step_before_is_used(tmp_path):
  with Checkpoints(tmp_path) as checkpoints:
    for step in (1, 2):
      checkpoints.save(dataclasses.replace(state(step), averaged=state(step + 5).params))
  damage(tmp_path, 2, "averaged")
  with Checkpoints(tmp_path) as checkpoints:
    params, step = checkpoints.restore_params(state(0).params) or ({}, 0)
    restored = checkpoints.restore(dataclasses.replace(state(0), averaged=state(0).params))
  assert restored is not None and step == restored.step == 1
  np.testing.assert_array_equal(params["decoder"]["kernel"], state(6).params["decoder"]["kernel"])


def removing(monkeypatch, folder: Path, times: int):
  """Lets a run remove the oldest checkpoint, `times` times, between listing and reading them."""
  listed = orbax._Without.find_all
  left = [None] * times

  def find_all(self, base_path):
    found = list(listed(self, base_path))
    if left:
      left.pop()
      oldest = min(int(path.name) for path in (folder / "checkpoints").iterdir())
      shutil.rmtree(folder / "checkpoints" / str(oldest))
    return iter(found)

  monkeypatch.setattr(orbax._Without, "find_all", find_all)


def test_a_model_is_read_while_its_run_removes_older_checkpoints(tmp_path, monkeypatch):
  save(tmp_path, [1, 2, 3, 4], keep_last=4)
  removing(monkeypatch, tmp_path, times=2)
  with Checkpoints(tmp_path, read_only=True) as checkpoints:
    restored = checkpoints.restore_params(state(0).params)
    assert restored is not None and restored[1] == 4 and checkpoints.steps() == [3, 4]


def test_checkpoints_that_always_vanish_are_an_error_in_the_end(tmp_path, monkeypatch):
  monkeypatch.setattr(orbax, "_LISTING_PAUSE", 0)
  save(tmp_path, range(1, 9), keep_last=8)
  removing(monkeypatch, tmp_path, times=8)
  with pytest.raises((CheckpointError, OSError), match="No step path found|No such file"):
    Checkpoints(tmp_path, read_only=True)
  assert len(list((tmp_path / "checkpoints").iterdir())) == 8 - orbax._LISTINGS


def test_a_model_is_read_though_its_run_has_replaced_all_checkpoints_that_were_listed(tmp_path):
  save(tmp_path, [1, 2])
  with Checkpoints(tmp_path, read_only=True) as checkpoints:
    save(tmp_path, [3, 4, 5])
    assert checkpoints.steps() == [1, 2]
    for step in (1, 2):
      shutil.rmtree(tmp_path / "checkpoints" / str(step), ignore_errors=True)
    restored = checkpoints.restore_params(state(0).params)
  assert restored is not None and restored[1] == 5


def test_parameters_restore_without_the_optimizer(tmp_path):
  save(tmp_path, [1, 2])
  with Checkpoints(tmp_path) as checkpoints:
    newest, newest_step = checkpoints.restore_params(state(0).params) or ({}, 0)
    first, first_step = checkpoints.restore_params(state(0).params, step=1) or ({}, 0)
    with pytest.raises(CheckpointError, match=r"step 3.*\[1, 2\]"):
      checkpoints.restore_params(state(0).params, step=3)
  assert (newest_step, first_step) == (2, 1)
  np.testing.assert_array_equal(newest["decoder"]["kernel"], state(2).params["decoder"]["kernel"])
  np.testing.assert_array_equal(first["decoder"]["kernel"], state(1).params["decoder"]["kernel"])
