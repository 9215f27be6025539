"""How near generated images are to real ones, by the features of a frozen network.

frechet = |mu_a - mu_b|^2 + trace(C_a + C_b - 2 (C_a C_b)^(1/2))

All figures depend on the number of images and on the network: neither is known here,
so whoever prints a figure says both.
"""

import numpy as np

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.types import Array

# Rows that are made float64 at a time: 64 MiB of them at 2,048 features.
BLOCK_ROWS = 4096


def frechet_distance(a: Array, b: Array) -> float:
  """Frechet distance of normal distributions fitted to two sets of features.

  Heusel et al. 2017 (1706.08500), equation 6; Dowson and Landau 1982. In float64. The
  root is taken of a symmetric matrix, (C_a^(1/2) C_b C_a^(1/2))^(1/2), which has the
  trace of (C_a C_b)^(1/2), no imaginary part, and no trouble with singular
  covariances. Fewer images than features make those, and the distance larger: compare
  distances of equal numbers only.

  Args:
    a: [n d] features of one set.
    b: [m d] of the other.

  Returns:
    The distance, 0 or more; zero for equal mean and covariance.

  Raises:
    errors.InputError: fewer than 2 rows, widths that differ, or a number that is not
      finite.
  """
  mean_a, covariance_a = moments(a)
  mean_b, covariance_b = moments(b)
  if mean_a.shape != mean_b.shape:
    raise errors.InputError(
      f"features {len(mean_a)} and {len(mean_b)} wide", "the same network for both"
    )
  return frechet_distance_of_moments(mean_a, covariance_a, mean_b, covariance_b)


def moments(features: Array) -> tuple[np.ndarray, np.ndarray]:
  """Mean [d] and unbiased covariance [d d] in float64, in blocks of rows.

  Args:
    features: [n d].

  Raises:
    errors.InputError: fewer than 2 rows, or a number that is not finite.
  """
  features = np.asarray(features)
  if features.ndim != 2 or len(features) < 2:
    raise errors.InputError(
      f"features {list(features.shape)}", "[n d] of 2 images or more"
    )
  count = len(features)
  mean = features.mean(axis=0, dtype=np.float64)
  if not np.isfinite(mean).all():
    raise errors.InputError("features with numbers that are not finite")
  covariance = np.zeros((len(mean), len(mean)))
  for first in range(0, count, BLOCK_ROWS):
    # Centred before the product: large means would drown small variances.
    centred = features[first : first + BLOCK_ROWS].astype(np.float64) - mean
    covariance += centred.T @ centred
  return mean, covariance / (count - 1)


def frechet_distance_of_moments(
  mean_a: np.ndarray,
  covariance_a: np.ndarray,
  mean_b: np.ndarray,
  covariance_b: np.ndarray,
) -> float:
  """`frechet_distance` of what `moments` returned for each set."""
  values, vectors = np.linalg.eigh(covariance_a)
  root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
  # Rounding makes eigenvalues of zero slightly negative.
  of_product = np.linalg.eigvalsh(root @ covariance_b @ root)
  cross = np.sqrt(np.maximum(of_product, 0)).sum()
  distance = (
    np.square(mean_a - mean_b).sum()
    + np.trace(covariance_a)
    + np.trace(covariance_b)
    - 2 * cross
  )
  return float(max(distance, 0.0))
