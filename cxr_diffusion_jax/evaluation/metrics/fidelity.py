"""How near generated images are to real ones, by the features of a frozen network.

frechet           |mu_a - mu_b|^2 + trace(C_a + C_b - 2 (C_a C_b)^(1/2))
kernel distance   MMD^2 of a cubic kernel, mean over subsets (KID)
CMMD              MMD^2 of a Gaussian kernel on features of length 1
precision         share of generated images among real ones; recall the other way round
density           how many real neighbourhoods a generated image is in
coverage          share of real images with a generated one in their neighbourhood

All figures depend on the number of images and on the network: neither is known here,
so whoever prints a figure says both. All take [n d] and [m d] features.
"""

from collections.abc import Iterable

from absl import logging
import numpy as np

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.evaluation.metrics import kernels, neighbours
from cxr_diffusion_jax.types import Array

# Rows that are made float64 at a time: 64 MiB of them at 2,048 features.
BLOCK_ROWS = 4096

# Of CMMD: Jayasumana et al. 2024, section 4.1.
CMMD_SIGMA, CMMD_SCALE = 10.0, 1000.0


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
  starts = range(0, len(features), BLOCK_ROWS)
  return moments_of_batches(features[first : first + BLOCK_ROWS] for first in starts)


def moments_of_batches(batches: Iterable[Array]) -> tuple[np.ndarray, np.ndarray]:
  """`moments` of features that come in batches, of which one is in memory at a time.

  The sums of two parts are joined as by Chan, Golub and LeVeque 1979, "Updating
  formulae and a pairwise algorithm for computing sample variances", equations 2.1.

  Args:
    batches: each [b d], b may differ and be 1; larger ones are faster.

  Raises:
    errors.InputError: fewer than 2 rows in all, widths that differ, or a number that
      is not finite.
  """
  count, mean, scatter = 0, np.zeros(0), np.zeros((0, 0))
  for batch in batches:
    batch = neighbours.rows(batch)
    mean_of_batch = batch.mean(axis=0, dtype=np.float64)
    if not count:
      mean, scatter = np.zeros_like(mean_of_batch), np.zeros(2 * mean_of_batch.shape)
    elif mean.shape != mean_of_batch.shape:
      raise errors.InputError(
        f"features {len(mean)} and {len(mean_of_batch)} wide",
        "the same network for all",
      )
    # Centred before the product: large means would drown small variances.
    centred = batch.astype(np.float64) - mean_of_batch
    scatter += centred.T @ centred
    moved, total = mean_of_batch - mean, count + len(batch)
    if count:
      scatter += np.outer(moved, moved * (count * len(batch) / total))
    mean = mean + moved * (len(batch) / total)
    count = total
  if count < 2:
    raise errors.InputError(f"features of {count} images", "of 2 images or more")
  return mean, scatter / (count - 1)


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


def kernel_distance(
  a: Array, b: Array, num_subsets: int = 100, subset_size: int = 1000, *, seed: int = 0
) -> tuple[float, float]:
  """Kernel inception distance: MMD^2 of subsets with the kernel (x.y / d + 1)^3.

  Binkowski et al. 2018 (1801.01401), section 4. Unbiased, so that it may be negative
  and its mean does not depend on the number of images.

  Args:
    a: [n d] features of one set.
    b: [m d] of the other.
    num_subsets: how many are drawn of each set.
    subset_size: images of a subset, drawn without replacement. Where a set has no more
      than these, half of the smaller set, which is logged: subsets as large as the set
      would all be the same.
    seed: of the draw.

  Returns:
    Mean and standard deviation over subsets.

  Raises:
    errors.InputError: a set of fewer than 4 rows, widths that differ, or a number that
      is not finite.
    ValueError: no subsets.
  """
  a, b = _pair(a, b)
  if num_subsets < 1:
    raise ValueError(f"{num_subsets} subsets")
  size = kernels.subset_size(len(a), len(b), subset_size)
  if size != subset_size:
    logging.warning(
      "Kernel distance of %d and %d images: subsets of %d in place of %d.",
      *(len(a), len(b), size, subset_size),
    )
  values = [
    kernels.unbiased(
      a[of_a].astype(np.float64), b[of_b].astype(np.float64), kernels.polynomial
    )
    for of_a, of_b in kernels.random_subsets(len(a), len(b), num_subsets, size, seed)
  ]
  return float(np.mean(values)), float(np.std(values))


