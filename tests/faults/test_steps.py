"""Steps that are not finite, and spikes, change no state; what is not finite is not used."""

import dataclasses
import json
import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file
from small_models import make_workdir, small_stylizer
from small_runs import by_path, reconstruction_config, trained_state

from adaconv_jax.checkpoints import bundle, orbax
from adaconv_jax.checkpoints.errors import CheckpointError
from adaconv_jax.checkpoints.load import load_model, load_start
from adaconv_jax.checkpoints.orbax import Checkpoints
from adaconv_jax.cli.export import export
from adaconv_jax.training import devices, from_config, health, loop, objective, optimizer
from adaconv_jax.training import state as states
from adaconv_jax.training import step as training

WEIGHTS = objective.LossWeights(content=1.0, style=1.0, layers={})
MODEL: Any = None


def toy_step(monkeypatch, *, rate=1e-2, above=0.0):
  """The step of a loss (p - content)^2, whose gradient is NaN where the content is 7."""

  def loss(params, _, batch, scale):
    p, content = params["p"], jnp.mean(batch["content"])
    # The root of a square at zero: the value is zero, the gradient infinity times zero.
    root = lambda p: jnp.sum(jnp.sqrt((p - jax.lax.stop_gradient(p)) ** 2))  # noqa: E731
    extra = jax.lax.cond(content == 7, root, lambda p: 0.0 * jnp.sum(p), p)
    total = jnp.sum((p - content) ** 2) + extra
    return total, {"loss": total}

  monkeypatch.setattr(training, "make_loss", lambda *_, **__: loss)
  schedule = lambda step: rate + 0.0 * step  # noqa: E731
  tx = optimizer.make_optimizer(schedule, 0.0)
  step = training.make_train_step(
    MODEL, MODEL, tx, schedule, WEIGHTS, ema_decay=0.1, skip_loss_above=above
  )
  first = states.create_state({"p": jnp.arange(3.0) + 1}, tx, average=True)
  return step, devices.replicate(first)


def advance(step, state, *contents):
  metrics: Any = {}
  for content in contents:
    batch = {"content": np.full(jax.local_device_count(), content, np.float32)}
    state, metrics = step(state, {}, devices.shard(batch))
  return state, {name: float(devices.fetch(value)) for name, value in metrics.items()}


def without_judgement(state) -> dict[str, np.ndarray]:
  plain = dataclasses.replace(devices.fetch(state), step=0, health=None)
  return {name: value for name, value in by_path(plain).items() if name != ".step"}


def assert_same(one, other):
  one, other = without_judgement(one), without_judgement(other)
  assert one.keys() == other.keys() and len(one) > 4
  for name, value in one.items():
    assert value.tobytes() == other[name].tobytes(), name


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30, 7.0])
def test_step_with_a_loss_or_gradient_that_is_not_finite_leaves_the_state_as_it_was(
  monkeypatch, bad
):
  step, state = toy_step(monkeypatch)
  expected, _ = advance(step, state, 0.5, 0.2)  # the average's decay is the same at all steps
  step, state = toy_step(monkeypatch)
  state, metrics = advance(step, state, 0.5, bad)
  assert np.isfinite(metrics["loss"]) == (bad == 7.0)
  assert (metrics["skipped"], metrics["skipped_steps"], metrics["skipped_in_a_row"]) == (1, 1, 1)
  state, metrics = advance(step, state, 0.2)
  assert (metrics["skipped"], metrics["skipped_steps"], metrics["skipped_in_a_row"]) == (0, 1, 0)
  assert_same(state, expected)
  assert int(devices.fetch(state.step)) == 3


@pytest.mark.parametrize("rate", [float("inf"), float("nan"), 3e38, 1e37])
def test_step_whose_new_state_would_not_be_finite_leaves_it_as_it_was(monkeypatch, rate):
  step, state = toy_step(monkeypatch, rate=rate)
  before = without_judgement(state)
  state, metrics = advance(step, state, 0.5)
  assert np.isfinite([metrics["loss"], metrics["gradient_norm"]]).all() and metrics["skipped"] == 1
  for name, value in without_judgement(state).items():
    assert value.tobytes() == before[name].tobytes()


