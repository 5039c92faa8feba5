"""Strips of small pictures."""

import pytest

from adaconv_jax.ops import tiling


def use_strips(patch: pytest.MonkeyPatch, strip_bytes: int) -> None:
  """Has pictures of any size rendered in strips of so many bytes, however short these are."""
  patch.setattr(tiling, "WHOLE_BYTES", 0)
  patch.setattr(tiling, "STRIP_BYTES", strip_bytes)
  patch.setattr(tiling, "MARGINS", 0)
