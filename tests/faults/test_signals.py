"""A signal at any moment saves, or ends the run at once where there is nothing to save."""

import signal
import subprocess
import time
from pathlib import Path

import pytest
from processes import end, free_address, read_until, start, wait_until
from small_runs import write_images

BOTH = [signal.SIGTERM, signal.SIGINT]
needs_hangup = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has none")

WAIT = """
import ctypes, sys, time
from adaconv_jax.training.hosts import StopRequest

with StopRequest() as stop:
  stop.at(3, 10)
  print("ready", flush=True)
  if sys.argv[1] == "python":
    time.sleep(60)
  elif sys.argv[1] == "library":  # Python runs no handler meanwhile, as in a compilation
    ctypes.CDLL(None).system(b"exec sleep 20 >/dev/null 2>&1")
  else:
    with stop.saving():
      print("saving", flush=True)
      while not stop.reached(3):
        time.sleep(0.05)
      if sys.argv[1] == "stuck":
        print("asked", flush=True)
        time.sleep(60)
    sys.exit(stop.exit_code)
"""


@pytest.mark.parametrize(
  ("place", "number"), [("python", signal.SIGINT), ("library", signal.SIGTERM)]
)
def test_signal_where_nothing_is_to_be_saved_ends_the_process_at_once(place, number):
  process = start("-c", WAIT, place)
  read_until(process, "ready")
  time.sleep(0.3)
  process.send_signal(number)
  code, output = end(process, within=10)
  assert (code, output.splitlines()[-1]) == (128 + number, "stopped at step 3 of 10")


@pytest.mark.parametrize("number", BOTH)
def test_signal_in_the_loop_asks_to_save_and_the_exit_code_names_it(number):
  process = start("-c", WAIT, "loop")
  read_until(process, "saving")
  process.send_signal(number)
  assert end(process, within=10)[0] == 128 + number


@needs_hangup
def test_closed_terminal_asks_to_save_unless_nohup_is_used():
  process = start("-c", WAIT, "loop")
  read_until(process, "saving")
  process.send_signal(signal.SIGHUP)
  assert end(process, within=10)[0] == 129
  ignoring = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)"
  process = start("-c", f"{ignoring}{WAIT}", "loop")
  read_until(process, "saving")
  process.send_signal(signal.SIGHUP)
  time.sleep(0.5)
  process.send_signal(signal.SIGTERM)
  assert end(process, within=10)[0] == 143


def test_second_signal_ends_the_process_at_once():
  process = start("-c", WAIT, "stuck")
  read_until(process, "saving")
  process.send_signal(signal.SIGTERM)
  read_until(process, "asked")
  process.send_signal(signal.SIGINT)
  code, output = end(process, within=10)
  assert (code, output.splitlines()[-1]) == (130, "stopped at step 3 of 10")


# The main thread writes at the worst moments; "%s" is what it does.
RACE = """
import os, sys, threading, time
from adaconv_jax.training.hosts import StopRequest

leaves, wrote, real_exit = threading.Event(), threading.Event(), os._exit

def exit_late(code):
  leaves.set()  # the last line is written; now let the main thread write another one
  wrote.wait(10)
  real_exit(code)

stop = StopRequest()
stop.at(3, 10)
%s
"""
AFTER_THE_LAST_LINE = """
os._exit = exit_late
print("ready", flush=True)
leaves.wait(20)
print("a late line", file=sys.stderr, flush=True)
print("another", flush=True)
os.write(2, b"one of a library\\n")
wrote.set()
time.sleep(20)
"""
IN_A_LINE = """
stop.bar_is_shown = True
print("ready", flush=True)
sys.stderr.write("\\r 30%| 3/10")
sys.stderr.flush()
time.sleep(20)
"""
IN_A_FULL_PIPE = """
print("ready", flush=True)
os.set_blocking(1, False)
wrote = 1
while wrote:  # again, for the test may still have read from it
  wrote = 0
  try:
    while True:
      wrote += os.write(1, b"x")
  except BlockingIOError:
    time.sleep(0.2)
os.set_blocking(1, True)
print("y", flush=True)  # waits for a reader, and has the lock of the stream
time.sleep(20)  # the signal may wake it once its line goes nowhere
"""
WRITING_THE_LAST_LINE = """
with stop.leaving(0):
  print("ready", flush=True)
  time.sleep(0.5)  # the signal comes now
  print("done", flush=True)
time.sleep(20)
"""
AFTER_THE_END = """
with stop.leaving(7):
  print("ready", flush=True)
time.sleep(20)
"""


