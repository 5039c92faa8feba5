"""Measures how much stylized videos flicker, and at what speed.

    pip install -e '.[video,flicker]'
    python -m benchmarks.flicker [--quick] [--flow dis] [--blending 0.5] [--palette 0.6]
                                [--evenness 1] [--refine 3] [--clips pan zoom] [--speed]

The measure is the field's: an output frame is warped along the motion of the *input* to the frame i
later, and compared there, over the pixels that are visible in both. It is the root of the mean
square, in a range of 1, for i = 1 (short) and i = 10 (long). The clips move photographs exactly,
with film grain, so their flow is exact; `--flow dis` estimates it with OpenCV's DIS instead, with
occlusions found by a forward and backward check, as for real videos. Do not compare the two, nor
either with published numbers, whose flow is RAFT's.

The style loss is that of the papers (four layers of VGG), the mean over some frames. Methods:

alone    every frame as a picture of its own, by `stylize`
frame    frame by frame, each normalized by its own statistics; palette and refined code are shared
running  a running average of the statistics, for streams
shot     the statistics of the shot
steady   those of the shot, and blending along the motion: the default of `adaconv video`
"""

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from scipy import ndimage

from adaconv_jax import images, load_model, shipped_models, stylize
from adaconv_jax.models.stylizer import Stylizer
from adaconv_jax.ops.losses import style_loss
from adaconv_jax.vgg.network import STYLE_LAYERS
from adaconv_jax.video import stylize_frames
from benchmarks.clips import Clip, make_clips
from benchmarks.inputs import ROOT
from benchmarks.report import markdown

MODELS = shipped_models()
STYLES = ("night", "woodblock")
ALONE = "alone"
METHODS: dict[str, dict[str, Any]] = {
  ALONE: {},
  "frame": {"statistics": "frame", "blending": 0},
  "running": {"statistics": "running", "blending": 0},
  "shot": {"statistics": "shot", "blending": 0},
  "steady": {"statistics": "shot"},
}
DEFAULT_METHODS = ("frame", "running", "shot", "steady")
SHORT, LONG = 1, 10
# Frames that start a comparison, and those whose style loss is computed: every third and fifth.
COMPARED, SCORED = 3, 5

Flow = Callable[[Clip, int, int], tuple[np.ndarray, np.ndarray]]


def main() -> None:
  """Prints the tables."""
  parser = argparse.ArgumentParser(prog="python -m benchmarks.flicker", description=__doc__)
  parser.formatter_class = argparse.RawDescriptionHelpFormatter
  parser.add_argument("--quick", action="store_true", help="one style, one clip")
  parser.add_argument("--flow", choices=("exact", "dis"), default="exact")
  parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
  parser.add_argument("--styles", nargs="+", default=STYLES)
  parser.add_argument("--methods", nargs="+", choices=METHODS, default=DEFAULT_METHODS)
  parser.add_argument("--blending", type=float, help='of "steady"; default: that of the command')
  parser.add_argument("--palette", type=float, default=0.0, help="of all methods; default: 0")
  parser.add_argument("--evenness", type=float, default=0.0, help="of all methods; default: 0")
  parser.add_argument("--refine", type=int, default=0, help="steps, of all methods; default: 0")
  parser.add_argument("--look-size", type=int, help="of all methods; default: the clips' own")
  parser.add_argument("--clips", nargs="+", metavar="NAME", help="default: all")
  parser.add_argument("--speed", action="store_true", help="measure frames per second instead")
  args = parser.parse_args()
  if args.speed:
    print(speed_table(args.models, (256,) if args.quick else (256, 512)))
    return
  if args.blending is not None:
    METHODS["steady"] = {"statistics": "shot", "blending": args.blending}
  clips = make_clips(20, 256)
  names = [clip.name for clip in clips]
  if unknown := set(args.clips or ()) - set(names):
    parser.error(f"--clips: expected some of {', '.join(names)}, got {', '.join(sorted(unknown))}")
  clips = [clip for clip in clips if not args.clips or clip.name in args.clips]
  print(
    flicker_table(
      args.models,
      args.styles[: 1 if args.quick else None],
      clips[: 1 if args.quick else None],
      {"exact": exact_flow, "dis": dis_flow}[args.flow],
      args.methods,
      {
        "palette": args.palette,
        "evenness": args.evenness,
        "refine": args.refine,
        "look_size": args.look_size,
      },
    )
  )


def flicker_table(
  models: Sequence[str],
  styles: Sequence[str],
  clips: Sequence[Clip],
  flow: Flow,
  methods: Sequence[str],
  look: dict[str, Any] | None = None,
) -> str:
  """Measures the methods on all clips; returns a table of means over the styles.

  Shares are those of the first method. `look` has the options of `stylize_frames` of all methods.
  """
  rows = []
  flows = {clip.name: Flows(clip, flow) for clip in clips}
  for clip in clips:
    errors = flows[clip.name].errors(clip.frames / 255)
    rows.append(["", clip.name, "input", *(f"{e:.4f}" for e in errors), "", "", "", ""])
  for name in models:
    model = load_model(name)
    for clip in clips:
      plain = None
      for method in methods:
        numbers = []
        for style in map(read_style, styles):
          made = render(model, clip, style, method, look or {})
          pictures = np.stack(made).astype(np.float32) / 255
          numbers.append([*flows[clip.name].errors(pictures), mean_style(model, pictures, style)])
        means = np.mean(numbers, axis=0)
        plain = means if plain is None else plain
        shares = [f"{share:.2f}" for share in means / plain]
        rows.append([name, clip.name, method, *(f"{x:.4f}" for x in means), *shares])
        print(" | ".join(rows[-1]), flush=True)
  heads = ["model", "clip", "method", "i = 1", "i = 10", "style loss", "i = 1 / frame"]
  return markdown([*heads, "i = 10 / frame", "style / frame"], rows)


