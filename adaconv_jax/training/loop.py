"""The training: data, model, state, and the loop."""

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from adaconv_jax.checkpoints.load import load_start
from adaconv_jax.checkpoints.orbax import STORES, Checkpoints
from adaconv_jax.checkpoints.record import (
  History,
  check_checkpoints,
  check_record,
  newest_step,
  read_metrics,
  write_record,
  write_start,
)
from adaconv_jax.data.batches import Batches, CropSpec, DataError, make_batches
from adaconv_jax.data.heldout import heldout_batches, load_images
from adaconv_jax.data.prepare import Lists, open_lists
from adaconv_jax.files import described, expand, in_bucket, naming_option
from adaconv_jax.lock import locked
from adaconv_jax.models.build import init_params
from adaconv_jax.models.stylizer import Stylizer
from adaconv_jax.models.transfer_model import Params
from adaconv_jax.training.check import check_settings
from adaconv_jax.training.devices import fetch, process_batch_size, replicate, shard
from adaconv_jax.training.from_config import Config, make_networks, make_steps
from adaconv_jax.training.hosts import StopRequest, agree, check_alike, check_shared
from adaconv_jax.training.objective import make_style_features
from adaconv_jax.training.profile import Span, Tracer
from adaconv_jax.training.progress import METRICS, Progress
from adaconv_jax.training.state import TrainState, create_state
from adaconv_jax.training.step import EvalStep, evaluate, make_eval_step
from adaconv_jax.training.style_cache import StyleCache
from adaconv_jax.vgg import weights as vgg_weights
from adaconv_jax.vgg.network import VGGParams

log = logging.getLogger(__name__)

ROLES = ("content", "style")


def train_and_evaluate(
  config: Config,
  workdir: Path,
  stop: StopRequest | None = None,
  profile: Span | None = None,
) -> int:
  """Runs the training that `config` describes, from the newest checkpoint in `workdir` if any.

  All settings and all that can be read of the workdir are checked before anything is written.

  Args:
    config: a ConfigDict as in `configs/`.
    workdir: the folder for everything that is written.
    stop: notices the signals; by default, this call makes its own.
    profile: the steps that are recorded to `workdir/profile`.

  Returns:
    The number of steps done, less than `config.num_steps` if SIGTERM or Ctrl-C stopped the run. The
    last step is saved in any case.

  Raises:
    ValueError: a setting is invalid, the workdir has a run of another model, a part of its record
      is damaged, or `init_from` is another model or was trained with other VGG weights.
    FloatingPointError: too many steps in a row were skipped, because they were not finite or their
      loss was far above the earlier ones.
    DataError: the images can no longer be read; the last step is saved.
    CheckpointError: no checkpoint is usable, they are missing, or none can be written.
    WorkdirInUse: another process trains in the workdir.
    OSError: the workdir cannot be written to; the last step is saved if possible.
  """
  workdir = expand(workdir)
  if (remote := in_bucket(workdir)) is not None and remote.scheme not in STORES:
    known = " and ".join(f"{scheme}://" for scheme in STORES)
    raise ValueError(f"workdir: {workdir}: checkpoints can be on a disk, and in {known}")
  check_settings(config)
  with contextlib.ExitStack() as stack:
    if stop is None:
      stop = stack.enter_context(StopRequest())
    stop.at(newest_step(workdir), config.num_steps)
    return _train(config, workdir, stop, Tracer(workdir, profile), stack)


