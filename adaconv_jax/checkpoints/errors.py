"""What can be wrong with a checkpoint. Apart from `orbax.py`, which takes a second to import."""


class CheckpointError(RuntimeError):
  """Checkpoints are there, but none of them can be used."""
