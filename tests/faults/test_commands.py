"""Command lines: names and folders that people really have, and models that are none."""

import csv
import dataclasses
import importlib
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from small_models import small_stylizer

import adaconv_jax.cli.evaluate as evaluate
import adaconv_jax.cli.export as export
import adaconv_jax.cli.stylize as stylize
import adaconv_jax.cli.video as video
from adaconv_jax import images, load_model, save_bundle
from adaconv_jax.cli import main as command
from adaconv_jax.cli.attempt import shown
from adaconv_jax.cli.options import check_suffix
from adaconv_jax.cli.pairs import find_inputs, plan_pairs
from adaconv_jax.data.manifest import scan
from adaconv_jax.data.sources import FolderSource
from adaconv_jax.evaluation import evaluator
from adaconv_jax.evaluation.report import check_folder
from adaconv_jax.files import printable
from adaconv_jax.vgg import weights as vgg_weights
from adaconv_jax.vgg.network import ENCODER_LAYER, VGG, conv_shapes

ROOT = Path(__file__).parents[2]
needs_any_bytes = pytest.mark.skipif(
  sys.platform in ("darwin", "win32"), reason="file names are Unicode here"
)
# A byte that is not UTF-8, an escape code that would clear the terminal, a line break.
STRANGE = os.fsdecode(b"caf\xe9\x1b[2J\nx")
SHOWN = r"caf\udce9\x1b[2J\nx"


@pytest.fixture(scope="module")
def adain():
  return small_stylizer("adain")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  return tmp_path


def touch(*names):
  for name in names:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).touch()


def draw(*names):
  for seed, name in enumerate(names):
    image = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8)
    images.save("drawn.png", image)
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    os.replace("drawn.png", name)


def outputs(content, style, output):
  """The outputs' names, which are written as empty files."""
  pairs, kept = plan_pairs(*find_inputs(content, style, output), output, overwrite=False)
  touch(*(pair.output for pair in pairs))
  return sorted(path.as_posix() for path in [*(pair.output for pair in pairs), *kept])


# --- results as inputs ---


@pytest.mark.parametrize(
  ("content", "style", "output"),
  [
    (["photos"], ["s.png"], "photos/new"),
    (["photos"], ["s.png"], "photos/a/b/new"),
    (["c.png"], ["photos"], "photos/new"),
    (["photos"], ["photos"], "photos/new"),
    (["."], ["s.png"], "photos/../photos/new/"),
    (["photos"], ["s.png"], "photos"),
    (["photos"], ["photos"], "photos"),
    (["photos", "photos/new"], ["s.png"], "photos/new"),
    (["photos"], ["s.png"], "link"),
  ],
)
def test_results_are_no_inputs_of_a_further_run(content, style, output, capsys):
  touch(
    "photos/one.jpg", "photos/two.gif", "photos/two.png", "photos/new/own.png", "s.png", "c.png"
  )
  Path("link").symlink_to("photos/new")
  first = outputs(content, style, output)
  capsys.readouterr()
  assert outputs(content, style, output) == first
  assert outputs(content, style, output) == first
  lines = capsys.readouterr().err.splitlines()
  assert lines and len(lines) <= 4 and all("left out" in line for line in lines)


@pytest.mark.parametrize("output", ["photos", "photos/new"])
def test_results_that_a_pattern_of_the_shell_finds_are_no_inputs(output):
  touch("photos/one.jpg", "photos/two.gif", "photos/two.png", "s.png")
  Path(output).mkdir(exist_ok=True)
  first = outputs([str(path) for path in Path("photos").iterdir()], ["s.png"], output)
  assert len(first) == 3
  for _ in range(2):
    assert outputs([str(path) for path in Path("photos").iterdir()], ["s.png"], output) == first


def test_sheets_of_an_evaluation_are_no_inputs():
  touch("photos/one.jpg", "photos/sheet-01--adain.png", "s.png")
  contents, _ = find_inputs(["photos"], ["s.png"], "photos", sheets=True)
  assert [picture.name for picture in contents] == ["one"]


def test_whatever_is_in_the_folder_of_the_output_is_no_input_where_another_folder_is_given():
  touch("photos/one.jpg", "photos/new/own.png", "photos/new/below/more.png", "s.png")
  contents, _ = find_inputs(["photos"], ["s.png"], "photos/new")
  assert [picture.name for picture in contents] == ["one"]


