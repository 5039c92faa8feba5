"""Of several processes that train together, one fails: all end with an error, in time."""

import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
from processes import end, free_address, start, wait_until
from small_runs import reconstruction_config, trained_state, write_images

from adaconv_jax.checkpoints.record import newest_step
from adaconv_jax.training import hosts

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CONFIG = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from small_runs import reconstruction_config

def get_config():
  config = reconstruction_config(Path({folder!r}), 100_000)
  config.checkpoint_every_steps = 2
  return config
"""


@pytest.fixture
def folder(tmp_path):
  write_images(tmp_path)
  text = CONFIG.format(tests=str(Path(__file__).parents[1]), folder=str(tmp_path))
  (tmp_path / "config.py").write_text(text)
  return tmp_path


def start_two(folder: Path, *, workdirs=("run", "run"), of_second: Sequence[str] = ()):
  address = free_address()
  return [
    start(
      "train.py", "--config", folder / "config.py", "--workdir", folder / workdir,
      f"--coordinator={address}", "--num-processes=2", f"--process-id={index}", *own,
    )
    for index, (workdir, own) in enumerate(zip(workdirs, ((), of_second), strict=True))
  ]  # fmt: skip


def whole_step(folder: Path) -> int:
  """The step of the newest checkpoint, which can be restored."""
  return int(trained_state(reconstruction_config(folder, 100_000), folder / "run").step)


def wait_for_checkpoint(folder: Path, processes) -> None:
  wait_until(lambda: newest_step(folder / "run"), *processes)


def test_error_of_one_process_in_the_loop_ends_both_and_keeps_the_checkpoint(folder):
  processes = start_two(folder)
  wait_for_checkpoint(folder, processes)
  metrics = folder / "run" / "metrics.jsonl"
  metrics.unlink()
  metrics.mkdir()  # only the first process writes it
  ends = [end(process, within=60) for process in processes]
  assert ends[0][0] == 1 and ends[1][0] not in (0, None), ends
  assert ends[0][1].splitlines()[-1] == f"error: {metrics}: Is a directory", ends[0][1]
  assert whole_step(folder) >= 2


@pytest.mark.parametrize("index", [0, 1])
def test_death_of_one_process_ends_the_other_and_keeps_the_checkpoint(folder, index):
  processes = start_two(folder)
  wait_for_checkpoint(folder, processes)
  processes[index].send_signal(signal.SIGKILL)
  code, output = end(processes[1 - index], within=60)
  assert code == 1, output
  assert output.splitlines()[-1] == f"error: {hosts.LOST}", output
  processes[index].communicate()
  assert whole_step(folder) >= 2


def test_error_of_one_process_before_the_loop_ends_both(folder):
  fcntl = pytest.importorskip("fcntl")
  (folder / "run").mkdir()
  with open(folder / "run" / ".lock", "a+") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)  # only the first process takes it
    processes = start_two(folder)
    ends = [end(process, within=120) for process in processes]
  assert ends[0][0] == 1 and ends[1][0] not in (0, None), ends
  assert "is training in" in ends[0][1].splitlines()[-1]


def test_error_of_both_is_a_line_of_each(folder):
  (folder / "content" / "0.png").unlink()
  for path in (folder / "content").iterdir():
    path.write_bytes(b"")
  ends = [end(process, within=120) for process in start_two(folder)]
  assert [code for code, _ in ends] == [1, 1], ends
  for _, output in ends:
    assert "no usable image" in output.splitlines()[-1]


@pytest.mark.parametrize(
  "workdir, own, message",
  [
    (
      "run", "--config.optimizer.learning_rate=0.01",
      "config.optimizer.learning_rate is 0.0001 in process 0 and 0.01 in process 1",
    ),
    ("run", "--config.data.style={folder}/content", "the list of style images is "),
    ("other", "--config.data.num_workers=0", "workdir: expected one folder for all processes"),
  ],
)  # fmt: skip
def test_processes_that_would_train_apart_end_before_anything_is_written(
  folder, workdir, own, message
):
  own = own.format(folder=folder)
  processes = start_two(folder, workdirs=("run", workdir), of_second=[own])
  for code, output in [end(process, within=120) for process in processes]:
    assert code == 1 and "error: " in output and message in output, output
  assert not (folder / "run" / "config.json").exists()
