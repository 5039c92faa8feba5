"""Measures exported models in their runtimes, beside ours and PyTorch.

    pip install -e '.[onnx,bench]'
    python -m benchmarks.exports [--quick] [--size 512] [--tflite FOLDER]

The shipped models are exported and make one picture from a content and a style at alpha 1. Every
runtime has a process of its own, several times in turns. The time is the median of the calls after
the first; the memory is the peak above that of the imports, which includes loading and, in JAX,
compiling. A row is left out where its package is missing. TensorFlow Lite files are written in an
environment of their own, so they are taken from a folder: `adain-512.tflite`.
"""

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.memory import ROOT, forget_peak, status, watch
from benchmarks.report import format_seconds, markdown

MODELS = ("adain", "adaconv")
CALLS = 3  # timed, in each process
FIRST = "JAX, this package"

Run = Callable[[], Any]  # returns a NumPy array
# Yields once its packages are imported, then the function that makes the picture.
Runtime = Iterator[Run | None]


def _ours(model: str, file: Path, inputs: dict[str, np.ndarray]) -> Runtime:
  del file
  from adaconv_jax import load_model, stages
  from adaconv_jax.host_cpu import keep_memory

  keep_memory()
  yield None
  stylizer = load_model(model)
  content, style = inputs["content"], inputs["style"]
  yield lambda: np.asarray(stages.render(stylizer, content, stages.encode(stylizer, style), None))


def _onnx(model: str, file: Path, inputs: dict[str, np.ndarray]) -> Runtime:
  del model
  import onnxruntime  # pyright: ignore[reportMissingImports]

  yield None
  session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
  yield lambda: session.run(None, inputs)[0]


def _stablehlo(model: str, file: Path, inputs: dict[str, np.ndarray]) -> Runtime:
  del model
  import jax
  from jax import export

  yield None
  call = jax.jit(export.deserialize(bytearray(file.read_bytes())).call)
  yield lambda: np.asarray(call(*(inputs[name] for name in ("content", "style", "alpha"))))


def _tflite(model: str, file: Path, inputs: dict[str, np.ndarray]) -> Runtime:
  del model
  import os

  from ai_edge_litert.interpreter import Interpreter  # pyright: ignore[reportMissingImports]

  yield None
  run = Interpreter(str(file), num_threads=os.cpu_count()).get_signature_runner()
  yield lambda: run(**inputs)["picture"]


def _torch(model: str, file: Path, inputs: dict[str, np.ndarray]) -> Runtime:
  del file
  import gc

  from adaconv_jax import load_model
  from benchmarks.peer import StylizerPeer, to_images, to_tensor

  stylizer = load_model(model)
  size, style = stylizer.model.style_size, inputs["style"]
  fitted = style if size is None else stylizer.fit_style(style)
  peer = StylizerPeer(stylizer)
  content, style = to_tensor(inputs["content"]), to_tensor(np.asarray(fitted))
  del stylizer, fitted
  gc.collect()  # its weights are copied from ours, whose memory is not PyTorch's
  yield None
  yield lambda: to_images(peer.pair(content, style))


# By the name that the table shows: the function, the suffix of its file (or none), and its package.
RUNTIMES: dict[str, tuple[Callable[..., Runtime], str, str]] = {
  FIRST: (_ours, "", "jax"),
  "onnxruntime, float32": (_onnx, "-float32.onnx", "onnxruntime"),
  "onnxruntime, float16": (_onnx, "-float16.onnx", "onnxruntime"),
  "StableHLO in JAX, float16": (_stablehlo, "-float16.stablehlo", "jax"),
  "LiteRT, float16": (_tflite, "-{size}.tflite", "ai_edge_litert"),
  "PyTorch (eager)": (_torch, "", "torch"),
}


