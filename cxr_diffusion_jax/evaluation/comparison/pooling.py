"""One figure of several sets of images, and which path is better than another.

sets [run][seed] of a path, each with a value v and the variance w of its images:
  value     mean v
  variance  B / R + S / (R Q) + mean w
            B: between the R runs (training seeds), S: between the Q sampling seeds
  interval  value +- t(df) sqrt(variance), df by Satterthwaite 1946

All sets are of the same conditions, so that the variance w of images does not shrink
with the number of sets. A difference of two paths has the sum of their variances: too
wide rather than too narrow, since their conditions are the same too.
"""

from collections.abc import Mapping, Sequence
import dataclasses

import numpy as np
import scipy.stats

from cxr_diffusion_jax.evaluation import metric as metric_lib
from cxr_diffusion_jax.evaluation.comparison.data import Verdict
from cxr_diffusion_jax.evaluation.measurement import Key, Measurement

LEVEL = 0.95


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spread:
  """A mean and its uncertainty."""

  value: float
  variance: float
  degrees: float  # of freedom of the variance; infinite where images alone vary


def spread(values: np.ndarray, image_variance: np.ndarray) -> Spread:
  """Mean and variance of the sets of one path."""
  runs, seeds = values.shape
  images = float(image_variance.mean())
  parts = [(images, np.inf)]
  if runs > 1:
    # The variance between means of q seeds includes that of the seeds.
    parts.append((values.mean(axis=1).var(ddof=1) / runs, runs - 1))
  elif seeds > 1:
    parts.append((values[0].var(ddof=1) / seeds, seeds - 1))
  variance = float(sum(part for part, _ in parts))
  shares = sum(part**2 / degrees for part, degrees in parts)
  degrees = variance**2 / shares if shares > 0 else np.inf
  return Spread(value=float(values.mean()), variance=variance, degrees=float(degrees))


def interval(of: Spread, level: float = LEVEL) -> tuple[float, float]:
  """The confidence interval of a figure."""
  half = _quantile(of.degrees, level) * of.variance**0.5
  return of.value - half, of.value + half


def difference(a: Spread, b: Spread, level: float = LEVEL) -> tuple[float, float]:
  """The interval of a - b."""
  variance = a.variance + b.variance
  shares = sum(
    one.variance**2 / one.degrees for one in (a, b) if np.isfinite(one.degrees)
  )
  degrees = variance**2 / shares if shares > 0 else np.inf
  apart = Spread(value=a.value - b.value, variance=variance, degrees=degrees)
  return interval(apart, level)


def pool(
  sets: Sequence[Sequence[Sequence[Measurement]]],
) -> tuple[list[Measurement], dict[Key, Spread]]:
  """Pools the figures of several sets of images.

  Returns:
    Figures with intervals over images and seeds, in the order of the first set; and
    their spreads by `Measurement.key`. A figure that is undefined in any set is
    undefined, for the same reason.
  """
  by_key = [[_generated(one_set) for one_set in run] for run in sets]
  pooled: list[Measurement] = []
  spreads: dict[Key, Spread] = {}
  records = metric_lib.find_all()
  for first in by_key[0][0].values():
    figures = [[one_set.get(first.key) for one_set in run] for run in by_key]
    flat = [one for run in figures for one in run]
    missing = [one for one in flat if one is None or one.value is None]
    if missing:
      reason = "not measured in every set" if missing[0] is None else missing[0].reason
      pooled.append(
        dataclasses.replace(first, value=None, low=None, high=None, reason=reason)
      )
      continue
    if len(flat) == 1:
      # Its own interval may be asymmetric, and is better than one of its width.
      pooled.append(first)
      spreads[first.key] = spread(np.array([[first.value]]), _variance(first)[None])
      continue
    shape = len(figures), len(figures[0])
    defined = [one for one in flat if one is not None]
    values = np.array([one.value for one in defined]).reshape(shape)
    variance = np.array([_variance(one)[0] for one in defined]).reshape(shape)
    spreads[first.key] = of = spread(values, variance)
    low, high = interval(of)
    bounded = of.variance > 0
    if first.metric in records:
      low, high = records[first.metric].clip(low, high)
    pooled.append(
      dataclasses.replace(
        first,
        value=of.value,
        low=low if bounded else None,
        high=high if bounded else None,
      )
    )
  return pooled, spreads


def verdicts(
  spreads: Mapping[str, Mapping[Key, Spread]], better: Mapping[Key, str]
) -> list[Verdict]:
  """Ranks paths by each figure; the best are those with no significantly better one.

  Each path is compared with the first in the ranking, at a level that keeps the chance
  of any false difference in one ranking at 5 % (Bonferroni).
  """
  results = []
  for key, side in better.items():
    of = {path: by_key[key] for path, by_key in spreads.items() if key in by_key}
    if len(of) < 2 or side not in ("lower", "higher"):
      continue
    sign = 1 if side == "lower" else -1
    ranking = sorted(of, key=lambda path: sign * of[path].value)
    level = 1 - (1 - LEVEL) / (len(ranking) - 1)
    apart = [(p, *difference(of[p], of[ranking[0]], level)) for p in ranking[1:]]
    best = [ranking[0]] + [path for path, low, high in apart if low <= 0 <= high]
    results.append(
      Verdict(
        key=key, ranking=tuple(ranking), best=tuple(best), differences=tuple(apart)
      )
    )
  return results


def _generated(one_set: Sequence[Measurement]) -> dict[Key, Measurement]:
  return {one.key: one for one in one_set if one.of == "generated"}


def _variance(one: Measurement) -> np.ndarray:
  """[1], over images, from the width of the interval."""
  if one.low is None or one.high is None:
    return np.zeros(1)
  half = (one.high - one.low) / 2
  return np.array([(half / scipy.stats.norm.ppf(0.5 + LEVEL / 2)) ** 2])


def _quantile(degrees: float, level: float) -> float:
  if np.isinf(degrees):
    return float(scipy.stats.norm.ppf(0.5 + level / 2))
  return float(scipy.stats.t.ppf(0.5 + level / 2, degrees))
