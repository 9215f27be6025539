"""Maximum mean discrepancy of two sets of features, and influences of single images.

MMD^2 = mean k(a, a') + mean k(b, b') - 2 mean k(a, b)

Gretton et al. 2012, "A kernel two-sample test". Without pairs of an image and itself it
is unbiased and may be negative (lemma 6); with them it is 0 or more, and larger. All in
float64, in blocks of rows.
"""

from collections.abc import Callable, Iterator
import dataclasses

from absl import logging
import numpy as np

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.evaluation import statistics
from cxr_diffusion_jax.evaluation.metrics import neighbours
from cxr_diffusion_jax.types import Array

# (products [n m], squared lengths [n 1] and [1 m], width d) -> [n m]
Kernel = Callable[[np.ndarray, np.ndarray, np.ndarray, int], np.ndarray]

# Of CMMD: Jayasumana et al. 2024, section 4.1.
CMMD_SIGMA, CMMD_SCALE = 10.0, 1000.0

# Numbers of a block of kernel values: 64 MiB of float64.
BLOCK_NUMBERS = 2**23


def kernel_distance(
  a: Array, b: Array, num_subsets: int = 100, subset_size: int = 1000, *, seed: int = 0
) -> tuple[float, float]:
  """Kernel inception distance: MMD^2 of subsets with the kernel (x.y / d + 1)^3.

  Binkowski et al. 2018 (1801.01401), section 4. It is unbiased: it may be negative, and
  its mean does not depend on the number of images.

  Args:
    a: [n d] features of one set.
    b: [m d] of the other.
    subset_size: images of a subset, drawn without replacement; half of the smaller set
      where a set has no more than these, since subsets as large as a set are all equal.

  Returns:
    Mean and standard deviation over subsets.

  Raises:
    errors.InputError: a set of fewer than 4 rows, widths that differ, or a number that
      is not finite.
  """
  a, b = neighbours.pair(a, b)
  if num_subsets < 1:
    raise ValueError(f"{num_subsets} subsets")
  size = choose_subset_size(len(a), len(b), subset_size)
  if size != subset_size:
    logging.warning(
      "Kernel distance of %d and %d images: subsets of %d in place of %d.",
      *(len(a), len(b), size, subset_size),
    )
  values, _ = _of_subsets(a, b, num_subsets, size, seed)
  return float(np.mean(values)), float(np.std(values))


def kernel_distance_with_influences(
  real: Array, generated: Array, num_subsets: int = 100, *, seed: int = 0
) -> statistics.Influences:
  """Mean of `kernel_distance`, and influences on MMD^2 of all images."""
  x, y = neighbours.pair(generated, real)
  size = choose_subset_size(len(x), len(y), 1000)
  values, sums_of_all = _of_subsets(x, y, num_subsets, size, seed)
  sums_of_all = sums_of_all or _Sums(x, y, polynomial)
  of_generated, of_real = sums_of_all.influences()
  return statistics.Influences(
    value=float(np.mean(values)), of_generated=of_generated, of_real=of_real
  )


def cmmd(a: Array, b: Array) -> float:
  """MMD^2 with a Gaussian kernel of features of length 1, times 1,000; 0 or more.

  Jayasumana et al. 2024 (2401.09603), section 4.1: sigma 10, and pairs of an image and
  itself count, as in their code. Theirs is on features of CLIP, which they scale to
  length 1; so are any features here (a row of zeros remains zero). It grows by 5 to
  10 / n for sets of n images: compare values of equal numbers.

  Raises:
    errors.InputError: widths that differ, or a number that is not finite.
  """
  return cmmd_with_influences(b, a).value


def cmmd_with_influences(real: Array, generated: Array) -> statistics.Influences:
  """`cmmd` with the influence of each image: Gretton et al. 2012, equation 5."""
  a, b = neighbours.pair(generated, real)
  of_all = _Sums(unit_rows(a), unit_rows(b), gaussian(CMMD_SIGMA))
  own_a, own_b = (of_self.of_a.mean() for of_self in of_all.within)
  value = own_a / len(a) + own_b / len(b) - 2 * of_all.across.of_a.mean() / len(b)
  of_generated, of_real = (CMMD_SCALE * u for u in of_all.influences())
  return statistics.Influences(
    value=float(CMMD_SCALE * max(value, 0.0)),
    of_generated=of_generated,
    of_real=of_real,
  )


def unit_rows(features: np.ndarray) -> np.ndarray:
  """Rows [n d] of length 1 in float64; zeros remain."""
  features = features.astype(np.float64)
  lengths = np.linalg.norm(features, axis=1, keepdims=True)
  return features / np.where(lengths > 0, lengths, 1)


def polynomial(
  products: np.ndarray, of_x: np.ndarray, of_y: np.ndarray, width: int
) -> np.ndarray:
  """(x.y / d + 1)^3: Binkowski et al. 2018 (1801.01401), section 4."""
  del of_x, of_y
  root = products / width + 1
  return root * root * root


