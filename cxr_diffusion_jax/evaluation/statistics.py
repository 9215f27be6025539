"""Estimates and their intervals over patients: random halves and their complements.

signs s [256 g]: whether half h holds patient g: 128 bits of SHA-256 of "half " and g's
name; then the complements, -s
  replicate  r(s) = figure(images of half s, counted twice)
  deviation  d_h = (r(s_h) - r(-s_h)) / 2, of 128 pairs
  variance   g / (g - 1) mean d^2, t of g - 1 degrees of freedom

Images of one patient resemble each other, so patients are drawn, not images. Of a mean,
d = sum_g s_g U_g / n with U_g the sum over the images of g, and the variance is that of
sums over clusters, g / (g - 1) sum U_g^2 / n^2 (Liang and Zeger 1986). Half samples
(McCarthy 1969, "Pseudo-replication: half samples"; the estimator by differences) hold
for quantiles and nearest neighbours too (Shao and Wu 1989), where a jackknife does not.
Halves depend on names alone, so that the difference of two figures of the same patients
has the difference of their deviations, whatever the figures are.

The influence of an image is how fast a figure rises with the image's weight (Hampel
1974). Shares, as Wilson 1927, for as many images as would have this variance. Where
runs or seeds add a variance, the half-widths of all parts add in squares (Howe 1974):
Satterthwaite's degrees of freedom are too many where a part of few is small by chance.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import hashlib

import numpy as np
from scipy import special

from cxr_diffusion_jax.evaluation.measurement import Fields

# Pairs of a half and its complement.
NUM_PAIRS = 128

# Halves that are computed at once: n weights are in memory for each.
_BLOCK = 64

LEVEL = 0.95


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Influences:
  """A figure of two sets of images, and the influence of each image."""

  value: float
  of_generated: np.ndarray  # [n]
  of_real: np.ndarray  # [m]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Estimate:
  """A figure and its deviations.

  Attributes:
    deviations: [128] of the figure of halves of the patients; empty for unknown.
    patients: number of patients of the smallest sample.
  """

  value: float
  deviations: np.ndarray
  patients: int

  def fields(self, bounds: tuple[float, float] = (-np.inf, np.inf)) -> Fields:
    """As fields of a measurement of a figure with these bounds."""
    fields = Fields(value=self.value)
    if ends := self.ends(bounds):
      low, high = ends
      kept = tuple(float(f"{one:.5g}") for one in self.deviations)
      fields |= Fields(low=low, high=high, deviations=kept, degrees=self.patients - 1)
    return fields

  def ends(
    self, bounds: tuple[float, float] = (-np.inf, np.inf)
  ) -> tuple[float, float] | None:
    """The ends of the interval of a figure with these bounds; None if unknown."""
    known = len(self.deviations) > 0 and np.isfinite(self.deviations).all()
    if not known or self.patients < 2:
      return None
    variance = standard_error(self.deviations) ** 2
    return interval(self.value, [(variance, self.patients - 1)], bounds)


def signs(patients: np.ndarray) -> np.ndarray:
  """[256 n] int8: 1 where the half holds the image's patient, else -1."""
  names, places = np.unique(np.asarray(patients).astype(str), return_inverse=True)
  halves = _signs(tuple(names.tolist()))[:, places]
  return np.concatenate([halves, -halves])


def standard_error(deviations: np.ndarray) -> float:
  """The standard error of the figure with these deviations, over patients."""
  return float(np.sqrt(np.mean(np.square(deviations))))


def linear(value: float, *parts: tuple[np.ndarray, np.ndarray]) -> Estimate:
  """A figure from influences [n] of images and their patients [n], of each sample."""
  total, variance, fewest = np.zeros(NUM_PAIRS), 0.0, np.inf
  for influences, patients in parts:
    names, places = np.unique(np.asarray(patients).astype(str), return_inverse=True)
    sums = np.bincount(places, weights=influences - influences.mean())
    scale = _correction(len(names)) / len(influences)
    total += scale * (_signs(tuple(names.tolist())) @ sums)
    variance += scale**2 * (sums @ sums)
    fewest = min(fewest, len(names))
  # Few halves: their mean square is the variance but for the rounding of chance.
  spread = standard_error(total)
  if spread:
    total *= np.sqrt(variance) / spread
  return Estimate(value=float(value), deviations=total, patients=int(fewest))


