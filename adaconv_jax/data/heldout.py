"""Held-out images: squares for sample grids, and batches for the held-out losses."""

import numpy as np
from PIL import Image

from adaconv_jax.data.batches import BROKEN, CropSpec
from adaconv_jax.data.manifest import Images
from adaconv_jax.images import decode_square, to_float


def load_images(images: Images, size: int, at_most: int, *, replace: bool = False) -> np.ndarray:
  """Loads images for sample grids: scales the shorter side to `size`, crops the central square.

  Args:
    images: such as the held-out ones.
    size: in pixels.
    at_most: number of images to load at most, from the first on.
    replace: take the next image instead of one that is missing, changed or unreadable, as among
      training images.

  Returns:
    `[k, size, size, 3]`, RGB float32 in [0, 1].

  Raises:
    ValueError, OSError: an image is missing, has changed or is unreadable.
  """
  squares: list[np.ndarray] = []
  for index in range(len(images)):
    if len(squares) == at_most:
      break
    try:
      squares.append(to_float(_middle(images[index], CropSpec(size, size))))
    except BROKEN:
      if not replace:
        raise
  return np.stack(squares) if squares else np.zeros((0, size, size, 3), np.float32)


def heldout_batches(
  content: Images,
  style: Images,
  *,
  content_crop: CropSpec,
  style_crop: CropSpec,
  batch_size: int,
  process_index: int = 0,
  process_count: int = 1,
) -> list[dict[str, np.ndarray]]:
  """Makes this process's batches for the held-out losses, always the same ones.

  Pair i consists of content i and style i, modulo their numbers, so every image is in a pair. Crops
  are central, and nothing is flipped. Pairs are repeated to fill the last batch.

  Args:
    content: the held-out contents.
    style: the held-out styles.
    content_crop: how contents are cut.
    style_crop: how styles are cut.
    batch_size: pairs per batch of this process.
    process_index: index of this process among those (hosts) that train together.
    process_count: their number.

  Returns:
    Batches like those of `make_batches`, each with a "weight" `[batch_size]`: 1, or 0 for a
    repeated pair.

  Raises:
    ValueError: there are no contents or no styles; an image can no longer be decoded.
  """
  for role, images in (("content", content), ("style", style)):
    if not len(images):
      raise ValueError(
        f"config.data.heldout_{role}: expected some images for the losses of "
        "config.eval_every_steps, got none"
      )
  pairs, total = max(len(content), len(style)), batch_size * process_count
  batches = []
  for first in range(process_index * batch_size, -(-pairs // total) * total, total):
    mine = range(first, first + batch_size)
    batch = {
      role: np.stack([np.asarray(_middle(images[i % pairs % len(images)], crop)) for i in mine])
      for role, images, crop in (("content", content, content_crop), ("style", style, style_crop))
    }
    batches.append(batch | {"weight": np.asarray([i < pairs for i in mine], np.float32)})
  return batches


def _middle(example: tuple[str, bytes], spec: CropSpec) -> Image.Image:
  """Decodes an image, scales it as `spec` says, and crops the central square."""
  name, data = example
  return decode_square(data, name=name, size=spec.crop, shorter=spec.resize)
