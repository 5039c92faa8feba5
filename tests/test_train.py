import dataclasses
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
import small_runs
from PIL import Image
from safetensors import safe_open
from small_models import make_workdir, small_stylizer
from small_runs import (
  NUM_STEPS,
  by_path,
  initial_state,
  small_config,
  trained_state,
  write_images,
)

import adaconv_jax
from adaconv_jax import images
from adaconv_jax.checkpoints.bundle import save_bundle
from adaconv_jax.checkpoints.load import load_model
from adaconv_jax.checkpoints.record import summarize
from adaconv_jax.cli import train as command
from adaconv_jax.cli.export import export
from adaconv_jax.data.batches import CropSpec
from adaconv_jax.data.heldout import heldout_batches
from adaconv_jax.data.manifest import Images, Manifest
from adaconv_jax.models.build import init_params
from adaconv_jax.training import from_config, loop
from adaconv_jax.training.devices import replicate
from adaconv_jax.training.state import TrainState
from adaconv_jax.training.step import evaluate, make_eval_step
from adaconv_jax.vgg.file import read_file, write_file
from adaconv_jax.vgg.network import VGG
from adaconv_jax.vgg.weights import PACKAGED

ROOT = Path(__file__).parents[1]
# Metrics that differ between equal runs.
TIMES = {"images_per_second", "step_seconds", "waiting"}


@pytest.fixture(scope="module")
def unbroken(folder) -> TrainState:
  config = small_config(folder)
  config.eval_every_steps = 3
  assert loop.train_and_evaluate(config, folder / "unbroken") == NUM_STEPS
  return trained_state(config, folder / "unbroken")


def run(*args, devices: int = 1, **environment: str) -> subprocess.Popen:
  environment = {
    **os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices), "XLA_FLAGS": "",
    **environment,
  }  # fmt: skip
  return subprocess.Popen(
    [sys.executable, *map(str, args)], cwd=ROOT, env=environment,
    stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
  )  # fmt: skip


def finish(*processes: subprocess.Popen) -> list[str]:
  outputs = [process.communicate(timeout=600)[0] for process in processes]
  for process, output in zip(processes, outputs, strict=True):
    assert process.returncode == 0, output
  return outputs


def metrics_of(workdir: Path) -> list[dict[str, float]]:
  return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_run_writes_config_versions_hashes_metrics_and_samples(folder, unbroken):
  workdir = folder / "unbroken"
  assert json.loads((workdir / "config.json").read_text())["batch_size"] == 2
  assert "jax" in json.loads((workdir / "versions.json").read_text())
  assert json.loads((workdir / "vgg.json").read_text())["arch"] == "vgg16"
  manifests = [
    json.loads((workdir / "data" / f"content_{part}.json").read_text())
    for part in ("train", "heldout")
  ]
  names = [{name for name, _ in manifest["kept"]} for manifest in manifests]
  assert [len(kept) for kept in names] == [4, 1] and not names[0] & names[1]
  metrics = [line for line in metrics_of(workdir) if "loss" in line]
  assert [m["step"] for m in metrics] == [1, 2, 3, 4]
  assert all(np.isfinite(m["loss"]) for m in metrics)
  assert ["pixel_loss" in m for m in metrics] == [True, True, False, False]
  sheet = images.load(workdir / "samples" / f"{NUM_STEPS:07d}.png")
  assert sheet.shape == (64 * 2 + 4, 64 * 2 + 4, 3)
  assert list((workdir / "tensorboard").glob("events.out.tfevents.*"))


@pytest.mark.slow
def test_kept_style_features_give_the_losses_of_the_images(folder, tmp_path):
  (tmp_path / "style").mkdir()
  for path in (folder / "style").iterdir():  # squares have one crop
    Image.open(path).crop((0, 0, 72, 72)).save(tmp_path / "style" / path.name)
  losses = []
  for kept in (0, 1):
    config = small_config(folder)
    config.num_steps, config.reconstruct_steps = 3, 1
    config.data.style = str(tmp_path / "style")
    config.data.content_resize, config.data.content_crop = 64, 48
    config.data.style_resize = config.data.style_crop = 64
    config.data.kept_style_crops = kept
    loop.train_and_evaluate(config, tmp_path / f"kept{kept}")
    metrics = metrics_of(tmp_path / f"kept{kept}")
    losses.append([line["style_loss"] for line in metrics if "style_loss" in line])
  assert len(losses[0]) == 2
  # Later steps differ more: Adam divides what float16 has rounded by small gradients.
  np.testing.assert_allclose(losses[1], losses[0], rtol=3e-3)


