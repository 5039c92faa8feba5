"""What the command lines that render pictures have in common."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import jax
from tqdm import tqdm

from adaconv_jax.cli.compilation import keep_compiled
from adaconv_jax.host_cpu import keep_memory
from adaconv_jax.images import ImageError

T = TypeVar("T")

EXIT_DONE, EXIT_SOME_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130


def run(main: Callable[[], int]) -> NoReturn:
  """Runs `main` and exits with the code that it returns; keeps compiled programs and memory."""
  keep_memory()
  try:
    keep_compiled()
  except ValueError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(EXIT_USAGE)
  sys.exit(main())


def in_range(kind: type, low: float, high: float = float("inf")) -> Callable[[str], Any]:
  """Makes an argparse type: a number of `kind`, int or float, from `low` to `high`."""
  words = {int: "a whole number", float: "a number"}[kind]
  words += f" of at least {low}" if high == float("inf") else f" from {low} to {high}"

  def parse(text: str):
    try:
      value = kind(text)
    except ValueError:
      value = None
    if value is None or not low <= value <= high:
      raise argparse.ArgumentTypeError(f"expected {words}, got {text!r}")
    return value

  return parse


def attempt(
  name: str | Path, action: Callable[..., T], *args: Any, memory_hint: str = "--size"
) -> T | None:
  """Returns `action(*args)`; where a picture or the memory fails it, says why and returns None.

  Args:
    name: the picture, with which the message begins; an `ImageError` may begin with it, too.
    action: what to do.
    *args: its arguments.
    memory_hint: the options of which smaller values need less memory.
  """
  try:
    return action(*args)
  except ImageError as error:
    reason = str(error).removeprefix(f"{name}: ")
  except OSError as error:
    reason = error.strerror or str(error)
  except (MemoryError, jax.errors.JaxRuntimeError) as error:
    first = next(iter(str(error).splitlines()), "out of memory")
    reason = f"{first}; a smaller {memory_hint} needs less memory"
  tqdm.write(f"error: {name}: {reason}", file=sys.stderr)
  return None
