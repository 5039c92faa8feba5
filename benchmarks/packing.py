"""Packing: images per second of packing and of reading, and how long a training's start takes.

    python -m benchmarks.packing [--count 20000] [--width 256] [--height 192] [--bucket gs://B/DIR]

Generates photos, packs them, and reads both with the input pipeline of a training, and the packed
set from a bucket, too. The emulator of the tests is one thread of Python, far slower than a bucket.
"""  # fmt: skip

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from adaconv_jax.data.batches import CropSpec, make_batches
from adaconv_jax.data.manifest import Images, scan
from adaconv_jax.data.sources import open_source
from adaconv_jax.files import expand, files_below
from adaconv_jax.images import find_images

ROOT = Path(__file__).parents[1]
DISTINCT = 400
BATCH_SIZE = 8


def write_photos(folder: Path, count: int, size: tuple[int, int]) -> None:
  """Writes `count` JPEGs, a few hundred of which differ, in folders of a thousand."""
  examples = [Image.open(path).convert("RGB") for path in find_images(ROOT / "examples/content")]
  files = []
  for index in range(min(count, DISTINCT)):
    image, margin = examples[index % len(examples)], index // len(examples)
    box = (margin, margin, image.width - margin, image.height - margin)
    path = folder / "first.jpg"
    image.resize(size, Image.Resampling.BICUBIC, box).save(path, quality=90)
    files.append(path.read_bytes())
    path.unlink()
  for index in range(count):
    path = folder / f"{index // 1000:03}" / f"{index:06}.jpg"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(files[index % len(files)])


def start(spec: str, min_size: int) -> tuple[Images, float]:
  """Lists the images as a new training does; returns the seconds, too."""
  began = time.perf_counter()
  images = Images(scan(open_source(spec, role="content"), role="content", min_size=min_size))
  return images, time.perf_counter() - began


def read(images: Images, crop: CropSpec, batches: int, workers: int) -> float:
  """Returns images per second of the input pipeline, contents and styles from one set."""
  with make_batches(
    images, images, content_crop=crop, style_crop=crop, batch_size=BATCH_SIZE, seed=0,
    num_workers=workers,
  ) as drawn:  # fmt: skip
    for _ in range(4):
      next(drawn)
    began = time.perf_counter()
    for _ in range(batches):
      next(drawn)
    return 2 * BATCH_SIZE * batches / (time.perf_counter() - began)


def pack_in_process(source: str, output: str, *options: str) -> tuple[float, float]:
  """Runs `adaconv pack`; returns its seconds and its peak of memory in MB."""
  began = time.perf_counter()
  command = [sys.executable, "-m", "adaconv_jax", "pack", f"--input={source}", f"--output={output}"]
  process = subprocess.Popen(
    [*command, *options], stdout=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": str(ROOT)}
  )
  _, status, usage = os.wait4(process.pid, 0)
  process.returncode = os.waitstatus_to_exitcode(status)
  if process.returncode:
    raise RuntimeError(f"adaconv pack failed with {process.returncode}")
  return time.perf_counter() - began, usage.ru_maxrss / 1024


def main() -> None:
  """Measures, and prints a line for each."""
  parser = argparse.ArgumentParser(description="Measures packing and reading of packed sets.")
  parser.add_argument("--count", type=int, default=20_000)
  parser.add_argument("--width", type=int, default=256)
  parser.add_argument("--height", type=int, default=192)
  parser.add_argument("--batches", type=int, default=60)
  parser.add_argument(
    "--bucket", help="a folder gs://BUCKET/FOLDER, to which the packed set is copied"
  )
  args = parser.parse_args()
  shorter = min(args.width, args.height)
  crop = CropSpec(shorter, shorter // 2)
  with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    (folder / "photos").mkdir()
    write_photos(folder / "photos", args.count, (args.width, args.height))
    print(f"{args.count} photos of {args.width} x {args.height}")
    for label, options in (
      ("kept byte for byte", []),
      (f"scaled to {shorter // 2}", [f"--size={shorter // 2}"]),
    ):
      output = folder / label.split()[0]
      seconds, memory = pack_in_process(str(folder / "photos"), str(output), *options)
      print(f"pack, {label}: {args.count / seconds:.0f} images/s, {memory:.0f} MB")
    specs = {"folder": str(folder / "photos"), "packed": str(folder / "kept")}
    if args.bucket:
      began = time.perf_counter()
      for file in files_below(folder / "kept"):
        (expand(args.bucket) / file).write_bytes((folder / "kept" / file).read_bytes())
      print(f"copied to the bucket in {time.perf_counter() - began:.1f} s")
      specs["bucket"] = args.bucket
    for label, spec in specs.items():
      images, seconds = start(spec, shorter)
      rates = [read(images, crop, args.batches, workers) for workers in (0, 1)]
      peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
      print(
        f"{label}: start {seconds:.2f} s, {rates[0]:.0f} images/s in threads, {rates[1]:.0f} with "
        f"one worker; peak so far {peak:.0f} MB"
      )


if __name__ == "__main__":
  main()
