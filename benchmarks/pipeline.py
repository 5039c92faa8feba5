"""Row 9: the input pipeline alone, beside the rate that training needs."""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from adaconv_jax.data.batches import CropSpec, make_batches
from adaconv_jax.data.manifest import Images, scan
from adaconv_jax.data.sources import open_source
from adaconv_jax.images import find_images
from benchmarks.report import Line

ROOT = Path(__file__).parents[1]
PHOTO = (640, 480)  # of MS-COCO
PHOTOS = 48
BATCH_SIZE = 8
CROP = CropSpec(512, 256)  # as in configs/
# Workers prefetch batches; these are drawn first, and enough batches after them are timed.
SKIPPED_BATCHES = 6


def lines(training: Sequence[Line], *, quick: bool) -> list[Line]:
  """Measures images per second for 0, 1 and 2 workers.

  Args:
    training: the lines of row 6; the fastest one sets the rate that training needs.
    quick: draw fewer batches.
  """
  eaten = max((2 * line.rate for line in training if line.rate), default=None)
  with tempfile.TemporaryDirectory() as folder:
    content, style = (_photos(Path(folder), role) for role in ("content", "style"))
    found = []
    for workers in (0, 1, 2):
      rate = _rate(content, style, workers, 8 if quick else 24)
      note = f"{rate:.3g} images/s"
      if workers:
        note += f", {rate / workers:.3g} per worker"
      if eaten:
        note += f"; training (row 6) needs {eaten:.3g} images/s"
      who = f"{workers} worker{'s' * (workers > 1)}" if workers else "threads of the process"
      found.append(
        Line(
          "9",
          f"input pipeline, {PHOTO[0]} x {PHOTO[1]} JPEGs, {who}",
          2 * BATCH_SIZE / rate,
          ratio=rate / eaten if eaten else None,
          target=1.0,
          rate=rate,
          note=f"time of a batch of {BATCH_SIZE} pairs; {note}",
        )
      )
  return found


def _photos(folder: Path, role: str) -> Images:
  """Writes the example images as photos of common size, each a little different."""
  (folder / role).mkdir()
  examples = find_images(ROOT / "examples" / role)
  for index in range(PHOTOS):
    image = Image.open(examples[index % len(examples)]).convert("RGB")
    margin = index // len(examples) * 4
    box = (margin, margin, image.width - margin, image.height - margin)
    photo = image.resize(PHOTO, Image.Resampling.BICUBIC, box)
    photo.save(folder / role / f"{index:03}.jpg", quality=90)
  source = open_source(str(folder / role), role=role)
  return Images(scan(source, role=role, min_size=256))


def _rate(content: Images, style: Images, workers: int, count: int) -> float:
  """Images per second of `count` batches."""
  with make_batches(
    content,
    style,
    content_crop=CROP,
    style_crop=CROP,
    batch_size=BATCH_SIZE,
    seed=0,
    num_workers=workers,
  ) as batches:
    for _ in range(SKIPPED_BATCHES):
      next(batches)
    start = time.perf_counter()
    for _ in range(count):
      next(batches)
    return 2 * BATCH_SIZE * count / (time.perf_counter() - start)
