"""From the paths of a command line to pairs and the names of their outputs."""

import os
from pathlib import Path

import pytest

from adaconv_jax.cli.pairs import Picture, find_inputs, find_pictures, join, plan_pairs


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
  """Only names matter here, so that the files are empty."""
  for name in ("c/cat.jpg", "c/sub/dog.PNG", "c/.hidden.jpg", "c/notes.txt", "s/dots.jpg"):
    Path(tmp_path, name).parent.mkdir(parents=True, exist_ok=True)
    Path(tmp_path, name).touch()
  monkeypatch.chdir(tmp_path)
  return tmp_path


def plan(content, style, output, overwrite=False):
  contents, styles = find_pictures("--content", content), find_pictures("--style", style)
  pairs, kept = plan_pairs(contents, styles, output, overwrite=overwrite)
  return [pair.output.as_posix() for pair in pairs], [path.as_posix() for path in kept]


def test_folders_give_their_images_named_by_the_way_to_them():
  assert find_pictures("--content", ["c"]) == [
    Picture("cat", Path("c/cat.jpg")),
    Picture("sub_dog", Path("c/sub/dog.PNG")),
  ]


def test_a_file_that_is_named_twice_counts_once(folder):
  found = find_pictures("--content", ["c/cat.jpg", "c", "c/../c/cat.jpg", str(folder / "c")])
  assert [picture.path.as_posix() for picture in found] == ["c/cat.jpg", "c/sub/dog.PNG"]


def test_a_style_that_is_named_twice_counts_twice_where_each_has_its_own_weight(folder):
  given = ["s/dots.jpg", "s", str(folder / "s" / "dots.jpg")]
  contents, styles = find_inputs(["c", "c"], given, "out", repeated=True)
  assert [picture.name for picture in styles] == ["dots", "dots", "dots"]
  assert [picture.name for picture in contents] == ["cat", "sub_dog"]
  assert len(find_inputs(["c"], given, "out")[1]) == 1


def test_a_missing_file_is_left_to_whoever_reads_it():
  assert find_pictures("--content", ["no.jpg"]) == [Picture("no", Path("no.jpg"))]


def test_a_folder_without_images_is_named():
  Path("empty").mkdir()
  with pytest.raises(ValueError, match="--style: no image in empty; looked for .jpg"):
    find_pictures("--style", ["s", "empty"])


def test_all_pairs_are_named_by_content_and_style_content_by_content():
  Path("s/ink.png").touch()
  outputs, _ = plan(["c"], ["s"], "out")
  assert outputs == [
    "out/cat--dots.jpg",
    "out/cat--ink.jpg",
    "out/sub_dog--dots.png",
    "out/sub_dog--ink.png",
  ]


@pytest.mark.parametrize(
  ("content", "name"), [("a.gif", "a--dots.png"), ("a.webp", "a--dots.webp"), ("a", "a--dots.png")]
)
def test_the_format_is_that_of_the_content_but_no_palette(content, name):
  assert plan([content], ["s"], "out/")[0] == ["out/" + name]


def test_one_pair_goes_to_the_file_or_into_the_folder_that_is_named():
  Path("v1.5").mkdir()
  for output, expected in {
    "new.png": "new.png",
    "deep/er/new.JPG": "deep/er/new.JPG",
    "out": "out/cat--dots.jpg",
    "out.d/": "out.d/cat--dots.jpg",
    "v1.5": "v1.5/cat--dots.jpg",
  }.items():
    assert plan(["c/cat.jpg"], ["s"], output)[0] == [expected]


@pytest.mark.parametrize(
  ("content", "output", "message"),
  [
    ("c/cat.jpg", "new.heic", "expected a name that ends in .jpg, .*, or a folder .* new.heic"),
    ("c", "new.png", r"expected a folder for 2 pair\(s\), got the file name new.png"),
    ("c", "c/notes.txt", r"expected a folder for 2 pair\(s\), got the file name c/notes.txt"),
  ],
)
def test_an_output_that_does_not_fit_is_refused(content, output, message):
  with pytest.raises(ValueError, match="--output: " + message):
    plan([content], ["s"], output)


def test_two_pairs_never_have_one_output():
  Path("s/dots.png").touch()
  assert plan(["c/cat.jpg"], ["s"], "out")[0] == [
    "out/cat--dots_jpg.jpg",
    "out/cat--dots_png.jpg",
  ]


def test_an_existing_output_of_one_pair_needs_overwrite():
  Path("here.jpg").touch()
  with pytest.raises(ValueError, match="--output: here.jpg exists; --overwrite replaces it"):
    plan(["c/cat.jpg"], ["s"], "here.jpg")
  assert plan(["c/cat.jpg"], ["s"], "here.jpg", overwrite=True) == (["here.jpg"], [])


def test_existing_outputs_of_several_pairs_are_kept_without_overwrite():
  Path("out").mkdir()
  Path("out/cat--dots.jpg").touch()
  assert plan(["c"], ["s"], "out") == (["out/sub_dog--dots.png"], ["out/cat--dots.jpg"])
  both = ["out/cat--dots.jpg", "out/sub_dog--dots.png"]
  assert plan(["c"], ["s"], "out", overwrite=True) == (both, [])


@pytest.mark.parametrize("letter", ["x", "é", "漢", "\udcff"])
@pytest.mark.parametrize("lengths", [(120, 120), (240, 3), (3, 240), (240, 240)])
def test_names_that_no_file_system_takes_are_shortened_and_still_differ(letter, lengths):
  size = len(os.fsencode(letter))
  contents, styles = (
    [letter * (length // size) + end + ".jpg" for end in "ab"] for length in lengths
  )
  for name in (*contents, *styles):
    Path(name).touch()
  pairs, _ = plan(contents, styles, "out")
  assert len(set(pairs)) == 4
  for pair in pairs:
    Path(pair).parent.mkdir(exist_ok=True)
    Path(pair).touch()  # a name of more than 255 bytes is an error
  assert plan(contents, styles, "out") == ([], pairs)
  # They are no inputs of a further run.
  found, _ = find_inputs([*contents, "out"], styles, "out")
  assert [picture.path.name for picture in found] == contents


def test_the_name_of_a_mix_of_many_styles_is_shortened():
  styles = [Picture("painting" * 3, Path(f"{i}.jpg")) for i in range(40)]
  content = Picture("cat", Path("c/cat.jpg"))
  (pair,), _ = plan_pairs([content], [join(styles)], "out/", overwrite=False)
  assert len(pair.output.name) <= 255 and pair.output.name.startswith("cat--painting")