def estimate(figure_fn: Callable[..., np.ndarray], *patients: np.ndarray) -> Estimate:
  """A figure of samples of images, such as a quantile or an AUROC.

  Args:
    figure_fn: (weights [r n] of the first sample, ... of the second, ...) -> [r]; a
      weight is how often an image counts. NaN where it is undefined.
    patients: [n] names, one array for each sample; the figure depends on those of the
      smallest.
  """
  value, deviations = estimates(figure_fn, *patients)
  fewest = min(len(np.unique(names)) for names in patients)
  return Estimate(value=float(value), deviations=deviations, patients=fewest)


def num_patients(chosen: np.ndarray, patients: np.ndarray) -> np.ndarray:
  """How many patients [n] have an image among those chosen [n k]: [k]."""
  return np.array([len(np.unique(patients[rows])) for rows in chosen.T], np.int64)


def with_mean(of_columns: np.ndarray, patients: np.ndarray) -> np.ndarray:
  """Patients [1+k] that a mean of columns and these depend on, of those of columns."""
  return np.append(min(of_columns.sum(), len(np.unique(patients))), of_columns)


def estimates(
  figure_fn: Callable[..., np.ndarray],
  *patients: np.ndarray,
  fewest: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """Figures [...] and deviations [128 ...] of a `figure_fn` that returns [r ...].

  A column has NaN deviations where it is undefined in more than half of the halves.

  Args:
    fewest: [...] patients that each figure depends on; None for those of the smallest
      sample.
  """
  of_samples = [signs(names) for names in patients]
  if fewest is None:
    fewest = np.array(min(len(np.unique(names)) for names in patients))
  # A half of few patients may be empty, where figures divide by nothing.
  with np.errstate(divide="ignore", invalid="ignore"):
    replicates = np.concatenate([
      figure_fn(*(1.0 + part[first : first + _BLOCK] for part in of_samples))
      for first in range(0, 2 * NUM_PAIRS, _BLOCK)
    ])  # fmt: skip
  empty = np.any([(part < 0).all(axis=1) for part in of_samples], axis=0)
  replicates[empty] = np.nan
  value = figure_fn(*(np.ones((1, len(names))) for names in patients))[0]
  return value, _correction(fewest) * deviations_of(replicates, *patients)


def deviations_of(replicates: np.ndarray, *patients: np.ndarray) -> np.ndarray:
  """[128 ...] of replicates [256 ...] of halves and of their complements.

  Halves of few patients differ in size, and figures of neighbours depend on it: what a
  line through the sizes explains is removed. Undefined replicates deviate as others do;
  NaN where more than half of them are undefined.
  """
  first, second = np.split(replicates, 2)
  odd = (first - second) / 2
  known = np.isfinite(odd)
  share = known.mean(axis=0)
  odd = np.where(known, odd, 0)
  names = [np.unique(np.asarray(of_sample).astype(str)) for of_sample in patients]
  sizes = np.stack([_signs(tuple(x.tolist())).sum(axis=1) for x in names], axis=1)
  flat = odd.reshape(len(odd), -1)
  odd = (flat - sizes @ (np.linalg.pinv(sizes) @ flat)).reshape(odd.shape)
  return odd / np.sqrt(np.where(2 * share >= 1, share, np.nan))


def mean_fn(values: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
  """The `figure_fn` of a mean over values [n]."""
  return lambda weights: weights @ values / weights.sum(axis=1)


def means_of_chosen(
  values: np.ndarray, chosen: np.ndarray, patients: np.ndarray
) -> list[Estimate]:
  """The mean of the columns' means, then these means.

  Args:
    values: [n k].
    chosen: [n k] bool, the images that the mean of a column is over, at least one.
  """
  fewest = with_mean(num_patients(chosen, patients), patients)
  whole, deviations = estimates(
    lambda weights: _means(values, chosen, weights), patients, fewest=fewest
  )
  return [
    Estimate(value=float(value), deviations=of_column, patients=int(least))
    for value, of_column, least in zip(whole, deviations.T, fewest, strict=True)
  ]


def quantile(values: np.ndarray, weights: np.ndarray, share: float) -> np.ndarray:
  """The smallest value that at least this share of the images do not exceed: [r]."""
  order = np.argsort(values)
  reached = np.cumsum(weights[:, order], axis=1)
  # Weights are whole numbers: rounding must not decide.
  missing = reached < share * reached[:, -1:] - 1e-9
  return values[order][missing.sum(axis=1)]


def interval(
  value: float,
  parts: Sequence[tuple[float, float]],
  bounds: tuple[float, float] = (-np.inf, np.inf),
  level: float = LEVEL,
) -> tuple[float, float]:
  """The interval of a figure.

  Of a figure in [0, 1], Wilson's, which has a width where the variance is 0: all of 50
  images do not prove it for all images.

  Args:
    parts: (variance, degrees of freedom) over patients, then of other independent parts
      such as runs. There are as many patients as degrees, and one.
  """
  reach = sum(part * quantile_of_t(degrees, level) ** 2 for part, degrees in parts)
  if bounds == (0.0, 1.0):
    variance, of_patients = sum(part for part, _ in parts), parts[0][1]
    t = np.sqrt(reach / variance) if variance else quantile_of_t(of_patients, level)
    return _wilson(value, variance, t, of_patients + 1)
  return max(bounds[0], value - reach**0.5), min(bounds[1], value + reach**0.5)


def newcombe(
  a: float, of_a: tuple[float, float], b: float, of_b: tuple[float, float]
) -> tuple[float, float]:
  """The interval of a - b of two shares with these intervals (Newcombe 1998)."""
  low = a - b - np.hypot(a - of_a[0], of_b[1] - b)
  high = a - b + np.hypot(of_a[1] - a, b - of_b[0])
  return float(low), float(high)


def quantile_of_t(degrees: float, level: float = LEVEL) -> float:
  """The half-width, in standard errors, of an interval of this level."""
  return float(special.stdtrit(degrees, 0.5 + level / 2))


def _correction(patients: np.ndarray | int) -> np.ndarray:
  return np.sqrt(patients / np.maximum(np.subtract(patients, 1), 1))


@functools.lru_cache(maxsize=8)
def _signs(names: tuple[str, ...]) -> np.ndarray:
  """[128 g], of the first halves of the pairs."""
  # Not the digest of the name alone, by which `selection` chooses patients: the first
  # bits of the chosen ones are equal.
  digests = b"".join(hashlib.sha256(f"half {x}".encode()).digest() for x in names)
  bits = np.unpackbits(np.frombuffer(digests, np.uint8).reshape(len(names), -1), axis=1)
  return 2 * bits.T[:NUM_PAIRS].astype(np.int8) - 1


def _means(values: np.ndarray, chosen: np.ndarray, weights: np.ndarray) -> np.ndarray:
  """The mean of columns' means and these means, [r 1+k]; NaN where none is chosen."""
  total = weights @ chosen
  sums = weights @ (values * chosen)
  means = np.divide(sums, total, out=np.full_like(sums, np.nan), where=total > 0)
  defined = np.isfinite(means)
  overall = np.where(defined, means, 0).sum(axis=1) / np.maximum(defined.sum(axis=1), 1)
  return np.concatenate([overall[:, None], means], axis=1)


def _wilson(share: float, variance: float, t: float, num: float) -> tuple[float, float]:
  """Wilson 1927's interval; of `num` patients where the variance is 0."""
  spread = share * (1 - share)
  count = spread / variance if variance and spread > 0 else num
  middle = (share + t**2 / (2 * count)) / (1 + t**2 / count)
  reach = t * np.sqrt(max(spread, 0) / count + t**2 / (4 * count**2))
  reach /= 1 + t**2 / count
  # Rounding may leave an end inside the share.
  return max(0.0, min(share, middle - reach)), min(1.0, max(share, middle + reach))
