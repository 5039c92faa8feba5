"""Batches of content and style images for training, made by Grain.

For each of the two: reshuffle the images in every epoch -> decode -> resize the shorter side ->
random crop -> random flip of contents -> batch. Both papers resize to 512 and crop 256.

Every random choice is a function of the seed and of the example's position in the endless sequence
of examples, and that position follows from the step. So there is no iterator state to save, and the
batches are the same for any number of worker processes, and after a restart at any step. Step k of
n processes (hosts) with batch size b has the same examples as step k of one with batch size n * b.
After a restart with another seed, batch size or crop, the sequence follows the new settings.

An image that breaks during a run (deleted, changed or unreadable) is replaced by the next usable
one of the list, with the same random numbers. So this, too, depends only on the position in the
sequence and on the files.

Worker processes import this file. It does not use JAX, because a worker must not claim a device.
"""

import contextlib
import dataclasses
import functools
import logging
import math
import multiprocessing
import os
import signal
import sys
import threading
import weakref
from collections.abc import Iterator, Sequence
from multiprocessing import resource_tracker
from typing import Any, NamedTuple, Self

import grain
import numpy as np
from absl import flags
from PIL import Image

from adaconv_jax.data.manifest import Images
from adaconv_jax.files import printable
from adaconv_jax.images import decode, scaled_size

log = logging.getLogger(__name__)

# Number of batches that a worker process prefetches.
_BUFFERED_BATCHES = 2
# Number of images that are tried instead of a broken one. If more are broken, a disk is gone.
_SUBSTITUTES = 16
_NOT_BROKEN = -1
# What a terminal and a scheduler send to a whole process group.
# Windows has no SIGHUP.
_GROUP_SIGNALS = tuple(
  getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)

BROKEN = (OSError, ValueError)  # what reading and decoding raise; an ImageError is a ValueError


class DataError(RuntimeError):
  """The next batch cannot be made."""


@dataclasses.dataclass(frozen=True)
class CropSpec:
  """How a training example is cut from an image.

  Attributes:
    resize: pixels that the shorter side is scaled to, keeping the aspect ratio.
    crop: side of the square cut at a random position.
    flip: mirror half of the examples left to right. For contents only: in a style, the direction of
      strokes and light should be learned.
  """

  resize: int
  crop: int
  flip: bool = False

  def __post_init__(self):
    if not 1 <= self.crop <= self.resize:
      raise ValueError(
        f"crop: expected 1 to {self.resize} pixels, the length `resize` of the shorter side, got "
        f"{self.crop}"
      )


class _Example(NamedTuple):
  """An image to crop: its `place` in the list of images, and how often it was visited."""

  place: int
  visit: int


class _ShuffledForever:
  """The images in random order, a new order in every epoch, without end.

  It replaces Grain's `shuffle().repeat()`, whose cost per index is highest for small data sets:
  milliseconds for a few images, which is most of the pipeline's time with a few styles.
  """

  def __init__(self, images: Images, seed: int):
    self._images = images
    self._seed = seed

  def __len__(self) -> int:
    return sys.maxsize

  def __getitem__(self, index: int) -> _Example:
    epoch, position = divmod(index, len(self._images))
    return _Example(int(_epoch_order(self._seed, epoch, len(self._images))[position]), epoch)


@functools.lru_cache(maxsize=4)  # Content and style, and the next epoch of each.
def _epoch_order(seed: int, epoch: int, count: int) -> np.ndarray:
  return np.random.default_rng((seed, epoch)).permutation(count)


def _cut(example: tuple[str, bytes], rng: np.random.Generator, *, spec: CropSpec) -> np.ndarray:
  """Decodes an image and cuts a training example from it, `[crop, crop, 3]` uint8.

  The pixels are those of `resize_shorter` and a crop, but only the crop is computed. For a typical
  photo this costs less than decoding it; resizing the whole would cost more.
  """
  name, data = example
  image = decode(data, name=name, at_least=spec.resize)
  width, height = scaled_size(image.size, spec.resize)
  left = int(rng.integers(width - spec.crop + 1))
  top = int(rng.integers(height - spec.crop + 1))
  x, y = image.width / width, image.height / height  # pixels of `image` per pixel of the crop
  box = (left * x, top * y, (left + spec.crop) * x, (top + spec.crop) * y)
  image = image.resize((spec.crop, spec.crop), Image.Resampling.BICUBIC, box)
  if spec.flip and rng.random() < 0.5:
    image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
  return np.asarray(image)


