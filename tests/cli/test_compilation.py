"""Compiled programs are kept where the user can find them, and only if he wants it."""

import jax
import pytest

from adaconv_jax.cli.compilation import keep_compiled

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
  keep_compiled()
  assert jax.config.values[NAMES[0]] == str(tmp_path / "compiled")


def test_off_keeps_nothing(monkeypatch):
  monkeypatch.setenv("ADACONV_COMPILATION_CACHE", "off")
  keep_compiled()
  assert jax.config.values[NAMES[0]] is None


def test_a_folder_given_to_jax_stays():
  jax.config.update("jax_compilation_cache_dir", "elsewhere")
  keep_compiled()
  assert jax.config.values[NAMES[0]] == "elsewhere"


def test_another_value_is_refused(monkeypatch):
  monkeypatch.setenv("ADACONV_COMPILATION_CACHE", "no")
  with pytest.raises(ValueError, match="expected 'on' or 'off', got 'no'"):
    keep_compiled()
