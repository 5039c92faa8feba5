import collections
import itertools
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adaconv_jax.data import batches as data
from adaconv_jax.data.batches import CropSpec, make_batches
from adaconv_jax.data.heldout import heldout_batches
from adaconv_jax.data.manifest import Images, scan
from adaconv_jax.data.sources import open_source
from adaconv_jax.images import resize_shorter

# The shorter side of every image: resizing changes nothing, so a crop shows where it is from.
SIDE, CROP, STYLE_CROP = 64, 48, 32
CONTENT_COUNT, STYLE_COUNT = 7, 5
SIZES = [(64, 64), (100, 64), (64, 90)]


def map_image(width, height, number) -> np.ndarray:
  """Red is x, green is y, blue is the number of the image."""
  x, y = np.meshgrid(np.arange(width), np.arange(height))
  return np.stack([x, y, np.full_like(x, number)], -1).astype(np.uint8)


def images_in(folder) -> Images:
  source = open_source(str(folder), role=folder.name)
  return Images(scan(source, role=folder.name, min_size=8))


def make_images(folder, count, first_number) -> Images:
  folder.mkdir(parents=True)
  for number in range(first_number, first_number + count):
    image = map_image(*SIZES[number % len(SIZES)], number)
    Image.fromarray(image).save(folder / f"{number:03}.png")
  return images_in(folder)


@pytest.fixture(scope="module")
def content(tmp_path_factory) -> Images:
  return make_images(tmp_path_factory.mktemp("data") / "content", CONTENT_COUNT, 0)


@pytest.fixture(scope="module")
def style(tmp_path_factory) -> Images:
  return make_images(tmp_path_factory.mktemp("data") / "style", STYLE_COUNT, 100)


def take(count, content, style, **options) -> list[dict[str, np.ndarray]]:
  settings = {
    "content_crop": CropSpec(SIDE, CROP, flip=True),
    "style_crop": CropSpec(SIDE, STYLE_CROP),
    "batch_size": 4,
    "seed": 11,
  }
  with make_batches(content, style, **(settings | options)) as batches:
    return list(itertools.islice(batches, count))


def assert_same(batches, others):
  assert len(batches) == len(others)
  for batch, other in zip(batches, others, strict=True):
    assert batch.keys() == other.keys()
    for key in batch:
      np.testing.assert_array_equal(batch[key], other[key])


def assert_no_workers():
  for worker in multiprocessing.active_children():
    worker.join(60)  # On a busy machine Grain stops waiting and kills it.
  assert not multiprocessing.active_children()


def numbers(batches, key) -> list[int]:
  return [int(image[0, 0, 2]) for batch in batches for image in batch[key]]


def test_batches_are_uint8_crops_of_content_and_style(content, style):
  (batch,) = take(1, content, style)
  assert list(batch) == ["content", "style"]
  assert batch["content"].shape == (4, CROP, CROP, 3)
  assert batch["style"].shape == (4, STYLE_CROP, STYLE_CROP, 3)
  assert all(type(images) is np.ndarray and images.dtype == np.uint8 for images in batch.values())


def test_every_epoch_has_every_image_once_in_a_new_order(content, style):
  batches = take(5 * CONTENT_COUNT, content, style)
  for key, count, first in [("content", CONTENT_COUNT, 0), ("style", STYLE_COUNT, 100)]:
    seen = numbers(batches, key)
    epochs = [tuple(seen[i : i + count]) for i in range(0, len(seen), count)]
    assert all(sorted(epoch) == list(range(first, first + count)) for epoch in epochs)
    assert len(set(epochs)) > 0.8 * len(epochs)


def test_kept_style_crops_come_in_turns_and_are_numbered(content, style):
  batches = take(30, content, style, kept_style_crops=2)
  anew = take(30, content, style)
  for batch, other in zip(batches, anew, strict=True):
    assert batch.keys() == {"content", "style", "style_key"}
    np.testing.assert_array_equal(batch["content"], other["content"])
  crops = collections.defaultdict(list)
  for batch in batches:
    for image, key in zip(batch["style"], batch["style_key"].tolist(), strict=True):
      crops[key].append(image)
  assert sorted(crops) == list(range(2 * STYLE_COUNT))
  for key, images in crops.items():
    assert len(images) == 30 * 4 / (2 * STYLE_COUNT)
    assert all(np.array_equal(image, images[0]) for image in images)
    assert int(images[0][0, 0, 2]) == 100 + key // 2  # the number of the image
  assert any(not np.array_equal(crops[2 * i][0], crops[2 * i + 1][0]) for i in range(STYLE_COUNT))
  later = take(3, content, style, kept_style_crops=2, start_step=7, num_workers=1)
  assert_same(later, batches[7:10])


