"""Agreement of readers against published worked examples and closed forms."""

import numpy as np
import pytest

from cxr_diffusion_jax.extras.reader_study import agreement


def test_share_has_exact_intervals():
  """The ends solve P(X >= k) = P(X <= k) = 0.025; with no hit, 1 - 0.025^(1/n)."""
  assert agreement.share(8, 10) == pytest.approx((0.8, 0.44390, 0.97479), abs=1e-5)
  value, low, high = agreement.share(0, 20)
  assert (value, low) == (0, 0)
  assert high == pytest.approx(1 - 0.025 ** (1 / 20))
  assert agreement.share(20, 20) == pytest.approx((1, 0.025 ** (1 / 20), 1))


def test_cohen_kappa_equals_a_worked_example():
  """20 both yes, 15 both no, 5 and 10 apart: 0.7 observed, 0.5 by chance."""
  a = np.repeat([1, 1, 0, 0], [20, 5, 10, 15])
  b = np.repeat([1, 0, 1, 0], [20, 5, 10, 15])
  assert agreement.cohen_kappa(a, b) == pytest.approx(0.4)
  assert agreement.cohen_kappa(a, a) == pytest.approx(1)
  assert agreement.cohen_kappa(a, 1 - a) < 0


def test_cohen_kappa_weights_forgive_near_grades():
  a = np.array([1, 2, 3, 4, 5, 1, 3, 5])
  near, far = np.minimum(a + 1, 5), a[::-1]
  assert agreement.cohen_kappa(a, near, "quadratic") > agreement.cohen_kappa(a, near)
  assert agreement.cohen_kappa(a, near, "quadratic") > 0.6
  assert agreement.cohen_kappa(a, far, "quadratic") < 0.6


def test_fleiss_kappa_equals_a_worked_example():
  """Fourteen readers, ten subjects, five classes; 0.210 in the textbooks."""
  counts = [
    [0, 0, 0, 0, 14],
    [0, 2, 6, 4, 2],
    [0, 0, 3, 5, 6],
    [0, 3, 9, 2, 0],
    [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0],
    [3, 2, 6, 3, 0],
    [2, 5, 3, 2, 2],
    [6, 5, 2, 1, 0],
    [0, 2, 2, 3, 7],
  ]
  assert agreement.fleiss_kappa(np.array(counts)) == pytest.approx(0.210, abs=5e-4)
  assert agreement.fleiss_kappa(np.array([[3, 0], [0, 3]])) == pytest.approx(1)
  with pytest.raises(ValueError, match="same two or more"):
    agreement.fleiss_kappa(np.array([[3, 0], [1, 1]]))


def test_cohen_kappa_and_fleiss_kappa_of_equal_answers_are_undefined():
  same = np.ones(5, int)
  assert agreement.cohen_kappa(same, same) is None
  assert agreement.cohen_kappa(same[:0], same[:0]) is None
  assert agreement.fleiss_kappa(np.array([[3, 0], [3, 0]])) is None


def test_mean_has_students_interval():
  value, low, high = agreement.mean(np.array([2.0, 4.0]))
  # Student's t with one degree of freedom: 12.706 standard errors of 1.
  assert (value, low, high) == pytest.approx((3, 3 - 12.7062, 3 + 12.7062), abs=1e-3)
  assert agreement.mean(np.array([2.0])) == (2, None, None)