def test_an_output_file_inside_of_the_content_is_no_input_of_a_further_run():
  touch("photos/one.jpg", "s.png")
  for _ in range(2):
    contents, _ = find_inputs(["photos"], ["s.png"], "photos/new.png")
    assert [picture.name for picture in contents] == ["one"]
    touch("photos/new.png")


def test_pictures_that_are_no_results_are_used_whatever_is_around_the_output():
  touch("photos/one.jpg", "new/own.png", "s.png")
  # The folder of the output contains the contents; its pictures are named, or it is itself.
  assert outputs(["photos"], ["s.png"], ".") == ["one--s.jpg"]
  assert outputs(["new"], ["s.png"], "new") == ["new/own--s.png"]
  assert outputs(["new/own--s.png"], ["s.png"], "new") == ["new/own--s--s.png"]


def test_a_folder_of_results_only_is_an_error_that_says_so():
  touch("photos/new/a--s.png", "s.png")
  with pytest.raises(ValueError, match="--content: no image in photos, other than earlier results"):
    find_inputs(["photos"], ["s.png"], "photos/new")


# --- clashes of names ---


@pytest.mark.parametrize(
  ("contents", "styles", "expected"),
  [
    (["c/a.gif", "c/a.png"], ["s.png"], ["a_gif--s.png", "a_png--s.png"]),
    (["c/a.jpg", "c/a.JPG"], ["s.png"], ["a_JPG--s.jpg", "a_jpg--s.jpg"]),
    (["c/a.jpg", "c/a.png"], ["s.png"], ["a--s.jpg", "a--s.png"]),
    (["c/x.png"], ["s/t.png", "s/t.jpg"], ["x--t_jpg.png", "x--t_png.png"]),
    (["c/a.png", "c/a--b.png"], ["s/b--d.png", "s/d.png"], None),
    (["1/c/a.png", "2/c/a.png"], ["s.png"], None),
    (["c/a.gif", "c/a.png", "c/a_gif.png", "c/a_png.bmp"], ["s.png"], None),
  ],
)
def test_a_clash_of_names_gives_all_their_own_and_the_others_the_usual_ones(
  contents, styles, expected
):
  touch(*contents, *styles, "c/other.png")
  made = outputs([*contents, "c/other.png"], styles, "out")
  assert len(set(made)) == len(made) == (len(contents) + 1) * len(styles)
  assert outputs(["c/other.png", *reversed(contents)], [*reversed(styles)], "out") == made
  if expected is not None:
    rest = [name for name in made if not name.startswith("out/other--")]
    assert rest == ["out/" + name for name in expected]


def test_a_name_with_its_folder_and_the_same_name_of_a_file_differ():
  touch("c/b/a.png", "c/b_a.png", "s.png")
  assert outputs(["c"], ["s.png"], "out") == ["out/b_b_a_png--s.png", "out/c_b_a_png--s.png"]


# --- names that cannot be shown ---


@pytest.mark.parametrize(
  ("text", "shown"),
  [
    ("plain name.png", "plain name.png"),
    ("日本語 é ñ", "日本語 é ñ"),
    ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
    ("\x9b2J", r"\x9b2J"),
    ("a\u202egnp.exe", r"a\u202egnp.exe"),
    ("a\r\nb", r"a\r\nb"),
    (os.fsdecode(b"\xff"), r"\udcff"),
  ],
)
def test_printable_keeps_letters_and_escapes_what_commands_or_breaks(text, shown):
  assert printable(text) == shown
  shown.encode("utf-8")
  assert printable("a\nb\x1b", lines=True) == "a\nb\\x1b"


