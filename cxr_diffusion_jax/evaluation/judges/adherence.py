"""How well a classifier recognises the requested findings in generated images.

scores [n k], requested [n k] -> per finding and macro -> [Measurement, ...]
  AUROC              P(score with the finding > score without it), ties one half
  average precision  sum over scores of (recall gained) x precision
  found              share above the threshold of images with it: sensitivity
  false alarms       share above the threshold of the others: 1 - specificity

Images count for a finding where it is known. All figures depend on the classifier;
those of real images are their ceiling.
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

_MEANINGS = {
  "auroc": "Probability that a classifier scores an image that was to show a finding"
  " higher than one that was not; 0.5 is chance. Undefined where all images or none"
  " were to show it.",
  "average_precision": "Area under precision over recall of a finding, ranked by the"
  " classifier. Its chance level is the finding's share of the images.",
  "found": "Share of images that were to show a finding in which the classifier sees"
  " it.",
  "false_alarms": "Share of images that were not to show a finding where the classifier"
  " sees it.",
}
FIGURES = tuple(
  Metric(
    name=name,
    subject="adherence",
    meaning=meaning,
    direction="lower" if name == "false_alarms" else "higher",
    bounds=(0.0, 1.0),
    minimum_n=5,
  )
  for name, meaning in _MEANINGS.items()
)
NAMES = tuple(_MEANINGS)

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
  """Figures of one set of images, by the names in `NAMES`.

  Findings count in the macro means if they have enough positives, a negative and a
  threshold, so that all four means are over the same findings. AUROC is undefined
  without positives or without negatives, average precision without positives, found
  without positives or threshold, false alarms without negatives or threshold.
  """

  num_images: int
  num_known: np.ndarray  # [k] int, images whose finding is known
  num_positive: np.ndarray  # [k] int, images requested with the finding
  counted: np.ndarray  # [k] bool
  values: Mapping[str, np.ndarray]  # [k], NaN where undefined
  macro: Mapping[str, Estimate]
  findings: Mapping[str, Mapping[int, Estimate]]  # name -> column that counts -> figure


def measure(
  scores: np.ndarray,
  requested: np.ndarray,
  thresholds: np.ndarray,
  min_positives: int = MIN_POSITIVES,
  *,
  patients: np.ndarray | None = None,
) -> Adherence:
  """Compares a classifier's scores with the findings that were requested.

  Args:
    scores: [n k] finite, higher where the finding is seen.
    requested: [n k], 1 where the finding was requested or, of real images, is labelled;
      nan where it is unknown.
    thresholds: [k], a finding is seen where its score is above; NaN for none.
    patients: [n] names; None if unknown: each image counts as a patient.

  Returns:
    The figures. In halves that lack a finding, the macro mean is over the others.

  Raises:
    errors.InputError: no finding can be counted.
  """
  scores, requested = np.asarray(scores), np.asarray(requested)
  thresholds = np.asarray(thresholds, np.float64)
  check(scores, requested, thresholds, min_positives)
  n = len(requested)
  names = np.arange(n) if patients is None else patients
  num_known, num_positive = _counts(requested)
  enough = (num_positive >= max(1, min_positives)) & (num_positive < num_known)
  counted = enough & np.isfinite(thresholds)
  single = _figures(scores, requested, thresholds, np.ones((1, n)))
  columns = np.flatnonzero(counted)
  estimates = _estimates(
    scores[:, columns], requested[:, columns], thresholds[columns], names
  )
  return Adherence(
    num_images=n,
    num_known=num_known,
    num_positive=num_positive,
    counted=counted,
    values={name: figures[0] for name, figures in single.items()},
    macro={name: one[0] for name, one in estimates.items()},
    findings={
      name: dict(zip(columns.tolist(), one[1:], strict=True))
      for name, one in estimates.items()
    },
  )


def to_measurements(
  figures: Adherence, names: Sequence[str], **fields: Unpack[Fields]
) -> list[Measurement]:
  """All figures: macro means in the group "all", others in "finding: NAME"."""
  common = fields | Fields(num=figures.num_images)
  measurements = []
  for record in FIGURES:
    measurements.append(record.measurement(common, figures.macro[record.name]))
    for k, name in enumerate(names):
      value = float(figures.values[record.name][k])
      figure = figures.findings[record.name].get(k)
      if figure is None:
        known = np.isfinite(value)
        figure = Fields(
          value=value if known else None,
          reason="" if known else _why_undefined(figures, k),
        )
      own = Fields(group=f"finding: {name}", num=int(figures.num_known[k]))
      measurements.append(record.measurement(common | own, figure))
  return measurements


def changes(images: types.Arrays, swapped: types.Arrays) -> list[Measurement]:
  """How much the condition alone, and condition and noise, change an image."""
  n = len(swapped)
  own, other = (
    np.stack([part[i] for i in range(n)]).astype(np.float32)
    for part in (images, swapped)
  )
  differences = (own - other, own - np.roll(own, -1, axis=0))
  return [
    record.measurement(value=float(np.abs(difference).mean()), num=n)
    for record, difference in zip(CHANGES, differences, strict=True)
  ]


def check(
  scores: np.ndarray,
  requested: np.ndarray,
  thresholds: np.ndarray,
  min_positives: int = MIN_POSITIVES,
) -> None:
  """Refuses what `measure` refuses."""
  shapes = scores.shape, requested.shape, (len(requested), *thresholds.shape)
  if scores.ndim != 2 or len(set(shapes)) > 1:
    raise ValueError(f"scores, requested and thresholds of {shapes}, not of one [n k]")
  if not np.isfinite(scores).all():
    raise ValueError("scores that are not finite")
  if not (np.isin(requested, (0, 1)) | np.isnan(requested)).all():
    raise ValueError("requested holds more than 0, 1 and nan")
  n, least = len(requested), max(1, min_positives)
  num_known, num_positive = _counts(requested)
  enough = (num_positive >= least) & (num_positive < num_known)
  if not (enough & np.isfinite(thresholds)).any():
    raise errors.InputError(
      f"{n} images, at most {num_positive.max(initial=0)} with the same finding",
      f"a finding with a threshold, {least} images with it and one without",
      "evaluate more images",
    )


def _counts(requested: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Images whose finding is known, and those with it: [k] each."""
  return np.isfinite(requested).sum(axis=0), (requested > 0.5).sum(axis=0)


