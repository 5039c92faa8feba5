"""Stylizes images: `stylize` for JAX code, and `adaconv stylize` from a clone.

    python infer.py --content photo.jpg --style painting.jpg --output out.jpg
    python infer.py --content photos --style paintings --output stylized --size 512

`python infer.py --help` describes the options.
"""

from adaconv_jax.cli.main import program

if __name__ == "__main__":
  program("stylize", prog="python infer.py")

from adaconv_jax.inference import stylize  # noqa: E402 (the program does without)

__all__ = ["stylize"]
