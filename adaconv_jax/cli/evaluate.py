"""`adaconv evaluate`: renders pairs with trained models, scores them and shows them on sheets."""

import argparse
import contextlib
import dataclasses
import functools
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from adaconv_jax import images
from adaconv_jax.bars import Bar
from adaconv_jax.checkpoints import hub
from adaconv_jax.checkpoints.errors import CheckpointError
from adaconv_jax.checkpoints.load import find_model, load_model
from adaconv_jax.cli.attempt import (
  EXIT_DONE,
  EXIT_INTERRUPTED,
  EXIT_SOME_FAILED,
  EXIT_USAGE,
  attempt,
  described,
  report,
)
from adaconv_jax.cli.options import (
  Parser,
  add_alpha,
  add_detail,
  add_evenness,
  add_model,
  add_overwrite,
  add_palette,
  add_pictures,
  add_refine,
  add_vgg_weights,
  in_range,
  path_text,
)
from adaconv_jax.cli.pairs import NAME_BYTES, Picture, find_inputs, shorten
from adaconv_jax.cli.stylize import DETAIL, EVENNESS, PALETTE, REFINE
from adaconv_jax.evaluation.artifacts import MIN_SIZE
from adaconv_jax.evaluation.evaluator import (
  Evaluator,
  LossNetwork,
  Output,
  draw_pairs,
  load_loss_network,
)
from adaconv_jax.evaluation.faces import in_square, read_faces
from adaconv_jax.evaluation.peers import PEERS, Peer, load_peer
from adaconv_jax.evaluation.report import (
  MEANINGS,
  Results,
  check_folder,
  prepare_folder,
  summarize,
  table,
  to_csv,
  to_json,
)
from adaconv_jax.evaluation.sheets import beside, blocks, contents_per_sheet, grids, strips
from adaconv_jax.evaluation.similarity import Box, Spread, spread
from adaconv_jax.files import Json, expand_named, printable, sha256
from adaconv_jax.lock import WorkdirInUse, locked
from adaconv_jax.models.stylizer import Stylizer
from adaconv_jax.results import Save, saved_in


class Square(NamedTuple):
  """A picture, scaled and cut to `[size, size, 3]`, uint8, and the boxes of faces in it."""

  picture: Picture
  pixels: np.ndarray
  faces: tuple[Box, ...] = ()


def main(argv: Sequence[str] | None = None, *, prog: str = "adaconv evaluate") -> int:
  """Runs the command.

  Args:
    argv: its arguments; those of the process if None.
    prog: what help and errors call it.

  Returns:
    0 when everything is done, 1 when some pictures failed or the output could not be written, 2
    when the arguments or a model are wrong and nothing was done, 130 after Ctrl-C.
  """
  args = _parser(prog).parse_args(argv)
  with contextlib.ExitStack() as stack:
    return _evaluate(args, stack)