def test_batches_do_not_depend_on_the_number_of_workers(content, style):
  expected = take(5, content, style)
  for num_workers in (1, 2):
    batches = take(5, content, style, num_workers=num_workers)
    assert_same(batches, expected)
    # Not Grain's views of shared memory.
    assert all(type(batch[key]) is np.ndarray for batch in batches for key in batch)
    assert_no_workers()


@pytest.mark.parametrize("process_count", [2, 4])
def test_processes_together_have_the_batch_of_one(content, style, process_count):
  expected = take(6, content, style, batch_size=8)
  shards = [
    take(6, content, style, batch_size=8 // process_count, process_index=i,
         process_count=process_count)
    for i in range(process_count)
  ]  # fmt: skip
  together = [
    {key: np.concatenate([shard[key] for shard in step]) for key in step[0]}
    for step in zip(*shards, strict=True)
  ]
  assert_same(together, expected)


@pytest.mark.parametrize("start_step", [1, 3, 10])
def test_a_start_at_a_later_step_continues_the_unbroken_sequence(content, style, start_step):
  unbroken = take(13, content, style)
  assert_same(take(13 - start_step, content, style, start_step=start_step), unbroken[start_step:])


@pytest.mark.slow
def test_a_run_can_continue_with_other_process_and_worker_counts(content, style):
  unbroken = take(6, content, style, batch_size=4)
  second = take(
    3, content, style, batch_size=2, start_step=3, process_index=1, process_count=2, num_workers=1
  )
  assert_same(second, [{key: b[key][2:] for key in b} for b in unbroken[3:]])


def test_a_run_that_starts_far_along_is_ready_at_once(content, style):
  assert len(take(1, content, style, start_step=10**9)) == 1


def test_seeds_give_different_orders_and_crops(content, style):
  one, two = take(4, content, style, seed=1), take(4, content, style, seed=2)
  for key in ("content", "style"):
    assert numbers(one, key) != numbers(two, key)


def test_content_and_style_are_drawn_independently(content, style):
  pairs = take(1750, content, content, batch_size=1, content_crop=CropSpec(8, 8),
               style_crop=CropSpec(8, 8), seed=5)  # fmt: skip
  counts = collections.Counter(zip(numbers(pairs, "content"), numbers(pairs, "style"), strict=True))
  # 250 epochs, 49 pairs, 36 expected of each. The sum is chi-squared with 36 degrees of freedom;
  # above 68 in one of 1000 seeds.
  expected = 1750 / CONTENT_COUNT**2
  each = [counts[c, s] for c in range(CONTENT_COUNT) for s in range(CONTENT_COUNT)]
  assert sum((count - expected) ** 2 / expected for count in each) < 68


def test_content_batches_do_not_change_with_the_style_set(content, style):
  for other in (content, style):
    batches = take(4, content, other)
    np.testing.assert_array_equal(
      [batch["content"] for batch in batches],
      [batch["content"] for batch in take(4, content, style)],
    )


def place(image) -> tuple[int, int, bool]:
  """Left, top and whether it is flipped; fails unless the crop is an exact piece of its image."""
  flipped = int(image[0, 1, 0]) < int(image[0, 0, 0])
  upright = image[:, ::-1] if flipped else image
  left, top, number = (int(value) for value in upright[0, 0])
  size = len(image)
  whole = map_image(*SIZES[number % len(SIZES)], number)
  np.testing.assert_array_equal(upright, whole[top : top + size, left : left + size])
  return left, top, flipped


