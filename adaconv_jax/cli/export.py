"""Writes a trained model as one file, with a summary of its training.

    python -m adaconv_jax.cli.export WORKDIR FILE.safetensors

makes one of what `train.py` has left, in half precision.
"""

import argparse
import sys
from pathlib import Path

from adaconv_jax.checkpoints.bundle import save_bundle
from adaconv_jax.checkpoints.errors import CheckpointError
from adaconv_jax.checkpoints.load import read_model, stylizer_of
from adaconv_jax.files import Json, sha256


def export(
  source: str | Path,
  path: str | Path,
  *,
  dtype: str = "float16",
  vgg_weights: str | Path | None = None,
) -> Json:
  """Writes a trained model as one file that tells how it was trained; see `save_bundle`.

  Args:
    source: a workdir or checkpoint, as for `load_model`; or a bundle, to change its precision.
    path: where to.
    dtype: "float16" or "float32".
    vgg_weights: file with the VGG weights that the model was trained with, where they are not
      found by themselves.

  Returns:
    What the file says of the training: see `workdir.summarize`.

  Raises:
    ValueError: see `load_model` and `save_bundle`; a part of the workdir's record is damaged.
    FileNotFoundError: a part of the workdir or the VGG weights are missing.
    CheckpointError: no checkpoint can be used, or not the one asked for.
  """
  trained = read_model(source)
  info = trained.info()
  save_bundle(stylizer_of(trained, vgg_weights), path, dtype=dtype, info=info)
  return info


def main(argv: list[str] | None = None) -> None:
  """Runs the command line; what is wrong with a model ends it with one message."""
  parser = argparse.ArgumentParser(
    prog="python -m adaconv_jax.cli.export",
    description="Writes a trained model as one file, with a summary of its training.",
  )
  parser.add_argument(
    "workdir",
    metavar="WORKDIR",
    help="of train.py, of which the newest whole checkpoint is taken; or WORKDIR/checkpoints/STEP",
  )
  parser.add_argument("file", type=Path, metavar="FILE", help="such as model.safetensors")
  parser.add_argument(
    "--dtype", choices=["float16", "float32"], default="float16", help="default: %(default)s"
  )
  parser.add_argument(
    "--vgg-weights",
    metavar="FILE",
    help="the VGG weights that it was trained with, where they are not found by themselves",
  )
  args = parser.parse_args(argv)
  try:
    info = export(args.workdir, args.file, dtype=args.dtype, vgg_weights=args.vgg_weights)
  except (ValueError, OSError, CheckpointError) as error:
    sys.exit(f"error: {error}")
  size = args.file.stat().st_size / 1e6
  print(f"{args.file}: step {info.get('steps')}, {size:.1f} MB, sha256 {sha256(args.file)}")


if __name__ == "__main__":
  main()
