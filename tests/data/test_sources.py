import dataclasses
import io
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from buckets import emulator, in_environment
from PIL import Image

from adaconv_jax.data import sources
from adaconv_jax.data.manifest import Images, scan
from adaconv_jax.data.pack import Settings, pack
from adaconv_jax.data.sources import open_source
from adaconv_jax.files import expand


def encode(width, height, *, kind="PNG", seed=0) -> bytes:
  pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, kind)
  return file.getvalue()


def test_folder_gives_names_and_bytes_of_all_subfolders_in_sorted_order(tmp_path):
  names = ["a.png", "b/deep/c.PNG", "b/Überraschung 日本.jpg", "z.jpeg"]
  for index, name in reversed(list(enumerate(names))):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(bytes([index] * (index + 1)))
  (tmp_path / "b" / "notes.txt").write_text("not an image")
  source = open_source(str(tmp_path), role="content")
  assert list(source.names) == names
  for index, name in enumerate(names):
    assert source[index] == (name, bytes([index] * (index + 1)))
    assert source.size(index) == index + 1


@pytest.mark.parametrize(
  ("spec", "problem"),
  [("missing", "does not exist"), ("file.png", "is not a folder"), ("empty", "no image files in")],
)
def test_a_folder_without_images_is_an_error_that_names_argument_and_folder(
  tmp_path, spec, problem
):
  (tmp_path / "empty").mkdir()
  (tmp_path / "file.png").write_bytes(encode(40, 40))
  with pytest.raises(ValueError, match=rf"^config.data.style: .*{spec}") as error:
    open_source(str(tmp_path / spec), role="style")
  assert problem in str(error.value)


def test_a_folder_that_cannot_be_read_is_named_and_no_file_in_it(tmp_path, monkeypatch):
  def refused(folder):
    raise PermissionError(13, "Permission denied", str(folder / "packed.json"))

  monkeypatch.setattr(sources, "is_packed", refused)
  with pytest.raises(ValueError, match=r"^config.data.style: .*cannot be read \(Permis") as error:
    open_source(str(tmp_path), role="style")
  assert "packed.json" not in str(error.value)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  pytest.importorskip("importlib_resources", reason="TFDS writes with it but does not require it")
  import tensorflow_datasets as tfds

  root = tmp_path_factory.mktemp("tfds")
  encoded = {"train": [encode(40, 32 + i, kind="JPEG", seed=i) for i in range(10)]}
  encoded["validation"] = [encode(16, 16), encode(50, 50)]

  image_features = {"2017": ["image", "mask"], "photo": ["photo"], "pair": ["left", "right"]}

  class TinyPhotos(tfds.core.GeneratorBasedBuilder):
    BUILDER_CONFIGS = [
      tfds.core.BuilderConfig(name=name, version="1.1.0") for name in image_features
    ]

    def _info(self):
      features = dict.fromkeys(self._keys(), tfds.features.Image(shape=(None, None, 3)))
      label = tfds.features.ClassLabel(num_classes=3)
      objects = tfds.features.Sequence({"bbox": tfds.features.BBoxFeature(), "label": label})
      features |= {"image/id": np.int64, "objects": objects}
      return tfds.core.DatasetInfo(
        builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
      )

    def _keys(self):
      assert self.builder_config is not None
      return image_features[self.builder_config.name]

    def _split_generators(self, dl_manager):
      return {split: self._generate_examples(split) for split in encoded}

    def _generate_examples(self, split):  # pyright: ignore[reportIncompatibleMethodOverride]
      first, *others = self._keys()
      for index, data in enumerate(encoded[split]):
        images = {first: data} | dict.fromkeys(others, encode(4, 4))
        yield index, images | {"image/id": index, "objects": []}

  for name in image_features:
    TinyPhotos(config=name, data_dir=str(root), file_format="array_record").download_and_prepare()
  tfds.core.add_data_dir(root)
  return root / "tiny_photos" / "2017" / "1.1.0", encoded


def test_records_are_the_encoded_images_and_tensorflow_is_not_imported(prepared):
  directory, encoded = prepared
  source = open_source(f"tfds:{directory}", role="content")
  assert [source[index][1] for index in range(len(source))] == encoded["train"]
  assert list(source.names) == [f"train#{index}" for index in range(10)]
  assert "tensorflow" not in sys.modules


def test_a_single_image_feature_may_have_any_name_but_a_choice_is_an_error(prepared):
  source = open_source("tfds:tiny_photos/photo:1.1.0", role="content")
  assert source[3][1] == prepared[1]["train"][3]
  with pytest.raises(
    ValueError, match=r"content: .*expected a feature 'image' or .* got \['left', 'right'\]"
  ):
    open_source("tfds:tiny_photos/pair:1.1.0", role="content")


@pytest.mark.parametrize("where", ["{directory}", "tiny_photos/2017:1.1.0", "tiny_photos/2017"])
@pytest.mark.parametrize(
  ("split", "expected"),
  [
    ("", range(10)),
    (":train", range(10)),
    (":validation", [10, 11]),
    (":train[:90%]", range(9)),
    (":train[2:-5]", range(2, 5)),
    (":validation+train[80%:]", [10, 11, 8, 9]),
    (":train[:10%]+validation[1:]", [0, 11]),
  ],
)
def test_sets_open_by_directory_and_by_name_with_any_split(prepared, where, split, expected):
  directory, encoded = prepared
  source = open_source(f"tfds:{where.format(directory=directory)}{split}", role="content")
  every = encoded["train"] + encoded["validation"]
  assert [source[index][1] for index in range(len(source))] == [every[i] for i in expected]


