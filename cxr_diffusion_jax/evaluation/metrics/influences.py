"""Figures of fidelity with the influence that each image has on them.

real [m d], generated [n d] -> Estimate(value, of_generated [n], of_real [m])
                            -> intervals: variance = sum u_i^2 / n^2 + sum v_j^2 / m^2

The influence of an image is how fast the figure rises as the image gets more weight
than the others of its set (Hampel 1974; "infinitesimal jackknife": Efron and Tibshirani
1993, chapter 21). It is what a bootstrap converges to, without replicates, in which
images occur twice: copies shrink covariances and distances between neighbours, so that
a bootstrap of these figures is biased. Differences of figures on the same images have
differences of influences.
"""

import dataclasses

import numpy as np

from cxr_diffusion_jax.evaluation.metrics import fidelity, kernels, neighbours

# Of `fidelity.kernel_distance`.
SUBSET_SIZE = 1000


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Estimate:
  """A figure of generated images, and what each image does to it.

  Attributes:
    value: the figure.
    of_generated: [n] influences, of mean 0.
    of_real: [m], as above.
    share: whether it is a share of images, in [0, 1].
  """

  value: float
  of_generated: np.ndarray
  of_real: np.ndarray
  share: bool = False


def frechet_distance(real: np.ndarray, generated: np.ndarray) -> Estimate:
  """`fidelity.frechet_distance` and influences.

  With X and Y the centred features, P_x R_x = X and P_y R_y = Y where R has d rows or
  as many as there are images, and U S V' = R_x R_y', the trace of (C_x C_y)^(1/2) is
  trace S / sqrt((n-1)(m-1)). Its derivative by C_x is half the matrix T that carries
  one normal distribution onto the other (Dowson and Landau 1982), and x' T x =
  sqrt((n-1)/(m-1)) |S^(1/2) U' p_x|^2: no root is inverted, and covariances may be
  singular.

  Args:
    real: [m d].
    generated: [n d].
  """
  n, m = len(generated), len(real)
  mean_x, mean_y = (v.mean(axis=0, dtype=np.float64) for v in (generated, real))
  x, y = generated - mean_x, real - mean_y
  (p_x, r_x), (p_y, r_y) = _factors(x), _factors(y)
  u, s, vt = np.linalg.svd(r_x @ r_y.T, full_matrices=False)
  moved_x = np.square(u if p_x is None else p_x @ u) @ s * np.sqrt((n - 1) / (m - 1))
  moved_y = np.square(vt.T if p_y is None else p_y @ vt.T) @ s
  moved_y *= np.sqrt((m - 1) / (n - 1))
  apart = mean_x - mean_y
  spread = np.square(x).sum() / (n - 1) + np.square(y).sum() / (m - 1)
  cross = s.sum() / np.sqrt((n - 1) * (m - 1))
  # Covariances are sums over n - 1, influences means over n.
  of_x = 2 * x @ apart + (np.square(x).sum(axis=1) - moved_x) * (n / (n - 1))
  of_y = -2 * y @ apart + (np.square(y).sum(axis=1) - moved_y) * (m / (m - 1))
  value = float(max(apart @ apart + spread - 2 * cross, 0.0))
  return _estimate(value, of_x, of_y)


def kernel_distance(
  real: np.ndarray, generated: np.ndarray, *, num_subsets: int = 100, seed: int = 0
) -> Estimate:
  """Mean of `fidelity.kernel_distance`, and influences on MMD^2 of all images.

  Args:
    real: [m d].
    generated: [n d].
    num_subsets: drawn of each set.
    seed: of the draw.
  """
  x, y = (np.asarray(v, np.float64) for v in (generated, real))
  n, m = len(x), len(y)
  size = kernels.subset_size(n, m, SUBSET_SIZE)
  drawn = np.zeros((num_subsets, n)), np.zeros((num_subsets, m))
  for i, subsets in enumerate(kernels.random_subsets(n, m, num_subsets, size, seed)):
    for weights, rows in zip(drawn, subsets, strict=True):
      weights[i, rows] = 1
  sums = _Sums(x, y, kernels.polynomial, *drawn)
  within = sum(
    (of_self.forms - weights @ diagonal).mean()
    for of_self, weights, diagonal in zip(
      sums.within, drawn, sums.diagonals, strict=True
    )
  )
  value = within / (size * (size - 1)) - 2 * sums.across.forms.mean() / size**2
  return _estimate(value, *sums.influences())