def _figures(
  scores: np.ndarray, requested: np.ndarray, thresholds: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
  """Returns name -> [r k] figures of images that count `weights` [r n] times."""
  pairs = list(zip(scores.T, requested.T, strict=True))
  curves = {
    name: np.stack(
      [ranking.of_known(fn, score, finding, weights) for score, finding in pairs],
      axis=1,
    )
    for name, fn in ranking.CURVES.items()
  }
  seen = (scores > thresholds).astype(np.float64)
  shares = {}
  for name, group in (("found", requested > 0.5), ("false_alarms", requested <= 0.5)):
    share = ranking.ratio(weights @ (seen * group), weights @ group.astype(np.float64))
    shares[name] = np.where(np.isfinite(thresholds), share, np.nan)
  return {**curves, **shares}


def _estimates(
  scores: np.ndarray, requested: np.ndarray, thresholds: np.ndarray, names: np.ndarray
) -> dict[str, list[Estimate]]:
  """Returns name -> the macro mean, then each of k findings, with their deviations."""

  def figures_fn(weights: np.ndarray) -> np.ndarray:
    figures = _figures(scores, requested, thresholds, weights)
    table = np.stack([figures[name] for name in NAMES], axis=1)
    return np.concatenate([_macro(table)[..., None], table], axis=-1)

  # A figure depends on no more patients than have the finding, or lack it.
  positive, negative = (
    statistics.num_patients(rows, names) for rows in (requested > 0.5, requested <= 0.5)
  )
  of_figures = {"found": positive, "false_alarms": negative}
  fewest = np.stack(
    [
      statistics.with_mean(of_figures.get(name, np.minimum(positive, negative)), names)
      for name in NAMES
    ]
  )
  whole, deviations = statistics.estimates(figures_fn, names, fewest=fewest)
  return {
    name: [
      Estimate(value=float(value), deviations=of_figure, patients=int(least))
      for value, of_figure, least in zip(
        whole[row], deviations[:, row].T, fewest[row], strict=True
      )
    ]
    for row, name in enumerate(NAMES)
  }


def _macro(figures: np.ndarray) -> np.ndarray:
  """[r f k] -> [r f], means over the findings that are defined."""
  defined = np.isfinite(figures)
  return ranking.ratio(np.where(defined, figures, 0).sum(axis=-1), defined.sum(axis=-1))


def _why_undefined(figures: Adherence, k: int) -> str:
  count, known = int(figures.num_positive[k]), int(figures.num_known[k])
  if not known:
    return f"unknown in all {figures.num_images} images"
  if count in (0, known):
    which = "no" if count == 0 else "every"
    return f"{which} image of {known} has it: one class alone"
  return "no threshold: one class alone in the validation images"
