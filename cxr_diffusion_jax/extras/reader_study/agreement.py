"""Shares, means and agreement of readers; None where one is undefined.

Exact intervals of shares: Clopper and Pearson, Biometrika 1934. Two readers: Cohen's
kappa, Educational and Psychological Measurement 1960. More: Fleiss' kappa, 1971.
"""

import numpy as np
import scipy.stats
from sklearn import metrics


def share(count: int, num: int) -> tuple[float, float, float]:
  """The share of hits in `num` trials, and its exact 95 % interval, in [0, 1]."""
  interval = scipy.stats.binomtest(count, num).proportion_ci(0.95, method="exact")
  return count / num, float(interval.low), float(interval.high)


def cohen_kappa(
  a: np.ndarray, b: np.ndarray, weights: str | None = None
) -> float | None:
  """Agreement beyond chance of two readers' classes [n], at most 1.

  `weights` is None, or "quadratic" for grades. None where both gave only one and the
  same class.
  """
  if len(a) == 0 or len(set(a.tolist()) | set(b.tolist())) < 2:
    return None
  return float(metrics.cohen_kappa_score(a, b, weights=weights))


def fleiss_kappa(counts: np.ndarray) -> float | None:
  """Agreement of several readers beyond chance, at most 1.

  With n_ij readers of r who put image i in class j: P_i = (sum_j n_ij^2 - r) / (r (r -
  1)), p_j the share of class j in all answers; kappa = (mean P - sum p_j^2) / (1 - sum
  p_j^2). None where all answers are of one class.

  Args:
    counts: [n k] readers that chose class j for image i; rows of equal sums >= 2.

  Raises:
    ValueError: rows of unequal sums, or fewer than two readers.
  """
  counts = np.asarray(counts, np.float64)
  r = counts.sum(axis=1)
  if not len(counts) or r[0] < 2 or (r != r[0]).any():
    raise ValueError("each image needs the answers of the same two or more readers")
  r = r[0]
  agreement = ((counts**2).sum(axis=1) - r) / (r * (r - 1))
  shares = counts.sum(axis=0) / counts.sum()
  chance = (shares**2).sum()
  if chance == 1:
    return None
  return float((agreement.mean() - chance) / (1 - chance))


def mean(values: np.ndarray) -> tuple[float, float | None, float | None]:
  """The mean of [n] values and Student's 95 % interval; none of it for one value."""
  value = float(values.mean())
  if len(values) < 2:
    return value, None, None
  half = scipy.stats.t.ppf(0.975, len(values) - 1) * scipy.stats.sem(values)
  return value, value - float(half), value + float(half)
