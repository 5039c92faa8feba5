"""Everything that is read back later: bundles, checkpoints, the record of a run."""
