"""Progress bars in terminals and log files."""

import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from tqdm import tqdm

from adaconv_jax import bars
from adaconv_jax.bars import Bar

ROOT = Path(__file__).parents[1]
SHOW = """
from adaconv_jax.bars import Bar
with Bar(total=3, unit="step", mininterval=0) as bar:
  for _ in range(3):
    bar.update()
"""


def shown_in_terminal(code: str, rows: int, columns: int) -> str:
  """What a program writes to a pseudo-terminal of a size."""
  leader, follower = pty.openpty()
  import fcntl

  fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
  environment = os.environ | {"PYTHONPATH": str(ROOT)}
  process = subprocess.Popen(
    [sys.executable, "-c", code], stderr=follower, stdout=follower, env=environment
  )
  os.close(follower)
  parts = []
  while True:
    try:
      part = os.read(leader, 4096)
    except OSError:  # Linux, once the other end is closed
      break
    if not part:
      break
    parts.append(part)
  os.close(leader)
  assert process.wait(60) == 0
  return b"".join(parts).decode()


@pytest.mark.parametrize("size", [(0, 0), (24, 80)])
def test_a_bar_is_shown_in_a_terminal_whose_size_is_unknown_too(size):
  shown = shown_in_terminal(SHOW, *size)
  assert "3/3" in shown and "step/s]" in shown and "\r" in shown
  assert all(len(line) <= 80 for line in shown.replace("\n", "\r").split("\r"))


@pytest.fixture
def clock(monkeypatch):
  """A clock that is set by hand."""
  times = [100.0]
  monkeypatch.setattr(bars.time, "monotonic", lambda: times[0])
  return times


def test_a_log_file_gets_whole_lines_now_and_then_and_a_last_one(clock):
  log = io.StringIO()
  with Bar(total=200, unit="image", desc="packing", file=log, mininterval=0) as bar:
    for _ in range(200):
      clock[0] += 1
      bar.update()
  text = log.getvalue()
  assert "\r" not in text and text.endswith("\n")
  lines = text.splitlines()
  assert [line.split(",")[0] for line in lines] == [
    *(f"packing: {n}/200 images ({n // 2}%)" for n in range(30, 200, 30)),
    "packing: 200/200 images (100%)",
  ]


def test_messages_beside_a_bar_do_not_repeat_it_in_a_log_file():
  log = io.StringIO()
  with Bar(total=4, unit="image", file=log) as bar:
    bar.update()
    tqdm.write("error: bad.png", file=log)
    bar.set_postfix(loss=1)
  first, last = log.getvalue().splitlines()
  assert first == "error: bad.png" and last.startswith("1/4 images (25%)")


def test_a_bar_of_unknown_length_counts_in_a_log_file():
  log = io.StringIO()
  with Bar(unit="frame", file=log) as bar:
    bar.update(3)
  assert log.getvalue().startswith("3 frames, ")


def test_a_known_speed_gives_the_time_left():
  log = io.StringIO()
  with Bar(total=100, initial=40, unit="step", file=log) as bar:
    bar.speed = 0.5
    bar.update(10)
    assert re.search("01:40 left, +2.00s/step", str(bar))
    bar.speed = 0.0
    assert "? left" in str(bar)