def test_heldout_losses_are_those_of_the_average_on_the_same_pairs(folder, unbroken):
  workdir = folder / "unbroken"
  lines = [line for line in metrics_of(workdir) if "heldout_content_loss" in line]
  assert [(line["step"], line["pairs_seen"]) for line in lines] == [(3, 6), (4, 8)]
  config = small_config(folder)
  content, style = (
    Images(Manifest.from_json((workdir / "data" / f"{role}_heldout.json").read_text()))
    for role in ("content", "style")
  )
  batches = heldout_batches(
    content, style, content_crop=CropSpec(32, 16), style_crop=CropSpec(16, 16), batch_size=2
  )
  model, vgg = from_config.make_networks(config)
  step = make_eval_step(model, vgg, config.loss.style_layers.to_dict())
  vgg_params = replicate(load_model(workdir).vgg_params)
  for params, same in ((unbroken.averaged, True), (unbroken.params, False)):
    losses = evaluate(step, replicate(params), vgg_params, batches)
    for name, value in losses.items():
      assert np.isclose(lines[-1][f"heldout_{name}"], value, rtol=1e-5) == same


@pytest.mark.slow
def test_report_that_a_killed_run_lacks_at_its_last_checkpoint_is_made_when_it_is_resumed(
  folder, unbroken, tmp_path, monkeypatch
):
  """A run may be killed, or stopped, after a step is saved and before it is evaluated."""
  config, workdir = small_config(folder), tmp_path / "killed"
  config.eval_every_steps = 3
  shutil.copytree(folder / "unbroken", workdir)
  lines = (workdir / "metrics.jsonl").read_text().splitlines(keepends=True)
  grid = workdir / "samples" / f"{NUM_STEPS:07d}.png"
  picture = grid.read_bytes()

  def kept():
    return [
      {name: value for name, value in line.items() if name not in TIMES}
      for line in metrics_of(workdir)
    ]

  expected = kept()
  assert "pairs_seen" in lines[-1]
  # The last line is cut off, as by a full disk.
  (workdir / "metrics.jsonl").write_text("".join(lines[:-2]) + lines[-2].rstrip("\n"))
  grid.unlink()
  assert loop.train_and_evaluate(config, workdir) == NUM_STEPS
  assert kept() == expected and grid.read_bytes() == picture
  # What is there is not made again.
  monkeypatch.setattr(loop, "evaluate", None)
  monkeypatch.setattr(loop.Progress, "grid", None)
  assert loop.train_and_evaluate(config, workdir) == NUM_STEPS
  assert kept() == expected


def test_a_run_that_is_done_says_so_and_keeps_its_record(folder, unbroken, tmp_path, caplog):
  workdir = tmp_path / "done"
  shutil.copytree(folder / "unbroken", workdir)
  record = {path: path.read_bytes() for path in workdir.rglob("*.json*") if path.is_file()}
  config = small_config(folder)
  config.num_steps, config.eval_every_steps = NUM_STEPS - 1, 3
  caplog.set_level("INFO", "adaconv_jax")
  assert loop.train_and_evaluate(config, workdir) == NUM_STEPS
  assert f"already at step {NUM_STEPS} of {NUM_STEPS - 1}: nothing to do; a larger" in caplog.text
  assert "config.num_steps" in caplog.text and "training on" not in caplog.text
  assert record == {path: path.read_bytes() for path in record}


def test_a_resumed_run_says_from_where_and_what_is_done_again(tmp_path, caplog):
  caplog.set_level("INFO", "adaconv_jax")
  (tmp_path / "metrics.jsonl").write_text("".join(f'{{"step": {n}}}\n' for n in range(1, 77)))
  for step in (60, 76, 0):
    loop._announce(tmp_path, step)
  first, second, third = (record.getMessage() for record in caplog.records)
  assert first.startswith("resuming from step 60 (the steps after it, at least up to 76, are done")
  assert second.startswith("resuming from step 76, on") and third.startswith("training on")


