"""Rows 1 to 5: stylization of pairs, batches, grids and frames."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adaconv_jax.models.build import make_model
from adaconv_jax.models.stylizer import Stylizer
from benchmarks import flops
from benchmarks.case import Case, image_difference
from benchmarks.inputs import ARCH, pictures, random_stylizer

# Half a level of 255. AdaConv's normalizations enlarge rounding: values in [0, 1] of ours differed
# from the float64 result by up to 9e-4 (Winograd's form; 1e-4 without), PyTorch's by up to 3e-4.
IMAGE_TOLERANCE = 2e-3

# jit around methods of `Stylizer`, which is a pytree: weights are arguments, not constants.
encode_content = jax.jit(
  lambda stylizer, content: stylizer.encode_content(content, for_alpha=False)
)
encode_style = jax.jit(Stylizer.encode_style)
render = jax.jit(lambda stylizer, content_code, code: stylizer.render(content_code, code))
stylize = jax.jit(lambda stylizer, content, code: stylizer.stylize(content, code))


@jax.jit
def stylize_pair(stylizer: Stylizer, content: jax.Array, style: jax.Array) -> jax.Array:
  """Encodes content and style and renders, in one program."""
  return stylizer.stylize(content, stylizer.encode_style(style))


def cases(*, quick: bool) -> list[Case]:
  """Returns rows 1 to 5; `quick` omits the large ones and makes grids and videos smaller."""
  sizes = [256] if quick else [256, 1024]
  grid, frames = (2, 4) if quick else (8, 32)
  return [
    pair_case("1", "adain", 512, target=1.3),
    *(pair_case("2", "adain", size, target=1.3) for size in sizes),
    grid_case("adain", grid, 512, target=3.0),
    *(
      pair_case("4", "adaconv", size, count, target=1.3)
      for size in (sizes[:1] if quick else [256, 512])
      for count in (1, 8)
    ),
    *(video_case(transform, frames, 512, target=1.3) for transform in ("adain", "adaconv")),
  ]


def pair_case(row: str, transform: str, size: int, count: int = 1, *, target: float) -> Case:
  """One batch of `count` pairs of different pictures, from pixels to pixels."""
  style_size = 256 if transform == "adaconv" else size
  images = "one pair" if count == 1 else f"batch of {count} pairs"

  def ours() -> Callable[[], Any]:
    stylizer = random_stylizer(transform)
    content = jnp.asarray(pictures("content", count, size))
    style = jnp.asarray(pictures("style", count, style_size))
    return lambda: [jax.block_until_ready(stylize_pair(stylizer, content, style))]

  def peer() -> Callable[[], Any]:
    from benchmarks.peer import StylizerPeer, to_tensor

    stylizer = StylizerPeer(random_stylizer(transform))
    content = to_tensor(pictures("content", count, size))
    style = to_tensor(pictures("style", count, style_size))
    return lambda: [stylizer.pair(content, style)]

  return Case(
    row,
    f"{label(transform)}, {images}, {size} x {size}",
    count * flops.pair(make_model(transform), ARCH, size) / 1e9,
    ours,
    peer,
    target,
    pairs=count,
    difference=image_difference,
    tolerance=IMAGE_TOLERANCE,
  )


def grid_case(transform: str, count: int, size: int, *, target: float) -> Case:
  """All pairs of `count` contents and styles; the peer does the first few, one by one."""
  peer_pairs = min(count, 2) * 2

  def load() -> list[list[np.ndarray]]:
    return [[one[None] for one in pictures(role, count, size)] for role in ("content", "style")]

  def ours() -> Callable[[], Any]:
    stylizer, (contents, styles) = random_stylizer(transform), load()

    def run() -> list[jax.Array]:
      codes = [encode_style(stylizer, style) for style in styles]
      # As in the command line, one content at a time is kept.
      return [
        jax.block_until_ready(render(stylizer, content_code, code))
        for content in contents
        for content_code in [encode_content(stylizer, content)]
        for code in codes
      ]

    return run

  def peer() -> Callable[[], Any]:
    from benchmarks.peer import StylizerPeer, to_tensor

    stylizer, (contents, styles) = StylizerPeer(random_stylizer(transform)), load()
    pairs = [(to_tensor(c), to_tensor(s)) for c in contents for s in styles][:peer_pairs]
    return lambda: [stylizer.pair(content, style) for content, style in pairs]

  return Case(
    "3",
    f"{label(transform)}, grid of {count} contents x {count} styles, {size} x {size}",
    count**2 * flops.pair(make_model(transform), ARCH, size) / 1e9,
    ours,
    peer,
    target,
    peer_share=peer_pairs / count**2,
    pairs=count**2,
    difference=image_difference,
    tolerance=IMAGE_TOLERANCE,
    note=f"peer: {peer_pairs} of {count**2} pairs measured, each from scratch, and scaled up",
  )


def video_case(transform: str, count: int, size: int, *, target: float) -> Case:
  """`count` frames in one style, which both sides encode once; the peer does a few frames."""
  peer_frames = min(count, 4)

  def load() -> tuple[list[np.ndarray], np.ndarray]:
    style_size = 256 if transform == "adaconv" else size
    frames = [frame[None] for frame in pictures("content", count, size)]
    return frames, pictures("style", 1, style_size)

  def ours() -> Callable[[], Any]:
    frames, style = load()
    stylizer = random_stylizer(transform)
    code = encode_style(stylizer, style)
    return lambda: [jax.block_until_ready(stylize(stylizer, frame, code)) for frame in frames]

  def peer() -> Callable[[], Any]:
    from benchmarks.peer import StylizerPeer, to_tensor

    frames, style = load()
    stylizer = StylizerPeer(random_stylizer(transform))
    code = stylizer.encode_style(to_tensor(style))
    tensors = [to_tensor(frame) for frame in frames[:peer_frames]]
    return lambda: [stylizer.stylize(frame, code) for frame in tensors]

  model = make_model(transform)
  work = flops.encoder(ARCH, size, size) + flops.render(model, size, size)
  return Case(
    "5",
    f"{label(transform)}, {count} frames, one style, {size} x {size}",
    count * work / 1e9,
    ours,
    peer,
    target,
    peer_share=peer_frames / count,
    pairs=count,
    difference=image_difference,
    tolerance=IMAGE_TOLERANCE,
    note="style encoded before; " + f"peer: {peer_frames} of {count} frames measured and scaled up",
  )


def label(transform: str) -> str:
  """The papers' spelling; of a model that is in none, its name."""
  return {"adain": "AdaIN", "adaconv": "AdaConv"}.get(transform, transform)
