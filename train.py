"""Trains AdaIN or AdaConv.

    python train.py --config configs/quickstart.py --workdir runs/first
    python train.py --config configs/adaconv.py --config.data.content=DIR --config.data.style=DIR \
      --workdir DIR

A run that was stopped goes on when the same command is given again.

    python train.py --config configs/adaconv.py --aot=v5e:2x4

tells whether the training fits into the memory of TPUs that one does not have at hand.
"""

from absl import flags

from adaconv_jax.cli import train
from adaconv_jax.cli.train import cli

flags.adopt_module_key_flags(train)  # `--help` lists them

if __name__ == "__main__":
  cli()
