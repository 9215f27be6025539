"""How sure a figure of fidelity is: 95 % intervals over images.

Estimate: value, influences -> sum of variances -> value +- t x standard error

Variances of generated and of real images add up; t is that of Student's distribution
with the degrees of freedom of Satterthwaite 1946. What training and sampling seeds add
is `pooling`'s.
"""

import numpy as np
from scipy import special

from cxr_diffusion_jax.evaluation.metrics.influences import Estimate

# (variance, degrees of freedom) of one level.
Part = tuple[float, int]


def interval(estimate: Estimate) -> tuple[float, float]:
  """The 95 % interval of a figure of fidelity; of a share, it lies in [0, 1].

  Args:
    estimate: the figure, of images that are independent.
  """
  parts = [
    (float(u @ u) / (len(u) * max(len(u) - 1, 1)), max(len(u) - 1, 1))
    for u in (estimate.of_generated, estimate.of_real)
  ]
  if estimate.share:
    num = min(len(estimate.of_generated), len(estimate.of_real))
    return _share(estimate.value, parts, num)
  variance, t = _total(parts)
  half = t * np.sqrt(variance)
  return estimate.value - half, estimate.value + half


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
