"""Runs a network of convolutions over parts of a large batch: images one by one, and in strips.

Memory does not grow with the number of images on CPU, nor with their height on any platform. A
strip is cut with as many additional rows on either side as the network's outputs depend on, and the
outputs for those rows are dropped. The first and the last strip end at the image's own border,
where the convolutions pad as in the whole image. So the result is that of the whole image, up to
rounding. Statistics of the whole image must be computed before; `stats_by_strips` computes those
of a feature map that is too large to be kept.
"""

import contextlib
import contextvars
import logging
import math
import threading
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from adaconv_jax.ops.adain import EPS, ChannelStats

T = TypeVar("T")  # a pytree

# Images whose largest feature map is smaller than this are run whole, which is faster.
WHOLE_BYTES = 2**29
STRIP_BYTES = 2**28
# A strip has at least so many times the rows that it has in addition on either side, whatever its
# bytes, so that it takes at most half as long again for these.
MARGINS = 4
# On CPU, the images of a batch are run one by one from this size on (256 x 256 pixels). Smaller
# ones run together, so that the convolutions for many pixels apply.
ALONE_BYTES = 2**24
# Feature maps larger than this are computed twice, in strips, rather than kept.
KEPT_BYTES = 2**30
WIDTH = 64  # channels of VGG's first convolutions, whose feature maps are the largest


def image_bytes(height: int, width: int) -> int:
  """Bytes of the largest feature map of an image, that of VGG's and the decoder's 64 channels."""
  return 4 * height * width * WIDTH


def too_large(count: int) -> bool:
  """Whether a feature map of so many bytes is computed twice rather than kept."""
  return count > KEPT_BYTES


def in_strips(count: int, height: int, width: int) -> bool:
  """Whether a network's largest feature map of `count` images is too large to be made at once."""
  return count * image_bytes(height, width) > WHOLE_BYTES


def one_by_one(function: Callable[..., T], *batch: object, size: tuple[int, int]) -> T:
  """Computes `function(*batch)`, on CPU for one image after the other if they are large.

  Eight pairs of 256 x 256 take a fifth less time this way, because feature maps stay in caches and
  in memory already in use. Other platforms need the whole batch to be busy.

  Args:
    function: from pytrees whose leaves have a leading batch axis to such a pytree; its result for
      an image must not depend on the others. Gradients of kernels are slow inside it.
    batch: its arguments.
    size: height and width of the images.
  """
  count = jax.tree.leaves(batch)[0].shape[0]
  if count == 1 or image_bytes(*size) < ALONE_BYTES:
    return function(*batch)

  def alone(one):
    made = function(*jax.tree.map(lambda x: x[None], one))
    return jax.tree.map(lambda x: x[0], made)

  def apart(*batch):
    return lax.map(alone, batch)

  planned = _PLANNED.get()
  if planned is not None:
    before = len(planned)
    made = apart(*batch)
    planned[before:] = [count * strips for strips in planned[before:]]
    return made
  return lax.platform_dependent(*batch, cpu=apart, default=function)


def by_strips(
  function: Callable[..., jax.Array],
  images: jax.Array,
  *beside: jax.Array,
  reach: int,
  row_bytes: int,
  scale: Fraction = Fraction(1),
  whole: bool = False,
) -> jax.Array:
  """Computes `function(images, *beside)`, in strips if the images are large.

  Args:
    function: convolutions, poolings and pixelwise functions, from `[n, h, w, c]` to
      `[n, scale h, scale w, c']`. It is traced once for all strips, which have one shape.
    images: `[n, h, w, c]`; if `scale` is below 1, h is a multiple of 1 / scale.
    *beside: other maps of the same images, of which the rows at the same places are needed; their
      heights are multiples of h.
    reach: how many rows of the images above and below an output row it depends on, at most.
    row_bytes: bytes of the largest feature map inside `function`, per row of the images.
    scale: rows of the output per row of the images.
    whole: run them whole, however large; for a `function` that depends on the position of a row.

  Returns:
    `[n, scale h, scale w, c']`.
  """
  if whole:
    return function(images, *beside)
  strips = _plan(images, reach, row_bytes, scale)
  if strips is None:
    return function(images, *beside)
  made = strips.shape(function, images, *beside)
  shape = (images.shape[0], int(images.shape[1] * scale), *made.shape[2:])

  def add_strip(index: jax.Array, out: jax.Array) -> jax.Array:
    made, _, at = strips.compute(index, function, images, *beside)
    return lax.dynamic_update_slice_in_dim(out, made, at, axis=1)

  # A constant would be allocated, for all loops of a program, at its start.
  start = (images[0, 0, 0, 0] * 0).astype(made.dtype)
  return strips.loop(add_strip, jnp.broadcast_to(start, shape))


