"""The scripts of .ci, and the commands of the workflow."""

import configparser
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")
WORKFLOW = (ROOT / ".github" / "workflows" / "ci.yml").read_text()


def script(name: str) -> Any:
  """A script of .ci as a module; the folder's name cannot be imported."""
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
  git("commit", "--quiet", "--allow-empty", "-m", "Second: after it")
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


# --- versions ---


def test_the_lowest_versions_are_the_bounds_of_setup_cfg(tmp_path):
  setup = tmp_path / "setup.cfg"
  setup.write_text(
    "[options]\ninstall_requires =\n  jax>=0.10.2\n  # a reason\n  a-b[c]>=1.1\n"
    "[options.extras_require]\ndev =\n  torch==2.13.0\nloose =\n  torch\n"
  )
  constraints = script("lowest_versions").constraints
  assert constraints(setup, []) == ["jax==0.10.2", "a-b==1.1"]
  assert constraints(setup, ["dev"]) == ["jax==0.10.2", "a-b==1.1", "torch==2.13.0"]
  with pytest.raises(ValueError, match="expected name>=version, got 'torch'"):
    constraints(setup, ["loose"])
  with pytest.raises(KeyError, match="none"):
    constraints(setup, ["none"])
  own = constraints(ROOT / "setup.cfg", ["dev"])
  assert any(line.startswith("jax==") for line in own)
  assert any(line.startswith("pytest==") for line in own)


def test_the_workflow_tests_every_python_that_setup_cfg_names():
  jobs = yaml.safe_load(WORKFLOW)["jobs"]
  tested = jobs["tests"]["strategy"]["matrix"]["python"]
  named = re.findall(r":: Python :: (3\.\d+)", SETUP["metadata"]["classifiers"])
  assert set(named) <= set(tested)
  lowest = SETUP["options"]["python_requires"].removeprefix(">=")
  assert lowest == named[0] == tested[0]
  steps = jobs["lowest"]["steps"]
  assert any(step.get("with", {}).get("python-version") == lowest for step in steps)


def test_the_workflow_runs_the_readme_s_test_command_and_files_that_exist():
  (line,) = re.findall(r"^ {4}(pip install -e '\.\[dev\]' && pytest)$",
                       (ROOT / "README.md").read_text(), re.MULTILINE)  # fmt: skip
  assert line in WORKFLOW
  for name in re.findall(r"\.ci/\w+(?:\.py)?", WORKFLOW):
    assert (ROOT / name).is_file(), name


@pytest.mark.parametrize("form", ["bug.yml", "feature.yml"])
def test_issue_forms_have_what_github_requires(form):
  content = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / form).read_text())
  assert content["name"] and content["description"]
  for field in content["body"]:
    assert field["type"] in {"markdown", "input", "textarea", "dropdown", "checkboxes"}
    assert field["attributes"].get("label") or field["type"] == "markdown"
  assert any(field.get("validations", {}).get("required") for field in content["body"])


# --- links of the site ---


def test_a_link_to_a_missing_file_or_place_is_named_and_others_are_not(tmp_path):
  (tmp_path / "guides").mkdir()
  (tmp_path / "index.html").write_text(
    '<a href="guides/first.html#begin">x</a> <a href="https://example.org/none">x</a>'
    '<a href="#">x</a> <img src="a%20picture.jpg"> <img src="missing.jpg"> <a href="guides/">x</a>'
  )
  (tmp_path / "a picture.jpg").touch()
  (tmp_path / "guides" / "first.html").write_text(
    '<h1 id="begin">x</h1><a href="../index.html#end">x</a><a href="#begin">x</a>'
  )
  assert script("check_links").broken_links(tmp_path) == [
    "guides/first.html: ../index.html#end: there is no such place",
    "index.html: missing.jpg: there is no such file",
    "index.html: guides/: there is no such file",
  ]
