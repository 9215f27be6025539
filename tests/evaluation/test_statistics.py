"""Bootstraps and intervals against closed forms, Student's and Wilson's intervals."""

import numpy as np
import pytest
from scipy import stats

from cxr_diffusion_jax.evaluation import statistics


def _mean(values: np.ndarray):
  return lambda weights: weights @ values / weights.sum(axis=1)


def test_weights_draw_groups_together():
  groups = np.array(["b", "a", "b", "c"])
  drawn = statistics.weights(groups, 500, np.random.default_rng(0))
  np.testing.assert_array_equal(drawn[:, 0], drawn[:, 2])
  np.testing.assert_array_equal(drawn[:, [0, 1, 3]].sum(axis=1), 3)
  np.testing.assert_allclose(drawn.mean(axis=0), 1, atol=0.15)


def test_estimate_interval_depends_on_the_number_of_groups():
  rng = np.random.default_rng(0)
  values = np.repeat(rng.standard_normal(100), 4)
  alone = statistics.estimate(_mean(values), [np.arange(400)])
  together = statistics.estimate(_mean(values), [np.repeat(np.arange(100), 4)])
  assert alone.value == together.value == pytest.approx(values.mean())
  # Standard errors of 400 and of 100 normal values, twice 1.96 of them.
  assert alone.high - alone.low == pytest.approx(3.92 * values.std() / 20, rel=0.1)
  wide = together.high - together.low
  assert wide == pytest.approx(3.92 * values.std() / 10, rel=0.1)
  again = statistics.estimate(_mean(values), [np.repeat(np.arange(100), 4)])
  assert again == together


def test_quantile_counts_weights():
  values = np.array([3.0, 1.0, 2.0, 4.0])
  weights = np.array([[1, 1, 1, 1], [0, 0, 0, 5], [1, 3, 0, 0]])
  median = statistics.quantile(values, weights, 0.5)
  assert median.tolist() == [2, 4, 1]
  many = np.arange(1.0, 101)
  assert statistics.quantile(many, np.ones((1, 100)), 0.05).tolist() == [5]
  assert statistics.quantile(many, np.ones((1, 100)), 0.01).tolist() == [1]


def _influences(values: np.ndarray, *, share: bool = False) -> statistics.Influences:
  """A mean of generated images, whose influences are their deviations."""
  return statistics.Influences(
    value=float(values.mean()),
    of_generated=values - values.mean(),
    of_real=np.zeros(len(values)),
    share=share,
  )


def test_interval_of_a_mean_is_students():
  values = np.random.default_rng(0).standard_normal(8)
  expected = stats.t.interval(0.95, 7, values.mean(), stats.sem(values))
  np.testing.assert_allclose(
    statistics.interval(_influences(values)), expected, rtol=1e-9
  )


def test_interval_of_two_sets_has_satterthwaites_freedom():
  rng = np.random.default_rng(1)
  x, y = rng.standard_normal(6), 3 * rng.standard_normal(9)
  estimate = statistics.Influences(
    value=x.mean() - y.mean(), of_generated=x - x.mean(), of_real=y - y.mean()
  )
  expected = stats.ttest_ind(x, y, equal_var=False).confidence_interval(0.95)
  np.testing.assert_allclose(statistics.interval(estimate), expected, rtol=1e-9)


def test_interval_of_a_share_is_wilsons():
  low, high = statistics.interval(_influences(np.ones(50), share=True))
  expected = stats.binomtest(50, 50).proportion_ci(method="wilson")
  assert (low, high) == pytest.approx((expected.low, 1), rel=1e-9)
  low, high = statistics.interval(_influences(np.arange(200) < 40, share=True))
  expected = stats.binomtest(40, 200).proportion_ci(method="wilson")
  assert (low, high) == pytest.approx((expected.low, expected.high), abs=2e-3)
