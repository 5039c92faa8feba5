"""The summary of a run."""

import json

from adaconv_jax.checkpoints.record import summarize


def test_losses_of_a_summary_are_the_last_until_the_step(tmp_path):
  steps = [1, 2, 3, 2, 3]  # killed in step 3, with a checkpoint of step 1
  lines = [json.dumps({"step": s, "loss": i, "rate": 0}) for i, s in enumerate(steps)]
  (tmp_path / "metrics.jsonl").write_text("\n".join([*lines[:3], '{"step": 4, "lo', *lines[3:]]))
  for step, expected in ((1, {"step": 1, "loss": 0}), (2, {"step": 2, "loss": 3}), (0, {})):
    assert summarize(tmp_path, step)["losses"] == expected
    assert summarize(tmp_path, step)["heldout_losses"] == {}
