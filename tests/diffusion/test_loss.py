"""Loss weights in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.diffusion import loss, prediction, process, schedule


def test_squared_error_is_a_mean_per_sample():
  got = loss.squared_error(
    jnp.ones((2, 3, 3, 1), jnp.bfloat16),
    jnp.full((2, 3, 3, 1), 3.0),
    jnp.array([1, 0.5]),
  )
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, [4, 2])


def test_min_snr_of_the_paper():
  snr = np.float32([0.1, 1, 5, 20])
  weight = loss.MinSNR(gamma=5.0)
  clipped = np.minimum(snr, 5)
  np.testing.assert_allclose(weight(np.log(snr), "x0"), clipped, rtol=1e-5)
  np.testing.assert_allclose(weight(np.log(snr), "epsilon"), clipped / snr, rtol=1e-5)
  np.testing.assert_allclose(weight(np.log(snr), "v"), clipped / (snr + 1), rtol=1e-5)


# The paper's weight of v is for variance-preserving paths.
@pytest.mark.parametrize(
  ("path", "name"),
  [(schedule.Cosine(), name) for name in prediction.names()]
  + [(schedule.RectifiedFlow(), name) for name in ("epsilon", "velocity", "x0")],
)
def test_min_snr_weighs_the_error_of_x0_whatever_is_predicted(path, name):
  path = process.Process(schedule=path, prediction=name)
  t = jnp.array([0.2, 0.5, 0.8])
  x0, noise, error = jax.random.normal(jax.random.key(0), (3, 3, 8))
  alpha, sigma = path.coefficients(t, 2)
  x_t = alpha * x0 + sigma * noise
  target = path.target(x0, noise, t)
  logsnr = path.schedule.logsnr(t)
  weight = loss.MinSNR()
  got = loss.squared_error(target + error, target, weight(logsnr, name))
  guess = path.to_x0(target + error, x_t, t)
  want = loss.squared_error(guess, x0, weight(logsnr, "x0"))
  np.testing.assert_allclose(got, want, rtol=2e-4)


def test_uniform_is_one():
  np.testing.assert_array_equal(loss.Uniform()(jnp.array([-3.0, 4.0]), "v"), [1, 1])


def test_weightings_are_found_by_name_and_unknown_predictions_refused():
  assert loss.load("min_snr") is loss.MinSNR
  with pytest.raises(errors.InputError, match=r"\['min_snr', 'uniform'\]"):
    loss.load("p2")
  with pytest.raises(errors.InputError, match="score"):
    loss.MinSNR()(jnp.zeros(1), "score")
