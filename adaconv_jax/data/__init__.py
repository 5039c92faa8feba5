"""Images for training. Worker processes import this package, so it stays free of JAX."""
