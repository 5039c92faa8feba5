"""Tells good models from bad ones: renders pairs, scores them and lays them out on sheets.

    python -m adaconv_jax.cli.evaluate --model runs/first --content photos --style art --out eval

`--help` tells the rest.
"""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from adaconv_jax import images
from adaconv_jax.checkpoints.errors import CheckpointError
from adaconv_jax.checkpoints.load import find_model, load_model, shipped_models
from adaconv_jax.cli.command_line import (
  EXIT_DONE,
  EXIT_INTERRUPTED,
  EXIT_SOME_FAILED,
  EXIT_USAGE,
  attempt,
  in_range,
  run,
)
from adaconv_jax.cli.pairs import Picture, find_pictures
from adaconv_jax.evaluation.artefacts import MIN_SIZE
from adaconv_jax.evaluation.evaluator import (
  Evaluator,
  LossNetwork,
  Output,
  draw_pairs,
  load_loss_network,
)
from adaconv_jax.evaluation.report import (
  MEANINGS,
  Results,
  prepare_folder,
  summarize,
  table,
  write_csv,
  write_json,
)
from adaconv_jax.evaluation.sheets import beside, blocks, contents_per_sheet, grids, strips
from adaconv_jax.evaluation.similarity import Spread, spread
from adaconv_jax.files import replacing
from adaconv_jax.models.stylizer import Stylizer


class Square(NamedTuple):
  """A picture, scaled and cut to `[size, size, 3]`, uint8."""

  picture: Picture
  pixels: np.ndarray


def main(argv: list[str] | None = None) -> int:
  """Runs the command line.

  Returns:
    0 when everything is done, 1 when some pictures failed, 2 when the arguments or a model are
    wrong and nothing was done, 130 after Ctrl-C.
  """
  args = _parser().parse_args(argv)
  out = Path(args.out)
  try:
    found = [find_pictures("--content", args.content), find_pictures("--style", args.style)]
    draw_pairs(len(found[0]), len(found[1]), args.pairs)  # tells whether there can be so many
    models = _load_models(args.model, args.vgg_weights)
    network, loss_vgg = load_loss_network()
    prepare_folder(out, overwrite=args.overwrite)
  except (ValueError, OSError, CheckpointError) as error:
    print(f"error: {error}", file=sys.stderr)
    return EXIT_USAGE
  try:
    contents, styles = (_read_all(pictures, args.size) for pictures in found)
    skipped = sum(map(len, found)) - len(contents) - len(styles)
    results = Results()
    if contents and styles:
      every = len(contents) * len(styles)
      pairs = draw_pairs(len(contents), len(styles), args.pairs and min(args.pairs, every))
      results = _run(models, network, contents, styles, pairs, out)
  except KeyboardInterrupt:
    print("interrupted; the sheets written so far are whole", file=sys.stderr)
    return EXIT_INTERRUPTED
  if results.rows:
    settings = {
      "size": args.size,
      "cut": "scaled to the shorter side, then the square in the middle",
      "pairs": len(results.rows) // len(models),
      "drawn": args.pairs is not None,
      "contents": len(contents),
      "styles": len(styles),
      "skipped": skipped + results.failed,
      "loss_vgg": loss_vgg,
    }
    summary = summarize(models, results, settings)
    write_csv(out / "pairs.csv", results.rows)
    write_json(out / "summary.json", summary)
    print(table({name: model["means"] for name, model in summary["models"].items()}, MEANINGS))
    print(f"{summary['settings']['pairs']} pairs of {args.size} x {args.size} pixels, in {out}")
  if skipped or results.failed:
    print(f"error: {skipped + results.failed} pictures could not be used", file=sys.stderr)
    return EXIT_SOME_FAILED
  return EXIT_DONE


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m adaconv_jax.cli.evaluate",
    formatter_class=argparse.RawDescriptionHelpFormatter,
    description="Tells good models from bad ones: renders contents in styles and scores the pairs.",
    epilog=f"""\
Every picture is scaled to --size on its shorter side, smaller ones are enlarged, and the square in
the middle is cut, so that all outputs have one size and their scores can be compared. Losses are
computed with VGG-16 as it comes with the package, whatever the models' own encoders are.

The folder --out gets pairs.csv (a row per model and pair), summary.json (means, settings, models)
and sheets: contents across, styles down; of drawn pairs content, style and output side by side.
With several models their outputs stand side by side, in the order of --model.

scores:
{_meanings()}

A file that cannot be read is reported and left out, with all its pairs. Exit code: 0 all done;
1 some pictures failed; 2 nothing done, because of the arguments or a model.
""",
  )
  add = parser.add_argument
  add(
    "--model",
    nargs="+",
    required=True,
    metavar="NAME|PATH",
    help="one model, or several to compare: shipped ones (in this version: "
    f"{', '.join(shipped_models()) or 'none'}), workdirs of train.py, checkpoints in them, or "
    "files from save_bundle",
  )
  add("--content", nargs="+", required=True, metavar="PATH", help="image files or folders")
  add("--style", nargs="+", required=True, metavar="PATH", help="image files or folders")
  add("--out", required=True, metavar="DIR", help="folder for the results, which is made")
  add(
    "--pairs",
    type=_pairs,
    metavar="all|N",
    help="all pairs, or N that use every content and every style about equally often, the same "
    "ones in every run; default: all",
  )
  add(
    "--size",
    type=in_range(int, MIN_SIZE),
    default=256,
    metavar="PX",
    help=f"side of the squares, at least {MIN_SIZE}; default: %(default)s",
  )
  add("--overwrite", action="store_true", help="replace the evaluation that is in --out")
  add(
    "--vgg-weights",
    metavar="FILE",
    help="the VGG weights that the models were trained with, where they are not found by "
    "themselves",
  )
  return parser


