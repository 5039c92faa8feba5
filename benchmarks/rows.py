"""All cases of the rows that compare two functions, 1 to 7."""

from benchmarks import operation, stylizing, training_step
from benchmarks.case import Case

TORCH_ROWS = ("1", "2", "3", "4", "5", "6")  # those whose peer is PyTorch


def cases(*, quick: bool) -> list[Case]:
  """Returns the cases in the order of the table."""
  return [
    *stylizing.cases(quick=quick),
    *training_step.cases(quick=quick),
    *operation.cases(),
  ]
