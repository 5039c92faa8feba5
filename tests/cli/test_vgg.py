"""`adaconv vgg`, run in this process."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from published_vgg import write_imported

from adaconv_jax.cli import attempt
from adaconv_jax.cli import vgg as command
from adaconv_jax.cli.vgg import main
from adaconv_jax.vgg import normalize as vgg_normalize
from adaconv_jax.vgg import weights as vgg_weights
from adaconv_jax.vgg.file import read_file, write_file
from adaconv_jax.vgg.network import conv_shapes


@pytest.fixture(scope="module")
def imported_vgg19(tmp_path_factory):
  return write_imported(tmp_path_factory.mktemp("imported"))


@pytest.fixture(scope="module")
def timm_vgg19(imported_vgg19):
  return imported_vgg19.parent / "model.safetensors"


def test_command_line_imports_and_reports_errors_in_one_line(timm_vgg19, tmp_path, capsys):
  output = tmp_path / "new" / "vgg19.safetensors"
  main(["import", str(timm_vgg19), "--arch", "vgg19", "--output", str(output)])
  assert "vgg19 up to relu4_1" in capsys.readouterr().out
  params, info = vgg_weights.load("vgg19", output)
  assert info["source"] == "torchvision weights, model.safetensors"
  assert set(params) == {"zero", *conv_shapes("vgg19", "relu4_1")}
  with pytest.raises(SystemExit, match="^error: .*holds vgg19"):
    main(["import", str(timm_vgg19), "--arch", "vgg16", "--output", str(output)])
  with pytest.raises(SystemExit, match="^error: .*nowhere.pth"):
    main(["import", "nowhere.pth", "--arch", "vgg16", "--output", str(output)])


def test_command_line_normalizes_over_a_folder(imported_vgg19, tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(vgg_normalize, "SIZE", 32)
  monkeypatch.setattr(vgg_normalize, "BATCH_SIZE", 2)
  (tmp_path / "images").mkdir()
  rng = np.random.default_rng(0)
  for i, size in enumerate([(40, 60), (64, 33), (32, 32)]):
    pixels = rng.integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "images" / f"{i}.png")
  tensors, info = read_file(imported_vgg19)
  first = {name: t for name, t in tensors.items() if name < "conv2_1" or name == "zero"}
  write_file(tmp_path / "in.safetensors", first, info | {"last": "relu1_2"})
  output = tmp_path / "out.safetensors"
  arguments = [
    str(tmp_path / "in.safetensors"),
    "--images",
    str(tmp_path / "images"),
    "--output",
    str(output),
  ]
  main(["normalize", *arguments])
  out, err = capsys.readouterr()
  assert "mean activation 1 over 3 images" in out
  (line,) = (line for line in err.splitlines() if line.startswith("warning"))
  assert "of 3 photographs are rough; 100 or more" in line
  params, info = vgg_weights.load("vgg19", output, last="relu1_2")
  assert info["scaled"] == "mean activation 1 over 3 images"
  assert info["source_sha256"] == read_file(imported_vgg19)[1]["source_sha256"]
  batches = list(vgg_normalize.photographs(sorted((tmp_path / "images").iterdir())))
  assert [batch.shape for batch in batches] == [(2, 32, 32, 3), (1, 32, 32, 3)]
  means = vgg_normalize.mean_activations(params, batches, "vgg19")
  for mean in means.values():
    assert (np.abs(mean - 1) < 1e-3).mean() > 0.6 and mean.max() < 1.001


def test_a_folder_in_the_place_of_a_file_is_one_line_that_names_it(tmp_path):
  with pytest.raises(SystemExit, match=f"^error: {tmp_path}: expected a file, got a folder$"):
    main(["import", str(tmp_path), "--arch", "vgg19", "--output", str(tmp_path / "v")])


@pytest.mark.parametrize(
  ("info", "said"),
  [
    ({"source": "torchvision weights"}, ""),
    ({"source": "torchvision weights", "scaled": "over 300 images"}, "over 300 images"),
    ({"source": "vgg_normalised of PyTorch AdaIN"}, "vgg_normalised of PyTorch AdaIN"),
  ],
)
def test_weights_that_were_normalized_before_are_recognized(info, said):
  assert vgg_weights.scaling(info) == said


def test_a_photograph_that_cannot_be_read_is_skipped_and_named(
  imported_vgg19, tmp_path, monkeypatch, capsys
):
  monkeypatch.setattr(vgg_normalize, "SIZE", 32)
  monkeypatch.setattr(command, "normalize", lambda params, batches, arch: params | one(batches))
  monkeypatch.setattr(attempt, "LISTED", 2)
  used = []

  def one(batches):
    used.extend(len(batch) for batch in batches)
    if not used:
      raise ValueError("images: expected at least one batch, got none")
    return {}

  folder = tmp_path / "images"
  folder.mkdir()
  Image.new("RGB", (40, 60)).save(folder / "good.png")
  (folder / "bad.jpg").write_bytes(b"no picture")
  (folder / "empty.png").touch()
  (folder / "gone.png").symlink_to("nowhere")
  arguments = [str(imported_vgg19), "--images", str(folder), "--output", str(tmp_path / "out")]
  assert main(["normalize", *arguments]) == 0
  out, err = capsys.readouterr()
  assert out.endswith("mean activation 1 over 1 images, 3 skipped\n") and used == [1]
  skipped = [line for line in err.splitlines() if line.startswith("skipped")]
  assert [Path(line.split(":")[0]).name for line in skipped] == ["bad.jpg", "empty.png"]
  assert "and 1 more" in err.splitlines()
  (folder / "good.png").unlink()
  (tmp_path / "out").unlink()
  used.clear()
  with pytest.raises(SystemExit, match="none of the 3 images in .* can be read, the first: .*bad"):
    main(["normalize", *arguments])
  assert not (tmp_path / "out").exists()
