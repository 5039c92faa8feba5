"""The command `adaconv`: finds the subcommand and runs it.

It imports nothing that needs JAX before it knows which one, because that takes a second.
"""

import atexit
import contextlib
import difflib
import functools
import importlib
import io
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import adaconv_jax
from adaconv_jax.signals import SIGNALS, Watch, end, flush

EXIT_DONE, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130
# What a shell gives a command that SIGPIPE ended, whose number is 13 on every Unix.
EXIT_NO_READER = 128 + 13

# Seconds that a command that failed waits for the threads of libraries: Orbax lets one wait for ten
# minutes after a checkpoint that could not be written.
PATIENCE = 5.0

# Each is a module of this package, also "import", which no statement can import.
COMMANDS = {
  "stylize": "render pictures in the style of others",
  "video": "render videos in the style of pictures, without flicker",
  "web": "serve a page for the browser, to try pictures and styles",
  "train": "train AdaIN or AdaConv",
  "evaluate": "score trained models on pairs of pictures, and show them side by side",
  "export": "write a trained model as one file, also for other runtimes (ONNX, TFLite)",
  "import": "convert a trained model of another program",
  "hub": "upload and download trained models on the Hugging Face Hub",
  "pack": "pack a large set of images, so that a training on it starts at once",
  "vgg": "import and rescale VGG weights",
}

HELP = f"""\
usage: adaconv COMMAND ...
       adaconv --version | --help

Arbitrary style transfer in JAX: AdaIN and AdaConv.

commands:
{chr(10).join(f"  {name:<10}{does}" for name, does in COMMANDS.items())}

`adaconv COMMAND --help` describes a command's options. For example:

  adaconv stylize --content photo.jpg --style painting.jpg --output out.jpg
  adaconv train --config quickstart --workdir runs/first
"""


def cli() -> NoReturn:
  """Entry point of the console command."""
  _own_process(functools.partial(main, sys.argv[1:]))


def program(name: str, *, prog: str) -> NoReturn:
  """Runs a subcommand as a program of its own, with the arguments of the process; see `run`."""
  _own_process(functools.partial(run, name, sys.argv[1:], prog=prog))


# What the last line of a command that a signal ends adds.
_GOES_ON = {"pack": "; rerun the same command to resume"}


class _Process:
  """This process, if it runs a command and nothing else: how signals end it.

  Attributes:
    is_ours: whether signals end it, from the first moment on.
    has_begun: whether the command is imported.
    goes_on: what the last line says of the command, if it goes on where a signal has ended it.
    deciding: locked by the thread that ends the process.
    code: its exit code, once the command has ended.
  """

  is_ours = has_begun = False
  goes_on = ""
  deciding = threading.Lock()
  code: int | None = None

  @classmethod
  def received(cls, number: int) -> None:
    """Ends the process because of a signal."""
    cls.deciding.acquire()
    if cls.code is not None:
      os._exit(cls.code)
    line = "stopped before it began"
    if cls.has_begun:
      how = "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
      line = f"{how}; what is written so far is whole{cls.goes_on}"
    # The line of a progress bar has not ended.
    bars = getattr(getattr(sys.modules.get("tqdm"), "tqdm", None), "_instances", ())
    end(("\n" if len(bars) else "") + f"{line}\n", 128 + number)


def _own_process(command: Callable[[], int]) -> NoReturn:
  """Runs a command and ends the process, as a signal does at any moment.

  An exception in the main thread would come too late in a computation, and could be lost. And
  Python's own end of a process crashes while a computation still runs, and waits for every thread.
  """
  _Process.is_ours = True
  Watch(_Process.received)
  atexit.register(_ignore_signals)  # the first, so it runs last
  try:
    code: Any = command()
  except SystemExit as stopped:
    code = stopped.code
    if isinstance(code, str):
      with contextlib.suppress(OSError):
        print(code, file=sys.stderr)
      code = EXIT_FAILED
  except BaseException:  # a fault of ours, which Python prints
    _end_within(PATIENCE, EXIT_FAILED)
    raise
  _Process.deciding.acquire()
  _Process.code = code or EXIT_DONE
  _Process.deciding.release()
  if _Process.code:
    _end_within(PATIENCE, _Process.code)
  sys.exit(_Process.code)


