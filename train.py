"""Trains AdaIN or AdaConv: `adaconv train` from a clone.

    python train.py --config quickstart --workdir runs/first
    python train.py --config configs/adaconv.py --workdir runs/adaconv \
      --config.data.content=DIR --config.data.style=DIR

Rerun the same command to resume. `python train.py --help` describes the options.
"""

from adaconv_jax.cli.main import program

if __name__ == "__main__":
  program("train", prog="python train.py")
