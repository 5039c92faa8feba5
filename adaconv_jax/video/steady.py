"""Keeps stylized frames steady along their motion, without ghosts.

Three things, each of which takes away a part of the flicker that shared statistics leave:

- Noise. The network sees a frame mixed with those before it, warped by the optical flow.
- The network's grid. Its poolings halve the picture three times, so the same thing is painted
  differently at every position modulo 8 pixels. A frame is padded so that the grid moves along with
  most of the picture.
- What is left. The stylized frame is mixed with the one before it, warped by the same flow. Marks
  that do not quite match become pale by that. So what is shown has its contrast raised to that of
  the frame itself; what the next frame is mixed with has not, or it would grow.

Where a frame and the warped one before do not show the same (something appeared, the flow is wrong,
the light changed), nothing is mixed: they must be equal up to the noise of both.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from adaconv_jax.models.pictures import to_float
from adaconv_jax.ops.filters import to_gray
from adaconv_jax.vgg.network import STRIDE
from adaconv_jax.video.flow import blur, optical_flow, warp_cubic, warp_linear

# Share of the picture before where both frames show the same; and of the frame before, as a part of
# it, up to a whole.
STEADY, NOISE = 0.3, 1.75
# Smaller frames have no flow.
LEAST_SIDE = 2 * STRIDE
# Differences of two frames are averaged over windows of this deviation, in pixels.
WINDOW = 2.0
# In units of the median difference, which is that of noise: up to the first all is mixed, from the
# second on nothing.
SAME, OTHER = 1.5, 3.0
# Least median, in a range of 1, for videos without noise.
LEAST_NOISE = 0.015
# The contrast of marks is compared in bands between deviations of these pixels, in windows of so
# many, and is raised by at most so much.
BANDS, AROUND, MOST = (2.0, 6.0), 10.0, 2.0
# Pixels by which the motion must differ from that of the grid before the grid moves.
LAG = 0.7


class Followed(NamedTuple):
  """A frame, and how it follows from the one before.

  Attributes:
    frame: with less noise, `[h, w, 3]`, float.
    flow: to the frame before, `[2, h, w]`.
    same: how surely both show the same at each pixel, 0 to 1, `[h, w, 1]`; 0 in a first frame.
    drift: how far most of the picture has moved since the first frame, `[2]`, in pixels.
    grid: the rows above and columns left of the frame in what the network sees, `[2]`.
  """

  frame: jax.Array
  flow: jax.Array
  same: jax.Array
  drift: jax.Array
  grid: jax.Array


@jax.jit
def begin(frame: jax.Array) -> Followed:
  """Starts with the first frame of a shot, `[h, w, 3]`, float in [0, 1] or uint8."""
  frame = to_float(frame)
  h, w = frame.shape[:2]
  still = jnp.zeros(2)
  return Followed(frame, jnp.zeros((2, h, w)), jnp.zeros((h, w, 1)), still, still.astype(int))


@jax.jit
def follow(last: Followed, frame: jax.Array, share: jax.Array) -> Followed:
  """Goes on with the next frame.

  Args:
    last: the frame before.
    frame: `[h, w, 3]`, float in [0, 1] or uint8.
    share: of the picture before, which `blend` mixes in; that of the frame before is larger.
  """
  frame = to_float(frame)
  flow = optical_flow(to_gray(last.frame), to_gray(frame))
  same = agreement(last.frame, frame, flow)[..., None]
  denoised = _mix(last.frame, frame, flow, jnp.minimum(NOISE * share, 1) * same)
  drift = last.drift - jnp.median(flow, axis=(1, 2))
  # Where the grid is now, of all places that `grid` could mean the one next to the drift.
  at = STRIDE * jnp.round((drift + last.grid) / STRIDE) - last.grid
  grid = -jnp.where(jnp.abs(drift - at) > LAG, jnp.round(drift), at)
  return Followed(denoised, flow, same, drift, (grid % STRIDE).astype(int))


@jax.jit
def on_grid(followed: Followed) -> jax.Array:
  """Pads the frame by 8 pixels in both directions, so that the network's grid moves along."""
  h, w = followed.frame.shape[:2]
  padded = jnp.pad(followed.frame, ((STRIDE, STRIDE), (STRIDE, STRIDE), (0, 0)), mode="reflect")
  start = STRIDE - followed.grid
  return lax.dynamic_slice(padded, (start[0], start[1], 0), (h + STRIDE, w + STRIDE, 3))


@jax.jit
def off_grid(followed: Followed, picture: jax.Array) -> jax.Array:
  """Cuts the frame out of what was made of `on_grid`."""
  start = followed.grid
  return lax.dynamic_slice(picture, (start[0], start[1], 0), followed.frame.shape)


@jax.jit
def blend(
  followed: Followed, last_picture: jax.Array, picture: jax.Array, share: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Mixes a stylized frame with the one before.

  Args:
    followed: the frame.
    last_picture: the mixture for the frame before, `[h, w, 3]`, float.
    picture: the stylized frame, float.
    share: of the picture before, 0 to below 1.

  Returns:
    The mixture, for the next call, and what to show, float in [0, 1].
  """
  mixture = _mix(last_picture, picture, followed.flow, share * followed.same)
  return mixture, restore_contrast(mixture, picture)


def _mix(before: jax.Array, now: jax.Array, flow: jax.Array, share: jax.Array) -> jax.Array:
  return now + share * (jnp.clip(warp_cubic(before, flow), 0, 1) - now)


def agreement(before: jax.Array, now: jax.Array, flow: jax.Array) -> jax.Array:
  """How surely two frames `[h, w, 3]` show the same at each pixel, 0 to 1, `[h, w]`."""
  h, w = now.shape[:2]
  difference = blur(jnp.abs(warp_linear(before, flow) - now).mean(-1), WINDOW)
  noise = jnp.maximum(jnp.median(difference), LEAST_NOISE)
  same = jnp.clip((OTHER - difference / noise) / (OTHER - SAME), 0, 1)
  y = jnp.arange(h, dtype=jnp.float32).reshape(h, 1) + flow[0]
  x = jnp.arange(w, dtype=jnp.float32).reshape(1, w) + flow[1]
  inside = (y >= 0) & (y <= h - 1) & (x >= 0) & (x <= w - 1)
  return same * inside


def restore_contrast(mixture: jax.Array, picture: jax.Array) -> jax.Array:
  """Raises the contrast of marks in `mixture` to that in `picture`, both `[h, w, 3]`, in [0, 1]."""
  coarse, wanted, raised = mixture, picture, jnp.zeros_like(mixture)
  for sigma in BANDS:
    smooth, smooth_wanted = _smooth(coarse, sigma), _smooth(wanted, sigma)
    band = coarse - smooth
    ours, theirs = (blur((x**2).mean(-1), AROUND) + 1e-6 for x in (band, wanted - smooth_wanted))
    raised += jnp.clip(jnp.sqrt(theirs / ours) - 1, 0, MOST - 1)[..., None] * band
    coarse, wanted = smooth, smooth_wanted
  return jnp.clip(mixture + raised, 0, 1)


def _smooth(picture: jax.Array, sigma: float) -> jax.Array:
  return jax.vmap(lambda channel: blur(channel, sigma), -1, -1)(picture)
