"""The 3x3 convolution that all networks here use, in the fastest form for each platform."""

from adaconv_jax.ops.conv.dispatch import conv, conv_per_sample, only_shapes
from adaconv_jax.ops.conv.reference import (
  conv_valid,
  plain_conv,
  reflect_pad,
  reflect_pad_to_multiple,
  upsample,
)

__all__ = [
  "conv",
  "conv_per_sample",
  "conv_valid",
  "only_shapes",
  "plain_conv",
  "reflect_pad",
  "reflect_pad_to_multiple",
  "upsample",
]
