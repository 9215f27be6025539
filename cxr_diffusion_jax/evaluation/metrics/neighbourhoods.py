"""Precision, recall, density and coverage: images near images of the other set.

real [m d], generated [n d] -> balls around each image as far as its k-th neighbour
  precision  share of generated images in a ball of a real one; recall the reverse
  density    how many balls of real images hold a generated one, by how many should
  coverage   share of balls of real images that hold a generated image

Each figure comes as a value, and with the influence of each image on it.
"""

import dataclasses

import numpy as np

from cxr_diffusion_jax.evaluation import statistics
from cxr_diffusion_jax.evaluation.metrics import neighbours
from cxr_diffusion_jax.types import Array

# Neighbours, as the authors of both pairs of figures chose them.
PRECISION_K, DENSITY_K = 3, 5


def precision_recall(
  real: Array, synthetic: Array, k: int = PRECISION_K
) -> tuple[float, float]:
  """Improved precision and recall: Kynkaanniemi et al. 2019 (1904.06991), equation 2.

  An image is among a set where it is no farther from one of its images than that is
  from its k-th neighbour in the set.

  Args:
    real: [m d] features.
    synthetic: [n d].

  Returns:
    Share of synthetic images among real ones, and of real among synthetic ones.

  Raises:
    errors.InputError: a set of k rows or fewer, widths that differ, or a number that
      is not finite.
  """
  precision, recall = (
    _share(neighbourhoods(*sets, k)) for sets in ((real, synthetic), (synthetic, real))
  )
  return precision, recall


def density_coverage(
  real: Array, synthetic: Array, k: int = DENSITY_K
) -> tuple[float, float]:
  """Density and coverage: Naeem et al. 2020 (2002.09797), equations 4 and 5.

  The rim of a neighbourhood is left out, as in the authors' code: copies of real images
  have density 1.

  Args:
    real: [m d] features.
    synthetic: [n d].

  Returns:
    Neighbourhoods of real images that a synthetic one is in, mean over k, 0 or more;
    and the share of real images with a synthetic one in theirs.

  Raises:
    errors.InputError: k real images or fewer, widths that differ, or a number that is
      not finite.
  """
  cover = neighbourhoods(real, synthetic, k, rim=False)
  return _density(cover, k), _coverage(cover)


def precision(real: Array, generated: Array) -> statistics.Influences:
  """Precision; that balls grow when a neighbour leaves is not in the influences."""
  return statistics.influences(*_share_inside(real, generated), share=True)


def recall(real: Array, generated: Array) -> statistics.Influences:
  """Recall, as `precision` with the sets exchanged."""
  value, of_real, of_generated = _share_inside(generated, real)
  return statistics.influences(value, of_generated, of_real, share=True)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class RealBalls:
  """Balls of real images up to their k-th and their next neighbour, and what they hold.

  When a real image leaves, the balls that it was a neighbour of reach to the next one,
  which nearly makes up for its own. (Taken as fixed, they would halve the standard
  error of density.)
  """

  near: neighbours.Cover
  wide: neighbours.Cover  # the same, of balls up to the next neighbour
  neighbour_of: np.ndarray  # [m k] rows of the k neighbours of each real image

  @classmethod
  def of(cls, real: Array, generated: Array, k: int = DENSITY_K) -> "RealBalls":
    distances, rows = neighbours.nearest(real, real, k + 1, exclude_self=True)
    near, wide = (
      neighbours.cover(generated, real, distances[:, i], rim=False) for i in (k - 1, k)
    )
    return cls(near=near, wide=wide, neighbour_of=rows[:, :k])

  @property
  def k(self) -> int:
    return self.neighbour_of.shape[1]

  @property
  def counts(self) -> tuple[np.ndarray, np.ndarray]:
    """Generated images in each ball [m], near and wide."""
    near, wide = self.near.points_of_ball, self.wide.points_of_ball
    return near.astype(np.float64), wide.astype(np.float64)

  def density(self) -> statistics.Influences:
    """Density, with influences."""
    n, m = len(self.near.balls_of_point), len(self.neighbour_of)
    of_real = self._own_less_gained(*self.counts) * (m / (self.k * n))
    of_generated = self.near.balls_of_point / self.k
    return statistics.influences(_density(self.near, self.k), of_generated, of_real)

  def coverage(self) -> statistics.Influences:
    """Coverage, with influences."""
    n, m = len(self.near.balls_of_point), len(self.neighbour_of)
    alone = self.near.only_point[self.near.only_point >= 0]
    of_generated = np.bincount(alone, minlength=n) * (n / m)
    of_real = self._own_less_gained(*(np.sign(count) for count in self.counts))
    return statistics.influences(
      _coverage(self.near), of_generated, of_real, share=True
    )

  def _own_less_gained(self, now: np.ndarray, then: np.ndarray) -> np.ndarray:
    gained = np.repeat(then - now, self.k)
    return now - np.bincount(
      self.neighbour_of.ravel(), weights=gained, minlength=len(now)
    )


def neighbourhoods(
  centres: Array, points: Array, k: int, *, rim: bool = True
) -> neighbours.Cover:
  """Points [m d] in the balls around centres [n d] that reach their k-th neighbour."""
  distances, _ = neighbours.nearest(centres, centres, k, exclude_self=True)
  return neighbours.cover(points, centres, distances[:, -1], rim=rim)


def _share_inside(
  centres: Array, points: Array
) -> tuple[float, np.ndarray, np.ndarray]:
  """Share of points in a ball, influences of points [n] and of centres [m]."""
  cover = neighbourhoods(centres, points, PRECISION_K)
  alone = cover.only_ball[cover.only_ball >= 0]
  # A centre matters to the points that lie in its ball alone.
  missed = np.bincount(alone, minlength=len(centres)) * (len(centres) / len(points))
  return _share(cover), (cover.balls_of_point > 0).astype(np.float64), missed


def _share(cover: neighbours.Cover) -> float:
  return float((cover.balls_of_point > 0).mean())


def _density(cover: neighbours.Cover, k: int) -> float:
  return float(cover.balls_of_point.mean()) / k


def _coverage(cover: neighbours.Cover) -> float:
  return float((cover.points_of_ball > 0).mean())
