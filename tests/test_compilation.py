"""Compiled programs are kept where the user can find them, and only if he wants it."""

import os
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adaconv_jax
from adaconv_jax import compilation
from adaconv_jax.compilation import keep_compiled, mend_kept, quick_jit, quick_options

NAMES = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")


@pytest.fixture(autouse=True)
def settings(monkeypatch, tmp_path):
  """JAX's settings as they are at the start of a process, and put back afterwards."""
  saved = {name: jax.config.values[name] for name in NAMES}
  jax.config.update("jax_compilation_cache_dir", None)
  monkeypatch.setenv("ADACONV_CACHE", str(tmp_path))
  monkeypatch.delenv("ADACONV_COMPILATION_CACHE", raising=False)
  yield
  for name, value in saved.items():
    jax.config.update(name, value)


def test_programs_are_kept_in_the_cache_folder(tmp_path):
  assert keep_compiled() == tmp_path / "compiled"
  assert jax.config.values[NAMES[0]] == str(tmp_path / "compiled")


def test_a_folder_that_is_asked_for_is_taken_whatever_the_environment_says(tmp_path, monkeypatch):
  monkeypatch.setenv("ADACONV_COMPILATION_CACHE", "off")
  jax.config.update("jax_compilation_cache_dir", "elsewhere")
  assert adaconv_jax.keep_compiled(tmp_path / "mine") == tmp_path / "mine"
  assert jax.config.values[NAMES[0]] == str(tmp_path / "mine")


def test_off_keeps_nothing(monkeypatch):
  monkeypatch.setenv("ADACONV_COMPILATION_CACHE", "off")
  assert keep_compiled() is None
  assert jax.config.values[NAMES[0]] is None


def test_a_folder_given_to_jax_stays():
  jax.config.update("jax_compilation_cache_dir", "elsewhere")
  assert keep_compiled() == Path("elsewhere")
  assert jax.config.values[NAMES[0]] == "elsewhere"


def test_what_can_be_no_folder_is_refused_by_name(tmp_path, monkeypatch):
  (tmp_path / "file").touch()
  (tmp_path / "link").symlink_to(tmp_path / "gone")  # which JAX cannot make a folder of
  places = [tmp_path / name for name in ("file", "file/below", "link", "link/below")]
  for folder in ("", 5, *places):
    with pytest.raises(ValueError, match="^folder: expected a folder"):
      keep_compiled(folder)  # pyright: ignore[reportArgumentType]
  monkeypatch.setenv("ADACONV_CACHE", str(tmp_path / "file"))
  with pytest.raises(ValueError, match="^ADACONV_CACHE: expected a folder .*file is none"):
    keep_compiled()


def test_another_value_is_refused(monkeypatch):
  monkeypatch.setenv("ADACONV_COMPILATION_CACHE", "no")
  with pytest.raises(ValueError, match="expected 'on' or 'off', got 'no'"):
    keep_compiled()


PROGRAM = """
import numpy as np
import adaconv_jax
adaconv_jax.keep_compiled()
picture = np.zeros((16, 16, 3), np.float32)
adaconv_jax.stylize(picture, picture, model="adain")
"""


@pytest.mark.slow
def test_stylize_in_another_process_finds_the_programs_that_the_first_one_kept(tmp_path):
  environment = {**os.environ, "ADACONV_CACHE": str(tmp_path)}
  environment.pop("JAX_COMPILATION_CACHE_DIR", None)
  kept = []
  for _ in range(2):
    subprocess.run([sys.executable, "-c", PROGRAM], env=environment, check=True, timeout=300)
    kept.append(sorted(path.name for path in (tmp_path / "compiled").glob("*-cache")))
  assert kept[0] and kept[0] == kept[1]


@pytest.fixture
def mended(tmp_path):
  """A folder in which one program was kept and another was cut off, and JAX's warnings."""
  whole = zlib.compress(b"program")
  (tmp_path / "jit_f-1-cache").write_bytes(whole)
  (tmp_path / "jit_f-2-cache").write_bytes(whole[:-3])
  (tmp_path / "jit_g-3-cache").write_bytes(b"")
  with warnings.catch_warnings():
    mend_kept(tmp_path)
    yield tmp_path


def warn(action: str, reason: str) -> None:
  warnings.warn(
    f"Error {action} persistent compilation cache entry for 'jit_f': {reason}", stacklevel=1
  )


def test_a_kept_program_that_is_cut_off_is_removed_without_a_word(mended, caplog):
  warn("reading", "error: Error -5 while decompressing data: incomplete or truncated stream")
  assert sorted(os.listdir(mended)) == ["jit_f-1-cache", "jit_g-3-cache"]
  assert not caplog.messages


