"""Makes the pictures of README and model cards, with the shipped models.

    pip install -e '.[docs]'
    python docs/make_pictures.py [--only FILE] [--losses NAME=WORKDIR]
    python docs/make_pictures.py --finetuned WORKDIR=PAINTING ...

stylized.jpg            README's rows: photograph, painting, and the command's picture by each model
strength.jpg            pictures with more and more detail, and with more and more alpha
palette.jpg             paintings, photographs, and pictures with more and more palette
refined.jpg             paintings, photographs, and pictures after more and more steps
evenness.jpg            photographs, and pictures with halos and without
colors.jpg              the content's colors kept: not at all, by luminance, by matched styles
mix.jpg                 four styles in the corners, and 5 x 5 mixes between them
regions.jpg             a portrait with a painted background, and two styles side by side
strokes.jpg             strokes once, twice and three times as coarse
preview.jpg             a preview, and prints of the same strokes, enlarged, and painted anew
video.jpg               six frames of a pan, stylized as a video and frame by frame
finetuned.jpg           photographs, and for every fine-tuned model what the shipped model and it
                        make of them in a painting; only with --finetuned
models/NAME.jpg         sheet of a model: photographs across, paintings down
models/NAME_losses.png  held-out losses over the training, from models/NAME_losses.csv, which
                        --losses writes from the log of the training
"""

import argparse
import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image, ImageDraw, ImageFilter

import adaconv_jax
from adaconv_jax import images, load_model
from adaconv_jax.checkpoints.load import DEFAULT_MODEL, shipped_models
from adaconv_jax.cli.stylize import DETAIL, EVENNESS, PALETTE, REFINE
from adaconv_jax.models.stylizer import Stylizer
from adaconv_jax.video import stylize_frames

DOCS = Path(__file__).parent
EXAMPLES = DOCS.parent / "examples"
README_PAIRS = (
  ("cat", "night"),
  ("palace", "woodblock"),
  ("coffee", "glass"),
  ("flower", "facets"),
)
# What `adaconv stylize` takes by default.
LOOK: dict[str, Any] = {
  "detail": DETAIL,
  "palette": PALETTE,
  "evenness": EVENNESS,
  "refine": REFINE,
}
SHEET_CONTENTS = ("astronaut", "palace", "cat", "coffee", "rocket")
SHEET_STYLES = ("night", "woodblock", "mosaic", "ink", "glass", "wash", "facets")
DETAIL_PAIR, DETAILS = ("astronaut", "facets"), (0.0, 0.3, 0.6, 1.0)
ALPHA_PAIR, ALPHAS = ("cat", "night"), (0.0, 0.25, 0.5, 0.75, 1.0)
PALETTE_PAIRS, PALETTES = (
  (("cat", "night"), ("palace", "wash"), ("flower", "facets")),
  (0.0, 0.6, 1.0),
)
REFINE_PAIRS, REFINE_STEPS = (
  (("cat", "night"), ("palace", "wash"), ("flower", "mosaic"), ("astronaut", "woodblock")),
  (0, 1, 3, 10),
)
EVENNESS_PAIRS = (("palace", "mosaic"), ("palace", "night"), ("rocket", "facets"))
COLOR_PAIRS = ((DEFAULT_MODEL, "astronaut", "night"), ("adain", "coffee", "woodblock"))
COLOR_SIZE = 320
MIX_CONTENT, MIX_STYLES, MIX_STEPS = "palace", ("night", "mosaic", "ink", "woodblock"), 5
MIX_SIZE = 160
REGION_CONTENT, REGION_STYLES, REGION_SIZE = "astronaut", ("night", "mosaic"), 384
# The outline of the astronaut, in pixels of a square of 384.
PERSON = (
  (20, 384), (24, 330), (20, 300), (22, 262), (30, 232), (44, 206), (68, 186), (90, 176), (86, 160),
  (88, 138), (100, 120), (118, 111), (136, 109), (136, 103), (122, 95), (116, 82), (117, 58),
  (126, 28), (150, 13), (180, 11), (205, 22), (221, 44), (225, 66), (216, 88), (204, 97),
  (198, 104), (200, 118), (207, 134), (214, 150), (222, 166), (228, 182), (248, 200), (262, 224),
  (271, 262), (300, 257), (330, 264), (356, 284), (374, 314), (382, 345), (384, 384),
)  # fmt: skip
STROKE_PAIRS = ((DEFAULT_MODEL, "palace", "night"), ("adain", "cat", "facets"))
STROKE_SIZE, STROKES = 400, (1, 2, 3)
# The whole photograph, the preview, and the square of the print that is shown, in pixels.
PREVIEW_PAIRS = ((DEFAULT_MODEL, "palace", "night"), ("adain", "astronaut", "woodblock"))
PREVIEW_PRINT, PREVIEW_LOOK, PREVIEW_SHOWN = 400, 160, 200
FINETUNED_CONTENTS, FINETUNED_SIZE = ("palace", "cat", "astronaut", "flower"), 256
SIZE = 256  # of the squares in the sheets
README_SIZE = 288
# Of the frames of video.jpg, and how many are made and shown; grain as of fast film.
VIDEO_SIZE, VIDEO_COUNT, VIDEO_SHOWN, VIDEO_GRAIN = 256, 14, 6, 0.03


