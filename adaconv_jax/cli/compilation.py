"""The command lines keep what XLA has compiled, so that their next start is faster."""

import os

import jax

from adaconv_jax.files import cache_dir


def keep_compiled() -> None:
  """Keeps compiled programs in `$ADACONV_CACHE/compiled`, else `~/.cache/adaconv_jax/compiled`.

  Does nothing if `ADACONV_COMPILATION_CACHE` is "off", or if JAX was given a folder of its own
  (`JAX_COMPILATION_CACHE_DIR`). For programs of this package's command lines only: a library has
  no business in its caller's settings.

  Raises:
    ValueError: `ADACONV_COMPILATION_CACHE` is set to something else.
  """
  setting = os.environ.get("ADACONV_COMPILATION_CACHE", "on")
  if setting not in ("on", "off"):
    raise ValueError(f"ADACONV_COMPILATION_CACHE: expected 'on' or 'off', got {setting!r}")
  if setting == "off" or jax.config.values["jax_compilation_cache_dir"]:
    return
  jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "compiled"))
  # Of a pair of pictures, most programs compile in less than JAX's default of a second.
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
