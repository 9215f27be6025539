"""Membership: closed forms, equal numbers, and patients who are not asked about."""

import numpy as np
import pytest

from cxr_diffusion_jax.evaluation import statistics
from cxr_diffusion_jax.evaluation.metrics import membership


def test_membership_auroc_is_the_share_of_pairs():
  members, others = np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0])
  groups = np.arange(3), np.arange(2)
  result = statistics.estimate(membership.auroc_fn(members, others), *groups)
  assert result.value == pytest.approx((2 + 1.5 + 1) / 6)
  swapped = statistics.estimate(membership.auroc_fn(others, members), *groups[::-1])
  assert swapped.value == pytest.approx(1 - result.value)
  apart_fn = membership.auroc_fn(members, members + 5)
  apart = statistics.estimate(apart_fn, groups[0], groups[0] + 5)
  assert apart.value == 1
  assert statistics.standard_error(apart.deviations) == 0


def test_choose_balances_sides_and_separates_patients():
  train, test = np.array(list("aabbccdd")), np.array(list("axyyb"))
  chosen, unseen = membership.choose(train, test, seed=0)
  assert len(chosen) == 3
  assert unseen.tolist() == [1, 2, 3]
  assert len(set(chosen.tolist())) == 3
  chosen, unseen = membership.choose(train[[0, 2]], test, seed=0)
  assert chosen.tolist() == [0, 1]
  assert len(unseen) == 2
  assert set(test[unseen]) <= {"x", "y"}


def test_distances_skip_images_of_the_same_patient():
  real = np.array([[0.0], [10.0]])
  generated = np.array([[0.1], [0.2], [7.0]])
  of_generated = np.array(["p", "p", "q"])
  known = membership.distances(real, np.array(["p", "r"]), generated, of_generated)
  np.testing.assert_allclose(known, [7, 3])
  unknown = membership.distances(real, np.array(["p", "r"]), generated, None)
  np.testing.assert_allclose(unknown, [0.1, 3])
  own = membership.distances(real[:1], np.array(["p"]), generated[:2], of_generated[:2])
  assert own.tolist() == [np.inf]
  none = membership.distances(real[:0], np.array([], str), generated, of_generated)
  assert none.shape == (0,)
