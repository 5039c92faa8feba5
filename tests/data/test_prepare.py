"""The images of a run: listed once, and held out by name."""

import pytest
from small_runs import write_images

from adaconv_jax.data.prepare import prepare_images


def prepare(folder, workdir, **changed):
  settings = {"min_size": 64, "heldout": 2, "names": "", "seed": 0} | changed
  return prepare_images(workdir, "style", str(folder / "style"), **settings)


def names_of(images):
  return [images[index][0] for index in range(len(images))]


def test_listed_images_are_never_trained_on_even_when_the_run_resumes(tmp_path):
  write_images(tmp_path)
  names = tmp_path / "names.txt"
  names.write_text("4.png\n1.png\n")
  for _ in range(2):
    train, heldout = prepare(tmp_path, tmp_path / "run", names=str(names), heldout=1)
    assert names_of(train) == ["0.png", "2.png", "3.png"]
    assert names_of(heldout) == ["4.png", "1.png"]
  train, heldout = prepare(tmp_path, tmp_path / "run", heldout=0)  # as the run has begun
  assert len(train) == 3 and len(heldout) == 2
  names.write_text("4.png\n2.png\n")
  with pytest.raises(ValueError, match=r"heldout_style_names: .*run .* other .* another --workdir"):
    prepare(tmp_path, tmp_path / "run", names=str(names))
  with pytest.raises(FileNotFoundError, match="nowhere"):
    prepare(tmp_path, tmp_path / "run", names="nowhere.txt")


def test_a_folder_of_images_is_no_workdir(tmp_path):
  write_images(tmp_path)
  with pytest.raises(ValueError, match=r"workdir: expected another folder than config.data.style"):
    prepare(tmp_path, tmp_path / "style")


def test_number_of_held_out_images_may_be_zero(tmp_path):
  write_images(tmp_path)
  train, heldout = prepare(tmp_path, tmp_path / "run", heldout=0)
  assert len(train) == 5 and len(heldout) == 0
