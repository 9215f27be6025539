"""The loop that trains small networks: finds a minimum, repeats itself, and stops."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cxr_diffusion_jax.encoders import fitting

X = np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32)
Y = X @ np.array([1.0, -2.0, 0.5], np.float32)
OPTIONS = {"name": "line", "num_steps": 150, "batch_size": 8, "seed": 0}


def squared(key, params, batch):
  del key
  return jnp.square(batch["x"] @ params["w"] - batch["y"]).mean(), {"one": jnp.ones(())}


def read_batch(rows):
  return {"x": X[rows], "y": Y[rows]}


@pytest.fixture(scope="module")
def program():
  tx = optax.adam(fitting.learning_rate(0.2, OPTIONS["num_steps"]))
  return fitting.make_step_fn(squared, tx), tx


def start():
  return {"w": jnp.zeros(3)}


def test_fit_finds_the_minimum_and_repeats_itself(program):
  steps = []
  report = lambda *now: steps.append(now)  # noqa: E731
  params, losses = fitting.fit(
    *program, start(), read_batch, 20, **OPTIONS, progress=report
  )
  np.testing.assert_allclose(params["w"], [1, -2, 0.5], atol=0.02)
  assert [done for _, done, _ in steps] == list(range(1, 151))
  assert steps[0][0].startswith("line, loss ")
  assert losses[0] == {"one": 1.0, "loss": losses[0]["loss"]}
  again, same = fitting.fit(*program, start(), read_batch, 20, **OPTIONS)
  np.testing.assert_array_equal(params["w"], again["w"])
  assert losses == same


def test_fit_stops_on_a_loss_that_is_not_finite(program):
  with pytest.raises(FloatingPointError, match="line at step 0"):
    fitting.fit(*program, {"w": jnp.full(3, jnp.nan)}, read_batch, 20, **OPTIONS)


def test_shuffled_rows_are_whole_passes():
  steps = list(fitting.shuffled_rows(6, 4, 3, seed=1))
  assert [len(rows) for rows in steps] == [3] * 4
  for first in (0, 2):
    assert sorted(np.concatenate(steps[first : first + 2]).tolist()) == list(range(6))
