import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from adaconv_jax.training import aot

ROOT = Path(__file__).parents[2]


def compile_for(*args: str, **environment: str) -> subprocess.CompletedProcess:
  """In its own process: it sets the environment, which JAX reads only once."""
  command = [sys.executable, "train.py", "--config", "configs/quickstart.py", *args]
  kept = {k: v for k, v in os.environ.items() if not k.startswith(("TPU_", "JAX_"))}
  return subprocess.run(
    command, cwd=ROOT, env=kept | environment, capture_output=True, text=True, timeout=900
  )


def needs(**changed) -> aot.Needs:
  values = {
    "arguments": 2 * 10**9, "outputs": 10**9, "temporaries": 3 * 10**9, "code": 10**8,
    "flops": 5e12, "bytes_accessed": 7e9, "collectives": {"all-reduce": 2},
  }  # fmt: skip
  return aot.Needs(**(values | changed))


@pytest.mark.parametrize(
  ("text", "kind", "shape", "chips", "memory"),
  [
    ("v5e:2x4", "v5e", "2x4", 8, 16e9),
    ("v5litepod-8", "v5e", "2x4", 8, 16e9),
    ("v5e-16", "v5e", "4x4", 16, 16e9),
    ("v4-8", "v4", "2x2x1", 4, 32e9),
    ("v5p-16", "v5p", "2x2x2", 8, 95e9),
    ("v6e-1", "v6e", "1x1", 1, 32e9),
    ("v5p:4x4x4", "v5p", "4x4x4", 64, 95e9),
  ],
)
def test_a_slice_is_named_by_its_shape_or_as_on_cloud_tpu(text, kind, shape, chips, memory):
  tpu = aot.Slice.parse(text)
  assert (tpu.kind, tpu.shape, tpu.chips, tpu.memory) == (kind, shape, chips, memory)


UNKNOWN = ["v9:2x2", "v5e", "v5e:", "v5e:8", "v5e:0x4", "2x4", "v5e:2x2x2", "v4:2x2", "v3-8"]


@pytest.mark.parametrize("text", [*UNKNOWN, "v5e-", "-8"])
def test_an_unknown_slice_is_refused_by_name(text):
  with pytest.raises(ValueError, match=f"v5e:2x4.*{text!r}"):
    aot.Slice.parse(text)


@pytest.mark.parametrize(("text", "sizes"), [("v4-9", "v4-8, v4-16"), ("v6e-5", "v6e-1, v6e-4")])
def test_the_sizes_of_slices_are_named_where_there_is_none_of_this_size(text, sizes):
  with pytest.raises(ValueError, match=f"{sizes}.*{text!r}"):
    aot.Slice.parse(text)


@pytest.mark.parametrize(
  "text", ["v4-8", "v5litepod-1", "v5litepod-4", "v5p-8", "v6e-1", "v6e-8", "v5e:1x2"]
)
def test_the_compiler_has_one_device_per_chip(text):
  pytest.importorskip("libtpu")
  code = f"""
from adaconv_jax.training.aot import Slice, tpu_devices
tpu = Slice.parse("{text}")
assert len(tpu_devices(tpu)) == tpu.chips
"""
  subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=100)


def test_two_processes_compile_at_the_same_time():
  pytest.importorskip("libtpu")
  code = """
import sys
from adaconv_jax.training.aot import Slice, tpu_devices
print(len(tpu_devices(Slice.parse("v5litepod-4"))), flush=True)
sys.stdin.read()
"""
  command = [sys.executable, "-c", code]
  pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
  with subprocess.Popen(command, cwd=ROOT, **pipes) as first:
    assert first.stdout is not None and first.stdout.readline() == "4\n"
    subprocess.run(command, cwd=ROOT, check=True, stdin=subprocess.DEVNULL, timeout=100)


def test_a_missing_compiler_is_reported_with_the_command_that_installs_it(monkeypatch):
  monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
  with pytest.raises(FileNotFoundError, match=r"pip install -e '\.\[tpu\]'"):
    aot.tpu_devices(aot.Slice("v5e", "2x4"))


def test_report_sums_the_memory_and_names_unexpected_collectives():
  v5e = aot.Slice("v5e", "2x4")
  text = aot.report(needs(), v5e, 8)
  assert "6.100 GB of 16 GB" in text and "5.000 TFLOP" in text and "all-reduce x 2" in text
  assert "unexpected" not in text
  assert "unexpected" in aot.report(needs(collectives={"all-gather": 1}), v5e, 8)
  # 5 TFLOP at 197 TFLOP/s; 7 GB at 819 GB/s; 16 images in the longer time.
  assert "25.4 ms of operations and 8.5 ms of traffic per step: at most 630 images/s" in text


def test_the_estimate_of_a_compilation_grows_with_the_program():
  line = "    %1 = stablehlo.add %0, %0 : tensor<2xf32>\n"
  assert 0 < aot.estimate(line) < aot.estimate(100 * line) / 99


def test_what_is_larger_than_the_memory_does_not_fit():
  aot.check_fit(needs(), 6.2e9)
  with pytest.raises(ValueError, match="does not fit: it needs 6.1 GB .* has 6 GB"):
    aot.check_fit(needs(), 6e9)


def test_collectives_are_counted_once_where_they_happen():
  hlo = """
  %all-reduce.1 = (f32[2]{0}, f32[]) all-reduce(%a, %b), channel_id=1, to_apply=%add
  %all-gather-start = f32[2]{0} all-gather-start(%c)
  %all-gather-done = f32[2]{0} all-gather-done(%all-gather-start)
  ROOT %copy = f32[2]{0} copy(%all-reduce.1)
  """
  assert aot.count_collectives(hlo) == {"all-reduce": 1, "all-gather": 1}


def test_crops_are_shaped_as_a_batch():
  shapes = aot.crops(8, 80, 96)
  assert shapes["style"] == jax.ShapeDtypeStruct((8, 96, 96, 3), np.uint8)
  assert shapes["content"].shape == (8, 80, 80, 3)


def test_needs_neither_data_nor_workdir_and_refuses_a_batch_that_does_not_divide():
  pytest.importorskip("libtpu")
  done = compile_for("--aot=v5e:2x4", "--config.batch_size=12")
  assert done.returncode == 1
  assert "error: config.batch_size: expected a multiple of the 8 devices, got 12" in done.stderr
  assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_adaconv_moves_twice_the_bytes_of_a_shared_convolution_or_less_forward_and_backward():
  pytest.importorskip("libtpu")
  command = [sys.executable, "-m", "benchmarks.tpu_bytes"]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
  assert done.returncode == 0, done.stderr
  found = re.findall(r"(forward|and back) .* ([\d.]+)$", done.stdout, re.M)
  assert len(found) == 8
  # 1.2 to 2 with the gradients, 1.9 to 2.9 without; 4.5 before there was a form for TPU.
  assert all(float(ratio) <= {"forward": 3, "and back": 2}[name] for name, ratio in found)


@pytest.mark.slow
def test_quickstart_fits_one_small_slice_and_only_reduces():
  pytest.importorskip("libtpu")
  done = compile_for("--aot=v5e:2x2")
  assert done.returncode == 0, done.stderr
  assert "of 16 GB" in done.stdout and "all-reduce x" in done.stdout
  assert "unexpected" not in done.stdout
