"""A style as a model uses it: computed once, used for many contents."""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from adaconv_jax.models.pictures import as_numpy, is_real, with_numbers

T = TypeVar("T")  # a pytree


class AdaConvKernels(NamedTuple):
  """A style's kernels for one scale of the decoder; every array has a leading batch axis `n`.

  Attributes:
    spatial: `[n, k, k, c_in / groups, c_out]`.
    pointwise: `[n, 1, 1, c_out / groups, c_out]`.
    bias: `[n, c_out]`.
  """

  spatial: jax.Array
  pointwise: jax.Array
  bias: jax.Array


# A pytree whose leaves have a leading batch axis, so codes of several styles can be averaged leaf
# by leaf to mix the styles, as `mix_codes` does: `ChannelStats` for AdaIN, a tuple of
# `AdaConvKernels` for AdaConv.
StyleCode: TypeAlias = Any


@with_numbers
def mix_codes(
  codes: Sequence[StyleCode], weights: ArrayLike | Sequence[float] | None = None
) -> StyleCode:
  """Mixes styles: averages their codes.

  Args:
    codes: K codes from `Stylizer.encode_style`, each of one style or of n.
    weights: K numbers from 0 to 1 with the sum 1; None: equal ones. With the weights (1, 0) the
      result is the first code, to the last bit.

  Raises:
    ValueError: there is no code, they are of several models, or the weights are no such numbers.
  """
  codes = list(codes)
  if not codes:
    raise ValueError("codes: expected at least one, got none")
  for index, code in enumerate(codes[1:], 1):
    if not _fit(codes[0], code):
      raise ValueError(
        f"codes: expected codes of one model, each of one style or all of as many, but "
        f"codes[{index}] and codes[0] differ; encode all styles with the same model"
      )
  weights = check_mix(weights, len(codes))
  shares = [weights[index] for index in range(len(codes))]
  return jax.tree.map(lambda *x: sum(w * y for w, y in zip(shares, x, strict=True)), *codes)


def _fit(first: StyleCode, second: StyleCode) -> bool:
  """Whether two codes can be averaged: they are of one model, and of n styles or of one."""
  if jax.tree.structure(first) != jax.tree.structure(second):
    return False
  pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
  shapes = [(np.shape(one), np.shape(other)) for one, other in pairs]
  return all(
    one[1:] == other[1:] and (one[:1] == other[:1] or (1,) in (one[:1], other[:1]))
    for one, other in shapes
  )


def check_mix(weights: ArrayLike | Sequence[float] | None, styles: int) -> np.ndarray | jax.Array:
  """Returns the weights of a mix as an array `[K]`; equal ones if they are None.

  Raises:
    ValueError: they are not one number from 0 to 1 per style, or their sum is not 1. Values are
      checked where they are known.
  """
  if weights is None:
    return np.full(styles, 1 / styles, np.float32)
  value = weights if isinstance(weights, jax.Array) else as_numpy("weights", weights)
  fits = value.shape == (styles,) and is_real(value.dtype)
  if fits and not isinstance(value, Tracer):
    value = np.asarray(jax.device_get(value), np.float32)
    fits = bool((value >= 0).all() and abs(float(value.sum()) - 1) <= 1e-3)
  if not fits:
    got = f"an array {list(value.shape)}" if isinstance(value, Tracer) else value.tolist()
    raise ValueError(f"weights: expected {styles} numbers that sum to 1, one per style, got {got}")
  return value


def stack_codes(codes: Sequence[StyleCode], contents: int) -> StyleCode:
  """Joins K codes of one or n styles to one of K n styles: all contents in the first one first."""

  def join(*leaves: jax.Array) -> jax.Array:
    return jnp.concatenate([jnp.broadcast_to(x, (contents, *x.shape[1:])) for x in leaves])

  return jax.tree.map(join, *codes)


def for_each(contents: int, code: T) -> T:
  """Repeats what is of one style, or of one picture, for every content; leaf by leaf."""
  return jax.tree.map(lambda x: jnp.broadcast_to(x, (contents, *x.shape[1:])), code)


def is_map(alpha: float | jax.Array) -> bool:
  """Whether it is a strength for every pixel, `[h, w]` or `[n, h, w]`."""
  return isinstance(alpha, jax.Array | np.ndarray) and alpha.ndim > 1


def is_one(alpha: float | jax.Array) -> bool:
  """Whether it is a plain 1, not an array."""
  return isinstance(alpha, int | float) and alpha == 1


def is_zero(detail: float | jax.Array) -> bool:
  """Whether it is a plain 0, not an array."""
  return isinstance(detail, int | float) and detail == 0


def blend(start: T, end: T, alpha: float | jax.Array) -> T:
  """Returns (1 - alpha) * start + alpha * end, leaf by leaf; `end` itself if alpha is 1.

  An alpha `[n]` has a number for each element of the leaves' leading axes.
  """
  if is_one(alpha):
    return end

  def between(a: jax.Array, b: jax.Array) -> jax.Array:
    weight = over_axes(alpha, b.ndim)
    return (1 - weight) * a + weight * b

  return jax.tree.map(between, start, end)


def over_axes(weight: float | jax.Array, ndim: int) -> float | jax.Array:
  """Gives a weight `[n]` axes of length 1 after its own, up to `ndim`; a number stays as it is."""
  if isinstance(weight, jax.Array) and weight.ndim:
    return weight.reshape(-1, *(1,) * (ndim - 1))
  return weight
