"""Influences of images on figures are derivatives; halves, figures of their images."""

import numpy as np
import pytest

from cxr_diffusion_jax.evaluation import statistics
from cxr_diffusion_jax.evaluation.metrics import (
  frechet,
  kernels,
  neighbourhoods,
)
from cxr_diffusion_jax.evaluation.metrics.fidelity import METRICS, FeaturePair


def _features(count: int, width: int, seed: int) -> np.ndarray:
  rng = np.random.default_rng(seed)
  return rng.standard_normal((count, width)) / np.sqrt(1 + np.arange(width))


def _derivatives(figure, num: int) -> np.ndarray:
  """[n] how fast figure(weights) rises with each weight from 1, n times, centred."""
  # Roots of what rounding leaves of zero are 1e-8 large: no smaller step.
  step = 1e-3
  moved = np.eye(num) * step
  slopes = [(figure(1 + row) - figure(1 - row)) / (2 * step) * num for row in moved]
  return np.array(slopes) - np.mean(slopes)


def _centred(values: np.ndarray) -> np.ndarray:
  return values - values.mean()


def _weighted_moments(x: np.ndarray, weights: np.ndarray):
  chances = weights / weights.sum()
  centred = x - chances @ x
  count = len(x)
  return chances @ x, (centred.T * chances) @ centred * (count / (count - 1))


@pytest.mark.parametrize(("n", "m", "width"), [(14, 18, 3), (5, 9, 12), (9, 16, 12)])
def test_frechet_influences_are_derivatives(n, m, width):
  generated, real = _features(n, width, 1) + 0.3, _features(m, width, 2)
  estimate = frechet.with_influences(real, generated)
  expected = frechet.frechet_distance(generated, real)
  assert estimate.value == pytest.approx(expected, rel=1e-6)
  ours, theirs = frechet.moments(generated), frechet.moments(real)

  def distance(first, second):
    (mean, covariance), (other_mean, other) = first, second
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ other @ root), 0)).sum()
    traces = np.trace(covariance) + np.trace(other)
    return np.square(mean - other_mean).sum() + traces - 2 * cross

  slopes = _derivatives(lambda w: distance(_weighted_moments(generated, w), theirs), n)
  np.testing.assert_allclose(_centred(estimate.of_generated), slopes, atol=1e-3)
  slopes = _derivatives(lambda w: distance(ours, _weighted_moments(real, w)), m)
  np.testing.assert_allclose(_centred(estimate.of_real), slopes, atol=1e-3)


@pytest.mark.parametrize("width", [4, 200])
def test_frechet_influences_of_a_collapsed_set_are_zero(width):
  real, same = _features(30, width, 1), np.ones((30, width))
  estimate = frechet.with_influences(real, same)
  expected = np.square(real.mean(axis=0) - 1).sum() + real.var(axis=0, ddof=1).sum()
  assert estimate.value == pytest.approx(expected, rel=1e-9)
  np.testing.assert_allclose(estimate.of_generated, 0, atol=1e-9)


def test_kernel_influences_are_derivatives():
  generated, real = _features(12, 4, 1) + 0.4, _features(15, 4, 2)
  for estimate, kernel, scale, x, y in (
    (
      kernels.kernel_distance_with_influences(real, generated, num_subsets=3),
      *(kernels.polynomial, 1, generated, real),
    ),
    (
      kernels.cmmd_with_influences(real, generated),
      *(kernels.gaussian(10.0), 1000),
      *(kernels.unit_rows(v) for v in (generated, real)),
    ),
  ):

    def mmd(weights, x=x, y=y, kernel=kernel, scale=scale):
      weights_y, within = np.ones(len(y)), 0.0
      for z, w in ((x, weights), (y, weights_y)):
        pairs = kernels.sums(z, z, kernel, w[None], w[None]).forms[0]
        pairs -= np.square(w) @ kernels.diagonal(z, kernel)
        within += pairs / (w.sum() ** 2 - np.square(w).sum())
      across = kernels.sums(x, y, kernel, weights[None], weights_y[None]).forms[0]
      return scale * (within - 2 * across / (weights.sum() * len(y)))

    slopes = _derivatives(mmd, len(x))
    np.testing.assert_allclose(_centred(estimate.of_generated), slopes, atol=1e-5)


