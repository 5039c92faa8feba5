"""How images and kernels lie in memory, the same on every platform."""

DIMENSION_NUMBERS = ("NHWC", "HWIO", "NHWC")