def test_a_program_that_cannot_be_kept_is_one_line_and_leaves_no_part(mended, caplog):
  for _ in range(2):
    warn("writing", "OSError: [Errno 28] No space left on device")
  assert sorted(os.listdir(mended)) == ["jit_f-1-cache", "jit_g-3-cache"]
  reason = "compiled programs cannot be kept ([Errno 28] No space left on device)"
  assert caplog.messages == [f"{mended}: {reason}"]


def test_other_warnings_are_shown_as_before(mended):
  shown = []
  with warnings.catch_warnings():
    warnings.simplefilter("always")
    warnings.showwarning = lambda message, *args, **kwargs: shown.append(str(message))
    mend_kept(mended)
    warnings.warn("something else", stacklevel=1)
  assert shown == ["something else"]


@pytest.fixture
def options():
  """Options are found out once in a process, here once in a test."""
  quick_options.cache_clear()
  yield
  quick_options.cache_clear()


def power(x, exponent):
  return jnp.sum(jnp.sin(x) ** exponent)


def test_what_is_compiled_sooner_gives_the_same_and_can_be_transformed():
  quick, x = quick_jit("exponent")(power), jnp.arange(1.0, 4)
  expected = float(np.sum(np.sin([1, 2, 3]) ** 2))
  made = [quick(x, exponent=2), quick(x, 2), jax.jit(lambda x: quick(x, 2))(x)]
  made += [jax.vmap(lambda x: quick(x, 2))(x).sum(), jax.disable_jit()(lambda: quick(x, 2))()]
  np.testing.assert_allclose(made, expected, rtol=1e-6)
  slope = jax.grad(lambda x: quick(x, 2))(x)
  np.testing.assert_allclose(slope, np.sin([2, 4, 6]), rtol=1e-5)


def test_a_program_made_ready_by_shapes_is_the_one_that_is_called():
  traces = []
  quick = quick_jit()(lambda x: traces.append(1) or 2 * x)
  quick.prepare(jax.ShapeDtypeStruct((3,), np.float32))
  assert quick(jnp.ones(3)).tolist() == [2, 2, 2]
  assert (len(traces), quick.programs()) == (1, 1)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="options of a CPU's compiler")
def test_a_cpus_compiler_gets_the_options(monkeypatch, options):
  monkeypatch.delenv("XLA_FLAGS", raising=False)
  assert quick_options().items() <= compilation._QUICK.items()  # some compilers lack one
  assert "xla_backend_optimization_level" in quick_options()
  monkeypatch.setattr(compilation, "quick_options", lambda: {"xla_no_such_option": 1})
  with pytest.raises(Exception, match="xla_no_such_option"):
    quick_jit()(lambda x: x + 1)(1)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="options of a CPU's compiler")
def test_options_that_a_compiler_lacks_or_the_user_sets_are_left_out(monkeypatch, options):
  monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=3")
  assert "xla_backend_optimization_level" not in quick_options()
  quick_options.cache_clear()
  some = {"xla_no_such_option": 1, "xla_cpu_enable_fast_math": False}
  monkeypatch.setattr(compilation, "_QUICK", some)
  assert list(quick_options()) == ["xla_cpu_enable_fast_math"]


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="options of a CPU's compiler")
def test_flags_in_a_file_and_a_setting_of_jax_are_the_users_too(monkeypatch, options, tmp_path):
  file, known = tmp_path / "flags", {"xla_cpu_enable_fast_math": False}
  monkeypatch.setattr(compilation, "_QUICK", {"xla_backend_optimization_level": 1, **known})
  file.write_text("--xla_backend_optimization_level=3")
  monkeypatch.setenv("XLA_FLAGS", str(file))
  assert quick_options() == known
  for gone in (tmp_path, tmp_path / "gone"):
    quick_options.cache_clear()
    monkeypatch.setenv("XLA_FLAGS", str(gone))
    assert quick_options() == compilation._QUICK
  quick_options.cache_clear()
  monkeypatch.delenv("XLA_FLAGS")
  jax.config.update("jax_disable_most_optimizations", True)
  try:
    assert quick_options() == known
  finally:
    jax.config.update("jax_disable_most_optimizations", False)


def test_arrays_on_an_accelerator_beside_the_cpu_get_no_options_of_a_cpu(monkeypatch):
  monkeypatch.setattr(compilation, "quick_options", lambda: {"xla_no_such_option": 1})
  monkeypatch.setattr(compilation, "_platforms", lambda leaves: {"cpu", "cuda"})
  assert quick_jit()(lambda x: x + 1)(jnp.ones(2)).tolist() == [2, 2]


def test_an_accelerators_compiler_gets_none_and_its_programs_are_counted_once(monkeypatch, options):
  monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
  assert quick_options() == {}
  quick = quick_jit()(lambda x: x + 1)
  quick(jnp.ones(3))
  assert quick.programs() == 1
