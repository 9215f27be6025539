"""The 32 regions are averages over parts of the image; states are normalised."""

import numpy as np
import pytest

from cxr_diffusion_jax.encoders.standin import loss


@pytest.mark.parametrize("grid", [1, 2, 5, 8, 16])
def test_regions_are_averages_that_tile_the_image(grid):
  weights = loss.region_weights(grid)
  assert weights.shape == (32, grid * grid)
  assert weights.min() >= 0
  np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-6)
  np.testing.assert_allclose(weights[0], 1 / grid**2, rtol=1e-6)
  for start, stop in [(0, 1), (1, 3), (3, 7), (7, 16), (16, 32)]:
    np.testing.assert_allclose(
      weights[start:stop].mean(axis=0), 1 / grid**2, rtol=1e-5, err_msg=str(start)
    )


def test_region_weights_order_regions_by_row():
  left = loss.region_weights(8)[1].reshape(8, 8)
  assert (left[:, :4] > 0).all()
  assert (left[:, 4:] == 0).all()


def test_patch_states_are_normalised_and_without_the_class_token():
  tokens = np.random.default_rng(0).normal(3, 7, (2, 10, 64)).astype(np.float32)
  states = np.asarray(loss.patch_states(tokens))
  assert states.shape == (2, 9, 64)
  np.testing.assert_allclose(states.mean(axis=-1), 0, atol=1e-5)
  np.testing.assert_allclose(states.std(axis=-1), 1, atol=1e-4)
  shifted = np.asarray(loss.patch_states(5 * tokens + 2))
  np.testing.assert_allclose(shifted, states, atol=1e-4)