def _end_within(seconds: float, code: int) -> None:
  """Ends the process after some seconds, where Python's own end of it takes longer."""
  timer = threading.Timer(seconds, lambda: (flush(), os._exit(code)))
  timer.daemon = True  # so that nothing waits for it
  timer.start()


def _ignore_signals() -> None:
  """Lets the process end with its own exit code, when Python has no handlers any more."""
  for number in SIGNALS:
    signal.signal(number, signal.SIG_IGN)


def main(argv: Sequence[str]) -> int:
  """Runs `adaconv` with these arguments.

  Returns:
    The exit code: 0 when everything is done, 2 for an unknown command or wrong arguments; see the
    commands for others.
  """
  return _ending(functools.partial(_main, argv))


def _main(argv: Sequence[str]) -> int:
  name, *rest = argv or [""]
  if name in COMMANDS:
    return run(name, rest, prog=f"adaconv {name}")
  if name in ("--help", "-h"):
    print(HELP, end="")
    return EXIT_DONE
  if name == "--version":
    print(f"adaconv_jax {adaconv_jax.__version__}")
    return EXIT_DONE
  if not name:
    print(HELP, end="", file=sys.stderr)
    return EXIT_USAGE
  close = difflib.get_close_matches(name, COMMANDS, 1)
  guess = f"; did you mean {close[0]}?" if close else ""
  print(f"error: expected one of {', '.join(COMMANDS)}, got {name!r}{guess}", file=sys.stderr)
  return EXIT_USAGE


def run(name: str, argv: Sequence[str], *, prog: str) -> int:
  """Runs a subcommand; keeps what XLA compiles for the next time, and freed memory.

  Args:
    name: one of `COMMANDS`.
    argv: its arguments.
    prog: what its help and its errors call it.

  Returns:
    The exit code: that of the command; 1 where the system prevents it, with one line. If all is
    done, but standard output or error could not be written, it is 141 for a pipe that nobody reads,
    otherwise 1.
  """
  return _ending(functools.partial(_run, name, argv, prog))


def _run(name: str, argv: Sequence[str], prog: str) -> int:
  before = {} if _Process.is_ours else _end_at_signals()
  module = importlib.import_module(f"adaconv_jax.cli.{name}")
  from adaconv_jax.cli.attempt import quiet_libraries, show_log
  from adaconv_jax.compilation import keep_compiled, mend_kept
  from adaconv_jax.host_cpu import keep_memory
  from adaconv_jax.programs import keep_in

  if _Process.is_ours and name != "train":  # which does both itself
    quiet_libraries()
    show_log(logging.WARNING)
  # Of broken metadata, which are ignored; two lines that name no file.
  warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
  if isinstance(sys.stdout, io.TextIOWrapper):
    # A name that the terminal's encoding does not have must not end a run.
    sys.stdout.reconfigure(errors="backslashreplace")
  keep_memory()
  try:
    kept = keep_compiled()
    if kept is not None and _Process.is_ours:
      mend_kept(kept)
      if name == "stylize":  # of the others, some run for long, and drop programs by JAX's means
        keep_in(kept / "programs")
  except ValueError as error:
    print(f"error: {error}", file=sys.stderr)
    return EXIT_USAGE
  if name != "train":  # which handles signals itself, and has its own line until then
    for number, handler in before.items():
      signal.signal(number, handler)
    _Process.goes_on = _GOES_ON.get(name, "")
    _Process.has_begun = True
  return module.main(argv, prog=prog)


