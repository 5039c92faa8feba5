"""A workdir is used by one run, is checked before anything is written, and says what is wrong."""

import dataclasses
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import full_disk
from small_models import make_workdir, small_stylizer
from small_runs import by_path, reconstruction_config, trained_state

from adaconv_jax import lock
from adaconv_jax.checkpoints.errors import CheckpointError
from adaconv_jax.checkpoints.load import load_model, read_model
from adaconv_jax.checkpoints.orbax import Checkpoints
from adaconv_jax.checkpoints.record import (
  History,
  check_checkpoints,
  check_record,
  newest_step,
  read_part,
  summarize,
  write_record,
)
from adaconv_jax.configs import adain
from adaconv_jax.lock import WorkdirInUse, locked
from adaconv_jax.training import loop
from adaconv_jax.training.check import RULES, check_settings
from adaconv_jax.training.state import TrainState

ROOT = Path(__file__).parents[2]
needs_pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="it has no pipes with names")


@pytest.fixture(scope="module")
def trained(folder) -> Path:
  """A workdir of two steps, with a checkpoint of each."""
  config = reconstruction_config(folder, 2)
  config.checkpoint_every_steps = 1
  loop.train_and_evaluate(config, folder / "trained")
  return folder / "trained"


@pytest.fixture
def workdir(trained, tmp_path) -> Path:
  return Path(shutil.copytree(trained, tmp_path / "run"))


def contents(folder: Path) -> dict[str, bytes]:
  files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
  return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def flip_a_bit(folder: Path) -> None:
  path = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(data)


# 2. Damaged checkpoints.


def test_damaged_newest_checkpoint_is_set_aside_and_written_anew(folder, workdir, caplog):
  config = reconstruction_config(folder, 2)
  expected = by_path(trained_state(config, workdir))
  flip_a_bit(workdir / "checkpoints" / "2")
  with caplog.at_level(logging.WARNING, "adaconv_jax"):
    assert loop.train_and_evaluate(config, workdir) == 2
  assert (workdir / "checkpoints" / "2.damaged").is_dir() and "2.damaged" in caplog.text
  state = trained_state(config, workdir)
  assert int(state.step) == 2
  for name, value in by_path(state).items():
    assert value.tobytes() == expected[name].tobytes(), name


@pytest.mark.slow
def test_command_that_reads_a_damaged_checkpoint_says_so_in_one_line(tmp_path):
  stylizers = [small_stylizer("adain", seed) for seed in (0, 1)]
  workdir = make_workdir(tmp_path / "run", stylizers)
  for path in (workdir / "checkpoints" / "200" / "params").rglob("manifest.ocdbt"):
    path.write_bytes(path.read_bytes()[:20])
  command = [sys.executable, "-m", "adaconv_jax", "export", workdir, tmp_path / "m.safetensors"]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 0 and "step 100" in done.stdout
  (line,) = done.stderr.splitlines()
  assert line.startswith("checkpoint of step 200: ") and line.endswith("is unusable")


@pytest.mark.slow
@pytest.mark.parametrize("leave", ["nothing", "a file"])
def test_emptied_step_is_written_anew_and_a_second_time(folder, workdir, leave):
  config, step = reconstruction_config(folder, 2), workdir / "checkpoints" / "2"
  for _ in range(2):
    shutil.rmtree(step)
    step.mkdir() if leave == "nothing" else step.write_text("")
    assert loop.train_and_evaluate(config, workdir) == 2
    assert int(trained_state(config, workdir).step) == 2
  # Orbax takes a file for no checkpoint, and writes its own in its place.
  aside = {"2.damaged", "2.damaged2"} if leave == "nothing" else set()
  assert {p.name for p in step.parent.glob("2.*")} == aside


# 3. The lock.

HOLD = """
import sys, time
from pathlib import Path
from adaconv_jax.lock import locked
with locked(Path(sys.argv[1])):
  print("held", flush=True)
  time.sleep(600)
"""


