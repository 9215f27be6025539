"""The bootstrap of clusters: closed forms of its weights, quantiles and intervals."""

import numpy as np
import pytest

from cxr_diffusion_jax.evaluation import statistics


def _mean(values: np.ndarray):
  return lambda weights: weights @ values / weights.sum(axis=1)


def test_images_of_one_group_are_drawn_together():
  groups = np.array(["b", "a", "b", "c"])
  drawn = statistics.weights(groups, 500, np.random.default_rng(0))
  np.testing.assert_array_equal(drawn[:, 0], drawn[:, 2])
  np.testing.assert_array_equal(drawn[:, [0, 1, 3]].sum(axis=1), 3)
  np.testing.assert_allclose(drawn.mean(axis=0), 1, atol=0.15)


def test_an_interval_is_as_wide_as_the_number_of_groups_makes_it():
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


def test_a_quantile_counts_weights():
  values = np.array([3.0, 1.0, 2.0, 4.0])
  weights = np.array([[1, 1, 1, 1], [0, 0, 0, 5], [1, 3, 0, 0]])
  median = statistics.quantile(values, weights, 0.5)
  assert median.tolist() == [2, 4, 1]
  many = np.arange(1.0, 101)
  assert statistics.quantile(many, np.ones((1, 100)), 0.05).tolist() == [5]
  assert statistics.quantile(many, np.ones((1, 100)), 0.01).tolist() == [1]
