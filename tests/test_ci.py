"""The scripts of .ci."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


def script(name: str) -> Any:
  """A script of .ci as a module; the folder's name is none for an import."""
  spec = importlib.util.spec_from_file_location(name, ROOT / ".ci" / f"{name}.py")
  assert spec and spec.loader
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


# --- commit subjects ---


@pytest.mark.parametrize(
  "subject",
  ["Add a mask to stylize", "Pass the seed on", "Need less memory", "Focus on AdaIN", "A" * 72],
)
def test_an_order_of_up_to_72_characters_is_a_subject(subject):
  assert script("commit_subjects").fault(subject) is None


@pytest.mark.parametrize(
  "subject, message",
  [
    ("A" * 73, "73 characters; the most are 72"),
    ("Added a mask", "imperative first, such as Add or Fix, got 'Added'"),
    ("Adds a mask", "got 'Adds'"),
    ("Adding a mask", "got 'Adding'"),
    ("The mask is new", "got 'The'"),
    ("README: a mask", "expected a verb first"),
    ("conv.py takes a mask", "expected a verb first"),
    ("", "expected a verb first"),
    ("Add a mask.", "without a period"),
  ],
)
def test_other_subjects_are_refused(subject, message):
  assert message in script("commit_subjects").fault(subject)


def test_a_message_that_is_being_written_is_checked_without_git_s_comments(tmp_path):
  message = tmp_path / "message"
  command = [sys.executable, ROOT / ".ci" / "commit_subjects.py", "--message", message]
  for text, status in (("\n# Comments\nAdd a mask\n\nWhy.\n", 0), ("# Add a mask\nMasks\n", 1)):
    message.write_text(text)
    assert subprocess.run(command, capture_output=True).returncode == status


@pytest.fixture
def repository(tmp_path, monkeypatch):
  """Three commits, of which the second brings the check; returns Git in it."""
  for name in ("AUTHOR", "COMMITTER"):
    monkeypatch.setenv(f"GIT_{name}_NAME", "A")
    monkeypatch.setenv(f"GIT_{name}_EMAIL", "a@example.org")
  folder = tmp_path / "repository"
  (folder / ".ci").mkdir(parents=True)

  def git(*args):
    command = ["git", "-C", folder, *args]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

  git("init", "--quiet")
  git("commit", "--quiet", "--allow-empty", "-m", "Zeroth: before the check")
  copy = folder / ".ci" / "commit_subjects.py"
  copy.write_bytes((ROOT / ".ci" / "commit_subjects.py").read_bytes())
  git("add", ".")
  git("commit", "--quiet", "-m", "First: with the check")
  git("commit", "--quiet", "--allow-empty", "-m", "Second: behind it")
  return git


def refused(folder: Path, *args: str) -> list[str]:
  """The subjects that the copy of the check in `folder` refuses, the newest first."""
  command = [sys.executable, ".ci/commit_subjects.py", *args]
  done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
  assert done.returncode == bool(done.stderr), done.stderr
  return re.findall(r"^\w{10} (\w+):", done.stderr, re.MULTILINE)


def test_commits_are_new_from_the_one_that_brought_the_check(repository, tmp_path):
  assert refused(tmp_path / "repository") == ["Second", "First"]


def test_commits_are_new_after_the_last_tag_or_a_named_base(repository, tmp_path):
  folder = tmp_path / "repository"
  repository("tag", "v1", "HEAD~1")
  assert refused(folder) == ["Second"]
  assert refused(folder, "HEAD~2") == ["Second", "First"]
  assert refused(folder, "HEAD") == []
  command = [sys.executable, ".ci/commit_subjects.py", "no-such-commit"]
  done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
  assert done.returncode == 1 and "BASE: expected a commit" in done.stderr


@pytest.mark.parametrize("depth, found", [(1, ["Second"]), (2, ["Second", "First"])])
def test_a_shallow_clone_checks_the_new_commits_that_it_has(depth, found, repository, tmp_path):
  base = repository("rev-parse", "HEAD~2")
  clone = tmp_path / "clone"
  source = f"file://{tmp_path / 'repository'}"
  subprocess.run(["git", "clone", "--quiet", f"--depth={depth}", source, clone], check=True)
  assert refused(clone) == found
  assert refused(clone, base) == found