@pytest.mark.slow
def test_second_run_is_refused_with_the_first_ones_process_and_a_killed_run_leaves_no_lock(
  folder, workdir
):
  config, before = reconstruction_config(folder, 3), contents(workdir)
  holder = subprocess.Popen(
    [sys.executable, "-c", HOLD, workdir], cwd=ROOT, stdout=subprocess.PIPE, text=True,
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
  )  # fmt: skip
  try:
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with pytest.raises(WorkdirInUse, match=f"process {holder.pid} on .*another --workdir"):
      loop.train_and_evaluate(config, workdir)
    assert contents(workdir) == before
  finally:
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
  assert loop.train_and_evaluate(config, workdir) == 3


def test_a_disk_without_room_for_the_lock_is_named(tmp_path):
  with full_disk(), pytest.raises(OSError) as raised, locked(tmp_path):
    pass
  assert raised.value.filename == str(tmp_path / ".lock")


def test_file_system_without_locks_is_said_and_the_run_goes_on(tmp_path, monkeypatch, caplog):
  import fcntl

  def flock(*_):
    raise OSError(95, "Operation not supported")

  monkeypatch.setattr(fcntl, "flock", flock)
  with caplog.at_level(logging.WARNING, "adaconv_jax"), locked(tmp_path / "run"):
    assert "is not locked (Operation not supported)" in caplog.text


# 6. Settings and the record.