def _meanings() -> str:
  width = max(map(len, MEANINGS)) + 2
  return "\n".join(f"  {name.ljust(width)}{meaning}" for name, meaning in MEANINGS.items())


def _pairs(text: str) -> int | None:
  if text == "all":
    return None
  try:
    return in_range(int, 1)(text)
  except argparse.ArgumentTypeError:
    message = f"expected 'all' or a whole number of at least 1, got {text!r}"
    raise argparse.ArgumentTypeError(message) from None


def _load_models(paths: list[str], vgg_weights: str | None) -> dict[str, Stylizer]:
  """Loads the models by the names that sheets and tables have for them."""
  models: dict[str, Stylizer] = {}
  for path in paths:
    stylizer = load_model(path, vgg_weights=vgg_weights)
    where = find_model(path).resolve()
    name = where.stem if where.is_file() else where.name
    if where.parent.name == "checkpoints":  # one step of a workdir
      name = f"{where.parent.parent.name}-{name}"
    if name in models:
      raise ValueError(f"--model: two models would be named {name!r}; rename one")
    models[name] = stylizer
  return models


def _read_all(pictures: list[Picture], size: int) -> list[Square]:
  """Reads what can be read of `pictures`, and reports the rest."""

  def read(path: Path) -> np.ndarray:
    return np.asarray(images.decode_square(path.read_bytes(), name=str(path), size=size))

  found = [(picture, attempt(picture.path, read, picture.path)) for picture in pictures]
  return [Square(picture, pixels) for picture, pixels in found if pixels is not None]


def _run(
  models: dict[str, Stylizer],
  network: LossNetwork,
  contents: list[Square],
  styles: list[Square],
  pairs: list[tuple[int, int]],
  out: Path,
) -> Results:
  """Renders and scores the pairs, and writes the sheets."""
  results = Results(spreads={name: [] for name in models})
  lay_out = grids if len(pairs) == len(contents) * len(styles) else strips
  style_images = [style.pixels / np.float32(255) for style in styles]
  with tqdm(total=len(pairs) * len(models), unit="image") as bar:
    evaluator = attempt("styles", Evaluator, models, network, [style.pixels for style in styles])
    if evaluator is None:
      return dataclasses.replace(results, failed=len(styles))
    for block in blocks(len(contents), contents_per_sheet(len(models))):
      shown: dict[tuple[int, int], np.ndarray] = {}
      for content in block:
        chosen = [style for index, style in pairs if index == content]
        name, pixels = str(contents[content].picture.path), contents[content].pixels
        outputs = attempt(name, evaluator.render, pixels, chosen, name, bar.update)
        if outputs is None:
          results.failed += 1
        else:
          _note(results, name, [str(styles[style].picture.path) for style in chosen], outputs)
          for position, style in enumerate(chosen):
            shown[content, style] = beside([o[position].stylized for o in outputs.values()])
      originals = {index: contents[index].pixels / np.float32(255) for index in block}
      for sheet in lay_out(originals, style_images, shown):
        name = f"sheet-{len(results.sheets) + 1:02d}--{'--'.join(models)}.png"
        with replacing(out / name) as temporary:
          images.save(temporary, sheet)
        results.sheets.append(name)
  return results


def _note(
  results: Results, content: str, styles: list[str], outputs: dict[str, list[Output]]
) -> None:
  """Adds what one content has become in `styles`."""
  for model, made in outputs.items():
    for style, output in zip(styles, made, strict=True):
      row = {"model": model, "content": content, "style": style}
      results.rows.append(row | output.scores)
    if len(made) > 1:
      stylized = np.stack([output.stylized for output in made])
      differences = spread(stylized)
      results.spreads[model].append(Spread(float(differences.color), float(differences.texture)))


def cli() -> None:
  """Entry point of the command."""
  run(main)


if __name__ == "__main__":
  cli()
