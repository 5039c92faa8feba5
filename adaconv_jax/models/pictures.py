"""Pictures and weights as arguments: checked, and turned into what a network takes and back.

Values are checked only where they are known, that is, outside of `jit`, `vmap` and `grad`.
"""

import functools
import os
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike, DTypeLike

P = ParamSpec("P")
T = TypeVar("T")  # what a function returns

# How far values may be outside of [0, 1]: more than rounding, less than a wrong range.
TOLERANCE = 1e-3


def check_pictures(name: str, value: ArrayLike, *, values: bool = True) -> jax.Array | np.ndarray:
  """Returns `value` as an array, if it is one picture or a batch of them.

  Args:
    name: the argument, which errors name.
    value: RGB `[h, w, 3]` or `[n, h, w, 3]`, float in [0, 1] or uint8.
    values: whether to check the range, too; not where a part of the pixels is filling.

  Raises:
    ValueError: another shape or type, no pixel, NaN, or values outside of [0, 1].
  """
  if value is None or isinstance(value, str | bytes | os.PathLike):
    raise ValueError(
      f"{name}: expected an array of pixels, got {value if value is None else repr(value)}; a file "
      "has to be opened first: np.asarray(PIL.Image.open(path).convert('RGB'))"
    )
  pictures = value if isinstance(value, jax.Array) else as_numpy(name, value)
  if pictures.ndim not in (3, 4) or pictures.shape[-1] != 3:
    hint = "gray pictures and those with alpha have to be converted to RGB first"
    if pictures.ndim in (3, 4) and pictures.shape[-3] == 3:
      hint = "channels come last, and np.moveaxis(pictures, -3, -1) puts them there"
    raise ValueError(
      f"{name}: expected RGB of the shape [h, w, 3] or [n, h, w, 3], got {list(pictures.shape)}; "
      f"{hint}"
    )
  if 0 in pictures.shape:
    raise ValueError(f"{name}: expected at least one pixel, got the shape {list(pictures.shape)}")
  if pictures.dtype == jnp.uint8:
    return pictures
  # JAX converts no floats of 8 bits implicitly, and they are too coarse for a picture.
  if not jnp.issubdtype(pictures.dtype, jnp.floating) or pictures.dtype.itemsize < 2:
    raise ValueError(f"{name}: expected float in [0, 1] or uint8, got {pictures.dtype}")
  if values and not isinstance(pictures, Tracer):
    _check_range(name, pictures)
  return pictures


def as_numpy(name: str, value: Any) -> np.ndarray:
  """Returns `value` as an array of a type that JAX has, where there is one of its kind.

  Args:
    name: the argument, which errors name.
    value: a number, a list, or an array of any library.

  Raises:
    ValueError: it is no array, or one of other things than numbers, or a masked one.
  """
  try:
    array = np.asarray(value)
  except Exception as error:  # ragged lists, and whatever `__array__` of other libraries raises
    raise ValueError(f"{name}: expected an array, got {type(value).__name__} ({error})") from error
  if array.dtype.kind in "OSU":
    got = f"an array of {array.dtype}" if array.ndim else repr(value)
    raise ValueError(f"{name}: expected numbers, got {got[:80]}")
  if np.ma.is_masked(value):
    raise ValueError(f"{name}: expected no masked values; `filled` gives them a value")
  if array.dtype == np.longdouble:
    return array.astype(np.float64)
  return array.astype(array.dtype.newbyteorder("="), copy=False)


def _check_range(name: str, pictures: jax.Array | np.ndarray) -> None:
  if is_on_host(pictures):
    pictures = jax.device_get(pictures)  # where NumPy needs no program for every size
  if isinstance(pictures, jax.Array):
    # On the device, which may be far away; and now, because an outer jit would trace it.
    with jax.ensure_compile_time_eval():
      low, high = map(float, jax.device_get(_range(pictures)))
  else:
    with np.errstate(invalid="ignore"):  # bfloat16 warns of NaN
      low, high = float(pictures.min()), float(pictures.max())
  if np.isnan(low) or np.isnan(high):
    raise ValueError(f"{name}: expected values in [0, 1], got NaN")
  if low < -TOLERANCE or high > 1 + TOLERANCE:
    raise ValueError(
      f"{name}: expected float values in [0, 1], got {low:g} to {high:g}; divide by the maximum of "
      "their type, or clip what resizing has overshot"
    )