def cmmd(a: Array, b: Array) -> float:
  """MMD^2 with a Gaussian kernel of features of length 1, times 1,000; 0 or more.

  Jayasumana et al. 2024 (2401.09603), section 4.1: sigma 10, and pairs of an image and
  itself count, as in their code. Theirs is on features of CLIP, which they give length
  1; so are any features here (a row of zeros remains one). It grows by 5 to 10 / n
  for sets of n images: compare those of equal numbers only.

  Args:
    a: [n d] features of one set.
    b: [m d] of the other.

  Raises:
    errors.InputError: widths that differ, or a number that is not finite.
  """
  a, b = _pair(a, b)
  kernel = kernels.gaussian(CMMD_SIGMA)
  return CMMD_SCALE * kernels.biased(unit_rows(a), unit_rows(b), kernel)


def unit_rows(features: np.ndarray) -> np.ndarray:
  """Rows [n d] of length 1 in float64; zeros remain."""
  features = features.astype(np.float64)
  lengths = np.linalg.norm(features, axis=1, keepdims=True)
  return features / np.where(lengths > 0, lengths, 1)


def precision_recall(real: Array, synthetic: Array, k: int = 3) -> tuple[float, float]:
  """Improved precision and recall: Kynkaanniemi et al. 2019 (1904.06991), equation 2.

  An image is among a set where it is no farther from one of its images than that is
  from its k-th neighbour in the set.

  Args:
    real: [n d] features.
    synthetic: [m d].
    k: neighbours.

  Returns:
    Share of synthetic images among real ones, and of real among synthetic ones.

  Raises:
    errors.InputError: a set of k rows or fewer, widths that differ, or a number that
      is not finite.
  """
  covers = neighbourhoods(real, synthetic, k), neighbourhoods(synthetic, real, k)
  precision, recall = (float((x.balls_of_point > 0).mean()) for x in covers)
  return precision, recall


def density_coverage(real: Array, synthetic: Array, k: int = 5) -> tuple[float, float]:
  """Density and coverage: Naeem et al. 2020 (2002.09797), equations 4 and 5.

  The neighbourhood of a real image reaches as far as its k-th neighbour among real
  ones, the rim left out as in the authors' code: copies of real images have density 1.

  Args:
    real: [n d] features.
    synthetic: [m d].
    k: neighbours.

  Returns:
    Neighbourhoods of real images that a synthetic one is in, mean over k, 0 or more;
    and the share of real images with a synthetic one in theirs.

  Raises:
    errors.InputError: k real images or fewer, widths that differ, or a number that is
      not finite.
  """
  cover = neighbourhoods(real, synthetic, k, rim=False)
  density = float(cover.balls_of_point.mean()) / k
  return density, float((cover.points_of_ball > 0).mean())


def neighbourhoods(
  centres: Array, points: Array, k: int, *, rim: bool = True
) -> neighbours.Cover:
  """Points [m d] in the balls around centres [n d] that reach their k-th neighbour."""
  distances, _ = neighbours.nearest(centres, centres, k, exclude_self=True)
  return neighbours.cover(points, centres, distances[:, -1], rim=rim)


def _pair(a: Array, b: Array) -> tuple[np.ndarray, np.ndarray]:
  a, b = neighbours.rows(a), neighbours.rows(b)
  neighbours.check_widths(a, b)
  return a, b
