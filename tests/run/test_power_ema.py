"""Averages of power profiles: closed forms, and brute force over a whole trajectory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.run import power_ema
from cxr_diffusion_jax.run.power_ema import Profile


def _weights(profile: Profile, num_steps: int) -> np.ndarray:
  """What each step from 1 on weighs: the integral of the profile over its cell."""
  edges = np.minimum(np.arange(num_steps + 1) / profile.step, 1.0)
  return np.diff(edges ** (power_ema.power(profile.length) + 1))


def test_power_and_length_are_inverse():
  # The paper's own pairs, appendix C.
  np.testing.assert_allclose(power_ema.power(0.05), 16.97, atol=0.01)
  np.testing.assert_allclose(power_ema.power(0.10), 6.94, atol=0.01)
  for length in (0.001, 0.02, 0.13, 0.25, power_ema.LONGEST):
    np.testing.assert_allclose(
      power_ema.length(power_ema.power(length)), length, rtol=1e-9
    )
  assert power_ema.power(power_ema.LONGEST) < 1e-6


@pytest.mark.parametrize("length", [0.0, -0.1, 0.3, float("nan")])
def test_power_refuses_impossible_lengths(length):
  with pytest.raises(errors.InputError, match=r"at most 0\.2887"):
    power_ema.power(length)


def test_profile_has_its_nominal_length():
  weights = _weights(Profile(length=0.08, step=4000), 4000)
  middle = np.arange(4000) + 0.5
  mean = weights @ middle
  spread = np.sqrt(weights @ (middle - mean) ** 2)
  np.testing.assert_allclose(weights.sum(), 1.0, rtol=1e-12)
  np.testing.assert_allclose(spread / 4000, 0.08, rtol=1e-3)


@pytest.mark.parametrize(
  ("a", "b"),
  [((0.05, 700), (0.1, 1000)), ((0.1, 400), (0.05, 1000)), ((0.2, 900), (0.2, 900))],
)
def test_inner_product_equals_quadrature(a, b):
  a, b = (Profile(length=length, step=step) for length, step in (a, b))
  t = (np.arange(1_000_000) + 0.5) / 1000

  def density(profile):
    power = power_ema.power(profile.length)
    inside = (power + 1) * t**power / profile.step ** (power + 1)
    return np.where(t <= profile.step, inside, 0)

  want = np.sum(density(a) * density(b)) / 1000
  np.testing.assert_allclose(power_ema.inner_product(a, b), want, rtol=1e-5)
  assert power_ema.inner_product(a, b) == power_ema.inner_product(b, a)


@pytest.fixture(scope="module")
def tracked() -> tuple[np.ndarray, dict[Profile, np.ndarray]]:
  """A random walk [step parameter], and its averages as training tracks them."""
  rng = np.random.default_rng(0)
  walk = np.cumsum(rng.normal(size=(600, 40)), axis=0).astype(np.float32)
  powers = [power_ema.power(length) for length in (0.05, 0.1)]

  def advance(averages, inputs):
    step, params = inputs
    averages = tuple(
      power_ema.update(average, params, step, power)
      for average, power in zip(averages, powers, strict=True)
    )
    return averages, averages

  start = (jnp.full(40, 1e3), jnp.full(40, 1e3))
  steps = jnp.arange(1, 601)
  _, result = jax.jit(lambda: jax.lax.scan(advance, start, (steps, walk)))()
  return walk, {
    Profile(length=length, step=step): np.asarray(averages[step - 1])
    for length, averages in zip((0.05, 0.1), result, strict=True)
    for step in range(50, 601, 50)
  }


def test_update_tracks_the_average_of_the_profile(tracked):
  walk, averages = tracked
  for profile, average in averages.items():
    want = _weights(profile, 600) @ walk.astype(np.float64)
    np.testing.assert_allclose(average, want, atol=2e-5)


@pytest.mark.parametrize(
  ("length", "step", "limit"),
  [
    (0.05, 600, 1e-7),
    (0.10, 600, 1e-7),
    (0.07, 600, 0.01),
    (0.07, 300, 0.025),
    (0.04, 600, 0.03),
    (0.15, 600, 0.025),
    (0.20, 600, 0.06),
  ],
)
def test_combine_equals_brute_force_for_any_length(length, step, limit, tracked):
  """Within what the profile's own error says; a tracked length comes back itself."""
  walk, averages = tracked
  wanted = Profile(length=length, step=step)
  saved = [profile for profile in averages if profile.step <= step]
  weights, error = power_ema.combine(saved, wanted)
  assert error <= limit
  np.testing.assert_allclose(weights.sum(), 1.0, rtol=1e-9)
  result = sum(
    w * averages[p].astype(np.float64) for w, p in zip(weights, saved, strict=True)
  )
  exact = _weights(wanted, 600)
  profile = sum(w * _weights(p, 600) for w, p in zip(weights, saved, strict=True))
  # The reported error is that of the steps' weights: a root, of rounding where it is 0.
  np.testing.assert_allclose(
    np.linalg.norm(profile - exact) / np.linalg.norm(exact), error, rtol=0.05, atol=1e-7
  )
  # A part of it in the steps' weights moves the average by as much of the walk's size.
  far = np.abs(result - exact @ walk.astype(np.float64)).max()
  assert far <= 1e-4 + 1.5 * error * np.abs(walk - walk[step - 1]).max() / 4


def test_combine_improves_with_more_snapshots():
  wanted = Profile(length=0.07, step=1024)
  errors_of = []
  for number in (1, 2, 4, 8, 16, 32):
    steps = range(1024 // number, 1025, 1024 // number)
    saved = [Profile(length=x, step=step) for step in steps for x in (0.05, 0.1)]
    errors_of.append(power_ema.combine(saved, wanted)[1])
  assert errors_of == sorted(errors_of, reverse=True)
  assert errors_of[0] < 0.06
  assert errors_of[-1] < 1e-3


def test_combine_refuses_later_snapshots():
  with pytest.raises(ValueError, match="later than step 5"):
    power_ema.combine([Profile(length=0.1, step=6)], Profile(length=0.1, step=5))
