"""The learning rate's course and what weight decay touches."""

import jax.numpy as jnp
import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.training import optimizer


def test_learning_rate_warms_up_then_follows_a_cosine():
  settings = optimizer.OptimizerSettings(
    learning_rate=1.0, warmup_steps=10, final_rate=0.1
  )
  rate = optimizer.learning_rate(settings, 110)
  assert 0 < rate(0) < 0.2
  np.testing.assert_allclose(rate(10), 1.0, rtol=1e-6)
  np.testing.assert_allclose(rate(60), 0.55, rtol=1e-6)
  np.testing.assert_allclose(rate(110), 0.1, rtol=1e-6)


def test_learning_rate_stays_constant():
  settings = optimizer.OptimizerSettings(learning_rate=0.5, schedule="constant")
  rate = optimizer.learning_rate(settings, 10)
  assert rate(0) == rate(9) == rate(1000) == 0.5


def test_make_optimizer_decays_only_kernels():
  settings = optimizer.OptimizerSettings(
    learning_rate=0.1, schedule="constant", weight_decay=0.5
  )
  params = {"conv": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}}
  chain = optimizer.make_optimizer(settings, 10)
  zeros = {"conv": {"kernel": jnp.zeros((2, 2)), "bias": jnp.zeros(2)}}
  updates, _ = chain.update(zeros, chain.init(params), params)
  np.testing.assert_allclose(updates["conv"]["kernel"], -0.05, rtol=1e-6)
  np.testing.assert_array_equal(updates["conv"]["bias"], 0.0)


def test_learning_rate_of_the_inverse_root_needs_no_last_step():
  settings = optimizer.OptimizerSettings(
    learning_rate=2.0, schedule="inverse_sqrt", warmup_steps=5, decay_after=100
  )
  for num_steps in (50, 5000):
    rate = optimizer.learning_rate(settings, num_steps)
    assert rate(0) < rate(4) < 2
    np.testing.assert_allclose(rate(5), 2.0, rtol=1e-6)
    np.testing.assert_allclose(rate(100), 2.0, rtol=1e-6)
    np.testing.assert_allclose(rate(400), 1.0, rtol=1e-6)
    np.testing.assert_allclose(rate(10_000), 0.2, rtol=1e-6)
  with pytest.raises(errors.InputError, match="decay_after=0"):
    optimizer.OptimizerSettings(learning_rate=1.0, decay_after=0)


def test_make_optimizer_normalises_only_unit_weights():
  settings = optimizer.OptimizerSettings(
    learning_rate=0.1, schedule="constant", unit_weights=True
  )
  draw = np.random.default_rng(0).standard_normal
  params = {
    "conv": {"weight": np.float32(3 * draw((3, 3, 4, 5)))},
    "project": {"kernel": np.float32(draw((4, 5)))},
  }
  chain = optimizer.make_optimizer(settings, 10)
  updates, _ = chain.update(params, chain.init(params), params)
  after = params["conv"]["weight"] + np.asarray(updates["conv"]["weight"])
  np.testing.assert_allclose(np.mean(after**2, axis=(0, 1, 2)), 1.0, rtol=1e-5)
  # Adam's first step is its learning rate, whatever the gradient.
  step = np.abs(updates["project"]["kernel"])
  np.testing.assert_allclose(step, 0.1, rtol=1e-3)


def test_optimizer_settings_refuse_an_unknown_schedule():
  with pytest.raises(errors.InputError, match="schedule='linear'"):
    optimizer.OptimizerSettings(learning_rate=1.0, schedule="linear")