@pytest.mark.parametrize("number", BOTH)
@pytest.mark.parametrize(
  "place", [AFTER_THE_LAST_LINE, IN_A_LINE], ids=["another line follows", "a bar is shown"]
)
def test_line_of_the_step_is_the_last_one_whatever_is_written_meanwhile(place, number):
  process = start("-c", RACE % place)
  read_until(process, "ready")
  time.sleep(0.5)
  process.send_signal(number)
  code, output = end(process, within=15)
  assert (code, output.splitlines()[-1]) == (128 + number, "stopped at step 3 of 10"), output


@pytest.mark.slow
@pytest.mark.parametrize("one_pipe", [False, True])
def test_signal_ends_a_process_that_waits_for_the_reader_of_a_pipe(one_pipe):
  process = start(
    "-c", RACE % IN_A_FULL_PIPE, stderr=subprocess.STDOUT if one_pipe else subprocess.PIPE
  )
  read_until(process, "ready")
  time.sleep(2)  # the pipe is full
  process.send_signal(signal.SIGTERM)
  assert process.wait(10) == 143
  if not one_pipe:
    assert process.stderr is not None
    assert process.stderr.read() == "stopped at step 3 of 10\n"
  process.communicate()


@pytest.mark.parametrize(
  ("place", "code", "last"),
  [(WRITING_THE_LAST_LINE, 0, "done"), (AFTER_THE_END, 7, "ready")],
  ids=["in the last line", "after it"],
)
def test_signal_at_the_end_changes_neither_the_last_line_nor_the_exit_code(place, code, last):
  process = start("-c", RACE % place)
  read_until(process, "ready")
  process.send_signal(signal.SIGINT)
  assert (*end(process, within=10),) == (code, f"{last}\n" if last != "ready" else "")


SLOW_IMPORT = """
import sys, time

class Slow:
  def find_spec(self, name, *args):
    if name == "jax":
      print("imports", flush=True)
      time.sleep(20)

sys.meta_path.insert(0, Slow())
from adaconv_jax.cli.main import cli
cli()
"""


@pytest.mark.parametrize("number", BOTH)
@pytest.mark.parametrize("command", ["train", "stylize"])
def test_signal_during_the_imports_is_one_line(command, number):
  process = start("-c", SLOW_IMPORT, command)
  read_until(process, "imports")
  process.send_signal(number)
  assert (*end(process, within=10),) == (128 + number, "stopped before it began\n")


# A command that is busy in a library, with half of a file written.
BUSY = """
import hashlib, os, sys
from adaconv_jax.cli import export, main
from adaconv_jax.files import replacing

def busy(argv, *, prog):
  with replacing(os.path.join(argv[0], "made.txt")) as temporary:
    temporary.write_text("half")
    print("busy", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"x", b"y", 10**9)  # in C, and takes minutes
  return 0

export.main = busy
main.cli()
"""


@pytest.mark.parametrize(
  ("number", "line"),
  [
    (signal.SIGINT, "interrupted"),
    (signal.SIGTERM, "ended by SIGTERM"),
    pytest.param(
      getattr(signal, "SIGHUP", 0), "ended by SIGHUP", marks=[needs_hangup, pytest.mark.slow]
    ),
  ],
)
@pytest.mark.parametrize("times", [1, 2])
def test_signal_during_a_computation_is_one_line_and_leaves_no_half_file(
  tmp_path, number, line, times
):
  (tmp_path / "made.txt").write_text("whole")
  process = start("-c", BUSY, "export", tmp_path)
  read_until(process, "busy")
  time.sleep(0.3)
  for _ in range(times):
    process.send_signal(number)
  whole = f"{line}; what is written so far is whole\n"
  assert (*end(process, within=10),) == (128 + number, whole)
  assert [path.name for path in tmp_path.iterdir()] == ["made.txt"]
  assert (tmp_path / "made.txt").read_text() == "whole"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_last_line_of_a_pack_that_a_signal_ends_says_that_the_command_goes_on(tmp_path, number):
  process = start("-c", BUSY.replace("export", "pack"), "pack", tmp_path)
  read_until(process, "busy")
  time.sleep(0.3)
  process.send_signal(number)
  code, output = end(process, within=10)
  assert code == 128 + number
  assert output.endswith("; what is written so far is whole; rerun the same command to resume\n")


