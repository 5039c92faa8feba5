"""The content's colors kept, in the two ways of "Preserving color in neural style transfer".

Gatys et al. 2016: either only the luma of the stylized picture is used, or the colors of the style
are matched to the content's before it is encoded. Pure functions of arrays in [0, 1].
"""

import jax
import jax.numpy as jnp

from adaconv_jax.ops.filters import to_gray

COLORS = ("style", "luminance", "match")
# Added to the variances of colors, as of noise with a deviation of 1 %. It limits what becomes of
# the little color that a gray style has: its noise.
_NOISE = 1e-4
# Differences of a channel from the luma below this are no color; they are not divided by.
_GRAY = 1e-6


def check_color(color: str, known: tuple[str, ...] = COLORS) -> str:
  """Returns `color`.

  Raises:
    ValueError: it is not one of `known`.
  """
  if color not in known:
    hint = "; match_colors changes a style before it is encoded" if color in COLORS else ""
    raise ValueError(f"color: expected one of {list(known)}, got {color!r}{hint}")
  return color


def keep_chroma(pictures: jax.Array, content: jax.Array) -> jax.Array:
  """Gives the luma of `pictures` the chroma of `content`.

  Where the two together are no color in [0, 1], such as a bright blue, the chroma is lowered until
  they are one. The luma is always that of `pictures`.

  Args:
    pictures: RGB `[..., h, w, 3]`; values outside of [0, 1] are clipped first.
    content: RGB in [0, 1], of the same shape.

  Returns:
    Like `pictures`, in [0, 1].
  """
  luma = jnp.expand_dims(to_gray(jnp.clip(pictures, 0, 1)), -1)
  chroma = content - jnp.expand_dims(to_gray(content), -1)
  colored = jnp.abs(chroma) > _GRAY
  room = jnp.where(chroma > 0, 1 - luma, -luma) / jnp.where(colored, chroma, 1)
  share = jnp.min(jnp.where(colored, room, 1), -1, keepdims=True)
  return jnp.clip(luma + jnp.minimum(share, 1) * chroma, 0, 1)


def match_colors(
  style: jax.Array,
  content: jax.Array,
  *,
  style_where: jax.Array | None = None,
  content_where: jax.Array | None = None,
) -> jax.Array:
  """Gives styles the mean and the covariance of the contents' colors.

  Of the linear maps that do so, this is the one that moves the colors least (the optimal transport
  between two normal distributions), so that light stays light and red does not become blue without
  need. Both covariances get a little noise, so the result is exact up to that, and up to the
  clipping of colors that leave [0, 1].

  Args:
    style: RGB `[..., h', w', 3]` in [0, 1].
    content: RGB `[..., h, w, 3]` in [0, 1], of any size. Leading axes are broadcast.
    style_where: the weights of the style's pixels, `[..., h', w', 1]`, boolean or at least 0;
      None: all alike.
    content_where: the same for the content.

  Returns:
    The styles in [0, 1], `[..., h', w', 3]`, with the leading axes of both.
  """
  style_mean, style_covariance = _moments(style, style_where)
  content_mean, content_covariance = _moments(content, content_where)
  root = _root(style_covariance)
  inverse = jnp.linalg.inv(root)
  middle = _root(_product(root, content_covariance, root))
  gain = _product(inverse, middle, inverse)
  centered = style - style_mean[..., None, None, :]
  moved = jnp.einsum("...hwc,...cd->...hwd", centered, gain, precision="highest")
  return jnp.clip(moved + content_mean[..., None, None, :], 0, 1)


def _moments(pictures: jax.Array, where: jax.Array | None) -> tuple[jax.Array, jax.Array]:
  """Returns means `[..., 3]` and covariances `[..., 3, 3]` of colors, the latter with noise."""
  if where is None:
    shares = jnp.ones_like(pictures[..., :1])
  else:
    shares = where.astype(pictures.dtype)
    pictures = jnp.where(shares > 0, pictures, 0)
  shares = shares / jnp.maximum(jnp.sum(shares, (-3, -2), keepdims=True), _GRAY)
  mean = jnp.sum(shares * pictures, (-3, -2))
  centered = pictures - mean[..., None, None, :]
  weighted = shares * centered
  covariance = jnp.einsum("...hwc,...hwd->...cd", weighted, centered, precision="highest")
  noise = _NOISE * jnp.eye(3, dtype=pictures.dtype)
  return mean, covariance + jnp.broadcast_to(noise, covariance.shape)


def _product(a: jax.Array, b: jax.Array, c: jax.Array) -> jax.Array:
  return jnp.matmul(jnp.matmul(a, b, precision="highest"), c, precision="highest")


@jax.custom_jvp
def _root(matrix: jax.Array) -> jax.Array:
  """The square root of symmetric positive matrices `[..., c, c]`."""
  return _root_and_basis(matrix)[0]


def _root_and_basis(matrix: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
  values, basis = jnp.linalg.eigh(matrix)
  values = jnp.sqrt(jnp.maximum(values, _NOISE**2))
  scaled = basis * jnp.expand_dims(values, -2)
  root = jnp.matmul(scaled, jnp.swapaxes(basis, -1, -2), precision="highest")
  return root, values, basis


@_root.defjvp
def _root_jvp(primals, tangents):
  # From R R = M: dR R + R dR = dM, solved in the basis of R. Derivatives of the basis itself, which
  # are infinite where two values are equal, as of a gray picture, are not needed.
  root, values, basis = _root_and_basis(primals[0])
  transposed = jnp.swapaxes(basis, -1, -2)
  inside = _product(transposed, tangents[0], basis)
  inside = inside / (jnp.expand_dims(values, -1) + jnp.expand_dims(values, -2))
  return root, _product(basis, inside, transposed)
