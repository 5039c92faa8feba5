"""Trainings, exports and pictures in a bucket, against an emulator of Cloud Storage."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bucket_run import CONVOLUTIONS, bucket_config
from buckets import CUT, HALF, LOST, emulator, in_environment
from processes import end, free_address, wait_until
from processes import start as start_program
from small_models import small_stylizer
from small_runs import by_path, trained_state, write_images

from adaconv_jax import images, load_model, lock, save_bundle
from adaconv_jax.checkpoints.errors import CheckpointError
from adaconv_jax.checkpoints.orbax import Checkpoints
from adaconv_jax.checkpoints.record import History, check_checkpoints, newest_step
from adaconv_jax.cli import evaluate, export, pack, stylize, vgg
from adaconv_jax.cli.train import FAILURES
from adaconv_jax.data.manifest import Images, scan
from adaconv_jax.data.packed import PackedSource
from adaconv_jax.data.sources import open_source
from adaconv_jax.files import expand, files_below
from adaconv_jax.ops.conv import dispatch
from adaconv_jax.training import loop
from adaconv_jax.training.profile import Span, Tracer
from adaconv_jax.training.state import TrainState

# gcsfs uploads whole parts of large files.
pytestmark = pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")

ROOT = Path(__file__).parents[1]
DATA = "gs://runs/data"


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
  folder = tmp_path_factory.mktemp("images")
  write_images(folder)
  with emulator() as found, in_environment(found):
    for path in folder.rglob("*.png"):
      (expand(DATA) / path.relative_to(folder).as_posix()).write_bytes(path.read_bytes())
    yield found


def start(bucket, *args) -> subprocess.Popen:
  # With the convolutions and the compiler of this process, because others round differently.
  alike = {
    CONVOLUTIONS: str(dispatch.SMALLEST_ON_CPU),
    "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
  }
  return start_program("tests/bucket_run.py", *args, environment=bucket.environment | alike)


def leaves(workdir: str, steps: int) -> dict[str, np.ndarray]:
  return by_path(trained_state(bucket_config(DATA, steps, 2), expand(workdir)))


def losses_of(workdir: str | Path) -> list[tuple[int, float]]:
  lines = (expand(workdir) / "metrics.jsonl").read_text().splitlines()
  logged = [json.loads(line) for line in lines]
  return [(values["step"], values["loss"]) for values in logged if "loss" in values]


def copy(source: str, target: str) -> Path:
  for name in files_below(expand(source)):
    (expand(target) / name).write_bytes((expand(source) / name).read_bytes())
  return expand(target)


@pytest.fixture(scope="module")
def unbroken(bucket) -> str:
  workdir = "gs://runs/unbroken"
  assert loop.train_and_evaluate(bucket_config(DATA, 6, 2), expand(workdir)) == 6
  return workdir


def test_a_run_in_a_bucket_leaves_there_what_one_on_a_disk_leaves(unbroken):
  names = set(files_below(expand(unbroken)))
  assert {"config.json", "history.json", "metrics.jsonl", "data/style_train.json"} <= names
  assert any(name.startswith("tensorboard/events") for name in names)
  assert newest_step(expand(unbroken)) == 6
  lines = (expand(unbroken) / "metrics.jsonl").read_text().splitlines()
  assert len(lines) == 6
  assert not (expand(unbroken) / ".lock").exists()
  assert not Path("gs:").exists()


def test_a_profile_of_a_run_in_a_bucket_is_there_or_on_this_machine(bucket, monkeypatch, caplog):
  without_waiting(monkeypatch)
  for number, fault in enumerate((None, 503)):
    workdir = expand(f"gs://runs/profiled-{number}")
    tracer = Tracer(workdir, Span(1, 1))
    tracer.start()
    jnp.ones(3).block_until_ready()
    assert tracer.after(1)
    with caplog.at_level("INFO"), bucket.failing(fault) if fault else contextlib.nullcontext():
      tracer.close()
    place = caplog.messages[-1].rpartition("the profile is in ")[2]
    assert place.startswith("gs://") == (fault is None)
    assert any(name.endswith(".xplane.pb") for name in files_below(expand(place)))
  shutil.rmtree(place)


@pytest.mark.slow
def test_a_run_that_is_killed_in_a_bucket_resumes_bit_for_bit(bucket, unbroken):
  workdir = "gs://runs/killed"
  first = start(bucket, workdir, DATA, 1000)
  wait_until(lambda: newest_step(expand(workdir)) >= 2, first)
  first.send_signal(signal.SIGKILL)
  first.communicate()
  assert (expand(workdir) / ".lock").exists()
  newest = newest_step(expand(workdir))
  # The lock of a dead process on this machine is taken over at once. The run ends at the first step
  # that a fresh one in the same bucket ends at.
  last = newest + 2
  assert loop.train_and_evaluate(bucket_config(DATA, last, 2), expand(workdir)) == last
  expected = "gs://runs/not-killed"
  loop.train_and_evaluate(bucket_config(DATA, last, 2), expand(expected))
  found, wanted = leaves(workdir, last), leaves(expected, last)
  assert found.keys() == wanted.keys()
  for name, leaf in found.items():
    np.testing.assert_array_equal(leaf, wanted[name], err_msg=name)


@pytest.mark.slow
def test_a_checkpoint_that_was_not_finished_counts_for_nothing(bucket, unbroken):
  workdir = copy(unbroken, "gs://runs/unfinished")
  (workdir / "checkpoints/6/commit_success.txt").unlink()
  assert newest_step(workdir) == 4
  assert loop.train_and_evaluate(bucket_config(DATA, 6, 2), workdir) == 6
  found, wanted = leaves(str(workdir), 6), leaves(unbroken, 6)
  for name, leaf in found.items():
    np.testing.assert_array_equal(leaf, wanted[name], err_msg=name)


@pytest.mark.parametrize("begun", [(), ("checkpoints/2/_CHECKPOINT_METADATA",)])
def test_a_run_that_is_killed_in_a_bucket_before_its_first_checkpoint_starts_over(bucket, begun):
  workdir = expand(f"gs://runs/early-{len(begun)}")
  for name in ("init.json", "config.json", *begun):
    (workdir / name).write_text("{}")
  (workdir / "history.json").write_text('{"batch_sizes": [[0, 2]], "saved": 0}')
  check_checkpoints(workdir, History(workdir))
  # One that had saved has lost its checkpoints.
  (workdir / "history.json").write_text('{"batch_sizes": [[0, 2]], "saved": 2}')
  with pytest.raises(CheckpointError, match="has no checkpoint"):
    check_checkpoints(workdir, History(workdir))


@pytest.mark.slow
def test_a_damaged_checkpoint_in_a_bucket_is_set_aside(bucket, unbroken):
  workdir = copy(unbroken, "gs://runs/damaged")
  data = max(
    (n for n, s in files_below(workdir).items() if n.startswith("checkpoints/6/params") and s),
    key=lambda n: files_below(workdir)[n] or 0,
  )
  broken = bytearray((workdir / data).read_bytes())
  broken[len(broken) // 2] ^= 4
  (workdir / data).write_bytes(bytes(broken))
  assert loop.train_and_evaluate(bucket_config(DATA, 6, 2), workdir) == 6
  assert (workdir / "checkpoints" / "6.damaged" / "commit_success.txt").exists()
  found, wanted = leaves(str(workdir), 6), leaves(unbroken, 6)
  for name, leaf in found.items():
    np.testing.assert_array_equal(leaf, wanted[name], err_msg=name)


@pytest.mark.slow
def test_a_bucket_that_is_busy_for_a_while_only_delays_a_run(bucket, unbroken):
  workdir = "gs://runs/busy"
  with bucket.failing(503, seconds=4):
    assert loop.train_and_evaluate(bucket_config(DATA, 2, 2), expand(workdir)) == 2
  assert newest_step(expand(workdir)) == 2


def test_a_bucket_that_refuses_ends_a_run_with_one_line_before_anything_is_computed(bucket):
  with bucket.failing(403), pytest.raises(FAILURES + (OSError,)) as refused:
    loop.train_and_evaluate(bucket_config(DATA, 2, 2), expand("gs://runs/refused"))
  message = str(refused.value)
  assert message.startswith("gs://runs/refused") and "access is refused" in message
  assert "gcloud auth application-default login" in message and "\n" not in message
  assert not expand("gs://runs/refused").exists()


@pytest.mark.slow
def test_a_bucket_that_is_lost_during_a_run_ends_it_with_one_line_and_loses_nothing(bucket):
  workdir = expand("gs://runs/lost")
  config = bucket_config(DATA, 1000, 2)
  process = start(bucket, workdir, DATA, 1000)
  wait_until(lambda: newest_step(workdir) >= 2, process)
  with bucket.failing(403):
    code, output = end(process, within=30)
  assert code == 1
  last = output.strip().splitlines()[-1]
  assert last.startswith("error: ") and "gs://runs/" in last, output
  assert "Traceback" not in output
  newest = newest_step(workdir)
  assert newest >= 2
  with Checkpoints(workdir, read_only=True) as checkpoints:
    assert newest in checkpoints.steps()
  config.num_steps = config.reconstruct_steps = newest + 1
  assert loop.train_and_evaluate(config, workdir) == newest + 1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_bucket_that_is_away_for_20_seconds_only_delays_a_run(bucket):
  workdir = expand("gs://runs/away")
  process = start(bucket, workdir, DATA, 100_000)
  wait_until(lambda: newest_step(workdir) >= 2, process)
  with bucket.stopped():
    time.sleep(20)
    assert process.poll() is None, process.communicate()[0]
  newest = newest_step(workdir)
  wait_until(lambda: newest_step(workdir) > newest + 2, process)
  process.send_signal(signal.SIGTERM)
  code, output = end(process, within=60)
  last = newest_step(workdir)
  assert code == 0 and f"saved step {last}; rerun" in output, output
  assert "Traceback" not in output
  losses = losses_of(workdir)
  assert [step for step, _ in losses] == list(range(1, last + 1))
  # As a run that nothing has disturbed.
  expected = "gs://runs/not-away"
  loop.train_and_evaluate(bucket_config(DATA, newest + 2, 2), expand(expected))
  assert losses[: newest + 2] == losses_of(expected)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_bucket_that_stays_away_ends_a_run_with_one_line_and_it_resumes_later(bucket):
  workdir = expand("gs://runs/gone")
  process = start(bucket, workdir, DATA, 100_000)
  wait_until(lambda: newest_step(workdir) >= 2, process)
  with bucket.stopped():
    output, _ = process.communicate(timeout=600)  # five minutes on two cores
  assert process.returncode == 1, output
  last = output.strip().splitlines()[-1]
  assert last.startswith("error: ") and "gs://runs/gone" in last, output
  assert last.endswith("rerun the same command later"), output
  assert "Traceback" not in output
  newest = newest_step(workdir)
  assert newest >= 2
  again = start(bucket, workdir, DATA, 100_000)
  wait_until(lambda: newest_step(workdir) > newest + 2, again)
  again.send_signal(signal.SIGTERM)
  code, output = end(again, within=60)
  assert code == 0 and f"resuming from step {newest}" in output, output


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_arrays_that_a_bucket_does_not_take_end_the_saving_within_minutes(bucket):
  """TensorStore writes them, which would ask a bucket for a quarter of an hour."""
  folder, step = expand("gs://runs/refuses-arrays"), jnp.asarray(2)
  state = TrainState(step, {"kernel": np.ones((500, 3), np.float32)}, ())
  begin = time.monotonic()
  with bucket.failing(503, only="ocdbt"), pytest.raises(CheckpointError, match="rerun the same"):
    with Checkpoints(folder) as checkpoints:
      checkpoints.save(state)
      checkpoints.wait()
  assert time.monotonic() - begin < 240
  assert newest_step(folder) == 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_that_share_a_bucket_train_in_it(bucket, tmp_path):
  (tmp_path / "config.py").write_text(
    f"import sys\nsys.path.insert(0, {str(ROOT / 'tests')!r})\n"
    "from bucket_run import bucket_config\n"
    f"get_config = lambda: bucket_config({DATA!r}, 4, 2)\n"
  )
  address, workdir = free_address(), "gs://runs/two"
  processes = [
    start_program(
      "train.py", "--config", tmp_path / "config.py", "--workdir", workdir,
      f"--coordinator={address}", "--num-processes=2", f"--process-id={index}",
    )
    for index in range(2)
  ]  # fmt: skip
  ends = [end(process, within=300) for process in processes]
  assert [code for code, _ in ends] == [0, 0], ends
  assert newest_step(expand(workdir)) == 4
  assert not (expand(workdir) / ".lock").exists()
  assert int(trained_state(bucket_config(DATA, 4, 2), expand(workdir)).step) == 4


def test_a_workdir_in_a_bucket_takes_one_run_at_a_time(bucket, monkeypatch):
  monkeypatch.setattr(lock, "RENEWED_EVERY", 0.2)
  workdir = expand("gs://runs/locked")
  with lock.locked(workdir) as still_ours:
    with pytest.raises(lock.WorkdirInUse, match=r"process \d+ on .* is training in gs://runs/"):
      with lock.locked(workdir):
        pass
    still_ours()
    # Another machine takes it over, for example while this one is cut off.
    (workdir / lock.NAME).write_text('{"pid": 1, "host": "other", "id": "x"}')
    time.sleep(1)
    with pytest.raises(lock.WorkdirInUse, match="process 1 on other"):
      still_ours()
  assert "other" in (workdir / lock.NAME).read_text()  # not removed by the one that lost it
  monkeypatch.setattr(lock, "DEAD_AFTER", 1.0)
  with lock.locked(workdir) as still_ours:  # it does not change, so its run is dead
    still_ours()
  assert not (workdir / lock.NAME).exists()


def test_models_and_pictures_go_from_bucket_to_bucket(bucket, unbroken, capsys):
  model = "gs://runs/models/m.safetensors"
  assert export.main([unbroken, model]) == 0
  assert "step 6" in capsys.readouterr().out
  from_workdir, from_file = load_model(unbroken), load_model(model)
  for name, leaf in by_path(from_file.params).items():
    np.testing.assert_allclose(leaf, by_path(from_workdir.params)[name], atol=1e-3)
  command = [f"--content={DATA}/content/0.png", f"--style={DATA}/style/", f"--model={model}"]
  assert stylize.main([*command, "--output=gs://runs/out/"]) == 0
  made = sorted(files_below(expand("gs://runs/out")))
  assert made == [f"0--{index}.png" for index in range(5)]
  assert images.load("gs://runs/out/0--3.png").shape == (72, 72, 3)
  assert stylize.main([*command, "--output=gs://runs/out/"]) == 0
  assert capsys.readouterr().out.count("kept, because it exists") == 5
  one = [f"--content={DATA}/content/0.png", f"--style={DATA}/style/1.png", f"--model={model}"]
  assert stylize.main([*one, "--output=gs://runs/out/0--1.png"]) == 2
  assert "exists" in capsys.readouterr().err


def test_a_packed_set_in_a_bucket_is_the_one_on_a_disk(bucket, tmp_path):
  for output in (str(tmp_path), "gs://runs/packed"):
    assert pack.main([f"--input={DATA}/content", f"--output={output}", "--size=64"]) == 0
  folder = expand("gs://runs/packed")
  there = {name: (folder / name).read_bytes() for name in files_below(folder)}
  assert there == {path.name: path.read_bytes() for path in tmp_path.iterdir()}
  remote, local = (open_source(str(x), role="content") for x in (folder, tmp_path))
  assert isinstance(remote, PackedSource) and len(remote) == 5
  assert [remote[index] for index in range(5)] == [local[index] for index in range(5)]


def without_waiting(monkeypatch, attempts: int = 1):
  """Lets gcsfs repeat its requests without pauses, and TensorStore give up after `attempts`."""
  import asyncio

  from orbax.checkpoint._src.serialization import tensorstore_utils

  monkeypatch.setattr("gcsfs.retry.asyncio.sleep", lambda _, real=asyncio.sleep: real(0))
  for name in ("_BASE_TS_CONTEXT", "_DEFAULT_OCDBT_TS_CONTEXT"):
    context = getattr(tensorstore_utils, name)
    monkeypatch.setitem(context, "gcs_request_retries", {"max_retries": attempts})


@pytest.mark.parametrize("only", ["read", "nothing"])
@pytest.mark.parametrize("command", ["stylize", "evaluate", "export", "pack", "vgg"])
def test_an_output_in_a_bucket_that_takes_no_files_is_refused_before_anything_is_computed(
  bucket, monkeypatch, capsys, command, only
):
  def computed(*args, **kwargs):
    raise AssertionError("began")

  monkeypatch.setattr(stylize, "load_model", computed)
  monkeypatch.setattr(stylize, "render_pairs", computed)
  monkeypatch.setattr(evaluate, "_read_all", computed)
  monkeypatch.setattr(evaluate, "load_model", lambda *args, **kwargs: small_stylizer("adain"))
  monkeypatch.setattr(evaluate, "find_model", Path)
  monkeypatch.setattr(export, "read_model", computed)
  monkeypatch.setattr(pack, "pack", computed)
  pictures = [f"--content={DATA}/content", f"--style={DATA}/style/1.png"]
  place = "gs://runs/refused" if only == "read" else "gs://no-such-bucket/out"
  run, arguments = {
    "stylize": (stylize.main, [*pictures, "--model=m", f"--output={place}/"]),
    "evaluate": (evaluate.main, [*pictures, "--model=m", f"--output={place}"]),
    "export": (export.main, ["adain", f"{place}/m.safetensors"]),
    "pack": (pack.main, [f"--input={DATA}/content", f"--output={place}"]),
    "vgg": (vgg.main, ["normalize", "v", f"--images={DATA}", f"--output={place}/v.safetensors"]),
  }[command]
  with bucket.failing(403, only="POST /upload") if only == "read" else contextlib.nullcontext():
    try:
      code = run(arguments)
    except SystemExit as error:
      code = str(error)
  error = capsys.readouterr().err + str(code)
  assert place in error and code != 0
  reason = "access is refused; run `gcloud" if only == "read" else "no such bucket"
  assert reason in error and len(error.splitlines()) <= 2


@pytest.mark.parametrize("below", ["", "/below"])
def test_an_output_on_an_object_or_below_it_is_refused_before_anything_is_computed(
  bucket, monkeypatch, capsys, below
):
  def computed(*args, **kwargs):
    raise AssertionError("began")

  monkeypatch.setattr(pack, "pack", computed)
  place = f"{DATA}/content/0.png"
  assert pack.main([f"--input={DATA}/style", f"--output={place}{below}"]) == 2
  error = capsys.readouterr().err
  assert f"--output: expected a folder to write to, got {place}" in error
  assert f"{place} is not a folder" in error
  with pytest.raises(ValueError, match=r"^workdir: .*0\.png is not a folder; use another --work"):
    loop.train_and_evaluate(bucket_config(DATA, 2, 2), expand(f"{place}{below}"))
  assert not [name for name in files_below(expand(f"{DATA}/content")) if "0.png/" in name]


@pytest.mark.slow
@pytest.mark.parametrize("status", [503, CUT])
def test_a_bucket_that_is_lost_while_pictures_are_made_ends_the_command_and_it_goes_on_later(
  bucket, monkeypatch, capsys, status
):
  """Not every picture waits for half a minute, and fails for itself."""
  without_waiting(monkeypatch)
  save_bundle(small_stylizer("adain"), "gs://runs/models/small.safetensors")
  out = expand(f"gs://runs/lost-{status}")
  command = [f"--content={DATA}/content", f"--style={DATA}/style/1.png", f"--output={out}/"]
  command += ["--model=gs://runs/models/small.safetensors", "--size=64"]
  uploaded, after = [], []

  def fault(method, url):
    if len(uploaded) > 1:  # the first is no picture, but shows that the folder takes files
      after.append(url)
      return status
    if method == "POST":
      uploaded.append(url)
    return None

  bucket.fault = fault
  try:
    assert stylize.main(command) == 1
  finally:
    bucket.fault = lambda *_: None
  (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
  assert line.startswith("error: gs://runs/") and line.endswith("rerun the same command later")
  assert {
    url for url in after if "content%2F1.png" not in url and "content/1.png" not in url
  } == set()
  assert sorted(files_below(out)) == ["0--1.png"]
  assert stylize.main(command) == 0
  assert len(files_below(out)) == 5
  assert images.load(out / "0--1.png").shape == (64, 64, 3)


@pytest.mark.slow
def test_a_picture_that_a_bucket_stops_taking_is_kept_on_this_machine(bucket, monkeypatch, capsys):
  without_waiting(monkeypatch)
  monkeypatch.setattr(stylize, "load_model", lambda *args, **kwargs: small_stylizer("adain"))
  command = [f"--content={DATA}/content/0.png", f"--style={DATA}/style/1.png", "--model=m"]
  posts = []

  def fault(method, url):
    posts.extend([url] * (method == "POST"))
    return 503 if method == "POST" and len(posts) > 1 else None

  bucket.fault = fault
  try:
    assert stylize.main([*command, "--output=gs://runs/lost/0.png"]) == 1
  finally:
    bucket.fault = lambda *_: None
  (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
  assert line.startswith("error: gs://runs/lost/0.png: the bucket does not answer as it should")
  (kept,) = Path(line.rpartition(" are kept in ")[2]).iterdir()
  assert kept.name == "0.png" and images.load(kept).shape == (72, 72, 3)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_of_which_requests_fail_now_and_then_is_the_run_without(
  bucket, unbroken, monkeypatch
):
  without_waiting(monkeypatch, attempts=6)
  workdir, count = expand("gs://runs/now-and-then"), 0

  def fault(method, url):
    nonlocal count
    count += 1
    return (CUT, LOST, HALF, 429, 503)[count // 7 % 5] if count % 7 == 0 else None

  bucket.fault = fault
  try:
    assert loop.train_and_evaluate(bucket_config(DATA, 6, 2), workdir) == 6
  finally:
    bucket.fault = lambda *_: None
  assert count > 200
  found, wanted = leaves(str(workdir), 6), leaves(unbroken, 6)
  assert found.keys() == wanted.keys()
  for name, leaf in found.items():
    np.testing.assert_array_equal(leaf, wanted[name], err_msg=name)
  assert losses_of(workdir) == losses_of(unbroken)
  assert newest_step(workdir) == 6 and not (workdir / ".lock").exists()


def saved(workdir: Path, *steps: int) -> TrainState:
  """Saves checkpoints, and returns the shapes of one."""
  for step in steps:
    state = TrainState(jnp.asarray(step), {"kernel": np.full((500, 3), step, np.float32)}, ())
    with Checkpoints(workdir, keep_last=len(steps)) as checkpoints:
      checkpoints.save(state)
      checkpoints.wait()
  return jax.eval_shape(lambda: state)


@pytest.mark.slow
@pytest.mark.parametrize("status", [403, 503])
@pytest.mark.parametrize("only", ["", "_CHECKPOINT_METADATA", "params%2F_METADATA", "%2Fd%2F"])
def test_a_bucket_that_fails_while_a_run_resumes_damages_no_checkpoint(
  bucket, monkeypatch, status, only
):
  without_waiting(monkeypatch)
  workdir = expand(f"gs://runs/resumes-{status}-{len(only)}")
  shapes = saved(workdir, 2, 4)
  kind = {403: "access is refused", 503: "rerun the same command later"}[status]
  with bucket.failing(status, only=only), pytest.raises(OSError) as failed:
    with Checkpoints(workdir) as checkpoints:
      checkpoints.restore(shapes)
  assert kind in str(failed.value) and "gs://runs/" in str(failed.value)
  assert "delete" not in str(failed.value) and "\n" not in str(failed.value)
  assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["2", "4"]
  with Checkpoints(workdir) as checkpoints:
    restored = checkpoints.restore(shapes)
  assert restored is not None and int(restored.step) == 4


@pytest.mark.parametrize("opens", ["new", "resumes"])
def test_an_account_that_may_not_see_a_bucket_is_told_the_role_before_anything_is_computed(
  bucket, monkeypatch, opens
):
  without_waiting(monkeypatch)
  workdir = expand(f"gs://runs/role-{opens}")
  if opens != "new":
    saved(workdir, 2)
  bucket.fault = lambda method, url: (
    403 if "/storage/v1/b/runs" in url and "/o" not in url.partition("/b/runs")[2] else None
  )
  try:
    with pytest.raises(CheckpointError) as failed:
      Checkpoints(workdir)
  finally:
    bucket.fault = lambda *_: None
  message = str(failed.value)
  assert "give it the role Storage Legacy Bucket Reader for the bucket" in message
  assert "rerun" not in message and "\n" not in message


@pytest.mark.slow
@pytest.mark.parametrize("status", [503, CUT, HALF])
def test_a_checkpoint_that_could_not_be_read_for_a_moment_is_read_again(
  bucket, monkeypatch, status
):
  without_waiting(monkeypatch)
  workdir = expand(f"gs://runs/moment-{status}")
  shapes = saved(workdir, 2, 4)
  left = [status] * 8  # more than one library repeats
  bucket.fault = lambda method, url: (
    left.pop() if left and "%2F4%2F" in url and ("ocdbt" in url or "%2Fd%2F" in url) else None
  )
  try:
    with Checkpoints(workdir) as checkpoints:
      restored = checkpoints.restore(shapes)
  finally:
    bucket.fault = lambda *_: None
  assert restored is not None and int(restored.step) == 4
  assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["2", "4"]


def test_a_bucket_that_does_not_answer_is_no_image_that_was_changed(bucket, monkeypatch):
  without_waiting(monkeypatch)
  source = open_source(f"{DATA}/content", role="content")
  manifest = scan(source, role="content", min_size=1)
  with bucket.failing(503, only="alt=media"):
    with pytest.raises(ConnectionError, match="rerun the same command later$"):
      Images(manifest, allowed_broken=5)


@pytest.mark.parametrize("status", [401, 403])
def test_a_bucket_that_refuses_access_midway_is_no_broken_image(
  bucket, status, monkeypatch, capsys
):
  without_waiting(monkeypatch)
  source, out = open_source(f"{DATA}/content", role="content"), f"gs://runs/refused-{status}"
  media = []

  def fault(method, url):
    media.extend([url] if "alt=media" in url and "content" in url else [])
    return status if len(media) > 2 else None

  bucket.fault = fault
  try:
    assert pack.main([f"--input={DATA}/content", f"--output={out}", "--workers=1"]) == 2
    with pytest.raises(PermissionError):
      scan(source, role="content", min_size=1)
  finally:
    bucket.fault = lambda *_: None
  (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
  assert "access is refused; run `gcloud auth" in line
  assert not (expand(out) / "packed.json").exists()


def test_a_packed_set_in_a_bucket_that_is_damaged_is_one_line(bucket, capsys):
  out = expand("gs://runs/damaged-set")
  arguments = [f"--input={DATA}/content", f"--output={out}", "--size=64"]
  assert pack.main(arguments) == 0
  manifest = scan(open_source(str(out), role="content"), role="content", min_size=1)
  shard = out / "images-00000.array_record"
  data = shard.read_bytes()
  shard.write_bytes(data[:500])
  with pytest.raises(
    ValueError, match=r"config.data.content: .*array_record: ends before .*; rest"
  ):
    Images(manifest)
  shard.unlink()
  with pytest.raises(ValueError, match=r"images-00000.array_record is missing; restore it"):
    Images(manifest)
  capsys.readouterr()
  assert pack.main(arguments) == 2
  (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
  assert "error: --output: gs://runs/damaged-set: damaged" in line
  assert "delete this one to pack" in line
  (out / "packed.json").write_text("")
  with pytest.raises(ValueError, match=r"gs://.*packed.json: not whole or not JSON.*pack the im"):
    open_source(str(out), role="content")
  assert pack.main(arguments) == 2
  assert re.match(f"error: --output: {out}/packed.json: not whole", capsys.readouterr().err)


def test_vgg_weights_that_are_not_in_a_bucket_are_one_error_that_names_the_setting(bucket):
  config = bucket_config(DATA, 2, 2)
  config.model.vgg_weights = "gs://runs/none"
  expected = "^config.model.vgg_weights: gs://runs/none: expected a file with VGG weights, there "
  with pytest.raises(ValueError, match=expected):
    loop.train_and_evaluate(config, expand("gs://runs/without-vgg"))


@pytest.mark.parametrize("place", ["gs://runs/none", "gs://nobucket/r"])
def test_what_is_not_in_a_bucket_is_said_to_be_missing_there(bucket, place, tmp_path, capsys):
  problem = f"'{place}' does not exist in the bucket, or there is no such bucket; check the name"
  with pytest.raises(ValueError, match=f"^model: {problem}$"):
    load_model(place)
  with pytest.raises(ValueError, match=f"^config.data.style: .*{problem}$"):
    open_source(place, role="style")
  assert pack.main([f"--input={place}", f"--output={tmp_path}/o"]) == 2
  assert f"error: --input: expected images in '{place}': folder: {problem}" in (
    capsys.readouterr().err
  )
  pictures = [f"--content={place}", f"--style={DATA}/style/1.png"]
  assert stylize.main([*pictures, f"--output={tmp_path}/o.png"]) == 2
  assert f"--content: no such file or folder, or no such bucket: {place}" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["gs://runs/none", "gs://no-such-bucket/none", "gs://nobucket"])
def test_a_folder_of_a_tfds_data_set_that_is_not_in_the_bucket_is_said_to_be_missing(bucket, place):
  pytest.importorskip("tensorflow_datasets")
  for split in ("", ":train[:90%]"):
    problem = "does not exist in the bucket, or there is no such bucket; check the name$"
    with pytest.raises(ValueError, match=f"^config.data.content: .*'{place}' {problem}"):
      open_source(f"tfds:{place}{split}", role="content")


def test_an_image_in_a_bucket_that_was_changed_since_it_was_packed_is_noticed(bucket, capsys):
  source, out = expand("gs://runs/photos"), "gs://runs/of-photos"
  names = files_below(expand(f"{DATA}/content"))
  first = (expand(f"{DATA}/content") / min(names)).read_bytes()
  for name in names:
    (source / name).write_bytes((expand(f"{DATA}/content") / name).read_bytes())
  arguments = [f"--input={source}", f"--output={out}", "--size=64"]
  assert pack.main(arguments) == 0
  before = len(bucket.requests)
  assert pack.main(arguments) == 0
  assert not [url for _, url in bucket.requests[before:] if "photos%2F0.png?alt" in url]
  (source / min(names)).write_bytes(first)  # again, but the same
  assert pack.main(arguments) == 0
  (source / min(names)).write_bytes(first[:-1] + b"x")
  capsys.readouterr()
  assert pack.main(arguments) == 2
  assert "0.png to 4.png was changed since then" in capsys.readouterr().err


def test_a_pack_that_a_bucket_stops_tidies_up_when_it_is_run_again(bucket, monkeypatch, capsys):
  without_waiting(monkeypatch)
  out = expand("gs://runs/tidied")
  arguments = [f"--input={DATA}/content", f"--output={out}", "--size=64"]
  deleted = []

  def fault(method, url):
    if method == "DELETE":
      deleted.append(url)
    return 503 if len(deleted) > 1 else None  # the first is of a list that a killed run has left

  bucket.fault = fault
  try:
    assert pack.main(arguments) == 2
  finally:
    bucket.fault = lambda *_: None
  assert capsys.readouterr().err.splitlines()[-1].endswith("rerun the same command later")
  assert pack.main(arguments) == 0
  left = {path.name for path in out.iterdir()} - {lock.NAME}
  assert left == {"packed.json", "images-00000.array_record"}


def test_a_run_starts_from_a_model_and_vgg_weights_in_a_bucket(bucket):
  from adaconv_jax.checkpoints.load import load_start
  from adaconv_jax.vgg import weights

  stylizer = small_stylizer("adain")
  save_bundle(stylizer, "gs://runs/models/adain.safetensors")
  packaged = (weights.PACKAGED / "vgg16.safetensors").read_bytes()
  expand("gs://runs/vgg/vgg16.safetensors").write_bytes(packaged)
  params, info = weights.load("vgg16", "gs://runs/vgg/vgg16.safetensors")
  assert info["path"] == "gs://runs/vgg/vgg16.safetensors"
  start = load_start(
    "gs://runs/models/adain.safetensors", stylizer.model, stylizer.vgg, params, info
  )
  assert start[1]["name"] == "adain" and len(start[1]["file_sha256"]) == 64


@pytest.mark.parametrize("fault", [CUT, LOST, HALF, 429, 503])
def test_weights_and_models_are_read_though_requests_fail_and_are_one_error_where_all_fail(
  bucket, monkeypatch, fault
):
  from adaconv_jax.vgg import weights

  without_waiting(monkeypatch)
  model, vgg = "gs://runs/read/adain.safetensors", "gs://runs/read/vgg16.safetensors"
  if not expand(model).exists():
    save_bundle(small_stylizer("adain"), model)
    expand(vgg).write_bytes((weights.PACKAGED / "vgg16.safetensors").read_bytes())
  for read in (lambda: weights.load("vgg16", vgg)[1]["arch"], lambda: load_model(model).vgg.arch):
    count = 0

    def every_third(method, url):
      nonlocal count
      count += 1
      return fault if count % 3 == 0 else None

    bucket.fault = every_third
    try:
      assert read() == "vgg16" and count >= 6
      bucket.fault = lambda method, url: fault if "alt=media" in url else None
      with pytest.raises(ConnectionError, match="^gs://runs/read/.*rerun the same command later$"):
        read()
    finally:
      bucket.fault = lambda *_: None
