"""The Frechet distance: closed forms, scipy's matrix root, and what it refuses."""

import numpy as np
import pytest
import scipy.linalg

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.evaluation import fidelity


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


def test_normal_distributions_with_diagonal_covariances_have_a_closed_form():
  mean_a, mean_b = np.array([0.0, 1.0, 2.0]), np.array([0.5, -1.0, 2.0])
  scale_a, scale_b = np.array([1.0, 2.0, 0.5]), np.array([3.0, 1.0, 0.5])
  expected = ((mean_a - mean_b) ** 2).sum() + ((scale_a - scale_b) ** 2).sum()
  distance = fidelity.frechet_distance(
    _with_moments(mean_a, scale_a), _with_moments(mean_b, scale_b)
  )
  assert distance == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("count", [200, 12])
def test_it_equals_the_formula_with_scipys_matrix_root(count):
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
  assert fidelity.frechet_distance(a, b) == pytest.approx(expected, rel=1e-4)


def test_it_is_symmetric_invariant_under_rotation_and_zero_for_itself():
  a, b = _features(60, 8, 1), _features(60, 8, 2)
  distance = fidelity.frechet_distance(a, b)
  assert fidelity.frechet_distance(b, a) == pytest.approx(distance, rel=1e-9)
  rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((8, 8)))[0]
  rotated = fidelity.frechet_distance(a @ rotation, b @ rotation)
  assert rotated == pytest.approx(distance, rel=1e-6)
  assert 0 <= fidelity.frechet_distance(a, a) < 1e-9
  # A shift adds its squared length.
  shifted = fidelity.frechet_distance(np.float64(a), np.float64(a) + 2.0)
  assert shifted == pytest.approx(4 * 8, rel=1e-9)


def test_moments_do_not_depend_on_blocks_nor_on_large_means(monkeypatch):
  a = _features(50, 5).astype(np.float64) + 1e4
  monkeypatch.setattr(fidelity, "BLOCK_ROWS", 7)
  mean, covariance = fidelity.moments(a)
  np.testing.assert_allclose(mean, a.mean(axis=0), rtol=1e-12)
  np.testing.assert_allclose(covariance, np.cov(a, rowvar=False), rtol=1e-8)


def test_what_has_no_distance_is_refused():
  a = _features(10, 4)
  with pytest.raises(errors.InputError, match="2 images or more"):
    fidelity.frechet_distance(a[:1], a)
  with pytest.raises(errors.InputError, match="4 and 3 wide"):
    fidelity.frechet_distance(a, a[:, :3])
  a[3, 2] = np.nan
  with pytest.raises(errors.InputError, match="not finite"):
    fidelity.frechet_distance(a, a)