AT_THE_END = """
import atexit, os, sys
from time import sleep
from adaconv_jax.cli import export, main

class Slow:  # in the very last moment, when Python has no handlers any more
  def __del__(self):
    os.write(1, b"ends\\n")
    sleep(1)

def ends():  # before it
  os.write(1, b"ends\\n")
  sleep(1)

if sys.argv[2] == "atexit":
  atexit.register(ends)
else:
  main.kept = Slow()
export.main = lambda argv, *, prog: 3
main.cli()
"""


@pytest.mark.parametrize(
  ("place", "number"), [("atexit", signal.SIGINT), ("__del__", signal.SIGTERM)]
)
def test_signal_after_a_command_changes_neither_its_exit_code_nor_its_output(place, number):
  process = start("-c", AT_THE_END, "export", place)
  read_until(process, "ends")
  process.send_signal(number)
  assert (*end(process, within=10),) == (3, "")


WAITS = """
import threading
from adaconv_jax.cli import export, main

def fails(argv, *, prog):
  threading.Thread(target=threading.Event().wait).start()  # Python waits for it at its end
  if argv == ["fault"]:
    raise RuntimeError("a fault")
  raise SystemExit("error: no room")

export.main = fails
main.cli()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
  ("argument", "line"),
  [("", "error: no room"), ("fault", "a fault")],
)
def test_command_that_fails_does_not_wait_for_the_threads_of_libraries(argument, line):
  code, output = end(start("-c", WAITS, "export", argument), within=20)
  assert code == 1
  assert output.endswith(f"{line}\n")


REAL = """
import sys
from adaconv_jax.cli import export, main, render_files
from adaconv_jax.evaluation import evaluator

def shows(function):
  def then(*args, **kwargs):
    print("computes", flush=True)
    return function(*args, **kwargs)
  return then

render_files.encode_content = shows(render_files.encode_content)
render_files.render_encoded = shows(render_files.render_encoded)
evaluator.Evaluator.render = shows(evaluator.Evaluator.render)
export.save_bundle = shows(export.save_bundle)
main.cli()
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", BOTH)
@pytest.mark.parametrize("wait", [0, 0.5])
@pytest.mark.parametrize("command", ["stylize", "evaluate", "export"])
def test_signal_during_the_computation_of_a_command_has_its_exit_code(
  tmp_path, monkeypatch, command, wait, number
):
  write_images(tmp_path, 2)
  monkeypatch.setenv("ADACONV_CACHE", str(tmp_path / "empty"))
  pictures = ["--content", tmp_path / "content", "--style", tmp_path / "style"]
  pictures += ["--output", tmp_path / "made", "--size", 400]
  arguments = {
    "stylize": ["--model", "adain", *pictures],
    "evaluate": ["--model", "adain", *pictures],
    "export": ["adaconv", tmp_path / "made" / "m.safetensors"],
  }[command]
  process = start("-c", REAL, command, *arguments)
  read_until(process, "computes")
  time.sleep(wait)
  process.send_signal(number)
  code, output = end(process, within=10)
  assert code in ((128 + number, 0) if command == "export" else (128 + number,)), output
  if code:
    assert output.splitlines()[-1].endswith("; what is written so far is whole"), output
  assert "Traceback" not in output
  assert not [path for path in (tmp_path / "made").glob("**/.*")]


CONFIG_THAT_WAITS = """
import time
print("reads", flush=True)
time.sleep(20)
"""


@pytest.mark.parametrize("number", BOTH)
def test_signal_while_the_config_is_read_is_one_line(tmp_path, number):
  (tmp_path / "slow.py").write_text(CONFIG_THAT_WAITS)
  process = start("train.py", "--config", tmp_path / "slow.py", "--workdir", tmp_path / "run")
  read_until(process, "reads")
  process.send_signal(number)
  assert (*end(process, within=10),) == (128 + number, "stopped before it began\n")
  assert not (tmp_path / "run").exists()