def main() -> None:
  """Writes all pictures, for every shipped model."""
  parser = argparse.ArgumentParser()
  parser.add_argument("--losses", metavar="NAME=WORKDIR", action="append", default=[])
  parser.add_argument("--finetuned", metavar="WORKDIR=PAINTING", nargs="+")
  makers = {
    "video.jpg": lambda models: video(models["adain"]),
    "stylized.jpg": readme_rows,
    "strength.jpg": lambda models: strength_rows(models[DEFAULT_MODEL]),
    "palette.jpg": lambda models: palette_rows(models[DEFAULT_MODEL]),
    "refined.jpg": lambda models: refined_rows(models[DEFAULT_MODEL]),
    "evenness.jpg": lambda models: evenness_rows(models[DEFAULT_MODEL]),
    "colors.jpg": color_rows,
    "mix.jpg": lambda models: mix_square(models[DEFAULT_MODEL]),
    "regions.jpg": lambda models: region_row(models["adain"]),
    "strokes.jpg": stroke_rows,
    "preview.jpg": preview_rows,
  }
  parser.add_argument("--only", metavar="FILE", choices=makers)
  args = parser.parse_args()
  if args.finetuned:
    save("finetuned.jpg", finetuned_rows(args.finetuned))
    return
  for name, workdir in (value.split("=", 1) for value in args.losses):
    write_losses(name, Path(workdir))
  models = {name: load_model(name) for name in shipped_models()}
  for name, make in makers.items():
    if args.only in (None, name):
      save(name, make(models))
  if args.only:
    return
  for name, model in models.items():
    save(f"models/{name}.jpg", sheet(model))
    plot_losses(name)


def square(folder: str, name: str, size: int) -> np.ndarray:
  """Reads the central square of an example image, `[size, size, 3]` in [0, 1]."""
  path = EXAMPLES / folder / f"{name}.jpg"
  image = images.decode(images.read_file(path), name=str(path), at_least=size)
  return images.to_float(images.center_square(image, size))


@jax.jit
def stylize(model: Stylizer, contents: np.ndarray, style: np.ndarray) -> jax.Array:
  """Renders contents `[n, size, size, 3]` in one style `[size, size, 3]`."""
  return model.stylize(contents, model.encode_style(style[None]))


def readme_rows(models: dict[str, Stylizer]) -> np.ndarray:
  """Makes one column per pair: content, style, and what the command makes by each model."""
  pairs = [
    (square("content", content, README_SIZE), square("style", style, README_SIZE))
    for content, style in README_PAIRS
  ]
  made = [
    [
      np.asarray(adaconv_jax.stylize(content, style, model=model, **LOOK))
      for content, style in pairs
    ]
    for model in models.values()
  ]
  contents, styles = zip(*pairs, strict=True)
  return images.contact_sheet([contents, styles, *made])


def squares(content: str, style: str, size: int) -> tuple[np.ndarray, np.ndarray]:
  """Reads an example photograph and an example painting."""
  return square("content", content, size), square("style", style, size)


def strength_rows(model: Stylizer) -> np.ndarray:
  """Makes a row of more and more detail, after the content, and one of more and more alpha."""
  rows = []
  for (content, style), (name, values) in (
    (DETAIL_PAIR, ("detail", DETAILS)),
    (ALPHA_PAIR, ("alpha", ALPHAS)),
  ):
    photograph, painting = squares(content, style, README_SIZE)
    contents = np.stack([photograph] * len(values))
    weights = {name: np.array(values, np.float32)}
    rows.append(list(np.asarray(adaconv_jax.stylize(contents, painting, model=model, **weights))))
    if name == "detail":
      rows[-1].insert(0, photograph)
  return images.contact_sheet(rows)


def palette_rows(model: Stylizer) -> np.ndarray:
  """Makes a row per pair: style, content, and the picture with more and more of the palette."""
  rows = []
  for pair in PALETTE_PAIRS:
    content, style = squares(*pair, COLOR_SIZE)
    contents, palette = np.stack([content] * len(PALETTES)), np.array(PALETTES, np.float32)
    made = adaconv_jax.stylize(contents, style, model=model, detail=0.3, palette=palette)
    rows.append([style, content, *np.asarray(made)])
  return images.contact_sheet(rows)


