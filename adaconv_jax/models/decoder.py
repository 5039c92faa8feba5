"""The decoder from relu4_1 back to an image, the mirror of VGG (Huang & Belongie 2017, section 6).

AdaIN and AdaConv share it: AdaConv's four blocks end in the fixed convolutions that come first in
each scale here, so its decoder is this one with an operation before every scale.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from adaconv_jax.models.layers import ReflectConv
from adaconv_jax.ops.extent import UNPADDED, Borders

# Per scale, coarse to fine: input channels, and the output channels of its convolutions.
SCALES: tuple[tuple[int, tuple[int, ...]], ...] = (
  (512, (256,)),
  (256, (256, 256, 256, 128)),
  (128, (128, 64)),
  (64, (64, 3)),
)

# Training starts with gray pictures with a little noise. Pixels far outside [0, 1] would waste the
# first hundreds of steps.
MID_GRAY = nn.initializers.constant(0.5)
FAINT = nn.initializers.variance_scaling(1e-3, "fan_avg", "uniform")


def near_identity(
  key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32
) -> jax.Array:
  """Initializes a kernel `[k, k, c_in, c_out]`: Xavier, or nearly the identity if c_in = c_out.

  After a ReLU the identity changes nothing, so the nine layers of the decoder start out like the
  four that change the number of channels. The decoder then learns to invert VGG in far fewer steps.
  """
  xavier = nn.initializers.xavier_uniform()(key, shape, dtype)
  k, _, c_in, c_out = shape
  if c_in != c_out:
    return xavier
  return 0.1 * xavier + jnp.zeros(shape, dtype).at[k // 2, k // 2].set(jnp.eye(c_in, dtype=dtype))


class Decoder(nn.Module):
  """Nine 3x3 reflect-padded convolutions with ReLU between them, and three upsamplings."""

  def setup(self):  # noqa: D102 (Flax's)
    for scale, (_, widths) in enumerate(SCALES):
      for index, width in enumerate(widths):
        if width == 3:
          layer = ReflectConv(width, kernel_init=FAINT, bias_init=MID_GRAY)
        else:
          layer = ReflectConv(width, kernel_init=near_identity)
        setattr(self, _layer_name(scale, index), layer)

  def __call__(self, features: jax.Array) -> jax.Array:
    """Decodes a feature map.

    Args:
      features: `[n, h, w, 512]`, relu4_1 or a transformed relu4_1.

    Returns:
      RGB `[n, 8 h, 8 w, 3]`; linear, so values may leave [0, 1]; float32.
    """
    for scale in range(len(SCALES)):
      features = self.decode_scale(scale, features, enlarge=scale > 0)
    return features

  def decode_scale(
    self, scale: int, features: jax.Array, *, enlarge: bool, borders: Borders = UNPADDED
  ) -> jax.Array:
    """Runs the convolutions of one scale.

    Args:
      scale: 0 (coarse) to 3.
      features: `[n, h, w, c_in]`, what leaves the scale before.
      enlarge: upsample the features first, as before every scale but the first.
      borders: where the pictures end, if they do not fill `features`.

    Returns:
      `[n, h, w, c_out]`, or with `enlarge` `[n, 2 h, 2 w, c_out]`.
    """
    for index, width in enumerate(SCALES[scale][1]):
      layer = getattr(self, _layer_name(scale, index))
      grow = enlarge and index == 0
      features = layer(borders.mirror(features, enlarge=grow), enlarge=grow)
      if width == 3:
        return features.astype(np.promote_types(features.dtype, np.float32))
      features = nn.relu(features)
    return features


def _layer_name(scale: int, index: int) -> str:
  return f"conv{len(SCALES) - scale}_{index + 1}"