BAD = [
  *(("num_steps", value) for value in (-5, 0)),
  *((name, -1) for name in RULES if name.endswith("_every_steps")),
  ("batch_size", 0),
  ("seed", -1),
  ("sample_size", 0),
  ("keep_last", 0),
  ("ema_decay", 1.0),
  ("skip_loss_above", -1.0),
  ("max_skipped_steps", 0),
  ("data.num_workers", -1),
  ("data.min_size", -1),
  ("data.heldout_style", -1),
  ("data.content_crop", 600),
  ("data.style_crop", 0),
  ("data.max_broken_share", 1.5),
  ("loss.style_weight", float("nan")),
  ("loss.pixel_weight", -1.0),
  ("optimizer.learning_rate", float("inf")),
  ("optimizer.learning_rate", 1e39),
  ("optimizer.learning_rate", 0.0),
  ("optimizer.style_rate", 0.0),
  ("optimizer.decay", "linear"),
  ("optimizer.clip_norm", -1.0),
  ("model.vgg", "vgg11"),
  ("model.vgg_padding", "none"),
  ("model.compute_dtype", "float64"),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_setting_out_of_range_is_refused_by_name_before_anything_is_written(tmp_path, name, value):
  config = adain.get_config()
  config.update_from_flattened_dict({name: value})
  with pytest.raises(ValueError, match=rf"^config\.{name}: expected .*, got ") as error:
    loop.train_and_evaluate(config, tmp_path / "run")
  assert "\n" not in str(error.value) and len(str(error.value)) < 300
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("value", [5, None, "x", [1], True])
@pytest.mark.parametrize(
  "name", ["data", "loss", "model", "model.settings", "loss.style_layers", "optimizer"]
)
def test_a_value_in_the_place_of_a_group_of_settings_is_refused_by_name(name, value):
  config: Any = adain.get_config().unlock()
  *groups, last = name.split(".")
  where = config
  for group in groups:
    where = where[group]
  del where[last]
  where[last] = value
  with pytest.raises(ValueError, match=rf"^config\.{name}"):
    check_settings(config)


@pytest.mark.parametrize("value", [{1, 2}, np.zeros(2), object(), b"x", [np.float32(1)]])
def test_a_setting_that_cannot_be_recorded_is_refused_by_name(value):
  config: Any = adain.get_config().unlock()
  config.data.mine = 5
  check_settings(config)
  del config.data.mine
  config.data.mine = value
  with pytest.raises(
    ValueError, match=r"^config\.data\.mine: .*got (set|ndarray|object|bytes|list)$"
  ):
    check_settings(config)


@pytest.mark.parametrize(
  "name", ["model.vgg_weights", "data.content", "data.style", "data.heldout_content_names"]
)
def test_a_path_of_an_unknown_kind_is_refused_by_the_setting_s_name(name):
  config: Any = adain.get_config().unlock()
  group, _, last = name.partition(".")
  config[group][last] = "foo://bucket/x"
  with pytest.raises(ValueError, match=rf"^config\.{name}: foo://bucket/x: expected a local path"):
    check_settings(config)


def test_a_count_that_is_too_large_is_refused_with_the_largest_one():
  config: Any = adain.get_config()
  config.batch_size = 10**12
  with pytest.raises(ValueError, match="batch_size: expected a whole number, 1 to 2147483647, got"):
    check_settings(config)


def test_unknown_style_layer_is_refused_by_name(tmp_path):
  config: Any = adain.get_config()
  with config.unlocked():
    config.loss.style_layers["relu6_1"] = 1.0
  with pytest.raises(ValueError, match=r"config\.loss\.style_layers: expected some of .*relu6_1"):
    check_settings(config)


def test_every_setting_of_the_configs_has_a_rule():
  flat = {
    name
    for name in flatten(adain.get_config().to_dict())
    if not name.startswith(("loss.style_layers", "model.settings"))
  }
  assert flat == set(RULES)


def flatten(tree: dict, prefix: str = "") -> list[str]:
  names = []
  for name, value in tree.items():
    names += flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else [prefix + name]
  return names


@pytest.mark.slow
def test_zero_turns_every_period_off(folder, tmp_path):
  config = reconstruction_config(folder, 2)
  for name in RULES:
    if name.endswith("_every_steps"):
      config[name] = 0
  assert loop.train_and_evaluate(config, tmp_path / "run") == 2
  assert not (tmp_path / "run" / "samples").exists()
  assert not (tmp_path / "run" / "metrics.jsonl").exists()
  assert int(trained_state(config, tmp_path / "run").step) == 2


@pytest.mark.parametrize(
  ("name", "value"),
  [("model.vgg_padding", "zero"), ("data.style", "nowhere"), ("batch_size", -3)],
)
def test_refused_run_leaves_the_workdir_as_it_was(folder, workdir, name, value):
  config, before = reconstruction_config(folder, 3), contents(workdir)
  config.update_from_flattened_dict({name: value})
  with pytest.raises(ValueError, match=name.split(".")[-1]):
    loop.train_and_evaluate(config, workdir)
  assert contents(workdir) == before


def test_missing_images_leave_no_workdir(folder, tmp_path):
  config = reconstruction_config(folder, 2)
  config.data.style = str(tmp_path / "nowhere")
  with pytest.raises(ValueError, match="style: .*nowhere"):
    loop.train_and_evaluate(config, tmp_path / "run")
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
  "name", ["config.json", "vgg.json", "history.json", "data/style_train.json"]
)
def test_truncated_record_is_an_error_that_names_the_file(folder, workdir, name):
  path = workdir / name
  path.write_bytes(path.read_bytes()[:-20])
  with pytest.raises(ValueError, match=f"{path.name}: ") as error:
    loop.train_and_evaluate(reconstruction_config(folder, 3), workdir)
  assert str(workdir) in str(error.value) and "\n" not in str(error.value)
  if name in ("config.json", "vgg.json"):
    with pytest.raises(ValueError, match=f"{path.name}: "):
      load_model(workdir)


@pytest.mark.parametrize(
  "name", ["config.json", "vgg.json", "data/style_train.json", "data/content_heldout.json"]
)
def test_deleted_record_beside_checkpoints_is_an_error_that_names_the_file(folder, workdir, name):
  (workdir / name).unlink()
  before = contents(workdir)
  with pytest.raises(ValueError, match=f"{name}: .* missing beside its checkpoints; restore it"):
    loop.train_and_evaluate(reconstruction_config(folder, 3), workdir)
  assert contents(workdir) == before