def _train(
  config: Config,
  workdir: Path,
  stop: StopRequest,
  tracer: Tracer,
  stack: contextlib.ExitStack,
) -> int:
  # Model. Nothing is written until everything that a setting names has been found.
  per_process = process_batch_size(config.batch_size)
  model, vgg = make_networks(config)
  shown_vgg = vgg.clone(compute_dtype="float32")  # like in a loaded model
  initial = functools.partial(init_params, model, jax.random.key(config.seed))
  tx, reconstruct_step, transfer_step = make_steps(config, model, vgg)
  start_state = functools.partial(create_state, tx=tx, average=config.ema_decay > 0)
  template = jax.eval_shape(lambda: start_state(initial()))
  given = config.model.vgg_weights
  with naming_option("config.model.vgg_weights") if given else contextlib.nullcontext():
    vgg_params, vgg_info = vgg_weights.load(config.model.vgg, given or None)
  if not vgg_weights.scaling(vgg_info):
    log.warning(
      "%s: these VGG weights are not normalized, but the published style weight of 10 belongs to "
      "normalized ones; `adaconv vgg normalize` makes them",
      vgg_info["path"],
    )
  before = check_record(workdir, config.to_dict(), vgg_info)
  history = History(workdir, before.get("batch_size"))
  check_checkpoints(workdir, history)
  data = config.data
  lists = {
    role: open_lists(workdir, role, data[role], names=data[f"heldout_{role}_names"])
    for role in ROLES
  }
  start = None
  if config.init_from and not newest_step(workdir):
    start = load_start(config.init_from, model, vgg, vgg_params, vgg_info)
  still_ours = None
  if jax.process_index() == 0:
    still_ours = stack.enter_context(locked(workdir))
  check_shared(workdir)

  pictures = _read_pictures(config, lists, per_process)
  eval_step = make_eval_step(model, shown_vgg, config.loss.style_layers.to_dict())

  # State.
  checkpoints = stack.enter_context(
    Checkpoints(workdir, keep_last=config.keep_last, keep_every=config.keep_every_steps)
  )
  restored = checkpoints.restore(template)
  if restored is None:
    history.check_new(workdir)
  start_step = 0 if restored is None else int(restored.step)
  check_alike(
    {
      **_settings(config),
      "the sha256 of the VGG weights": vgg_info["tensors_sha256"][:16],
      **{f"the list of {role} images": lists[role].fingerprint[:16] for role in ROLES},
      "the step to start from": start_step,
      "the model to start from": _describe(start[1]) if start and restored is None else None,
    }
  )
  stop.nothing_to_do = start_step >= config.num_steps
  if not stop.nothing_to_do:  # otherwise the record stays that of what was trained
    write_record(workdir, config.to_dict(), vgg_info)
    for role in ROLES:
      lists[role].write()
    history.go_on(start_step, config.batch_size)
  state: TrainState
  if restored is not None:
    state = restored
  else:
    params, origin = start or ({}, {"seed": config.seed})
    if params.keys() < template.params.keys():  # of nothing, or of a model that this one extends
      params = {**initial(), **params}
    state = start_state(params)
    write_start(workdir, origin)
    log.info("starting from %s", _describe(origin))
  stop.at(start_step, config.num_steps)
  if stop.nothing_to_do:
    log.info(
      "already at step %d of %d: nothing to do; a larger config.num_steps goes on",
      start_step,
      config.num_steps,
    )
  else:
    _announce(workdir, start_step)
  batches = stack.enter_context(contextlib.closing(pictures.batches(start_step)))
  kept_styles = StyleCache(
    make_style_features(
      model, vgg, config.loss.style_layers.to_dict(), colors=bool(config.loss.palette_weight)
    ),
    vgg_params,
  )
  stop.bar_is_shown = True
  progress = Progress(
    workdir,
    start_step=start_step,
    num_steps=config.num_steps,
    batch_size=config.batch_size,
    log_every_steps=config.log_every_steps,
    start_pairs=history.pairs(start_step),
    max_skipped_steps=config.get("max_skipped_steps", 1),
  )
  stack.enter_context(contextlib.closing(progress))

  tracer.expect(start_step, config.num_steps)
  loop = _Loop(
    config=config,
    stop=stop,
    tracer=stack.enter_context(contextlib.closing(tracer)),
    progress=progress,
    saver=_Saver(checkpoints, history, start_step, still_ours),
    batches=batches,
    kept_styles=kept_styles if data.kept_style_crops else None,
    steps={"reconstruct": reconstruct_step, "transfer": transfer_step},
    eval_step=eval_step,
    heldout=pictures.heldout,
    samples=pictures.samples,
    vgg_params=replicate(vgg_params),
    as_stylizer=lambda params: Stylizer(params, vgg_params, model, shown_vgg),
  )
  step = loop.run(replicate(state), start_step)
  _report(progress, batches)
  if step < config.num_steps:
    log.warning("saved step %d; rerun the same command to resume", step)
  return step


