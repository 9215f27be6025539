"""Rotary positions: attention sees differences of places, and maps agree on places."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_diffusion_jax.models import dit_blocks, heads


@pytest.fixture
def vector() -> np.ndarray:
  """One head's channels [16]."""
  return np.random.default_rng(0).standard_normal(16).astype(np.float32)


def _everywhere(vector, grid):
  """The vector at each cell of a grid, turned by its place: [n d]."""
  angles = dit_blocks.grid_angles(grid, vector.size)
  tokens = np.broadcast_to(vector, (1, len(angles), 1, vector.size))
  return np.asarray(heads.rotate(tokens, angles))[0, :, 0]


def test_rotate_makes_products_depend_only_on_differences_of_places(vector):
  rows, columns = 5, 7
  query = _everywhere(vector, (rows, columns)).reshape(rows, columns, -1)
  key = _everywhere(vector[::-1], (rows, columns)).reshape(rows, columns, -1)
  scores = np.einsum("abd,xyd->abxy", query, key)
  moved = scores[1:, 1:, 1:, 1:]
  np.testing.assert_allclose(moved, scores[:-1, :-1, :-1, :-1], atol=1e-4)
  # Down is not right, and forth is not back.
  assert abs(scores[0, 0, 1, 0] - scores[0, 0, 0, 1]) > 0.1
  assert abs(scores[0, 0, 1, 0] - scores[1, 0, 0, 0]) > 0.1


def test_rotate_keeps_lengths_and_is_the_identity_at_zero(vector):
  turned = _everywhere(vector, (4, 4))
  lengths = np.linalg.norm(turned, axis=-1)
  np.testing.assert_allclose(lengths, np.linalg.norm(vector), rtol=1e-5)
  tokens = vector[None, None, None]
  still = heads.rotate(tokens, np.zeros((1, vector.size // 2), np.float32))
  np.testing.assert_array_equal(still, tokens)


def test_grid_angles_align_coarse_and_fine_maps():
  fine = dit_blocks.grid_angles((8, 12), 16).reshape(8, 12, 8)
  coarse = dit_blocks.grid_angles((4, 3), 16, spread=(8, 12)).reshape(4, 3, 8)
  # A cell's middle is the mean of the middles of the cells it covers.
  means = fine.reshape(4, 2, 3, 4, 8).mean(axis=(1, 3))
  np.testing.assert_allclose(coarse, means, rtol=1e-5)


def test_grid_angles_turn_at_most_a_radian_per_cell():
  angles = dit_blocks.grid_angles((3, 2), 8).reshape(3, 2, 4)
  np.testing.assert_allclose(np.diff(angles[:, 0, 0]), 1, rtol=1e-6)
  np.testing.assert_allclose(np.diff(angles[:, 0, 1]), 0.1, rtol=1e-5)
  np.testing.assert_array_equal(np.diff(angles[:, 0, 2:], axis=0), 0)


def test_rotate_keeps_the_dtype():
  tokens = jnp.ones((1, 4, 2, 8), jnp.bfloat16)
  angles = dit_blocks.grid_angles((2, 2), 8)
  shape = jax.eval_shape(heads.rotate, tokens, angles)
  assert (shape.dtype, shape.shape) == (jnp.bfloat16, tokens.shape)
