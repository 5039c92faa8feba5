"""`adaconv web`: a page in the browser, on this machine."""

import argparse
import contextlib
import errno
import importlib.util
import os
import signal
import socket
import threading
from collections.abc import Sequence
from pathlib import Path

from adaconv_jax.checkpoints.errors import CheckpointError
from adaconv_jax.checkpoints.load import shipped_models
from adaconv_jax.cli.attempt import EXIT_USAGE, report
from adaconv_jax.cli.options import Parser, add_model, add_vgg_weights, in_range, text_of
from adaconv_jax.cli.stylize import DETAIL, EVENNESS, PALETTE, REFINE
from adaconv_jax.files import described
from adaconv_jax.signals import SIGNALS, end, handled
from adaconv_jax.web.temporary import Temporary
from adaconv_jax.web.work import MAX_SECONDS, Studio

HOST, PORT = "127.0.0.1", 7860
INSTALL = "pip install 'adaconv_jax[web]'"


def main(argv: Sequence[str] | None = None, *, prog: str = "adaconv web") -> int:
  """Runs the command, until a signal ends it.

  Args:
    argv: its arguments; those of the process if None.
    prog: what help and errors call it.

  Returns:
    2 when the arguments or the model are wrong, the port is in use or Gradio is missing. Ctrl-C
    ends the process with 130.
  """
  args = _parser(prog).parse_args(argv)
  if importlib.util.find_spec("gradio") is None:
    report(f"error: the page needs Gradio, which is not installed: {INSTALL}")
    return EXIT_USAGE
  try:
    _check_free(args.host, args.port)
    studio, name = _studio(args)
    studio.load(name)
  except (ValueError, OSError, CheckpointError) as error:
    report(f"error: {described(error)}")
    return EXIT_USAGE
  temporary = Temporary()
  quiet_environment(temporary.path, args.host)
  stopped = _Stop()
  try:
    from adaconv_jax.web import page  # after the environment is set

    look = {"detail": DETAIL, "palette": PALETTE, "evenness": EVENNESS, "refine": REFINE}
    built = page.build(studio, temporary.path, model=name, shared=args.share, **look)
    temporary.keep_swept()
    public = page.launch(built, host=args.host, port=args.port, share=args.share)
  except (OSError, RuntimeError) as error:
    temporary.remove()
    report(f"error: {described(error)}")
    return EXIT_USAGE
  except BaseException:
    temporary.remove()
    raise
  everywhere = args.host in ("0.0.0.0", "::")
  host = "127.0.0.1" if everywhere else f"[{args.host}]" if ":" in args.host else args.host
  others = ", and at the other addresses of this machine" if everywhere else ""
  print(f"the page is at http://{host}:{args.port}{others} (Ctrl-C ends it)", flush=True)
  if public:
    print(f"and, through Gradio's servers, at {public}", flush=True)
  studio.compile_ahead(page.first_wish(name, **look))
  number = stopped.wait()
  temporary.remove()
  # At once, though a picture may be in the making.
  end("ended; uploads and results are deleted\n", 128 + number)


class _Stop:
  """Waits for a signal; the command's own, because the temporary files have to go before."""

  def __init__(self):
    self._came, self._number = threading.Event(), 0
    if threading.current_thread() is threading.main_thread():
      for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
          handled.add(number)
          signal.signal(number, self._handle)

  def _handle(self, number: int, frame: object) -> None:
    del frame
    self._number = number
    self._came.set()

  def wait(self) -> int:
    """Returns the number of the signal."""
    self._came.wait()
    return self._number


def _studio(args: argparse.Namespace) -> tuple[Studio, str]:
  """Returns the studio with the shipped models and the user's, and the name of the first one."""
  models: dict[str, str] = {name: name for name in shipped_models()}
  name = args.model
  if name not in models:
    # Who looks at the page need not know the folders of this machine.
    name = Path(args.model).name or args.model
    name = f"{name} (own)" if name in models else name
    models = {name: args.model, **models}
  weights = {} if args.vgg_weights is None else {name: args.vgg_weights}
  return Studio(models, vgg_weights=weights, max_seconds=args.max_seconds), name


def quiet_environment(folder: Path, host: str) -> None:
  """Sets what Gradio reads when it is imported: no telemetry, and files in `folder`."""
  os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
  os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
  os.environ["GRADIO_TEMP_DIR"] = str(folder)
  # Gradio asks its own server whether it is there, which no proxy must answer.
  for name in ("NO_PROXY", "no_proxy"):
    known = os.environ.get(name, "")
    os.environ[name] = ",".join(filter(None, [known, host, "127.0.0.1", "localhost"]))


def _check_free(host: str, port: int) -> None:
  """Checks that the page can listen.

  Raises:
    ValueError: it cannot; the message names the option.
  """
  try:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
  except (OSError, UnicodeError):  # the latter of a name with a part that is empty or too long
    raise ValueError(
      f"--host: expected an address or a name of this machine, got {host!r}"
    ) from None
  family, kind, protocol, _, address = found[0]
  with contextlib.closing(socket.socket(family, kind, protocol)) as probe:
    if os.name == "posix":  # as the server itself
      probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
      probe.bind(address)
    except OSError as error:
      if error.errno == errno.EADDRNOTAVAIL:
        raise ValueError(
          f"--host: expected an address or a name of this machine, got {host!r}"
        ) from None
      raise ValueError(
        f"--port: expected one that is free, got {port} on {host} ({error.strerror}); choose "
        "another"
      ) from None


def _parser(prog: str = "adaconv web") -> argparse.ArgumentParser:
  parser = Parser(
    prog=prog,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    description="Serves a page for the browser: a picture in the style of another.",
    epilog=f"""\
Only this machine can open the page, unless --host says otherwise. Pictures stay on the machine, are
deleted after an hour and when the command ends. Needs Gradio: {INSTALL}.

Exit code: 2 the page did not start; 130 ended by Ctrl-C.
""",
  )
  add = parser.add_argument
  add(
    "--host",
    type=text_of("an address"),
    default=HOST,
    metavar="H",
    help="address to listen on; 0.0.0.0 lets other machines in; default: %(default)s",
  )
  add(
    "--port", type=in_range(int, 1, 65535), default=PORT, metavar="P", help="default: %(default)s"
  )
  add_model(parser)
  add(
    "--max-seconds",
    type=in_range(float, 1),
    default=MAX_SECONDS,
    metavar="S",
    help="refuse pictures that would take longer; default: %(default)s",
  )
  add(
    "--share",
    action="store_true",
    help="also make a public address, through Gradio's servers: pictures leave this machine, and "
    "Gradio downloads a program for it",
  )
  add_vgg_weights(parser)
  return parser
