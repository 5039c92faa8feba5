"""What the rest of the package requires of a model's trained part, for any transform."""

from typing import Any, ClassVar, Protocol, TypeAlias

import jax

from adaconv_jax.models.style_code import StyleCode
from adaconv_jax.ops.adain import ChannelStats
from adaconv_jax.ops.extent import UNPADDED, Borders

Params: TypeAlias = Any  # a pytree of arrays


class TransferModel(Protocol):
  """A Flax module such as `AdaIN` or `AdaConv`, which runs on relu4_1 of contents and styles.

  `Stylizer` and the training step call the methods through `apply`. A model ignores arguments that
  it does not need.

  Attributes:
    transform: its name in configs and files.
    slow_params: `fnmatch` patterns of the paths of parameters that `config.optimizer.style_rate`
      slows, such as "predictors_*/spatial/*".
    style_size: height and width to which styles are resized; None for any size.
    style_fit: how a style gets that size: "squeeze" resizes all of it, "crop" takes the middle
      square.
    kernel_size: of the largest kernel that a style has for a scale of the decoder; 0 for none.
    needs_scale_stats: whether `decode_scale` takes the statistics of the whole feature map.
    content_layers: VGG's layers of the content that the decoder is given besides its input, one for
      each of the scales 1 to 3, with the size of the scale's output; none for the published ones.
    extends: the transform with the same settings and a part of the parameters, from which a
      training may start; None for none.
    alpha_needs_own_style: whether alpha blends the style's code with that of the content taken as
      its own style; otherwise `content_target` blends, and returns the content's features at 0.
  """

  transform: ClassVar[str]
  slow_params: ClassVar[tuple[str, ...]]
  needs_scale_stats: ClassVar[bool]
  alpha_needs_own_style: ClassVar[bool]
  content_layers: ClassVar[tuple[str, ...]]
  extends: ClassVar[str | None]

  @property
  def style_size(self) -> int | None: ...  # noqa: D102
  @property
  def style_fit(self) -> str: ...  # noqa: D102
  @property
  def kernel_size(self) -> int: ...  # noqa: D102

  def encode_style(self, style_features: jax.Array, where: jax.Array | None = None) -> StyleCode:
    """Encodes relu4_1 of the styles, `[n, h, w, 512]`.

    Args:
      style_features: relu4_1.
      where: the valid pixels, boolean `[h, w, 1]`; None: all.
    """
    ...

  def content_target(
    self,
    content_features: jax.Array,
    code: StyleCode,
    alpha: float | jax.Array = 1.0,
    where: jax.Array | None = None,
    stats: ChannelStats | None = None,
  ) -> jax.Array:
    """Computes the input of the decoder, which the output's relu4_1 is trained to equal.

    Args:
      content_features: relu4_1 of the contents, `[n, h, w, 512]`.
      code: of n styles, or of one for all contents.
      alpha: 0 (content) to 1 (style), one number or `[n]`.
      where: the valid pixels, boolean `[h, w, 1]`; None: all.
      stats: of relu4_1 to normalize the contents with, for a model that normalizes them here; None:
        their own.
    """
    ...

  def decode(self, target: jax.Array, code: StyleCode) -> jax.Array:
    """Decodes `[n, h, w, 512]` to RGB `[n, 8 h, 8 w, 3]`.

    A model with `content_layers` takes a tuple of these maps as the third argument.
    """
    ...

  def decode_scale(
    self,
    scale: int,
    features: jax.Array,
    code: StyleCode,
    stats: ChannelStats | None = None,
    borders: Borders = UNPADDED,
  ) -> jax.Array:
    """Runs one scale of the decoder.

    Args:
      scale: 0 (coarse) to 3.
      features: `[n, h, w, c]`, the input of the scale, or some rows of it.
      code: of n styles, or of one for all contents.
      stats: what to normalize the features with, if `needs_scale_stats` is set: statistics of the
        whole feature map, of which `features` may be some rows, or of all frames of a video.
      borders: where the pictures end, if they do not fill `features`. `Decoder.decode_scale` takes
        them; a model's own 3x3 convolutions take `borders.mirror(features)`.

    A model with `content_layers` takes two more arguments at the scales 1 to 3: the rows of the
    layer for the scale, and the statistics of the whole layer.

    Returns:
      `[n, h, w, c']` for scale 0, `[n, 2 h, 2 w, c']` for the others.
    """
    ...

  def init(self, rngs: Any, *args: Any, **kwargs: Any) -> Any:
    """Flax's method: initializes the parameters with relu4_1 of contents and of styles."""
    ...

  def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
    """Flax's method: calls a method with parameters."""
    ...