@pytest.mark.slow
@needs_any_bytes
def test_stylizing_strange_names_works_twice_and_shows_none_of_their_codes(
  adain, monkeypatch, capfd
):
  monkeypatch.setattr(stylize, "load_model", lambda *args, **kwargs: adain)
  draw(f"c/{STRANGE}.png", "c/plain.png", f"s/{STRANGE}.png")
  Path(f"c/{STRANGE}broken.png").write_bytes(b"no picture")
  arguments = ["stylize", "--content", "c", "--style", "s", "--output", f"out{STRANGE}"]
  # As a user's terminal, strict.
  monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "ascii", "strict"))
  assert command.main(arguments) == 1
  assert command.main(arguments) == 1
  sys.stdout.flush()
  shown = sys.stdout.buffer.getvalue().decode("ascii") + capfd.readouterr().err  # type: ignore
  assert shown.count("kept, because") == 2 and f"c/{SHOWN}broken.png" in shown
  assert "\x1b[2J" not in shown and "\udce9" not in shown
  made = {path.name for path in Path(f"out{STRANGE}").iterdir()}
  assert made == {f"{STRANGE}--{STRANGE}.png", f"plain--{STRANGE}.png"}


@pytest.mark.slow
@needs_any_bytes
def test_evaluating_strange_names_writes_files_that_others_can_read(adain, monkeypatch, capfd):
  monkeypatch.setattr(evaluate, "load_model", lambda *args, **kwargs: adain)
  monkeypatch.setattr(evaluate, "find_model", Path)
  monkeypatch.setattr(evaluator, "load_lpips", lambda: None)
  draw(f"c/{STRANGE}.png", f"s/{STRANGE}.png")
  touch(f"m/{STRANGE}")
  arguments = ["--model", f"m/{STRANGE}", "--content", "c", "--style", "s", "--output", "out"]
  assert evaluate.main([*arguments, "--size", "64"]) == 0
  out, err = capfd.readouterr()
  assert "\x1b[2J" not in out + err
  (row,) = csv.DictReader(io.StringIO(Path("out/pairs.csv").read_bytes().decode("utf-8")))
  assert row["content"] == f"c/{SHOWN}.png" and row["style"] == f"s/{SHOWN}.png"
  summary = json.loads(Path("out/summary.json").read_bytes())
  json.dumps(summary, ensure_ascii=False).encode("utf-8")  # no lone surrogates
  assert list(summary["models"]) == [row["model"]]
  assert all(Path("out", name).is_file() for name in summary["sheets"]) and summary["sheets"]


