"""The summary of a run."""

import json

import pytest

from adaconv_jax.checkpoints.record import check_record, summarize


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_workdir_that_is_no_folder_is_refused_with_the_way_out(tmp_path, name):
  (tmp_path / "file").write_text("mine")
  expected = r"^workdir: expected a folder .*/file is not a folder; use another --workdir$"
  with pytest.raises(ValueError, match=expected):
    check_record(tmp_path / name, {"model": {}}, {})


def test_losses_of_a_summary_are_the_last_until_the_step(tmp_path):
  steps = [1, 2, 3, 2, 3]  # killed in step 3, with a checkpoint of step 1
  lines = [json.dumps({"step": s, "loss": i, "rate": 0}) for i, s in enumerate(steps)]
  (tmp_path / "metrics.jsonl").write_text("\n".join([*lines[:3], '{"step": 4, "lo', *lines[3:]]))
  for step, expected in ((1, {"step": 1, "loss": 0}), (2, {"step": 2, "loss": 3}), (0, {})):
    assert summarize(tmp_path, step)["losses"] == expected
    assert summarize(tmp_path, step)["heldout_losses"] == {}