class _Pictures(NamedTuple):
  """What a run reads.

  Attributes:
    batches: the batches from a step on.
    heldout: batches of what is not trained on; empty if held-out losses are off.
    samples: contents and styles of the sample grids; empty if these are off.
  """

  batches: Callable[[int], Batches]
  heldout: list[Any]
  samples: list[np.ndarray]


def _read_pictures(config: Config, lists: Mapping[str, Lists], per_process: int) -> _Pictures:
  """Checks all images, and loads those that are held out or sampled."""
  data = config.data
  broken_share = data.get("max_broken_share", 0.0)
  content, style = (
    lists[role].prepare(
      min_size=data.min_size,
      heldout=data[f"heldout_{role}"],
      seed=config.seed,
      max_broken_share=broken_share,
    )
    for role in ROLES
  )
  cutting: Any = {
    "content_crop": CropSpec(data.content_resize, data.content_crop, flip=True),
    "style_crop": CropSpec(data.style_resize, data.style_crop),
    "batch_size": per_process,
    "process_index": jax.process_index(),
    "process_count": jax.process_count(),
  }
  heldout = heldout_batches(content[1], style[1], **cutting) if config.eval_every_steps else []
  samples = []
  if config.sample_every_steps:
    samples = [
      load_images(
        kept_out or trained, config.sample_size, config.sample_images, replace=not kept_out
      )
      for trained, kept_out in (content, style)
    ]
  return _Pictures(
    batches=lambda start_step: make_batches(
      content[0],
      style[0],
      **cutting,
      seed=config.seed,
      start_step=start_step,
      num_workers=data.num_workers,
      kept_style_crops=data.kept_style_crops,
      max_broken_share=broken_share,
    ),
    heldout=heldout,
    samples=samples,
  )