@needs_any_bytes
def test_errors_of_arguments_show_no_codes(capsys):
  Path(STRANGE).mkdir()
  Path("x.png").touch()
  Path("s.png").touch()
  for content, output in ((STRANGE, "out"), ("x.png", f"{STRANGE}.pdf")):
    arguments = ["--content", content, "--style", "s.png", "--output", output]
    assert stylize.main(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and SHOWN in lines[0]


# --- suffixes ---


@pytest.mark.parametrize("suffix", [".jfif", ".JFIF", ".jpe"])
def test_a_jpeg_by_another_suffix_is_found_and_read(suffix):
  image = np.full((8, 8, 3), 128, np.uint8)
  images.save("a.jpg", image)
  Path("c").mkdir()
  Path("a.jpg").rename(f"c/a{suffix}")
  (found,) = images.find_images("c")
  assert images.load(found).shape == (8, 8, 3)
  images.save(f"b{suffix}", image)
  with Image.open(f"b{suffix}") as written:
    assert written.format == "JPEG"


def test_pictures_that_are_not_read_are_counted_in_one_line_with_the_reason(capsys, caplog):
  touch("c/sub/a.HEIC", "c/b.avif", "c/c.avif", "c/notes.txt", "c/.hidden.heic")
  draw("c/d.png")
  touch("s.png")
  find_inputs(["c"], ["s.png"], "out")
  line = capsys.readouterr().err
  assert line.count("\n") == 1
  assert line.startswith(
    "--content: c: left out 2 .avif, 1 .heic (the first: b.avif), because only"
  )
  assert "convert them" in line
  scan(FolderSource("c"), role="content", min_size=1)
  assert "content: c: left out 2 .avif, 1 .heic" in caplog.text


def test_a_folder_of_such_pictures_only_says_so_before_its_error(capsys):
  touch("c/a.heic")
  with pytest.raises(ValueError, match="--content: no image in c"):
    find_inputs(["c"], ["s.png"], "out")
  assert "left out 1 .heic" in capsys.readouterr().err


# --- models that are none, and models without their VGG ---


def model_error(capsys, *arguments):
  touch("c.png", "s.png")
  assert (
    stylize.main([*["--content", "c.png", "--style", "s.png", "--output", "o"], *arguments]) == 2
  )
  return capsys.readouterr().err


def zipped(*names):
  file = io.BytesIO()
  with zipfile.ZipFile(file, "w") as archive:
    for name in names:
      archive.writestr(name, b"x")
  return file.getvalue()


def npz():
  file = io.BytesIO()
  np.savez(file, kernel=np.zeros(3))
  return file.getvalue()


def png():
  file = io.BytesIO()
  Image.new("RGB", (4, 4)).save(file, "PNG")
  return file.getvalue()


@pytest.mark.parametrize(
  ("name", "data", "kind", "way_out"),
  [
    ("decoder.pth", zipped("archive/data.pkl"), "a PyTorch file", "adaconv import"),
    ("decoder.pth", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "old PyTorch", "adaconv import"),
    ("vgg.h5", b"\x89HDF\r\n\x1a\n" + bytes(40), "an HDF5 file", "adaconv vgg import"),
    ("a.npz", npz(), "NumPy arrays", "adaconv import"),
    ("a.zip", zipped("model.safetensors"), "a zip archive", "unpack it"),
    ("a.keras", zipped("metadata.json", "config.json", "model.weights.h5"), "a Keras model", "vgg"),
    ("a.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS", "git lfs pull"),
    ("a.safetensors", b"<!DOCTYPE html><p>404", "a web page", "download the file itself"),
    ("notes.txt", "r\u00e9sum\u00e9, not a model".encode(), "text", "workdir of a training"),
    ("cat.png", png(), "a picture", "--content"),
  ],
)
def test_a_file_that_is_no_model_is_called_what_it_is_with_the_way_out(
  name, data, kind, way_out, capsys
):
  Path("models").mkdir()
  Path("models", name).write_bytes(data)
  message = model_error(capsys, "--model", f"models/{name}")
  assert message.startswith(f"error: models/{name}: not a safetensors file but ")
  assert kind in message and way_out in message and "adaconv export" in message
  assert message.count("\n") == 1 and "header" not in message


def test_vgg_weights_as_a_model_are_called_so_with_their_own_option(capsys):
  message = model_error(capsys, "--model", str(vgg_weights.PACKAGED / "vgg16.safetensors"))
  assert "VGG weights, which --vgg-weights" in message and message.count("\n") == 1


def test_a_model_without_its_vgg_names_the_options_of_the_command_that_was_run(
  adain, capsys, monkeypatch
):
  weights: dict = {"zero": np.zeros(3, np.float32)}
  for name, shape in conv_shapes("vgg19", ENCODER_LAYER).items():
    weights[name] = {"kernel": np.zeros(shape, np.float32), "bias": np.zeros(shape[3:], np.float32)}
  with_vgg19 = dataclasses.replace(adain, vgg=VGG("vgg19"), vgg_params=weights)
  save_bundle(with_vgg19, "m.safetensors")
  monkeypatch.setenv("ADACONV_CACHE", "cache")
  monkeypatch.setattr(vgg_weights, "SOURCES", {"vgg19": (("file:///none/m.safetensors", None),)})
  message = model_error(capsys, "--model", "m.safetensors")
  assert "--vgg-weights FILE" in message and "adaconv vgg import" in message
  assert "--config" not in message
  message = model_error(capsys, "--model", "m.safetensors", "--vgg-weights", "gone.safetensors")
  assert "gone.safetensors" in message and "adaconv vgg import" in message


# --- empty arguments ---


@pytest.mark.parametrize(
  "arguments",
  [
    ["stylize", "--content", "", "--style", "s.png", "--output", "o.png"],
    ["stylize", "--content", "c.png", "--style", "s.png", "", "--output", "o.png"],
    ["stylize", "--content", "c.png", "--style", "s.png", "--output", ""],
    ["stylize", "--content", "c.png", "--style", "s.png", "--output", "o.png", "--vgg-weights="],
    ["evaluate", "--model=", "--content", "c.png", "--style", "s.png", "--output", "o"],
    ["evaluate", "--model", "adain", "--content", "c.png", "--style", "s.png", "--output="],
    ["export", "adain", ""],
    ["export", "", "m.safetensors"],
    ["vgg", "import", "", "--arch", "vgg16", "--output", "v.safetensors"],
    ["vgg", "normalize", "v.safetensors", "--images=", "--output", "w.safetensors"],
  ],
)
def test_an_empty_path_is_not_the_current_folder(arguments, capsys):
  draw("c.png", "s.png")
  with pytest.raises(SystemExit) as ended:
    command.main(arguments)
  assert ended.value.code == 2
  assert capsys.readouterr().err.splitlines()[-1].endswith("expected a path, got an empty text")
  assert sorted(os.listdir()) == ["c.png", "s.png"]


# --- standard streams ---


def ends(code, *, closed=False, **streams):
  """The exit code of a command that runs `code`, and what it writes to its standard error."""
  program = f"""
import sys
from adaconv_jax.cli import main as command
def run():
{textwrap.indent(textwrap.dedent(code), "  ")}
  return 0
sys.exit(command._ending(run))
"""
  arguments = [sys.executable, "-c", program]
  if closed:
    arguments = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *arguments]
  process = subprocess.run(arguments, stderr=subprocess.PIPE, cwd=ROOT, timeout=60, **streams)
  return process.returncode, process.stderr.decode()


