"""Kept programs give what `jax.jit` gives, without tracing, or are not used."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from small_models import cropping_stylizer, small_stylizer

from adaconv_jax import programs
from adaconv_jax.programs import keep_in, kept

ROOT = Path(__file__).parents[1]
X = np.arange(6, dtype=np.float32).reshape(2, 3)


class Pair(NamedTuple):
  """A tree that a program returns."""

  sums: jax.Array
  scaled: list[jax.Array]


@pytest.fixture
def folder(tmp_path):
  path = tmp_path / "compiled" / "programs"
  keep_in(path)
  yield path
  keep_in(None)


class Process:
  """What a process has: nothing is traced yet, and all traces are counted."""

  def __init__(self, factor: float = 2):
    self.traces = 0

    def scale(x, shift, *, power):
      self.traces += 1
      return Pair(x.sum(0), [factor * x**power + shift])

    self.scale = kept("power")(scale)

  def check(self, traces: int, x: Any = X, shift: Any = 3, *, power: int = 2, factor: float = 2):
    """Compares the results with NumPy's, and the number of traces so far."""
    made = self.scale(x, shift, power=power)
    assert isinstance(made, Pair) and self.traces == traces
    np.testing.assert_array_equal(made.sums, np.asarray(x).sum(0))
    np.testing.assert_array_equal(made.scaled[0], factor * np.asarray(x) ** power + shift)


def files(folder: Path, suffix: str) -> list[Path]:
  return sorted(folder.glob(f"*{suffix}"))


def test_another_process_traces_nothing(folder):
  Process().check(1)
  Process().check(0)
  Process().check(0, jax.device_put(X))


def test_one_process_traces_once(folder):
  process = Process()
  for _ in range(3):
    process.check(1)


def test_without_a_folder_nothing_is_kept(tmp_path):
  Process().check(1)
  Process().check(1)
  assert not list(tmp_path.iterdir())


def test_other_arguments_are_other_programs(folder):
  Process().check(1)
  process = Process()
  process.check(0, shift=5)  # a value of the same type
  process.check(1, power=3)
  process.check(2, np.ones((2, 4), np.float32))
  process.check(3, X.astype(np.int32))
  process.check(4, shift=np.float32(5))  # of a type that is not weak


def test_a_program_is_made_ready_by_shapes(folder):
  like = jax.ShapeDtypeStruct(X.shape, X.dtype)
  first, second = Process(), Process()
  first.scale.prepare(like, 3.0, power=2)
  assert first.traces == 1
  first.check(1, shift=3.0)
  second.scale.prepare(like, 3.0, power=2)
  second.check(0, shift=3.0)


def test_changed_sources_are_traced_again_and_compiled_if_the_program_changes(folder, monkeypatch):
  Process().check(1)
  [program] = files(folder, ".program")
  monkeypatch.setattr(programs, "_sources", lambda: "same program")
  Process().check(1)
  assert files(folder, ".program") == [program] and len(files(folder, ".index")) == 2
  monkeypatch.setattr(programs, "_sources", lambda: "other program")
  Process(factor=5).check(1, factor=5)
  assert len(files(folder, ".program")) == 2


def test_the_sources_are_those_of_every_module(tmp_path, monkeypatch):
  (tmp_path / "ops").mkdir()
  module = tmp_path / "ops" / "module.py"
  monkeypatch.setattr(programs, "__file__", str(tmp_path / "programs.py"))
  found = set()
  for text in ("a = 1", "a = 2"):
    module.write_text(text)
    found.add(programs._sources.__wrapped__())
  module.rename(tmp_path / "module.py")
  found.add(programs._sources.__wrapped__())
  assert len(found) == 3


def test_another_machine_or_setting_of_jax_is_another_program(folder, monkeypatch):
  Process().check(1)
  with jax.default_matmul_precision("highest"):
    Process().check(1)
    Process().check(0)
  monkeypatch.setattr(programs, "_machine", lambda: "another")
  Process().check(1)


def test_other_flags_of_xla_in_the_same_file_are_another_machine(monkeypatch, tmp_path):
  monkeypatch.setenv("XLA_FLAGS", str(tmp_path / "flags"))
  machines = set()
  for flags in ("--xla_cpu_enable_fast_math=true", "--xla_cpu_enable_fast_math=false"):
    (tmp_path / "flags").write_text(flags)
    machines.add(programs._machine.__wrapped__())
  assert len(machines) == 2


@pytest.mark.parametrize("suffix", [".index", ".program"])
@pytest.mark.parametrize("damage", ["cut", "empty", "changed", "gone", "folder", "link"])
def test_a_damaged_file_is_not_used_and_replaced_if_it_can_be(folder, suffix, damage):
  Process().check(1)
  [path] = files(folder, suffix)
  data = path.read_bytes()
  other = {"cut": data[:-9], "empty": b"", "changed": data[:-9] + b"x" + data[-8:]}
  if damage in other:
    path.write_bytes(other[damage])
  else:
    path.unlink()
  if damage == "folder":
    path.mkdir()
  if damage == "link":
    elsewhere = folder.parent / "elsewhere"
    elsewhere.write_bytes(data)
    path.symlink_to(elsewhere)
  Process().check(1)
  Process().check(1 if damage == "folder" else 0)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="a system without such modes")
