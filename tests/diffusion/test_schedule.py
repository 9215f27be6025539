"""Schedules: their ends, their norms, and the inverse of their logsnr."""

import jax.numpy as jnp
import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.diffusion import schedule

ALL = [
  schedule.RectifiedFlow(),
  schedule.RectifiedFlow(shift=3.0),
  schedule.Cosine(),
  schedule.scaled_linear(),
  schedule.scaled_linear(zero_terminal_snr=True),
]


@pytest.mark.parametrize("path", ALL, ids=str)
def test_from_data_to_noise(path):
  t = jnp.linspace(0, 1, 257)
  alpha, sigma, logsnr = path.alpha(t), path.sigma(t), path.logsnr(t)
  assert np.all(np.isfinite(logsnr))
  assert np.all(np.diff(alpha) <= 0)
  assert np.all(np.diff(sigma) >= 0)
  assert np.all(np.diff(logsnr) <= 0)
  assert alpha[0] > 0.999
  assert sigma[-1] > 0.99
  if isinstance(path, schedule.RectifiedFlow):
    np.testing.assert_allclose(alpha + sigma, 1, atol=1e-6)
  else:
    np.testing.assert_allclose(alpha**2 + sigma**2, 1, atol=1e-6)


@pytest.mark.parametrize(
  "path", [*ALL[:3], schedule.scaled_linear(zero_terminal_snr=True)], ids=str
)
def test_nothing_of_the_data_is_left_at_the_end(path):
  assert path.alpha(1.0) == 0
  assert path.sigma(1.0) == 1


@pytest.mark.parametrize("path", ALL, ids=str)
def test_time_of_logsnr_is_the_inverse(path):
  t = jnp.linspace(0.01, 0.99, 99)
  np.testing.assert_allclose(path.time_of_logsnr(path.logsnr(t)), t, atol=2e-5)
  ends = path.time_of_logsnr(jnp.array([1e3, -1e3]))
  np.testing.assert_allclose(ends, [0, 1], atol=2e-3)


def test_closed_forms():
  t = jnp.linspace(0.05, 0.95, 19)
  flow = schedule.RectifiedFlow()
  np.testing.assert_allclose(flow.logsnr(t), 2 * np.log((1 - t) / t), atol=1e-5)
  cosine = schedule.Cosine()
  want = -2 * np.log(np.tan(np.pi * t / 2))
  np.testing.assert_allclose(cosine.logsnr(t), want, atol=1e-5)


def test_shift_divides_the_ratio():
  # Eq. 23 of 2403.03206: the signal-to-noise ratio's root falls by the shift.
  t = jnp.linspace(0.1, 0.9, 9)
  difference = schedule.RectifiedFlow().logsnr(t) - schedule.RectifiedFlow(
    shift=3.0
  ).logsnr(t)
  np.testing.assert_allclose(difference, 2 * np.log(3), atol=1e-5)


def test_scaled_linear_has_the_published_levels():
  path = schedule.scaled_linear()
  betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
  want = np.sqrt(np.cumprod(1 - betas))
  levels = np.array([0, 1, 500, 998, 999])
  np.testing.assert_allclose(path.alpha(levels / 1000), want[levels], atol=1e-6)
  np.testing.assert_allclose(path.alpha(0.999) ** 2, 0.0046599, atol=1e-6)


def test_schedules_are_found_by_name():
  assert schedule.load("rectified_flow") is schedule.RectifiedFlow
  with pytest.raises(errors.InputError, match=r"\['cosine', 'edm', 'linear'"):
    schedule.load("karras")