@pytest.fixture
def unread():
  """A pipe that nobody reads."""
  read, write = os.pipe()
  os.close(read)
  yield write
  os.close(write)


def test_a_reader_that_has_gone_is_no_traceback(unread):
  assert ends("print('x')", stdout=unread) == (141, "")
  assert ends("print('x' * 100_000)", stdout=unread) == (141, "")
  assert ends("print('x' * 100_000); raise SystemExit(0)", stdout=unread) == (141, "")


@pytest.mark.parametrize(
  ("failure", "code"),
  [
    ("sys.exit('error: x')", 1),
    ("raise OSError('x')", 1),
    ("print('error: x', file=sys.stderr); return 2", 2),
  ],
)
def test_a_command_that_fails_without_a_reader_has_its_message_and_its_code(failure, code, unread):
  for size in (1, 100_000):  # which is written at the end, or at once
    assert ends(f"print('x' * {size}); {failure}", stdout=unread) == (code, "error: x\n")


def test_a_command_goes_on_without_a_reader(unread, tmp_path):
  made = tmp_path / "made"
  code = f"for _ in range(9): print('x' * 9999, flush=True)\nopen({str(made)!r}, 'w').close()"
  assert ends(code, stdout=unread) == (141, "")
  assert made.exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no full device")
def test_a_full_standard_output_is_one_line_and_an_exit_code():
  with open("/dev/full", "wb") as full:
    assert ends("print('x')", stdout=full) == (1, "error: stdout: No space left on device\n")
    # As argparse does.
    help_text = """
    try:
      sys.stdout.write('x' * 20_000)
    except OSError:
      pass
    sys.exit(0)
    """
    assert ends(help_text, stdout=full) == (1, "error: stdout: No space left on device\n")
    assert ends("print('x'); sys.exit(2)", stdout=full) == (2, "")


def test_ctrl_c_at_any_moment_and_errors_of_the_system_are_one_line():
  assert ends("raise KeyboardInterrupt") == (130, "interrupted\n")
  code, error = ends("open('none/x')")
  assert (code, error) == (1, "error: none/x: No such file or directory\n")


def test_no_file_gets_the_number_of_a_closed_standard_stream(tmp_path):
  code = f"""
  import os
  with open({str(tmp_path / "made")!r}, "w") as file:
    assert file.fileno() > 2
    os.write(1, b"of a library")
    os.write(2, b"of a library")
    print("to nowhere")
    print("to nowhere", file=sys.stderr)
    file.write("whole")
  """

  assert ends(code, closed=True) == (0, "")
  assert (tmp_path / "made").read_text() == "whole"


# --- configs ---


