"""Contact sheets of an evaluation."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from adaconv_jax import images

# Most outputs across and down a sheet.
_ACROSS, _DOWN = 12, 12


_GAP = 12  # between the pairs of a sheet of chosen pairs


def blocks(count: int, most: int) -> Iterator[range]:
  """Splits `count` things into the fewest blocks of at most `most`, of about equal length."""
  number = math.ceil(count / most)
  edges = [count * index // number for index in range(number + 1)]
  for start, end in itertools.pairwise(edges):
    yield range(start, end)


def contents_per_sheet(models: int) -> int:
  """Returns how many contents fit across a sheet, each with the outputs of all models."""
  return max(1, _ACROSS // models)


def grids(
  contents: Mapping[int, np.ndarray],
  styles: Sequence[np.ndarray],
  outputs: Mapping[tuple[int, int], np.ndarray],
) -> Iterator[np.ndarray]:
  """Makes sheets of all pairs: contents across, styles down, originals on the edges.

  Args:
    contents: of one sheet, by index, each `[h, w, 3]` in [0, 1].
    styles: all styles; they may need several sheets.
    outputs: the models' outputs, joined by `beside`, by (content, style); missing ones leave an
      empty cell.
  """
  for block in blocks(len(styles), _DOWN):
    rows: list[list[np.ndarray | None]] = [[None, *contents.values()]]
    for style in block:
      rows.append([styles[style], *(outputs.get((content, style)) for content in contents)])
    yield images.contact_sheet(rows)


def strips(
  contents: Mapping[int, np.ndarray],
  styles: Sequence[np.ndarray],
  outputs: Mapping[tuple[int, int], np.ndarray],
) -> Iterator[np.ndarray]:
  """Makes sheets of chosen pairs, one after the other: content, style, outputs. See `grids`."""
  cells = [
    beside([contents[content], styles[style], output])
    for (content, style), output in outputs.items()
  ]
  per_row = max(1, round(_ACROSS * cells[0].shape[0] / cells[0].shape[1])) if cells else 1
  for block in blocks(len(cells), per_row * _DOWN):
    chosen: list[np.ndarray | None] = [cells[index] for index in block]
    chosen += [None] * (-len(chosen) % per_row)
    rows = [chosen[start : start + per_row] for start in range(0, len(chosen), per_row)]
    yield images.contact_sheet(rows, gutter=_GAP)


def beside(pictures: Sequence[np.ndarray]) -> np.ndarray:
  """Joins pictures of equal height side by side, such as the outputs of two models."""
  return images.contact_sheet([pictures], gutter=2)
