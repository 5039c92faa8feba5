"""The table: its lines, and their Markdown."""

import dataclasses
from collections.abc import Sequence

from benchmarks.case import Case
from benchmarks.timing import Timings

HEADER = (
  "row", "what", "ours", "peer", "ratio", "target", "", "GFLOP/s", "peer's", "MB", "peer's",
  "bfloat16", "peer's", "notes"
)  # fmt: skip
NONE = "–"


@dataclasses.dataclass
class Line:
  """One line of the table; None for what was not measured.

  Attributes:
    row: number of the row.
    name: what was done.
    ours: seconds.
    peer: seconds.
    ratio: of the two, as the row defines it.
    target: bound of `ratio`: an upper one if `at_most`, otherwise a lower one.
    at_most: see `target`.
    gflops: GFLOP/s of ours and of the peer.
    memory: peak bytes of ours and of the peer.
    bfloat16: seconds of ours and of the peer in bfloat16.
    rate: pairs or images per second of ours.
    note: anything else.
  """

  row: str
  name: str
  ours: float | None = None
  peer: float | None = None
  ratio: float | None = None
  target: float | None = None
  at_most: bool = False
  gflops: tuple[float | None, float | None] = (None, None)
  memory: tuple[int | None, int | None] = (None, None)
  bfloat16: tuple[float | None, float | None] = (None, None)
  rate: float | None = None
  note: str = ""

  @property
  def met(self) -> bool | None:
    """Whether the ratio reaches the target; None if one of them is missing."""
    if self.ratio is None or self.target is None:
      return None
    return self.ratio <= self.target if self.at_most else self.ratio >= self.target


def case_line(case: Case, times: Timings, difference: float | None) -> Line:
  """Makes the line of a case, with times scaled to the whole work."""
  ours, peer = times.medians
  ours, peer = ours / case.ours_share, peer / case.peer_share
  notes = [case.note] if case.note else []
  if case.pairs:
    notes.append(f"{case.pairs / ours:.3g} images/s, peer {case.pairs / peer:.3g}")
  if difference is not None:
    notes.append(f"sides differ by {difference:.0e}")
  return Line(
    case.row,
    case.name,
    ours,
    peer,
    ours / peer if case.slowdown else peer / ours,
    case.target,
    case.slowdown,
    (case.gflop / ours, (case.peer_gflop or case.gflop) / peer),
    rate=case.pairs / ours if case.pairs else None,
    note="; ".join(notes),
  )


def cells(line: Line) -> list[str]:
  """Formats a line for the columns of `HEADER`."""
  target = NONE
  if line.target is not None:
    target = f"{'at most' if line.at_most else 'at least'} {line.target:g}"
  return [
    line.row,
    line.name,
    format_seconds(line.ours),
    format_seconds(line.peer),
    _number(line.ratio, ".2f"),
    target,
    {None: "", True: "met", False: "missed"}[line.met],
    *(_number(value, ".0f") for value in line.gflops),
    *(_number(value / 1e6 if value is not None else None, ".0f") for value in line.memory),
    *(format_seconds(value) for value in line.bfloat16),
    line.note,
  ]


def format_seconds(seconds: float | None) -> str:
  """Formats seconds with three digits and a unit: 12.3 ms, 1.23 s."""
  if seconds is None:
    return NONE
  if seconds < 0.9995:
    return f"{seconds * 1e3:.3g} ms"
  return f"{seconds:.3g} s" if seconds < 999.5 else f"{seconds:.0f} s"


def _number(value: float | None, form: str) -> str:
  return NONE if value is None else format(value, form)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """Formats a Markdown table whose columns also line up in a terminal."""
  widths = [max(3, *(len(row[i]) for row in [header, *rows])) for i in range(len(header))]
  lines = [header, ["-" * width for width in widths], *rows]
  return "\n".join(
    "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
    for line in lines
  )
