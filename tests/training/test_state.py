"""The moving average of the parameters."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from adaconv_jax.training import state as states


@pytest.mark.parametrize(("decay", "steps"), [(0.9, 200), (0.999, 30)])
def test_average_weighs_the_parameters_by_powers_of_a_decay_that_grows_to_its_own(decay, steps):
  values = np.random.default_rng(0).standard_normal(steps)
  average: Any = {"a": jnp.asarray(1000.0)}
  for step, value in enumerate(values):
    average = states.moving_average(
      average, {"a": jnp.asarray(value)}, jnp.asarray(step, jnp.int32), decay
    )
  decays = [min(decay, (1 + step) / (10 + step)) for step in range(steps)]
  weights = [(1 - decays[i]) * np.prod(decays[i + 1 :]) for i in range(steps)]
  np.testing.assert_allclose(average["a"], np.dot(weights, values), rtol=1e-4, atol=1e-4)
  assert np.isclose(sum(weights), 1, atol=1e-7)  # nothing is left of the 1000