def stats_by_strips(
  function: Callable[..., jax.Array],
  images: jax.Array,
  *beside: jax.Array,
  reach: int,
  row_bytes: int,
  scale: Fraction = Fraction(1),
) -> ChannelStats | None:
  """Computes `channel_stats(function(images, *beside))` in strips, and keeps nothing else.

  Means and squared deviations of the strips are merged, which loses no digits as differences of
  sums of squares would.

  Args:
    function: as for `by_strips`.
    images: the same.
    *beside: the same.
    reach: the same.
    row_bytes: the same.
    scale: the same.

  Returns:
    The statistics, `[n, c']`; None for images that are run whole.
  """
  strips = _plan(images, reach, row_bytes, scale)
  if strips is None:
    return None
  n, channels = images.shape[0], strips.shape(function, images, *beside).shape[-1]

  def merge(index: jax.Array, sums: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    count, mean, squares = sums
    made, new, _ = strips.compute(index, function, images, *beside)
    made = made.astype(mean.dtype)
    number = (jnp.sum(new) * made.shape[2]).astype(mean.dtype)
    rows = new.reshape(1, -1, 1, 1)
    own = jnp.sum(made, (1, 2), where=rows) / number
    around = jnp.sum((made - jnp.expand_dims(own, (1, 2))) ** 2, (1, 2), where=rows)
    total = count + number
    moved = own - mean
    squares = squares + around + moved**2 * (count * number / total)
    return total, mean + moved * (number / total), squares

  dtype = np.promote_types(images.dtype, np.float32)
  none = jnp.zeros((n, channels), dtype)
  count, mean, squares = strips.loop(merge, (jnp.zeros((), dtype), none, none))
  return ChannelStats(mean, jnp.sqrt(squares / count + EPS))


class _Strips(NamedTuple):
  """How images are cut.

  Attributes:
    rows: of the images, that a strip makes the outputs for.
    margin: additional rows on either side.
    window: rows that are computed at once.
    count: number of strips.
    scale: rows of the output per row of the images.
  """

  rows: int
  margin: int
  window: int
  count: int
  scale: Fraction

  def shape(
    self, function: Callable[..., jax.Array], images: jax.Array, *beside: jax.Array
  ) -> jax.ShapeDtypeStruct:
    """Returns the shape and the type of what the function makes of a window."""
    ratios = [other.shape[1] // images.shape[1] for other in beside]
    rows = (other[:, : self.window * k] for other, k in zip(beside, ratios, strict=True))
    return jax.eval_shape(function, images[:, : self.window], *rows)

  def compute(
    self,
    index: jax.Array,
    function: Callable[..., jax.Array],
    images: jax.Array,
    *beside: jax.Array,
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the output rows of a strip, which of them are new, and where they begin."""
    height, numerator, step = images.shape[1], self.scale.numerator, self.scale.denominator
    # The last strip is moved up to end with the image, and computes some rows again.
    first = jnp.minimum(index * self.rows, height - self.rows)
    start = jnp.clip(first - self.margin, 0, height - self.window)
    ratios = [other.shape[1] // images.shape[1] for other in beside]
    made = function(
      lax.dynamic_slice_in_dim(images, start, self.window, axis=1),
      *(
        lax.dynamic_slice_in_dim(other, start * k, self.window * k, axis=1)
        for other, k in zip(beside, ratios, strict=True)
      ),
    )
    offset = (first - start) * numerator // step
    count = int(self.rows * self.scale)
    made = lax.dynamic_slice_in_dim(made, offset, count, axis=1)
    at = first * numerator // step
    return made, jnp.arange(count) + at >= index * count, at

  def loop(self, add: Callable[[jax.Array, T], T], start: T) -> T:
    """Does `start = add(index, start)` for every strip, and reports each where that is watched."""
    planned = _PLANNED.get()
    if planned is None:
      return lax.fori_loop(0, self.count, add, start)
    planned.append(self.count)

    def add_and_report(index: jax.Array, before: T) -> T:
      after = add(index, before)
      # It takes a value of the strip, so that it is not called earlier.
      jax.debug.callback(_report, jax.tree.leaves(after)[0].reshape(-1)[0])
      return after

    return lax.fori_loop(0, self.count, add_and_report, start)


def _plan(images: jax.Array, reach: int, row_bytes: int, scale: Fraction) -> _Strips | None:
  height, step = images.shape[1], scale.denominator
  margin = math.ceil(reach / step) * step
  # Where rows are so wide that few of them fit, most would be computed for their neighbors.
  rows = max(STRIP_BYTES // (row_bytes * step) * step, MARGINS * margin, step)
  window = rows + 2 * margin
  if height * row_bytes <= WHOLE_BYTES or window >= height:
    return None
  return _Strips(rows, margin, window, math.ceil(height / rows), scale)


# --- progress ---

# While a program that reports its strips is traced: the numbers of strips of its loops.
_PLANNED: contextvars.ContextVar[list[int] | None] = contextvars.ContextVar("planned", default=None)
_WATCHED = threading.Lock()
_listener: Callable[[], None] | None = None


@contextlib.contextmanager
def reporting(planned: list[int] | None) -> Iterator[None]:
  """Lets programs that are traced inside report every strip to the function given to `watch`.

  Args:
    planned: gets the number of strips of each loop; None: nothing is reported.
  """
  token = _PLANNED.set(planned)
  try:
    yield
  finally:
    _PLANNED.reset(token)


@contextlib.contextmanager
def watch(listener: Callable[[], None]) -> Iterator[None]:
  """Has `listener` called, from other threads, for every strip; one program at a time.

  What it raises ends the program, and is raised here; JAX would only quote it, log it with a
  traceback, and report it again when the process ends.
  """
  global _listener
  failures: list[BaseException] = []

  def listen() -> None:
    try:
      listener()
    except BaseException as error:
      failures.append(error)
      raise

  with _WATCHED:
    _listener = listen
    _JAX_LOG.addFilter(_is_no_failure)
    try:
      yield
      jax.effects_barrier()
    except jax.errors.JaxRuntimeError:
      if failures:
        _forget_failed_effects()
        raise failures[0] from None
      raise
    finally:
      _JAX_LOG.removeFilter(_is_no_failure)
      _listener = None


def _forget_failed_effects() -> None:
  with contextlib.suppress(ImportError, AttributeError):  # there is no public way
    from jax._src import dispatch

    dispatch.runtime_tokens.clear()


# Where JAX logs an exception of `jax.debug.callback`.
_JAX_LOG = logging.getLogger("jax._src.debugging")


def _is_no_failure(record: logging.LogRecord) -> bool:
  return record.exc_info is None


def _report(value: object) -> None:
  del value
  if _listener is not None:
    _listener()
