"""A run that is killed again and again is that of one which nothing interrupts."""

import pytest
import soak


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_run_that_is_killed_every_few_seconds_equals_an_unbroken_one_bit_for_bit(tmp_path):
  code, line = soak.soak(tmp_path, minutes=1.2, kill_every=14)
  assert code == 0, line
  assert int(line.split()[0]) >= 3, line
