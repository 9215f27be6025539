"""How well images show the findings that were asked for, in the eyes of a classifier.

scores [n k] of the images + asked [n k] -> per finding and macro:
  AUROC              P(score with the finding > score without it), ties one half
  average precision  sum over scores of (recall gained) x precision
  found              share above the threshold of images with it: sensitivity
  false alarms       share above the threshold of the others: 1 - specificity

AUROC: Hanley and McNeil 1982, "The meaning and use of the area under a ROC curve".
Threshold: Youden 1950, "Index for rating diagnostic tests". Intervals: percentiles of
the bootstrap, Efron and Tibshirani 1993. All figures depend on the classifier: beside
them belong those of real images, which no generated ones are expected to exceed.
"""

from collections.abc import Mapping
import dataclasses

import numpy as np

from cxr_diffusion_jax import errors

# Name in `Adherence.macro` -> what people call it.
MACRO = {
  "auroc": "AUROC",
  "average_precision": "average precision",
  "found": "found",
  "false_alarms": "false alarms",
}

# Replicates that are computed at once: n of them stand in memory for each image.
_BLOCK = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
  """A figure `value` of the images at hand, and its 95 % interval `low` to `high`."""

  value: float
  low: float
  high: float


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Adherence:
  """Figures of one set of images; those of findings are NaN where undefined.

  Attributes:
    num_images: n.
    num_positive: [k] int, images with the finding asked for.
    auroc: [k], undefined without positives or without negatives.
    average_precision: [k], undefined without positives.
    found: [k], undefined without positives or threshold.
    false_alarms: [k], undefined without negatives or threshold.
    counted: [k] bool, findings in the macro means: enough positives, a negative and a
      threshold, so that all four means are over the same findings.
    macro: names as in `MACRO`.
    intervals: names as in `MACRO` -> [k 2], 95 %; NaN for findings that do not count.
  """

  num_images: int
  num_positive: np.ndarray
  auroc: np.ndarray
  average_precision: np.ndarray
  found: np.ndarray
  false_alarms: np.ndarray
  counted: np.ndarray
  macro: Mapping[str, Estimate]
  intervals: Mapping[str, np.ndarray]


def measure(
  scores: np.ndarray,
  asked: np.ndarray,
  thresholds: np.ndarray,
  min_positives: int = 5,
  *,
  num_replicates: int = 1000,
  seed: int = 0,
) -> Adherence:
  """Compares a classifier's scores with what the images were asked to show.

  Args:
    scores: [n k] finite, higher where the finding is seen.
    asked: [n k], 1 where the finding was asked for (or, of real images, is labelled).
    thresholds: [k], a finding is seen where its score is above; NaN for none.
    min_positives: images with a finding, for it to count in the macro means.
    num_replicates: bootstrap samples of n images. Several images of one condition count
      as independent: their interval is that of these conditions.
    seed: of the bootstrap.

  Returns:
    The figures. In replicates that lack a finding, the macro mean is over the others.

  Raises:
    errors.InputError: no finding can be counted.
    ValueError: arrays that are not as said above.
  """
  scores, asked = np.asarray(scores), np.asarray(asked)
  thresholds = np.asarray(thresholds, np.float64)
  _check(scores, asked, thresholds)
  n, positive = len(asked), asked > 0.5
  num_positive = positive.sum(axis=0)
  enough = (num_positive >= max(1, min_positives)) & (num_positive < n)
  counted = enough & np.isfinite(thresholds)
  if not counted.any():
    raise errors.InputError(
      f"{n} images, at most {num_positive.max(initial=0)} with the same finding",
      f"a finding with a threshold, {max(1, min_positives)} images with it and one"
      " without",
      "evaluate more images",
    )
  single = _figures(scores, positive, thresholds, np.ones((1, n)))
  values = {name: figures[0] for name, figures in single.items()}
  columns = np.flatnonzero(counted)
  replicates = _bootstrap(
    scores[:, columns],
    positive[:, columns],
    thresholds[columns],
    num_replicates,
    np.random.default_rng(seed),
  )
  macro, intervals = {}, {}
  for name, of_replicates in replicates.items():
    low, high = np.nanpercentile(_macro(of_replicates), (2.5, 97.5))
    value = values[name][columns].mean()
    macro[name] = Estimate(value=float(value), low=float(low), high=float(high))
    intervals[name] = np.full((scores.shape[1], 2), np.nan)
    intervals[name][columns] = np.nanpercentile(of_replicates, (2.5, 97.5), axis=0).T
  return Adherence(
    num_images=n,
    num_positive=num_positive,
    counted=counted,
    macro=macro,
    intervals=intervals,
    **values,
  )


