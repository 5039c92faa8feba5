"""Makes the pictures of README and model cards with the models that come with the package.

    pip install -e '.[docs]' && python docs/make_pictures.py [--losses NAME=WORKDIR]

stylized.jpg            README's rows: photograph, painting, and what each model makes of them
models/NAME.jpg         sheet of a model: photographs across, paintings down
models/NAME_losses.png  held-out losses over the training, from models/NAME_losses.csv, which
                        --losses writes from what the training has logged
"""

import argparse
import csv
import json
from collections.abc import Sequence
from pathlib import Path

import jax
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

from adaconv_jax import images, load_model
from adaconv_jax.checkpoints.load import shipped_models
from adaconv_jax.models.stylizer import Stylizer

DOCS = Path(__file__).parent
EXAMPLES = DOCS.parent / "examples"
README_PAIRS = (
  ("cat", "night"),
  ("palace", "woodblock"),
  ("coffee", "glass"),
  ("flower", "facets"),
)
SHEET_CONTENTS = ("astronaut", "palace", "cat", "coffee", "rocket")
SHEET_STYLES = ("night", "woodblock", "mosaic", "ink", "glass", "wash", "facets")
SIZE = 256  # of the squares in the sheets
README_SIZE = 288


def main() -> None:
  """Writes all pictures, for every shipped model."""
  parser = argparse.ArgumentParser()
  parser.add_argument("--losses", metavar="NAME=WORKDIR", action="append", default=[])
  for name, workdir in (value.split("=", 1) for value in parser.parse_args().losses):
    write_losses(name, Path(workdir))
  models = {name: load_model(name) for name in shipped_models()}
  save("stylized.jpg", readme_rows(models))
  for name, model in models.items():
    save(f"models/{name}.jpg", sheet(model))
    plot_losses(name)


def square(folder: str, name: str, size: int) -> np.ndarray:
  """Reads an example image as `[size, size, 3]` in [0, 1], the square in its middle."""
  path = EXAMPLES / folder / f"{name}.jpg"
  image = images.decode(path.read_bytes(), name=str(path), at_least=size)
  return images.to_float(images.center_square(image, size))


@jax.jit
def stylize(model: Stylizer, contents: np.ndarray, style: np.ndarray) -> jax.Array:
  """Renders contents `[n, size, size, 3]` in one style `[size, size, 3]`."""
  return model.stylize(contents, model.encode_style(style[None]))


def readme_rows(models: dict[str, Stylizer]) -> np.ndarray:
  """One column per pair: content, style, and each model's result below them."""
  pairs = [
    (square("content", content, README_SIZE), square("style", style, README_SIZE))
    for content, style in README_PAIRS
  ]
  made = [
    [np.asarray(stylize(model, content[None], style))[0] for content, style in pairs]
    for model in models.values()
  ]
  contents, styles = zip(*pairs, strict=True)
  return images.contact_sheet([contents, styles, *made])


def sheet(model: Stylizer) -> np.ndarray:
  """Example contents across, styles down, the originals on the edges."""
  contents = np.stack([square("content", name, SIZE) for name in SHEET_CONTENTS])
  rows: list[Sequence[np.ndarray | None]] = [[None, *contents]]
  for name in SHEET_STYLES:
    style = square("style", name, SIZE)
    rows.append([style, *np.asarray(stylize(model, contents, style))])
  return images.contact_sheet(rows)


def save(name: str, picture: np.ndarray) -> None:
  """Writes a JPEG below this folder."""
  images.save(DOCS / name, picture, quality=88)
  print(f"docs/{name}: {picture.shape[1]} x {picture.shape[0]}")


def write_losses(name: str, workdir: Path) -> None:
  """Writes the held-out losses that a training has logged as CSV."""
  lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
  heldout = {line["pairs_seen"]: line for line in lines if "heldout_style_loss" in line}
  with (DOCS / "models" / f"{name}_losses.csv").open("w", newline="") as file:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["pairs_seen", "content_loss", "style_loss"])
    for pairs, line in sorted(heldout.items()):
      losses = (line[f"heldout_{loss}_loss"] for loss in ("content", "style"))
      writer.writerow([pairs, *(f"{loss:.4f}" for loss in losses)])


def plot_losses(name: str) -> None:
  """Draws the held-out losses of a model's training against the pairs that it had seen."""
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
