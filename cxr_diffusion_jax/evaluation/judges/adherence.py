"""How well a classifier recognises the requested findings in generated images.

scores [n k], requested [n k] -> per finding and macro -> [Measurement, ...]
  AUROC              P(score with the finding > score without it), ties one half
  average precision  sum over scores of (recall gained) x precision
  found              share above the threshold of images with it: sensitivity
  false alarms       share above the threshold of the others: 1 - specificity

Intervals: percentiles of the bootstrap, Efron and Tibshirani 1993. All figures depend
on the classifier; those of real images are their ceiling.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Unpack

import numpy as np

from cxr_diffusion_jax import errors, types
from cxr_diffusion_jax.evaluation import statistics
from cxr_diffusion_jax.evaluation.measurement import Fields, Measurement
from cxr_diffusion_jax.evaluation.metric import Metric
from cxr_diffusion_jax.evaluation.metrics import ranking
from cxr_diffusion_jax.evaluation.statistics import Estimate

FIGURES = tuple(
  Metric(
    name=name,
    subject="adherence",
    title=title,
    meaning=meaning,
    direction="lower" if name == "false_alarms" else "higher",
    bounds=(0.0, 1.0),
    minimum_n=5,
  )
  for name, title, meaning in (
    (
      "auroc",
      "AUROC",
      "Probability that a classifier scores an image that was to show a finding higher"
      " than one that was not; 0.5 is chance. Undefined where all images or none were"
      " to show it.",
    ),
    (
      "average_precision",
      "Average precision",
      "Area under precision over recall of a finding, ranked by the classifier. Its"
      " chance level is the finding's share of the images.",
    ),
    (
      "found",
      "Found",
      "Share of images that were to show a finding in which the classifier sees it.",
    ),
    (
      "false_alarms",
      "False alarms",
      "Share of images that were not to show a finding where the classifier sees it.",
    ),
  )
)
NAMES = tuple(record.name for record in FIGURES)

# Images with a finding, for it to count in the means over findings.
MIN_POSITIVES = 5

CHANGES = tuple(
  Metric(
    name=f"change_by_condition{suffix}",
    subject="adherence",
    meaning="Mean absolute difference in grey levels of two images that differ only in"
    " this.",
    bounds=(0.0, 255.0),
  )
  for suffix in ("", "_and_noise")
)

METRICS = (*FIGURES, *CHANGES)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Adherence:
  """Figures of one set of images; those of findings are NaN where undefined.

  Attributes:
    num_positive: [k] int, images requested with the finding.
    auroc: [k], undefined without positives or without negatives.
    average_precision: [k], undefined without positives.
    found: [k], undefined without positives or threshold.
    false_alarms: [k], undefined without negatives or threshold.
    counted: [k] bool, findings in the macro means: enough positives, a negative and a
      threshold, so that all four means are over the same findings.
    intervals: names as in `NAMES` -> [k 2], 95 %; NaN for findings that do not count.
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
  requested: np.ndarray,
  thresholds: np.ndarray,
  min_positives: int = MIN_POSITIVES,
  *,
  num_replicates: int = 1000,
  seed: int = 0,
) -> Adherence:
  """Compares a classifier's scores with the findings that were requested.

  Args:
    scores: [n k] finite, higher where the finding is seen.
    requested: [n k], 1 where the finding was requested or, of real images, is labelled.
    thresholds: [k], a finding is seen where its score is above; NaN for none.
    num_replicates: bootstrap samples of n images. Several images of one condition count
      as independent: their interval is that of these conditions.

  Returns:
    The figures. In replicates that lack a finding, the macro mean is over the others.

  Raises:
    errors.InputError: no finding can be counted.
  """
  scores, requested = np.asarray(scores), np.asarray(requested)
  thresholds = np.asarray(thresholds, np.float64)
  _check(scores, requested, thresholds)
  n, positive = len(requested), requested > 0.5
  num_positive = positive.sum(axis=0)
  enough = (num_positive >= max(1, min_positives)) & (num_positive < n)
  counted = enough & np.isfinite(thresholds)
  if not counted.any():
    least = max(1, min_positives)
    raise errors.InputError(
      f"{n} images, at most {num_positive.max(initial=0)} with the same finding",
      f"a finding with a threshold, {least} images with it and one without",
      "evaluate more images",
    )
  single = _figures(scores, positive, thresholds, np.ones((1, n)))
  values = {name: figures[0] for name, figures in single.items()}
  columns = np.flatnonzero(counted)
  generator = np.random.default_rng(seed)
  replicates = [
    _figures(
      scores[:, columns],
      positive[:, columns],
      thresholds[columns],
      statistics.weights(np.arange(n), count, generator),
    )
    for count in statistics.blocks(num_replicates)
  ]
  macro, intervals = {}, {}
  for name in NAMES:
    drawn = np.concatenate([block[name] for block in replicates])
    low, high = np.nanpercentile(_macro(drawn), (2.5, 97.5))
    value = values[name][columns].mean()
    macro[name] = Estimate(value=float(value), low=float(low), high=float(high))
    intervals[name] = np.full((scores.shape[1], 2), np.nan)
    intervals[name][columns] = np.nanpercentile(drawn, (2.5, 97.5), axis=0).T
  return Adherence(
    num_images=n,
    num_positive=num_positive,
    counted=counted,
    macro=macro,
    intervals=intervals,
    **values,
  )