@pytest.mark.parametrize("recorded", [True, False])
def test_deleted_checkpoints_are_an_error_and_never_a_fresh_start(folder, workdir, recorded):
  shutil.rmtree(workdir / "checkpoints")
  if not recorded:  # as older versions left it
    (workdir / "history.json").unlink()
  for _ in range(2):
    with pytest.raises(CheckpointError, match="record of a run, but .* no checkpoint.*start over"):
      loop.train_and_evaluate(reconstruction_config(folder, 3), workdir)


@pytest.mark.slow
def test_run_that_was_killed_before_its_first_checkpoint_starts_over(folder, workdir):
  shutil.rmtree(workdir / "checkpoints")
  (workdir / "checkpoints").mkdir()
  history = json.loads((workdir / "history.json").read_text()) | {"saved": 0}
  (workdir / "history.json").write_text(json.dumps(history))
  assert loop.train_and_evaluate(reconstruction_config(folder, 1), workdir) == 1


def test_replaced_images_of_the_same_size_are_noticed(folder, workdir, tmp_path):
  images = Path(shutil.copytree(folder / "style", tmp_path / "style"))
  for path in images.iterdir():
    flip_a_bit_of(path)
  config = reconstruction_config(folder, 3)
  config.data.style = str(images)
  with pytest.raises(ValueError, match=rf"style: .* in {images} is another image than when"):
    loop.train_and_evaluate(config, workdir)


def flip_a_bit_of(path: Path) -> None:
  data = bytearray(path.read_bytes())
  data[-1] ^= 1
  path.write_bytes(data)


@pytest.mark.slow
def test_log_names_the_folder_that_is_used(folder, workdir, tmp_path, caplog):
  images = Path(shutil.copytree(folder / "style", tmp_path / "moved"))
  config = reconstruction_config(folder, 3)
  config.data.style = str(images)
  with caplog.at_level(logging.INFO, "adaconv_jax"):
    loop.train_and_evaluate(config, workdir)
  assert f"style: 4 images from {images};" in caplog.text


def test_changed_optimizer_is_one_readable_line(tmp_path):
  params = {f"layer{i}": np.ones(2, np.float32) for i in range(500)}
  number = np.asarray(1, np.int32)
  state = TrainState(number, params, {"m": params, "v": params})  # pyright: ignore
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(state)
  other = dataclasses.replace(state, opt_state=({"m": params}, params))
  with Checkpoints(tmp_path) as checkpoints:
    with pytest.raises(CheckpointError, match=r"lacks \['optimizer'\].* and 999 more.*optimizer"):
      checkpoints.restore(other)
    try:
      checkpoints.restore(other)
    except CheckpointError as error:
      assert len(str(error)) < 600 and "\n" not in str(error)


@pytest.mark.slow
def test_settings_of_a_newer_version_are_no_changes_and_older_workdirs_go_on(
  folder, workdir, caplog
):
  path = workdir / "config.json"
  before = json.loads(path.read_text())
  del before["skip_loss_above"], before["max_skipped_steps"], before["data"]["max_broken_share"]
  path.write_text(json.dumps(before))
  config = reconstruction_config(folder, 3)
  with caplog.at_level(logging.WARNING, "adaconv_jax"):
    assert loop.train_and_evaluate(config, workdir) == 3
  (line,) = [text for text in caplog.messages if "settings changed" in text]
  assert "num_steps (was 2, is 3)" in line and "skip" not in line and "broken" not in line


# 7. Pairs.