def test_the_start_of_a_run_is_one_readable_phrase():
  assert loop._describe({"seed": 3}) == "random parameters (seed 3)"
  assert loop._describe({"name": "adaconv", "file_sha256": "f6e2" * 16, "info": {}}) == (
    "the model adaconv (sha256 f6e2f6e2f6e2...)"
  )
  assert loop._describe({"name": "first", "step": 7, "info": {}}) == "the model first (step 7)"


def test_heldout_losses_need_images_that_are_held_out(folder, tmp_path):
  config = small_config(folder)
  config.eval_every_steps, config.data.heldout_style = 1, 0
  with pytest.raises(ValueError, match=r"data\.heldout_style: .* config\.eval_every_steps, got no"):
    loop.train_and_evaluate(config, tmp_path)


@pytest.mark.slow
def test_training_lowers_the_pixel_loss(folder):
  config = small_config(folder)
  config.num_steps = config.reconstruct_steps = 25
  config.optimizer.learning_rate = 1e-3
  loop.train_and_evaluate(config, folder / "learns")
  pixel = [line["pixel_loss"] for line in metrics_of(folder / "learns")]
  assert np.mean(pixel[-5:]) < 0.8 * np.mean(pixel[:5])


def test_interrupted_and_resumed_run_equals_an_unbroken_one_bit_for_bit(
  folder, unbroken, monkeypatch
):
  config, workdir = small_config(folder), folder / "resumed"
  monkeypatch.setattr(loop.StopRequest, "reached", lambda self, step: step in (1, 3))
  assert loop.train_and_evaluate(config, workdir) == 1
  assert loop.train_and_evaluate(config, workdir) == 3
  assert loop.train_and_evaluate(config, workdir) == NUM_STEPS
  resumed, expected = by_path(trained_state(config, workdir)), by_path(unbroken)
  assert resumed.keys() == expected.keys()
  for part in ("params", "opt_state", "averaged"):
    assert any(name.startswith(f".{part}") for name in expected)
  for name, value in expected.items():
    assert value.tobytes() == resumed[name].tobytes(), name


@pytest.mark.slow
def test_sample_grids_and_loaded_models_use_the_average(folder, unbroken, monkeypatch):
  config, workdir, shown = small_config(folder), folder / "averaged", []
  config.num_steps = 1
  grid = lambda self, step, stylizer, *images: shown.append(stylizer)  # noqa: E731
  monkeypatch.setattr(loop.Progress, "grid", grid)
  loop.train_and_evaluate(config, workdir)
  state = trained_state(config, workdir)
  average, latest = by_path(state.averaged), by_path(state.params)
  for stylizer in (shown[0], load_model(workdir)):
    for name, value in by_path(stylizer.params).items():
      assert value.tobytes() == average[name].tobytes()
  assert any(not np.array_equal(average[name], latest[name]) for name in latest)


@pytest.mark.slow
def test_run_without_an_average_resumes_with_one_and_without(folder, tmp_path, caplog):
  config = small_config(folder)
  for step, decay in enumerate([0.0, 0.9, 0.0], 1):
    config.num_steps, config.ema_decay = step, decay
    with caplog.at_level(logging.WARNING, "adaconv_jax"):
      assert loop.train_and_evaluate(config, tmp_path / "run") == step
    state = trained_state(config, tmp_path / "run")
    assert (state.averaged is not None) == bool(decay)
    used = by_path(load_model(tmp_path / "run").params)
    for name, value in by_path(state.result).items():
      assert value.tobytes() == used[name].tobytes()
  assert "the average of the parameters starts at step 1" in caplog.text
  assert "settings changed since the last start: ema_decay" in caplog.text


