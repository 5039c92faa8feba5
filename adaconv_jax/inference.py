"""From images to stylized images: the compiled programs that `infer.py` runs.

Each is compiled once per shape; images are float in [0, 1] or uint8.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from adaconv_jax.models.build import StyleCode
from adaconv_jax.models.stylizer import ContentCode, Stylizer
from adaconv_jax.ops.extent import Extent


def encode(stylizer: Stylizer, styles: ArrayLike, extent: Extent | None = None) -> StyleCode:
  """Encodes `[n, h, w, 3]`; for AdaConv, another size of style costs only a new resize."""
  fitted = _fit_style(stylizer, styles, extent)
  # Of a style that was resized, all counts.
  return _encode_fitted(stylizer, fitted, extent if stylizer.model.style_size is None else None)


@jax.jit
def _fit_style(stylizer: Stylizer, styles: jax.Array, extent: Extent | None) -> jax.Array:
  return stylizer.fit_style(_to_float(styles), extent)


@jax.jit
def _encode_fitted(stylizer: Stylizer, styles: jax.Array, extent: Extent | None) -> StyleCode:
  return stylizer.encode_style(styles, extent)


@jax.jit
def render(
  stylizer: Stylizer, contents: jax.Array, code: StyleCode, alpha: jax.Array | None
) -> jax.Array:
  """Stylizes `[n, h, w, 3]`; `alpha` None is 1, which AdaConv does in half the time."""
  stylized = stylizer.stylize(_to_float(contents), code, 1.0 if alpha is None else alpha)
  return _from_float(stylized, contents.dtype)


@functools.partial(jax.jit, static_argnames="for_alpha")
def encode_content(
  stylizer: Stylizer, contents: jax.Array, extent: Extent | None, for_alpha: bool
) -> ContentCode:
  """The first half of `render`; `for_alpha` keeps what an `alpha` below 1 needs."""
  return stylizer.encode_content(_to_float(contents), for_alpha=for_alpha, extent=extent)


@jax.jit
def render_encoded(
  stylizer: Stylizer, content: ContentCode, code: StyleCode, alpha: jax.Array | None
) -> jax.Array:
  """The second half of `render`, for contents that meet many styles; returns uint8."""
  stylized = stylizer.render(content, code, 1.0 if alpha is None else alpha)
  return _from_float(stylized, jnp.uint8)


def _from_float(stylized: jax.Array, dtype: Any) -> jax.Array:
  if dtype == jnp.uint8:
    stylized = jnp.round(stylized * 255)
  return stylized.astype(dtype)


def _to_float(batch: jax.Array) -> jax.Array:
  scale = 255 if batch.dtype == jnp.uint8 else 1
  return batch.astype(jnp.float32) / scale
