"""How well scores rank images with a finding above the others.

scores [n], positive [n], weights [r n] -> AUROC, average precision: [r]

AUROC: Hanley and McNeil 1982, "The meaning and use of the area under a ROC curve".
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np


def auroc(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
  """Area under the ROC curve by Mann and Whitney's count of pairs, ties one half.

  Args:
    weights: [r n], how often each image counts, in each of r replicates.

  Returns:
    [r] in [0, 1], NaN where a replicate lacks positives or negatives.
  """
  hits, others = _levels(scores, positive, weights)
  above = np.cumsum(hits, axis=1) - hits
  pairs = (others * (above + hits / 2)).sum(axis=1)
  return ratio(pairs, hits.sum(axis=1) * others.sum(axis=1))


def average_precision(
  scores: np.ndarray, positive: np.ndarray, weights: np.ndarray
) -> np.ndarray:
  """Area under the precision-recall steps, one step a distinct score; as `auroc`."""
  hits, others = _levels(scores, positive, weights)
  gained = np.cumsum(hits, axis=1)
  above = gained + np.cumsum(others, axis=1)
  # 0 / 1e-12 where no image is above, which has no weight.
  precision = gained / np.maximum(above, 1e-12)
  return ratio((hits * precision).sum(axis=1), hits.sum(axis=1))


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
  """Returns part / whole, NaN where the whole is nothing."""
  undefined = whole == 0
  return np.where(undefined, np.nan, part / np.where(undefined, 1, whole))


def of_known(
  curve_fn: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
  scores: np.ndarray,
  findings: np.ndarray,
  weights: np.ndarray,
) -> np.ndarray:
  """A curve of the images whose finding [n] (0, 1 or nan) is known: [r]."""
  known = np.isfinite(findings)
  if known.all() and known.size:
    return curve_fn(scores, findings > 0.5, weights)
  if not known.any():
    return np.full(len(weights), np.nan)
  return curve_fn(scores[known], findings[known] > 0.5, weights[:, known])


# Metric -> (scores [n], positive [n], weights [r n]) -> [r].
CURVES: Mapping[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = (
  MappingProxyType({"auroc": auroc, "average_precision": average_precision})
)


def _levels(
  scores: np.ndarray, positive: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Returns weights of positives and of negatives [r l] by score, highest first."""
  order = np.argsort(-scores, kind="stable")
  changes = np.flatnonzero(np.diff(scores[order])) + 1
  starts = np.concatenate([[0], changes])
  counts, is_positive = weights[:, order], positive[order]
  hits = np.add.reduceat(counts * is_positive, starts, axis=1)
  others = np.add.reduceat(counts * ~is_positive, starts, axis=1)
  return hits, others