@dataclasses.dataclass
class _Loop:
  """The steps of a run, and what is saved and reported between them.

  Attributes:
    config: of the run.
    stop: notices the signals.
    tracer: records some steps.
    progress: reports.
    saver: saves.
    batches: what is trained on.
    kept_styles: replaces styles by their features; None if crops are not kept.
    steps: the step functions, by the name of their program.
    eval_step: computes held-out losses.
    heldout: batches for it; empty if they are off.
    samples: contents and styles of the sample grids; empty if these are off.
    vgg_params: replicated.
    as_stylizer: makes a model of parameters.
    compiled: the programs that were compiled.
  """

  config: Config
  stop: StopRequest
  tracer: Tracer
  progress: Progress
  saver: "_Saver"
  batches: Batches
  kept_styles: StyleCache | None
  steps: Mapping[str, Callable[..., tuple[TrainState, Any]]]
  eval_step: EvalStep
  heldout: list[Any]
  samples: list[np.ndarray]
  vgg_params: VGGParams
  as_stylizer: Callable[[Params], Stylizer]
  compiled: set[str] = dataclasses.field(default_factory=set)

  def run(self, state: TrainState, step: int) -> int:
    """Goes on from a replicated state after `step` steps, and returns the last step, saved."""
    config, stop, progress = self.config, self.stop, self.progress
    with stop.saving():
      try:
        if step:
          self._show(state, step, lacking=True)
        due = False
        while step < config.num_steps:
          if self.tracer.is_first(step + 1):
            jax.block_until_ready(state)
            with progress.pause("profile", once=True):
              self.tracer.start()
          state, metrics = self._step(state, step)
          step += 1
          ends = self.tracer.after(step)
          stop.at(step, config.num_steps)
          stop.note(metrics)
          progress.step(step, metrics)
          if ends:
            jax.block_until_ready(state)
            with progress.pause("profile", once=True):
              self.tracer.close()
          stopping = stop.reached(step)
          last = step == config.num_steps
          due = due or _is_due(step, config.checkpoint_every_steps)
          if due or last or stopping:
            progress.flush()  # raises an error if too many steps were skipped
            progress.sync()
            # The state is finite, but may contain what made the loss jump, so earlier checkpoints
            # are kept instead.
            if last or stopping or not progress.skipped_in_a_row:
              with progress.pause("saving"):
                self.saver.save(state)
              due = False
          if stopping:
            break
          self._show(state, step)
        if stop.failed():
          raise stop.failure or DataError("another process could not make its next batch")
      except (DataError, OSError):
        self.saver.rescue(state)
        raise
      finally:
        with progress.pause("saving"):
          self.saver.wait()
    return step

  def _step(self, state: TrainState, step: int) -> tuple[TrainState, Any]:
    """Does one step, after `step` others."""
    config, stop = self.config, self.stop
    per_process = process_batch_size(config.batch_size)
    try:
      with self.progress.waiting():
        batch = _next(self.batches)
    except DataError as error:
      if jax.process_count() == 1:
        raise
      # The others wait in this step for the batch. An empty one reports the failure to all, and
      # changes no state.
      stop.failure, batch = error, _blank(config, per_process)
    program = "transfer"
    if step < config.reconstruct_steps:
      program, batch = "reconstruct", {"content": batch["content"]}
    self.progress.phase(_phase(config, step), new_program=program not in self.compiled)
    with self._compiling(program, state):
      if program == "transfer" and self.kept_styles is not None:
        batch = self.kept_styles(batch)
      return self.steps[program](
        state, self.vgg_params, shard({**batch, **stop.request(per_process)})
      )

  def _show(self, state: TrainState, step: int, *, lacking: bool = False) -> None:
    """Reports held-out losses and samples where they are due.

    With `lacking`, only those that are not there: an earlier run may have ended between saving the
    step and reporting.
    """
    config, progress = self.config, self.progress
    last = step == config.num_steps
    if self.heldout and (_is_due(step, config.eval_every_steps) or last):
      if not (lacking and agree(progress.has_heldout(step))):
        with progress.pause("evaluation"), self._compiling("eval", state):
          losses = evaluate(self.eval_step, state.result, self.vgg_params, self.heldout)
        progress.heldout(step, losses)
    if self.samples and (_is_due(step, config.sample_every_steps) or last):
      if not (lacking and agree(progress.has_grid(step))):
        params = jax.tree.map(jnp.asarray, fetch(state.result))
        with progress.pause("samples"), self._compiling("grid", state):
          progress.grid(step, self.as_stylizer(params), *self.samples)

  @contextlib.contextmanager
  def _compiling(self, program: str, state: TrainState) -> Iterator[None]:
    """Saves before a program is compiled, so that a signal may end the process meanwhile."""
    if program in self.compiled:
      yield
      return
    self.progress.flush()
    with self.progress.pause(f"compiling ({program})", once=True):
      self.progress.sync()
      self.saver.save(state)
      self.saver.wait()
      with self.stop.nothing_to_save():
        yield
    self.compiled.add(program)


# Settings that processes may have of their own: where each finds the same files, and its workers.
_OWN_SETTINGS = (
  *("init_from", "model.vgg_weights", "data.num_workers"),
  *(f"data.{role}" for role in ROLES),
  *(f"data.heldout_{role}_names" for role in ROLES),
)


