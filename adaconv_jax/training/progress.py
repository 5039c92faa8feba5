"""The output of a running training: a progress bar, TensorBoard, and sample grids."""

import contextlib
import json
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2

from adaconv_jax import images
from adaconv_jax.bars import Bar
from adaconv_jax.checkpoints.record import read_metrics
from adaconv_jax.files import Mirror, naming, replacing
from adaconv_jax.models.stylizer import Stylizer
from adaconv_jax.training.devices import FAILED, fetch
from adaconv_jax.training.objective import Metrics
from adaconv_jax.training.pace import Interval, Pace

log = logging.getLogger(__name__)

METRICS = "metrics.jsonl"
_EVENTS: Any = event_pb2  # whose classes are made when it is imported
# After how many steps, and above which share, waiting for data is reported; once.
WAITING_STEPS, TOO_MUCH_WAITING = 200, 1 / 3
# Metrics of how a step was judged, which are reported as text.
_JUDGEMENT = ("skipped", "spike", "skipped_in_a_row", "stop")


class Progress:
  """Reports one run; silent on all processes but the first.

  Args:
    workdir: scalars and image grids are written to `workdir/tensorboard`, the scalars also to
      `workdir/metrics.jsonl`, and the grids also as PNG to `workdir/samples`.
    start_step: steps done by earlier runs.
    num_steps: steps of the whole training.
    batch_size: pairs per step, over all devices.
    log_every_steps: how often scalars are logged; 0 for never.
    start_pairs: number of pairs in the steps done by earlier runs.
    max_skipped_steps: the training stops after this many skipped steps in a row.

  Attributes:
    skipped_in_a_row: number of steps skipped since the last one that was not, as far as reported.
    skipped_steps: number of all steps that were skipped.
  """

  def __init__(
    self,
    workdir: Path,
    *,
    start_step: int,
    num_steps: int,
    batch_size: int,
    log_every_steps: int,
    start_pairs: int = 0,
    max_skipped_steps: int = 1,
  ):
    self.skipped_in_a_row = self.skipped_steps = 0
    self._start, self._max_skipped = (start_step, start_pairs), max_skipped_steps
    self._speaks = jax.process_index() == 0
    self._workdir = workdir
    # Of several processes, only the first one writes.
    self._mirror = Mirror(workdir) if self._speaks else None
    logs = workdir if self._mirror is None else self._mirror.folder
    self._samples, self._metrics = logs / "samples", logs / METRICS
    if self._mirror is not None:
      self._mirror.fetch(METRICS)
      _end_line(self._metrics)
    self._batch_size, self._log_every = batch_size, log_every_steps
    self._pending: tuple[int, Metrics] | None = None
    self._pace, self._logged = Pace(), start_step
    self._judged: list[Interval] | None = []  # None: the warning was given
    self._phase, self._pauses = "", []
    self._events = _Events(logs / "tensorboard", start_step) if self._speaks else None
    hidden = not self._speaks or start_step >= num_steps
    self._bar = Bar(
      total=num_steps, initial=start_step, unit="step", disable=hidden, mininterval=0.5
    )

  def step(self, step: int, metrics: Metrics) -> None:
    """Takes the metrics of `step`, and reports those of the step before.

    Reading the metrics of a step that has just started would make the host wait for it.

    Raises:
      FloatingPointError: too many steps in a row were skipped, up to the step before.
    """
    self.flush()
    self._pending = (step, metrics)
    self._pace.step()
    self._bar.speed = self._pace.speed()
    self._bar.update(1)

  def phase(self, name: str, *, new_program: bool = False) -> None:
    """Shows which phase of the training the next steps are in.

    Args:
      name: of the phase.
      new_program: whether its steps take another time than those before.
    """
    if new_program:
      self._pace.restart()
    if name != self._phase:
      self._phase = name
      self._describe()

  @contextlib.contextmanager
  def pause(self, what: str, *, once: bool = False) -> Iterator[None]:
    """Shows what takes the time while no step runs.

    Args:
      what: is done meanwhile.
      once: it is not to be expected again.
    """
    self._pauses.append(what)
    self._describe(once=once)
    try:
      with self._pace.pause(once=once):
        yield
    finally:
      self._pauses.pop()
      self._describe()

  def _describe(self, *, once: bool = False) -> None:
    parts = [part for part in (self._phase, *self._pauses[-1:]) if part]
    self._bar.set_description(", ".join(parts), refresh=False)
    if once:
      self._bar.show()  # it may take minutes
    else:
      self._bar.refresh()

  def waiting(self) -> contextlib.AbstractContextManager[None]:
    """Within it, the training waits for data."""
    return self._pace.wait()

  def flush(self) -> None:
    """Reports the pending metrics; waits for the device.

    Raises:
      FloatingPointError: too many steps in a row were skipped.
    """
    if self._pending is None:
      return
    step, metrics = self._pending
    self._pending = None
    if "stop" in metrics and fetch(metrics["stop"]) >= FAILED:
      return  # no step was done
    self.skipped_in_a_row = int(fetch(metrics["skipped_in_a_row"]))
    if self.skipped_in_a_row:
      self.skipped_steps = int(fetch(metrics["skipped_steps"]))
      self._report_skipped(step, _reason(metrics))
    if self._log_every and (step % self._log_every == 0 or step == 1):
      kept = {name: value for name, value in metrics.items() if name not in _JUDGEMENT}
      self._log(step, {name: float(fetch(value)) for name, value in kept.items()})

  def _report_skipped(self, step: int, reason: str) -> None:
    row, total = self.skipped_in_a_row, self.skipped_steps
    if row >= self._max_skipped:
      raise FloatingPointError(
        f"{row} steps in a row, the last of them {step}, would have spoiled the training ({reason})"
        ", so it stops; earlier checkpoints are kept. Lower config.optimizer.learning_rate or "
        "config.optimizer.clip_norm and rerun; config.skip_loss_above sets the limit of the loss."
      )
    if self._speaks:
      log.warning("step %d is skipped: %s (%d in a row, %d in all)", step, reason, row, total)

  def _log(self, step: int, values: Mapping[str, float]) -> None:
    interval = self._pace.interval()
    # Of the steps, the last one may have been started only.
    steps, self._logged = step - self._logged, step
    seconds = interval.seconds / max(steps, 1)
    rate = self._batch_size / seconds
    shown = {
      "loss": f"{values['loss']:.4g}",
      "step": f"{seconds:.3g} s",
      "images/s": f"{rate:.3g}",
      "waiting": f"{interval.waiting:.0%}",
    }
    self._bar.set_postfix(shown, refresh=False)
    speed = {"images_per_second": rate, "step_seconds": seconds, "waiting": interval.waiting}
    self._write(step, {**values, **speed}, "train/")
    self._judge_waiting(interval)

  def _judge_waiting(self, interval: Interval) -> None:
    """Says once if the training is slow because it waits for data."""
    if self._judged is None:
      return
    self._judged.append(interval)
    if sum(each.steps for each in self._judged) < WAITING_STEPS:
      return
    seconds = sum(each.seconds for each in self._judged)
    share = sum(each.waiting * each.seconds for each in self._judged) / seconds
    self._judged = []
    if share > TOO_MUCH_WAITING:
      self._judged = None
      if self._speaks:
        log.warning(
          "the training waits for images %.0f%% of its time: raise config.data.num_workers, up to "
          "the number of cores, or pack large images with `adaconv pack`",
          100 * share,
        )

  def heldout(self, step: int, losses: Mapping[str, float]) -> None:
    """Reports the losses on the held-out pairs, with the number of pairs trained on so far."""
    self.flush()
    values = {f"heldout_{name}": value for name, value in losses.items()}
    start_step, start_pairs = self._start
    pairs = start_pairs + (step - start_step) * self._batch_size
    self._write(step, values | {"pairs_seen": pairs})
    if self._events is not None:
      self._events.flush()

  def _write(self, step: int, values: Mapping[str, float], prefix: str = "") -> None:
    # JSON has no numbers that are not finite.
    values = {name: value for name, value in values.items() if math.isfinite(value)}
    if self._events is not None:
      for name, value in values.items():
        self._events.add(step, summary.scalar(prefix + name, value))
      with naming(self._metrics), self._metrics.open("a") as file:
        file.write(json.dumps({"step": step, **values}) + "\n")

  def has_heldout(self, step: int) -> bool:
    """Returns whether held-out losses of a step are there, as of a run that is resumed."""
    return any(
      values.get("step") == step and "pairs_seen" in values
      for values in read_metrics(self._metrics)
    )

  def has_grid(self, step: int) -> bool:
    """Returns whether the grid of a step is there, as of a run that is resumed."""
    return (self._workdir / "samples" / self._grid_file(step).name).exists()

  def _grid_file(self, step: int) -> Path:
    return self._samples / f"{step:07d}.png"

  def grid(self, step: int, stylizer: Stylizer, contents: np.ndarray, styles: np.ndarray) -> None:
    """Stylizes every content in every style and writes the grid, originals on its edges."""
    if self._events is None or not len(contents) or not len(styles):
      return
    rows: list[list[np.ndarray | None]] = [[None, *contents]]
    for style in styles:
      rows.append([style, *np.asarray(_stylize_all(stylizer, contents, style[None]))])
    sheet = images.contact_sheet(rows)
    # Before the file, by which a resumed run knows that the grid is there.
    picture = summary.image("samples", images.to_uint8(sheet), dataformats="HWC")
    self._events.add(step, picture)
    self._events.flush()
    with replacing(self._grid_file(step)) as temporary:
      images.save(temporary, sheet)

  def sync(self) -> None:
    """Writes out what is logged, and copies it to a bucket; call it before a checkpoint.

    A run that is resumed from the checkpoint does not log these steps again.
    """
    if self._mirror is not None and self._events is not None:
      self._events.flush()
      self._mirror.copy()

  def close(self) -> None:
    """Closes the progress bar and the TensorBoard file.

    Raises:
      OSError: the disk is full.
    """
    self._bar.close()
    try:
      if self._events is not None:
        self._events.close()
    finally:
      if self._mirror is not None:
        self._mirror.close()


