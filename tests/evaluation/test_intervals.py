"""Intervals: Student's, Wilson's, of pairs, of seeds; and that they hold the truth."""

import numpy as np
import pytest
from scipy import stats

from cxr_diffusion_jax.evaluation import adherence, influences, intervals


def _mean(values: np.ndarray, *, share: bool = False) -> influences.Estimate:
  """A mean of generated images, whose influences are their deviations."""
  return influences.Estimate(
    value=float(values.mean()),
    of_generated=values - values.mean(),
    of_real=np.zeros(len(values)),
    share=share,
  )


def _origin(runs: int, seeds: int, conditions: int) -> intervals.Origin:
  places = np.indices((runs, seeds, conditions)).reshape(3, -1)
  return intervals.Origin(training=places[0], sampling=places[1], condition=places[2])


def test_the_interval_of_a_mean_is_students():
  values = np.random.default_rng(0).standard_normal(8)
  expected = stats.t.interval(0.95, 7, values.mean(), stats.sem(values))
  np.testing.assert_allclose(intervals.interval(_mean(values)), expected, rtol=1e-9)


def test_two_sets_have_satterthwaites_freedom():
  rng = np.random.default_rng(1)
  x, y = rng.standard_normal(6), 3 * rng.standard_normal(9)
  estimate = influences.Estimate(
    value=x.mean() - y.mean(), of_generated=x - x.mean(), of_real=y - y.mean()
  )
  expected = stats.ttest_ind(x, y, equal_var=False).confidence_interval(0.95)
  np.testing.assert_allclose(intervals.interval(estimate), expected, rtol=1e-9)


def test_a_share_is_wilsons_and_not_certain_when_it_is_all():
  low, high = intervals.interval(_mean(np.ones(50), share=True))
  expected = stats.binomtest(50, 50).proportion_ci(method="wilson")
  assert (low, high) == pytest.approx((expected.low, 1), rel=1e-9)
  low, high = intervals.interval(_mean(np.arange(200) < 40, share=True))
  expected = stats.binomtest(40, 200).proportion_ci(method="wilson")
  assert (low, high) == pytest.approx((expected.low, expected.high), abs=2e-3)


def test_what_pairs_have_in_common_is_no_chance():
  rng = np.random.default_rng(2)
  hard = rng.standard_normal(100) * 5
  one, two = hard + rng.standard_normal((2, 100)) * 0.1 + [[1.0], [0.0]]
  value, low, high = intervals.paired_difference(_mean(one), _mean(two))
  assert low < 1 < high
  assert high - low < 0.1
  assert value == pytest.approx(one.mean() - two.mean())
  assert intervals.paired_difference(_mean(one), _mean(one)) == (0, 0, 0)
  with pytest.raises(ValueError, match="different numbers"):
    intervals.paired_difference(_mean(one), _mean(two[:50]))


def test_levels_of_a_mean_have_their_unbiased_variances():
  origin = _origin(3, 2, 20)
  rng = np.random.default_rng(3)
  values = rng.standard_normal(3)[origin.training] + rng.standard_normal(120)
  estimate = _mean(values)

  def figure(weights):
    return weights @ estimate.of_generated / weights.sum(axis=1)

  of_runs, of_conditions = intervals.over_seeds(figure, origin, num_replicates=4000)
  table = values.reshape(3, 2, 20)
  for (variance, freedom), axes in ((of_runs, (1, 2)), (of_conditions, (0, 1))):
    means = table.mean(axis=axes)
    assert variance == pytest.approx(means.var(ddof=1) / len(means), rel=0.1)
    assert freedom == len(means) - 1
  # One run: its sampling seeds take the place; one of each: images alone.
  parts = intervals.over_seeds(figure, _origin(1, 6, 20))
  assert [freedom for _, freedom in parts] == [5, 19]
  assert len(intervals.over_seeds(figure, _origin(1, 1, 120))) == 1


@pytest.mark.parametrize("of_run", [0.0, 0.5])
def test_intervals_over_two_runs_hold_the_truth(of_run):
  origin, held, widths = _origin(2, 3, 25), 0, []
  rng = np.random.default_rng(4)
  for _ in range(80):
    values = (
      of_run * rng.standard_normal(2)[origin.training]
      + rng.standard_normal(25)[origin.condition]
      + rng.standard_normal(150)
    )
    low, high = intervals.interval(_mean(values), origin=origin, num_replicates=200)
    held += low < 0 < high
    widths.append(high - low)
  assert held >= 70
  # Images taken as independent would be far too sure.
  alone = intervals.interval(_mean(values))
  assert np.median(widths) > 1.5 * (alone[1] - alone[0])


def test_any_figure_with_weights_can_be_resampled():
  origin = _origin(4, 2, 30)
  rng = np.random.default_rng(5)
  positive = origin.condition % 3 == 0
  scores = positive + rng.standard_normal(240)
  parts = intervals.over_seeds(
    lambda weights: adherence.auroc(scores, positive, weights), origin
  )
  value = adherence.auroc(scores, positive, np.ones((1, 240)))[0]
  low, high = intervals.around(value, parts)
  assert low < stats.norm.cdf(1 / np.sqrt(2)) < high
  assert high - low < 0.3
