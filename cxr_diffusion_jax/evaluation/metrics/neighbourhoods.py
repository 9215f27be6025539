"""Precision, recall, density and coverage: images near images of the other set.

real [m d], generated [n d] -> balls around each image as far as its k-th neighbour
  precision  share of generated images in a ball of a real one; recall the reverse
  density    how many balls of real images hold a generated one, by how many should
  coverage   share of balls of real images that hold a generated image

A half of the patients has balls of its own, which reach to the k-th neighbour within
it: where images leave, the balls of others grow. (Influences of single images, as of a
jackknife, overstate the standard error by a third to a half.)
"""

from collections.abc import Iterator
import dataclasses

import numpy as np

from cxr_diffusion_jax.evaluation import statistics
from cxr_diffusion_jax.evaluation.metrics import neighbours
from cxr_diffusion_jax.types import Array

# Neighbours, as the authors of both pairs of figures chose them.
PRECISION_K, DENSITY_K = 3, 5

# Neighbours that are kept, among which a half has its k-th: of 24, fewer than 5 are in
# a random half once in a thousand times.
NUM_NEIGHBOURS = 24

# Numbers of a block of halves.
BLOCK_NUMBERS = 2**24


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
    Balls.of(*sets, k).value("precision", k)
    for sets in ((real, synthetic), (synthetic, real))
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
  balls = Balls.of(real, synthetic, k)
  return balls.value("density", k), balls.value("coverage", k)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Balls:
  """Balls around m centres, and the n points that may lie in them."""

  num_points: int
  distances: np.ndarray  # [m l] of the nearest other centres, nearest first
  neighbours: np.ndarray  # [m l] their rows
  point: np.ndarray  # [p] rows of points, in order
  ball: np.ndarray  # [p] rows of centres within whose l-th neighbour the point lies
  gap: np.ndarray  # [p] distances of the two

  @classmethod
  def of(cls, centres: Array, points: Array, num: int | None = None) -> "Balls":
    """Balls that reach to the `num`-th neighbour; enough for halves if None."""
    num = num or min(NUM_NEIGHBOURS, len(centres) - 1)
    distances, rows = neighbours.nearest(centres, centres, num, exclude_self=True)
    point, ball, gap = neighbours.within(points, centres, distances[:, -1])
    return cls(
      num_points=len(points),
      distances=distances,
      neighbours=rows,
      point=point,
      ball=ball,
      gap=gap,
    )

  def value(self, figure: str, k: int) -> float:
    """A figure of all images: "precision", "density" or "coverage"."""
    everything = [np.ones((1, n), bool) for n in (len(self.distances), self.num_points)]
    return float(self._figure(figure, k, *everything)[0])

  def estimate(
    self, figure: str, k: int, centre_patients: np.ndarray, point_patients: np.ndarray
  ) -> statistics.Estimate:
    """The figure with its deviations over patients."""
    sides = centre_patients, point_patients
    replicates = [
      self._figure(figure, k, *halves) for halves in _halves(sides, self.neighbours)
    ]
    fewest = min(len(np.unique(names)) for names in sides)
    return statistics.Estimate(
      value=self.value(figure, k),
      deviations=statistics.deviations_of(np.concatenate(replicates), *sides),
      patients=fewest,
    )

  def _figure(
    self, figure: str, k: int, centres: np.ndarray, points: np.ndarray
  ) -> np.ndarray:
    """[r] of the centres [r m] bool and the points [r n] bool of each half.

    NaN for a half without centres or without points.
    """
    reached = np.cumsum(centres[:, self.neighbours], axis=2, dtype=np.int16) >= k
    places = np.where(reached[..., -1], reached.argmax(axis=2), -1)
    radii = self.distances[np.arange(len(self.distances)), places]
    reaches = np.less_equal if figure == "precision" else np.less
    inside = reaches(self.gap, radii[:, self.ball])
    inside &= centres[:, self.ball] & points[:, self.point]
    num_centres, num_points = (
      np.where(centres.any(axis=1) & points.any(axis=1), held.sum(axis=1), np.nan)
      for held in (centres, points)
    )
    if figure == "coverage":
      order = np.argsort(self.ball, kind="stable")
      return _any(inside[:, order], self.ball[order]) / num_centres
    if figure == "precision":
      return _any(inside, self.point) / num_points
    return inside.sum(axis=1) / (k * num_points)


def _halves(
  sides: tuple[np.ndarray, np.ndarray], neighbours_of: np.ndarray
) -> Iterator[list[np.ndarray]]:
  """Yields a block of halves of centres [r m] and of points [r n], bool."""
  held = [statistics.signs(names) > 0 for names in sides]
  step = max(1, BLOCK_NUMBERS // neighbours_of.size)
  for first in range(0, len(held[0]), step):
    yield [side[first : first + step] for side in held]


def _any(inside: np.ndarray, rows: np.ndarray) -> np.ndarray:
  """[r], how many different rows [p], in order, have a pair inside [r p]."""
  if not len(rows):
    return np.zeros(len(inside))
  starts = np.flatnonzero(np.diff(rows, prepend=-1))
  return np.logical_or.reduceat(inside, starts, axis=1).sum(axis=1)
