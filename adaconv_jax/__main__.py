"""`python -m adaconv_jax` is the command `adaconv`."""

from adaconv_jax.cli.main import cli

if __name__ == "__main__":
  cli()
