"""`adaconv video`: renders videos in the style of pictures."""

import argparse
import contextlib
import sys
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from adaconv_jax import images
from adaconv_jax.bars import Bar
from adaconv_jax.checkpoints.errors import CheckpointError
from adaconv_jax.checkpoints.load import load_model
from adaconv_jax.cli.attempt import (
  EXIT_DONE,
  EXIT_INTERRUPTED,
  EXIT_SOME_FAILED,
  EXIT_USAGE,
  described,
  report,
)
from adaconv_jax.cli.options import (
  Parser,
  add_alpha,
  add_evenness,
  add_model,
  add_overwrite,
  add_palette,
  add_refine,
  add_sizes_of_strokes,
  add_vgg_weights,
  check_file_name,
  in_range,
  look_size_for,
  path_text,
)
from adaconv_jax.cli.pairs import check_no_input
from adaconv_jax.cli.stylize import EVENNESS, PALETTE, REFINE
from adaconv_jax.files import expand, expand_named, naming_option, printable, unwritable
from adaconv_jax.lock import WorkdirInUse, locked
from adaconv_jax.video.convert import convert
from adaconv_jax.video.reader import FOLDER_RATE, open_video
from adaconv_jax.video.steady import STEADY
from adaconv_jax.video.stylize import STATISTICS
from adaconv_jax.video.writer import CODEC, CODECS, CRF, MOST_CRF, SUFFIXES, check_output

# Frames of a run until which programs are compiled; the second one needs that which mixes frames.
_COMPILED_BY = 2


def main(argv: Sequence[str] | None = None, *, prog: str = "adaconv video") -> int:
  """Runs the command.

  Args:
    argv: its arguments; those of the process if None.
    prog: what help and errors call it.

  Returns:
    0 when the video is whole, 1 when it could not be finished, 2 when the arguments, the input or
    the model are wrong and nothing was done, 130 after Ctrl-C.
  """
  parser = _parser(prog)
  args = parser.parse_args(argv)
  with contextlib.ExitStack() as stack:
    return _render(args, stack)


def _render(args: argparse.Namespace, stack: contextlib.ExitStack) -> int:
  """Does as `main`, and leaves the lock of the output to `stack`."""
  try:
    if args.resume and args.overwrite:
      raise ValueError("--resume and --overwrite: expected one of them, got both")
    for option, paths in (
      ("INPUT", [args.input]),
      ("--style", args.style),
      ("--mix-to", args.mix_to or ()),
      ("--output", [args.output]),
    ):
      for path in paths:
        expand_named(option, path)
    with naming_option("--output"):
      check_file_name(args.output)
    output = check_output(args.output, args.codec, args.crf)
    check_no_input([output], [args.input, *args.style, *(args.mix_to or ())])
    if fault := unwritable(output.parent):
      raise ValueError(f"--output: expected a place that can be written to, but {fault}")
    _check_free(output, args)
    if args.resume and output.exists() and not output.with_name(f".{output.name}.resume").exists():
      print(f"kept, because it exists and no run of it was stopped: {printable(output)}")
      return EXIT_DONE
    _check_mix(args)
    video = open_video(args.input, rate=args.rate and Fraction(args.rate).limit_denominator(1001))
    video.has_sound = video.has_sound and args.sound
    _report_notes(video.notes)
    styles = [_read_style("--style", path, args.style_size) for path in args.style]
    mix_to = [_read_style("--mix-to", path, args.style_size) for path in args.mix_to or ()]
    stylizer = load_model(args.model, vgg_weights=args.vgg_weights)
    # Two processes would write one log of what is encoded.
    doing, lock = f"writing {printable(output.name)}", f".{output.name}.lock"
    stack.enter_context(locked(output.parent, "output", doing, file=lock, remains=False))
    _check_free(output, args)  # it may have been written meanwhile
  except (ValueError, OSError, CheckpointError, WorkdirInUse) as error:
    report(f"error: {described(error)}")
    return EXIT_USAGE
  known = len(video.notes)
  bar = Bar(total=video.count, unit="frame")
  try:
    made = convert(
      video,
      output,
      stylizer,
      styles,
      alpha=args.alpha,
      palette=args.palette,
      evenness=args.evenness,
      refine=args.refine,
      weights=args.mix,
      mix_to=mix_to or None,
      statistics=args.statistics,
      blending=args.blending,
      stroke=args.stroke,
      look_size=look_size_for(args.look_size, video.height, video.width),
      codec=args.codec,
      crf=args.crf,
      resume=args.resume,
      overwrite=args.overwrite or args.resume,
      progress=_Progress(bar).show,
    )
  except KeyboardInterrupt:
    bar.close()
    if bar.n:
      print(
        f"interrupted; {printable(output)} has the first {bar.n} frames; rerun the same command "
        "with --resume to go on",
        file=sys.stderr,
      )
    else:
      print("interrupted; nothing is written", file=sys.stderr)
    return EXIT_INTERRUPTED
  except (ValueError, OSError) as error:
    bar.close()
    report(f"error: {described(error)}")
    if bar.n:
      report(f"{printable(output)} has the first {bar.n} frames")
    # Some things are seen only when the work begins, such as a sound that --output cannot hold.
    return EXIT_USAGE if isinstance(error, ValueError) and not bar.n else EXIT_SOME_FAILED
  bar.close()
  _report_notes(video.notes[known:])
  print(f"{printable(output)}: {made} frames, {video.width} x {video.height}")
  return EXIT_DONE