@pytest.mark.parametrize(
  ("text", "words"),
  [
    pytest.param("def x(:", r"SyntaxError: .*mine\.py, line 1", marks=pytest.mark.slow),
    ("\n1 / 0", r"mine\.py, line 2: ZeroDivisionError: division by zero"),
    pytest.param(
      "x = y", r"mine\.py, line 1: NameError: name 'y' is not defined", marks=pytest.mark.slow
    ),
    pytest.param(
      "raise RuntimeError('a\\nb')", r"mine\.py, line 1: RuntimeError: a b", marks=pytest.mark.slow
    ),
    pytest.param("def f(): f()\nf()", r"mine\.py, line 1: RecursionError", marks=pytest.mark.slow),
    pytest.param(
      "def get_config(): int('x')", r"mine\.py, line 1: ValueError", marks=pytest.mark.slow
    ),
    pytest.param("def get_config(): return {}", "to return a ConfigDict", marks=pytest.mark.slow),
    pytest.param("def get_config(): pass", "to return a ConfigDict", marks=pytest.mark.slow),
    pytest.param("x = 1", r"a function get_config\(\) .* has none", marks=pytest.mark.slow),
    pytest.param("def get_config(a): pass", r"to take no argument, or one", marks=pytest.mark.slow),
  ],
)
def test_a_config_that_raises_an_error_is_one_line_that_says_where(text, words):
  Path("mine.py").write_text(text)
  program = "import sys; from adaconv_jax.cli.train import main; main(sys.argv[1:])"
  process = subprocess.run(
    [sys.executable, "-c", program, "--config", "mine.py", "--workdir", "run"],
    capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT)},
  )  # fmt: skip
  assert process.returncode in (1, 2) and process.stderr.count("\n") == 1, process.stderr
  assert re.match(f"error: --config: .*{words}", process.stderr), process.stderr
  assert not Path("run").exists()


# --- inputs ---


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("output", ["in/c.png", "s.png", "link/c.png", "in/../s.png"])
def test_no_output_replaces_an_input(output, overwrite):
  touch("in/c.png", "s.png")
  Path("link").symlink_to("in")
  with pytest.raises(ValueError, match="^--output: .* is an input"):
    plan_pairs(*find_inputs(["in/c.png"], ["s.png"], output), output, overwrite=overwrite)


@pytest.mark.parametrize("output", ["m", "link", "hard", "folder/../m", "./m", "~/m"])
def test_no_model_is_replaced_by_its_export(adain, output, folder, monkeypatch):
  monkeypatch.setenv("HOME", str(folder))
  save_bundle(adain, "m")
  before = Path("m").read_bytes()
  Path("folder").mkdir()
  Path("link").symlink_to("m")
  os.link("m", "hard")
  with pytest.raises(SystemExit, match="expected another file than m, which is read"):
    command.main(["export", "m", output])
  assert Path("m").read_bytes() == before and sorted(os.listdir()) == [
    "folder",
    "hard",
    "link",
    "m",
  ]


@pytest.mark.parametrize("output", ["run/checkpoints/3", "run/data/new", "link"])
def test_no_part_of_a_training_is_replaced_by_an_export(adain, output, monkeypatch):
  touch("run/config.json", "run/vgg.json", "run/data/x", "run/checkpoints/1/x", "v.safetensors")
  Path("link").symlink_to("run/config.json")
  trained = SimpleNamespace(path=Path("run"), vgg_file="v.safetensors", info=dict)
  monkeypatch.setattr(export, "read_model", lambda source: trained)
  monkeypatch.setattr(export, "stylizer_of", lambda *args: adain)
  with pytest.raises(SystemExit, match="expected a file that is none of the training's in run"):
    command.main(["export", "run", output])
  with pytest.raises(SystemExit, match="v.safetensors, which is read and would be lost"):
    command.main(["export", "run", "v.safetensors"])
  command.main(["export", "run", "run/model.safetensors"])
  assert Path("run/model.safetensors").stat().st_size
  assert not Path("run/config.json").stat().st_size


@pytest.mark.parametrize(
  "arguments", [["import", "v", "--arch=vgg16"], ["normalize", "v", "--images=photos"]]
)
def test_no_vgg_weights_are_replaced_by_what_is_made_of_them(arguments):
  Path("v").write_text("weights")
  with pytest.raises(SystemExit, match="expected another file than v, which is read"):
    command.main(["vgg", *arguments, "--output", "../" + Path.cwd().name + "/v"])
  assert Path("v").read_text() == "weights"


@pytest.mark.parametrize(
  "arguments",
  [
    ["export", "adain"],
    ["import", "decoder.pth", "--output"],
    ["hub", "pull", "user/name", "--output"],
    ["vgg", "import", "vgg.pth", "--arch=vgg16", "--output"],
    ["vgg", "normalize", "vgg.safetensors", "--images=photos", "--output"],
  ],
)
@pytest.mark.parametrize("output", ["m.pt", "m.safetensor", "m-1.2.PTH"])
def test_what_is_safetensors_gets_no_other_suffix(arguments, output):
  with pytest.raises(SystemExit, match=f"{output}: expected a name that ends in .safetensors"):
    command.main([*arguments, output])
  assert not os.listdir()