class _Events:
  """An event file of TensorBoard.

  tensorboardX's `SummaryWriter` has a queue, whose end its `flush` does not wait for.
  """

  def __init__(self, folder: Path, start_step: int):
    folder.mkdir(parents=True, exist_ok=True)
    self._folder = folder
    self._writer = EventsWriter(str(folder / "events"))
    # TensorBoard hides what earlier runs have logged from this step on.
    start = _EVENTS.SessionLog(status=_EVENTS.SessionLog.START)
    self._write(_EVENTS.Event(step=start_step + 1, session_log=start))
    self.flush()

  def _write(self, event: Any) -> None:
    event.wall_time = time.time()
    with naming(self._folder):
      self._writer.write_event(event)

  def add(self, step: int, values: Any) -> None:
    """Adds what `tensorboardX.summary` has made."""
    self._write(_EVENTS.Event(step=step, summary=values))

  def flush(self) -> None:
    """Hands everything to the system, so that it outlives the process."""
    with naming(self._folder):
      self._writer.flush()

  def close(self) -> None:
    """Closes the file."""
    with naming(self._folder):
      self._writer.close()


def _end_line(path: Path) -> None:
  """Ends the last line of a file, which a full disk or a killed run may have cut off."""
  if path.exists() and path.stat().st_size:
    with naming(path), path.open("rb+") as file:
      file.seek(-1, os.SEEK_END)
      if file.read(1) != b"\n":
        file.write(b"\n")


def _reason(metrics: Metrics) -> str:
  """Returns why a step was skipped."""
  loss, norm = (float(fetch(metrics[name])) for name in ("loss", "gradient_norm"))
  if not math.isfinite(loss):
    return f"the loss is {loss}"
  if not math.isfinite(norm):
    return f"the gradient's norm is {norm}"
  if fetch(metrics["spike"]):
    return f"the loss is {loss:.4g}, far above the earlier ones"
  return "its result is not finite"


@jax.jit
def _stylize_all(stylizer: Stylizer, contents: jax.Array, style: jax.Array) -> jax.Array:
  return stylizer.stylize(contents, stylizer.encode_style(style))
