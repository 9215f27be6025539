"""Schedules: their ends, their norms, their inverses, and the published levels."""

import json
import pathlib

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.diffusion import schedule

DISCRETE = [
  schedule.load(name)(zero_terminal_snr=zero)
  for name in ("linear", "scaled_linear", "squared_cosine")
  for zero in (False, True)
]
PRESERVING = [
  schedule.Cosine(),
  schedule.Cosine(shift=4.0),
  schedule.VP(),
  *DISCRETE,
]
STRAIGHT = [schedule.RectifiedFlow(), schedule.RectifiedFlow(shift=3.0)]
# One shape of times for all that does not need its own: a shape is a compilation.
GRID = np.linspace(0, 1, 257, dtype=np.float32)
ALL = [*STRAIGHT, *PRESERVING, schedule.EDM()]


@pytest.mark.parametrize("path", ALL, ids=str)
def test_schedule_leads_from_data_to_noise(path):
  t = GRID
  alpha, sigma, logsnr = path.alpha(t), path.sigma(t), path.logsnr(t)
  assert np.all(np.isfinite(logsnr))
  assert np.all(np.diff(alpha) <= 0)
  assert np.all(np.diff(sigma) >= 0)
  assert np.all(np.diff(logsnr) <= 0)
  assert alpha[0] > 0.999
  assert sigma[-1] > 0.99
  if path in STRAIGHT:
    np.testing.assert_allclose(alpha + sigma, 1, atol=1e-6)
  elif path in PRESERVING:
    np.testing.assert_allclose(alpha**2 + sigma**2, 1, atol=1e-6)
  else:
    np.testing.assert_array_equal(alpha, 1)


@pytest.mark.parametrize(
  "path", [*STRAIGHT, schedule.Cosine(), schedule.Cosine(shift=4.0)], ids=str
)
def test_schedule_leaves_no_data_at_the_end(path):
  assert path.alpha(1.0) == 0
  np.testing.assert_allclose(path.sigma(1.0), 1, rtol=1e-6)


@pytest.mark.parametrize("path", ALL, ids=str)
def test_schedule_inverse_leads_back(path):
  t = 0.01 + 0.98 * GRID
  np.testing.assert_allclose(path.time_of_logsnr(path.logsnr(t)), t, atol=2e-5)
  ends = path.time_of_logsnr(jnp.array([1e3, -1e3]))
  np.testing.assert_allclose(ends, [0, 1], atol=2e-3)


@settings(max_examples=25, deadline=None)
@given(
  st.one_of(
    st.builds(schedule.RectifiedFlow, shift=st.floats(0.1, 10)),
    st.builds(schedule.Cosine, shift=st.floats(0.1, 10)),
    st.builds(schedule.VP, beta_min=st.floats(0.05, 1), beta_max=st.floats(1, 30)),
    st.builds(
      schedule.EDM,
      sigma_min=st.floats(1e-3, 0.1),
      sigma_max=st.floats(1, 200),
      rho=st.floats(1, 10),
    ),
    st.builds(
      schedule.ScaledLinear,
      beta_start=st.floats(1e-4, 1e-3),
      beta_end=st.floats(2e-3, 0.05),
      zero_terminal_snr=st.booleans(),
    ),
  )
)
def test_schedule_of_any_parameter_is_invertible(path):
  t = 0.05 + 0.55 * GRID
  logsnr = path.logsnr(t)
  assert np.all(np.diff(logsnr) < 0)
  assert np.all(np.isfinite(path.logsnr(GRID)))
  np.testing.assert_allclose(path.time_of_logsnr(logsnr), t, atol=1e-4)


def test_schedule_equals_closed_forms():
  t = 0.05 + 0.9 * GRID.astype(np.float64)
  flow = schedule.RectifiedFlow()
  np.testing.assert_allclose(flow.logsnr(t), 2 * np.log((1 - t) / t), atol=1e-5)
  cosine = schedule.Cosine()
  want = -2 * np.log(np.tan(np.pi * t / 2))
  np.testing.assert_allclose(cosine.logsnr(t), want, atol=1e-5)
  integral = 0.1 * t + 19.9 / 2 * t**2
  vp = schedule.VP()
  np.testing.assert_allclose(vp.alpha(t), np.exp(-integral / 2), rtol=2e-6)
  np.testing.assert_allclose(vp.logsnr(t), -np.log(np.expm1(integral)), atol=1e-5)


def test_edm_even_times_are_karras_sigmas():
  # Eq. 5 of 2206.00364 counts from noise to data.
  i, n = np.arange(18), 18
  roots = 80 ** (1 / 7) + i / (n - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))
  got = schedule.EDM().sigma(np.linspace(1, 0, n))
  np.testing.assert_allclose(got, roots**7, rtol=3e-6)
  np.testing.assert_allclose(got[np.array([0, -1])], [80, 0.002], rtol=3e-6)


@pytest.mark.parametrize("kind", [schedule.RectifiedFlow, schedule.Cosine])
def test_schedule_shift_divides_alpha_over_sigma(kind):
  # Eq. 23 of 2403.03206: the signal-to-noise ratio's root falls by the shift.
  t = 0.1 + 0.8 * GRID
  difference = kind().logsnr(t) - kind(shift=3.0).logsnr(t)
  np.testing.assert_allclose(difference, 2 * np.log(3), atol=1e-5)