def _evaluate(args: argparse.Namespace, stack: contextlib.ExitStack) -> int:
  """Does as `main`, and leaves the lock of the output folder to `stack`."""
  try:
    out = expand_named("--output", args.output)
    found = find_inputs(args.content, args.style, args.output, sheets=True)
    draw_pairs(len(found[0]), len(found[1]), args.pairs)  # fails if there are not so many
    faces = None if args.faces is None else read_faces(args.faces)
    ours, files = _load_models(args.model, args.vgg_weights)
    models = ours | {name: load_peer(name) for name in dict.fromkeys(args.peer)}
    network, loss_vgg = load_loss_network()
    check_folder(out)
    stack.enter_context(locked(out, "output", "evaluating", remains=False))
    prepare_folder(out, overwrite=args.overwrite)
  except (ValueError, OSError, CheckpointError, WorkdirInUse) as error:
    report(f"error: {described(error)}")
    return EXIT_USAGE
  try:
    reported: set[str] = set()  # a file may be a content and a style
    contents, styles = (_read_all(some, args.size, faces or {}, reported) for some in found)
    skipped = sum(map(len, found)) - len(contents) - len(styles)
    results = Results()
    if contents and styles:
      every = len(contents) * len(styles)
      pairs = draw_pairs(len(contents), len(styles), args.pairs and min(args.pairs, every))
      look = {
        key: getattr(args, key) for key in ("alpha", "detail", "palette", "evenness", "refine")
      }
      settings = {
        "size": args.size,
        **look,
        "cut": "scaled to the shorter side, then the square in the middle",
        "drawn": args.pairs is not None,
        "contents": len(contents),
        "styles": len(styles),
        "loss_vgg": loss_vgg,
      }
      with saved_in(out) as save:
        results = _run(
          models, network, contents, styles, pairs, save, look, score_faces=faces is not None
        )
        if results.rows:
          settings["pairs"] = len(results.rows) // len(models)
          settings["skipped"] = skipped + results.failed
          summary = summarize(models, results, settings, files)
          means = {name: model["means"] for name, model in summary["models"].items()}
          print(table(means, MEANINGS), flush=True)
          save("summary.json", lambda path: path.write_text(to_json(summary)))
      if results.rows:
        size = f"{args.size} x {args.size} pixels"
        print(f"{settings['pairs']} pairs of {size}, in {printable(out)}")
  except OSError as error:
    report(f"error: {described(error)}")
    return EXIT_SOME_FAILED
  except KeyboardInterrupt:
    print("interrupted; the sheets and scores written so far are whole", file=sys.stderr)
    return EXIT_INTERRUPTED
  if skipped or results.failed:
    print(f"error: {skipped + results.failed} pictures could not be used", file=sys.stderr)
    return EXIT_SOME_FAILED
  return EXIT_DONE


def _parser(prog: str = "adaconv evaluate") -> argparse.ArgumentParser:
  parser = Parser(
    prog=prog,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    description="Compares trained models: renders contents in styles and scores the pairs.",
    epilog=f"""\
Every picture is scaled to --size on its shorter side, smaller ones are enlarged, and the square in
the middle is cut, so that all outputs have one size and their scores can be compared. Losses are
computed with VGG-16 as it comes with the package, whatever the models' own encoders are. The models
are rendered as in the papers, with --detail 0, --palette 0, --evenness 0 and --refine 0, unlike by
`adaconv stylize`, which takes {DETAIL}, {PALETTE}, {EVENNESS:g} and {REFINE}.

The folder --output gets pairs.csv (a row per model and pair), summary.json (means, settings,
models) and sheets: contents across, styles down. With --pairs N, the sheets show content, style
and output side by side. The outputs of several models are side by side, in the order of --model,
and those of peers follow.

--faces FILE is a CSV file with a row per face and the columns name, left, top, right and bottom:
the name of a content's file, and a box in shares (0 to 1) of the upright picture's width and
height. Without it, there is no score "face"; without the extra `eval`, none of LPIPS.

scores:
{_meanings()}

A file that cannot be read is reported and left out, with all its pairs. If the folder takes no more
files, because its disk is full or its bucket does not answer, the evaluation goes on, and an error
says where on this machine the rest of them is. Exit code: 0 all done; 1 some pictures failed, or
files are elsewhere; 2 nothing done, because of the arguments or a model; 130 interrupted.
""",
  )
  add = parser.add_argument
  add_model(parser, several=True)
  add(
    "--peer",
    action="extend",
    nargs="+",
    default=[],
    choices=PEERS,
    metavar="NAME",
    help=f"score another project's model as well: {', '.join(PEERS)} (Magenta's; needs the extra "
    "`peers`)",
  )
  add_pictures(parser)
  add("--faces", type=path_text, metavar="FILE", help="boxes of the faces in the contents")
  add(
    "--output",
    type=path_text,
    required=True,
    metavar="DIR",
    help="a folder; missing folders are made",
  )
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
  add_alpha(parser)
  add_detail(parser, 0.0)
  add_palette(parser, 0.0, "%(default)s")
  add_evenness(parser, 0.0)
  add_refine(parser, 0)
  add_overwrite(parser)
  add_vgg_weights(parser)
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