@dataclasses.dataclass(frozen=True)
class _Cutter:
  """Makes the training examples of one role.

  Attributes:
    images: the list of images.
    spec: how they are cut.
    replace: use another image instead of a broken one.
    crops: number of crops of every image, which are used in turn; 0 makes a new one at every visit.
    seed: chooses the places of these crops.
  """

  images: Images
  spec: CropSpec
  replace: bool
  crops: int = 0
  seed: int = 0

  def __call__(self, example: _Example, rng: np.random.Generator | None = None) -> dict[str, Any]:
    """Cuts an image.

    Returns:
      The "pixels"; the place of the image if it is "broken"; and with `crops` the "key", the number
      of the crop among all crops.
    """
    broken = _NOT_BROKEN
    for number in range(min(_SUBSTITUTES, len(self.images))):
      place = (example.place + number) % len(self.images)
      key = place * self.crops + example.visit % max(self.crops, 1)
      try:
        # Nothing is drawn from the generator before the image is decoded.
        pixels = _cut(self.images[place], self._generator(key, rng), spec=self.spec)
      except BROKEN as error:
        # A bucket that does not answer is no broken image.
        if not self.replace or isinstance(error, ConnectionError):
          raise
        broken = example.place
        continue
      found = {"pixels": pixels, "broken": np.asarray(broken)}
      return found | ({"key": np.asarray(key)} if self.crops else {})
    self.images[example.place]  # raises what is wrong with it
    raise DataError(
      f"config.data.{self.images.role}: {self.images.name(example.place)} and the images after it "
      "are broken"
    )

  def _generator(self, key: int, rng: np.random.Generator | None) -> np.random.Generator:
    return np.random.default_rng((self.seed, key)) if rng is None else rng


def make_batches(
  content: Images,
  style: Images,
  *,
  content_crop: CropSpec,
  style_crop: CropSpec,
  batch_size: int,
  seed: int,
  start_step: int = 0,
  process_index: int = 0,
  process_count: int = 1,
  num_workers: int = 0,
  kept_style_crops: int = 0,
  max_broken_share: float = 0.0,
) -> "Batches":
  """Makes the endless sequence of training batches of this process, from `start_step` on.

  Content and style are drawn independently; each uses all of its images before one is used again.
  A data set may be smaller than a batch.

  Values stay uint8, a quarter of the bytes to copy between processes and to the device, where they
  should be divided by 255.

  Args:
    content: the content images.
    style: the style images.
    content_crop: how content examples are cut.
    style_crop: how style examples are cut.
    batch_size: examples per batch of this process.
    seed: not negative; the same in all processes.
    start_step: number of batches that earlier runs have used.
    process_index: index of this process among those (hosts) that train together.
    process_count: their number.
    num_workers: number of worker processes; 0 decodes in threads of this process. Workers import
      the main module, which therefore must do its work under `if __name__ == "__main__"`.
    kept_style_crops: number of crops of every style, which are used in turn and numbered; 0 makes a
      new crop at every visit.
    max_broken_share: share of the contents, and of the styles, that may break during the run, but
      at least one; others replace them, with a warning. 0 makes a broken image an error.

  Returns:
    An iterator over {"content": `[batch_size, crop, crop, 3]`, "style": likewise}, uint8, with
    "style_key" `[batch_size]`, the numbers of the styles' crops, if these are kept. Close it when
    done, or use it in a `with` statement.

  Raises:
    ValueError: a number is out of its range. While iterating: an image can no longer be decoded or
      has changed since the scan.
    DataError: while iterating, too many images are broken.
  """
  _check(
    batch_size=batch_size,
    seed=seed,
    start_step=start_step,
    num_workers=num_workers,
    kept_style_crops=kept_style_crops,
  )
  if not 0 <= process_index < process_count:
    raise ValueError(
      f"process_index: expected 0 to process_count - 1 = {process_count - 1}, got {process_index}"
    )
  seeds = [int(value) for value in np.random.SeedSequence(seed).generate_state(4)]
  replace = max_broken_share > 0
  cutters = (
    _Cutter(content, content_crop, replace),
    _Cutter(style, style_crop, replace, kept_style_crops, seeds[3]),
  )
  examples = grain.experimental.ZipMapDataset(
    [
      _examples(cutter, *pair).batch(batch_size, drop_remainder=True)
      for cutter, pair in zip(cutters, (seeds[:2], seeds[2:]), strict=True)
    ]
  )
  # Batch k * n + i of the small batches goes to process i of n at step k.
  first = start_step * process_count + process_index
  mine = examples.slice(slice(first, None, process_count))
  # A thread or a worker process makes whole batches, so buffer sizes are in batches too.
  threads = 0 if num_workers else min(os.cpu_count() or 1, 16)
  batches = mine.to_iter_dataset(grain.ReadOptions(threads, prefetch_buffer_size=threads))
  if num_workers:
    if not flags.FLAGS.is_parsed():
      # Grain reads absl flags when it starts workers; without an absl app they have their defaults.
      flags.FLAGS.mark_as_parsed()
    options = grain.MultiprocessingOptions(num_workers, per_worker_buffer_size=_BUFFERED_BATCHES)
    batches = batches.mp_prefetch(options, worker_init_fn=_init_worker)
  return Batches(batches, (content, style), max_broken_share)


