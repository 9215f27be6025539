"""Preconditioning: the paper's coefficients, unit variances, the exact denoiser."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.diffusion import preconditioning, schedule
from cxr_diffusion_jax.diffusion.process import Process

PATHS = [
  schedule.EDM(),
  schedule.VP(),
  schedule.Cosine(),
  schedule.RectifiedFlow(),
  schedule.ScaledLinear(zero_terminal_snr=True),
]
STD = 0.7
T = jnp.array([0.0, 0.1, 0.5, 0.9, 1.0])


def test_edm_has_the_coefficients_of_the_paper():
  sigma = np.float32([0.002, 0.1, 1, 10, 80])
  path = Process(schedule=schedule.EDM(), prediction="x0")
  t = path.schedule.time_of_logsnr(-2 * np.log(sigma))
  around = preconditioning.EDM(sigma_data=0.5)
  ones, zeros = jnp.ones((5, 4000)), jnp.zeros((5, 4000))
  total = sigma**2 + 0.25
  x, time = around.inputs(path, ones, t)
  np.testing.assert_allclose(x[:, 0], total**-0.5, rtol=1e-5)
  # An affine map of log(sigma) / 4.
  wanted = 1000 * np.log(sigma / 0.002) / np.log(80 / 0.002)
  np.testing.assert_allclose(time, wanted, atol=1e-3)
  skip = around.output(path, ones, t, zeros)
  np.testing.assert_allclose(skip[:, 0], 0.25 / total, rtol=1e-5)
  out = around.output(path, zeros, t, ones)
  np.testing.assert_allclose(out[:, 0], sigma * 0.5 / total**0.5, rtol=1e-5)


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_edm_gives_inputs_and_targets_unit_variance(path):
  path = Process(schedule=path, prediction="x0")
  around = preconditioning.EDM(sigma_data=STD)
  x0 = STD * jax.random.normal(jax.random.key(0), (5, 4000))
  x_t, _ = path.corrupt(jax.random.key(1), x0, T)
  x, time = around.inputs(path, x_t, T)
  np.testing.assert_allclose(x.std(axis=1), 1, atol=0.05)
  assert np.all(np.diff(time) > 0)
  np.testing.assert_allclose(time[0], 0, atol=1e-3)
  np.testing.assert_allclose(time[-1], 1000, atol=1e-2)
  # What the network should answer, where it has a say at all.
  zero = around.output(path, x_t, T, jnp.zeros_like(x_t))
  reach = around.output(path, x_t, T, jnp.ones_like(x_t)) - zero
  reported = np.asarray(path.schedule.sigma(T)) > 0.01
  wanted = ((x0 - zero) / reach)[reported]
  np.testing.assert_allclose(wanted.std(axis=1), 1, atol=0.05)


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_edm_exact_network_of_gaussian_data_is_zero_around_its_mean(path):
  """For N(0, sigma_data^2) skipping alone is the best denoiser there is."""
  path = Process(schedule=path, prediction="x0")
  x_t = jax.random.normal(jax.random.key(0), (5, 4000))
  denoise_fn = preconditioning.wrap(
    preconditioning.EDM(sigma_data=STD), path, lambda x, time, c: jnp.zeros_like(x)
  )
  alpha, sigma = path.coefficients(T, 2)
  best = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * x_t
  np.testing.assert_allclose(denoise_fn(x_t, T, ()), best, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_edm_exact_network_of_shifted_data_is_the_exact_denoiser(path):
  """N(1.5, 0.4^2) with another sigma_data: the network has to answer the rest."""
  path = Process(schedule=path, prediction="x0")
  around = preconditioning.EDM(sigma_data=STD)
  x_t = jax.random.normal(jax.random.key(0), (5, 4000))
  alpha, sigma = path.coefficients(T, 2)
  ideal = 1.5 + alpha * 0.16 * (x_t - alpha * 1.5) / (alpha**2 * 0.16 + sigma**2)
  norm = jnp.sqrt(sigma**2 + alpha**2 * STD**2)

  def network(x, time, context):
    """Of its own inputs: x is x_t / norm."""
    del time, context
    skipped = alpha * STD**2 / norm * x
    value = x * norm
    best = 1.5 + alpha * 0.16 * (value - alpha * 1.5) / (alpha**2 * 0.16 + sigma**2)
    # It has no say where there is no noise.
    return (best - skipped) / jnp.maximum(sigma * STD / norm, 1e-9)

  got = preconditioning.wrap(around, path, network)(x_t, T, ())
  np.testing.assert_allclose(got, ideal, rtol=1e-4, atol=1e-5)


def test_identity_changes_only_the_unit_of_time():
  def network(x, time, context):
    return x + time[:, None] + context

  denoise_fn = preconditioning.wrap(preconditioning.Identity(), Process(), network)
  got = denoise_fn(jnp.ones((2, 3)), jnp.array([0.0, 0.25]), 5.0)
  np.testing.assert_array_equal(got, [[6] * 3, [256] * 3])


def test_preconditioning_refuses_other_predictions_and_values():
  for name in ("epsilon", "v", "velocity"):
    with pytest.raises(errors.InputError, match=f"prediction '{name}'; expected 'x0'"):
      preconditioning.EDM().check(Process(prediction=name))
  preconditioning.EDM().check(Process(prediction="x0"))
  preconditioning.Identity().check(Process())
  with pytest.raises(errors.InputError, match="sigma_data=0"):
    preconditioning.EDM(sigma_data=0.0)
  with pytest.raises(errors.InputError, match="one of edm, none"):
    preconditioning.load("vp")
