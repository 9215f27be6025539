"""Pooled figures are as sure as runs, seeds and images let them be."""

import dataclasses

import numpy as np
import pytest
import scipy.stats

from cxr_diffusion_jax.evaluation.comparison import pooling
from cxr_diffusion_jax.evaluation.measurement import Measurement

ONE = Measurement(
  subject="adherence", metric="auroc", value=0.8, num=9, better="higher", judge="probe"
)


def _sets(values, half: float = 0.0, **changes):
  return [
    [
      [
        dataclasses.replace(
          ONE,
          value=value,
          low=value - half if half else None,
          high=value + half if half else None,
          **changes,
        )
      ]
      for value in run
    ]
    for run in values
  ]


def test_spread_treats_runs_as_the_sample():
  values = np.array([[1.0, 1.2, 1.1], [2.0, 2.2, 2.1], [1.5, 1.5, 1.8]])
  made = pooling.spread(values, np.zeros((3, 3)))
  means = values.mean(axis=1)
  assert made.degrees == pytest.approx(2)
  peer = scipy.stats.t.interval(0.95, 2, means.mean(), scipy.stats.sem(means))
  assert pooling.interval(made) == pytest.approx(peer)


def test_pool_of_one_set_keeps_its_interval():
  (made,), _ = pooling.pool(_sets([[0.8]], half=0.05))
  assert (made.low, made.high) == pytest.approx((0.75, 0.85))


def test_pool_keeps_the_variance_of_images():
  (made,), _ = pooling.pool(_sets([[0.8] * 3] * 2, half=0.05))
  assert (made.low, made.high) == pytest.approx((0.75, 0.85))


def test_interval_has_its_coverage():
  rng = np.random.default_rng(0)
  held, n = 0, 2000
  for _ in range(n):
    image = 0.3 * rng.standard_normal()
    runs = 0.2 * rng.standard_normal((3, 1))
    values = image + runs + 0.1 * rng.standard_normal((3, 2))
    low, high = pooling.interval(pooling.spread(values, np.full((3, 2), 0.09)))
    held += low <= 0 <= high
  assert 0.94 < held / n < 0.99


def test_pool_is_undefined_where_a_set_is():
  sets = _sets([[0.8, 0.9]])
  lacking = dataclasses.replace(ONE, value=None, reason="one class alone")
  (made,), spreads = pooling.pool([[sets[0][0], [lacking]]])
  assert made.value is None
  assert made.reason == "one class alone"
  assert not spreads
  (made,), _ = pooling.pool([[sets[0][0], []]])
  assert made.reason == "not measured in every set"


def test_pool_skips_floors():
  assert pooling.pool(_sets([[0.8]], of="real")) == ([], {})


@pytest.mark.parametrize("side", ["lower", "higher"])
def test_verdict_best_are_indistinguishable(side):
  sign = 1 if side == "lower" else -1
  values = {"a": 0.1, "b": 0.12, "c": 0.5}
  spreads = {
    name: {ONE.key: pooling.Spread(value=sign * v, variance=1e-3, degrees=np.inf)}
    for name, v in values.items()
  }
  (verdict,) = pooling.verdicts(spreads, {ONE.key: side})
  assert verdict.ranking == ("a", "b", "c")
  assert verdict.best == ("a", "b")
  assert [name for name, _, _ in verdict.differences] == ["b", "c"]


def test_verdicts_correct_for_multiple_paths():
  wide = pooling.Spread(value=0.0, variance=1.0, degrees=np.inf)
  far = pooling.Spread(value=2.9, variance=1.0, degrees=np.inf)
  two = {"a": {ONE.key: wide}, "b": {ONE.key: far}}
  (verdict,) = pooling.verdicts(two, {ONE.key: "lower"})
  assert verdict.best == ("a",)
  six = two | {name: {ONE.key: far} for name in "cdef"}
  (verdict,) = pooling.verdicts(six, {ONE.key: "lower"})
  assert len(verdict.best) == 6


def test_verdicts_need_two_paths():
  assert pooling.verdicts({"a": {}}, {ONE.key: "lower"}) == []
