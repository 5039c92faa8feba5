"""What a training run shows while it runs: a progress bar, TensorBoard, and sample grids."""

import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from tensorboardX import SummaryWriter
from tqdm import tqdm

from adaconv_jax import images
from adaconv_jax.models.stylizer import Stylizer
from adaconv_jax.training.devices import fetch
from adaconv_jax.training.objective import Metrics


class Progress:
  """Reports one run; silent on all processes but the first.

  Args:
    workdir: scalars and image grids go to `workdir/tensorboard`; the scalars to
      `workdir/metrics.jsonl` and the grids as PNG to `workdir/samples` as well.
    start_step: steps done by earlier runs.
    num_steps: steps of the whole training.
    batch_size: pairs per step, over all devices.
    log_every_steps: period of the scalars.
  """

  def __init__(
    self,
    workdir: Path,
    *,
    start_step: int,
    num_steps: int,
    batch_size: int,
    log_every_steps: int,
  ):
    self._speaks = jax.process_index() == 0
    self._samples, self._metrics = workdir / "samples", workdir / "metrics.jsonl"
    self._batch_size, self._log_every = batch_size, log_every_steps
    self._pending: tuple[int, Metrics] | None = None
    self._logged = (start_step, time.monotonic())
    self._writer = (
      SummaryWriter(str(workdir / "tensorboard"), purge_step=start_step + 1)
      if self._speaks
      else None
    )
    self._bar = tqdm(
      total=num_steps,
      initial=start_step,
      unit="step",
      disable=not self._speaks,
      # In a log file a line per half minute is enough.
      mininterval=0.5 if sys.stderr.isatty() else 30,
      dynamic_ncols=True,
    )

  def step(self, step: int, metrics: Metrics) -> None:
    """Takes the metrics of `step`, and reports those of the step before.

    Reading the metrics of a step that has just been started would make the host wait for it.

    Raises:
      FloatingPointError: the loss of the step before is not finite.
    """
    self.flush()
    self._pending = (step, metrics)
    self._bar.update(1)

  def flush(self) -> None:
    """Reports what is pending; waits for the device.

    Raises:
      FloatingPointError: the loss is not finite.
    """
    if self._pending is None:
      return
    step, metrics = self._pending
    self._pending = None
    loss = float(fetch(metrics["loss"]))
    if not math.isfinite(loss):
      raise FloatingPointError(
        f"the loss is {loss} at step {step}, so training stops; earlier checkpoints are kept. "
        "Lower config.optimizer.learning_rate or config.optimizer.clip_norm and run again."
      )
    if step % self._log_every == 0 or step == 1:
      self._log(step, {name: float(fetch(value)) for name, value in metrics.items()})

  def _log(self, step: int, values: Mapping[str, float]) -> None:
    now = time.monotonic()
    steps, seconds = step - self._logged[0], now - self._logged[1]
    self._logged = (step, now)
    rate = self._batch_size * steps / max(seconds, 1e-9)
    self._bar.set_postfix({"loss": f"{values['loss']:.4g}", "images/s": f"{rate:.3g}"})
    self._write(step, {**values, "images_per_second": rate}, "train/")

  def heldout(self, step: int, losses: Mapping[str, float]) -> None:
    """Reports the losses on the held-out pairs, beside the number of pairs that were trained on."""
    self.flush()
    values = {f"heldout_{name}": value for name, value in losses.items()}
    self._write(step, values | {"pairs_seen": step * self._batch_size})

  def _write(self, step: int, values: Mapping[str, float], prefix: str = "") -> None:
    if self._writer is not None:
      for name, value in values.items():
        self._writer.add_scalar(prefix + name, value, step)
      with self._metrics.open("a") as file:
        file.write(json.dumps({"step": step, **values}) + "\n")

  def grid(self, step: int, stylizer: Stylizer, contents: np.ndarray, styles: np.ndarray) -> None:
    """Stylizes every content in every style and writes the grid, the originals on its edges."""
    if self._writer is None or not len(contents) or not len(styles):
      return
    rows: list[list[np.ndarray | None]] = [[None, *contents]]
    for style in styles:
      rows.append([style, *np.asarray(_stylize_all(stylizer, contents, style[None]))])
    sheet = images.contact_sheet(rows)
    images.save(self._samples / f"{step:07d}.png", sheet)
    self._writer.add_image("samples", images.to_uint8(sheet), step, dataformats="HWC")
    self._writer.flush()

  def close(self) -> None:
    """Ends the bar and the TensorBoard file."""
    self._bar.close()
    if self._writer is not None:
      self._writer.close()


@jax.jit
def _stylize_all(stylizer: Stylizer, contents: jax.Array, style: jax.Array) -> jax.Array:
  return stylizer.stylize(contents, stylizer.encode_style(style))
