"""Data to noise and back: against the exact denoiser of Gaussian data."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_diffusion_jax.diffusion import inversion, process, sampler, schedule, times

MEAN, STD = 1.5, 0.3

# Of each kind: a straight line, variance preserving, discrete levels.
PATHS = {
  "rectified_flow": schedule.load("rectified_flow")(),
  "cosine": schedule.load("cosine")(),
  "scaled_linear": schedule.load("scaled_linear")(),
}


def _denoise(path: process.Process, x_t, t, context):
  """The best guess of the data is linear in x_t where the data are normal."""
  del context
  alpha, sigma = path.coefficients(t, x_t.ndim)
  gain = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
  x0 = MEAN + gain * (x_t - alpha * MEAN)
  noise = (x_t - alpha * x0) / jnp.maximum(sigma, 1e-6)
  return path.target(x0, noise, t)


@functools.partial(jax.jit, static_argnames=("path", "num_steps", "method"))
def _round_trip(path, x0, num_steps, repeats=1, method="euler"):
  to = sampler.Sampler(
    method=sampler.load(method)(),
    num_steps=num_steps,
    times=times.Times(start=0.95),
  )
  grid = to.times.grid(path, num_steps)
  denoise_fn = functools.partial(_denoise, path)
  x_t = inversion.invert(path, denoise_fn, x0, (), grid, repeats=repeats)
  return x_t, to(path, denoise_fn, x_t, ()), (grid.alpha[0], grid.sigma[0])


@pytest.fixture
def x0() -> np.ndarray:
  return (MEAN + STD * np.linspace(-2, 2, 9, dtype=np.float32))[:, None]


@pytest.mark.parametrize("name", PATHS)
def test_inversion_of_a_gaussian_equals_its_ode(name, x0):
  """A Gaussian's flow carries each quantile to the same quantile."""
  path = process.Process(schedule=PATHS[name])
  errors = []
  for num_steps in (32, 64, 128):
    x_t, _, (alpha, sigma) = _round_trip(path, x0, num_steps)
    spread = jnp.sqrt(alpha**2 * STD**2 + sigma**2)
    exact = alpha * MEAN + spread * (x0 - MEAN) / STD
    errors.append(np.abs(x_t - exact).max())
  # The first order, whose error halves with the steps.
  orders = np.log2(np.divide(errors[:-1], errors[1:]))
  np.testing.assert_allclose(orders, 1, atol=0.25)
  assert errors[-1] < 0.15


@pytest.mark.parametrize("method", ["ddim", "heun"])
def test_inversion_round_trip_closes_at_first_order(method, x0):
  path = process.Process()
  errors = [
    float(np.abs(_round_trip(path, x0, n, method=method)[1] - x0).max())
    for n in (32, 64, 128)
  ]
  orders = np.log2(np.divide(errors[:-1], errors[1:]))
  np.testing.assert_allclose(orders, 1, atol=0.25)


@pytest.mark.parametrize("prediction", ["epsilon", "velocity", "x0"])
def test_inversion_with_corrections_is_exact(prediction, x0):
  path = process.Process(prediction=prediction)
  errors = [
    float(np.abs(_round_trip(path, x0, 12, repeats=k)[1] - x0).max())
    for k in (1, 2, 4, 12)
  ]
  assert errors[0] > 0.01
  assert errors == sorted(errors, reverse=True)
  assert errors[-1] < 1e-4
