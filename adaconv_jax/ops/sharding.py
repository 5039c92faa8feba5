"""Arrays over a mesh whose axes are Explicit, as `jax.make_mesh` makes them.

Their sharding is a part of their type, and JAX refuses operations whose result's sharding does not
follow from the arguments, such as convolutions in strips and statistics over a part of an array.
Within `automatic`, XLA chooses the shardings, as it does for Auto axes.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

T = TypeVar("T")  # a pytree


def automatic(function: Callable[..., T], batch: Any, *args: Any, by_image: bool = False) -> T:
  """Computes `function(batch, *args)`, whatever mesh the arrays are on.

  Args:
    function: a function of pytrees, which must take all arrays as arguments.
    batch: the first argument. The result has its sharding; if only other arguments are on such a
      mesh, the result is replicated.
    *args: the other arguments.
    by_image: the result has only the batch axis in common with `batch`.
  """
  shardings = [_explicit(leaf) for leaf in jax.tree.leaves((batch, *args))]
  found = next((sharding for sharding in shardings if sharding is not None), None)
  if found is None:
    return function(batch, *args)
  spec = PartitionSpec() if shardings[0] is None else shardings[0].spec
  if by_image:
    spec = PartitionSpec(*spec[:1])
  mesh = found.mesh
  axes = tuple(
    name
    for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True)
    if kind == AxisType.Explicit
  )
  out_sharding = NamedSharding(mesh, spec)
  computed: Any = jax.sharding.auto_axes(function, axes=axes, out_sharding=out_sharding)
  return computed(batch, *args)


def _explicit(array: Any) -> NamedSharding | None:
  if not isinstance(array, jax.Array):
    return None  # only JAX's arrays are on a mesh
  sharding = jax.typeof(array).sharding
  return sharding if AxisType.Explicit in sharding.mesh.axis_types else None
