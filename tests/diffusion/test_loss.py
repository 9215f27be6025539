"""Loss weights in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.diffusion import loss, preconditioning, prediction, schedule
from cxr_diffusion_jax.diffusion.process import Process

PATHS = [
  schedule.Cosine(),
  schedule.RectifiedFlow(),
  schedule.VP(),
  schedule.EDM(),
  schedule.ScaledLinear(zero_terminal_snr=True),
]
T = jnp.array([0.2, 0.5, 0.8])


def test_squared_error_is_a_mean_per_sample():
  got = loss.squared_error(
    jnp.ones((2, 3, 3, 1), jnp.bfloat16),
    jnp.full((2, 3, 3, 1), 3.0),
    jnp.array([1, 0.5]),
  )
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, [4, 2])


@pytest.mark.parametrize("path", [schedule.Cosine(), schedule.VP()], ids=str)
def test_min_snr_equals_the_paper(path):
  snr = np.float32([0.1, 2, 20])
  t = path.time_of_logsnr(np.log(snr))
  clipped = np.minimum(snr, 5)
  for name, wanted in (
    ("x0", clipped),
    ("epsilon", clipped / snr),
    ("v", clipped / (snr + 1)),
    ("velocity", clipped / (snr**0.5 + 1) ** 2),
  ):
    got = loss.MinSNR(gamma=5.0)(Process(schedule=path, prediction=name), t)
    np.testing.assert_allclose(got, wanted, rtol=2e-5, err_msg=name)


@pytest.mark.parametrize("name", prediction.names())
@pytest.mark.parametrize("path", PATHS[1:4], ids=str)
@pytest.mark.parametrize("weighting", ["min_snr", "edm", "sigmoid", "velocity"])
def test_squared_error_does_not_depend_on_the_prediction_type(weighting, path, name):
  weighting = loss.load(weighting)()
  path = Process(schedule=path, prediction=name)
  x0, noise, error = jax.random.normal(jax.random.key(0), (3, 3, 8))
  alpha, sigma = path.coefficients(T, 2)
  x_t = alpha * x0 + sigma * noise
  target = path.target(x0, noise, T)
  got = loss.squared_error(target + error, target, weighting(path, T))
  guess, _ = prediction.split(name, target + error, x_t, alpha, sigma)
  of_x0 = Process(schedule=path.schedule, prediction="x0")
  want = loss.squared_error(guess, x0, weighting(of_x0, T))
  # Of the difference of guess and data few digits are left at high noise.
  np.testing.assert_allclose(got, want, rtol=5e-3)


@pytest.mark.parametrize("path", PATHS, ids=str)
@pytest.mark.parametrize("name", prediction.names())
def test_weightings_are_finite_at_both_ends(path, name):
  t = jnp.array([1e-5, 1 - 1e-5, 1.0])
  names = ("min_snr", "edm", "sigmoid", "uniform", "linear_timestep", "velocity")
  for weighting in names:
    weight = loss.load(weighting)()(Process(schedule=path, prediction=name), t)
    assert np.all(np.isfinite(weight)), weighting
    assert np.all(weight >= 0), weighting


def test_edm_weights_the_network_alike_at_every_noise_level():
  # 1 / c_out^2 of table 1, so an error of the network counts 1 everywhere.
  path = Process(schedule=schedule.EDM(), prediction="x0")
  weight = loss.EDM(sigma_data=0.7)(path, T)
  sigma = np.asarray(path.schedule.sigma(T))
  wanted = (sigma**2 + 0.49) / (sigma * 0.7) ** 2
  np.testing.assert_allclose(weight, wanted, rtol=1e-5)
  around = preconditioning.EDM(sigma_data=0.7)
  x_t = jnp.zeros((3, 1))
  reach = around.output(path, x_t, T, jnp.ones((3, 1)))[:, 0]
  np.testing.assert_allclose(weight * reach**2, 1, rtol=1e-5)


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_velocity_weights_make_the_loss_of_x0_that_of_the_implied_velocity(path):
  x0, noise, answer = jax.random.normal(jax.random.key(1), (3, 3, 8))
  t = path.time_of_logsnr(jnp.array([-3.0, 0.0, 4.0]))
  of_x0 = Process(schedule=path, prediction="x0")
  alpha, sigma = of_x0.coefficients(t, 2)
  x_t = alpha * x0 + sigma * noise
  implied = prediction.convert(answer, "x0", "velocity", x_t, alpha, sigma)
  got = loss.squared_error(answer, x0, loss.Velocity()(of_x0, t))
  want = loss.squared_error(implied, noise - x0, jnp.ones(3))
  np.testing.assert_allclose(got, want, rtol=1e-3)


def test_velocity_weights_are_bounded_where_there_is_hardly_any_noise():
  process, t = Process(prediction="x0"), jnp.array([0.0, 0.01, 0.05, 0.1, 0.5, 1.0])
  want = 1 / np.maximum(t, 0.05) ** 2
  np.testing.assert_allclose(loss.Velocity()(process, t), want, rtol=1e-5)
  # The velocity's own error has weight 1, and below the floor less.
  weight = loss.Velocity()(Process(), t)
  np.testing.assert_allclose(weight, [0, 0.04, 1, 1, 1, 1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("path", [schedule.Cosine(), schedule.VP(), schedule.EDM()])
def test_sigmoid_is_an_integral_over_logsnr(path):
  """On epsilon's error, with uniform times; the path decides its ends alone."""
  t = (jnp.arange(20_000) + 0.5) / 20_000
  process = Process(schedule=path, prediction="epsilon")
  logsnr = path.logsnr(t)
  # Within what all of the paths cover, where epsilon's error is 1 and else 0.
  inside = (logsnr > -8) & (logsnr < 6)
  got = jnp.where(inside, loss.Sigmoid(bias=1.0)(process, t), 0).mean()
  wanted = 0.5 * (np.log1p(np.exp(9)) - np.log1p(np.exp(-5)))
  np.testing.assert_allclose(got, wanted, rtol=2e-3)


def test_linear_timestep_weights_by_the_timestep():
  weight = loss.LinearTimestep(slope=0.5)(Process(), jnp.array([0.0, 0.5, 1.0]))
  np.testing.assert_allclose(weight, [0.5, 1, 1.5])
  t = (jnp.arange(100) + 0.5) / 100
  np.testing.assert_allclose(loss.LinearTimestep()(Process(), t).mean(), 1, rtol=1e-6)


def test_uniform_weights_are_one():
  np.testing.assert_array_equal(loss.Uniform()(Process(), T), [1, 1, 1])


def test_load_finds_weightings_and_refuses_wrong_values():
  assert loss.load("min_snr") is loss.MinSNR
  with pytest.raises(errors.InputError, match=r"one of edm, linear_timestep, min_snr"):
    loss.load("p2")
  for name, values in (
    ("min_snr", {"gamma": 0.0}),
    ("edm", {"sigma_data": -1.0}),
    ("linear_timestep", {"slope": 1.5}),
    ("velocity", {"floor": 0.0}),
  ):
    with pytest.raises(errors.InputError, match="expected"):
      loss.load(name)(**values)