def refined_rows(model: Stylizer) -> np.ndarray:
  """Makes a row per pair: style, content, and the picture after more and more steps."""
  rows = []
  for pair in REFINE_PAIRS:
    content, style = squares(*pair, COLOR_SIZE)
    made = [
      np.asarray(adaconv_jax.stylize(content, style, model=model, refine=steps))
      for steps in REFINE_STEPS
    ]
    rows.append([style, content, *made])
  return images.contact_sheet(rows)


def evenness_rows(model: Stylizer) -> np.ndarray:
  """Makes a row per pair: content, and the picture of the command without evenness and with it."""
  rows = []
  for pair in EVENNESS_PAIRS:
    content, style = squares(*pair, COLOR_SIZE)
    looks = [LOOK | {"evenness": even} for even in (0, 1)]
    made = [adaconv_jax.stylize(content, style, model=model, **look) for look in looks]
    rows.append([content, *map(np.asarray, made)])
  return images.contact_sheet(rows)


def color_rows(models: dict[str, Stylizer]) -> np.ndarray:
  """Makes a row per pair: content, style, and the picture with each of the three colors."""
  rows = []
  for name, *pair in COLOR_PAIRS:
    content, style = squares(*pair, COLOR_SIZE)
    made = [
      adaconv_jax.stylize(content, style, model=models[name], detail=0.3, color=color)
      for color in ("style", "luminance", "match")
    ]
    rows.append([content, style, *map(np.asarray, made)])
  return images.contact_sheet(rows)


def mix_square(model: Stylizer) -> np.ndarray:
  """Makes a square of mixes, with the styles at its corners."""
  content = square("content", MIX_CONTENT, MIX_SIZE)
  styles = [square("style", name, MIX_SIZE) for name in MIX_STYLES]
  rows: list[list[np.ndarray | None]] = []
  for down in np.linspace(0, 1, MIX_STEPS):
    row = []
    for across in np.linspace(0, 1, MIX_STEPS):
      weights = np.outer((1 - down, down), (1 - across, across)).ravel()
      mixed = adaconv_jax.stylize(content, styles, model=model, weights=weights, detail=0.3)
      row.append(np.asarray(mixed))
    rows.append([None, *row, None])
  for row, (left, right) in ((rows[0], styles[:2]), (rows[-1], styles[2:])):
    row[0], row[-1] = left, right
  return images.contact_sheet(rows)


def person() -> np.ndarray:
  """Draws a mask of the astronaut, `[h, w]` in [0, 1], with a soft edge."""
  mask = Image.new("L", (REGION_SIZE, REGION_SIZE))
  ImageDraw.Draw(mask).polygon(PERSON, fill=255)
  return np.asarray(mask.filter(ImageFilter.GaussianBlur(1.5)), np.float32) / 255


def region_row(model: Stylizer) -> np.ndarray:
  """Makes a row: content, mask, a painted background, and a style on either side of the outline."""
  content, mask = square("content", REGION_CONTENT, REGION_SIZE), person()
  styles = [square("style", name, REGION_SIZE) for name in REGION_STYLES]
  made = [
    adaconv_jax.stylize(content, some, model=model, masks=masks, detail=0.3)
    for some, masks in ((styles[:1], np.stack([1 - mask])), (styles, np.stack([1 - mask, mask])))
  ]
  return images.contact_sheet([[content, np.stack([mask] * 3, -1), *map(np.asarray, made)]])


def stroke_rows(models: dict[str, Stylizer]) -> np.ndarray:
  """Makes a row per pair of coarser and coarser strokes."""
  rows = []
  for name, *pair in STROKE_PAIRS:
    content, style = squares(*pair, STROKE_SIZE)
    made = [
      adaconv_jax.stylize(content, style, model=models[name], stroke=stroke) for stroke in STROKES
    ]
    rows.append([np.asarray(picture) for picture in made])
  return images.contact_sheet(rows)


def preview_rows(models: dict[str, Stylizer]) -> np.ndarray:
  """Makes a row per pair: a preview, and of three prints the middle.

  The prints are the preview enlarged, that of `look_size`, and one painted at its own size.
  """
  rows = []
  for name, *pair in PREVIEW_PAIRS:
    content, style = squares(*pair, PREVIEW_PRINT)
    small = square("content", pair[0], PREVIEW_LOOK)
    preview, made, own = (
      np.asarray(adaconv_jax.stylize(photo, style, model=models[name], look_size=look))
      for photo, look in ((small, None), (content, PREVIEW_LOOK), (content, None))
    )
    prints = [scaled(preview, PREVIEW_PRINT), made, own]
    start = (PREVIEW_PRINT - PREVIEW_SHOWN) // 2
    middle = slice(start, start + PREVIEW_SHOWN)
    rows.append([scaled(preview, PREVIEW_SHOWN), *(x[middle, middle] for x in prints)])
  return images.contact_sheet(rows)


