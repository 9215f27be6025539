"""Neighbours and balls: scikit-learn's answers, copies, rims, blocks."""

import numpy as np
import pytest
from sklearn import metrics
from sklearn import neighbors as peer

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.evaluation.metrics import neighbours


def _points(count: int, width: int = 6, seed: int = 0) -> np.ndarray:
  rng = np.random.default_rng(seed)
  return rng.standard_normal((count, width)).astype(np.float32)


@pytest.mark.parametrize("block", [64, 2**24])
def test_nearest_equals_scikit_learn(block, monkeypatch):
  monkeypatch.setattr(neighbours, "BLOCK_NUMBERS", block)
  queries, points = _points(40, seed=1), _points(70, seed=2)
  distances, indices = neighbours.nearest(queries, points, 4)
  model = peer.NearestNeighbors(n_neighbors=4, algorithm="brute").fit(points)
  expected = model.kneighbors(queries)
  np.testing.assert_allclose(distances, expected[0], rtol=1e-5)
  np.testing.assert_array_equal(indices, expected[1])
  own = neighbours.nearest(points, points, 4, exclude_self=True)
  np.testing.assert_array_equal(own[1], model.kneighbors()[1])


def test_nearest_copy_has_distance_zero_far_from_the_origin():
  points = _points(30) + 3e3
  queries = np.concatenate([points[7:9], points[3:4] + np.float32(2e-3)])
  distances, indices = neighbours.nearest(queries, points, 1)
  np.testing.assert_array_equal(indices[:, 0], [7, 8, 3])
  np.testing.assert_array_equal(distances[:2, 0], 0)
  exact = np.linalg.norm(queries[2].astype(np.float64) - points[3])
  assert distances[2, 0] == pytest.approx(exact, rel=1e-12)
  # Oneself does not count, a copy at another place does; of copies the first is named.
  twice = np.concatenate([points, points[:5]])
  distances, indices = neighbours.nearest(twice, twice, 1, exclude_self=True)
  np.testing.assert_array_equal(distances[:5, 0], 0)
  np.testing.assert_array_equal(indices[:5, 0], np.arange(30, 35))


@pytest.mark.parametrize("block", [50, 2**24])
def test_within_lists_points_in_balls(block, monkeypatch):
  monkeypatch.setattr(neighbours, "BLOCK_NUMBERS", block)
  points, centres = _points(25, seed=1), _points(35, seed=2)
  radii = np.random.default_rng(0).uniform(0.5, 2.5, 35)
  inside = metrics.pairwise_distances(points, centres) < radii
  result = neighbours.within(points, centres, radii)
  np.testing.assert_array_equal(result[:2], np.nonzero(inside))
  distances = metrics.pairwise_distances(points, centres)[inside]
  np.testing.assert_allclose(result[2], distances, rtol=1e-5)


def test_within_treats_the_rim_exactly():
  # Each ball reaches as far as a point of the set itself, to the last digit.
  points = _points(60, width=40) * 17 + 5
  radii, indices = neighbours.nearest(points, points, 3, exclude_self=True)
  _, ball, gap = neighbours.within(points, points, radii[:, -1])
  np.testing.assert_array_equal(np.bincount(ball), 4)
  np.testing.assert_array_equal(np.bincount(ball[gap < radii[ball, -1]]), 3)
  assert indices.shape == (60, 3)


def test_nearest_rejects_too_few_points():
  points = _points(5)
  with pytest.raises(errors.InputError, match=r"5 images; expected 6 or more for 5"):
    neighbours.nearest(points, points, 5, exclude_self=True)
  with pytest.raises(errors.InputError, match="6 and 4 wide"):
    neighbours.nearest(points, points[:, :4], 1)
  with pytest.raises(ValueError, match="3 queries are not the 5 points"):
    neighbours.nearest(points[:3], points, 1, exclude_self=True)
  with pytest.raises(ValueError, match="0 neighbours"):
    neighbours.nearest(points, points, 0)
  points[2, 2] = np.inf
  with pytest.raises(errors.InputError, match="not finite"):
    neighbours.nearest(points, points, 1)