def to_measurements(
  figures: Adherence, names: Sequence[str], **fields: Unpack[Fields]
) -> list[Measurement]:
  """All figures: macro means in the group "all", others in "finding: NAME"."""
  common = fields | Fields(num=figures.num_images)
  measurements = []
  for record in FIGURES:
    macro = figures.macro[record.name].fields
    measurements.append(record.measurement(common, macro))
    values = getattr(figures, record.name)
    for k, name in zip(range(len(values)), names, strict=True):
      value = float(values[k])
      low, high = (float(bound) for bound in figures.intervals[record.name][k])
      known = np.isfinite(value)
      bounded = known and np.isfinite(low) and np.isfinite(high)
      measurements.append(
        record.measurement(
          common,
          group=f"finding: {name}",
          value=value if known else None,
          reason="" if known else _why_undefined(figures, k),
          low=low if bounded else None,
          high=high if bounded else None,
        )
      )
  return measurements


def changes(images: types.Arrays, swapped: types.Arrays) -> list[Measurement]:
  """How much the condition alone, and condition and noise, change an image."""
  n = len(swapped)
  own = np.stack([images[i] for i in range(n)]).astype(np.float32)
  other = np.stack([swapped[i] for i in range(n)]).astype(np.float32)
  differences = (own - other, own - np.roll(own, -1, axis=0))
  return [
    record.measurement(value=float(np.abs(difference).mean()), num=n)
    for record, difference in zip(CHANGES, differences, strict=True)
  ]


def _check(scores: np.ndarray, requested: np.ndarray, thresholds: np.ndarray) -> None:
  shapes = scores.shape, requested.shape, (len(requested), *thresholds.shape)
  if scores.ndim != 2 or len(set(shapes)) > 1:
    raise ValueError(f"scores, requested and thresholds of {shapes}, not of one [n k]")
  if not np.isfinite(scores).all():
    raise ValueError("scores that are not finite")
  if not np.isin(requested, (0, 1)).all():
    raise ValueError("requested holds more than 0 and 1")


def _figures(
  scores: np.ndarray, positive: np.ndarray, thresholds: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
  """Returns name -> [r k] figures of images that count `weights` [r n] times."""
  columns = range(scores.shape[1])
  curves = {
    name: np.stack([fn(scores[:, k], positive[:, k], weights) for k in columns], axis=1)
    for name, fn in ranking.CURVES.items()
  }
  seen = (scores > thresholds).astype(np.float64)
  shares = {}
  for name, group in (("found", positive), ("false_alarms", ~positive)):
    share = ranking.ratio(weights @ (seen * group), weights @ group.astype(np.float64))
    shares[name] = np.where(np.isfinite(thresholds), share, np.nan)
  return {**curves, **shares}


def _macro(figures: np.ndarray) -> np.ndarray:
  """[r k] -> [r], means over the findings that are defined."""
  defined = np.isfinite(figures)
  return ranking.ratio(np.where(defined, figures, 0).sum(axis=1), defined.sum(axis=1))


def _why_undefined(figures: Adherence, k: int) -> str:
  count = int(figures.num_positive[k])
  if count in (0, figures.num_images):
    which = "no" if count == 0 else "every"
    return f"{which} image of {figures.num_images} has it: one class alone"
  return "no threshold: one class alone in the validation images"
