"""What a running training writes and shows."""

import json
import struct
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from processes import full_disk
from tensorboardX.proto import event_pb2

from adaconv_jax import bars
from adaconv_jax.training import pace
from adaconv_jax.training import progress as module
from adaconv_jax.training.pace import Pace
from adaconv_jax.training.profile import Span, Tracer
from adaconv_jax.training.progress import Progress

EVENTS: Any = event_pb2


def events(workdir: Path) -> list[Any]:
  """What TensorBoard finds: records of length (8 bytes), its CRC (4), event and its CRC (4)."""
  found = []
  for path in sorted((workdir / "tensorboard").iterdir()):
    data = path.read_bytes()
    while data:
      (length,) = struct.unpack("<Q", data[:8])
      event = EVENTS.Event()
      event.ParseFromString(data[12 : 12 + length])
      found.append(event)
      data = data[16 + length :]
  return found


def tags(workdir: Path) -> set[tuple[int, str]]:
  return {(event.step, value.tag) for event in events(workdir) for value in event.summary.value}


def make(workdir: Path, **options) -> Progress:
  workdir.mkdir(exist_ok=True)
  options = {"start_step": 0, "num_steps": 1000, "batch_size": 2, "log_every_steps": 1} | options
  return Progress(workdir, **options)


def metrics(loss: float = 1.0) -> dict:
  return {"loss": jnp.full((1,), loss), "skipped_in_a_row": jnp.zeros((1,), jnp.int32)}


def test_what_is_logged_before_a_checkpoint_is_in_the_event_file(tmp_path):
  progress = make(tmp_path)
  for step in range(1, 61):
    progress.step(step, metrics())
  progress.flush()
  progress.sync()  # the process may be killed from here on
  assert {(step, "train/loss") for step in range(1, 61)} <= tags(tmp_path)
  progress.close()


def test_a_full_disk_names_what_is_written_also_when_a_run_ends(tmp_path):
  progress = make(tmp_path)
  (tmp_path / module.METRICS).write_text('{"step": 1}\n{"st')
  with full_disk():
    with pytest.raises(OSError) as logging:
      progress.heldout(1, {"loss": 1.0})
    with pytest.raises(OSError) as closing:
      progress.close()
    with pytest.raises(OSError) as starting:
      make(tmp_path)
  progress.close()  # there is room again
  names = [Path(raised.value.filename).name for raised in (logging, closing, starting)]
  assert names == [module.METRICS, "tensorboard", module.METRICS]


