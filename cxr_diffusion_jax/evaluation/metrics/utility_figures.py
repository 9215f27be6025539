"""Figures of several trainings' scores of one test set, and differences of two.

scores [s t k] + findings [t k] --halves of patients--> deviations [128 k+1], by seed
  variance = that of the seeds' mean over patients + variance between seeds / s, each
  with its degrees of freedom

Seeds and patients are crossed, since each classifier scores the same images. All sets
of scores have the same halves, so that differences are paired.
"""

from collections.abc import Mapping
import dataclasses

import numpy as np

from cxr_diffusion_jax.evaluation import statistics
from cxr_diffusion_jax.evaluation.measurement import Measurement
from cxr_diffusion_jax.evaluation.metric import Metric
from cxr_diffusion_jax.evaluation.metrics import ranking, utility_arms

_MEANINGS = {
  "real": "A classifier trained on real images, tested on other real images.",
  "tstr": "A classifier trained on generated images, tested on real ones.",
  **{
    arm: f"A classifier trained on both, {ratio} times the synthetic images, tested on"
    " real ones."
    for arm, ratio in utility_arms.RATIOS.items()
  },
  "synthetic_then_real": (
    "A classifier trained on generated, then on real images, tested on real ones."
  ),
}

# Arms, macro mean or by finding, as they are and minus those of real images alone.
METRICS = tuple(
  Metric(
    name=f"{arm}_{macro}{curve}{suffix}",
    subject="utility",
    meaning=meaning + " Minus that of real training images alone." * bool(suffix),
    direction="higher",
    bounds=(-1.0 if suffix else 0.0, 1.0),
  )
  for arm, meaning in _MEANINGS.items()
  for curve in ranking.CURVES
  for macro in ("macro_", "")
  for suffix in ("", "_difference")
  if arm != utility_arms.REAL or (macro and not suffix)
)
RECORDS = {record.name: record for record in METRICS}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TestSet:
  """The labels that scores are compared with."""

  findings: np.ndarray  # [t k] 0 or 1, nan unknown
  patients: np.ndarray  # [t] names
  vocabulary: tuple[str, ...]
  counted: np.ndarray  # [k] bool, findings in the macro means
  judge: str


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
  """A metric of each of k findings, and in column k the mean of those that count."""

  values: np.ndarray  # [s k+1] of each seed; NaN where undefined
  deviations: np.ndarray  # [128 k+1] of the mean over seeds; NaN where undefined


def of_arm(
  test: TestSet,
  arm: str,
  own: Mapping[str, Sample],
  real: Mapping[str, Sample],
  num: int,
  num_real: int,
) -> list[Measurement]:
  """All figures of an arm: its own, those of real images alone, and the differences."""
  measurements = []
  for metric in ranking.CURVES:
    a, b = own[metric], real[metric]
    difference = Sample(
      values=a.values - b.values, deviations=a.deviations - b.deviations
    )
    for k in (len(test.counted), *range(len(test.counted))):
      title = f"{arm}_{metric}" if k < len(test.counted) else f"{arm}_macro_{metric}"
      measurements += [
        measurement(test, title, a, k, num=num),
        measurement(test, title, b, k, num=num_real, of="real"),
        measurement(test, f"{title}_difference", difference, k, num=num),
      ]
  return measurements


def measurement(
  test: TestSet,
  metric: str,
  drawn: Sample,
  column: int,
  *,
  num: int,
  of: str = "generated",
) -> Measurement:
  """One column of a sample."""
  group, reason, known = "all", "", np.isfinite(test.findings).any(axis=1)
  enough = True
  if column < len(test.counted):
    group = f"finding: {test.vocabulary[column]}"
    finding = test.findings[:, column]
    known = np.isfinite(finding)
    count = int((finding > 0.5).sum())
    if count in (0, known.sum()):
      reason = f"{count} of {known.sum()} test images have it"
    enough = count >= utility_arms.MIN_POSITIVES
  low = high = None
  values, num_seeds = drawn.values[:, column], len(drawn.values)
  error = statistics.standard_error(drawn.deviations[:, column])
  patients = len(np.unique(test.patients[known]))
  fewest = int(_fewest(test)[column])
  if not reason and enough and fewest > 1 and np.isfinite(error):
    parts = [(error**2, fewest - 1)]
    # A single seed has no variance, and its interval is that of the patients alone.
    if num_seeds > 1:
      parts.append((values.var(ddof=1) / num_seeds, num_seeds - 1))
    low, high = statistics.interval(float(values.mean()), parts, RECORDS[metric].bounds)
  return RECORDS[metric].measurement(
    value=None if reason else float(values.mean()),
    reason=reason,
    low=low,
    high=high,
    num=num,
    num_real=int(known.sum()),
    real_patients=patients,
    judge=test.judge,
    group=group,
    of=of,
  )


def samples(test: TestSet, scores: np.ndarray) -> dict[str, Sample]:
  """Every curve of `ranking` of scores [s t k]."""
  return {metric: sample(test, metric, scores) for metric in ranking.CURVES}


def sample(test: TestSet, metric: str, scores: np.ndarray) -> Sample:
  """Computes a metric of each seed, and the deviations of its mean over seeds."""
  values, deviations = statistics.estimates(
    lambda weights: _values(test, metric, scores, weights),
    test.patients,
    fewest=_fewest(test),
  )
  return Sample(values=values, deviations=deviations.mean(axis=1))


def _fewest(test: TestSet) -> np.ndarray:
  """Patients [k+1] that figures depend on: with the finding or without, if fewer."""
  least = np.minimum(
    statistics.num_patients(test.findings > 0.5, test.patients),
    statistics.num_patients(test.findings <= 0.5, test.patients),
  )
  of_mean = min(least[test.counted].sum(), len(np.unique(test.patients)))
  return np.append(least, of_mean)


def _values(
  test: TestSet, metric: str, scores: np.ndarray, weights: np.ndarray
) -> np.ndarray:
  """Returns [r s k+1] of images that count `weights` [r t] times."""
  num_seeds, _, num_findings = scores.shape
  findings = test.findings
  both = (findings > 0.5).any(axis=0) & (findings <= 0.5).any(axis=0)
  values = np.full((len(weights), num_seeds, num_findings + 1), np.nan)
  for k in np.flatnonzero(both):
    for s in range(num_seeds):
      values[:, s, k] = ranking.of_known(
        ranking.CURVES[metric], scores[s, :, k], findings[:, k], weights
      )
  defined = np.isfinite(values[..., :-1]) & test.counted
  total = np.where(defined, values[..., :-1], 0).sum(axis=-1)
  number = defined.sum(axis=-1)
  values[..., -1] = np.where(number > 0, total / np.maximum(number, 1), np.nan)
  return values
