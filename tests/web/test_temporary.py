"""The folder of uploads and results is bounded."""

import os
import time

import pytest

from adaconv_jax.web.temporary import EVERY, Temporary


@pytest.fixture
def temporary():
  made = Temporary(max_age=100, max_bytes=25)
  yield made
  made.remove()


def write(temporary, name, *, age, size=10):
  path = temporary.path / name / "file"
  path.parent.mkdir()
  path.write_bytes(b"x" * size)
  then = time.time() - age
  for each in (path, path.parent):
    os.utime(each, (then, then))
  return path


def test_old_files_are_deleted_with_their_folders(temporary):
  old, new = write(temporary, "old", age=200), write(temporary, "new", age=1)
  assert temporary.sweep() == 1
  assert not old.exists() and new.exists()
  then = time.time() - 2 * EVERY
  os.utime(old.parent, (then, then))  # deleting has changed it
  temporary.sweep()
  assert not old.parent.exists() and new.exists()


def test_the_oldest_files_are_deleted_where_all_are_too_many(temporary):
  paths = [write(temporary, str(age), age=age) for age in (30, 20, 10, 5)]
  assert temporary.sweep() == 2
  assert [path.exists() for path in paths] == [False, False, True, True]


def test_an_empty_folder_of_an_upload_that_has_just_begun_stays(temporary):
  (temporary.path / "begun").mkdir()
  temporary.sweep()
  assert (temporary.path / "begun").is_dir()


def test_the_folder_goes_with_all_in_it(temporary):
  write(temporary, "a", age=0)
  temporary.keep_swept()
  temporary.remove()
  assert not temporary.path.exists()


def test_only_this_user_can_read_the_folder(temporary):
  assert os.name != "posix" or temporary.path.stat().st_mode & 0o077 == 0