def finetuned_rows(tuned: Sequence[str]) -> np.ndarray:
  """Makes a row of photographs, and two per "WORKDIR=PAINTING": the shipped model's, and the new's.

  The paintings are not shown, because they may not be published.
  """
  photos = np.stack([square("content", name, FINETUNED_SIZE) for name in FINETUNED_CONTENTS])
  rows = [photos]
  for workdir, painting in (value.split("=", 1) for value in tuned):
    picture = images.decode(images.read_file(painting), name=painting, at_least=FINETUNED_SIZE)
    style = images.to_float(images.center_square(picture, FINETUNED_SIZE))
    models = (load_model("adaconv_plus"), load_model(workdir))
    rows += [np.asarray(stylize(model, photos, style)) for model in models]
  return images.contact_sheet([list(row) for row in rows])


def scaled(picture: np.ndarray, side: int) -> np.ndarray:
  """Scales a square `[h, w, 3]` in [0, 1] to `side` pixels."""
  image = Image.fromarray(images.to_uint8(picture))
  return images.to_float(image.resize((side, side), Image.Resampling.BICUBIC))


def sheet(model: Stylizer) -> np.ndarray:
  """Makes a sheet: example contents across, styles down, the originals on the edges."""
  contents = np.stack([square("content", name, SIZE) for name in SHEET_CONTENTS])
  rows: list[Sequence[np.ndarray | None]] = [[None, *contents]]
  for name in SHEET_STYLES:
    style = square("style", name, SIZE)
    rows.append([style, *np.asarray(stylize(model, contents, style))])
  return images.contact_sheet(rows)


def video(model: Stylizer) -> np.ndarray:
  """Makes rows of the last frames of a pan: the input, a stylized video, and frame by frame."""
  frames = pan()
  style = square("style", "night", VIDEO_SIZE)
  rows = [frames]
  for options in ({}, {"statistics": "frame", "blending": 0}):
    rows.append(np.stack(list(stylize_frames(frames, style, model=model, **options))))
  return images.contact_sheet([list(row[-VIDEO_SHOWN:]) for row in rows])


def pan() -> np.ndarray:
  """Moves slowly into the palace, with the grain of a film: `[n, size, size, 3]` in [0, 1]."""
  path = EXAMPLES / "content" / "palace.jpg"
  photo = images.decode(images.read_file(path), name=str(path))
  rng, frames = np.random.default_rng(0), []
  for index in range(VIDEO_COUNT):
    side = VIDEO_SIZE * 1.3 * 0.99**index
    left, top = 40 + 3 * index, 30 + index
    frame = photo.resize(
      (VIDEO_SIZE, VIDEO_SIZE), Image.Resampling.BICUBIC, (left, top, left + side, top + side)
    )
    noise = VIDEO_GRAIN * rng.standard_normal((VIDEO_SIZE, VIDEO_SIZE, 3), np.float32)
    frames.append(np.clip(images.to_float(frame) + noise, 0, 1))
  return np.stack(frames)


def save(name: str, picture: np.ndarray) -> None:
  """Writes a JPEG in this folder."""
  images.save(DOCS / name, picture, quality=88)
  print(f"docs/{name}: {picture.shape[1]} x {picture.shape[0]}")


def write_losses(name: str, workdir: Path) -> None:
  """Writes the held-out losses that a training logged as CSV."""
  lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
  heldout = {line["pairs_seen"]: line for line in lines if "heldout_style_loss" in line}
  with (DOCS / "models" / f"{name}_losses.csv").open("w", newline="") as file:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["pairs_seen", "content_loss", "style_loss"])
    for pairs, line in sorted(heldout.items()):
      losses = (line[f"heldout_{loss}_loss"] for loss in ("content", "style"))
      writer.writerow([pairs, *(f"{loss:.4f}" for loss in losses)])


def plot_losses(name: str) -> None:
  """Draws the held-out losses of a model's training against the pairs seen."""
  with (DOCS / "models" / f"{name}_losses.csv").open(newline="") as file:
    rows = list(csv.DictReader(file))
  pairs = [float(row["pairs_seen"]) / 1000 for row in rows]
  mpl.use("Agg")
  figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
  for loss in ("content_loss", "style_loss"):
    axes.plot(pairs, [float(row[loss]) for row in rows], label=loss.replace("_", " "))
  axes.set(
    title=f"{name}: losses on 40 held-out pairs",
    xlabel="pairs seen, thousands",
    ylabel="loss",
    ylim=(0, None),
  )
  axes.grid(alpha=0.3, which="both")
  axes.legend()
  figure.savefig(DOCS / "models" / f"{name}_losses.png", dpi=120)
  plt.close(figure)


if __name__ == "__main__":
  main()
