"""Halves and intervals against closed forms, Student's and Wilson's intervals."""

import numpy as np
import pytest
from scipy import stats

from cxr_diffusion_jax.evaluation import selection, statistics


def _mean(values: np.ndarray):
  return lambda weights: weights @ values / weights.sum(axis=1)


def _ends(estimate, bounds=(-np.inf, np.inf)):
  fields = estimate.fields(bounds)
  return fields["low"], fields["high"]


def test_signs_keep_patients_whole_and_depend_only_on_names():
  signs = statistics.signs(np.array(["b", "a", "b", "c"]))
  assert signs.shape == (2 * statistics.NUM_PAIRS, 4)
  np.testing.assert_array_equal(signs[:, 0], signs[:, 2])
  np.testing.assert_array_equal(signs[: statistics.NUM_PAIRS], -signs[128:])
  np.testing.assert_array_equal(signs[:, [1]], statistics.signs(np.array(["a"])))
  many = statistics.signs(np.arange(2000))
  assert abs(many.mean(axis=1)).max() < 0.1
  assert abs(np.corrcoef(many[:128, :100].T) - np.eye(100)).max() < 0.5


def test_halves_of_chosen_patients_are_random():
  patients = np.arange(2000).astype(str)
  for rows in selection.choose(patients, patients, num=500):
    shares = statistics.signs(patients[rows]).mean(axis=1)
    assert abs(shares).max() < 5 / np.sqrt(len(rows))


def test_interval_depends_on_the_number_of_patients():
  rng = np.random.default_rng(0)
  values = np.repeat(rng.standard_normal(100), 4)
  for patients, count in ((np.arange(400), 400), (np.repeat(np.arange(100), 4), 100)):
    exact = statistics.linear(values.mean(), (values, patients))
    error = statistics.standard_error(exact.deviations)
    assert error == pytest.approx(values.std() / np.sqrt(count - 1), rel=1e-9)
    by_halves = statistics.estimate(_mean(values), patients)
    assert by_halves.value == pytest.approx(exact.value)
    error_by_halves = statistics.standard_error(by_halves.deviations)
    assert error_by_halves == pytest.approx(error, rel=0.15)
    # The same halves: the two agree draw by draw, not in their size alone.
    corr = np.corrcoef(exact.deviations, by_halves.deviations)[0, 1]
    assert corr > 0.98


def test_means_of_chosen_depend_on_the_patients_among_the_chosen():
  values = np.random.default_rng(0).standard_normal((100, 2))
  chosen = np.stack([np.arange(100) < 8, np.arange(100) < 60], axis=1)
  mean, few, many = statistics.means_of_chosen(values, chosen, np.arange(100))
  assert (mean.patients, few.patients, many.patients) == (68, 8, 60)
  error = statistics.standard_error(few.deviations)
  assert error == pytest.approx(stats.sem(values[:8, 0]), rel=0.3)


def test_deviations_of_undefined_replicates_do_not_narrow_the_interval():
  rng = np.random.default_rng(0)
  replicates = rng.standard_normal(256)
  missing = np.where(np.arange(256) % 128 < 40, np.nan, replicates)
  names = np.arange(50)
  full, part = (statistics.deviations_of(x, names) for x in (replicates, missing))
  assert statistics.standard_error(part) == pytest.approx(
    statistics.standard_error(full), rel=0.3
  )
  few = np.where(np.arange(256) % 128 < 90, np.nan, replicates)
  undefined = statistics.Estimate(
    value=1.0, deviations=statistics.deviations_of(few, names), patients=50
  )
  assert "low" not in undefined.fields()


def test_quantile_counts_weights():
  values = np.array([3.0, 1.0, 2.0, 4.0])
  weights = np.array([[1, 1, 1, 1], [0, 0, 0, 5], [1, 3, 0, 0]])
  median = statistics.quantile(values, weights, 0.5)
  assert median.tolist() == [2, 4, 1]
  many = np.arange(1.0, 101)
  assert statistics.quantile(many, np.ones((1, 100)), 0.05).tolist() == [5]
  assert statistics.quantile(many, np.ones((1, 100)), 0.01).tolist() == [1]


def test_interval_of_a_mean_is_students():
  values = np.random.default_rng(0).standard_normal(8)
  expected = stats.t.interval(0.95, 7, values.mean(), stats.sem(values))
  result = statistics.linear(values.mean(), (values, np.arange(8)))
  np.testing.assert_allclose(_ends(result), expected, rtol=1e-9)


def test_interval_of_two_sets_adds_their_variances():
  rng = np.random.default_rng(1)
  x, y = rng.standard_normal(6), 3 * rng.standard_normal(9)
  value = x.mean() - y.mean()
  result = statistics.linear(value, (x, np.arange(6)), (y, np.arange(6, 15)))
  error = np.hypot(stats.sem(x), stats.sem(y))
  # Fewer degrees than Satterthwaite's: those of the smaller set.
  reach = stats.t.ppf(0.975, 5) * error
  np.testing.assert_allclose(_ends(result), (value - reach, value + reach), rtol=1e-9)


def test_interval_of_parts_adds_their_half_widths_in_squares():
  reach = np.hypot(stats.t.ppf(0.975, 99) * 0.3, stats.t.ppf(0.975, 2) * 0.4)
  result = statistics.interval(1.0, [(0.09, 99), (0.16, 2)])
  np.testing.assert_allclose(result, (1 - reach, 1 + reach), rtol=1e-9)


def test_newcombe_reproduces_his_table():
  # Newcombe 1998, table II, method 10.
  def wilson(count, num):
    result = stats.binomtest(count, num).proportion_ci(method="wilson")
    return count / num, (result.low, result.high)

  result = statistics.newcombe(*wilson(56, 70), *wilson(48, 80))
  assert result == pytest.approx((0.0524, 0.3339), abs=5e-5)
  result = statistics.newcombe(*wilson(0, 10), *wilson(0, 20))
  assert result == pytest.approx((-0.1611, 0.2775), abs=5e-5)


def test_interval_of_a_share_is_wilsons():
  low, high = statistics.interval(1.0, [(0.0, 49), (0.0, 2)], (0.0, 1.0))
  expected = stats.binomtest(50, 50).proportion_ci(method="wilson")
  assert (low, high) == pytest.approx((expected.low, 1), abs=5e-3)
  share = np.arange(2000) < 400
  result = statistics.linear(share.mean(), (share, np.arange(2000)))
  low, high = _ends(result, (0.0, 1.0))
  expected = stats.binomtest(400, 2000).proportion_ci(method="wilson")
  assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-3)
