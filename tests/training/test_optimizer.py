"""The optimizer and its schedules."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_models import small_stylizer

from adaconv_jax.training import optimizer


def test_published_schedule_divides_by_one_plus_decay_times_step():
  schedule = optimizer.make_schedule(
    1e-4, warmup_steps=0, decay="inverse_time", decay_rate=5e-5, num_steps=160_000
  )
  assert np.isclose(schedule(0), 1e-4)
  assert np.isclose(schedule(20_000), 1e-4 / 2)
  assert np.isclose(schedule(160_000), 1e-4 / 9)


def test_warmup_grows_linearly_and_cosine_ends_at_zero():
  schedule = optimizer.make_schedule(
    1.0, warmup_steps=4, decay="cosine", decay_rate=0.0, num_steps=1000
  )
  for step, rate in enumerate([0.25, 0.5, 0.75, 1.0]):
    assert np.isclose(schedule(step), rate, atol=1e-4)
  assert np.isclose(schedule(500), 0.5, atol=1e-6)
  assert np.isclose(schedule(1000), 0.0, atol=1e-6)


def test_unknown_decay_is_refused_by_name():
  with pytest.raises(ValueError, match="optimizer.decay.*'linear'"):
    optimizer.make_schedule(1.0, warmup_steps=0, decay="linear", decay_rate=0.0, num_steps=1)


@pytest.mark.parametrize("clip_norm", [0.0, 10.0])
def test_optimizer_is_adam_on_gradients_clipped_to_a_global_norm(clip_norm):
  params = {"a": jnp.zeros(3), "b": jnp.zeros(())}
  # Adam's first step ignores the gradient's size; the second one shows whether it was clipped.
  steps = [{"a": jnp.full(3, 100.0), "b": jnp.ones(())}, {"a": jnp.ones(3), "b": jnp.ones(())}]
  tx, plain = optimizer.make_optimizer(lambda step: 0.1, clip_norm), optax.adam(0.1)
  state, plain_state = tx.init(params), plain.init(params)
  for grads in steps:
    norm = float(np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(grads))))
    scale = min(1.0, clip_norm / norm) if clip_norm else 1.0
    clipped = jax.tree.map(lambda g, scale=scale: g * scale, grads)
    updates: Any
    expected: Any
    updates, state = tx.update(grads, state)
    expected, plain_state = plain.update(clipped, plain_state)
    for name in params:
      np.testing.assert_allclose(updates[name], expected[name], rtol=1e-5)


@pytest.mark.slow
def test_style_rate_scales_the_steps_of_the_style_encoder_and_the_spatial_predictors_alone():
  stylizer = small_stylizer("adaconv")
  params, names = stylizer.params, stylizer.model.slow_params
  grads = jax.tree.map(jnp.ones_like, params)
  tx, plain = (optimizer.make_optimizer(lambda _: 0.1, 10.0, rate, names) for rate in (0.25, 1.0))
  updates: Any = jax.jit(tx.update)(grads, tx.init(params), params)[0]
  expected: Any = jax.jit(plain.update)(grads, plain.init(params), params)[0]
  slow = set()
  for path, update in jax.tree.flatten_with_path(updates)[0]:
    names = [key.key for key in path]
    plain_update = functools.reduce(lambda part, name: part[name], names, expected)
    if not np.array_equal(update, plain_update):
      np.testing.assert_allclose(update, 0.25 * plain_update)
      slow.add(names[0] if names[0] == "style_encoder" else names[1])
  assert slow == {"style_encoder", "spatial"}
  assert all(np.any(x) for x in jax.tree.leaves(updates))


@pytest.mark.parametrize("rate", [0.0, -1.0])
def test_a_style_rate_that_is_not_above_zero_is_refused_by_name(rate):
  with pytest.raises(ValueError, match="optimizer.style_rate.*above 0"):
    optimizer.make_optimizer(lambda _: 0.1, 10.0, rate)
