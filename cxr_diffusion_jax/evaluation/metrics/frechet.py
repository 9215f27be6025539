"""The Frechet distance of two sets of features, and the influence of each image on it.

  |mu_x - mu_y|^2 + trace(C_x) + trace(C_y) - 2 trace((C_x C_y)^(1/2))

Heusel et al. 2017 (1706.08500), equation 6; Dowson and Landau 1982. With X and Y the
centred features and X = P_x R_x, Y = P_y R_y, where R has d rows or as many as there
are images, and U S V' = R_x R_y', the last trace is trace S / sqrt((n-1)(m-1)): no
matrix is inverted, and covariances may be singular.
"""

import dataclasses

import numpy as np

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.evaluation import statistics
from cxr_diffusion_jax.evaluation.metrics import neighbours
from cxr_diffusion_jax.types import Array

# Rows that are converted to float64 at a time: 64 MiB of them at 2,048 features.
BLOCK_ROWS = 4096


def frechet_distance(a: Array, b: Array) -> float:
  """Frechet distance of normal distributions fitted to two sets of features.

  In float64. It falls with the number of images: compare distances of equal numbers.

  Args:
    a: [n d] features of one set.
    b: [m d] of the other.

  Raises:
    errors.InputError: fewer than 2 rows, widths that differ, or a number that is not
      finite.
  """
  side_a, side_b = map(_side, neighbours.pair(a, b))
  scales = np.linalg.svd(side_a.root @ side_b.root.T, compute_uv=False)
  return _value(side_a, side_b, scales)


def with_influences(real: Array, generated: Array) -> statistics.Influences:
  """`frechet_distance` of [m d] and [n d] features, with the influence of each image.

  The derivative by C_x is half the matrix T that carries one normal distribution onto
  the other (Dowson and Landau 1982), and x' T x = sqrt((n-1)/(m-1)) |S^(1/2) U' p_x|^2.
  """
  side_x, side_y = map(_side, neighbours.pair(generated, real))
  u, scales, vt = np.linalg.svd(side_x.root @ side_y.root.T, full_matrices=False)
  ratio = np.sqrt((side_x.count - 1) / (side_y.count - 1))
  return statistics.Influences(
    value=_value(side_x, side_y, scales),
    of_generated=_influences(side_x, side_y.mean, u, ratio * scales),
    of_real=_influences(side_y, side_x.mean, vt.T, scales / ratio),
  )


def moments(features: Array) -> tuple[np.ndarray, np.ndarray]:
  """Mean [d] and unbiased covariance [d d] in float64 of features [n d].

  Blocks of rows are joined as by Chan, Golub and LeVeque 1979, "Updating formulae and a
  pairwise algorithm for computing sample variances", equations 2.1.
  """
  features = neighbours.rows(features)
  if len(features) < 2:
    raise errors.InputError(
      f"features {list(features.shape)}", "[n d] of 2 images or more"
    )
  count, width = 0, features.shape[1]
  mean, scatter = np.zeros(width), np.zeros((width, width))
  for first in range(0, len(features), BLOCK_ROWS):
    block = features[first : first + BLOCK_ROWS]
    block_mean = block.mean(axis=0, dtype=np.float64)
    # Centred before the product: large means would drown small variances.
    centred = block.astype(np.float64) - block_mean
    scatter += centred.T @ centred
    moved, total = block_mean - mean, count + len(block)
    if count:
      scatter += np.outer(moved, moved * (count * len(block) / total))
    mean = mean + moved * (len(block) / total)
    count = total
  return mean, scatter / (count - 1)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Side:
  """One set of features."""

  features: np.ndarray  # [n d]
  mean: np.ndarray  # [d]
  root: np.ndarray  # R [k d], R'R = X'X of the centred features X
  inverse: np.ndarray | None  # [d k] with P = X inverse; None where R is X itself

  @property
  def count(self) -> int:
    return len(self.features)


def _side(features: np.ndarray) -> _Side:
  count, width = features.shape
  if 2 <= count <= width:
    mean = features.mean(axis=0, dtype=np.float64)
    return _Side(features=features, mean=mean, root=features - mean, inverse=None)
  mean, covariance = moments(features)
  values, vectors = np.linalg.eigh(covariance * (count - 1))
  roots = np.sqrt(np.maximum(values, 0))
  # Directions without spread hold nothing but rounding.
  kept = (roots > roots[-1] * 1e-7) & (roots > 0)
  roots, vectors = roots[kept], vectors[:, kept]
  return _Side(
    features=features,
    mean=mean,
    root=roots[:, None] * vectors.T,
    inverse=vectors / roots,
  )


def _value(a: _Side, b: _Side, scales: np.ndarray) -> float:
  apart = a.mean - b.mean
  traces = sum(np.square(side.root).sum() / (side.count - 1) for side in (a, b))
  cross = scales.sum() / np.sqrt((a.count - 1) * (b.count - 1))
  return float(max(apart @ apart + traces - 2 * cross, 0.0))


def _influences(
  side: _Side, other_mean: np.ndarray, vectors: np.ndarray, scales: np.ndarray
) -> np.ndarray:
  """[n]: 2 x' (mu - mu') + (|x|^2 - x' T x) n / (n - 1) of each centred x."""
  apart = side.mean - other_mean
  projection = None if side.inverse is None else side.inverse @ vectors
  values = np.empty(side.count)
  for first in range(0, side.count, BLOCK_ROWS):
    place = slice(first, first + BLOCK_ROWS)
    x = side.features[place] - side.mean
    p = vectors[place] if projection is None else x @ projection
    carried = np.square(x).sum(axis=1) - np.square(p) @ scales
    # Covariances are sums over n - 1, influences means over n.
    values[place] = 2 * x @ apart + carried * (side.count / (side.count - 1))
  return values
