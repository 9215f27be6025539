"""Features against a target: what the loss is at its ends, and where places go."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_diffusion_jax.models import alignment


@pytest.fixture
def tokens() -> np.ndarray:
  return np.random.default_rng(0).standard_normal((2, 6, 5)).astype(np.float32)


def test_negative_cosine_compares_only_directions(tokens):
  lengths = np.linspace(0.1, 9, 12, dtype=np.float32).reshape(2, 6, 1)
  loss = alignment.negative_cosine(lengths * tokens, tokens)
  np.testing.assert_allclose(loss, -1, atol=1e-6)
  np.testing.assert_allclose(alignment.negative_cosine(-tokens, tokens), 1, atol=1e-6)
  across = np.roll(tokens, 1, axis=-1) * [1, -1, 0, 0, 0]
  across[..., 0], across[..., 1] = tokens[..., 1], -tokens[..., 0]
  np.testing.assert_allclose(alignment.negative_cosine(across, tokens), 0, atol=1e-6)


def test_negative_cosine_skips_places_without_a_target(tokens):
  target = tokens.copy()
  target[0, 2:] = 0
  target[1] = 0
  result = np.concatenate([tokens[:, :2], -tokens[:, 2:]], axis=1)
  np.testing.assert_allclose(
    alignment.negative_cosine(result, target), [-1, 0], atol=1e-6
  )


def test_negative_cosine_has_finite_gradients_at_zero(tokens):
  grads = jax.jit(jax.grad(lambda x: alignment.negative_cosine(x, tokens).sum()))
  assert np.isfinite(grads(jnp.zeros_like(tokens))).all()


@pytest.mark.parametrize("grid", [(2, 4), (4, 4), (3, 5), (8, 8), None])
def test_to_grid_reaches_any_grid(grid):
  rows, columns = grid or (1, 1)
  constant = alignment.to_grid(np.full((1, 4, 4, 3), 2.5, np.float32), grid)
  assert constant.shape == (1, rows * columns, 3)
  np.testing.assert_allclose(constant, 2.5, atol=1e-5)
  # Rows before columns, as the targets have it.
  ramp = np.broadcast_to(np.arange(4.0)[None, None, :, None], (1, 4, 4, 1))
  places = np.asarray(alignment.to_grid(ramp, grid)).reshape(rows, columns)
  np.testing.assert_allclose(places, places[:1].repeat(rows, 0), atol=1e-5)
  assert (np.diff(places[0]) >= 0).all()
  np.testing.assert_allclose(places.mean(), 1.5, atol=1e-5)


def test_projector_has_three_layers_of_any_width(tokens, draw):
  projector = alignment.Projector(7, 3, jnp.bfloat16)
  params = draw(projector, tokens)["params"]
  shapes = {name: layer["kernel"].shape for name, layer in params.items()}
  assert shapes == {"layers_0": (5, 7), "layers_1": (7, 7), "layers_2": (7, 3)}
  result = projector.apply({"params": params}, tokens)
  assert result.shape == (2, 6, 3)
  assert result.dtype == jnp.float32