def test_a_directory_with_colons_is_not_taken_for_a_split(prepared, tmp_path):
  directory, _ = prepared
  (tmp_path / "photos:train").symlink_to(directory)
  assert len(open_source(f"tfds:{tmp_path}/photos:train", role="content")) == 10
  source = open_source(f"tfds:{tmp_path}/photos:train:validation", role="content")
  assert len(source) == 2


def test_a_set_that_was_changed_since_it_was_packed_is_noticed(prepared, tmp_path):
  where, packed = tmp_path / "photos", tmp_path / "packed"
  shutil.copytree(prepared[0], where)
  assert pack(open_source(f"tfds:{where}", role="content"), packed, Settings()).images == 10
  (shard,) = where.glob("*train*.array_record*")
  os.utime(shard, ns=(0, 0))  # as after copying the set
  assert pack(open_source(f"tfds:{where}", role="content"), packed, Settings()).kept == 10
  reader = ArrayRecordReader(str(shard))
  first, second, *others = reader.read_all()
  reader.close()
  writer = ArrayRecordWriter(str(shard), "group_size:1")
  for record in (second, first, *others):
    writer.write(record)
  writer.close()
  with pytest.raises(ValueError, match=r"an image from train#0 to train#9 was changed since then"):
    pack(open_source(f"tfds:{where}", role="content"), packed, Settings())


def test_scan_and_images_work_as_for_folders(prepared):
  directory, encoded = prepared
  source = open_source(f"tfds:{directory}:validation+train[:2]", role="style")
  manifest = scan(source, role="style", min_size=32)
  assert [reason.split(" (")[0] for _, reason in manifest.skipped] == ["too small"]
  images = pickle.loads(pickle.dumps(Images(manifest)))
  expected = [encoded["validation"][1], *encoded["train"][:2]]
  assert [images[index][1] for index in range(len(images))] == expected
  shorter = dataclasses.replace(manifest, spec=f"tfds:{directory}:validation")
  with pytest.raises(ValueError, match="style: 3 of 3 images are missing"):
    Images(shorter)
  name, size = manifest.kept[0]
  other = dataclasses.replace(manifest, kept=((name, size + 1),))
  with pytest.raises(ValueError, match=f"style: {name.replace('+', '.').split('[')[0]}.* bytes"):
    Images(other)[0]


@pytest.mark.parametrize(
  ("spec", "message"),
  [
    ("{directory}:test", r"split 'test' .*Unknown split"),
    ("{directory}:train[:90%", r"split 'train\[:90%' .*[Ee]rror parsing"),
    ("{directory}:train[5:100]", r"split 'train\[5:100\]' .*incompatible with 10 examples"),
    ("{directory}/..", r"no dataset_info.json; did you mean .*1\.1\.0\?"),
    ("/no/such/folder:train", "'/no/such/folder' does not exist"),
    (
      "tiny_photos/2017:9.0.0:train",
      r"no prepared TFDS data set 'tiny_photos/2017:9\.0\.0'.*tfds build",
    ),
    ("no_such_set", "no prepared TFDS data set 'no_such_set'.*tfds build no_such_set"),
    ("", "expected tfds:DIR"),
  ],
)
def test_what_cannot_be_opened_is_an_error_that_says_why(prepared, spec, message):
  with pytest.raises(ValueError, match=rf"(?s)^config.data.content: .*{message}"):
    open_source(f"tfds:{spec.format(directory=prepared[0])}", role="content")


def test_a_set_in_tfrecord_format_is_an_error_with_the_way_out(prepared, tmp_path):
  text = (prepared[0] / "dataset_info.json").read_text()
  assert '"array_record"' in text
  copy = text.replace('"array_record"', '"tfrecord"').replace(".{FILEFORMAT}", ".tfrecord")
  (tmp_path / "dataset_info.json").write_text(copy)
  (tmp_path / "features.json").write_bytes((prepared[0] / "features.json").read_bytes())
  with pytest.raises(ValueError, match="content: .*tfrecord.*file_format='array_record'"):
    open_source(f"tfds:{tmp_path}:train", role="content")


def test_a_data_set_in_a_bucket_is_read_as_one_on_a_disk(prepared):
  directory, encoded = prepared
  program = (
    "import sys; from adaconv_jax.data.sources import open_source\n"
    "source = open_source(sys.argv[1], role='content')\n"
    "print(source.names[0], [len(source[index][1]) for index in range(len(source))])\n"
    "print('tensorflow' in sys.modules)\n"
  )
  with emulator() as bucket, in_environment(bucket):
    for path in directory.rglob("*"):
      if path.is_file():
        target = expand("gs://runs/photos/1.1.0") / path.relative_to(directory).as_posix()
        target.write_bytes(path.read_bytes())
    # array_record's client holds the interpreter lock, which the emulator's thread needs.
    done = subprocess.run(
      [sys.executable, "-c", program, "tfds:gs://runs/photos/1.1.0:train[:4]"],
      env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
      capture_output=True, text=True, timeout=60,
    )  # fmt: skip
  lengths = [len(data) for data in encoded["train"][:4]]
  assert done.stdout.splitlines() == [f"train[:4]#0 {lengths}", "False"], done.stderr