@pytest.mark.parametrize("decay", [1.0, -0.1, float("nan")])
def test_impossible_decay_is_refused_by_name(folder, decay, tmp_path):
  config = small_config(folder)
  config.ema_decay = decay
  with pytest.raises(ValueError, match=r"config\.ema_decay: expected 0 .* such as 0\.999, got"):
    loop.train_and_evaluate(config, tmp_path)


def test_memory_that_the_average_takes_is_in_what_aot_compiles(folder, monkeypatch):
  config, sizes = small_config(folder), []

  def compile_step(step, state, *_):
    sizes.append(sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)))
    raise ValueError("enough")

  monkeypatch.setattr(command.aot, "tpu_devices", lambda tpu: jax.devices()[:1])
  monkeypatch.setattr(command.aot, "compile_step", compile_step)
  for config.ema_decay in (0.0, 0.9):
    with pytest.raises(ValueError, match="enough"):
      command.compile_ahead(config, "v5e:1x1")
  params = jax.eval_shape(lambda: initial_state(config, optax.identity())).params
  assert sizes[1] - sizes[0] == sum(4 * leaf.size for leaf in jax.tree.leaves(params))


def test_exported_bundle_draws_the_same_and_says_how_it_was_trained(folder, unbroken, tmp_path):
  path, workdir = tmp_path / "small.safetensors", folder / "unbroken"
  info = dict(export(workdir, path))
  pictures = np.random.default_rng(0).random((2, 1, 32, 32, 3), np.float32)
  draw = jax.jit(lambda stylizer, c, s: stylizer.stylize(c, stylizer.encode_style(s)))
  expected, got = (draw(load_model(model), *pictures) for model in (workdir, path))
  assert np.ptp(expected) > 0.01
  np.testing.assert_allclose(got, expected, atol=2e-3)  # float16 has 11 bits
  with safe_open(path, "numpy") as file:
    assert json.loads(file.metadata()["info"]) == info
  line, heldout = metrics_of(workdir)[-2:]
  recorded = json.loads((workdir / "vgg.json").read_text())
  assert info.pop("vgg") == {name: recorded[name] for name in recorded.keys() - {"path"}}
  assert "mean activation 1" in recorded["scaled"]
  assert info.pop("losses") == {
    name: line[name] for name in ("step", "loss", "content_loss", "style_loss")
  }
  assert info.pop("heldout_losses") == {
    name: heldout[name] for name in ("step", "heldout_content_loss", "heldout_style_loss")
  }
  assert info == {
    "version": adaconv_jax.__version__,
    "steps": NUM_STEPS,
    "pairs": 2 * NUM_STEPS,
    "batch_size": 2,
    "ema_decay": 0.9,
    "start": {"seed": 0},
    "data": {
      "content_train": 4, "content_heldout": 1, "content_resize": 32, "content_crop": 16,
      "style_train": 4, "style_heldout": 1, "style_resize": 16, "style_crop": 16,
    },
  }  # fmt: skip
  assert str(folder) not in json.dumps(info)


@pytest.mark.slow
def test_listed_images_are_held_out_of_a_run(folder, tmp_path):
  config = small_config(folder)
  config.num_steps, config.sample_images = 1, 2
  for role, names in (("content", "0.png 2.png 3.png"), ("style", "4.png")):
    config.data[f"heldout_{role}_names"] = str(tmp_path / role)
    (tmp_path / role).write_text("\n".join(names.split()))
  loop.train_and_evaluate(config, tmp_path / "run")
  data = summarize(tmp_path / "run", 1)["data"]
  assert [data[f"{role}_heldout"] for role in ("content", "style")] == [3, 1]
  sheet = images.load(tmp_path / "run" / "samples" / "0000001.png")
  assert sheet.shape == (64 * 2 + 4, 64 * 3 + 8, 3)  # two of the three contents


