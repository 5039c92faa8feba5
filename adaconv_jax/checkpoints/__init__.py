"""Bundles, checkpoints and the record of a run: everything that is read back later."""
