"""Operations of the networks, counted by hand from their shapes.

A multiplication and an addition are two operations. Only convolutions and fully connected layers
are included, each as the direct algorithm of the papers, even if a side computes it in another way:
both sides divide the same figure by their own time.
"""

from adaconv_jax.models.adaconv import AdaConv
from adaconv_jax.models.build import BuiltModel as TransferModel
from adaconv_jax.models.decoder import SCALES
from adaconv_jax.vgg.network import ENCODER_LAYER, STRIDE, conv_shapes


def conv(c_in: int, c_out: int, height: int, width: int, *, k: int = 3, groups: int = 1) -> int:
  """Counts one convolution whose output is `[height, width, c_out]`."""
  return 2 * k * k * (c_in // groups) * c_out * height * width


def encoder(arch: str, height: int, width: int) -> int:
  """Counts VGG up to relu4_1, of one image."""
  total = 0
  for name, (_, _, c_in, c_out) in conv_shapes(arch, ENCODER_LAYER).items():
    shrink = 2 ** (int(name[len("conv")]) - 1)
    total += conv(c_in, c_out, height // shrink, width // shrink)
  return total


def decoder(height: int, width: int) -> int:
  """Counts the fixed convolutions of the decoder, for an image of `height` x `width`."""
  return sum(_decoder_layers(height, width))


def _decoder_layers(height: int, width: int) -> list[int]:
  layers = []
  for scale, (channels, widths) in enumerate(SCALES):
    shrink = STRIDE // 2**scale
    for c_in, c_out in zip((channels, *widths), widths, strict=False):
      layers.append(conv(c_in, c_out, height // shrink, width // shrink))
  return layers


def adaconv_operation(channels: int, groups: int, height: int, width: int, *, k: int = 3) -> int:
  """Counts the grouped spatial and the grouped pointwise convolution of one image."""
  return conv(channels, channels, height, width, k=k, groups=groups) + conv(
    channels, channels, height, width, k=1, groups=groups
  )


def transform(model: TransferModel, height: int, width: int) -> int:
  """Counts AdaConv's four operations on one image; AdaIN's convolves nothing."""
  if not isinstance(model, AdaConv):
    return 0
  total = 0
  for scale, ((channels, _), groups) in enumerate(zip(SCALES, model.groups, strict=True)):
    side = (height * 2**scale // STRIDE, width * 2**scale // STRIDE)
    total += adaconv_operation(channels, groups, *side, k=model.kernel_size)
  return total


def style_layers(model: TransferModel) -> list[int]:
  """Counts the layers from a style's relu4_1 to its code: none for AdaIN."""
  if not isinstance(model, AdaConv):
    return []
  k, dim, width = model.kernel_size, model.style_dim, model.encoder_width
  side, channels = model.style_size // STRIDE, SCALES[0][0]
  layers = []
  for _ in range(3):
    layers.append(conv(channels, width, side, side))
    channels, side = width, side // 2
  layers.append(2 * side * side * width * k * k * dim)
  for (channels, _), groups in zip(SCALES, model.groups, strict=True):
    kernel = channels * channels // groups
    layers += [conv(dim, kernel, k, k, k=k), 2 * dim * kernel, 2 * dim * channels]
  return layers


def encode_style(model: TransferModel, arch: str, height: int, width: int) -> int:
  """Counts a style image of `height` x `width` to its code; AdaConv resizes it first."""
  if isinstance(model, AdaConv):
    height = width = model.style_size
  return encoder(arch, height, width) + sum(style_layers(model))


def render(model: TransferModel, height: int, width: int) -> int:
  """Counts a content's features and a style's code to one image."""
  return decoder(height, width) + transform(model, height, width)


def pair(model: TransferModel, arch: str, size: int) -> int:
  """Counts the stylization of one content by one style, both `size` x `size`."""
  return (
    encoder(arch, size, size) + encode_style(model, arch, size, size) + render(model, size, size)
  )


def training_pair(model: TransferModel, arch: str, size: int) -> int:
  """Counts forward and backward pass of one pair.

  The content's and the style's features need no gradient, the output's need one with respect to
  their input, and trained layers one more with respect to their weights. The first layer after the
  frozen features needs none with respect to its input: AdaIN's first decoder convolution, AdaConv's
  first operation and its style encoder's first convolution.
  """
  style = style_layers(model)
  total = 3 * encoder(arch, size, size) + encode_style(model, arch, size, size)
  total += 2 * sum(style) - sum(style[:1])
  total += 3 * render(model, size, size)
  if isinstance(model, AdaConv):
    side = size // STRIDE
    # Of the two convolutions of the operation, only the spatial one comes first.
    first = conv(
      SCALES[0][0], SCALES[0][0], side, side, k=model.kernel_size, groups=model.groups[0]
    )
  else:
    first = _decoder_layers(size, size)[0]
  return total - first
