"""Dense optical flow, and pictures warped by it; pure JAX.

The flow is that of Lucas & Kanade (1981) on a pyramid: at every pixel the shift that makes the
surrounding window of one frame equal to that of the other, refined from coarse to fine. Where a
window has no structure, the shift of the coarser level stays.
"""

import jax
import jax.numpy as jnp
import numpy as np

from adaconv_jax.ops.filters import gaussian

COARSEST = 12  # pixels on the shorter side of the coarsest level, at least
ITERATIONS = 3  # per level
WINDOW = 2.5  # standard deviation of the window, in pixels
SMOOTH = 1.5  # the same for the flow itself, after each iteration
# Squared gradient of a window, in units of a range of 1, below which it has no structure. Film
# grain alone reaches about this.
FLAT = 3e-4
# Largest change of an iteration, in pixels; the coarser levels did the rest.
STEP = 1.0


def optical_flow(earlier: jax.Array, later: jax.Array) -> jax.Array:
  """Estimates where the pixels of a frame were in an earlier one.

  Args:
    earlier: luma `[h, w]` in [0, 1].
    later: the same of the later frame.

  Returns:
    `[2, h, w]`, in pixels: a pixel of `later` at (y, x) was at (y, x) plus this.
  """
  pyramid = [(earlier, later)]
  while min(pyramid[-1][0].shape) >= 2 * COARSEST:
    pyramid.append((_halve(pyramid[-1][0]), _halve(pyramid[-1][1])))
  flow = jnp.zeros((2, *pyramid[-1][0].shape), jnp.float32)
  for level, (a, b) in enumerate(reversed(pyramid)):
    if level:
      factor = jnp.array([a.shape[0] / flow.shape[1], a.shape[1] / flow.shape[2]])
      flow = jax.image.resize(flow, (2, *a.shape), "linear") * factor.reshape(2, 1, 1)
    flow = refine(a, b, flow)
  return flow


def refine(earlier: jax.Array, later: jax.Array, flow: jax.Array) -> jax.Array:
  """Improves a flow `[2, h, w]` that is good to a pixel or so; see `optical_flow`."""
  earlier, later = blur(earlier, 0.7), blur(later, 0.7)
  dy, dx = jnp.gradient(later)
  yy, xx, xy = (blur(product, WINDOW) for product in (dy * dy, dx * dx, dy * dx))
  yy, xx = yy + FLAT, xx + FLAT
  determinant = yy * xx - xy**2

  def step(_, flow: jax.Array) -> jax.Array:
    change = warp_linear(earlier, flow) - later
    by, bx = blur(dy * change, WINDOW), blur(dx * change, WINDOW)
    shift = jnp.stack([xy * bx - xx * by, xy * by - yy * bx]) / determinant
    flow = flow + jnp.clip(shift, -STEP, STEP)
    return jax.vmap(lambda x: blur(x, SMOOTH))(flow)

  return jax.lax.fori_loop(0, ITERATIONS, step, flow)


def warp_linear(image: jax.Array, flow: jax.Array) -> jax.Array:
  """Samples `[h, w]` or `[h, w, c]` at every pixel plus `flow`, bilinearly; the border repeats."""
  return _sample(image, flow, (lambda t: 1 - t, lambda t: t), 0)


def compose(before: jax.Array, flow: jax.Array) -> jax.Array:
  """Adds two flows `[2, h, w]`: to where the pixels were when `before` ends, by way of `flow`."""
  return flow + jnp.moveaxis(warp_linear(jnp.moveaxis(before, 0, -1), flow), -1, 0)


# Radius of the filter that makes the coefficients of a spline; what is beyond is below 1e-4.
_RADIUS = 7


def warp_spline(image: jax.Array, flow: jax.Array) -> jax.Array:
  """The same along a cubic spline through the pixels of `[h, w]` or `[h, w, c]`.

  At least 8 pixels per side. It blurs fine marks less than cubic convolution (Catmull-Rom), which
  uses as many pixels (Unser, IEEE Signal Processing Magazine 1999).
  """
  pole = np.sqrt(3) - 2
  response = pole ** np.abs(np.arange(-_RADIUS, _RADIUS + 1))
  taps = [float(t) for t in response / response.sum()]  # a plain picture stays as it is
  weights = (
    lambda t: (1 - t) ** 3 / 6,
    lambda t: (0.5 * t - 1) * t * t + 2 / 3,
    lambda t: ((-0.5 * t + 0.5) * t + 0.5) * t + 1 / 6,
    lambda t: t**3 / 6,
  )
  return _sample(_convolve(image, taps, "reflect"), flow, weights, -1)


def _sample(image: jax.Array, flow: jax.Array, weights, first: int) -> jax.Array:
  h, w = image.shape[:2]
  y = jnp.arange(h, dtype=jnp.float32).reshape(h, 1) + flow[0]
  x = jnp.arange(w, dtype=jnp.float32).reshape(1, w) + flow[1]
  y0, x0 = jnp.floor(y), jnp.floor(x)
  ty, tx = y - y0, x - x0
  rows = [jnp.clip(y0.astype(int) + first + k, 0, h - 1) for k in range(len(weights))]
  columns = [jnp.clip(x0.astype(int) + first + k, 0, w - 1) for k in range(len(weights))]
  flat = image.reshape(h * w, -1)
  out = jnp.zeros((h, w, flat.shape[-1]), jnp.float32)
  for row, wy in zip(rows, weights, strict=True):
    for column, wx in zip(columns, weights, strict=True):
      out = out + jnp.take(flat, row * w + column, axis=0) * (wy(ty) * wx(tx))[..., None]
  return out.reshape(image.shape)


def blur(image: jax.Array, sigma: float) -> jax.Array:
  """Applies a Gaussian to `[h, w]`; the border repeats."""
  return _convolve(image, [float(t) for t in gaussian(sigma, max(round(2.5 * sigma), 1))], "edge")


def _convolve(image: jax.Array, taps: list[float], mode: str) -> jax.Array:
  radius = len(taps) // 2
  for axis in (0, 1):
    size = image.shape[axis]
    pad = [(radius, radius) if a == axis else (0, 0) for a in range(image.ndim)]
    padded = jnp.pad(image, pad, mode=mode)
    image = sum(
      (t * jax.lax.slice_in_dim(padded, k, k + size, axis=axis) for k, t in enumerate(taps)),
      start=jnp.zeros(()),
    )
  return image


def _halve(image: jax.Array) -> jax.Array:
  h, w = image.shape
  padded = jnp.pad(image, ((0, h % 2), (0, w % 2)), mode="edge")
  return padded.reshape(-(-h // 2), 2, -(-w // 2), 2).mean((1, 3))
