"""Figures of several trainings' scores of one test set, and differences of two.

scores [s t k] + findings [t k] --seeds x patients drawn--> [r k+1] -> value, interval

A replicate draws seeds and, independently, whole patients of the test set (crossed, as
each classifier sees the same images): Davison and Hinkley 1997, sections 3.8 and 2.4.
All sets of scores get the same draws, so that differences are paired.
"""

from collections.abc import Callable, Mapping
import dataclasses

import numpy as np

from cxr_diffusion_jax.evaluation.judges import adherence
from cxr_diffusion_jax.evaluation.measurement import Measurement
from cxr_diffusion_jax.evaluation.statistics import cluster_bootstrap

METRICS: Mapping[str, Callable[..., np.ndarray]] = {
  "auroc": adherence.auroc,
  "average_precision": adherence.average_precision,
}

# Replicates that are computed at once: t weights stand in memory for each.
_BLOCK = 64


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Test:
  """What scores are judged by.

  Attributes:
    findings: [t 14] 0 or 1.
    patients: [t] names; images of one are drawn together.
    vocabulary: names of the k findings.
    counted: [k] bool, findings in the macro means.
    judge: see `Measurement`.
    num_replicates: of the bootstrap.
  """

  findings: np.ndarray
  patients: np.ndarray
  vocabulary: tuple[str, ...]
  counted: np.ndarray
  judge: str
  num_replicates: int


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
  """A metric of each of k findings, and in column k the mean of those that count.

  Attributes:
    value: [k+1], means over seeds; NaN where undefined.
    replicates: [r k+1]; NaN where a draw lacks the finding or its absence.
  """

  value: np.ndarray
  replicates: np.ndarray


def of_arm(
  test: Test,
  arm: str,
  mine: Mapping[str, Sample],
  real: Mapping[str, Sample],
  num: int,
  num_real: int,
) -> list[Measurement]:
  """All figures of an arm: its own, those of real images alone, and the differences.

  Args:
    test: the scores' test set.
    arm: begins the metrics' names.
    mine: `samples` of the arm.
    real: of real images alone, of the same seeds.
    num: images that the arm was trained on.
    num_real: real images that the other was trained on.
  """
  made = []
  for metric in METRICS:
    a, b = mine[metric], real[metric]
    difference = Sample(value=a.value - b.value, replicates=a.replicates - b.replicates)
    for k in (len(test.counted), *range(len(test.counted))):
      title = f"{arm}_{metric}" if k < len(test.counted) else f"{arm}_macro_{metric}"
      made += [
        measurement(test, title, a, k, num=num),
        measurement(test, title, b, k, num=num_real, of="real"),
        measurement(test, f"{title}_difference", difference, k, num=num, least=-1.0),
      ]
  return made


def measurement(
  test: Test,
  metric: str,
  drawn: Sample,
  column: int,
  *,
  num: int,
  of: str = "generated",
  least: float = 0.0,
) -> Measurement:
  """One column of a sample.

  Args:
    test: the scores' test set.
    metric: the figure's name.
    drawn: value and replicates.
    column: a finding, or 14 for the macro mean.
    num: images that were trained on.
    of: see `Measurement`.
    least: of the metric's range, which ends at 1.
  """
  group, reason = "all", ""
  if column < len(test.counted):
    group = f"finding: {test.vocabulary[column]}"
    count = int(test.findings[:, column].sum())
    if count in (0, len(test.findings)):
      reason = f"{count} of {len(test.findings)} test images have it"
  finite = drawn.replicates[np.isfinite(drawn.replicates[:, column]), column]
  low = high = None
  if not reason and len(finite):
    low, high = np.clip(np.percentile(finite, (2.5, 97.5)), least, 1.0).tolist()
  return Measurement(
    subject="utility",
    metric=metric,
    value=None if reason else float(drawn.value[column]),
    reason=reason,
    low=low,
    high=high,
    num=num,
    num_real=len(test.findings),
    judge=test.judge,
    group=group,
    of=of,
    better="higher",
  )


def samples(test: Test, scores: np.ndarray) -> dict[str, Sample]:
  """Each of `METRICS` of scores [s t 14]."""
  return {metric: sample(test, metric, scores) for metric in METRICS}


def sample(test: Test, metric: str, scores: np.ndarray) -> Sample:
  """Computes a metric and its replicates.

  A bootstrap of s seeds has (s - 1) / s of the variance that it should have, a third
  less of 3: what drawn seeds deviate by is multiplied by the root of s / (s - 1). Of a
  single seed there is no deviation, and the interval is that of the images alone.

  Args:
    test: the scores' test set.
    metric: one of `METRICS`.
    scores: [s t k] of s seeds.
  """
  num_seeds, generator = len(scores), np.random.default_rng([0, 0])
  blocks = []
  for first in range(0, test.num_replicates, _BLOCK):
    count = min(_BLOCK, test.num_replicates - first)
    weights = cluster_bootstrap.weights(test.patients, count, generator)
    blocks.append(_values(test, metric, scores, weights))
  of_seeds = np.concatenate(blocks)
  share = np.full(num_seeds, 1 / num_seeds)
  drawn = np.random.default_rng([0, 1]).multinomial(
    num_seeds, share, size=test.num_replicates
  )
  centre = of_seeds.mean(axis=1)
  moved = np.einsum("rs,rsk->rk", drawn / num_seeds, of_seeds) - centre
  widening = np.sqrt(num_seeds / max(1, num_seeds - 1))
  whole = _values(test, metric, scores, np.ones((1, len(test.findings))))
  return Sample(value=whole[0].mean(axis=0), replicates=centre + widening * moved)


def _values(
  test: Test, metric: str, scores: np.ndarray, weights: np.ndarray
) -> np.ndarray:
  """Returns [r s k+1] of images that count `weights` [r t] times."""
  num_seeds, _, num_findings = scores.shape
  positive = test.findings > 0.5
  made = np.full((len(weights), num_seeds, num_findings + 1), np.nan)
  for k in np.flatnonzero(positive.any(axis=0) & ~positive.all(axis=0)):
    for s in range(num_seeds):
      made[:, s, k] = METRICS[metric](scores[s, :, k], positive[:, k], weights)
  defined = np.isfinite(made[..., :-1]) & test.counted
  total = np.where(defined, made[..., :-1], 0).sum(axis=-1)
  number = defined.sum(axis=-1)
  made[..., -1] = np.where(number > 0, total / np.maximum(number, 1), np.nan)
  return made
