"""Writes a model in a format of another runtime, if it computes there what it computes here."""

import contextlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

import adaconv_jax
from adaconv_jax.checkpoints.bundle import vgg_sha256
from adaconv_jax.exports import onnx, stablehlo, tflite, verify
from adaconv_jax.exports.graph import GRAPHS, check_stylizer
from adaconv_jax.files import Json, printable, replacing
from adaconv_jax.models.build import model_settings
from adaconv_jax.models.stylizer import Stylizer

# Each writes and loads its files; `load` returns a function of a graph's inputs by name.
FORMATS: Mapping[str, ModuleType] = {"onnx": onnx, "stablehlo": stablehlo, "tflite": tflite}
FIXED_SIZE = ("tflite",)
DTYPES = ("float16", "float32")
VERSION = 1
# The graphs of `GRAPHS` that are written: one file, or one for each of two in a folder.
CHOICES: Mapping[str, tuple[str, ...]] = {"one": ("stylize",), "split": ("style", "content")}
_INPUTS = "pictures: float32 RGB [1, height, width, 3] in [0, 1]; alpha: float32 [], 0 to 1"


def check_options(kind: str, graphs: str, dtype: str, size: tuple[int, int] | None) -> None:
  """Checks the options of `write`, and that a format's packages are installed.

  Raises:
    ValueError: one is not what `write` expects.
  """
  for name, value, known in (
    ("format", kind, FORMATS), ("graphs", graphs, CHOICES), ("dtype", dtype, DTYPES),
  ):  # fmt: skip
    if value not in known:
      raise ValueError(f"{name}: expected one of {list(known)}, got {value!r}")
  if kind in FIXED_SIZE and size is None:
    raise ValueError(f"size: expected height x width for {kind}, such as 512x512, got none")
  if kind not in FIXED_SIZE and size is not None:
    raise ValueError(f"size: expected none for {kind}, whose graphs take pictures of any size")
  FORMATS[kind].check_installed()


def paths_of(path: Path, kind: str, graphs: str) -> dict[str, Path]:
  """Returns the file of every graph: `path` itself, or two in the folder `path`."""
  if graphs == "one":
    return {"stylize": path}
  return {graph: path / f"{graph}.{kind}" for graph in CHOICES[graphs]}


def write(
  stylizer: Stylizer,
  path: Path,
  kind: str,
  *,
  graphs: str = "one",
  dtype: str = "float16",
  size: tuple[int, int] | None = None,
  info: Json | None = None,
) -> float:
  """Writes a model, runs what it wrote, and compares with JAX; existing files are replaced at last.

  Args:
    stylizer: the model.
    path: the file; of split graphs the folder.
    kind: one of `FORMATS`.
    graphs: "one" (from content, style and alpha), or "split": `style` and `content`.
    dtype: of the weights in the file, "float16" or "float32"; all is computed in float32.
    size: height and width of all pictures, for a format of fixed sizes; None for others.
    info: further information about the model, for people; in the metadata as JSON.

  Returns:
    The largest difference from JAX, in levels of 255, which is also in the metadata.

  Raises:
    ValueError: an option is none of these, a package is missing, the model is of another kind than
      AdaIN and AdaConv, or the difference is above `verify.LIMIT`; no file is changed then.
    OSError: a file cannot be written.
  """
  check_options(kind, graphs, dtype, size)
  check_stylizer(stylizer)
  module: Any = FORMATS[kind]
  sized = {} if size is None else {"size": size}
  with contextlib.ExitStack() as files:
    written: dict[str, Path] = {}
    for graph, final in paths_of(path, kind, graphs).items():
      written[graph] = files.enter_context(replacing(final))
      written[graph].write_bytes(module.write(stylizer, graph, dtype=dtype, **sized))
    run = _together({graph: module.load(file) for graph, file in written.items()})
    difference = verify.largest_difference(run, stylizer, verify.pairs(size))
    verify.check(difference, printable(path))
    for graph, file in written.items():
      metadata = _metadata(stylizer, kind, graph, dtype, difference, info)
      file.write_bytes(module.with_metadata(file.read_bytes(), metadata))
      module.load(file)  # raises, if the metadata have spoiled it
  return difference


def _together(graphs: Mapping[str, Callable[..., np.ndarray]]) -> verify.Run:
  def one(content: np.ndarray, style: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return graphs["stylize"](content=content, style=style, alpha=alpha)

  def split(content: np.ndarray, style: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return graphs["content"](content=content, code=graphs["style"](style=style), alpha=alpha)

  return one if "stylize" in graphs else split


def _metadata(
  stylizer: Stylizer, kind: str, graph: str, dtype: str, difference: float, info: Json | None
) -> dict[str, str]:
  names, output = GRAPHS[graph]
  vgg = stylizer.vgg
  encoder = {"arch": vgg.arch, "padding": vgg.padding}
  encoder["sha256"] = vgg_sha256(vgg.arch, stylizer.vgg_params)
  return {
    "format": f"adaconv_jax.{kind}",
    "version": str(VERSION),
    "made_by": f"adaconv_jax {adaconv_jax.__version__}",
    "graph": f"{graph}: {', '.join(names)} -> {output}",
    "inputs": _INPUTS,
    "weights": dtype,
    "largest_difference": f"{difference:.3g} of 255 levels from JAX",
    "model": json.dumps(model_settings(stylizer.model), sort_keys=True),
    "vgg": json.dumps(encoder, sort_keys=True),
    "info": json.dumps(dict(info or {}), sort_keys=True),
  }
