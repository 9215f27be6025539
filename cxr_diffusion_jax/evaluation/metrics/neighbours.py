"""Nearest neighbours and balls among features, in blocks of few rows.

queries [n d], points [m d] -> |q|^2 + |p|^2 - 2 q.p in float32, a block at a time
  -> the candidates again in float64, as sums of squared differences

The first formula is fast and loses small distances in rounding. The second is exact:
copies have distance 0, and d(q, p) == d(p, q), so that rounding does not decide whether
a point on the rim of a ball is in it. No n x m matrix is allocated.
"""

from collections.abc import Iterator

import numpy as np

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.types import Array

# Numbers of a block: 64 MiB of float32, and twice that of indices when it is sorted.
BLOCK_NUMBERS = 2**24

# Candidates beyond k, since rounding may have changed their order.
SPARE = 8

# Largest error of a squared distance in float32, as a share of |q|^2 + |p|^2.
ROUNDING = 1e-5


def nearest(
  queries: Array, points: Array, k: int, *, exclude_self: bool = False
) -> tuple[np.ndarray, np.ndarray]:
  """The k points nearest to each query, by Euclidean distance.

  Args:
    queries: [n d] finite.
    points: [m d] finite.
    exclude_self: query i is point i and not its own neighbour; its copies are.

  Returns:
    Distances [n k] float64, smallest first, and indices [n k] int64 of points; for
    equal distances the lower index is first. Where more than `SPARE` points are as far
    as the last, the choice among them is arbitrary.

  Raises:
    errors.InputError: fewer than k points, widths that differ, or a number that is not
      finite.
  """
  queries, points = pair(queries, points)
  if k < 1:
    raise ValueError(f"{k} neighbours")
  if exclude_self and len(queries) != len(points):
    raise ValueError(f"{len(queries)} queries are not the {len(points)} points")
  wanted = k + exclude_self
  if len(points) < wanted:
    raise errors.InputError(
      f"{len(points)} images", f"{wanted} or more for {k} neighbours of each"
    )
  distances = np.empty((len(queries), k))
  indices = np.empty((len(queries), k), np.int64)
  for place, squares, _ in _blocks(queries, points):
    if exclude_self:
      own = np.arange(place.start, place.stop)
      squares[np.arange(len(own)), own] = np.inf
    num = min(k + SPARE, len(points) - exclude_self)
    closest = np.argpartition(squares, num - 1, axis=1)[:, :num]
    of_query = np.repeat(np.arange(place.start, place.stop), num)
    exact = squared_distances(queries, points, of_query, closest.ravel())
    exact = exact.reshape(closest.shape)
    order = np.lexsort((closest, exact))[:, :k]
    distances[place] = np.sqrt(np.take_along_axis(exact, order, axis=1))
    indices[place] = np.take_along_axis(closest, order, axis=1)
  return distances, indices


def within(
  points: Array, centres: Array, radii: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Pairs of points and the balls that hold them, those on the rim included.

  Args:
    centres: [m d] of the balls.
    radii: [m], distances as `nearest` returned them.

  Returns:
    Points [p] in order, their balls [p], and their distances [p] float64.
  """
  points, centres = pair(points, centres)
  parts = []
  for place, squares, error in _blocks(points, centres):
    row, ball = np.nonzero(squares - np.square(radii).astype(np.float32) <= error)
    row += place.start
    exact = np.sqrt(squared_distances(points, centres, row, ball))
    inside = exact <= radii[ball]
    parts.append((row[inside], ball[inside], exact[inside]))
  rows, balls, distances = map(np.concatenate, zip(*parts, strict=True))
  return rows, balls, distances


def squared_distances(
  x: np.ndarray, y: np.ndarray, of_x: np.ndarray, of_y: np.ndarray
) -> np.ndarray:
  """Squared distances [p] float64 of pairs of rows, without cancellation."""
  result = np.empty(len(of_x))
  step = max(1, BLOCK_NUMBERS // 4 // x.shape[1])
  for first in range(0, len(of_x), step):
    part = slice(first, first + step)
    difference = x[of_x[part]].astype(np.float64) - y[of_y[part]]
    result[part] = np.square(difference).sum(axis=1)
  return result


def rows(features: Array) -> np.ndarray:
  """Features [n d] as numpy arrays, float32 or float64."""
  features = np.asarray(features)
  if features.ndim != 2 or not features.size:
    raise errors.InputError(f"features {list(features.shape)}", "[n d] of some images")
  if features.dtype not in (np.float32, np.float64):
    features = features.astype(np.float32)
  # The sum is not finite where a number is not, and needs no further memory.
  if not np.isfinite(features.sum(dtype=np.float64)):
    raise errors.InputError("features with numbers that are not finite")
  return features


def pair(a: Array, b: Array) -> tuple[np.ndarray, np.ndarray]:
  """`rows` of two sets of features."""
  a, b = rows(a), rows(b)
  if a.shape[1] != b.shape[1]:
    raise errors.InputError(
      f"features {a.shape[1]} and {b.shape[1]} wide", "the same network for both"
    )
  return a, b


def _blocks(
  queries: np.ndarray, points: np.ndarray
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
  """Yields rows of queries, their squared distances [b m] float32, their errors [b m].

  Features are centred first, since small numbers round least.
  """
  # In the features' own precision, to save memory.
  middle = points.mean(axis=0, dtype=np.float64).astype(np.result_type(queries, points))
  moved = (points - middle).astype(np.float32, copy=False)
  of_points = np.square(moved).sum(axis=1)
  step = max(1, BLOCK_NUMBERS // len(points))
  for first in range(0, len(queries), step):
    place = slice(first, min(first + step, len(queries)))
    block = (queries[place] - middle).astype(np.float32, copy=False)
    lengths = np.square(block).sum(axis=1)[:, None] + of_points
    squares = block @ moved.T
    squares *= -2
    squares += lengths
    lengths *= ROUNDING
    yield place, squares, lengths
