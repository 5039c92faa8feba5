"""What an exported file computes, beside what JAX computes of the same pictures."""

from collections.abc import Callable, Sequence

import jax
import numpy as np
from PIL import Image

from adaconv_jax import images, stages
from adaconv_jax.files import EXAMPLES
from adaconv_jax.models.stylizer import Stylizer

# Levels of 255 that a file may differ by at most, in any pixel.
LIMIT = 2.0
ALPHAS = (0.0, 0.5, 1.0)
# Names of a content and a style of the examples, and their heights and widths; most are no
# multiples of 8.
PAIRS = (
  (("cat", (144, 192)), ("night", (128, 96))),
  (("astronaut", (101, 75)), ("mosaic", (57, 80))),
  (("palace", (67, 130)), ("woodblock", (150, 149))),
)

# Stylizes a content in a style with a strength: `[1, h, w, 3]` twice, `[]`, to `[1, h, w, 3]`.
Run = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def pairs(size: tuple[int, int] | None = None) -> list[tuple[np.ndarray, np.ndarray]]:
  """Returns three contents and styles, each `[1, h, w, 3]`, of their own sizes or of one."""

  def picture(role: str, name: str, own: tuple[int, int]) -> np.ndarray:
    height, width = size or own
    path = EXAMPLES / role / f"{name}.jpg"
    whole = images.decode(images.read_file(path), name=str(path))
    return images.to_float(whole.resize((width, height), Image.Resampling.LANCZOS))[None]

  return [(picture("content", *content), picture("style", *style)) for content, style in PAIRS]


def largest_difference(
  run: Run, stylizer: Stylizer, tried: Sequence[tuple[np.ndarray, np.ndarray]]
) -> float:
  """Returns the largest difference from `stylizer`, in levels of 255; NaN if there is one.

  Args:
    run: what is compared.
    stylizer: what it should compute.
    tried: contents and styles, `[1, h, w, 3]`; each is stylized with all `ALPHAS`.
  """
  largest = 0.0
  for content, style in tried:
    code = stages.encode(stylizer, style)
    for alpha in ALPHAS:
      strength = np.asarray(alpha, np.float32)
      # As an array, so that one program is compiled for all strengths.
      ours = stages.render(stylizer, content, code, jax.device_put(strength))
      difference = np.abs(np.asarray(run(content, style, strength)) - np.asarray(ours)).max()
      largest = float(np.maximum(largest, 255 * difference))  # which keeps NaN
  return largest


def check(difference: float, name: str) -> None:
  """Raises ValueError, if a difference is above the limit."""
  if not difference <= LIMIT:
    raise ValueError(
      f"{name}: not written, because it differs from JAX by {difference:.3g} of 255 levels, and "
      f"{LIMIT:g} are allowed; another --dtype or version of the runtime may help"
    )