@pytest.mark.slow
def test_adaconv_with_skips_starts_from_an_adaconv_and_opens_the_gains(folder, tmp_path):
  config = small_config(folder, "adaconv")
  start = dataclasses.replace(small_stylizer("adaconv"), vgg=VGG("vgg16", "reflect"))
  save_bundle(start, tmp_path / "start.safetensors")
  config.init_from, config.model.transform = str(tmp_path / "start.safetensors"), "adaconv_plus"
  config.num_steps, config.reconstruct_steps, config.sample_every_steps = 2, 0, 0
  loop.train_and_evaluate(config, tmp_path / "run")
  trained = by_path(trained_state(config, tmp_path / "run").params)
  assert trained.keys() > by_path(start.params).keys()
  for name, value in by_path(start.params).items():
    assert np.abs(trained[name] - value).max() < 1e-3  # a few of Adam's steps of 1e-4
  gains = [value for name, value in trained.items() if "gain" in name]
  assert len(gains) == 6 and all(np.abs(value).max() > 0 for value in gains)


@pytest.mark.slow
def test_run_starts_from_a_trained_model_at_step_0_and_resumes_from_its_own_checkpoint(
  folder, unbroken
):
  config, workdir = small_config(folder), folder / "tuned"
  config.init_from, config.num_steps, config.ema_decay = str(folder / "unbroken"), 1, 0.0
  # Adam's first step moves every parameter by the learning rate at most; a later step, which has
  # moments, by more or less.
  assert loop.train_and_evaluate(config, workdir) == 1
  tuned, start = by_path(trained_state(config, workdir).params), workdir / "init.json"
  moved = [np.abs(tuned[name] - value).max() for name, value in by_path(unbroken.averaged).items()]
  assert 0.9e-4 < max(moved) < 1.1e-4
  info = summarize(folder / "unbroken", NUM_STEPS)
  record = {"name": "unbroken", "step": NUM_STEPS, "info": info}
  assert json.loads(start.read_text()) == record
  config.init_from, config.num_steps = "nowhere", 2
  assert loop.train_and_evaluate(config, workdir) == 2
  assert json.loads(start.read_text()) == summarize(workdir, 2)["start"] == record
  assert json.loads((folder / "unbroken" / "init.json").read_text()) == {"seed": 0}


def test_workdir_of_another_model_is_refused(folder, unbroken):
  with pytest.raises(ValueError, match="another --workdir"):
    loop.train_and_evaluate(small_config(folder, "adaconv"), folder / "unbroken")


def test_run_does_not_resume_with_other_vgg_weights(folder, unbroken, tmp_path):
  config, file = small_config(folder), tmp_path / "vgg16.safetensors"
  tensors, info = read_file(PACKAGED / "vgg16.safetensors")
  write_file(file, tensors, info)
  config.model.vgg_weights = str(file)  # the same weights in another file
  assert loop.train_and_evaluate(config, folder / "unbroken") == NUM_STEPS
  tensors["conv1_1.bias"] = tensors["conv1_1.bias"] + 1
  write_file(file, tensors, info)
  with pytest.raises(ValueError, match="vgg_weights: .* other VGG weights"):
    loop.train_and_evaluate(config, folder / "unbroken")


def test_missing_images_are_an_error_that_names_the_setting(tmp_path):
  config = small_config(tmp_path)
  config.data.style = ""
  (tmp_path / "content").mkdir()
  with pytest.raises(ValueError, match="content"):
    loop.train_and_evaluate(config, tmp_path / "run")


def test_misspelled_setting_is_refused_with_a_suggestion():
  command = ["train.py", "--config", "configs/quickstart.py", "--workdir", "never"]
  process = run(*command, "--config.optimizer.learning_rat=1")
  output, _ = process.communicate(timeout=120)
  assert process.returncode == 2
  assert "did you mean config.optimizer.learning_rate?" in output and "Traceback" not in output
  assert not (ROOT / "never").exists()


def test_a_part_of_the_cluster_flags_is_refused_without_a_traceback():
  command = ["train.py", "--config", "configs/quickstart.py", "--workdir", "never"]
  process = run(*command, "--num_processes=2")
  output, _ = process.communicate(timeout=120)
  assert process.returncode == 1
  assert "error: --coordinator, --num-processes and --process-id" in output
  assert "Traceback" not in output