@pytest.mark.slow
def test_pairs_are_carried_over_a_change_of_the_batch_size(folder, workdir, caplog):
  config = reconstruction_config(folder, 3)
  config.batch_size, config.eval_every_steps = 4, 1
  with caplog.at_level(logging.WARNING, "adaconv_jax"):
    assert loop.train_and_evaluate(config, workdir) == 3
  assert "config.batch_size changed, the batches from here on differ" in caplog.text
  lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  # The held-out losses of step 2 are made up for, because the run had none.
  assert [line["pairs_seen"] for line in lines if "pairs_seen" in line] == [2 * 2, 2 * 2 + 4]
  assert summarize(workdir, 3)["pairs"] == 8 and summarize(workdir, 2)["pairs"] == 4


def test_pairs_of_a_run_that_fell_back_count_each_step_once(tmp_path):
  history = History(tmp_path)
  history.go_on(0, 2)
  history.go_on(4, 8)
  assert history.pairs(6) == 4 * 2 + 2 * 8
  history.go_on(2, 16)  # from an older checkpoint
  assert History(tmp_path).pairs(5) == 2 * 2 + 3 * 16
  older = History(tmp_path / "older", 3)  # whose record has only the batch size
  older.go_on(5, 1)
  assert older.pairs(7) == 5 * 3 + 2


# 8. One line for every error.


@pytest.mark.parametrize("fault", ["config", "workdir", "import", "full"])
def test_error_of_the_system_is_one_line_and_an_exit_code(folder, tmp_path, fault):
  config, workdir = "configs/quickstart.py", tmp_path / "run"
  if fault == "config":
    config = "configs/nowhere.py"
  elif fault == "import":
    config = str(tmp_path / "broken.py")
    Path(config).write_text("import no_such_module\n")
  elif fault == "workdir":
    workdir.write_text("")
  else:
    workdir = Path("/proc/run")  # where nobody may make a folder
  done = subprocess.run(
    [sys.executable, "train.py", "--config", config, "--workdir", workdir], cwd=ROOT, text=True,
    capture_output=True, timeout=300, env={**os.environ, "JAX_PLATFORMS": "cpu"},
  )  # fmt: skip
  # A config that is not there is a wrong option.
  assert done.returncode == (2 if fault == "config" else 1), done.stderr
  (line,) = [text for text in done.stderr.splitlines() if text.startswith("error: ")]
  assert "Traceback" not in done.stderr and len(line) < 400
  named = {"config": "nowhere.py", "import": "no_such_module"}.get(fault, str(workdir))
  assert named in line


# Kinds of files, and types.


@pytest.mark.parametrize("name", ["metrics.jsonl", ".lock", "history.json", "init.json"])
@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_what_is_no_file_where_a_run_writes_one_is_refused_before_it_waits(tmp_path, name, kind):
  if kind == "folder":
    (tmp_path / name).mkdir()
  elif hasattr(os, "mkfifo"):
    os.mkfifo(tmp_path / name)
  else:
    pytest.skip("this system has no pipes with names")
  with pytest.raises(ValueError, match=f"{name}: expected a file"):
    check_record(tmp_path, {"model": {}}, {"tensors_sha256": "0"})


@pytest.mark.parametrize("kind", ["file", "link"])
@pytest.mark.parametrize("name", ["checkpoints", "samples", "tensorboard", "data"])
def test_what_is_no_folder_where_a_run_makes_one_is_refused(tmp_path, name, kind):
  if kind == "file":
    (tmp_path / name).touch()
  else:
    (tmp_path / name).symlink_to(tmp_path / "gone")
  with pytest.raises(ValueError, match=f"{name}: expected a folder"):
    check_record(tmp_path, {"model": {}}, {"tensors_sha256": "0"})