def test_influences_have_the_values_of_the_pure_functions():
  generated, real = _features(50, 6, 1) + 0.2, _features(40, 6, 2)
  result = kernels.kernel_distance_with_influences(real, generated, 9, seed=4)
  expected, _ = kernels.kernel_distance(generated, real, 9, 20, seed=4)
  assert result.value == pytest.approx(expected, rel=1e-9)
  expected = kernels.cmmd(generated, real)
  result = kernels.cmmd_with_influences(real, generated)
  assert result.value == pytest.approx(expected, rel=1e-9)
  pair = FeaturePair(
    real=real, generated=generated, patients=(np.arange(40), np.arange(50))
  )
  records = {record.name: record for record in METRICS}
  for names, function in (
    (("precision", "recall"), neighbourhoods.precision_recall),
    (("density", "coverage"), neighbourhoods.density_coverage),
  ):
    values = [records[name].fn(pair).value for name in names]
    np.testing.assert_allclose(values, function(real, generated), rtol=1e-12)


@pytest.mark.parametrize("subset_size", [20, 35])
def test_kernel_distance_of_subsets_does_not_depend_on_the_summation(subset_size):
  # 2 subsets of 35 are more pairs than 50 x 40, of 20 fewer: both ways are taken.
  a, b = _features(50, 6, 1) + 0.2, _features(40, 6, 2)
  expected = [
    kernels.unbiased(a[i], b[j], kernels.polynomial)
    for i, j in kernels.random_subsets(50, 40, 2, subset_size, 0)
  ]
  mean, std = kernels.kernel_distance(a, b, 2, subset_size)
  assert (mean, std) == pytest.approx((np.mean(expected), np.std(expected)), rel=1e-9)


def test_neighbourhoods_of_a_half_are_those_of_its_images_alone():
  generated, real = _features(60, 3, 1) + 0.4, _features(80, 3, 2)
  names = np.arange(80) // 2, 100 + np.arange(60) // 2
  halves = [statistics.signs(one) > 0 for one in names]
  balls = neighbourhoods.Balls.of(real, generated, 59)
  for figure, place, function in (
    ("precision", 0, neighbourhoods.precision_recall),
    ("density", 0, neighbourhoods.density_coverage),
    ("coverage", 1, neighbourhoods.density_coverage),
  ):
    k = 3 if figure == "precision" else 5
    estimate = balls.estimate(figure, k, *names)
    replicates = np.array([
      function(real[held], generated[of_generated])[place]
      for held, of_generated in zip(*halves, strict=True)
    ])  # fmt: skip
    expected = statistics.deviations_of(replicates, *names)
    np.testing.assert_allclose(estimate.deviations, expected, atol=1e-9)
    assert estimate.patients == 30
    assert estimate.value == function(real, generated)[place]


def test_neighbourhoods_leave_out_halves_without_images():
  generated, real = _features(60, 3, 1) + 0.4, _features(80, 3, 2)
  names = np.arange(80), 100 + np.arange(60) // 20
  balls = neighbourhoods.Balls.of(real, generated, 79)
  halves = [statistics.signs(one) > 0 for one in names]
  replicates = np.array([
    neighbourhoods.density_coverage(real[held], generated[of_generated])[1]
    if of_generated.any()
    else np.nan
    for held, of_generated in zip(*halves, strict=True)
  ])  # fmt: skip
  assert np.isnan(replicates).any()
  expected = statistics.deviations_of(replicates, *names)
  deviations = balls.estimate("coverage", 5, *names).deviations
  np.testing.assert_allclose(deviations, expected, atol=1e-9)