def _check_free(output: Path, args: argparse.Namespace) -> None:
  if output.exists() and not (args.overwrite or args.resume):
    raise ValueError(
      f"--output: {printable(output)} exists; --overwrite replaces it, --resume goes on with it"
    )


class _Progress:
  """Shows how many frames are done. What is compiled for the first ones is not in the speed."""

  def __init__(self, bar: Bar):
    self._bar, self._calls = bar, 0
    self._from = 0, 0.0
    bar.speed = 0.0

  def show(self, done: int) -> None:
    """Shows the number of frames that are done; the first time, those of an earlier run."""
    bar, now = self._bar, time.monotonic()
    if bar.total is not None and done > bar.total:
      bar.total = done
    self._calls += 1
    if self._calls <= _COMPILED_BY + 1:
      self._from = done, now
    else:
      bar.speed = (done - self._from[0]) / max(now - self._from[1], 1e-9)
    bar.update(done - bar.n)


def _report_notes(notes: Sequence[str]) -> None:
  for note in notes:
    report(f"note: {note}")


def _check_mix(args: argparse.Namespace) -> None:
  if args.mix is not None and (len(args.mix) != len(args.style) or abs(sum(args.mix) - 1) > 1e-3):
    raise ValueError(
      f"--mix: expected {len(args.style)} number(s) that sum to 1, one per --style, got "
      f"{' '.join(map(str, args.mix))}"
    )


def _read_style(option: str, path: str, size: int | None) -> np.ndarray:
  """Reads a picture, `[h, w, 3]`, uint8."""
  with naming_option(option):
    file: Path = expand(path)
    picture = images.decode(images.read_file(file), name=str(file), at_least=size)
    return np.asarray(
      picture if size is None else images.resize_shorter(picture, size, name=str(file))
    )


def _parser(prog: str = "adaconv video") -> argparse.ArgumentParser:
  parser = Parser(
    prog=prog,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    description="Renders a video in the style of pictures, without flicker.",
    epilog="""\
Size, frame rate, time stamps, rotation, color tags and sound of the input are kept; what has to be
converted is reported. Needs PyAV: pip install 'adaconv_jax[video]'.

Ctrl-C leaves a video of the frames made so far, and --resume goes on. Exit code: 0 done; 1 not
finished, because of an error on the way; 2 nothing done, because of the arguments, the input or
the model; 130 interrupted.
""",
  )
  add = parser.add_argument
  add(
    "input", type=path_text, metavar="IN", help="a file that FFmpeg reads, or a folder of pictures"
  )
  add(
    "--style",
    type=path_text,
    nargs="+",
    action="extend",
    required=True,
    metavar="PATH",
    help="image files; several are mixed",
  )
  add("--mix", nargs="+", type=in_range(float, 0, 1), metavar="W", help="their weights; sum 1")
  add(
    "--mix-to",
    type=path_text,
    nargs="+",
    metavar="PATH",
    help="image files; the video fades from --style in the first frame to these in the last",
  )
  add(
    "--output",
    type=path_text,
    required=True,
    metavar="PATH",
    help=f"a file ({', '.join(SUFFIXES)})",
  )
  add_model(parser)
  add_alpha(parser)
  add_palette(parser, PALETTE, "%(default)s")
  add_evenness(parser, EVENNESS)
  add_refine(parser, REFINE)
  add_sizes_of_strokes(parser, "the video's")
  add(
    "--style-size",
    type=in_range(int, 1),
    metavar="PX",
    help="scale the styles to this many pixels on the shorter side; default: as they are",
  )
  add(
    "--statistics",
    choices=STATISTICS,
    default=STATISTICS[0],
    help="what normalizes a frame: the statistics of its shot (the default), a running average, or "
    "its own, as for single pictures",
  )
  add(
    "--blending",
    type=in_range(float, 0, 0.99),
    default=STEADY,
    metavar="B",
    help="how much of a frame comes from those before, moved along with the picture, from 0 "
    "(nothing) to below 1; default: %(default)s",
  )
  add("--codec", choices=CODECS, default=CODEC, help="default: %(default)s")
  add(
    "--crf",
    type=in_range(int, 0, max(MOST_CRF.values())),
    default=CRF,
    metavar="Q",
    help="quality of the codec, 0 to 51, of vp9 and av1 to 63: lower is better and larger; "
    "default: %(default)s",
  )
  add(
    "--rate",
    type=in_range(float, 0.01, 1000),
    metavar="R",
    help=f"frames per second of a folder; default: {FOLDER_RATE}",
  )
  add("--no-sound", dest="sound", action="store_false", help="leave the sound track out")
  add("--resume", action="store_true", help="go on with a run that was stopped")
  add_overwrite(parser)
  add_vgg_weights(parser)
  return parser