def test_heldout_losses_and_grids_are_in_the_event_file_when_their_own_files_are(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(module, "_stylize_all", lambda stylizer, contents, style: contents)
  progress = make(tmp_path)
  progress.heldout(20, {"content_loss": 2.0})
  assert (20, "heldout_content_loss") in tags(tmp_path)
  pictures = np.zeros((2, 16, 16, 3), np.float32)

  def save(*args, **kwargs):
    assert (20, "samples") in tags(tmp_path)
    raise OSError

  monkeypatch.setattr(module.images, "save", save)
  with pytest.raises(OSError):
    progress.grid(20, None, pictures, pictures)  # pyright: ignore[reportArgumentType]
  progress.close()


def test_a_resumed_run_hides_what_was_logged_after_its_first_step(tmp_path):
  make(tmp_path, start_step=40).close()
  (start,) = [event for event in events(tmp_path) if event.HasField("session_log")]
  assert start.step == 41 and start.session_log.status == start.session_log.START


@pytest.fixture
def clock(monkeypatch):
  """A clock that is set by hand."""
  times = [100.0]
  for other in (pace, bars):
    monkeypatch.setattr(other.time, "monotonic", lambda: times[0])
  return times


def test_speed_leaves_compilation_out_and_counts_pauses_that_come_again(clock):
  timed = Pace()
  with timed.pause(once=True):
    clock[0] += 300
  for step in range(40):
    timed.step()
    clock[0] += 2
    if step == 19:
      with timed.pause():
        clock[0] += 40
  timed.step()
  # 2 s a step and 40 s for 41 steps.
  assert 1 / timed.speed() == pytest.approx(2 + 40 / 41)
  interval = timed.interval()
  assert interval.steps == 41 and interval.seconds == pytest.approx(80)


def test_speed_is_that_of_the_present_program(clock):
  timed = Pace()
  assert timed.speed() == 0
  for seconds in (1, 5):
    timed.restart()
    for _ in range(4):
      timed.step()
      clock[0] += seconds
    assert timed.speed() == pytest.approx(1 / seconds)


def test_an_evaluation_that_compiles_first_is_not_expected_again(clock):
  timed = Pace()
  for _ in range(3):
    timed.step()
    clock[0] += 1
  with timed.pause(), timed.pause(once=True):
    clock[0] += 60
  assert timed.speed() == pytest.approx(1)


def test_the_log_has_step_time_images_per_second_and_the_share_of_waiting(tmp_path, clock):
  progress = make(tmp_path, log_every_steps=10)
  for step in range(1, 31):
    with progress.waiting():
      clock[0] += 1
    clock[0] += 3
    progress.step(step, metrics())
    if step == 15:
      with progress.pause("samples"):
        clock[0] += 500
  progress.flush()
  progress.close()
  line = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
  assert line["step"] == 30 and line["step_seconds"] == pytest.approx(3.6)
  assert line["images_per_second"] == pytest.approx(2 / 3.6)
  assert line["waiting"] == pytest.approx(9 / 36)


@pytest.mark.parametrize(("waited", "warned"), [(2, 1), (0.5, 0)])
def test_much_waiting_is_reported_once_with_the_setting_that_helps(
  tmp_path, clock, caplog, waited, warned
):
  progress = make(tmp_path, log_every_steps=50)
  for step in range(1, 802):
    with progress.waiting():
      clock[0] += waited
    clock[0] += 2
    progress.step(step, metrics())
  progress.close()
  lines = [record.getMessage() for record in caplog.records if "waits" in record.getMessage()]
  assert len(lines) == warned
  assert all("config.data.num_workers" in line and "adaconv pack" in line for line in lines)


def test_the_line_shows_the_phase_and_what_a_pause_is(tmp_path, clock, capsys):
  progress = make(tmp_path)
  progress.phase("ramp")
  with progress.pause("compiling (transfer)", once=True):
    clock[0] += 100
  for step in range(1, 12):
    clock[0] += 10
    progress.step(step, metrics())
  progress.close()
  first, *lines = capsys.readouterr().err.splitlines()
  assert first.startswith("ramp, compiling (transfer): 0/1000 steps")
  assert lines[-1].startswith("ramp: 11/1000 steps") and "\r" not in "".join(lines)
  # 990 steps of 10 s; the compilation is not counted.
  assert "2:44:50 left" in lines[-1] and "loss=1, step=10 s" in lines[-1]


@pytest.mark.parametrize("text", ["", "5", "5:", "9:5", "0:3", "a:b", "1:2:3", "-1:3"])
def test_a_profile_needs_two_steps_in_order(text):
  with pytest.raises(ValueError, match=f"^--profile: expected the first .*, got '{text}'"):
    Span.parse(text)


def test_a_profile_has_the_steps_of_its_span_and_is_written_once(tmp_path, monkeypatch):
  calls = []
  monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: calls.append(folder))
  monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append("written"))
  for start, end, traced in ((1, 9, [3, 4, 5]), (4, 9, [4, 5]), (1, 4, [3, 4]), (6, 9, [])):
    calls.clear()
    tracer = Tracer(tmp_path, Span.parse("3:5"))
    recorded = []
    for step in range(start, end + 1):
      if tracer.is_first(step):
        tracer.start()
      recorded += [step] * (calls == [tmp_path / "profile"])
      if tracer.after(step):
        tracer.close()
    tracer.close()
    assert recorded == traced and calls == [tmp_path / "profile", "written"] * bool(traced)


def test_a_profile_is_what_tensorboard_reads(tmp_path):
  tracer = Tracer(tmp_path, Span(1, 1))
  tracer.start()
  jnp.ones(3).block_until_ready()
  tracer.close()
  assert list((tmp_path / "profile").rglob("*.xplane.pb"))