WORKERS_START = """
import multiprocessing, os, signal, sys, threading, time
from adaconv_jax.data.batches import CropSpec, make_batches
from adaconv_jax.data.manifest import Images, scan
from adaconv_jax.data.sources import open_source
from adaconv_jax.training.hosts import StopRequest

def signal_them():
  while not multiprocessing.active_children():
    time.sleep(0.01)
  for _ in range(40):  # from the start of their interpreters until they have imported everything
    os.killpg(0, int(sys.argv[2]))
    time.sleep(0.05)

if __name__ == "__main__":
  images = [
    Images(scan(open_source(f"{sys.argv[1]}/{role}", role=role), role=role, min_size=64))
    for role in ("content", "style")
  ]
  # As in a run that is to be saved, but takes any number of signals.
  os.setpgid(0, 0)
  stop = StopRequest()
  stop._end = lambda number: None
  threading.Thread(target=signal_them).start()
  crops = {"content_crop": CropSpec(64, 48), "style_crop": CropSpec(64, 48)}
  with stop.saving():
    with make_batches(*images, **crops, batch_size=2, seed=0, num_workers=2) as batches:
      for _ in range(4):
        next(batches)
  print("batches", stop.signal)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_to_the_group_spares_workers_that_are_still_starting(tmp_path, number):
  write_images(tmp_path)
  (tmp_path / "script.py").write_text(WORKERS_START)
  process = start(tmp_path / "script.py", tmp_path, int(number))
  code, output = end(process, within=60)
  assert (code, output.splitlines()[-1:]) == (0, [f"batches {int(number)}"]), output
  assert "Traceback" not in output


def quickstart(folder: Path, *flags: str) -> list[object]:
  return [
    "train.py", "--config", "configs/quickstart.py", "--workdir", folder / "run",
    "--config.num_steps=100000", "--config.reconstruct_steps=100000", *flags,
  ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("number", BOTH)
@pytest.mark.parametrize("moment", ["starting from", "training on"])
def test_signal_before_the_first_step_ends_the_training_within_seconds(tmp_path, moment, number):
  process = start(*quickstart(tmp_path))
  read_until(process, moment)
  if moment == "training on":
    time.sleep(2)  # it compiles
  process.send_signal(number)
  code, output = end(process, within=10)
  assert (code, output.splitlines()[-1]) == (128 + number, "stopped at step 0 of 100000")
  assert "Traceback" not in output


@pytest.mark.slow
@pytest.mark.parametrize("number", BOTH)
def test_signal_in_the_loop_saves_and_a_script_does_not_go_on(tmp_path, number):
  process = start(*quickstart(tmp_path, "--config.log_every_steps=1"))
  wait_until((tmp_path / "run" / "metrics.jsonl").exists, process)
  process.send_signal(number)
  code, output = end(process, within=60)
  steps = [int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir() if p.name.isdecimal()]
  assert code == 128 + number and len(steps) == 1, output
  assert output.splitlines()[-1] == f"stopped at step {steps[0]} of 100000"


HANGUP = pytest.param(getattr(signal, "SIGHUP", 0), (1,), marks=needs_hangup)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("number", "receivers"),
  [(signal.SIGTERM, (0, 1)), (signal.SIGTERM, (1,)), (signal.SIGINT, (0, 1)), HANGUP],
)
def test_signal_to_one_or_all_of_two_processes_saves_one_step_of_both(tmp_path, number, receivers):
  write_images(tmp_path)
  processes = start_two(tmp_path)
  wait_until((tmp_path / "run" / "metrics.jsonl").exists, *processes)
  for index in receivers:
    processes[index].send_signal(number)
  ends = [end(process, within=60) for process in processes]
  assert [code for code, _ in ends] == [128 + number] * 2, ends
  lines = {output.splitlines()[-1] for _, output in ends}
  steps = [int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir() if p.name.isdecimal()]
  assert lines == {f"stopped at step {steps[0]} of 100000"} and len(steps) == 1


def start_two(folder: Path) -> list[subprocess.Popen]:
  address = free_address()
  script = Path(__file__).with_name("stopped_run.py")
  return [start(script, folder, address, 2, index) for index in range(2)]


@pytest.mark.slow
def test_data_error_of_one_of_two_processes_saves_what_both_have_done(tmp_path):
  write_images(tmp_path)
  (tmp_path / "fails").touch()
  ends = [end(process, within=120) for process in start_two(tmp_path)]
  assert [code for code, _ in ends] == [1, 1], ends
  assert "another process could not make its next batch" in ends[0][1]
  assert "a worker died" in ends[1][1]
  steps = [int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir() if p.name.isdecimal()]
  assert steps == [3]
