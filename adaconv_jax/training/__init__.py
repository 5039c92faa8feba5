"""The training step, its devices, and what a run shows and keeps."""
