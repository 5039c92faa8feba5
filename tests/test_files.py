import errno
import os
import subprocess
import sys
import time
from typing import Any

import pytest

from adaconv_jax import files
from adaconv_jax.files import described, replacing


def test_a_file_appears_only_when_the_block_is_left(tmp_path):
  path = tmp_path / "folder" / "image.png"
  with replacing(path) as temporary:
    assert temporary.parent == path.parent and temporary.suffix == ".png"
    temporary.write_text("new")
    assert not path.exists()
  assert path.read_text() == "new"
  assert list(path.parent.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
  path = tmp_path / "file"
  path.write_text("old")
  with pytest.raises(RuntimeError, match="half"), replacing(path) as temporary:
    temporary.write_text("half")
    raise RuntimeError("half")
  assert path.read_text() == "old"
  assert list(tmp_path.iterdir()) == [path]


def test_two_writers_do_not_touch_each_others_temporary_file(tmp_path):
  with replacing(tmp_path / "file") as first, replacing(tmp_path / "file") as second:
    assert first != second
    first.write_text("first")
    second.write_text("second")
  assert (tmp_path / "file").read_text() == "first"  # the last to finish


def no_links(*_):
  raise OSError(errno.EPERM, "Operation not permitted")


@pytest.mark.parametrize("links", [True, False])
def test_of_several_writers_that_may_not_overwrite_the_first_to_finish_wins(
  tmp_path, monkeypatch, links
):
  if not links:
    monkeypatch.setattr(os, "link", no_links)
  path = tmp_path / "file"
  with pytest.raises(FileExistsError, match="made it meanwhile; --overwrite") as raised:
    with replacing(path, overwrite=False) as slow:
      with replacing(path, overwrite=False) as fast:
        fast.write_text("fast")
      slow.write_text("slow")
  assert raised.value.filename == str(path)
  assert path.read_text() == "fast"
  assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("links", [True, False])
def test_a_link_that_leads_nowhere_is_no_file_that_would_be_overwritten(
  tmp_path, monkeypatch, links
):
  if not links:
    monkeypatch.setattr(os, "link", no_links)
  path = tmp_path / "file"
  path.symlink_to("nowhere")
  with replacing(path, overwrite=False) as temporary:
    temporary.write_text("new")
  assert path.read_text() == "new" and not path.is_symlink()


def test_an_error_of_the_disk_is_not_taken_for_missing_links(tmp_path, monkeypatch):
  def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(os, "link", full)
  with pytest.raises(OSError, match="No space left") as raised:
    with replacing(tmp_path / "file", overwrite=False) as temporary:
      temporary.write_text("new")
  assert raised.value.filename == str(tmp_path / "file")
  assert not list(tmp_path.iterdir())


WRITES = """
import sys, time
from adaconv_jax.files import replacing
with replacing(sys.argv[1]) as temporary:
  temporary.write_text("half")
  print(temporary.name, flush=True)
  time.sleep(60)
"""


def test_the_rest_of_a_killed_process_is_removed_and_that_of_a_live_one_is_not(tmp_path):
  path = tmp_path / "image.png"
  writers: list[Any] = [
    subprocess.Popen([sys.executable, "-c", WRITES, path], stdout=subprocess.PIPE, text=True)
    for _ in range(2)
  ]
  try:
    killed, alive = (writer.stdout.readline().strip() for writer in writers)
    assert {entry.name for entry in tmp_path.iterdir()} == {killed, alive}
    writers[0].kill()
    writers[0].wait()
    files._remove_rests.cache_clear()
    with replacing(tmp_path / "another.png") as temporary:
      temporary.write_text("whole")
      assert {entry.name for entry in tmp_path.iterdir()} == {alive, temporary.name}
  finally:
    for writer in writers:
      writer.kill()
      writer.communicate()


@pytest.mark.parametrize(
  ("change", "hours", "removed"),
  [
    ("nothing", 48, False),
    ("start", 0, True),  # its number was given to another process
    ("process", 0, True),
    ("space", 0, False),  # of another computer: nobody knows
    ("space", 48, True),
    ("name", 48, False),
  ],
)
def test_a_temporary_file_is_removed_only_if_its_process_is_gone(tmp_path, change, hours, removed):
  with replacing(tmp_path / "image.png") as temporary:
    temporary.write_text("half")
    _, space, process, start, token = temporary.stem.split("-")
  parts = {"space": space, "process": process, "start": start}
  others = {"space": "0" * 12, "process": str(2**22 + 1), "start": "1"}
  if change in parts:
    parts[change] = others[change]
  name = "-".join((".part", *parts.values(), token)) + ".png"
  rest = tmp_path / (".other" + name if change == "name" else name)
  rest.write_text("half")
  os.utime(rest, times=(time.time() - 3600 * hours,) * 2)
  files._remove_rests.cache_clear()
  with replacing(tmp_path / "image.png") as temporary:
    temporary.write_text("whole")
  assert rest.exists() != removed


def test_error_of_a_full_disk_names_the_file_and_not_its_temporary_name(tmp_path):
  for name in (None, "temporary"):
    with pytest.raises(OSError) as raised:
      with files.replacing(tmp_path / "out.txt") as temporary:
        # As of a file object, whose errors name no file, and as of `open`.
        raise OSError(errno.ENOSPC, "No space left on device", name and str(temporary))
    assert described(raised.value) == f"{tmp_path / 'out.txt'}: No space left on device"
    assert str(raised.value).endswith("No space left on device: " + repr(str(tmp_path / "out.txt")))
  with pytest.raises(OSError) as raised, files.replacing(tmp_path / "out.txt"):
    raise OSError(errno.EIO, "Input/output error")  # maybe of what is read
  assert raised.value.filename is None