def test_crops_are_pieces_of_the_image_from_all_places(content, style):
  batches = take(250, content, style)
  for key, crop in [("content", CROP), ("style", STYLE_CROP)]:
    lefts, tops = collections.defaultdict(list), collections.defaultdict(list)
    for image in (image for batch in batches for image in batch[key]):
      left, top, _ = place(image)
      kind = int(image[0, 0, 2]) % len(SIZES)
      lefts[kind].append(left)
      tops[kind].append(top)
    for kind, (width, height) in enumerate(SIZES):
      assert set(lefts[kind]) >= {0, width - crop}
      assert set(tops[kind]) >= {0, height - crop}
      assert abs(np.mean(lefts[kind]) - (width - crop) / 2) < 0.1 * (width - crop)


def test_half_of_the_content_is_flipped_and_no_style(content, style):
  batches = take(100, content, style)
  flipped = [place(image)[2] for batch in batches for image in batch["content"]]
  assert 150 < sum(flipped) < 250  # of 400: five standard deviations
  assert not any(place(image)[2] for batch in batches for image in batch["style"])


@pytest.mark.parametrize(
  ("size", "resize", "crop"),
  [((100, 60), 97, 64), ((60, 100), 30, 30), ((333, 150), 151, 80), ((882, 2784), 43, 29)],
)
def test_crops_have_the_pixels_of_the_resized_image(tmp_path, size, resize, crop):
  smooth = np.random.default_rng(0).integers(0, 256, (7, 9, 3), np.uint8)
  image = Image.fromarray(smooth).resize(size, Image.Resampling.BICUBIC)
  image.save(tmp_path / "one.png")
  whole = np.asarray(resize_shorter(image, resize)).astype(int)
  rows, columns = whole.shape[0] - crop + 1, whole.shape[1] - crop + 1
  example = images_in(tmp_path)[0]
  for seed in range(5):
    rng = np.random.default_rng(seed)
    left, top = rng.integers(columns), rng.integers(rows)
    piece = data._cut(example, np.random.default_rng(seed), spec=CropSpec(resize, crop))
    # One of 255 levels: the two ways round differently.
    expected = whole[top : top + crop, left : left + crop]
    np.testing.assert_allclose(piece.astype(int), expected, atol=1)


def test_large_jpegs_are_decoded_at_a_resolution_that_keeps_the_details(tmp_path):
  # 8 pixels per spot, which a quarter of the resolution blurs: the mean difference is then 4.
  spots = np.random.default_rng(0).integers(0, 256, (100, 125, 3), np.uint8)
  image = Image.fromarray(spots).resize((1000, 800), Image.Resampling.BICUBIC)
  image.save(tmp_path / "one.jpg", quality=95, subsampling=0)
  piece = data._cut(
    images_in(tmp_path)[0], np.random.default_rng(0), spec=CropSpec(resize=300, crop=300)
  )
  left = int(np.random.default_rng(0).integers(375 - 300 + 1))
  expected = np.asarray(resize_shorter(image, 300))[:, left : left + 300]
  assert np.abs(piece.astype(int) - expected).mean() < 2


def test_one_image_is_enough_for_a_batch(content, tmp_path):
  one = make_images(tmp_path / "style", 1, 3)
  batches = take(3, content, one, batch_size=8)
  assert numbers(batches, "style") == [3] * 24
  assert len({place(image) for batch in batches for image in batch["style"]}) > 1


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_image_that_changed_during_the_run_stops_it_by_name(content, tmp_path, num_workers):
  one = make_images(tmp_path / "style", 1, 0)
  file = tmp_path / "style" / "000.png"
  file.write_bytes(file.read_bytes() + b"more")
  with pytest.raises(ValueError, match="style: 000.png in .* bytes"):
    take(1, content, one, num_workers=num_workers)
  assert_no_workers()


def test_closed_batches_say_so_and_close_again(content, style):
  batches = make_batches(
    content, style, content_crop=CropSpec(8, 8), style_crop=CropSpec(8, 8), batch_size=1, seed=0
  )
  next(batches)
  batches.close()
  batches.close()
  with pytest.raises(ValueError, match="closed"):
    next(batches)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
    ({"seed": -1}, "seed: expected at least 0, got -1"),
    ({"start_step": -1}, "start_step: expected at least 0, got -1"),
    ({"num_workers": -1}, "num_workers: expected at least 0, got -1"),
    ({"process_index": 2, "process_count": 2}, "process_index: expected 0 to .* = 1, got 2"),
  ],
)
def test_numbers_out_of_range_are_errors_that_name_them(content, style, options, message):
  with pytest.raises(ValueError, match=message):
    take(1, content, style, **options)