def test_finite_spike_is_left_out_by_the_setting_and_only_by_it(monkeypatch):
  losses = [0.5, 0.4] * 15
  step, state = toy_step(monkeypatch, rate=1e-4, above=10.0)
  state, _ = advance(step, state, *losses)
  before = without_judgement(state)
  state, metrics = advance(step, state, 1000.0)
  assert (metrics["skipped"], metrics["spike"]) == (1, 1)
  for name, value in without_judgement(state).items():
    assert value.tobytes() == before[name].tobytes()
  step, state = toy_step(monkeypatch, rate=1e-4, above=0.0)
  state, _ = advance(step, state, *losses)
  assert advance(step, state, 1000.0)[1]["skipped"] == 0


def test_running_spread_is_that_of_the_logarithms():
  values = np.exp(np.random.default_rng(0).normal(2, 0.5, 80)).astype(np.float32)
  seen = states.new_health()
  for value in values:
    seen = health.after(seen, jnp.asarray(value), jnp.zeros((), bool), 10.0)
  assert int(seen.seen) == 80
  # Up to a hundred, every loss has the same weight.
  np.testing.assert_allclose(seen.mean, np.log(values).mean(), rtol=1e-4)
  np.testing.assert_allclose(seen.variance, np.log(values).var(), rtol=1e-3)
  limit = np.exp(np.log(values).mean() + 10 * np.log(values).std())
  assert not health.is_spike(seen, jnp.asarray(0.9 * limit), 10.0)
  assert health.is_spike(seen, jnp.asarray(1.1 * limit), 10.0)


def test_loss_that_stays_on_a_new_level_is_accepted_before_the_run_stops():
  seen, row = states.new_health(), []
  for value in [1.0, 1.2] * 50 + [2000.0] * 12:
    loss = jnp.asarray(value)
    skipped = health.is_spike(seen, loss, 10.0)
    seen = health.after(seen, loss, skipped, 10.0)
    row.append(int(seen.in_a_row))
  assert 0 < max(row) < 10 and row[-1] == 0


def test_ordinary_losses_are_never_spikes():
  rng = np.random.default_rng(1)
  falling = np.exp(3 * np.exp(-np.arange(3000) / 100) + rng.normal(0, 0.6, 3000))
  seen = states.new_health()
  update = jax.jit(
    lambda s, x: (health.is_spike(s, x, 10.0), health.after(s, x, jnp.zeros((), bool), 10.0))
  )
  for value in falling.astype(np.float32):
    spike, seen = update(seen, value)
    assert not spike


def break_the_rate(monkeypatch, since: int):
  """Makes the learning rate infinite from a step on, while the setting is a good one."""
  schedule = lambda step: jnp.where(step >= since, jnp.inf, 1e-4)  # noqa: E731
  monkeypatch.setattr(from_config, "make_schedule", lambda *_, **__: schedule)


def saved_steps(workdir) -> list[int]:
  return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdecimal())


@pytest.mark.slow
def test_bad_steps_in_a_row_stop_the_run_and_the_last_good_checkpoint_can_be_left(
  folder, monkeypatch, caplog
):
  config, workdir = reconstruction_config(folder, 9), folder / "diverged"
  config.checkpoint_every_steps, config.max_skipped_steps = 1, 3
  with monkeypatch.context() as patch:
    break_the_rate(patch, 2)
    with caplog.at_level(logging.WARNING, "adaconv_jax"):
      with pytest.raises(FloatingPointError, match="3 steps in a row, the last of them 5.*rate"):
        loop.train_and_evaluate(config, workdir)
  assert "step 3 is skipped: its result is not finite (1 in a row, 1 in all)" in caplog.text
  assert saved_steps(workdir) == [1, 2]
  assert loop.train_and_evaluate(config, workdir) == 9
  assert all(np.isfinite(value).all() for value in by_path(trained_state(config, workdir)).values())


