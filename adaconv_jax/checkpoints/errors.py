"""The error of checkpoints. In its own file, because `orbax.py` takes a second to import."""


class CheckpointError(RuntimeError):
  """There are checkpoints, but none of them can be used."""
