"""Intervals are Student's and Wilson's."""

import numpy as np
import pytest
from scipy import stats

from cxr_diffusion_jax.evaluation import statistics


def _mean(values: np.ndarray, *, share: bool = False) -> statistics.Influences:
  """A mean of generated images, whose influences are their deviations."""
  return statistics.Influences(
    value=float(values.mean()),
    of_generated=values - values.mean(),
    of_real=np.zeros(len(values)),
    share=share,
  )


def test_the_interval_of_a_mean_is_students():
  values = np.random.default_rng(0).standard_normal(8)
  expected = stats.t.interval(0.95, 7, values.mean(), stats.sem(values))
  np.testing.assert_allclose(statistics.interval(_mean(values)), expected, rtol=1e-9)


def test_two_sets_have_satterthwaites_freedom():
  rng = np.random.default_rng(1)
  x, y = rng.standard_normal(6), 3 * rng.standard_normal(9)
  estimate = statistics.Influences(
    value=x.mean() - y.mean(), of_generated=x - x.mean(), of_real=y - y.mean()
  )
  expected = stats.ttest_ind(x, y, equal_var=False).confidence_interval(0.95)
  np.testing.assert_allclose(statistics.interval(estimate), expected, rtol=1e-9)


def test_a_share_is_wilsons_and_not_certain_when_it_is_all():
  low, high = statistics.interval(_mean(np.ones(50), share=True))
  expected = stats.binomtest(50, 50).proportion_ci(method="wilson")
  assert (low, high) == pytest.approx((expected.low, 1), rel=1e-9)
  low, high = statistics.interval(_mean(np.arange(200) < 40, share=True))
  expected = stats.binomtest(40, 200).proportion_ci(method="wilson")
  assert (low, high) == pytest.approx((expected.low, expected.high), abs=2e-3)
