"""The images that are kept out of training: for sample grids, and batches for held-out losses."""

import numpy as np
from PIL import Image

from adaconv_jax.data.batches import CropSpec
from adaconv_jax.data.manifest import Images
from adaconv_jax.images import decode_square, to_float


def load_images(images: Images, size: int, at_most: int) -> np.ndarray:
  """Loads images for sample grids: shorter side to `size`, then the square in the middle.

  Args:
    images: such as the held-out ones.
    size: in pixels.
    at_most: the first ones are loaded, no more than so many.

  Returns:
    `[k, size, size, 3]`, RGB float32 in [0, 1].
  """
  squares = np.zeros((min(len(images), at_most), size, size, 3), np.float32)
  for index in range(len(squares)):
    squares[index] = to_float(_middle(images[index], CropSpec(size, size)))
  return squares


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
  """Makes the batches of this process on which the held-out losses are measured, always the same.

  Pair i is of content i and style i, counted around, so that every image is in a pair. Crops are
  from the middle, and nothing is flipped. Pairs are repeated to fill up the last batch.

  Args:
    content: the held-out contents.
    style: the held-out styles.
    content_crop: how contents are cut.
    style_crop: how styles are cut.
    batch_size: pairs per batch of this process.
    process_index: which of the processes (hosts) that train together this is.
    process_count: how many there are.

  Returns:
    As `make_batches` yields them, each with a "weight" `[batch_size]`: 1, or 0 for what fills up.

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
  """Decodes an image, scales it as `spec` says, and cuts the square in the middle."""
  name, data = example
  return decode_square(data, name=name, size=spec.crop, shorter=spec.resize)