@pytest.mark.parametrize("name", ["name-1.2", "m.v2", "m.final", "St.Ives", "a.b.c", "m.fp16"])
def test_what_is_no_format_is_a_part_of_a_name(name):
  for kind, expected in ((None, "bundle"), ("onnx", "onnx"), ("bundle", "bundle")):
    chosen = [] if kind is None else ["--format", kind]
    parser = export._parser()
    assert export._kind(parser.parse_args(["adain", name, *chosen])) == expected
  check_suffix(Path(name))
  # A single picture, too, goes to a folder of that name.
  touch("c.png", "s.png")
  (pair,), _ = plan_pairs(*find_inputs(["c.png"], ["s.png"], name), name, overwrite=False)
  assert pair.output == Path(name) / "c--s.png"
  check_folder(Path(name))


def test_a_model_is_exported_to_a_name_with_a_version_and_loaded_from_there(adain, capsys):
  save_bundle(adain, "m.safetensors")
  assert command.main(["export", "m.safetensors", "name-1.2"]) == 0
  assert capsys.readouterr().out.startswith("name-1.2: step ")
  assert load_model("name-1.2").model == adain.model


PLACES = [("notes.txt/out", "notes.txt is not a folder"), ("link/a/out", "link is not a folder")]


@pytest.mark.parametrize(("output", "reason"), PLACES)
@pytest.mark.parametrize(
  "name", ["stylize", "stylize all", "evaluate", "export", "import", "video"]
)
def test_an_output_below_a_file_is_refused_before_anything_is_computed(
  name, output, reason, capsys, monkeypatch
):
  draw("c.png", "s.png")
  Path("notes.txt").write_text("mine")
  Path("link").symlink_to("gone")
  for module, function in ((export, "read_model"), (stylize, "load_model"), (video, "load_model")):
    monkeypatch.setattr(module, function, lambda *args, **kwargs: pytest.fail("it was loaded"))
  monkeypatch.setattr(evaluate, "load_model", lambda *args, **kwargs: None)
  monkeypatch.setattr(evaluate, "load_loss_network", lambda: (None, None))
  touch("m.safetensors")
  pictures = ["--content", "c.png", "--style", "s.png", "--output"]
  arguments = {
    "stylize": ["stylize", *pictures, f"{output}.png"],
    "stylize all": ["stylize", *pictures, f"{output}/"],
    "evaluate": ["evaluate", "--model", "m.safetensors", *pictures, output],
    "export": ["export", "m.safetensors", output],
    "import": ["vgg", "import", "m.safetensors", "--arch=vgg16", "--output", output],
    "video": ["video", "c.png", "--style", "s.png", "--output", f"{output}.mp4"],
  }[name]
  try:
    assert command.main(arguments) == 2
    message = capsys.readouterr().err
  except SystemExit as stopped:
    message = f"{stopped.code}\n"
  assert message.endswith(f"{reason}\n") and message.count("\n") == 1
  assert Path("notes.txt").read_text() == "mine" and not Path("gone").exists()


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (
      ["video", "gone.mp4", "--style=s.png", "--output=o.mp4"],
      "gone.mp4: No such file or directory",
    ),
    (["video", "pipe:0", "--style=s.png", "--output=o.mp4"], "pipe:0: No such file or directory"),
    (
      ["video", "c.png", "--style=gone.png", "--output=o.mp4"],
      "gone.png: No such file or directory",
    ),
  ],
)
def test_a_missing_file_of_a_video_is_named_without_numbers(arguments, message, capsys):
  pytest.importorskip("av")
  draw("c.png", "s.png")
  assert command.main(arguments) == 2
  assert capsys.readouterr().err.endswith(f"error: {message}\n")


def test_a_folder_without_photographs_is_named(capsys):
  Path("photos").mkdir()
  weights = str(vgg_weights.PACKAGED / "vgg16.safetensors")
  with pytest.raises(SystemExit, match="--images: no image in photos; looked for .jpg"):
    command.main(["vgg", "normalize", weights, "--images", "photos", "--output", "o"])


