"""Progress bars: in terminals of any size, and as plain lines in a log file."""

import sys
import time
from typing import Any

from tqdm import tqdm

# Between two lines of a log file.
LINE_SECONDS = 30.0
# Of a terminal that does not say how wide it is, as some pseudo-terminals do not.
COLUMNS = 80

_LINE = "{desc}{n_fmt}/{total_fmt} {unit}s ({percentage:.0f}%), {elapsed} passed, {remaining} left"
_ENDLESS = "{desc}{n_fmt} {unit}s, {elapsed} passed"
_SPEED = ", {rate_fmt}{postfix}"


class Bar(tqdm):
  """A tqdm that writes plain lines where standard error is no terminal.

  Takes tqdm's arguments.

  Attributes:
    speed: steps per second to show and to compute the time left from; 0: not known yet; None:
      tqdm's own estimate.
  """

  def __init__(self, *args: Any, **kwargs: Any):
    stream = kwargs.get("file") or sys.stderr
    self._lines = not _is_terminal(stream)
    self._shown_at, self._shown_n = time.monotonic(), None
    self.speed: float | None = None
    if self._lines and "bar_format" not in kwargs:
      known = kwargs.get("total") or (args[2:] and args[2])
      kwargs["bar_format"] = (_LINE if known else _ENDLESS) + _SPEED
    super().__init__(*args, **{"dynamic_ncols": True, **kwargs})

  @property
  def format_dict(self) -> Any:
    """What a bar is made of, see tqdm."""
    values = super().format_dict
    if self._lines:
      values["ncols"] = None
      if values["prefix"] and values["bar_format"] and "{n_fmt}" in values["bar_format"]:
        values["prefix"] = f"{values['prefix'].removesuffix(': ')}: "
    elif values["ncols"] is not None and values["ncols"] < 1:
      values["ncols"] = COLUMNS
    if self.speed is not None:
      values["rate"] = self.speed
    return values

  def refresh(self, nolock: bool = False, lock_args: Any = None) -> Any:
    """Shows the present state; in a log file only if the last line is some time ago."""
    if self._lines and time.monotonic() - self._shown_at < LINE_SECONDS:
      return True
    return super().refresh(nolock=nolock, lock_args=lock_args)

  def show(self) -> None:
    """Shows the present state now, in a log file as well."""
    if not self.disable:
      super().refresh()

  def display(self, msg: str | None = None, pos: int | None = None) -> Any:
    """Shows a text, by default the present state."""
    if not self._lines:
      if self.nrows is not None and self.nrows < 1:
        self.nrows = None
      return super().display(msg, pos)
    if msg is not None:
      return False
    self._shown_at, self._shown_n = time.monotonic(), self.n
    self.fp.write(f"{' '.join(str(self).split())}\n")
    self.fp.flush()
    return True

  def clear(self, nolock: bool = False) -> None:
    """Clears the bar; lines stay."""
    if not self._lines:
      super().clear(nolock)

  def close(self) -> None:
    """Ends the bar, in a log file with a last line."""
    if self._lines and not self.disable:
      began = self.n != self.initial and time.time() >= self.start_t + self.delay
      if began and self.n != self._shown_n:
        self._ema_dt = lambda: None  # the speed of the whole
        self.display()
      self.leave = False
    super().close()


def _is_terminal(stream: Any) -> bool:
  try:
    return stream.isatty()
  except (AttributeError, ValueError):  # there is none, or it is closed
    return False
