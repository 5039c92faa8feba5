"""A training in miniature that only a signal stops; as a program, one process of it:

    python tests/faults/stopped_run.py FOLDER [COORDINATOR PROCESSES INDEX]

It trains in FOLDER/run and exits as train.py does. Where there is a file FOLDER/fails, the last
process has no more batches after the third.
"""  # fmt: skip

import sys
from pathlib import Path

import jax

sys.path.insert(0, str(Path(__file__).parents[1]))

from small_runs import reconstruction_config

from adaconv_jax.training import loop
from adaconv_jax.training.hosts import StopRequest


def main(folder: str, *cluster: str) -> None:
  if cluster:
    jax.distributed.initialize(cluster[0], int(cluster[1]), int(cluster[2]))
  config = reconstruction_config(Path(folder), 100_000)
  if (Path(folder) / "fails").exists() and cluster[2:] == ("1",):
    fail_after(3)
  stop = StopRequest()
  loop.train_and_evaluate(config, Path(folder) / "run", stop)
  print(stop.describe(), flush=True)
  sys.exit(stop.exit_code)


def fail_after(count: int) -> None:
  """Lets no more than `count` batches be made."""
  real, calls = loop.Batches.__next__, []

  def fails(self):
    calls.append(0)
    if len(calls) > count:
      raise RuntimeError("a worker died")
    return real(self)

  loop.Batches.__next__ = fails


if __name__ == "__main__":
  main(*sys.argv[1:])
