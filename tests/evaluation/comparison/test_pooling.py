"""Pooled figures are as sure as runs, seeds and images let them be."""

import dataclasses

import numpy as np
import pytest
import scipy.stats

from cxr_diffusion_jax.evaluation import statistics
from cxr_diffusion_jax.evaluation.comparison import pooling
from cxr_diffusion_jax.evaluation.measurement import Measurement

ONE = Measurement(
  subject="adherence", metric="auroc", value=0.8, num=9, better="higher", judge="probe"
)


DEVIATIONS = np.resize([1.0, -1.0], statistics.NUM_PAIRS)


def _interval(value: float, error: float) -> dict:
  """Fields of a figure with this standard error."""
  one = statistics.Estimate(value=value, deviations=error * DEVIATIONS, patients=400)
  fields = dict(one.fields((0.0, 1.0)))
  del fields["value"]
  return fields


def _spread(value: float, error: float, seed: int = 0) -> pooling.Spread:
  """A figure with a standard error, independent of that of another seed."""
  deviations = np.random.default_rng(seed).standard_normal(statistics.NUM_PAIRS)
  deviations *= error / statistics.standard_error(deviations)
  return pooling.Spread(value=value, deviations=deviations, degrees=400)


def _sets(values, half: float = 0.0, **changes):
  return [
    [
      [
        dataclasses.replace(
          ONE,
          value=value,
          **(_interval(value, half) if half else {}),
          **changes,
        )
      ]
      for value in run
    ]
    for run in values
  ]


def test_spread_treats_runs_as_the_sample():
  values = np.array([[1.0, 1.2, 1.1], [2.0, 2.2, 2.1], [1.5, 1.5, 1.8]])
  result = pooling.spread(values, [0 * DEVIATIONS] * 9, 400)
  means = values.mean(axis=1)
  peer = scipy.stats.t.interval(0.95, 2, means.mean(), scipy.stats.sem(means))
  assert pooling.interval(result) == pytest.approx(peer)


def test_pool_of_one_set_keeps_its_interval():
  (result,), _ = pooling.pool(_sets([[0.8]], half=0.03))
  expected = _interval(0.8, 0.03)
  assert (result.low, result.high) == (expected["low"], expected["high"])


def test_pool_keeps_the_variance_of_patients():
  # The same patients in all sets: more sets tell no more about them.
  (result,), _ = pooling.pool(_sets([[0.8] * 3] * 2, half=0.03))
  expected = _interval(0.8, 0.03)
  assert (result.low, result.high) == pytest.approx((expected["low"], expected["high"]))


def test_interval_has_its_coverage():
  rng = np.random.default_rng(0)
  held, n = 0, 2000
  for _ in range(n):
    image = 0.3 * rng.standard_normal()
    runs = 0.2 * rng.standard_normal((3, 1))
    values = image + runs + 0.1 * rng.standard_normal((3, 2))
    of = pooling.spread(values, [0.3 * DEVIATIONS] * 6, 400)
    low, high = pooling.interval(of)
    held += low <= 0 <= high
  assert 0.94 < held / n < 0.99


def test_runs_of_ranked_paths_share_their_variance():
  runs = {"a": [[1.0], [1.2]], "b": [[2.0], [2.6]], "c": [[3.0], [3.0]], "d": [[4.0]]}
  pooled, spreads = {}, {}
  for name, values in runs.items():
    pooled[name], spreads[name] = pooling.pool(_sets(values, half=0.03))
  shared = pooling.share({name: spreads[name][ONE.key] for name in "abd"})
  variance = (0.02 + 0.18) / 2
  assert shared["a"].between == pytest.approx((variance / 2, 2))
  # A single run has the variance of the others' runs.
  assert shared["d"].between == pytest.approx((variance, 2))
  # Two runs that agree by chance are no surer than those of other paths.
  tables = pooling.share_intervals(
    pooled, spreads, lambda key: {"d": "its own encoder"}
  )
  of = pooling.share({name: spreads[name][ONE.key] for name in "abc"})["c"]
  assert (tables["c"][0].low, tables["c"][0].high) == pytest.approx(
    pooling.interval(of, (0.0, 1.0))
  )
  assert tables["d"] == pooled["d"]


