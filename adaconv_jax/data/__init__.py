"""Images for training. Worker processes import this package, so it does not import JAX."""
