"""Times of a training step: their law, and how evenly a batch covers it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.diffusion import schedule, time_sampler

FLOW = schedule.RectifiedFlow()
PATHS = [schedule.RectifiedFlow(shift=3.0), schedule.Cosine(), schedule.EDM()]


@pytest.mark.parametrize("stratified", [True, False])
@pytest.mark.parametrize("kind", [time_sampler.Uniform, time_sampler.LogitNormal])
def test_time_sampler_draws_its_law(kind, stratified):
  t = np.asarray(kind(stratified=stratified)(jax.random.key(0), 20_000, FLOW))
  assert t.min() > 0
  assert t.max() < 1
  if kind is time_sampler.Uniform:
    np.testing.assert_allclose(
      np.quantile(t, [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.01
    )
  else:
    logit = np.log(t / (1 - t))
    assert abs(logit.mean()) < 0.03
    assert abs(logit.std() - 1) < 0.03


def test_logit_normal_has_the_mean_and_std_of_the_logit():
  sampler = time_sampler.LogitNormal(mean=0.5, std=0.7)
  t = np.asarray(sampler(jax.random.key(0), 20_000, FLOW), np.float64)
  logit = np.log(t / (1 - t))
  np.testing.assert_allclose([logit.mean(), logit.std()], [0.5, 0.7], atol=0.01)


@pytest.mark.parametrize("path", [*PATHS, schedule.ScaledLinear()], ids=str)
def test_log_normal_noise_has_one_law_on_every_path(path):
  # Away from the ends of the shorter paths.
  t = time_sampler.LogNormal(mean=-0.3, std=0.8)(jax.random.key(0), 20_000, path)
  log_sigma = -0.5 * np.asarray(path.logsnr(t), np.float64)
  np.testing.assert_allclose(log_sigma.mean(), -0.3, atol=0.01)
  np.testing.assert_allclose(log_sigma.std(), 0.8, atol=0.01)
  np.testing.assert_array_equal(time_sampler.LogNormal().weight(t, path), 1)


@pytest.mark.parametrize(
  ("kind", "path"),
  [
    (time_sampler.LogitNormal, FLOW),
    (time_sampler.LogNormal, FLOW),
    (time_sampler.LogNormal, schedule.EDM()),
  ],
)
def test_time_sampler_shift_multiplies_the_noise_level(kind, path):
  plain = kind(mean=-0.5)(jax.random.key(0), 1000, path)
  shifted = kind(mean=-0.5, shift=3.0)(jax.random.key(0), 1000, path)
  fall = np.asarray(path.logsnr(plain) - path.logsnr(shifted))
  # All but those that would be beyond the path's end.
  np.testing.assert_allclose(np.sort(fall)[5:], 2 * np.log(3), rtol=1e-3)


def test_time_sampler_shift_follows_the_first_mode_by_default():
  measured = time_sampler.LogitNormal(shift=0.0)
  assert measured.for_variance(9 * 150.0).shift == pytest.approx(3)
  assert measured.for_variance(20.0).shift == 1
  assert measured.for_variance(0.0).shift == 1
  assert time_sampler.LogNormal(shift=2.0).for_variance(1370.0).shift == 2
  assert time_sampler.Uniform().for_variance(1370.0) == time_sampler.Uniform()
  with pytest.raises(errors.InputError, match="shift=-1"):
    time_sampler.LogNormal(shift=-1.0)


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_importance_draws_and_divides_by_its_density(path):
  sampler = time_sampler.Importance()
  t = sampler(jax.random.key(0), 20_000, path)
  weight = np.asarray(sampler.weight(t, path), np.float64)
  assert weight.std() > 0.1
  assert weight.max() <= 1 / sampler.uniform
  # Any function's weighted mean is its mean over uniform times.
  even = (jnp.arange(20_000) + 0.5) / 20_000
  for function in (jnp.ones_like, jnp.square, lambda t: jnp.sin(9 * t)):
    got = (weight * np.asarray(function(t))).mean()
    np.testing.assert_allclose(got, function(even).mean(), atol=2e-3)
  # And the law is the profile's: twice as likely where that is twice as high.
  logsnr = np.asarray(path.logsnr(even))
  density = 1 / np.asarray(sampler.weight(even, path), np.float64)
  share = np.histogram(t, bins=20, range=(0, 1))[0] / 20_000
  np.testing.assert_allclose(share, density.reshape(20, -1).mean(1) / 20, atol=2e-3)
  profile = np.interp(logsnr, sampler.logsnr, sampler.profile)
  wanted = 0.1 + 0.9 * profile / profile.mean()
  # In cells at the ends logsnr changes much.
  np.testing.assert_allclose(density[1000:-1000], wanted[1000:-1000], rtol=0.02)


def test_importance_of_a_good_profile_reduces_variance():
  """Losses that are the profile itself are all one number, but for the uniform part."""
  knots = np.linspace(-8, 8, 33)

  def losses(t):
    return np.asarray(0.05 + jax.nn.sigmoid(1.5 * FLOW.logsnr(t)), np.float64)

  plain = time_sampler.Uniform(stratified=False)(jax.random.key(0), 20_000, FLOW)
  profile = tuple(0.05 + np.asarray(jax.nn.sigmoid(1.5 * knots)))
  sampler = time_sampler.Importance(
    logsnr=tuple(knots), profile=profile, uniform=0.02, stratified=False
  )
  t = sampler(jax.random.key(1), 20_000, FLOW)
  weighted = losses(t) * np.asarray(sampler.weight(t, FLOW))
  assert weighted.std() < 0.2 * losses(plain).std()
  np.testing.assert_allclose(weighted.mean(), losses(plain).mean(), rtol=0.02)


def test_uniform_stratified_puts_one_time_in_each_stratum():
  for seed in range(3):
    t = time_sampler.Uniform()(jax.random.key(seed), 16, FLOW)
    gaps = np.diff(np.sort(np.asarray(t)))
    np.testing.assert_allclose(gaps, 1 / 16, atol=1e-4)


def test_uniform_stratified_is_uniform_at_each_place_of_a_batch():
  keys = jax.random.split(jax.random.key(0), 4000)
  third = jax.vmap(lambda key: time_sampler.Uniform()(key, 8, FLOW)[3])(keys)
  np.testing.assert_allclose(np.quantile(third, [0.25, 0.75]), [0.25, 0.75], atol=0.03)


def test_load_finds_time_samplers_by_name():
  assert time_sampler.load("logit_normal") is time_sampler.LogitNormal
  with pytest.raises(errors.InputError, match="one of importance, log_normal"):
    time_sampler.load("beta")


@pytest.mark.parametrize(
  "values",
  [
    {"logsnr": (0.0, 1.0)},
    {"logsnr": (1.0, 0.0), "profile": (1.0, 1.0)},
    {"logsnr": (0.0, 1.0), "profile": (0.0, 0.0)},
    {"logsnr": (), "profile": ()},
    {"uniform": 0.0},
  ],
)
def test_importance_refuses_wrong_densities(values):
  with pytest.raises(errors.InputError, match="expected"):
    time_sampler.Importance(**values)