def _load_models(
  paths: list[str], vgg_weights: str | None
) -> tuple[dict[str, Stylizer], dict[str, str]]:
  """Loads the models by the names that sheets and tables have for them.

  Returns:
    The models, and the sha256 of those that are files.
  """
  models: dict[str, Stylizer] = {}
  files: dict[str, str] = {}
  for path in paths:
    stylizer = load_model(path, vgg_weights=vgg_weights)
    where = find_model(path)
    on_hub = hub.parse(path)
    if on_hub is not None:  # where all files have one name
      name = on_hub.repo.replace("/", "-")
    else:
      where = where.resolve()
      name = where.stem if where.is_file() else where.name
    if where.parent.name == "checkpoints":  # one step of a workdir
      name = f"{where.parent.parent.name}-{name}"
    # Part of the sheets' names, where some file systems have no backslash.
    name = printable(name).replace("\\", "_")
    if name in models:
      raise ValueError(f"--model: two models would be named {name!r}; rename one")
    models[name] = stylizer
    if where.is_file():
      files[name] = sha256(where)
  return models, files


def _read_all(
  pictures: list[Picture], size: int, faces: dict[str, list[Box]], reported: set[str]
) -> list[Square]:
  """Reads what can be read of `pictures`, and reports the rest; see `attempt`."""

  def read(picture: Picture) -> Square:
    name = str(picture.path)
    image = images.decode(images.read_file(picture.path), name=name, at_least=size)
    boxes = [in_square(box, image.size, size) for box in faces.get(picture.path.name, ())]
    pixels = np.asarray(images.center_square(image, size, name=name))
    return Square(picture, pixels, tuple(box for box in boxes if box is not None))

  squares = [attempt(p.path, read, p, reported=reported) for p in pictures]
  return [square for square in squares if square is not None]


def _run(
  models: dict[str, Stylizer | Peer],
  network: LossNetwork,
  contents: list[Square],
  styles: list[Square],
  pairs: list[tuple[int, int]],
  save: Save,
  look: Json,
  *,
  score_faces: bool,
) -> Results:
  """Renders and scores the pairs, and saves the sheets, and after each block the scores so far."""
  results = Results(spreads={name: [] for name in models})
  lay_out = grids if len(pairs) == len(contents) * len(styles) else strips
  style_images = [style.pixels / np.float32(255) for style in styles]
  with Bar(total=len(pairs) * len(models), unit="image") as bar:
    make = functools.partial(Evaluator, **look)
    evaluator = attempt("styles", make, models, network, [style.pixels for style in styles])
    if evaluator is None:
      return dataclasses.replace(results, failed=len(styles))
    for block in blocks(len(contents), contents_per_sheet(len(models))):
      shown: dict[tuple[int, int], np.ndarray] = {}
      for content in block:
        chosen = [style for index, style in pairs if index == content]
        name, pixels = str(contents[content].picture.path), contents[content].pixels
        faces = contents[content].faces if score_faces else None
        outputs = attempt(name, evaluator.render, pixels, chosen, name, bar.update, faces)
        if outputs is None:
          results.failed += 1
        else:
          _note(results, name, [str(styles[style].picture.path) for style in chosen], outputs)
          for position, style in enumerate(chosen):
            shown[content, style] = beside([o[position].stylized for o in outputs.values()])
      originals = {index: contents[index].pixels / np.float32(255) for index in block}
      for sheet in lay_out(originals, style_images, shown):
        number = f"sheet-{len(results.sheets) + 1:02d}--"
        name = number + shorten("--".join(models), NAME_BYTES - len(number) - 4) + ".png"
        save(name, functools.partial(images.save, image=sheet))
        results.sheets.append(name)
      if results.rows:
        text = to_csv(results.rows)
        save("pairs.csv", lambda path, text=text: path.write_text(text, "utf-8"))
  return results


def _note(
  results: Results, content: str, styles: list[str], outputs: dict[str, list[Output]]
) -> None:
  """Adds what one content has become in `styles`."""
  for model, made in outputs.items():
    for style, output in zip(styles, made, strict=True):
      row = {"model": model, "content": printable(content), "style": printable(style)}
      results.rows.append(row | output.scores)
    if len(made) > 1:
      stylized = np.stack([output.stylized for output in made])
      differences = spread(stylized)
      results.spreads[model].append(Spread(float(differences.color), float(differences.texture)))