def _settings(config: Config) -> dict[str, Any]:
  """Returns the settings that all processes must have alike, by names like "config.seed"."""

  def below(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
      return {f"config.{name}": value}
    parts = (below(f"{name}.{key}" if name else key, item) for key, item in value.items())
    return {key: item for part in parts for key, item in part.items()}

  own = {f"config.{name}" for name in _OWN_SETTINGS}
  return {key: item for key, item in below("", config.to_dict()).items() if key not in own}


def _describe(origin: Mapping[str, Any]) -> str:
  """Says what the parameters of a new run start from."""
  if "name" not in origin:
    return f"random parameters (seed {origin['seed']})"
  which = (
    f"step {origin['step']}" if "step" in origin else f"sha256 {origin['file_sha256'][:12]}..."
  )
  return f"the model {origin['name']} ({which})"


def _announce(workdir: Path, step: int) -> None:
  """Says where a run begins or is resumed."""
  count = jax.device_count()
  devices = f"{count} device{'s'[: count > 1]}"
  if not step:
    log.info("training on %s; the first step takes longer, because it is compiled", devices)
    return
  logged = max((values["step"] for values in read_metrics(workdir / METRICS)), default=step)
  again = ""
  if logged > step:
    again = f" (the steps after it, at least up to {logged}, are done again)"
  log.info("resuming from step %d%s, on %s", step, again, devices)


def _phase(config: Config, step: int) -> str:
  """Names the phase that a step is in, after `step` others."""
  if step < config.reconstruct_steps:
    return "reconstruct"
  ramp_end = config.reconstruct_steps + config.loss.style_ramp_steps
  if step < ramp_end:
    return "ramp"
  return "full" if ramp_end else "training"


def _is_due(step: int, period: int) -> bool:
  """Returns whether `step` is a multiple of `period`; for a period of 0 none is."""
  return period > 0 and step % period == 0


def _next(batches: Batches) -> dict[str, Any]:
  """Returns the next batch.

  Raises:
    DataError: it cannot be made, for any reason, in this process or a worker.
  """
  try:
    return next(batches)
  except DataError:
    raise
  except Exception as error:
    reason = " ".join(described(error).split()) or type(error).__name__
    raise DataError(f"the next batch cannot be made: {reason}") from error


def _blank(config: Config, size: int) -> dict[str, np.ndarray]:
  """Returns a batch of zeros."""
  crops = {"content": config.data.content_crop, "style": config.data.style_crop}
  batch = {role: np.zeros((size, crop, crop, 3), np.uint8) for role, crop in crops.items()}
  return batch | ({"style_key": np.zeros(size, int)} if config.data.kept_style_crops else {})


def _report(progress: Progress, batches: Batches) -> None:
  """Reports how many steps were skipped and images replaced."""
  if progress.skipped_steps:
    log.warning("%d steps were skipped", progress.skipped_steps)
  for role, names in batches.broken.items():
    if names:
      log.warning("%s: %d images broke during the run and were replaced", role, len(names))


class _Saver:
  """Saves states, each step once.

  Args:
    checkpoints: the checkpoints of the run.
    history: records the first one.
    step: the step that the run starts from, which is not saved again.
    still_ours: raises if another process has taken the workdir over; only the first process can.
  """

  def __init__(
    self,
    checkpoints: Checkpoints,
    history: History,
    step: int,
    still_ours: Callable[[], None] | None,
  ):
    self._checkpoints, self._history, self._step = checkpoints, history, step
    self._still_ours = still_ours

  def save(self, state: TrainState) -> None:
    """Starts saving a replicated state."""
    step = int(fetch(state.step))
    if step == self._step:
      return
    if self._still_ours is not None:
      self._still_ours()
    self._checkpoints.save(fetch(state))
    self._step = step
    if not self._history.saved:
      self.wait()
      self._history.note_saved(step)

  def wait(self) -> None:
    """Waits for a save in progress."""
    self._checkpoints.wait()

  def rescue(self, state: TrainState) -> None:
    """Saves before an error ends the run; not with several, of which only one may have it."""
    if jax.process_count() > 1:
      return
    try:
      self.save(state)
      self.wait()
      log.warning("saved step %d", self._step)
    except Exception as error:  # the error that ends the run is the one to be reported
      log.warning("could not save before the end: %s", " ".join(str(error).split())[:200])