def main(argv: Sequence[str] | None = None) -> None:
  """Prints the tables, or as a child process measures one runtime."""
  parser = argparse.ArgumentParser(prog="python -m benchmarks.exports", description=__doc__)
  parser.formatter_class = argparse.RawDescriptionHelpFormatter
  parser.add_argument("--quick", action="store_true", help="AdaIN at 128 x 128, one round")
  parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
  parser.add_argument("--size", type=int, default=512)
  parser.add_argument("--rounds", type=int, default=3, help="processes of each runtime")
  parser.add_argument("--tflite", type=Path, default=Path(), metavar="FOLDER")
  parser.add_argument("--one", nargs=3, metavar=("RUNTIME", "MODEL", "FILE"), help="for a child")
  args = parser.parse_args(argv)
  if args.quick:
    args.size, args.rounds = 128, 1
  if args.one:
    runtime, model, file = args.one
    print(json.dumps(_measure(runtime, model, file, args.size)))
    return
  from benchmarks.run import describe_machine

  described = describe_machine(importlib.util.find_spec("torch") is not None)
  for package in ("onnxruntime", "ai-edge-litert"):
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      described[package] = importlib.metadata.version(package)
  for name, value in described.items():
    print(f"{name}: {value}")
  for model in args.models[: 1 if args.quick else None]:
    with tempfile.TemporaryDirectory() as folder:
      rows = _compare(model, args, _files(model, Path(folder), args))
    print(f"\n{model}, one pair, {args.size} x {args.size}\n\n{rows}", flush=True)


def _files(model: str, folder: Path, args: argparse.Namespace) -> dict[str, Path]:
  """Exports a model, and returns the file of every runtime that is installed; "." where none is."""
  from adaconv_jax.cli.export import export_graphs

  files = {}
  for name, (_, suffix, package) in RUNTIMES.items():
    if importlib.util.find_spec(package) is None:
      continue
    path = folder / (model + suffix)
    if suffix.endswith(".tflite"):
      path = args.tflite / (model + suffix.format(size=args.size))
      if not path.exists():
        continue
    elif suffix:
      kind, dtype = path.suffix[1:], path.stem.rpartition("-")[2]
      if kind == "onnx" and importlib.util.find_spec("onnx") is None:
        continue
      export_graphs(model, path, kind, dtype=dtype)
    files[name] = path if suffix else Path()
  return files


def _compare(model: str, args: argparse.Namespace, files: dict[str, Path]) -> str:
  times: dict[str, list[float]] = {name: [] for name in files}
  peaks: dict[str, list[int]] = {name: [] for name in files}
  for _ in range(args.rounds):
    for name, path in files.items():
      one = ["--size", str(args.size), "--one", name, model, str(path)]
      done = watch([sys.executable, "-m", "benchmarks.exports", *one])
      if done.stopped:
        raise RuntimeError(f"{name}: stopped, because it used {done.peak} bytes")
      seconds, peak = json.loads(done.output.splitlines()[-1])
      times[name].append(seconds)
      peaks[name].append(peak)
  seconds, memory = (
    {name: statistics.median(values) for name, values in measured.items()}
    for measured in (times, peaks)
  )
  rows = [
    [
      name,
      format_seconds(seconds[name]),
      f"{seconds[name] / seconds[FIRST]:.2f}",
      f"{memory[name] / 1e6:.0f}",
      f"{memory[name] / memory[FIRST]:.2f}",
      f"{files[name].stat().st_size / 1e6:.0f}" if files[name].is_file() else "–",
    ]
    for name in files
  ]
  header = ["runtime", "time", "of ours", "peak MB", "of ours", "file, MB"]
  return markdown(header, rows)


def _measure(name: str, model: str, file: str, size: int) -> tuple[float, int]:
  """Returns seconds of a call, and the peak bytes above those of the imports."""
  inputs: dict[str, Any] = {
    role: _picture(role, size) for role in ("content", "style")
  } | {"alpha": np.asarray(1, np.float32)}  # fmt: skip
  runtime = RUNTIMES[name][0](model, Path(file), inputs)
  next(runtime)
  before = status("VmRSS") or 0
  forget_peak()
  run = next(runtime)
  assert run is not None
  if run().std() < 0.05:
    raise ValueError(f"{name}: the picture is flat")
  times = []
  for _ in range(CALLS):
    start = time.perf_counter()
    run()
    times.append(time.perf_counter() - start)
  return statistics.median(times), (status("VmHWM") or 0) - before


def _picture(role: str, size: int) -> np.ndarray:
  from PIL import Image

  path = ROOT / "examples" / role / {"content": "cat.jpg", "style": "night.jpg"}[role]
  with Image.open(path) as image:
    picture = image.convert("RGB").resize((size, size))
  return np.asarray(picture, np.float32)[None] / 255


if __name__ == "__main__":
  main()
