"""A small training in a bucket, as a program: python tests/bucket_run.py WORKDIR DATA STEPS [EVERY]

It trains in WORKDIR on the images in DATA/content and DATA/style, saves every EVERY steps, and ends
as `adaconv train` does.
"""  # fmt: skip

import logging
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from small_runs import reconstruction_config

from adaconv_jax.cli import main as command
from adaconv_jax.cli import train
from adaconv_jax.ops.conv import dispatch
from adaconv_jax.training import loop

# The environment variable with the size from which on convolutions are the package's own.
CONVOLUTIONS = "TEST_SMALLEST_ON_CPU"


def bucket_config(data: str, steps: int, every: int) -> Any:
  """One that compiles little; the images are in a bucket."""
  config = reconstruction_config(Path("unused"), steps)
  config.data.content, config.data.style = f"{data}/content", f"{data}/style"
  config.checkpoint_every_steps = every
  return config


def run(workdir: str, data: str, steps: str, every: str = "2") -> int:
  dispatch.SMALLEST_ON_CPU = int(os.environ.get(CONVOLUTIONS, dispatch.SMALLEST_ON_CPU))
  logging.basicConfig(level=logging.WARNING, format="%(message)s")
  logging.getLogger("adaconv_jax").setLevel(logging.INFO)
  train.quiet_libraries()
  try:
    loop.train_and_evaluate(bucket_config(data, int(steps), int(every)), Path(workdir))
  except (OSError, *train.FAILURES) as error:
    sys.exit(f"error: {error}")
  return 0


if __name__ == "__main__":
  train.main = lambda argv=None, *, prog="": run(*(argv or ()))
  command.program("train", prog="bucket_run.py")
