"""The four predictions are four names of one thing."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.diffusion import prediction

PAIRS = list(itertools.product(prediction.names(), repeat=2))


@pytest.mark.parametrize(("source", "wanted"), PAIRS)
@pytest.mark.parametrize(("alpha", "sigma"), [(0.7, 0.3), (0.6, 0.8)])
def test_convert_is_exact_between_all_predictions(source, wanted, alpha, sigma):
  x0, noise = jax.random.normal(jax.random.key(0), (2, 3, 4))
  x_t = alpha * x0 + sigma * noise
  given = prediction.target(source, x0, noise, alpha, sigma)
  got = prediction.convert(given, source, wanted, x_t, alpha, sigma)
  want = prediction.target(wanted, x0, noise, alpha, sigma)
  np.testing.assert_allclose(got, want, atol=2e-6)


@pytest.mark.parametrize("name", prediction.names())
@pytest.mark.parametrize(("alpha", "sigma"), [(1.0, 0.0), (0.0, 1.0)])
def test_split_is_finite_at_both_ends(name, alpha, sigma):
  x0, noise = jax.random.normal(jax.random.key(0), (2, 3, 4))
  x_t = alpha * x0 + sigma * noise
  given = prediction.target(name, x0, noise, alpha, sigma)
  got_x0, got_noise = prediction.split(name, given, x_t, alpha, sigma)
  assert np.all(np.isfinite(got_x0))
  assert np.all(np.isfinite(got_noise))
  np.testing.assert_allclose(alpha * got_x0 + sigma * got_noise, x_t, atol=1e-6)
  if name in ("v", "velocity"):
    known_x0, known_noise = (got_x0, got_noise)
    if alpha == 0 and name == "v":
      known_noise, noise = got_noise, x_t
    np.testing.assert_allclose(known_x0, x0, atol=1e-6)
    np.testing.assert_allclose(known_noise, noise, atol=1e-6)


def test_check_refuses_an_unknown_prediction():
  with pytest.raises(errors.InputError, match="velocity"):
    prediction.check("score")
  with pytest.raises(ValueError, match="score"):
    prediction.target("score", jnp.zeros(1), jnp.zeros(1), 0.5, 0.5)
