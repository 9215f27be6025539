"""Distances of features: closed forms, definitions, planted cases, what is refused."""

import numpy as np
import pytest
import scipy.linalg
from sklearn import metrics

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.evaluation.metrics import frechet, kernels, neighbourhoods


def _features(count: int, width: int, seed: int = 0) -> np.ndarray:
  rng = np.random.default_rng(seed)
  mix = rng.standard_normal((width, width)) / np.sqrt(width)
  return (
    rng.standard_normal((count, width)) @ mix + rng.standard_normal(width)
  ).astype(np.float32)


def _with_moments(mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
  """Features whose sample mean and covariance are exactly these (diagonal)."""
  rng = np.random.default_rng(3)
  x = rng.standard_normal((64, len(mean)))
  x -= x.mean(axis=0)
  x = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T
  return x * scale + mean


def test_frechet_distance_of_diagonal_normals_equals_the_closed_form():
  mean_a, mean_b = np.array([0.0, 1.0, 2.0]), np.array([0.5, -1.0, 2.0])
  scale_a, scale_b = np.array([1.0, 2.0, 0.5]), np.array([3.0, 1.0, 0.5])
  expected = ((mean_a - mean_b) ** 2).sum() + ((scale_a - scale_b) ** 2).sum()
  distance = frechet.frechet_distance(
    _with_moments(mean_a, scale_a), _with_moments(mean_b, scale_b)
  )
  assert distance == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("count", [200, 12])
def test_frechet_distance_equals_the_formula_with_scipys_root(count):
  a, b = _features(count, 24, 1), _features(count + 7, 24, 2)
  covariances = [np.cov(x.astype(np.float64), rowvar=False) for x in (a, b)]
  # Fewer rows than columns make singular matrices, whose root scipy finds with
  # rounding errors of the root of its precision.
  if count < 24:
    covariances = [c + 1e-9 * np.eye(24) for c in covariances]
  root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
  expected = (
    ((a.mean(0, np.float64) - b.mean(0, np.float64)) ** 2).sum()
    + sum(np.trace(c) for c in covariances)
    - 2 * np.trace(root)
  )
  assert frechet.frechet_distance(a, b) == pytest.approx(expected, rel=1e-4)


def test_frechet_distance_is_symmetric_and_rotation_invariant():
  a, b = _features(60, 8, 1), _features(60, 8, 2)
  distance = frechet.frechet_distance(a, b)
  assert frechet.frechet_distance(b, a) == pytest.approx(distance, rel=1e-9)
  rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((8, 8)))[0]
  rotated = frechet.frechet_distance(a @ rotation, b @ rotation)
  assert rotated == pytest.approx(distance, rel=1e-6)
  assert 0 <= frechet.frechet_distance(a, a) < 1e-9
  # A shift adds its squared length.
  shifted = frechet.frechet_distance(np.float64(a), np.float64(a) + 2.0)
  assert shifted == pytest.approx(4 * 8, rel=1e-9)


def test_moments_do_not_depend_on_blocks_or_large_means(monkeypatch):
  a = _features(50, 5).astype(np.float64) + 1e4
  monkeypatch.setattr(frechet, "BLOCK_ROWS", 7)
  mean, covariance = frechet.moments(a)
  np.testing.assert_allclose(mean, a.mean(axis=0), rtol=1e-12)
  np.testing.assert_allclose(covariance, np.cov(a, rowvar=False), rtol=1e-8)


def test_frechet_distance_rejects_bad_features():
  a = _features(10, 4)
  with pytest.raises(errors.InputError, match="2 images or more"):
    frechet.frechet_distance(a[:1], a)
  with pytest.raises(errors.InputError, match="4 and 3 wide"):
    frechet.frechet_distance(a, a[:, :3])
  a[3, 2] = np.nan
  with pytest.raises(errors.InputError, match="not finite"):
    frechet.frechet_distance(a, a)


def _mmd(x: np.ndarray, y: np.ndarray) -> float:
  """The unbiased estimate as it is defined, with scikit-learn's kernel."""
  x, y = np.float64(x), np.float64(y)
  xx, yy, xy = (metrics.pairwise.polynomial_kernel(*of) for of in ((x,), (y,), (x, y)))
  n, m = xy.shape
  within = (xx.sum() - np.trace(xx)) / (n * (n - 1))
  return within + (yy.sum() - np.trace(yy)) / (m * (m - 1)) - 2 * xy.mean()