@pytest.mark.parametrize(("resize", "crop"), [(64, 65), (64, 0)])
def test_a_crop_larger_than_the_resized_image_is_an_error(resize, crop):
  with pytest.raises(ValueError, match=f"crop: expected 1 to {resize} .* got {crop}"):
    CropSpec(resize, crop)


SCRIPT = """
  import os, pickle, signal, sys, time
  from adaconv_jax.data.batches import CropSpec, make_batches

  if __name__ == "__main__":
    images = pickle.loads(bytes.fromhex(sys.argv[2]))
    crop = CropSpec(16, 16)
    batches = make_batches(
      images, images, content_crop=crop, style_crop=crop, batch_size=1, seed=0, num_workers=1
    )
    next(batches)
    if sys.argv[1] == "kill":
      print("killed", flush=True)
      os.kill(os.getpid(), signal.SIGKILL)
    # As Ctrl-C and schedulers do: to the whole process group.
    for number in (signal.SIGINT, signal.SIGTERM):
      signal.signal(number, lambda *_: None)
      os.killpg(0, number)
    time.sleep(0.2)
    for _ in range(10):
      next(batches)
    print("still fed")
"""


def run_script(tmp_path, content, how) -> tuple[str, str, int]:
  """Returns what the program and its worker wrote, and its exit code."""
  script = tmp_path / "script.py"
  script.write_text(textwrap.dedent(SCRIPT))
  process = subprocess.Popen(
    [sys.executable, str(script), how, pickle.dumps(content).hex()],
    env={"PYTHONPATH": str(Path(data.__file__).parents[2])},
    start_new_session=True,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  try:
    process.wait(timeout=600)  # Two imports of Grain can take long on a busy machine.
    # The worker holds the pipes open too: they end when it is gone.
    out, error = process.communicate(timeout=60)
  except subprocess.TimeoutExpired:
    os.killpg(process.pid, signal.SIGKILL)
    raise
  return out, error, process.returncode


def test_workers_end_when_their_parent_is_killed(tmp_path, content):
  assert run_script(tmp_path, content, "kill")[0] == "killed\n"


@pytest.mark.slow
def test_workers_outlive_signals_to_the_group_and_end_quietly_with_the_program(tmp_path, content):
  assert run_script(tmp_path, content, "signals") == ("still fed\n", "", 0)


def heldout(content, style, **options) -> list[dict[str, np.ndarray]]:
  crops = {
    "content_crop": CropSpec(SIDE, CROP, flip=True),
    "style_crop": CropSpec(SIDE, STYLE_CROP),
  }
  return heldout_batches(content, style, **crops, **options)


def test_heldout_pairs_have_every_image_cut_from_the_middle_and_fillings_weigh_nothing(
  content, style
):
  batches = heldout(content, style, batch_size=4)
  assert len(batches) == 2
  joined = {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}
  assert joined["weight"].tolist() == [1] * CONTENT_COUNT + [0]
  for role, crop, numbers in (
    ("content", CROP, [0, 1, 2, 3, 4, 5, 6, 0]),
    ("style", STYLE_CROP, [100, 101, 102, 103, 104, 100, 101, 100]),
  ):
    for image, number in zip(joined[role], numbers, strict=True):
      width, height = SIZES[number % len(SIZES)]
      top, left = (height - crop) // 2, (width - crop) // 2
      expected = map_image(width, height, number)[top : top + crop, left : left + crop]
      np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("process_count", [2, 4])
def test_heldout_batches_of_processes_together_are_those_of_one(content, style, process_count):
  parts = [
    heldout(
      content, style, batch_size=4 // process_count, process_index=i, process_count=process_count
    )
    for i in range(process_count)
  ]
  together = [
    {key: np.concatenate([part[key] for part in step]) for key in step[0]}
    for step in zip(*parts, strict=True)
  ]
  assert_same(together, heldout(content, style, batch_size=4))