def test_what_another_user_can_have_written_is_not_read(folder, tmp_path):
  Process().check(1)
  for path in folder.iterdir():
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o620)
  Process().check(1)
  Process().check(0)  # they were replaced
  assert folder.stat().st_mode & 0o777 == 0o700
  folder.chmod(0o770)
  keep_in(folder)
  Process().check(1)
  keep_in(tmp_path / "new")
  Process().check(1)
  Process().check(0)


def test_a_folder_that_cannot_be_made_changes_nothing(tmp_path):
  (tmp_path / "file").touch()
  for folder in (tmp_path / "file", tmp_path / "file" / "below", Path("gs://bucket/folder")):
    keep_in(folder)
    Process().check(1)
  keep_in(None)


def test_a_program_that_jax_had_cached_is_not_kept_broken(folder, compilation_cache):
  before = jax.config.values["jax_persistent_cache_min_compile_time_secs"]
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
  try:
    for _ in range(2):
      Process().check(1)
      Process().check(0)
      for path in folder.iterdir():
        path.unlink()
  finally:
    jax.config.update("jax_persistent_cache_min_compile_time_secs", before)
  assert not list(Path(compilation_cache).glob("jit_kept_*"))


def test_the_files_used_least_recently_are_removed(folder, monkeypatch):
  process = Process()
  for width in (1, 2, 3):
    process.check(width, np.ones((2, width), np.float32))
  for age, path in enumerate(sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)):
    os.utime(path, (age, age))
  Process().check(0, np.ones((2, 1), np.float32))  # the oldest, used again
  monkeypatch.setattr(
    programs, "MOST_BYTES", 3 * sum(p.stat().st_size for p in folder.iterdir()) // 4
  )
  Process().check(1, np.ones((2, 4), np.float32))
  assert sum(path.stat().st_size for path in folder.iterdir()) <= programs.MOST_BYTES
  Process().check(0, np.ones((2, 1), np.float32))
  Process().check(1, np.ones((2, 2), np.float32))


def test_within_a_transformation_and_without_jit_it_is_the_function(folder):
  process = Process()
  rows = jax.vmap(lambda x: process.scale(x[None], 3, power=2).scaled[0])(jax.device_put(X))
  np.testing.assert_array_equal(rows[:, 0], 2 * X**2 + 3)
  with jax.disable_jit():
    process.check(process.traces + 1)
  assert not list(folder.iterdir())


def test_errors_of_a_function_are_raised(folder):
  def wrong(x):
    raise ValueError("x: expected another")

  with pytest.raises(ValueError, match="x: expected another"):
    kept()(wrong)(X)


def test_models_of_other_settings_have_other_descriptions():
  models = [small_stylizer("adaconv"), cropping_stylizer(), small_stylizer("adaconv_plus")]
  described = {str(jax.tree.structure(model)) for model in models}
  assert len(described) == 3 and not any(" at 0x" in text or "..." in text for text in described)


STYLIZE = """
import json, sys
import jax
from adaconv_jax.cli import main

main._Process.is_ours = True
traced = []
def listen(event, seconds, **facts):
  if "trace" in event:
    traced.append(str(facts.get("fun_name")))
jax.monitoring.register_event_duration_secs_listener(listen)
code = main.run("stylize", sys.argv[1:], prog="adaconv stylize")
print(json.dumps([code, traced]))
"""
NAMES = {"encode_content", "fit_style", "encode_fitted", "palette_of", "in_palette"}
NAMES |= {"render_encoded"}


@pytest.mark.slow
def test_the_command_makes_the_same_picture_in_another_process_without_tracing(tmp_path):
  shown = ("--content", "examples/content/cat.jpg", "--style", "examples/style/ink.jpg")
  shown = (*shown, "--model", "adain", "--size", "64", "--style-size", "64", "--refine", "0")
  made = []
  for name, cache in (("kept.png", "on"), ("again.png", "on"), ("plain.png", "off")):
    done = subprocess.run(
      [sys.executable, "-c", STYLIZE, *shown, "--output", str(tmp_path / name)],
      env={**os.environ, "ADACONV_CACHE": str(tmp_path), "ADACONV_COMPILATION_CACHE": cache},
      cwd=ROOT, capture_output=True, text=True, check=True, timeout=500,
    )  # fmt: skip
    code, traced = json.loads(done.stdout.splitlines()[-1])
    assert code == 0, done.stderr
    made.append({name.removeprefix("kept_").strip("_") for name in traced} & NAMES)
  assert made == [NAMES, set(), NAMES]
  pictures = [(tmp_path / name).read_bytes() for name in ("kept.png", "again.png", "plain.png")]
  assert pictures[0] == pictures[1] == pictures[2]
