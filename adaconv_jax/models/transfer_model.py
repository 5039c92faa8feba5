"""What the rest of the package asks of a model's trained part, whichever transform it has."""

from typing import Any, ClassVar, Protocol, TypeAlias

import jax

from adaconv_jax.models.style_code import StyleCode
from adaconv_jax.ops.adain import ChannelStats
from adaconv_jax.ops.extent import Extent

Params: TypeAlias = Any  # a pytree of arrays


class TransferModel(Protocol):
  """A Flax module such as `AdaIN` or `AdaConv`, which runs on relu4_1 of contents and styles.

  `Stylizer` and the training step call the methods through `apply`. One that a model does not need
  an argument of ignores it.

  Attributes:
    transform: its name in configs and files.
    slow_params: patterns of the paths of parameters that `config.optimizer.style_rate` slows, as
      "predictors_*/spatial/*" for `fnmatch`.
    style_size: height and width to which styles are resized; None for any size.
    kernel_size: of the largest kernel that a style brings to a scale of the decoder; 0 for none.
    needs_scale_stats: whether `decode_scale` takes the statistics of the whole feature map.
    alpha_needs_own_style: whether alpha blends the style's code with that of the content taken as
      its own style; else `content_target` blends.
  """

  transform: ClassVar[str]
  slow_params: ClassVar[tuple[str, ...]]
  needs_scale_stats: ClassVar[bool]
  alpha_needs_own_style: ClassVar[bool]

  @property
  def style_size(self) -> int | None: ...  # noqa: D102
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
  ) -> jax.Array:
    """What enters the decoder, and what the output's relu4_1 is trained to equal.

    Args:
      content_features: relu4_1 of the contents, `[n, h, w, 512]`.
      code: of n styles, or of one for all contents.
      alpha: 0 (content) to 1 (style).
      where: the valid pixels, boolean `[h, w, 1]`; None: all.
    """
    ...

  def decode(self, target: jax.Array, code: StyleCode) -> jax.Array:
    """Decodes `[n, h, w, 512]` to RGB `[n, 8 h, 8 w, 3]`."""
    ...

  def decode_scale(
    self,
    scale: int,
    features: jax.Array,
    code: StyleCode,
    stats: ChannelStats | None = None,
    extent: Extent | None = None,
  ) -> jax.Array:
    """Runs one scale of the decoder.

    Args:
      scale: 0 (coarse) to 3.
      features: `[n, h, w, c]`, what enters the scale, or some rows of it.
      code: of n styles, or of one for all contents.
      stats: statistics of the whole feature map, where `features` are some rows of it and
        `needs_scale_stats`.
      extent: the valid region of `features`; None: all.

    Returns:
      `[n, h, w, c']` for scale 0, `[n, 2 h, 2 w, c']` for the others.
    """
    ...

  def init(self, rngs: Any, *args: Any, **kwargs: Any) -> Any:
    """Flax's: initializes the parameters with relu4_1 of contents and of styles."""
    ...

  def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
    """Flax's: calls a method with parameters."""
    ...
