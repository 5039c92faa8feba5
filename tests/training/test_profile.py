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
    if step == 2:
      tracer.start()
    assert not tracer.after(step)
  with caplog.at_level(logging.INFO):
    tracer.close()
  assert [r.getMessage() for r in caplog.records] == [
    f"the profile is in {tmp_path / 'profile'}",
    "--profile: it ends with step 3, the run's last, not 9",
  ]


def test_steps_that_a_run_does_not_do_are_a_warning_and_no_folder(tmp_path, caplog):
  tracer = Tracer(tmp_path, Span(100, 110))
  tracer.expect(0, 200)  # but it is stopped
  for step in (1, 2):
    assert not tracer.is_first(step) and not tracer.after(step)
  with caplog.at_level(logging.WARNING):
    tracer.close()
    tracer.close()
  assert [r.getMessage() for r in caplog.records] == [
    "--profile: the run did none of the steps 100 to 110"
  ]
  assert not (tmp_path / "profile").exists()


@pytest.mark.parametrize(("done", "end"), [(0, 99), (110, 200)])
def test_a_span_outside_a_run_is_a_warning_before_its_first_step(tmp_path, caplog, done, end):
  tracer = Tracer(tmp_path, Span(100, 110))
  with caplog.at_level(logging.WARNING):
    tracer.expect(done, end)
    assert not any(tracer.is_first(step) for step in range(done + 1, end + 1))
    tracer.close()
  assert [r.getMessage() for r in caplog.records] == [
    f"--profile: the run goes from step {done + 1} to {end}, and records none of 100 to 110"
  ]


@pytest.mark.parametrize(("done", "end"), [(0, 100), (109, 200)])
def test_a_span_of_which_a_run_does_a_step_is_no_warning(tmp_path, caplog, done, end):
  tracer = Tracer(tmp_path, Span(100, 110))
  tracer.expect(done, end)
  assert not caplog.records and any(map(tracer.is_first, range(done + 1, end + 1)))