def _ending(command: Callable[[], int]) -> int:
  """Returns the exit code of `command`, without a traceback where the system prevents it.

  A standard stream that takes nothing more, because nobody reads it or its disk is full, neither
  ends the command nor hides its error. It changes the exit code of a command that succeeds.
  """
  _open_standard_streams()
  if isinstance(_raw(sys.stdout), _Stream):  # of a command in this one
    return command()
  streams = {name: _patient(getattr(sys, name), number) for number, name in _WRITTEN.items()}
  with contextlib.ExitStack() as stack:
    for name, stream in streams.items():
      stack.callback(setattr, sys, name, getattr(sys, name))
      setattr(sys, name, stream)
    try:
      code: Any = command()
    except KeyboardInterrupt:
      _say("interrupted")
      code = EXIT_INTERRUPTED
    except OSError as error:
      where = f"{error.filename}: " if error.filename and error.strerror else ""
      _say(f"error: {where}{error.strerror or error}")
      code = EXIT_FAILED
    except SystemExit as stopped:
      if stopped.code:
        raise
      code = EXIT_DONE
    finally:
      flush()
    errors = [getattr(_raw(stream), "error", None) for stream in streams.values()]
    for name, error in zip(streams, errors, strict=True):
      if error is not None and not code:
        if isinstance(error, BrokenPipeError):
          return EXIT_NO_READER
        _say(f"error: {name}: {error.strerror or error}")
        return EXIT_FAILED
  return code


_WRITTEN = {1: "stdout", 2: "stderr"}


class _Stream(io.FileIO):
  """A standard stream; what it cannot take is lost.

  Attributes:
    error: why it took nothing more, if so.
  """

  error: OSError | None = None

  def write(self, data: Any) -> int | None:
    """Writes bytes."""
    if self.error is None:
      try:
        return super().write(data)
      except OSError as error:
        self.error = error
    return memoryview(data).nbytes


def _patient(stream: Any, number: int) -> Any:
  """Returns a stream that writes where `stream` does, as a `_Stream`; itself if it is no file."""
  try:
    # The console of Windows is another kind.
    if not isinstance(_raw(stream), io.FileIO) or stream.fileno() != number:
      return stream
    stream.flush()
  except (OSError, ValueError):
    return stream
  raw: Any = _Stream(number, "wb", closefd=False)
  return io.TextIOWrapper(
    raw if stream.buffer is _raw(stream) else io.BufferedWriter(raw),  # as of `python -u`
    encoding=stream.encoding,
    errors=stream.errors,
    line_buffering=stream.line_buffering,
    write_through=stream.write_through,
  )


def _raw(stream: Any) -> Any:
  """Returns what a text stream writes its bytes to, without the buffers."""
  buffer = getattr(stream, "buffer", None)
  return getattr(buffer, "raw", buffer)


def _say(line: str) -> None:
  from adaconv_jax.files import printable  # NumPy, which most errors of options do without

  with contextlib.suppress(OSError):
    print(printable(line), file=sys.stderr)


def _open_standard_streams() -> None:
  """Opens the null device for the standard streams that are closed, as by `2>&-`.

  Otherwise the next file that is opened would have the number of the stream, and libraries would
  write their messages into it.
  """
  for number in range(3):
    try:
      os.fstat(number)
    except OSError:
      os.open(os.devnull, os.O_RDWR)  # it gets the lowest number that is free
  for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
    if getattr(sys, name) is None:
      setattr(sys, name, open(os.devnull, mode))


def _end_at_signals() -> dict[int, Any]:
  """Lets signals end the process with one line, until the command is imported.

  Returns:
    The earlier handlers.
  """
  if threading.current_thread() is not threading.main_thread():
    return {}
  return {number: signal.signal(number, _end) for number in (signal.SIGTERM, signal.SIGINT)}


def _end(number: int, frame: object) -> NoReturn:
  del frame
  os.write(2, b"stopped before it began\n")  # `print` may be interrupted by a signal in itself
  os._exit(128 + number)