def test_errors_of_unknown_and_of_long_arguments_can_be_shown(capsys):
  pictures = ["--content", "c.png", "--style", "s.png", "--output", "o.png"]
  for arguments in (["--\x1b[31m"], ["--size", "9" * 5000], ["--alpha", "9" * 5000]):
    with pytest.raises(SystemExit) as ended:
      command.main(["stylize", *pictures, *arguments])
    last = capsys.readouterr().err.splitlines()[-1]
    assert ended.value.code == 2 and last.isprintable() and len(last) < 1100


def test_messages_are_cut_in_the_middle():
  text = shown("error: " + "x" * 5000 + "; name another\nnext")
  assert text.startswith("error: xxx") and text.endswith("; name another\nnext")
  assert max(map(len, text.splitlines())) < 1100
  assert shown("a\x1b[31m\nb") == "a\\x1b[31m\nb"


@pytest.mark.parametrize("place", ["models/", "gs://bucket/models/"])
@pytest.mark.parametrize(
  "command", ["export", "export --format onnx", "import", "vgg", "hub", "video"]
)
def test_an_output_that_is_written_like_a_folder_is_no_name_of_a_file(command, place, capsys):
  if place.startswith("gs"):
    pytest.importorskip("gcsfs")
  name, *options = command.split()
  arguments = {
    "export": ["adain", place, *options],
    "import": ["a", f"--output={place}"],
    "vgg": ["import", "a", "--arch=vgg16", f"--output={place}"],
    "hub": ["pull", "user/name", f"--output={place}"],
    "video": ["a", "--style=a", f"--output={place}"],
  }[name]
  try:
    code = importlib.import_module(f"adaconv_jax.cli.{name}").main(arguments)
  except SystemExit as error:
    code = error.code
  assert code
  assert f"{place}: expected the name of a file to write" in f"{capsys.readouterr().err}{code}"
  assert not Path("models").exists()


IMPOSSIBLE = {
  "gs://": "expected gs://BUCKET/..., got no bucket",
  "gcs://b/x": "expected a local path or one of gs://, ",
  "s3://bucket/x": "s3:// needs the package s3fs, which is missing: pip install s3fs",
  "http://a/x": "expected a local path or one of gs://, ",
}


@pytest.mark.parametrize("address", IMPOSSIBLE)
@pytest.mark.parametrize(
  "command, option",
  [
    *(("pack", option) for option in ("--input", "--output")),
    *(("stylize", option) for option in ("--content", "--style", "--output", "--model")),
    *(("evaluate", option) for option in ("--content", "--style", "--output")),
    *(("video", option) for option in ("INPUT", "--style", "--output")),
    ("export", "MODEL"),
    ("export", "FILE"),
  ],
)
def test_an_impossible_address_is_one_line_that_names_its_option(
  command, option, address, capsys, monkeypatch
):
  find_spec = importlib.util.find_spec
  monkeypatch.setattr(
    "importlib.util.find_spec", lambda name: None if name == "s3fs" else find_spec(name)
  )
  images.save("a.png", np.zeros((16, 16, 3)))
  used = {
    "pack": {"--input": ".", "--output": "new"},
    "video": {"INPUT": ".", "--style": "a.png", "--output": "new.mp4"},
    "export": {"MODEL": "adain", "FILE": "new.safetensors"},
    "evaluate": {"--model": "adain", "--content": "a.png", "--style": "a.png", "--output": "new"},
    "stylize": {"--content": "a.png", "--style": "a.png", "--output": "new", "--model": "adain"},
  }[command] | {option: address}
  arguments = [f"{x}={value}" if x.startswith("--") else value for x, value in used.items()]
  module = importlib.import_module(f"adaconv_jax.cli.{command}")
  try:
    code = module.main(arguments)
  except SystemExit as error:
    code = error.code
  error = f"{capsys.readouterr().err}{code if isinstance(code, str) else ''}"
  (line,) = [line for line in error.splitlines() if "error: " in line]
  assert code
  named = {"MODEL": "model", "FILE": "argument FILE", "--model": "model"}
  assert re.search(f"error: {named.get(option, option)}: .*{re.escape(IMPOSSIBLE[address])}", line)