def test_figures_without_deviations_have_no_interval():
  (result,), spreads = pooling.pool(_sets([[0.8, 0.81, 0.82]]))
  assert (result.low, result.high) == (None, None)
  known = _spread(0.1, 0.01)
  paths = {"a": {ONE.key: known}, "b": {ONE.key: known}, "c": spreads}
  (verdict,) = pooling.verdicts(paths, {ONE.key: "lower"})
  assert set(verdict.ranking) == {"a", "b"}
  assert verdict.unranked == {"c": "no interval over patients"}


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_equal_shares_of_all_or_none_have_the_interval_of_their_patients(value):
  share = statistics.linear(value, (np.full(100, value), np.arange(100)))
  fields = share.fields((0.0, 1.0))
  one = dataclasses.replace(ONE, **fields)
  (result,), spreads = pooling.pool([[[one]] * 3] * 2)
  assert (result.low, result.high) == (fields["low"], fields["high"])
  assert result.high - result.low > 0.03
  # Newcombe's, of the widths of both.
  none = spreads[ONE.key]
  same = pooling.difference(none, none, bounds=(0.0, 1.0))
  assert same == pytest.approx((-0.038, 0.038), abs=1e-3)
  few = np.abs(value - (np.arange(100) < 5))
  other = statistics.linear(few.mean(), (few, np.arange(100)))
  other = pooling.spread(np.full((1, 1), few.mean()), [other.deviations], 99)
  ends = np.abs(pooling.difference(none, other, bounds=(0.0, 1.0)))
  assert (ends.min(), ends.max()) == pytest.approx((0.002, 0.112), abs=2e-3)


def test_pool_is_undefined_where_a_set_is():
  sets = _sets([[0.8, 0.9]])
  lacking = dataclasses.replace(ONE, value=None, reason="one class alone")
  (result,), spreads = pooling.pool([[sets[0][0], [lacking]]])
  assert result.value is None
  assert result.reason == "one class alone"
  assert not spreads
  (result,), _ = pooling.pool([[sets[0][0], []]])
  assert result.reason == "not measured in every set"


def test_pool_skips_floors():
  assert pooling.pool(_sets([[0.8]], of="real")) == ([], {})


@pytest.mark.parametrize("side", ["lower", "higher"])
def test_verdict_lists_paths_indistinguishable_from_the_best(side):
  sign = 1 if side == "lower" else -1
  values = {"a": 0.1, "b": 0.12, "c": 0.5}
  spreads = {
    name: {ONE.key: _spread(sign * value, 0.03, seed)}
    for seed, (name, value) in enumerate(values.items())
  }
  (verdict,) = pooling.verdicts(spreads, {ONE.key: side}, primary=ONE.key)
  assert verdict.ranking == ("a", "b", "c")
  assert verdict.best == ("a", "b")
  assert [name for name, _, _ in verdict.differences] == ["b", "c"]
  assert verdict.primary


def test_difference_of_the_same_patients_is_paired():
  shared = _spread(0.0, 0.5, 1)
  a, b = (
    dataclasses.replace(
      _spread(value, 0.01, seed),
      deviations=shared.deviations + _spread(value, 0.01, seed).deviations,
    )
    for value, seed in ((0.5, 2), (0.6, 3))
  )
  low, high = pooling.difference(b, a)
  assert 0.05 < low < 0.1 < high < 0.15
  # The same images twice do not differ at all.
  assert pooling.difference(a, a) == (0, 0)


def test_verdicts_correct_for_all_pairs():
  two = {"a": {ONE.key: _spread(0, 1.0, 0)}, "b": {ONE.key: _spread(3.3, 1.0, 1)}}
  (verdict,) = pooling.verdicts(two, {ONE.key: "lower"})
  assert verdict.best == ("a",)
  six = two | {
    name: {ONE.key: _spread(3.3, 1.0, seed)} for seed, name in enumerate("cdef", 2)
  }
  (verdict,) = pooling.verdicts(six, {ONE.key: "lower"})
  assert len(verdict.best) == 6


def test_verdict_leaves_out_unranked_paths_and_figures_without_an_interval():
  three = {name: {ONE.key: _spread(0.1, 0.01, k)} for k, name in enumerate("abc")}
  (verdict,) = pooling.verdicts(
    three, {ONE.key: "lower"}, unranked_fn=lambda key: {"a": "its own encoder"}
  )
  assert set(verdict.ranking) == {"b", "c"}
  assert verdict.unranked == {"a": "its own encoder"}
  bare = pooling.Spread(value=0.1, deviations=np.zeros(0), degrees=0)
  none = {name: {ONE.key: bare} for name in "ab"}
  assert pooling.verdicts(none, {ONE.key: "lower"}) == []


def test_verdicts_need_two_paths():
  assert pooling.verdicts({"a": {}}, {ONE.key: "lower"}) == []