def test_kernel_distance_equals_scikit_learns_kernel_on_subsets(monkeypatch):
  monkeypatch.setattr(kernels, "BLOCK_NUMBERS", 100)
  a, b = _features(40, 8, 1), _features(50, 8, 2)
  expected = [_mmd(a[i], b[j]) for i, j in kernels.random_subsets(40, 50, 7, 20, 3)]
  mean, std = kernels.kernel_distance(a, b, 7, 20, seed=3)
  assert mean == pytest.approx(np.mean(expected), rel=1e-9)
  assert std == pytest.approx(np.std(expected), rel=1e-9)
  assert kernels.unbiased(
    np.float64(a), np.float64(b), kernels.polynomial
  ) == pytest.approx(_mmd(a, b), rel=1e-9)


def test_kernel_distance_subset_is_smaller_than_the_set(caplog):
  a, b = _features(40, 8, 1), _features(50, 8, 2)
  with caplog.at_level("WARNING"):
    mean, std = kernels.kernel_distance(a, b, 5)
  assert "subsets of 20 in place of 1000" in caplog.text
  assert (mean, std) == kernels.kernel_distance(a, b, 5, 20)
  assert std > 0
  assert kernels.choose_subset_size(40, 50, 40) == 20
  assert kernels.choose_subset_size(40, 50, 39) == 39
  with pytest.raises(errors.InputError, match="4 images or more"):
    kernels.kernel_distance(a[:3], b)


def test_kernel_distance_of_equal_distributions_is_zero_on_average():
  rng = np.random.default_rng(0)
  same = [rng.standard_normal((2, 60, 4)) for _ in range(30)]
  values = [kernels.unbiased(x, y, kernels.polynomial) for x, y in same]
  assert min(values) < 0 < max(values)
  assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(30)


def test_cmmd_equals_its_definition_and_ignores_lengths():
  a, b = _features(30, 8, 1), _features(40, 8, 2)
  x, y = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in map(np.float64, (a, b)))
  kernel = lambda *of: metrics.pairwise.rbf_kernel(*of, gamma=1 / 200).mean()  # noqa: E731
  expected = 1000 * (kernel(x) + kernel(y) - 2 * kernel(x, y))
  assert kernels.cmmd(a, b) == pytest.approx(expected, rel=1e-8)
  assert kernels.cmmd(a * 7, b) == pytest.approx(expected, rel=1e-5)
  assert kernels.cmmd(a, a) == pytest.approx(0, abs=1e-9)
  # Two opposite directions: |x - y|^2 = 4.
  line = np.ones((5, 2))
  expected = 2000 * (1 - np.exp(-4 / 200))
  assert kernels.cmmd(line, -line) == pytest.approx(expected, rel=1e-12)


def _among(x: np.ndarray, y: np.ndarray, k: int) -> np.ndarray:
  """[m n] whether y is nearer to x than the k-th neighbour of x in its set."""
  within = np.sort(metrics.pairwise_distances(x), axis=1)[:, k]
  return metrics.pairwise_distances(y, x) <= within


def test_precision_recall_density_and_coverage_equal_their_definitions():
  real = _features(105, 4)
  real, synthetic = real[:60], real[60:] * 0.7 + 0.3
  precision, recall = neighbourhoods.precision_recall(real, synthetic)
  assert precision == _among(real, synthetic, 3).any(axis=1).mean()
  assert recall == _among(synthetic, real, 3).any(axis=1).mean()
  density, coverage = neighbourhoods.density_coverage(real, synthetic)
  inside = _among(real, synthetic, 5)
  assert density == pytest.approx(inside.sum() / (5 * 45), rel=1e-12)
  assert coverage == inside.any(axis=0).mean()
  assert min(precision, recall, coverage) > 0
  assert max(precision, recall, coverage) < 1


def test_precision_recall_and_coverage_follow_copies_and_strangers():
  real = _features(80, 6, 1)
  assert neighbourhoods.precision_recall(real, real) == (1, 1)
  assert neighbourhoods.density_coverage(real, real) == (1, 1)
  # One image over and over: plausible, and nothing else is seen.
  collapsed = np.repeat(real[:1], 80, axis=0)
  precision, recall = neighbourhoods.precision_recall(real, collapsed)
  assert precision == 1
  assert recall == 1 / 80
  assert neighbourhoods.density_coverage(real, collapsed)[1] <= 20 / 80
  assert neighbourhoods.precision_recall(real, real + 1e3) == (0, 0)
  assert neighbourhoods.density_coverage(real, real + 1e3) == (0, 0)


def test_neighbourhoods_reject_too_few_images():
  real = _features(5, 4)
  with pytest.raises(errors.InputError, match="6 or more for 5 neighbours"):
    neighbourhoods.density_coverage(real, real)
  with pytest.raises(errors.InputError, match="4 and 3 wide"):
    kernels.cmmd(real, real[:, :3])