@jax.jit
def _range(pictures: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns the smallest and the largest value; both are NaN if there is one."""
  nan = jnp.isnan(pictures).any()
  low, high = (value.astype(jnp.float32) for value in (pictures.min(), pictures.max()))
  return jnp.where(nan, jnp.nan, low), jnp.where(nan, jnp.nan, high)


def check_weight(
  name: str,
  weight: ArrayLike,
  contents: int | None = None,
  *,
  size: tuple[int, int] | None = None,
) -> jax.Array | np.ndarray:
  """Returns `weight` as an array, if it is one number in [0, 1] or one for each content.

  Args:
    name: the argument, which errors name.
    weight: a number, or `[n]`; with `size` also a map `[h, w]` or `[n, h, w]`.
    contents: their number n; None: not known yet.
    size: height and width of a map; None: it must be no map.

  Raises:
    ValueError: another shape or type, NaN, or a value outside of [0, 1].
  """
  value = weight if isinstance(weight, jax.Array) else as_numpy(name, weight)
  fits = value.shape in ((), (contents,)) if contents is not None else value.ndim < 2
  if size is not None:
    fits = fits or value.shape == size or value.ndim == 3 and value.shape == (contents, *size)
  if not fits or 0 in value.shape or not is_real(value.dtype):
    each = "each content" if contents is None else f"each of {contents} contents"
    or_map = "" if size is None else f" a map {list(size)} of them for all or each,"
    raise ValueError(
      f"{name}: expected one number in [0, 1],{or_map} or one for {each}, got "
      f"{value.dtype}{list(value.shape)}"
    )
  if not isinstance(value, Tracer):
    numbers = np.asarray(jax.device_get(value)).reshape(-1)
    wrong = numbers[~((numbers >= 0) & (numbers <= 1))]
    if wrong.size:
      raise ValueError(f"{name}: expected a number in [0, 1], got {float(wrong[0]):g}")
  return value


def is_real(dtype: DTypeLike) -> bool:
  """Whether it is a type of whole or of real numbers."""
  return jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.floating)


def as_weight(
  name: str,
  weight: ArrayLike,
  contents: int | None = None,
  *,
  size: tuple[int, int] | None = None,
) -> float | jax.Array:
  """Does as `check_weight`, but returns a plain number as it is: it is part of the program."""
  value = check_weight(name, weight, contents, size=size)
  return weight if isinstance(weight, int | float) else on_device(value)


def check_masks(
  masks: ArrayLike, styles: int, contents: int, size: tuple[int, int], *, values: bool = True
) -> jax.Array | np.ndarray:
  """Returns masks as an array `[1, K, h, w]` or `[n, K, h, w]`, if they are one per style.

  Args:
    masks: `[K, h, w]` for all contents, or `[n, K, h, w]`: float in [0, 1], boolean, or uint8.
    styles: their number K.
    contents: their number n.
    size: height and width of the contents.
    values: whether to check the range, too; not where a part of the pixels is filling.

  Raises:
    ValueError: another shape or type, NaN, or values outside of [0, 1].
  """
  value = masks if isinstance(masks, jax.Array) else as_numpy("masks", masks)
  for_all = (styles, *size)
  if value.shape not in (for_all, (1, *for_all), (contents, *for_all)):
    raise ValueError(
      f"masks: expected one per style and of the contents' size, {list(for_all)}, or that for each "
      f"of {contents} contents, got {list(value.shape)}"
    )
  if value.dtype not in (jnp.uint8, jnp.bool_) and not jnp.issubdtype(value.dtype, jnp.floating):
    raise ValueError(f"masks: expected float in [0, 1], boolean or uint8, got {value.dtype}")
  is_float = jnp.issubdtype(value.dtype, jnp.floating)
  if values and is_float and not isinstance(value, Tracer):
    _check_range("masks", value)
  return value if value.ndim == 4 else value.reshape(1, *for_all)


def on_device(pictures: jax.Array | np.ndarray) -> jax.Array:
  """Transfers NumPy's arrays to the device, explicitly, which transfer guards allow."""
  return pictures if isinstance(pictures, jax.Array) else jax.device_put(pictures)


def with_numbers(function: Callable[P, T]) -> Callable[P, T]:
  """Lets through, where a transfer guard disallows transfers, the numbers that are in formulas.

  Outside of `jit`, JAX transfers the 2 of `2 * x` to the device, and a guard takes that for an
  accident. Pictures and weights are transferred explicitly, by `on_device`, which no guard but
  "disallow_explicit" refuses.
  """

  @functools.wraps(function)
  def allowed(*args: P.args, **kwargs: P.kwargs) -> T:
    with jax.transfer_guard_host_to_device("allow"):
      return function(*args, **kwargs)

  return allowed


def is_on_host(array: Any) -> bool:
  """Whether it is an array of JAX in the memory of one CPU, whose values are known."""
  if not isinstance(array, jax.Array) or isinstance(array, Tracer):
    return False
  devices = array.devices()
  return len(devices) == 1 and next(iter(devices)).platform == "cpu"


def to_float(pictures: jax.Array | np.ndarray) -> jax.Array:
  """Turns uint8 and booleans into float32 in [0, 1], and lengthens shorter floats to float32."""
  pictures = on_device(pictures)
  if pictures.dtype == jnp.bool_:
    return pictures.astype(jnp.float32)
  if pictures.dtype == jnp.uint8:
    return pictures.astype(jnp.float32) / 255
  # Not by `promote_types`, which raises an error under JAX's strict promotion.
  return pictures.astype(jnp.float32) if pictures.dtype.itemsize < 4 else pictures


def from_float(pictures: jax.Array, dtype: DTypeLike) -> jax.Array:
  """The inverse of `to_float`; uint8 is rounded."""
  return (jnp.round(pictures * 255) if dtype == jnp.uint8 else pictures).astype(dtype)
