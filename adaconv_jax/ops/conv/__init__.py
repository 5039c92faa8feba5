"""The 3x3 convolution that every network here is made of, in the fastest form for each platform."""

from adaconv_jax.ops.conv.dispatch import conv, conv_per_sample
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
  "plain_conv",
  "reflect_pad",
  "reflect_pad_to_multiple",
  "upsample",
]