@pytest.mark.parametrize("name", ["checkpoints", "samples", "tensorboard", "data"])
def test_a_folder_that_cannot_be_written_to_is_refused_before_a_step(tmp_path, name, monkeypatch):
  (tmp_path / name).mkdir()
  monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != name)
  with pytest.raises(ValueError, match=f"^workdir: .*{name} cannot be written to; .*--workdir"):
    write_record(tmp_path, {"model": {}}, {"tensors_sha256": "0"})
  assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
  ("name", "key", "value"),
  [
    ("config.json", "model", "x"),
    ("config.json", "data", 5),
    ("config.json", "batch_size", "x"),
    ("config.json", "batch_size", True),
    ("config.json", "ema_decay", []),
    ("vgg.json", "tensors_sha256", 5),
    ("versions.json", "adaconv_jax", {}),
    ("history.json", "saved", 1e999),
    ("history.json", "batch_sizes", {"12": 1}),
    ("history.json", "batch_sizes", [[0, 1e999]]),
    ("history.json", "batch_sizes", [[0, -2]]),
    ("history.json", "batch_sizes", [[5, 2], [1, 2]]),
    ("data/content_train.json", "kept", 5),
  ],
)
def test_a_part_of_the_record_of_the_wrong_type_is_refused_by_name(tmp_path, name, key, value):
  (tmp_path / "data").mkdir()
  (tmp_path / name).write_text(json.dumps({key: value}))
  with pytest.raises(ValueError, match=f"{tmp_path / name}: .*damaged: {key}"):
    History(tmp_path) if name.startswith("history") else read_part(tmp_path / name)


def test_losses_that_are_no_numbers_are_in_no_summary(tmp_path):
  lines = [{"step": 1, "loss": 2.5}, {"step": 2, "loss": "x", "style_loss": None}]
  (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
  assert summarize(tmp_path, 1)["losses"] == {"step": 1, "loss": 2.5}
  assert summarize(tmp_path, 2)["losses"] == {"step": 2}


def test_a_lock_of_nonsense_still_names_its_folder(tmp_path):
  code = f"""
import time
from pathlib import Path
from adaconv_jax.lock import locked
with locked(Path({str(tmp_path)!r})):
  Path({str(tmp_path / ".lock")!r}).write_text('{{"pid": 1e999, "host": "x"}}')
  print("locked", flush=True)
  time.sleep(60)
"""
  with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT) as process:
    assert process.stdout is not None and process.stdout.readline() == b"locked\n"
    with pytest.raises(WorkdirInUse, match="another process is training"), locked(tmp_path):
      pass
    process.kill()


def test_a_lock_that_was_removed_while_another_process_opened_it_is_made_anew(
  tmp_path, monkeypatch
):
  take, taken = lock._lock, []

  def late(*args):
    if not taken:  # the process that had it removes it, between opening and locking
      (tmp_path / ".lock").unlink()
    taken.append(take(*args))
    return taken[-1]

  monkeypatch.setattr(lock, "_lock", late)
  with locked(tmp_path, remains=False):
    assert taken == [True, True]
    assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
    with pytest.raises(WorkdirInUse), locked(tmp_path, remains=False):
      pass
    assert (tmp_path / ".lock").exists()  # not removed by the one that did not get it
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["7", "\u0663", "x"])
def test_what_is_no_checkpoint_hides_no_loss_of_them(tmp_path, name):
  (tmp_path / "checkpoints").mkdir()
  (tmp_path / "checkpoints" / name).touch()
  (tmp_path / "history.json").write_text('{"saved": 5}')
  assert newest_step(tmp_path) == 0
  with pytest.raises(CheckpointError, match="has no checkpoint"):
    check_checkpoints(tmp_path, History(tmp_path))


@pytest.mark.parametrize("change", ["copied", "swapped"])
def test_a_checkpoint_of_another_step_is_unusable(workdir, change):
  folder = workdir / "checkpoints"
  if change == "copied":
    shutil.copytree(folder / "2", folder / "5")
    with pytest.raises(CheckpointError, match="step 5: .*of another step"):
      load_model(folder / "5")
    assert read_model(workdir).step == 2
  else:
    os.rename(folder / "2", folder / "x")
    os.rename(folder / "1", folder / "2")
    os.rename(folder / "x", folder / "1")
    with pytest.raises(CheckpointError, match="step 2: .*of another step.* step 1: .*of another"):
      read_model(workdir)


