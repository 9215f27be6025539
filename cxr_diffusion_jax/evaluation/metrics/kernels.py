"""Maximum mean discrepancy: how far apart two sets are in the space of a kernel.

MMD^2 = mean k(a, a') + mean k(b, b') - 2 mean k(a, b)

Gretton et al. 2012, "A kernel two-sample test". With pairs of an image and itself left
out it is unbiased and may be negative (lemma 6); with them it is 0 or more, and larger.
All in float64, in blocks of rows.
"""

from collections.abc import Callable, Iterator
import dataclasses

import numpy as np

from cxr_diffusion_jax import errors

# (products [n m], squared lengths [n 1] and [1 m], width d) -> [n m]
Kernel = Callable[[np.ndarray, np.ndarray, np.ndarray, int], np.ndarray]

# Numbers of a block of kernel values: 64 MiB of float64.
BLOCK_NUMBERS = 2**23


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
  """Sums of kernel values over one of two sets.

  Attributes:
    of_a: [n], over all of b, for each of a.
    of_b: [m], over all of a, for each of b.
    forms: [r], of weights given: sum over pairs of weight x weight x value.
  """

  of_a: np.ndarray
  of_b: np.ndarray
  forms: np.ndarray


def sums(
  a: np.ndarray,
  b: np.ndarray,
  kernel: Kernel,
  weights_a: np.ndarray | None = None,
  weights_b: np.ndarray | None = None,
) -> Sums:
  """Sums over all pairs of a [n d] and b [m d].

  Args:
    a: one set, float64.
    b: the other.
    kernel: one of this file.
    weights_a: [r n], a row a sample of images; None for no forms.
    weights_b: [r m].
  """
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
  n, m = len(a), len(b)
  within_a = sums(a, a, kernel).of_a.sum() - diagonal(a, kernel).sum()
  within_b = sums(b, b, kernel).of_a.sum() - diagonal(b, kernel).sum()
  across = sums(a, b, kernel).of_a.sum()
  return float(
    within_a / (n * (n - 1)) + within_b / (m * (m - 1)) - 2 * across / (n * m)
  )


def biased(a: np.ndarray, b: np.ndarray, kernel: Kernel) -> float:
  """MMD^2 of all pairs: Gretton et al. 2012, equation 5; 0 or more."""
  value = (
    sums(a, a, kernel).of_a.mean() / len(a)
    + sums(b, b, kernel).of_a.mean() / len(b)
    - 2 * sums(a, b, kernel).of_a.mean() / len(b)
  )
  return float(max(value, 0.0))


def subset_size(num_a: int, num_b: int, wanted: int) -> int:
  """Images of a subset: as many as wanted, where both sets have more than that.

  A subset that is the whole set gives the same figure each time, whose spread says
  nothing. Where a set is not larger than the subset wanted, half of the smaller set is
  taken; the figure's expectation does not depend on it, its spread does.

  Raises:
    errors.InputError: a set with fewer than 4 images, or subsets of fewer than 2.
  """
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
