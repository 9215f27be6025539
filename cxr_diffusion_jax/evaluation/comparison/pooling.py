"""One figure of several sets of images, and which path is better than another.

sets [run][seed] of a path, each with a value v and deviations d over patients:
  value     mean v
  variance  mean square of the mean d (the patients), and that of the means of R runs
            (training seeds) over R, or of one run's Q sampling seeds over Q
  interval  value +- sqrt(sum of t(df)^2 variance), see `statistics`

The variance between runs is one for all paths that a figure ranks, of sum (R - 1)
degrees of freedom: two runs alone agree too often by chance.
All sets are of the same conditions and noise. The difference of two paths has the
difference of their deviations, so that what they share cancels. Verdicts compare all
pairs of paths; Bonferroni's level keeps the chance of any false difference between
equal paths below 5 % for each figure.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses

import numpy as np

from cxr_diffusion_jax.evaluation import metric as metric_lib
from cxr_diffusion_jax.evaluation import statistics
from cxr_diffusion_jax.evaluation.measurement import Key, Measurement


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Spread:
  """A mean over sets and its uncertainty.

  Attributes:
    deviations: [128] over patients; empty where unknown.
    degrees: of freedom of their mean square.
    runs, seeds: that the mean is over; seeds of each run.
    between: variance of the mean over runs, or over the seeds of a single run, and its
      degrees of freedom; 0 of a single set.
  """

  value: float
  deviations: np.ndarray
  degrees: float
  runs: int = 1
  seeds: int = 1
  between: tuple[float, float] = (0.0, 0)

  @property
  def known(self) -> bool:
    """Whether there is an interval: runs or seeds alone are not all that varies."""
    return len(self.deviations) > 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
  """Which paths are best by one figure.

  Attributes:
    best: paths that no other is significantly better than; a single name is a winner.
    differences: (path, low, high): the interval of its figure minus that of the first
      in the ranking, over the same conditions and seeds; one each but the first. All
      differences of all pairs hold together in 95 % of comparisons.
    unranked: path -> why the figure does not rank it, such as its own encoder's judge.
    primary: whether it was named before the run; all others are exploratory.
  """

  key: Key
  ranking: Sequence[str]
  best: Sequence[str]
  differences: Sequence[tuple[str, float, float]]
  unranked: Mapping[str, str] = dataclasses.field(default_factory=dict)
  primary: bool = False


def spread(
  values: np.ndarray, deviations: Sequence[Sequence[float]], degrees: float
) -> Spread:
  """Mean and uncertainty of sets with values [runs seeds] and deviations of each."""
  runs, seeds = values.shape
  between = 0.0, 0
  if runs > 1:
    # The variance between means of q seeds includes that of the seeds.
    between = float(values.mean(axis=1).var(ddof=1)) / runs, runs - 1
  elif seeds > 1:
    between = float(values[0].var(ddof=1)) / seeds, seeds - 1
  known = all(len(one) for one in deviations)
  return Spread(
    value=float(values.mean()),
    deviations=np.mean(deviations, axis=0) if known else np.zeros(0),
    degrees=degrees,
    runs=runs,
    seeds=seeds,
    between=between,
  )


def share(spreads: Mapping[str, Spread]) -> dict[str, Spread]:
  """Spreads of paths with one variance between runs, or seeds, pooled over all paths.

  Where some paths have several runs, a path of a single run has the variance of theirs.
  """
  several = [of for of in spreads.values() if of.runs > 1]
  sample = several or spreads.values()
  counts = {path: of.runs if several else of.seeds for path, of in spreads.items()}
  degrees = sum(of.between[1] for of in sample)
  if not degrees:
    return dict(spreads)
  # Of a single run or seed: of the mean of q it is a q-th.
  squares = [of.between[0] * (of.between[1] + 1) * of.between[1] for of in sample]
  one = sum(squares) / degrees
  return {
    path: dataclasses.replace(of, between=(one / counts[path], degrees))
    for path, of in spreads.items()
  }


def interval(
  of: Spread,
  bounds: tuple[float, float] = (-np.inf, np.inf),
  level: float = statistics.LEVEL,
) -> tuple[float, float]:
  """The confidence interval of a known figure."""
  parts = [_over_patients(of.deviations, of.degrees), *_between(of)]
  return statistics.interval(of.value, parts, bounds, level)


def difference(
  a: Spread,
  b: Spread,
  level: float = statistics.LEVEL,
  bounds: tuple[float, float] = (-np.inf, np.inf),
) -> tuple[float, float]:
  """The interval of a - b, both known, of the same conditions and noise.

  Args:
    bounds: of both figures.
  """
  if bounds == (0.0, 1.0) and not (a.deviations.any() and b.deviations.any()):
    # A share of 0 or 1 has no variance, and is not known exactly.
    of_a, of_b = (interval(of, bounds, level) for of in (a, b))
    return statistics.newcombe(a.value, of_a, b.value, of_b)
  # A mean square of 128 deviations has no more degrees than that.
  degrees = min(a.degrees, b.degrees, statistics.NUM_PAIRS)
  parts = [_over_patients(a.deviations - b.deviations, degrees), *_between(a, b)]
  return statistics.interval(a.value - b.value, parts, level=level)


def pool(
  sets: Sequence[Sequence[Sequence[Measurement]]],
) -> tuple[list[Measurement], dict[Key, Spread]]:
  """Pools the figures of several sets of images.

  Returns:
    Figures with intervals over patients and seeds, in the order of the first set; and
    their spreads by `Measurement.key`. A figure that is undefined in any set is
    undefined, for the same reason.
  """
  by_key = [[_generated(one_set) for one_set in run] for run in sets]
  pooled: list[Measurement] = []
  spreads: dict[Key, Spread] = {}
  for first in by_key[0][0].values():
    figures = [[one_set.get(first.key) for one_set in run] for run in by_key]
    flat = [one for run in figures for one in run]
    missing = [one for one in flat if one is None or one.value is None]
    if missing:
      reason = "not measured in every set" if missing[0] is None else missing[0].reason
      undefined = {"value": None, "low": None, "high": None, "reason": reason}
      pooled.append(dataclasses.replace(first, **undefined, deviations=(), degrees=0))
      continue
    defined = [one for one in flat if one is not None]
    values = np.array([one.value for one in defined])
    spreads[first.key] = of = spread(
      values.reshape(len(figures), -1),
      [one.deviations for one in defined],
      min(one.degrees for one in defined),
    )
    if len(flat) == 1:
      pooled.append(first)
      continue
    one = dataclasses.replace(
      first, value=of.value, deviations=tuple(of.deviations.tolist())
    )
    pooled.append(_with_interval(one, of))
  return pooled, spreads


def share_intervals(
  pooled: Mapping[str, Sequence[Measurement]],
  spreads: Mapping[str, Mapping[Key, Spread]],
  unranked_fn: Callable[[Key], Mapping[str, str]] = lambda key: {},
) -> dict[str, list[Measurement]]:
  """Pooled figures of paths, with intervals by the spreads that `verdicts` compares."""
  tables = {}
  shared = {
    key: share(_ranked(spreads, key, unranked_fn(key)))
    for key in {key for by_key in spreads.values() for key in by_key}
  }
  for path, figures in pooled.items():
    tables[path] = [
      _with_interval(one, shared[one.key][path])
      if path in shared.get(one.key, {})
      else one
      for one in figures
    ]
  return tables


def verdicts(
  spreads: Mapping[str, Mapping[Key, Spread]],
  better: Mapping[Key, str],
  *,
  unranked_fn: Callable[[Key], Mapping[str, str]] = lambda key: {},
  primary: Key | None = None,
) -> list[Verdict]:
  """Ranks paths by each figure; the best are those with no significantly better one.

  Args:
    better: key -> "lower" or "higher"; figures without a direction have no verdict.
    unranked_fn: key -> path -> why the figure does not rank it.
    primary: the figure that was named before the run.
  """
  results = []
  for key, side in better.items():
    unranked = {
      path: "no interval over patients"
      for path, by_key in spreads.items()
      if key in by_key and not by_key[key].known
    } | {**unranked_fn(key)}
    of = share(_ranked(spreads, key, unranked))
    if len(of) < 2 or side not in ("lower", "higher"):
      continue
    sign = 1 if side == "lower" else -1
    ranking = sorted(of, key=lambda path: sign * of[path].value)
    num_pairs = len(ranking) * (len(ranking) - 1) // 2
    level = 1 - (1 - statistics.LEVEL) / num_pairs
    # Of every path, the differences to those before it.
    apart = {
      path: [
        difference(of[path], of[other], level, _bounds(key[1]))
        for other in ranking[:place]
      ]
      for place, path in enumerate(ranking)
    }
    results.append(
      Verdict(
        key=key,
        ranking=tuple(ranking),
        best=tuple(
          path
          for path, ends in apart.items()
          if all(low <= 0 <= high for low, high in ends)
        ),
        differences=tuple((path, *apart[path][0]) for path in ranking[1:]),
        unranked=unranked,
        primary=key == primary,
      )
    )
  return results


def _ranked(
  spreads: Mapping[str, Mapping[Key, Spread]], key: Key, unranked: Mapping[str, str]
) -> dict[str, Spread]:
  """Path -> spread, of the paths that a figure ranks."""
  return {
    path: by_key[key]
    for path, by_key in spreads.items()
    if key in by_key and by_key[key].known and path not in unranked
  }


def _with_interval(one: Measurement, of: Spread) -> Measurement:
  """A pooled figure that has the first set's interval, with that of its spread."""
  if not of.known:
    return dataclasses.replace(one, low=None, high=None)
  if not of.between[0]:
    # A single set, or sets that are alike, such as shares of 0 in each.
    return one
  low, high = interval(of, _bounds(one.metric))
  return dataclasses.replace(one, low=low, high=high)


def _bounds(metric: str) -> tuple[float, float]:
  record = metric_lib.find_all().get(metric)
  return record.bounds if record else (-np.inf, np.inf)


def _over_patients(deviations: np.ndarray, degrees: float) -> tuple[float, float]:
  return statistics.standard_error(deviations) ** 2, degrees


def _between(*sides: Spread) -> list[tuple[float, float]]:
  return [of.between for of in sides if of.between[1]]


def _generated(one_set: Sequence[Measurement]) -> dict[Key, Measurement]:
  return {one.key: one for one in one_set if one.of == "generated"}