def cmmd(real: np.ndarray, generated: np.ndarray) -> Estimate:
  """`fidelity.cmmd` and influences, of real [m d] and generated [n d]."""
  x, y = fidelity.unit_rows(generated), fidelity.unit_rows(real)
  sums = _Sums(x, y, kernels.gaussian(fidelity.CMMD_SIGMA))
  of_x, of_y = (of_self.of_a.mean() for of_self in sums.within)
  value = of_x / len(x) + of_y / len(y) - 2 * sums.across.of_a.mean() / len(y)
  scale = fidelity.CMMD_SCALE
  return _estimate(scale * max(value, 0.0), *(scale * u for u in sums.influences()))


def precision_recall(
  real: np.ndarray, generated: np.ndarray, k: int = 3
) -> tuple[Estimate, Estimate]:
  """`fidelity.precision_recall` and influences.

  An image of the set whose neighbourhoods are asked matters to those that lie in its
  own alone; that neighbourhoods grow when a neighbour leaves is not in it.

  Args:
    real: [m d].
    generated: [n d].
    k: neighbours.
  """
  inside, missed = _share_inside(real, generated, k)
  precision = _estimate(inside.mean(), inside, missed, share=True)
  inside, missed = _share_inside(generated, real, k)
  return precision, _estimate(inside.mean(), missed, inside, share=True)


def density_coverage(
  real: np.ndarray, generated: np.ndarray, k: int = 5
) -> tuple[Estimate, Estimate]:
  """`fidelity.density_coverage` and influences.

  When a real image leaves, neighbourhoods that it was a neighbour in reach to the next
  one, which nearly makes up for its own. (Taken as fixed, they would make the standard
  error of density half of what it is.)

  Args:
    real: [m d].
    generated: [n d].
    k: neighbours.
  """
  n, m = len(generated), len(real)
  distances, indices = neighbours.nearest(real, real, k + 1, exclude_self=True)
  near, wide = (
    neighbours.cover(generated, real, distances[:, i], rim=False) for i in (k - 1, k)
  )
  neighbour_of = indices[:, :k].ravel()

  def own_less_gained(now: np.ndarray, then: np.ndarray) -> np.ndarray:
    gained = np.repeat(then - now, k)
    return now - np.bincount(neighbour_of, weights=gained, minlength=m)

  counts = [cover.points_of_ball.astype(np.float64) for cover in (near, wide)]
  of_points = near.balls_of_point / k
  of_balls = own_less_gained(*counts) * (m / (k * n))
  density = _estimate(of_points.mean(), of_points, of_balls)
  covered = [np.sign(count) for count in counts]
  only = np.bincount(near.only_point[near.only_point >= 0], minlength=n) * (n / m)
  coverage = _estimate(covered[0].mean(), only, own_less_gained(*covered), share=True)
  return density, coverage


def _share_inside(
  centres: np.ndarray, points: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
  """Whether each point is in a neighbourhood [n], and influences of centres [m]."""
  found = fidelity.neighbourhoods(centres, points, k)
  alone = found.only_ball[found.only_ball >= 0]
  missed = np.bincount(alone, minlength=len(centres)) * (len(centres) / len(points))
  return (found.balls_of_point > 0).astype(np.float64), missed


def _factors(x: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
  """P [n d], R [d d] with P R = x and P'P a projection; None and x where n <= d."""
  if len(x) <= x.shape[1]:
    return None, x
  values, vectors = np.linalg.eigh(x.T @ x)
  roots = np.sqrt(np.maximum(values, 0))
  # Directions without spread: what rounding left of them has no meaning.
  kept = roots > roots[-1] * 1e-7
  p = (x @ vectors[:, kept]) / roots[kept]
  return p, roots[kept, None] * vectors[:, kept].T


class _Sums:
  """Sums of kernel values within and across two sets: all that MMD^2 is made of."""

  def __init__(self, x, y, kernel, weights_x=None, weights_y=None):
    self.across = kernels.sums(x, y, kernel, weights_x, weights_y)
    self.within = (
      kernels.sums(x, x, kernel, weights_x, weights_x),
      kernels.sums(y, y, kernel, weights_y, weights_y),
    )
    self.diagonals = kernels.diagonal(x, kernel), kernels.diagonal(y, kernel)

  def influences(self) -> tuple[np.ndarray, np.ndarray]:
    """On MMD^2: twice the first projections of a U-statistic, Hoeffding 1948."""
    means = []
    for of_self, diagonal in zip(self.within, self.diagonals, strict=True):
      means.append((of_self.of_a - diagonal) / (len(diagonal) - 1))
    of_x = means[0] - self.across.of_a / len(means[1])
    of_y = means[1] - self.across.of_b / len(means[0])
    return 2 * of_x, 2 * of_y


def _estimate(
  value: float, of_generated: np.ndarray, of_real: np.ndarray, *, share: bool = False
) -> Estimate:
  return Estimate(
    value=float(value),
    of_generated=of_generated - of_generated.mean(),
    of_real=of_real - of_real.mean(),
    share=share,
  )