@pytest.mark.slow
def test_sigterm_saves_exits_with_143_and_the_run_can_resume(tmp_path):
  write_images(tmp_path)
  command = [
    "train.py", "--config", "configs/quickstart.py", "--workdir", tmp_path / "run",
    f"--config.data.content={tmp_path}/content", f"--config.data.style={tmp_path}/style",
    "--config.data.min_size=64", "--config.data.content_resize=32", "--config.data.content_crop=16",
    "--config.data.style_resize=64", "--config.data.style_crop=64", "--config.sample_size=64",
    "--config.model.settings.style_size=64", "--config.log_every_steps=1", "--config.batch_size=1",
    "--config.data.heldout_content=1", "--config.reconstruct_steps=0", "--config.num_steps=100000",
  ]  # fmt: skip
  metrics = tmp_path / "run" / "metrics.jsonl"
  process = run(*command)
  deadline = time.monotonic() + 300
  while not metrics.exists() and process.poll() is None and time.monotonic() < deadline:
    time.sleep(0.2)
  process.send_signal(signal.SIGTERM)
  output, _ = process.communicate(timeout=600)
  assert process.returncode == 128 + signal.SIGTERM, output
  steps = [int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir() if p.name.isdigit()]
  assert len(steps) == 1 and f"saved step {steps[0]}" in output
  assert output.splitlines()[-1] == f"stopped at step {steps[0]} of 100000"
  (output,) = finish(run(*command[:-1], f"--config.num_steps={steps[0] + 1}"))
  assert f"from step {steps[0]}" in output


@pytest.mark.slow
def test_eight_devices_train_the_same_parameters_as_one(tmp_path):
  for devices in (1, 8):
    folder = tmp_path / str(devices)
    write_images(folder)
    finish(run(small_runs.__file__, folder, "adaconv", 8, devices=devices))
  assert_same_training(tmp_path / "1", tmp_path / "8")


@pytest.mark.slow
@pytest.mark.parametrize("transform, processes, devices", [("adaconv", 2, 2), ("adain", 4, 1)])
def test_processes_train_a_model_on_to_the_same_parameters_as_one(
  tmp_path, transform, processes, devices
):
  stylizer = small_stylizer(transform)
  params = jax.tree.map(np.asarray, init_params(stylizer.model, jax.random.key(7)))
  for name in ("one", "several"):
    write_images(tmp_path / name)
    make_workdir(tmp_path / name / "start", [dataclasses.replace(stylizer, params=params)])
  finish(run(small_runs.__file__, tmp_path / "one", transform, 4))
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    address = f"127.0.0.1:{probe.getsockname()[1]}"
  finish(
    *(
      run(small_runs.__file__, tmp_path / "several", transform, 4, address, processes, index,
          devices=devices)
      for index in range(processes)
    )
  )  # fmt: skip
  assert_same_training(tmp_path / "one", tmp_path / "several")
  for name in ("one", "several"):
    start = json.loads((tmp_path / name / "run" / "init.json").read_text())
    assert (start["name"], start["step"]) == ("start", 100)


def assert_same_training(one: Path, other: Path) -> None:
  """Same metrics, and parameters that differ by less than a hundredth of how far they have moved.

  Rounding causes a thousandth; devices that do not average their gradients differ by all of it.
  """
  metrics = [metrics_of(folder / "run") for folder in (one, other)]
  assert len(metrics[0]) == NUM_STEPS + 2  # of which two have held-out losses
  for ours, theirs in zip(*metrics, strict=True):
    assert ours.keys() == theirs.keys()
    for name in ours.keys() - TIMES:
      # AdaIN's gradient divides by deviations near zero. After the first step, where parameters
      # differ by rounding, its norm has differed by 3e-3, and the losses by 1e-5.
      rtol = 1e-2 if name == "gradient_norm" and ours["step"] > 1 else 1e-3
      np.testing.assert_allclose(ours[name], theirs[name], rtol=rtol, err_msg=name)
  before, expected, got = (
    dict(np.load(path)) for path in (one / "before.npz", one / "after.npz", other / "after.npz")
  )
  assert before.keys() == expected.keys() == got.keys()
  moved, difference = (
    np.concatenate([(expected[name] - start[name]).ravel() for name in expected])
    for start in (before, got)
  )
  assert 0 < np.linalg.norm(moved)
  assert np.linalg.norm(difference) < 1e-2 * np.linalg.norm(moved)
