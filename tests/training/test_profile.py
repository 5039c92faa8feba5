import logging

import pytest

from adaconv_jax.training.profile import Span, Tracer


@pytest.mark.parametrize(
  "text", ["", "5", "0:0", "0:3", "5:3", "a:b", "-1:2", "1:2:3", "1:", "²:³"]
)
def test_a_span_that_is_none_is_refused(text):
  with pytest.raises(ValueError, match="--profile: expected the first and the last step"):
    Span.parse(text)


def test_a_span_that_the_run_does_not_end_is_a_warning(tmp_path, caplog):
  tracer = Tracer(tmp_path, Span(2, 9))
  for step in (1, 2, 3):
    assert tracer.is_first(step) == (step == 2)
    tracer.before(step)
  with caplog.at_level(logging.INFO):
    tracer.close()
  assert [r.getMessage() for r in caplog.records] == [
    f"the profile is in {tmp_path / 'profile'}",
    "--profile: it ends with step 3, the run's last, not 9",
  ]


def test_steps_that_a_run_does_not_do_are_a_warning_and_no_folder(tmp_path, caplog):
  tracer = Tracer(tmp_path, Span(100, 110))
  for step in (1, 2):
    tracer.before(step)
    assert not tracer.is_last(step)
  with caplog.at_level(logging.WARNING):
    tracer.close()
    tracer.close()
  assert [r.getMessage() for r in caplog.records] == [
    "--profile: the run did none of the steps 100 to 110"
  ]
  assert not (tmp_path / "profile").exists()
