"""Corruption has the moments it says, and answers lead back to the data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.diffusion import prediction, process, schedule


def test_corrupt_has_the_moments_of_the_path():
  path = process.Process(schedule=schedule.RectifiedFlow())
  t = jnp.array([0.0, 0.25, 0.5, 1.0])
  x0 = jnp.full((4, 100, 100), 2.0)
  x_t, noise = path.corrupt(jax.random.key(0), x0, t)
  np.testing.assert_allclose(x_t.mean(axis=(1, 2)), 2 * (1 - t), atol=0.04)
  np.testing.assert_allclose(x_t.std(axis=(1, 2)), t, atol=0.03)
  np.testing.assert_array_equal(x_t[0], x0[0])
  np.testing.assert_array_equal(x_t[3], noise[3])
  np.testing.assert_allclose(noise.std(axis=(1, 2)), 1, atol=0.03)


@pytest.mark.parametrize("name", prediction.names())
@pytest.mark.parametrize(
  "path", [schedule.RectifiedFlow(), schedule.Cosine(), schedule.ScaledLinear()]
)
def test_target_leads_back_to_the_data(path, name):
  path = process.Process(schedule=path, prediction=name)
  x0 = jax.random.normal(jax.random.key(0), (3, 2, 2, 1))
  t = jnp.array([0.1, 0.5, 0.9])
  x_t, noise = path.corrupt(jax.random.key(1), x0, t)
  target = path.target(x0, noise, t)
  ends = path.coefficients(t, x_t.ndim)
  got_x0, got_noise = prediction.split(name, target, x_t, *ends)
  np.testing.assert_allclose(got_x0, x0, atol=1e-4)
  np.testing.assert_allclose(got_noise, noise, atol=1e-4)


def test_process_velocity_is_the_derivative_of_the_straight_path():
  path = process.Process()
  x0 = jax.random.normal(jax.random.key(0), (1, 3))
  noise = jax.random.normal(jax.random.key(1), (1, 3))

  def at(t):
    alpha, sigma = path.coefficients(t, 2)
    return alpha * x0 + sigma * noise

  t = jnp.array([0.3])
  _, derivative = jax.jvp(at, (t,), (jnp.ones(1),))
  np.testing.assert_allclose(derivative, path.target(x0, noise, t), atol=1e-5)


def test_process_refuses_an_unknown_prediction():
  with pytest.raises(errors.InputError, match="score"):
    process.Process(prediction="score")