def test_schedule_keeps_the_digits_of_small_noise():
  """As sqrt(1 - alpha^2) in float32, each of these would be 0 or wrong by a lot."""
  t = np.float32(1e-6)
  np.testing.assert_allclose(schedule.VP().sigma(t), (1e-7) ** 0.5, rtol=1e-4)
  np.testing.assert_allclose(schedule.Cosine().sigma(t), np.pi / 2 * 1e-6, rtol=1e-6)
  np.testing.assert_allclose(schedule.Linear().sigma(0.0), 0.01, rtol=1e-6)


@pytest.mark.parametrize("path", DISCRETE, ids=str)
def test_schedule_levels_are_exact_to_rounding(path):
  wanted = path.alphas_cumprod()
  n = path.num_levels
  spaced = np.asarray(jnp.linspace(0, 1, n + 1, dtype=jnp.float32))[:-1]
  for t in (np.arange(n, dtype=np.float32) / np.float32(n), spaced):
    np.testing.assert_allclose(path.alpha(t), wanted**0.5, rtol=4e-7)
    np.testing.assert_allclose(path.sigma(t), (1 - wanted) ** 0.5, rtol=4e-7)
  kept = wanted > 0
  logsnr = np.log(wanted[kept] / (1 - wanted[kept]))
  np.testing.assert_allclose(path.logsnr(t)[kept], logsnr, atol=4e-6)
  assert path.zero_terminal_snr == (wanted[-1] == 0)


@pytest.mark.parametrize("path", DISCRETE, ids=str)
def test_schedule_is_continuous_and_monotone_between_levels(path):
  t = np.linspace(0.4, 0.402, 257, dtype=np.float32)
  logsnr = np.asarray(path.logsnr(t), np.float64)
  steps = np.diff(logsnr)
  assert steps.max() <= 0
  assert steps.min() > 3 * (logsnr[-1] - logsnr[0]) / 256
  # A derivative is what lies between two levels, at a level too.
  _, slope = jax.jvp(path.logsnr, (t,), (np.ones_like(t),))
  wanted = (logsnr[128] - logsnr[0]) * 1000
  np.testing.assert_allclose(slope[:128], wanted, rtol=1e-3)


def test_schedule_levels_equal_diffusers():
  path = pathlib.Path(__file__).with_name("diffusers_schedules.json")
  stored = json.loads(path.read_text(encoding="utf-8"))
  t = np.arange(1000, dtype=np.float32) / 1000
  levels = np.array(stored.pop("levels"))
  assert len(stored) == len(DISCRETE)
  for key, wanted in stored.items():
    name, zero = key.split(",")
    ours = schedule.load(name)(zero_terminal_snr=zero == "True")
    # The peer's products are rounded a thousand times.
    alpha, sigma = np.asarray(ours.alpha(t))[levels], np.asarray(ours.sigma(t))[levels]
    np.testing.assert_allclose(alpha**2, wanted, atol=1e-6, err_msg=key)
    np.testing.assert_allclose(sigma**2, 1 - np.array(wanted), atol=1e-6, err_msg=key)


def test_schedule_reaches_a_terminal_logsnr_and_keeps_the_first_level():
  plain = schedule.ScaledLinear()
  path = schedule.ScaledLinear(terminal_logsnr=-12.0)
  ends = np.array([0.0, 0.999])
  np.testing.assert_allclose(path.logsnr(ends), [plain.logsnr(0.0), -12], rtol=1e-3)
  np.testing.assert_allclose(path.time_of_logsnr(path.logsnr(0.7)), 0.7, rtol=1e-3)
  with pytest.raises(errors.InputError, match="with zero_terminal_snr; expected one"):
    schedule.ScaledLinear(terminal_logsnr=-12.0, zero_terminal_snr=True)


def test_schedule_with_zero_terminal_snr_keeps_the_first_level():
  # Algorithm 1 of 2305.08891: the first alpha stays, the last becomes 0.
  for name in ("linear", "scaled_linear", "squared_cosine"):
    plain, zero = (schedule.load(name)(zero_terminal_snr=z) for z in (False, True))
    np.testing.assert_allclose(zero.alpha(0.0), plain.alpha(0.0), rtol=1e-6)
    assert zero.alpha(0.999) == zero.alpha(1.0) == 0
    assert zero.sigma(0.999) == zero.sigma(1.0) == 1


def test_load_finds_schedules_by_name():
  assert schedule.load("rectified_flow") is schedule.RectifiedFlow
  with pytest.raises(errors.InputError, match="one of cosine, edm, linear"):
    schedule.load("karras")


@pytest.mark.parametrize(
  ("name", "values"),
  [
    ("rectified_flow", {"shift": 0.0}),
    ("cosine", {"shift": -1.0}),
    ("vp", {"beta_min": 2.0, "beta_max": 1.0}),
    ("edm", {"sigma_min": 1.0, "sigma_max": 1.0}),
    ("edm", {"rho": 0.0}),
    ("linear", {"beta_end": 1.5}),
    ("squared_cosine", {"num_levels": 2}),
  ],
)
def test_load_refuses_values_that_make_no_path(name, values):
  with pytest.raises(errors.InputError, match=r"expected (above|0 <|at least|between)"):
    schedule.load(name)(**values)
