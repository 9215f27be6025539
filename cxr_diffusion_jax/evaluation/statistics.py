"""Intervals: the bootstrap over groups of images, and influences of single images.

groups [n] -> drawn whole, with replacement -> weights [r n] -> [r] -> 2.5, 97.5 %
influences u [n], v [m] -> variance = sum u_i^2 / n^2 + sum v_j^2 / m^2
  -> value +- t x standard error

Bootstrap: Davison and Hinkley 1997, section 3.8. Images of one patient resemble each
other, so single images would give too narrow an interval. The influence of an image is
how fast a figure rises with the image's weight (Hampel 1974; Efron and Tibshirani 1993,
chapter 21): what a bootstrap converges to, without replicates, in which copies shrink
covariances and distances between neighbours. t is of Student's distribution with the
degrees of freedom of Satterthwaite 1946. `pooling` adds the variance of seeds.
"""

from collections.abc import Callable, Iterator, Sequence
import dataclasses

import numpy as np
from scipy import special

from cxr_diffusion_jax.evaluation.measurement import Fields

# Replicates that are computed at once: n weights are in memory for each.
_BLOCK = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
  """A figure and its 95 % interval."""

  value: float
  low: float
  high: float

  @property
  def fields(self) -> Fields:
    """As fields of a measurement."""
    return Fields(value=self.value, low=self.low, high=self.high)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Influences:
  """A figure of two sets of images, and the influence of each image."""

  value: float
  of_generated: np.ndarray  # [n], of mean 0
  of_real: np.ndarray  # [m], of mean 0
  share: bool = False  # whether the figure is a share of images, in [0, 1]


def influences(
  value: float, of_generated: np.ndarray, of_real: np.ndarray, *, share: bool = False
) -> Influences:
  """`Influences` with the means taken out."""
  return Influences(
    value=float(value),
    of_generated=of_generated - of_generated.mean(),
    of_real=of_real - of_real.mean(),
    share=share,
  )


def estimate(
  figure_fn: Callable[..., np.ndarray],
  groups: Sequence[np.ndarray],
  *,
  num_replicates: int = 1000,
  seed: int = 0,
) -> Estimate:
  """A figure of samples of images, with its bootstrap interval.

  Args:
    figure_fn: (weights [r n] of the first sample, ... of the second, ...) -> [r]; a
      weight is how often an image counts.
    groups: one [n] for each sample; images with the same name are drawn together.
  """
  generator = np.random.default_rng(seed)
  replicates = [
    figure_fn(*(weights(names, count, generator) for names in groups))
    for count in blocks(num_replicates)
  ]
  low, high = np.percentile(np.concatenate(replicates), (2.5, 97.5))
  value = figure_fn(*(np.ones((1, len(names))) for names in groups))[0]
  return Estimate(value=float(value), low=float(low), high=float(high))


def blocks(num_replicates: int) -> Iterator[int]:
  """Yields how many replicates to compute at once."""
  for first in range(0, num_replicates, _BLOCK):
    yield min(_BLOCK, num_replicates - first)


def weights(
  groups: np.ndarray, count: int, generator: np.random.Generator
) -> np.ndarray:
  """How often each of n images counts in each of `count` samples of groups: [r n]."""
  names, places = np.unique(groups, return_inverse=True)
  share = np.full(len(names), 1 / len(names))
  drawn = generator.multinomial(len(names), share, size=count)
  return drawn[:, places].astype(np.float64)


def mean_fn(values: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
  """The `figure_fn` of a mean over values [n]."""
  return lambda weights: weights @ values / weights.sum(axis=1)


def means_of_chosen(
  values: np.ndarray, chosen: np.ndarray, num_replicates: int
) -> list[Fields]:
  """The mean of the columns' means, then these means, with intervals.

  Args:
    values: [n k].
    chosen: [n k] bool, the images that the mean of a column is over, at least one.
    num_replicates: of the bootstrap over images.
  """
  n, generator = len(values), np.random.default_rng(0)
  whole = _means(values, chosen, np.ones((1, n)))[0]
  replicates = np.concatenate([
    _means(values, chosen, weights(np.arange(n), count, generator))
    for count in blocks(num_replicates)
  ])  # fmt: skip
  low, high = np.nanpercentile(replicates, (2.5, 97.5), axis=0)
  return [
    Fields(value=float(value), low=float(a), high=float(b))
    for value, a, b in zip(whole, low, high, strict=True)
  ]


def quantile(values: np.ndarray, weights: np.ndarray, share: float) -> np.ndarray:
  """The smallest value that at least this share of the images do not exceed: [r]."""
  order = np.argsort(values)
  reached = np.cumsum(weights[:, order], axis=1)
  # Weights are whole numbers: rounding must not decide.
  missing = reached < share * reached[:, -1:] - 1e-9
  return values[order][missing.sum(axis=1)]


def interval(figure: Influences) -> tuple[float, float]:
  """The 95 % interval of a figure of independent images; of a share, within [0, 1]."""
  parts = [
    (float(u @ u) / (len(u) * max(len(u) - 1, 1)), max(len(u) - 1, 1))
    for u in (figure.of_generated, figure.of_real)
  ]
  variance = sum(part for part, _ in parts)
  t = 0.0
  if variance:
    freedom = variance**2 / sum(part**2 / degrees for part, degrees in parts)
    t = float(special.stdtrit(freedom, 0.975))
  if figure.share:
    num = min(len(figure.of_generated), len(figure.of_real))
    return _wilson(figure.value, variance, t, num)
  half = t * np.sqrt(variance)
  return figure.value - half, figure.value + half


def _means(values: np.ndarray, chosen: np.ndarray, weights: np.ndarray) -> np.ndarray:
  """The mean of columns' means and these means, [r 1+k]; NaN where none is chosen."""
  total = weights @ chosen
  sums = weights @ (values * chosen)
  means = np.divide(sums, total, out=np.full_like(sums, np.nan), where=total > 0)
  defined = np.isfinite(means)
  overall = np.where(defined, means, 0).sum(axis=1) / np.maximum(defined.sum(axis=1), 1)
  return np.concatenate([overall[:, None], means], axis=1)


def _wilson(share: float, variance: float, t: float, num: int) -> tuple[float, float]:
  """Wilson 1927's interval, for as many images as would have this variance.

  It has a width where the standard error is 0: all of 50 images do not prove it for all
  images.
  """
  t = t or float(special.ndtri(0.975))
  spread = share * (1 - share)
  count = min(spread / variance, num) if variance and spread else num
  middle = (share + t**2 / (2 * count)) / (1 + t**2 / count)
  reach = t * np.sqrt(spread / count + t**2 / (4 * count**2)) / (1 + t**2 / count)
  # Rounding may leave an end inside the share.
  return max(0.0, min(share, middle - reach)), min(1.0, max(share, middle + reach))