def _check(*, batch_size: int, **counts: int) -> None:
  for name, value, least in [("batch_size", batch_size, 1), *((*c, 0) for c in counts.items())]:
    if value < least:
      raise ValueError(f"{name}: expected at least {least}, got {value}")


def _examples(cutter: _Cutter, order_seed: int, crop_seed: int) -> grain.MapDataset[Any]:
  source = grain.MapDataset.source(_ShuffledForever(cutter.images, order_seed))
  return source.map(cutter) if cutter.crops else source.random_map(cutter, seed=crop_seed)


class Batches(Iterator[dict[str, np.ndarray]]):
  """The iterator that `make_batches` returns; a context manager that owns the worker processes.

  Attributes:
    broken: the names of the images that were found broken and replaced, by role.
  """

  def __init__(
    self,
    pairs: grain.IterDataset[tuple[dict[str, Any], dict[str, Any]]],
    images: Sequence[Images],
    max_broken_share: float,
  ):
    self._images, self._share = images, max_broken_share
    self.broken: dict[str, set[str]] = {listed.role: set() for listed in images}
    # A list, so that closing also lets go of Grain's iterator: one that lives until the
    # interpreter shuts down prints exceptions from its destructor.
    with _workers_start():
      self._iterators = [iter(pairs)]
    self._started = False
    self._finalizer = weakref.finalize(self, _close_all, self._iterators)

  def __next__(self) -> dict[str, np.ndarray]:
    if not self._iterators:
      raise ValueError("the batches were closed")
    # Copied, because a worker's arrays are in shared memory, which must be released with them.
    with contextlib.nullcontext() if self._started else _workers_start():
      content, style = next(self._iterators[0])
    self._started = True
    for images, part in zip(self._images, (content, style), strict=True):
      for place in sorted(set(part["broken"].tolist()) - {_NOT_BROKEN}):
        self._report(images, place)
    named = {"content": content["pixels"], "style": style["pixels"]}
    if "key" in style:
      named["style_key"] = style["key"]
    return {name: np.array(values) for name, values in named.items()}

  def _report(self, images: Images, place: int) -> None:
    """Counts a broken image and warns what is wrong with it, the first time it occurs."""
    name, broken = images.name(place), self.broken[images.role]
    if name in broken:
      return
    broken.add(name)
    try:
      decode(images[place][1], name=name)
      reason = f"{name}: could not be read at first"
    except OSError as error:
      reason = f"{name}: {error.strerror or error}"
    except ValueError as error:
      reason = str(error)
    limit = allowed_broken(len(images), self._share)
    if len(broken) > limit:
      raise DataError(
        f"config.data.{images.role}: {len(broken)} of {len(images)} images broke during the run, "
        "more than "
        f"config.data.max_broken_share = {self._share} allows; the last: {reason}; restore "
        "them and rerun the same command"
      )
    log.warning(
      "%s: another image replaces a broken one (%d so far, %d are allowed): %s",
      *(images.role, len(broken), limit, printable(reason)),
    )

  def close(self) -> None:
    """Ends the worker processes or threads; may be called again."""
    self._finalizer()

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *exception: object) -> None:
    self.close()


def allowed_broken(count: int, share: float) -> int:
  """Returns how many of `count` images may be broken: a share, but at least one; 0 for none."""
  return max(1, math.floor(share * count)) if share else 0


def _close_all(iterators: list[grain.DatasetIterator]) -> None:
  while iterators:
    iterators.pop().close()


@contextlib.contextmanager
def _workers_start() -> Iterator[None]:
  """Within it, worker processes start with `_GROUP_SIGNALS` blocked, until `_init_worker`.

  Otherwise a signal to the process group would end them with a traceback while they import. Signals
  to this process are delivered to its other threads.
  """
  if not hasattr(signal, "pthread_sigmask"):
    yield
    return
  # Multiprocessing starts it with the first worker, and then unblocks the signals.
  resource_tracker.ensure_running()
  before = signal.pthread_sigmask(signal.SIG_BLOCK, _GROUP_SIGNALS)
  try:
    yield
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _init_worker(index: int, count: int) -> None:
  """Makes a worker process end with its parent, and only then."""
  del index, count
  # Ctrl-C, a scheduler's SIGTERM and a terminal's SIGHUP go to the whole process group. The parent
  # decides what happens then (it saves, for which it may need another batch) and ends the workers.
  for number in _GROUP_SIGNALS:
    signal.signal(number, signal.SIG_IGN)
  if hasattr(signal, "pthread_sigmask"):
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _GROUP_SIGNALS)
  threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
  # A parent that is killed cannot end its workers, and Grain's would wait for it forever.
  parent = multiprocessing.parent_process()
  if parent is not None:
    parent.join()
    os._exit(1)
