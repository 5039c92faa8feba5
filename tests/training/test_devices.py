"""Batches on many devices."""

import jax
import pytest

from adaconv_jax.training import devices


def test_batch_that_does_not_divide_over_the_devices_is_refused(monkeypatch):
  monkeypatch.setattr(jax, "device_count", lambda: 8)
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  with pytest.raises(ValueError, match=r"config\.batch_size.*8 devices, got 12; use 8 or 16"):
    devices.process_batch_size(12)
  with pytest.raises(ValueError, match="got 3; use 8"):
    devices.process_batch_size(3)
  assert devices.process_batch_size(16) == 8
