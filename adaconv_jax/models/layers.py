"""Layers that the networks share."""

from collections.abc import Callable

import flax.linen as nn
import jax

from adaconv_jax.ops.conv import conv


class ReflectConv(nn.Module):
  """A learned convolution with reflect padding and stride 1.

  Attributes:
    features: number of output channels.
    kernel_size: height and width of the kernel, odd.
    kernel_init: initializer of the kernel; AdaConv's implementations use Xavier.
    bias_init: initializer of the bias.
  """

  features: int
  kernel_size: int = 3
  kernel_init: Callable[..., jax.Array] = nn.initializers.xavier_uniform()
  bias_init: Callable[..., jax.Array] = nn.initializers.zeros

  @nn.compact
  def __call__(self, images: jax.Array, *, enlarge: bool = False) -> jax.Array:
    """Convolves `[n, h, w, c]` to `[n, h, w, features]`; see `conv`."""
    shape = (self.kernel_size, self.kernel_size, images.shape[-1], self.features)
    kernel = self.param("kernel", self.kernel_init, shape)
    bias = self.param("bias", self.bias_init, (self.features,))
    return conv(images, kernel, bias, enlarge=enlarge)
