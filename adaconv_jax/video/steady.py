"""Keeps stylized frames steady along their motion, without ghosts.

Three things, each of which takes away a part of the flicker that shared statistics leave:

- Noise. The network sees a frame mixed with those before it, warped by the optical flow; the first
  one of a shot with those after it, or its grain would give it other colors than all the others.
- The network's grid. Its poolings halve the picture three times, so the same thing is painted
  differently at every position modulo 8 pixels. A frame is padded so that the grid moves along with
  most of the picture.
- What is left. The stylized frame is mixed with an anchor, a stylized frame some frames ago, warped
  along the motion since then. So a mark moves along for as long as what it is drawn on, and is
  resampled once for many frames; mixed with the frame before every time, it would blur. Marks that
  do not quite match become pale. So what is shown has its contrast raised to that of the frame
  itself; what becomes the next anchor has not, or it would grow.

Where a frame and the warped other one do not show the same (something appeared, the flow is wrong,
the light changed), nothing is mixed: they must be equal up to the noise of both.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from adaconv_jax.models.pictures import to_float
from adaconv_jax.ops.filters import to_gray
from adaconv_jax.vgg.network import STRIDE
from adaconv_jax.video.flow import (
  blur,
  compose,
  optical_flow,
  refine,
  warp_linear,
  warp_spline,
)

# Share of the anchor where both frames show the same; and of the frame before, as a part of it.
STEADY, NOISE = 0.95, 0.55
# An anchor is used for so many frames.
KEPT = 10
# So many frames after the first of a shot take its noise away.
AHEAD = 4
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
# What comes into the frame is painted anew, and this deviation, in pixels, fades it into the rest;
# a seam would move along.
FADE = 6.0
# Pixels beyond the border where it counts as inside: the flow of what moves along it is not exact.
_BORDER = 1.0
# The motion is that of this share of the picture, where it has most structure; and of so many
# pixels of it, spread evenly. Squared gradients of less are none.
_KNOWN, _SAMPLED, _FLAT = 0.25, 2**16, 1e-6
# Pixels by which the motion must differ from that of the grid before the grid moves.
LAG = 0.7


class Followed(NamedTuple):
  """A frame, and how it follows from the one before.

  Attributes:
    frame: with less noise, `[h, w, 3]`, float.
    number: in the shot, 0 for the first.
    anchor: the frame of the anchor, as `frame`.
    flow: to the anchor, `[2, h, w]`.
    same: how surely frame and anchor show the same at each pixel, 0 to 1, `[h, w, 1]`; 0 in a first
      frame.
    drift: how far most of the picture has moved since the first frame, `[2]`, in pixels.
    grid: the rows above and columns left of the frame in what the network sees, `[2]`.
  """

  frame: jax.Array
  number: jax.Array
  anchor: jax.Array
  flow: jax.Array
  same: jax.Array
  drift: jax.Array
  grid: jax.Array


class Painted(NamedTuple):
  """What the next frame is mixed with.

  Attributes:
    mixture: of the stylized frame and the anchor, `[h, w, 3]`, float.
    anchor: the mixture of some frames ago.
  """

  mixture: jax.Array
  anchor: jax.Array


@jax.jit
def begin(frame: jax.Array) -> Followed:
  """Starts with the first frame of a shot, from `without_noise`, or as it is: float or uint8."""
  frame = to_float(frame)
  h, w = frame.shape[:2]
  still, none = jnp.zeros(2), jnp.zeros((), int)
  flow, same = jnp.zeros((2, h, w)), jnp.zeros((h, w, 1))
  return Followed(frame, none, frame, flow, same, still, still.astype(int))


def without_noise(
  frames: Sequence[jax.Array | np.ndarray], share: jax.Array, period: int = STRIDE
) -> jax.Array:
  """Returns the first of some frames of a shot, `[h, w, 3]`, mixed with those after it; float.

  `share` and `period` are those of `follow`, which is compiled for them.
  """
  last = begin(frames[-1])
  for frame in reversed(frames[:-1]):
    last = follow(last, frame, share, period)
  return last.frame


@functools.partial(jax.jit, static_argnames="period")
def follow(last: Followed, frame: jax.Array, share: jax.Array, period: int = STRIDE) -> Followed:
  """Goes on with the next frame.

  Args:
    last: the frame before.
    frame: `[h, w, 3]`, float in [0, 1] or uint8.
    share: of the anchor, which `blend` mixes in; that of the frame before, against noise, is a part
      of it.
    period: after how many pixels of the frame the network's grid repeats.
  """
  frame = to_float(frame)
  gray = to_gray(frame)
  flow = optical_flow(to_gray(last.frame), gray)
  same = agreement(last.frame, frame, flow)[..., None]
  denoised = _mix(last.frame, frame, flow, NOISE * share * same)
  drift = last.drift - _motion(gray, flow)
  # Where the grid is now, of all places that `grid` could mean the one next to the drift.
  at = period * jnp.round((drift + last.grid) / period) - last.grid
  grid = -jnp.where(jnp.abs(drift - at) > LAG, jnp.round(drift), at)
  number = last.number + 1
  renewed = _renews(number)
  anchor = jnp.where(renewed, last.frame, last.anchor)
  # Small errors of the motion from frame to frame add up, so the sum is refined.
  since = refine(to_gray(anchor), gray, compose(jnp.where(renewed, 0, last.flow), flow))
  return Followed(
    frame=denoised,
    number=number,
    anchor=anchor,
    flow=since,
    same=agreement(anchor, frame, since)[..., None],
    drift=drift,
    grid=(grid % period).astype(int),
  )


@functools.partial(jax.jit, static_argnames="period")
def on_grid(followed: Followed, period: int = STRIDE) -> jax.Array:
  """Pads the frame by a period in both directions, so that the network's grid moves along.

  Its fine structure is mirrored, and the rest goes on in a straight line. A ridge would be painted
  where a sky that becomes lighter toward the border is mirrored, and more of it in some frames.
  """
  h, w = followed.frame.shape[:2]
  around = ((period, period), (period, period), (0, 0))
  smooth = _smooth(followed.frame, period / 2)
  padded = jnp.pad(smooth, around, mode="reflect", reflect_type="odd")
  padded += jnp.pad(followed.frame - smooth, around, mode="reflect")
  padded = lax.dynamic_update_slice(jnp.clip(padded, 0, 1), followed.frame, (period, period, 0))
  start = period - followed.grid
  return lax.dynamic_slice(padded, (start[0], start[1], 0), (h + period, w + period, 3))


@jax.jit
def off_grid(followed: Followed, picture: jax.Array) -> jax.Array:
  """Cuts the frame out of what was made of `on_grid`."""
  start = followed.grid
  return lax.dynamic_slice(picture, (start[0], start[1], 0), followed.frame.shape)


@jax.jit
def blend(
  followed: Followed, last: Painted, picture: jax.Array, share: jax.Array
) -> tuple[Painted, jax.Array]:
  """Mixes a stylized frame with its anchor.

  Args:
    followed: the frame.
    last: what the call for the frame before returned.
    picture: the stylized frame, `[h, w, 3]`, float.
    share: of the anchor, 0 to below 1.

  Returns:
    What the next call needs, and what to show, float in [0, 1].
  """
  anchor = jnp.where(_renews(followed.number), last.mixture, last.anchor)
  mixture = _mix(anchor, picture, followed.flow, share * followed.same)
  return Painted(mixture, anchor), restore_contrast(mixture, picture)


def _motion(gray: jax.Array, flow: jax.Array) -> jax.Array:
  """Returns how most of the picture moves, `[2]`: the median where the flow can be known.

  Along an edge, or where there is nothing but grain, it cannot.
  """
  dy, dx = jnp.gradient(blur(gray, 0.7))
  yy, xx, xy = (blur(product, WINDOW) for product in (dy * dy, dx * dx, dy * dx))
  both = jnp.maximum(yy * xx - xy**2, 0)
  known = jnp.stack([both / (xx + _FLAT), both / (yy + _FLAT)])
  step = max(round(math.sqrt(gray.size / _SAMPLED)), 1)
  known, flow = (x[:, ::step, ::step].reshape(2, -1) for x in (known, flow))
  least = jnp.quantile(known, 1 - _KNOWN, axis=1, keepdims=True)
  return jnp.nanmedian(jnp.where(known >= least, flow, jnp.nan), axis=1)


def _renews(number: jax.Array) -> jax.Array:
  """Whether the anchor of a frame is the one before it."""
  return (number - 1) % KEPT == 0


def _mix(before: jax.Array, now: jax.Array, flow: jax.Array, share: jax.Array) -> jax.Array:
  return now + share * (jnp.clip(warp_spline(before, flow), 0, 1) - now)


def agreement(before: jax.Array, now: jax.Array, flow: jax.Array) -> jax.Array:
  """How surely two frames `[h, w, 3]` show the same at each pixel, 0 to 1, `[h, w]`."""
  h, w = now.shape[:2]
  difference = blur(jnp.abs(warp_linear(before, flow) - now).mean(-1), WINDOW)
  noise = jnp.maximum(jnp.median(difference), LEAST_NOISE)
  same = jnp.clip((OTHER - difference / noise) / (OTHER - SAME), 0, 1)
  y = jnp.arange(h, dtype=jnp.float32).reshape(h, 1) + flow[0]
  x = jnp.arange(w, dtype=jnp.float32).reshape(1, w) + flow[1]
  inside = (y >= -_BORDER) & (y <= h - 1 + _BORDER) & (x >= -_BORDER) & (x <= w - 1 + _BORDER)
  return same * jnp.clip(1 - 2 * blur(1.0 - inside, FADE), 0, 1)


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
