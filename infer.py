"""Stylizes images: `stylize` for JAX code, and the command line around it.

    python infer.py --model runs/first --content photo.jpg --style painting.jpg --output out.jpg
    python infer.py --content photos --style paintings --output stylized --size 512

`python infer.py --help` tells the rest.
"""

from adaconv_jax.cli.stylize import cli
from adaconv_jax.inference import stylize

__all__ = ["cli", "stylize"]

if __name__ == "__main__":
  cli()