def youden_thresholds(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
  """Chooses thresholds that maximise sensitivity + specificity - 1.

  Each lies halfway between two scores; of equally good ones it is the lowest, and where
  none is better than chance it is the highest score, which no image exceeds.

  Args:
    scores: [n k] finite.
    positive: [n k], 1 where the finding is.

  Returns:
    [k] float64, NaN for findings without positives or without negatives.
  """
  scores, positive = np.asarray(scores, np.float64), np.asarray(positive) > 0.5
  thresholds = np.full(scores.shape[1], np.nan)
  for k in range(scores.shape[1]):
    num_positive = int(positive[:, k].sum())
    if not 0 < num_positive < len(positive):
      continue
    cuts = np.unique(scores[:, k])
    cuts[:-1] += np.diff(cuts) / 2
    with_it = np.sort(scores[positive[:, k], k])
    without = np.sort(scores[~positive[:, k], k])
    missed = np.searchsorted(with_it, cuts, side="right") / len(with_it)
    passed = np.searchsorted(without, cuts, side="right") / len(without)
    gain = passed - missed
    best = np.argmax(gain)
    thresholds[k] = cuts[best] if gain[best] > 0 else cuts[-1]
  return thresholds


def auroc(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
  """Area under the ROC curve by Mann and Whitney's count of pairs, ties one half.

  Args:
    scores: [n].
    positive: [n] bool.
    weights: [r n], how often each image counts, in each of r replicates.

  Returns:
    [r] in [0, 1], NaN where a replicate lacks positives or negatives.
  """
  hits, others = _levels(scores, positive, weights)
  above = np.cumsum(hits, axis=1) - hits
  pairs = (others * (above + hits / 2)).sum(axis=1)
  return _ratio(pairs, hits.sum(axis=1) * others.sum(axis=1))


def average_precision(
  scores: np.ndarray, positive: np.ndarray, weights: np.ndarray
) -> np.ndarray:
  """Area under the precision-recall steps, one step a distinct score.

  Args:
    scores: [n].
    positive: [n] bool.
    weights: [r n], as of `auroc`.

  Returns:
    [r] in [0, 1], NaN where a replicate lacks positives.
  """
  hits, others = _levels(scores, positive, weights)
  found = np.cumsum(hits, axis=1)
  taken = found + np.cumsum(others, axis=1)
  # Where nothing is taken nothing is found: 0 / 1e-12 then, and no matter.
  precision = found / np.maximum(taken, 1e-12)
  return _ratio((hits * precision).sum(axis=1), hits.sum(axis=1))


def _check(scores: np.ndarray, asked: np.ndarray, thresholds: np.ndarray) -> None:
  shapes = scores.shape, asked.shape, (len(asked), *thresholds.shape)
  if scores.ndim != 2 or len(set(shapes)) > 1:
    raise ValueError(f"scores, asked and thresholds of {shapes}, not of one [n k]")
  if not np.isfinite(scores).all():
    raise ValueError("scores that are not finite")
  if not np.isin(asked, (0, 1)).all():
    raise ValueError("asked holds more than 0 and 1")


def _figures(
  scores: np.ndarray, positive: np.ndarray, thresholds: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
  """Returns name -> [r k] figures of images that count `weights` [r n] times."""
  columns = range(scores.shape[1])
  curves = {
    name: np.stack([fn(scores[:, k], positive[:, k], weights) for k in columns], axis=1)
    for name, fn in (("auroc", auroc), ("average_precision", average_precision))
  }
  seen = (scores > thresholds).astype(np.float64)
  shares = {}
  for name, group in (("found", positive), ("false_alarms", ~positive)):
    share = _ratio(weights @ (seen * group), weights @ group.astype(np.float64))
    shares[name] = np.where(np.isfinite(thresholds), share, np.nan)
  return {**curves, **shares}


def _bootstrap(
  scores: np.ndarray,
  positive: np.ndarray,
  thresholds: np.ndarray,
  num_replicates: int,
  generator: np.random.Generator,
) -> dict[str, np.ndarray]:
  """Returns name -> [r k] figures of resampled images."""
  n, blocks = len(scores), []
  for first in range(0, num_replicates, _BLOCK):
    size = min(_BLOCK, num_replicates - first)
    weights = generator.multinomial(n, np.full(n, 1 / n), size=size).astype(np.float64)
    blocks.append(_figures(scores, positive, thresholds, weights))
  return {name: np.concatenate([block[name] for block in blocks]) for name in MACRO}


def _macro(figures: np.ndarray) -> np.ndarray:
  """[r k] -> [r], means over the findings that are defined."""
  defined = np.isfinite(figures)
  return _ratio(np.where(defined, figures, 0).sum(axis=1), defined.sum(axis=1))


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


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
  """Returns part / whole, NaN where the whole is nothing."""
  undefined = whole == 0
  return np.where(undefined, np.nan, part / np.where(undefined, 1, whole))
