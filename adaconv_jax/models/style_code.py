"""What a style is to a model: computed once, used for many contents."""

from typing import Any, NamedTuple, TypeAlias, TypeVar

import jax

T = TypeVar("T")  # a pytree


class AdaConvKernels(NamedTuple):
  """What a style does to one scale of the decoder; every array has a leading batch axis `n`.

  Attributes:
    spatial: `[n, k, k, c_in / groups, c_out]`.
    pointwise: `[n, 1, 1, c_out / groups, c_out]`.
    bias: `[n, c_out]`.
  """

  spatial: jax.Array
  pointwise: jax.Array
  bias: jax.Array


# A pytree whose leaves lead with the batch axis, so codes of several styles can be averaged leaf by
# leaf to mix them: `ChannelStats` for AdaIN, a tuple of `AdaConvKernels` for AdaConv.
StyleCode: TypeAlias = Any


def is_one(alpha: float | jax.Array) -> bool:
  """Whether it is a plain 1 and no traced number."""
  return isinstance(alpha, int | float) and alpha == 1


def blend(start: T, end: T, alpha: float | jax.Array) -> T:
  """(1 - alpha) * start + alpha * end, leaf by leaf; `start` is not touched when alpha is 1."""
  if is_one(alpha):
    return end
  return jax.tree.map(lambda a, b: (1 - alpha) * a + alpha * b, start, end)
