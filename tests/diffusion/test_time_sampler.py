"""Times of a training step: their law, and how evenly a batch covers it."""

import jax
import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.diffusion import time_sampler


@pytest.mark.parametrize("stratified", [True, False])
@pytest.mark.parametrize("kind", [time_sampler.Uniform, time_sampler.LogitNormal])
def test_law(kind, stratified):
  t = np.asarray(kind(stratified=stratified)(jax.random.key(0), 20_000))
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


def test_mean_and_std_of_the_logit():
  sampler = time_sampler.LogitNormal(mean=0.5, std=0.7)
  t = np.asarray(sampler(jax.random.key(0), 20_000), np.float64)
  logit = np.log(t / (1 - t))
  np.testing.assert_allclose([logit.mean(), logit.std()], [0.5, 0.7], atol=0.01)


def test_stratified_puts_one_time_in_each_stratum_of_every_batch():
  for seed in range(3):
    t = time_sampler.Uniform()(jax.random.key(seed), 16)
    gaps = np.diff(np.sort(np.asarray(t)))
    np.testing.assert_allclose(gaps, 1 / 16, atol=1e-4)


def test_each_place_of_a_stratified_batch_is_uniform():
  keys = jax.random.split(jax.random.key(0), 4000)
  third = jax.vmap(lambda key: time_sampler.Uniform()(key, 8)[3])(keys)
  np.testing.assert_allclose(np.quantile(third, [0.25, 0.75]), [0.25, 0.75], atol=0.03)


def test_time_samplers_are_found_by_name():
  assert time_sampler.load("logit_normal") is time_sampler.LogitNormal
  with pytest.raises(errors.InputError, match=r"\['logit_normal', 'uniform'\]"):
    time_sampler.load("beta")