def render(
  model: Stylizer, clip: Clip, style: Any, method: str, look: dict[str, Any]
) -> list[np.ndarray]:
  """Stylizes the frames of a clip by one of `METHODS`."""
  if method == ALONE:
    return [np.asarray(stylize(frame, style, model=model, **look)) for frame in clip.frames]
  return list(stylize_frames(clip.frames, style, model=model, **METHODS[method], **look))


class Flows:
  """The flow of a clip between the frames that are compared."""

  def __init__(self, clip: Clip, flow: Flow):
    count = len(clip.frames)
    self._pairs = {
      distance: [
        (first, first + distance, *flow(clip, first, first + distance))
        for first in range(0, count - distance, COMPARED)
      ]
      for distance in (SHORT, LONG)
    }

  def errors(self, pictures: np.ndarray) -> tuple[float, ...]:
    """Warping errors of pictures `[n, h, w, 3]` in [0, 1], for short and long distances."""
    return tuple(
      float(np.sqrt(np.mean([_squared(pictures[a], pictures[b], *way) for a, b, *way in pairs])))
      for pairs in self._pairs.values()
    )


def _squared(earlier: np.ndarray, later: np.ndarray, places: np.ndarray, seen: np.ndarray) -> float:
  return float(((warp(earlier, places) - later)[seen] ** 2).mean())


def warp(picture: np.ndarray, places: np.ndarray) -> np.ndarray:
  """Samples `[h, w, 3]` at rows and columns `[2, h, w]`, bilinearly."""
  channels = [
    ndimage.map_coordinates(picture[..., c], places, order=1, mode="nearest") for c in range(3)
  ]
  return np.stack(channels, -1)


def exact_flow(clip: Clip, earlier: int, later: int) -> tuple[np.ndarray, np.ndarray]:
  """The motion that the clip was made with."""
  return clip.flow(earlier, later)


def dis_flow(clip: Clip, earlier: int, later: int) -> tuple[np.ndarray, np.ndarray]:
  """Estimates the motion from the frames with OpenCV's DIS (Kroeger et al. 2016)."""
  import cv2  # pyright: ignore[reportMissingImports]

  gray = [cv2.cvtColor(clip.frames[k], cv2.COLOR_RGB2GRAY) for k in (later, earlier)]
  dis: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
  back, forth = dis.calc(gray[0], gray[1], None), dis.calc(gray[1], gray[0], None)
  h, w = gray[0].shape
  y, x = np.mgrid[:h, :w]
  places = np.stack([y + back[..., 1], x + back[..., 0]])
  inside = (places >= 0).all(0) & (places[0] <= h - 1) & (places[1] <= w - 1)
  # A pixel that returns to where it was is visible in both (Ruder et al. 2016, eq. 7).
  there = np.stack(
    [ndimage.map_coordinates(forth[..., k], places, order=1, mode="nearest") for k in (0, 1)], -1
  )
  miss = ((there + back) ** 2).sum(-1)
  seen = miss < 0.01 * ((there**2).sum(-1) + (back**2).sum(-1)) + 0.5
  return places, inside & seen


def read_style(name: str) -> np.ndarray:
  """Reads the central square of an example, 256 pixels, uint8."""
  path = ROOT / "examples" / "style" / f"{name}.jpg"
  image = images.decode(images.read_file(path), name=str(path))
  return np.asarray(images.center_square(image, 256))


def mean_style(model: Stylizer, pictures: np.ndarray, style: np.ndarray) -> float:
  """The style loss of some frames, averaged."""
  reference = style[None].astype(np.float32) / 255
  scored = pictures[SCORED - 1 :: SCORED]
  return float(np.mean([_style_loss(model, picture[None], reference) for picture in scored]))


@jax.jit
def _style_loss(model: Stylizer, pictures: jax.Array, style: jax.Array) -> jax.Array:
  weights = dict.fromkeys(STYLE_LAYERS, 1.0)
  maps = [model.vgg.apply({"params": model.vgg_params}, x) for x in (pictures, style)]
  return style_loss(maps[0], maps[1], weights)  # pyright: ignore[reportArgumentType]


def speed_table(models: Sequence[str], sizes: Sequence[int]) -> str:
  """Measures frames per second of `stylize_frames`, after the programs are compiled."""
  rows = []
  style = read_style(STYLES[0])
  for name in models:
    model = load_model(name)
    for size in sizes:
      frames = make_clips(17, size)[0].frames
      row = [name, f"{size} x {size}"]
      for options in (METHODS["frame"], METHODS["shot"], METHODS["steady"]):
        list(stylize_frames(frames[:2], style, model=model, **options))
        start = time.perf_counter()
        made = sum(1 for _ in stylize_frames(frames[:16], style, model=model, **options))
        row.append(f"{made / (time.perf_counter() - start):.2f}")
      rows.append(row)
      print(" | ".join(row), flush=True)
  return markdown(["model", "size", "frame by frame", "shot", "steady"], rows)


if __name__ == "__main__":
  main()