def metadata_of(step: Path) -> Path:
  return step / "_CHECKPOINT_METADATA"


def tiny_state(step: int) -> TrainState:
  weights = {"a": np.full(3, step, np.float32)}
  return TrainState(np.asarray(step, np.int32), weights, {"m": weights})  # pyright: ignore


@pytest.fixture
def saved(tmp_path) -> Path:
  """A workdir with checkpoints of steps 1 and 2 and nothing else."""
  with Checkpoints(tmp_path) as checkpoints:
    for step in (1, 2):
      checkpoints.save(tiny_state(step))
  return tmp_path


@pytest.mark.parametrize(
  ("text", "words"),
  [
    ("[]", "expected a JSON object, got list"),
    ('{"metrics": 5}', "metrics has the wrong type, int"),
    ('{"custom_metadata": []}', "custom_metadata has the wrong type, list"),
    ('{"init_timestamp_nsecs": "x"}', "init_timestamp_nsecs has the wrong type, str"),
    ("[" * 100_000, "nested too deeply"),
    ("", "not whole or not JSON"),
  ],
)
@pytest.mark.parametrize("read_only", [False, True])
def test_a_checkpoint_with_odd_metadata_is_named_and_hides_no_other(
  saved, text, words, read_only, caplog
):
  metadata_of(saved / "checkpoints" / "2").write_text(text)
  with caplog.at_level(logging.WARNING, "adaconv_jax"):
    with Checkpoints(saved, read_only=read_only) as checkpoints:
      restored = checkpoints.restore(tiny_state(0))
      assert restored is not None and int(restored.step) == 1
      with pytest.raises(CheckpointError, match=f"of step 2|step 2: .*{words}"):
        checkpoints.restore_params(tiny_state(0).params, 2)
      if not read_only:
        checkpoints.save(tiny_state(2))
        checkpoints.wait()
        assert checkpoints.steps() == [1, 2]
  assert "checkpoint of step 2: " in caplog.text and words in caplog.text
  names = {path.name for path in (saved / "checkpoints").iterdir() if path.name[0] in "12"}
  assert names == ({"1", "2"} if read_only else {"1", "2", "2.damaged"})


@needs_pipes
def test_metadata_that_are_a_pipe_are_not_waited_for(saved):
  metadata_of(saved / "checkpoints" / "1").unlink()
  os.mkfifo(metadata_of(saved / "checkpoints" / "1"))
  metadata_of(saved / "checkpoints" / "2").write_text("5")
  with Checkpoints(saved, read_only=True) as checkpoints:
    with pytest.raises(CheckpointError, match="step 2: .*got int; step 1: .*a pipe"):
      checkpoints.restore(tiny_state(0))


@pytest.mark.parametrize("kind", ["file", "folder", "folder of others"])
@pytest.mark.parametrize("name", ["7", "007"])
@pytest.mark.parametrize("saved_step", [None, 0, 5])
def test_junk_in_the_place_of_a_step_hides_no_loss_of_the_checkpoints(
  tmp_path, kind, name, saved_step
):
  junk = tmp_path / "checkpoints" / name
  (junk if kind != "file" else junk.parent).mkdir(parents=True)
  if kind != "folder":
    (junk if kind == "file" else junk / "x.txt").write_text("x")
  (tmp_path / "init.json").write_text('{"seed": 0}')
  if saved_step is not None:
    (tmp_path / "history.json").write_text(json.dumps({"saved": saved_step}))
  with pytest.raises(CheckpointError, match="no checkpoint|no usable checkpoint"):
    check_checkpoints(tmp_path, History(tmp_path))
    with Checkpoints(tmp_path) as checkpoints:  # a folder may be one, until it is read
      checkpoints.restore(tiny_state(0))
  assert os.path.lexists(junk)