@pytest.mark.slow
def test_bad_last_step_is_left_out_and_said(folder, monkeypatch, caplog):
  config, workdir = reconstruction_config(folder, 3), folder / "last"
  break_the_rate(monkeypatch, 2)
  with caplog.at_level(logging.WARNING, "adaconv_jax"):
    assert loop.train_and_evaluate(config, workdir) == 3
  state = trained_state(config, workdir)
  assert all(np.isfinite(value).all() for value in by_path(state).values())
  assert state.health is not None and int(state.health.skipped) == 1
  assert "1 steps were skipped" in caplog.text


def spoil(params):
  """Puts one NaN into the first parameter."""
  params = jax.tree.map(np.array, params)
  leaf = jax.tree.leaves(params)[0]
  leaf[(0,) * leaf.ndim] = np.nan
  return params


def test_state_that_is_not_finite_is_not_saved(tmp_path):
  bad = spoil({"p": np.ones(3)})
  state = states.TrainState(jnp.ones((), jnp.int32), bad, {"m": np.zeros(2)})
  with Checkpoints(tmp_path) as checkpoints, pytest.raises(ValueError, match="not finite"):
    checkpoints.save(state)


def test_checkpoint_that_is_not_finite_is_unusable_and_the_one_before_is_taken(
  tmp_path, monkeypatch
):
  stylizer = small_stylizer("adain")
  bad = dataclasses.replace(stylizer, params=spoil(stylizer.params))
  with monkeypatch.context() as patch:
    patch.setattr(orbax, "_not_finite", lambda items: None)
    both = make_workdir(tmp_path / "both", [stylizer, bad])
    only = make_workdir(tmp_path / "only", [bad])
  for name, value in by_path(load_model(both).params).items():
    np.testing.assert_array_equal(value, by_path(stylizer.params)[name])
  for use in (
    lambda: load_model(only),
    lambda: load_model(both / "checkpoints" / "200"),
    lambda: export(only, tmp_path / "m.safetensors"),
    lambda: load_start(only, stylizer.model, stylizer.vgg, stylizer.vgg_params, {}),
  ):
    with pytest.raises(CheckpointError, match="not finite"):
      use()
  template = states.TrainState(jnp.ones((), jnp.int32), stylizer.params, {"m": np.zeros(2)})
  with Checkpoints(both) as checkpoints:
    restored = checkpoints.restore(template)
    assert restored is not None and int(restored.step) == 100
    assert checkpoints.steps() == [100]
  assert (both / "checkpoints" / "200.damaged").is_dir()


def test_bundle_that_is_not_finite_is_unusable(tmp_path):
  path = tmp_path / "m.safetensors"
  bundle.save_bundle(small_stylizer("adain"), path)
  with safe_open(path, "numpy") as file:
    metadata = dict(file.metadata())
    tensors = {name: file.get_tensor(name).copy() for name in file.keys()}
  name = sorted(tensors)[0]
  tensors[name][0] = np.inf
  metadata["sha256"] = bundle._sha256(tensors, metadata)
  save_file(tensors, path, metadata)
  with pytest.raises(ValueError, match=f"m.safetensors: not a usable model: {name} has values"):
    load_model(path)


def test_checkpoint_of_an_older_version_goes_on_with_counts_of_zero(tmp_path):
  old = states.TrainState(jnp.ones((), jnp.int32), {"p": np.ones(3)}, {"m": np.zeros(2)})
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(old)
  with Checkpoints(tmp_path) as checkpoints:
    restored: Any = checkpoints.restore(dataclasses.replace(old, health=states.new_health()))
  assert json.dumps({k: float(v) for k, v in by_path(restored.health).items()}).count(": 0.0") == 5


def test_health_comes_back_as_it_was_saved(tmp_path):
  seen = health.after(states.new_health(), jnp.asarray(3.0), jnp.ones((), bool), 10.0)
  state = states.TrainState(
    jnp.ones((), jnp.int32), {"p": jnp.ones(3)}, {"m": jnp.zeros(2)}, health=seen
  )
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(devices.fetch(devices.replicate(state)))
  with Checkpoints(tmp_path) as checkpoints:
    restored: Any = checkpoints.restore(state)
  assert by_path(restored.health) == by_path(seen) and int(restored.health.skipped) == 1
