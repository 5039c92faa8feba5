"""Batches of content and style images for training, made by Grain.

For each of the two: images in a random order, a new one in every epoch -> decode -> resize the
shorter side -> random crop -> perhaps flip -> batch. Both papers resize to 512 and crop 256.

Every random choice is a function of the seed and of the example's place in the endless sequence of
examples, and that place follows from the step. So there is no iterator state to save, and the
batches are the same for any number of worker processes, and after a restart at any step. Step k of
n processes (hosts) with batch size b has the same examples as step k of one with batch size n * b.

Worker processes import this file. Nothing in it touches JAX: a worker must not claim a device.
"""

import dataclasses
import functools
import multiprocessing
import os
import signal
import sys
import threading
import weakref
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Self

import grain
import numpy as np
from absl import flags
from PIL import Image

from adaconv_jax.data.manifest import Images
from adaconv_jax.images import decode, scaled_size

# Batches that a worker process keeps ready.
_BUFFERED_BATCHES = 2


@dataclasses.dataclass(frozen=True)
class CropSpec:
  """How a training example is cut from an image.

  Attributes:
    resize: length in pixels that the shorter side is scaled to, the aspect ratio kept.
    crop: side of the square cut from a random place.
    flip: mirror half of the examples left to right. Content only: in a style, the direction of
      strokes and light is part of what is learned.
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
  """An image file on its way to a crop: `place` in the list of images, for the `visit`th time."""

  name: str
  data: bytes
  place: int
  visit: int


class _ShuffledForever:
  """The images in a random order, and again in another one, without end.

  In place of Grain's `shuffle().repeat()`, whose cost per index is highest for small data sets:
  milliseconds for a few images, most of the pipeline's time when a few styles are trained on.
  """

  def __init__(self, images: Images, seed: int):
    self._images = images
    self._seed = seed

  def __len__(self) -> int:
    return sys.maxsize

  def __getitem__(self, index: int) -> _Example:
    epoch, position = divmod(index, len(self._images))
    place = int(_epoch_order(self._seed, epoch, len(self._images))[position])
    return _Example(*self._images[place], place, epoch)


@functools.lru_cache(maxsize=4)  # Content and style, and the next epoch of each.
def _epoch_order(seed: int, epoch: int, count: int) -> np.ndarray:
  return np.random.default_rng((seed, epoch)).permutation(count)


def _cut(
  example: _Example | tuple[str, bytes], rng: np.random.Generator, *, spec: CropSpec
) -> np.ndarray:
  """Decodes an image and cuts a training example from it, `[crop, crop, 3]` uint8.

  The pixels are those of `resize_shorter` and a crop, but only the crop is computed, which of a
  common photo costs less than decoding it; the whole would cost more.
  """
  name, data, *_ = example
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


def _cut_again(
  example: _Example, *, spec: CropSpec, crops: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """Cuts one of the image's `crops` crops, each in its turn, and tells which of all crops it is."""
  key = example.place * crops + example.visit % crops
  return _cut(example, np.random.default_rng((seed, key)), spec=spec), np.asarray(key)


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
) -> "Batches":
  """Makes the endless sequence of training batches of this process, from `start_step` on.

  Content and style are drawn independently; each goes through all of its images before one comes
  again. A data set may be smaller than a batch.

  Values stay uint8, a quarter of the bytes to copy between processes and to the device: divide by
  255 there.

  Args:
    content: the content images.
    style: the style images.
    content_crop: how content examples are cut.
    style_crop: how style examples are cut.
    batch_size: examples per batch of this process.
    seed: not negative; the same in all processes.
    start_step: number of batches that earlier runs have used up.
    process_index: which of the processes (hosts) that train together this is.
    process_count: how many there are.
    num_workers: number of worker processes; 0 decodes in threads of this process. Workers import
      the main module, which therefore must do its work under `if __name__ == "__main__"`.
    kept_style_crops: cut every style in so many ways only, which come in turns, and number them;
      0 cuts it in another way at every visit.

  Returns:
    An iterator over {"content": `[batch_size, crop, crop, 3]`, "style": likewise}, uint8, with
    "style_key" `[batch_size]`, the numbers of the styles' crops, where these are kept. Close it
    when done, or use it in a `with` statement.

  Raises:
    ValueError: a number is out of its range. While iterating: an image can no longer be decoded or
      has changed since the scan.
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
  examples = grain.experimental.ZipMapDataset(
    [
      _examples(content, content_crop, seeds[:2]).batch(batch_size, drop_remainder=True),
      _examples(style, style_crop, seeds[2:], kept_style_crops).batch(
        batch_size, drop_remainder=True
      ),
    ]
  )
  # Batch k * n + i of the small batches goes to process i of n at step k.
  first = start_step * process_count + process_index
  mine = examples.slice(slice(first, None, process_count))
  # A thread or a worker process makes whole batches, so buffers count batches too.
  threads = 0 if num_workers else min(os.cpu_count() or 1, 16)
  batches = mine.to_iter_dataset(grain.ReadOptions(threads, prefetch_buffer_size=threads))
  if num_workers:
    if not flags.FLAGS.is_parsed():
      # Grain reads flags of its own when it starts workers; without an absl app they have defaults.
      flags.FLAGS.mark_as_parsed()
    options = grain.MultiprocessingOptions(num_workers, per_worker_buffer_size=_BUFFERED_BATCHES)
    batches = batches.mp_prefetch(options, worker_init_fn=_init_worker)
  return Batches(batches)


def _check(*, batch_size: int, **counts: int) -> None:
  for name, value, least in [("batch_size", batch_size, 1), *((*c, 0) for c in counts.items())]:
    if value < least:
      raise ValueError(f"{name}: expected at least {least}, got {value}")


def _examples(
  images: Images, spec: CropSpec, seeds: Sequence[int], kept_crops: int = 0
) -> grain.MapDataset[Any]:
  order_seed, crop_seed = seeds
  source = grain.MapDataset.source(_ShuffledForever(images, order_seed))
  if kept_crops:
    return source.map(functools.partial(_cut_again, spec=spec, crops=kept_crops, seed=crop_seed))
  return source.random_map(functools.partial(_cut, spec=spec), seed=crop_seed)


class Batches(Iterator[dict[str, np.ndarray]]):
  """What `make_batches` returns: iterator, context manager, and owner of the worker processes."""

  def __init__(self, pairs: grain.IterDataset[tuple[np.ndarray, Any]]):
    # A list, so that closing also lets go of Grain's iterator: one that lives until the
    # interpreter shuts down prints exceptions from its destructor.
    self._iterators = [iter(pairs)]
    self._finalizer = weakref.finalize(self, _close_all, self._iterators)

  def __next__(self) -> dict[str, np.ndarray]:
    if not self._iterators:
      raise ValueError("the batches were closed")
    # Copied, because a worker's arrays lie in shared memory that must go away with them.
    content, style = next(self._iterators[0])
    named = {"content": content, "style": style}
    if isinstance(style, tuple):
      named["style"], named["style_key"] = style
    return {name: np.array(values) for name, values in named.items()}

  def close(self) -> None:
    """Ends the worker processes or threads; may be called again."""
    self._finalizer()

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *exception: object) -> None:
    self.close()


def _close_all(iterators: list[grain.DatasetIterator]) -> None:
  while iterators:
    iterators.pop().close()


def _init_worker(index: int, count: int) -> None:
  """Makes a worker process end with its parent, and only then."""
  del index, count
  # Ctrl-C and a scheduler's SIGTERM go to the whole process group. The parent decides what happens
  # then (it saves a checkpoint, for which it may need another batch) and ends the workers.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  signal.signal(signal.SIGTERM, signal.SIG_IGN)
  threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
  # A parent that is killed cannot end its workers, and Grain's would wait for it for ever.
  parent = multiprocessing.parent_process()
  if parent is not None:
    parent.join()
    os._exit(1)
