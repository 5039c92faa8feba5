"""How the commands end, and how one picture that fails does not stop the others."""

import contextlib
import logging
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
from tqdm import tqdm

from adaconv_jax.extras import MissingExtra
from adaconv_jax.files import described, printable
from adaconv_jax.images import ImageError

T = TypeVar("T")
# What was skipped is listed up to this many.
LISTED = 20

# Characters; a message repeats what was given, and ends with the way out.
LONGEST_LINE, TAIL = 1000, 300

EXIT_DONE, EXIT_SOME_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130


def attempt(
  name: str | Path,
  action: Callable[..., T],
  *args: Any,
  memory_hint: str = "--size",
  reported: set[str] | None = None,
) -> T | None:
  """Returns `action(*args)`; where a picture or the memory fails it, says why and returns None.

  Args:
    name: the picture, with which the message begins; an `ImageError` may begin with it, too.
    action: what to do.
    *args: its arguments.
    memory_hint: the options of which smaller values need less memory.
    reported: what was said before, which is not said again, and is added to; None: nothing was. A
      picture may be asked for in several places.

  Raises:
    ConnectionError: a bucket does not answer, or refuses access; so would it for the others.
  """
  try:
    return action(*args)
  except ConnectionError:
    raise
  except ImageError as error:
    reason = str(error).removeprefix(f"{name}: ")
  except OSError as error:
    reason = error.strerror or str(error).removeprefix(f"{name}: ")
  except (MemoryError, jax.errors.JaxRuntimeError) as error:
    first = next(iter(str(error).splitlines()), "out of memory")
    reason = f"{first}; a smaller {memory_hint} needs less memory"
  message = f"error: {printable(name)}: {printable(reason)}"
  if reported is None or message not in reported:
    tqdm.write(message, file=sys.stderr)
  if reported is not None:
    reported.add(message)
  return None


@contextlib.contextmanager
def or_exit(*failures: type[Exception]) -> Iterator[None]:
  """Ends the command with one message where one of `failures` is raised.

  The exit code is 1, or 2 for a package that is missing, which is known before anything is done.
  """
  try:
    yield
  except failures as error:
    message = f"error: {described(error)}"
    if isinstance(error, MissingExtra | ModuleNotFoundError):
      report(message)
      sys.exit(EXIT_USAGE)
    sys.exit(shown(message))


def in_options(message: str, *arguments: str) -> str:
  """Returns a message about arguments of Python, with the options that stand for them."""
  return re.sub(
    rf"\b({'|'.join(arguments)})\b", lambda found: "--" + found[1].replace("_", "-"), message
  )


def quiet_libraries() -> None:
  """Hides what libraries log: a lot that is of no use to the user, and what we report ourselves.

  Of a checkpoint that cannot be written to a bucket, or read, Orbax and TensorStore report every
  array, each with a traceback.
  """
  logging.getLogger().setLevel(logging.WARNING)
  for name in ("absl", "asyncio"):
    logging.getLogger(name).setLevel(logging.CRITICAL)
  hook = sys.unraisablehook

  def report_others(unraisable: Any) -> None:
    # TensorStore ends requests after Orbax has given up.
    if str(unraisable.exc_value) != "Event loop is closed":
      hook(unraisable)

  sys.unraisablehook = report_others


def show_log(level: int) -> None:
  """Shows what this package logs, from `level` on, as plain lines on standard error."""
  handler = logging.StreamHandler()
  handler.setFormatter(logging.Formatter("%(message)s"))
  ours = logging.getLogger("adaconv_jax")
  ours.addHandler(handler)
  ours.setLevel(level)
  ours.propagate = False


def report(message: str) -> None:
  """Writes a message, in which any file name may be, to standard error."""
  print(shown(message), file=sys.stderr)


def report_skipped(skipped: Sequence[str], elsewhere: str = "") -> None:
  """Writes the first of what was skipped, with the reasons, and how much more there is.

  Args:
    skipped: names and reasons.
    elsewhere: what to say after that number, such as where all of them are listed.
  """
  for one in skipped[:LISTED]:
    report(f"skipped {one}")
  if (more := len(skipped) - LISTED) > 0:
    report(f"and {more} more{elsewhere}")


def shown(message: str) -> str:
  """Returns a message for the terminal: without control characters, in lines of bounded length."""
  lines = []
  for line in printable(message, lines=True).split("\n"):
    cut = len(line) > LONGEST_LINE
    lines.append(f"{line[:-TAIL][: LONGEST_LINE - TAIL]} ... {line[-TAIL:]}" if cut else line)
  return "\n".join(lines)
