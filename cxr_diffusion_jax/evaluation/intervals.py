"""How sure a figure is: 95 % intervals over images, training seeds and sampling seeds.

Estimate: value, influences -> sum of variances -> value +- t x standard error
Origin of each image: training seed, sampling seed, condition -> a variance a level

Variances of independent levels add up; t is that of Student's distribution with the
degrees of freedom of Satterthwaite 1946, so that two training seeds that differ say
little and two that agree say what the images say.
"""

from collections.abc import Callable
import dataclasses

import numpy as np
from scipy import special

from cxr_diffusion_jax.evaluation.influences import Estimate

# (variance, degrees of freedom) of one level.
Part = tuple[float, int]

# weights [r n] of images -> a figure [r] of each replicate
Statistic = Callable[[np.ndarray], np.ndarray]

# Weights that are in memory at a time: 64 MiB.
_BLOCK_NUMBERS = 2**23


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Origin:
  """Where each of n generated images comes from.

  Attributes:
    training: [n], the training seed (the run) of each.
    sampling: [n], the sampling seed of each.
    condition: [n], which condition it was made for; the same ones in every run.
  """

  training: np.ndarray
  sampling: np.ndarray
  condition: np.ndarray


def interval(
  estimate: Estimate,
  *,
  origin: Origin | None = None,
  num_replicates: int = 1000,
  seed: int = 0,
) -> tuple[float, float]:
  """The 95 % interval of a figure of fidelity; of a share, it lies in [0, 1].

  Args:
    estimate: the figure.
    origin: of the generated images; None for images that are all independent.
    num_replicates: of the resampling of seeds and conditions; not used without origin.
    seed: of the resampling.
  """
  parts = _parts(estimate, origin, num_replicates, seed)
  if estimate.share:
    num = min(len(estimate.of_generated), len(estimate.of_real))
    return _share(estimate.value, parts, num)
  return around(estimate.value, parts)


def paired_difference(
  estimate: Estimate,
  other: Estimate,
  *,
  origin: Origin | None = None,
  num_replicates: int = 1000,
  seed: int = 0,
) -> tuple[float, float, float]:
  """A figure minus that of other images for the same conditions, and its interval.

  What both have in common, such as conditions that are hard and the real images that
  both are compared with, does not count as chance.

  Args:
    estimate: of n generated images against m real ones.
    other: the same figure of n others against the same m, row by row for the same
      condition and seeds.
    origin: of the rows, as of `interval`.
    num_replicates: as of `interval`.
    seed: as of `interval`.

  Returns:
    The difference, and low and high of its 95 % interval.

  Raises:
    ValueError: numbers of images that differ.
  """
  pairs = [
    (estimate.of_generated, other.of_generated),
    (estimate.of_real, other.of_real),
  ]
  if any(len(one) != len(two) for one, two in pairs):
    raise ValueError("a paired difference of different numbers of images")
  of_generated, of_real = (one - two for one, two in pairs)
  value = estimate.value - other.value
  difference = Estimate(value=value, of_generated=of_generated, of_real=of_real)
  parts = _parts(difference, origin, num_replicates, seed)
  return value, *around(value, parts)


def over_seeds(
  statistic: Statistic, origin: Origin, *, num_replicates: int = 1000, seed: int = 0
) -> list[Part]:
  """Variances of a figure by resampling the levels that its images come from.

  Of a level with k members k - 1 are drawn with replacement, each with all of its
  images: the variance among replicates is then the unbiased one of the mean of k (Rao
  and Wu 1988, "Resampling inference with complex survey data"). Levels are the training
  seeds, with their sampling seeds (Davison and Hinkley 1997, section 3.8: what is below
  is in the spread of what is above), or the sampling seeds where there is one training
  seed; and the conditions, which all runs share, so that they cross the seeds (Owen
  2007, "The pigeonhole bootstrap", on why adding up is on the safe side).

  Args:
    statistic: weights [r n] -> [r], such as `adherence.auroc` of given scores; NaN
      where a replicate has no such figure, which then does not count.
    origin: of the n images.
    num_replicates: a level.
    seed: of the draws.

  Returns:
    A part a level that has two members or more.
  """
  generator = np.random.default_rng(seed)
  seeds = [origin.training, origin.sampling]
  above = next((level for level in seeds if len(np.unique(level)) > 1), None)
  parts = []
  for level in (above, origin.condition):
    if level is None or len(np.unique(level)) < 2:
      continue
    names, member = np.unique(level, return_inverse=True)
    step = max(1, _BLOCK_NUMBERS // len(member))
    chances, figures = np.full(len(names), 1 / len(names)), []
    for first in range(0, num_replicates, step):
      size = min(step, num_replicates - first)
      drawn = generator.multinomial(len(names) - 1, chances, size=size)
      figures.append(statistic(drawn[:, member].astype(np.float64)))
    parts.append((float(np.nanvar(np.concatenate(figures))), len(names) - 1))
  return parts


def around(value: float, parts: list[Part]) -> tuple[float, float]:
  """value -+ t x standard error, of independent parts of its variance."""
  variance, t = _total(parts)
  return value - t * np.sqrt(variance), value + t * np.sqrt(variance)


def _parts(
  estimate: Estimate, origin: Origin | None, num_replicates: int, seed: int
) -> list[Part]:
  of_images, of_real = (
    (float(u @ u) / (len(u) * max(len(u) - 1, 1)), max(len(u) - 1, 1))
    for u in (estimate.of_generated, estimate.of_real)
  )
  if origin is None:
    return [of_images, of_real]

  def figure(weights: np.ndarray) -> np.ndarray:
    return weights @ estimate.of_generated / weights.sum(axis=1)

  options = {"num_replicates": num_replicates, "seed": seed}
  return [*over_seeds(figure, origin, **options), of_real]


def _total(parts: list[Part]) -> tuple[float, float]:
  """Variance, and the 97.5 % point of Student's t with Satterthwaite's freedom."""
  variance = sum(part for part, _ in parts)
  if variance == 0:
    return 0.0, 0.0
  freedom = variance**2 / sum(part**2 / degrees for part, degrees in parts)
  return variance, float(special.stdtrit(freedom, 0.975))


def _share(share: float, parts: list[Part], num: int) -> tuple[float, float]:
  """Wilson 1927's interval, of as many images as would have this variance.

  All of 50 images is no proof of all images: the interval has a width where the
  standard error is 0.
  """
  variance, t = _total(parts)
  t = t or float(special.ndtri(0.975))
  spread = share * (1 - share)
  count = min(spread / variance, num) if variance and spread else num
  middle = (share + t**2 / (2 * count)) / (1 + t**2 / count)
  reach = t * np.sqrt(spread / count + t**2 / (4 * count**2)) / (1 + t**2 / count)
  # Rounding may leave an end inside the share.
  return max(0.0, min(share, middle - reach)), min(1.0, max(share, middle + reach))