def gaussian(sigma: float) -> Kernel:
  """exp(-|x - y|^2 / (2 sigma^2))."""

  def kernel(products, of_x, of_y, width):
    del width
    # Rounding makes distances of copies negative.
    squares = np.maximum(of_x + of_y - 2 * products, 0)
    return np.exp(squares / (-2 * sigma**2))

  return kernel


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Sums:
  """Sums of kernel values over one of two sets."""

  of_a: np.ndarray  # [n], over all of b
  of_b: np.ndarray  # [m], over all of a
  forms: np.ndarray  # [r], sums over pairs of weight x weight x value


def sums(
  a: np.ndarray,
  b: np.ndarray,
  kernel: Kernel,
  weights_a: np.ndarray | None = None,
  weights_b: np.ndarray | None = None,
) -> Sums:
  """Sums over all pairs of a [n d] and b [m d]."""
  of_a, of_b = np.empty(len(a)), np.zeros(len(b))
  forms = np.zeros(0 if weights_a is None else len(weights_a))
  lengths_b = np.square(b).sum(axis=1)[None]
  step = max(1, BLOCK_NUMBERS // len(b))
  for first in range(0, len(a), step):
    place = slice(first, first + step)
    lengths_a = np.square(a[place]).sum(axis=1)[:, None]
    values = kernel(a[place] @ b.T, lengths_a, lengths_b, a.shape[1])
    of_a[place] = values.sum(axis=1)
    of_b += values.sum(axis=0)
    if weights_a is not None:
      forms += ((weights_a[:, place] @ values) * weights_b).sum(axis=1)
  return Sums(of_a=of_a, of_b=of_b, forms=forms)


def diagonal(a: np.ndarray, kernel: Kernel) -> np.ndarray:
  """Kernel values [n] of each image with itself."""
  lengths = np.square(a).sum(axis=1)
  return kernel(lengths, lengths, lengths, a.shape[1])


def unbiased(a: np.ndarray, b: np.ndarray, kernel: Kernel) -> float:
  """MMD^2 without pairs of an image and itself: Gretton et al. 2012, equation 3."""
  of_all = _Sums(a, b, kernel)
  within_a, within_b = (
    (of_self.of_a.sum() - own.sum()) / (len(own) * (len(own) - 1))
    for of_self, own in zip(of_all.within, of_all.diagonals, strict=True)
  )
  across = of_all.across.of_a.sum() / (len(a) * len(b))
  return float(within_a + within_b - 2 * across)


def choose_subset_size(num_a: int, num_b: int, wanted: int) -> int:
  """`wanted`, or half of the smaller set where a set has no more images than that."""
  smaller = min(num_a, num_b)
  if smaller < 4 or wanted < 2:
    raise errors.InputError(
      f"{smaller} images, subsets of {wanted}",
      "4 images or more, and 2 or more a subset",
    )
  return wanted if wanted < smaller else smaller // 2


def random_subsets(
  num_a: int, num_b: int, num_subsets: int, size: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields rows [size] of each set, drawn without replacement."""
  generator = np.random.default_rng(seed)
  for _ in range(num_subsets):
    yield (
      generator.choice(num_a, size, replace=False),
      generator.choice(num_b, size, replace=False),
    )


class _Sums:
  """Sums of kernel values within and across two sets: all that MMD^2 needs."""

  def __init__(
    self,
    x: np.ndarray,
    y: np.ndarray,
    kernel: Kernel,
    weights_x: np.ndarray | None = None,
    weights_y: np.ndarray | None = None,
  ):
    x, y = (np.asarray(v, np.float64) for v in (x, y))
    self.across = sums(x, y, kernel, weights_x, weights_y)
    self.within = (
      sums(x, x, kernel, weights_x, weights_x),
      sums(y, y, kernel, weights_y, weights_y),
    )
    self.diagonals = diagonal(x, kernel), diagonal(y, kernel)

  def influences(self) -> tuple[np.ndarray, np.ndarray]:
    """On MMD^2: twice the first projections of a U-statistic, Hoeffding 1948."""
    own_x, own_y = (
      (of_self.of_a - values) / (len(values) - 1)
      for of_self, values in zip(self.within, self.diagonals, strict=True)
    )
    of_x = own_x - self.across.of_a / len(own_y)
    of_y = own_y - self.across.of_b / len(own_x)
    return 2 * of_x, 2 * of_y


def _of_subsets(
  a: np.ndarray, b: np.ndarray, num_subsets: int, size: int, seed: int
) -> tuple[np.ndarray, _Sums | None]:
  """MMD^2 of each pair of subsets [r], and the sums of all images where they were used.

  All pairs of few images are computed once for all subsets; of many images, the pairs
  of the subsets are fewer.
  """
  subsets = random_subsets(len(a), len(b), num_subsets, size, seed)
  if len(a) * len(b) > num_subsets * size**2:
    values = [unbiased(a[i], b[j], polynomial) for i, j in subsets]
    return np.array(values), None
  drawn = np.zeros((num_subsets, len(a))), np.zeros((num_subsets, len(b)))
  for row, pair in enumerate(subsets):
    for weights, rows in zip(drawn, pair, strict=True):
      weights[row, rows] = 1
  of_all = _Sums(a, b, polynomial, *drawn)
  within = sum(
    of_self.forms - weights @ values
    for of_self, weights, values in zip(
      of_all.within, drawn, of_all.diagonals, strict=True
    )
  )
  return within / (size * (size - 1)) - 2 * of_all.across.forms / size**2, of_all
