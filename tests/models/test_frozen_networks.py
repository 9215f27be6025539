"""Published convolutional networks: pools at borders, norms that stay."""

import jax
import jax.numpy as jnp
import numpy as np

from cxr_diffusion_jax.models import frozen_networks


def test_frozen_norm_uses_its_own_statistics():
  rng = np.random.default_rng(0)
  x = rng.standard_normal((5, 3), np.float32)
  scale, bias, mean, variance = rng.uniform(0.5, 2, (4, 3)).astype(np.float32)
  params = {"scale": scale, "bias": bias, "mean": mean, "var": variance}
  norm = frozen_networks.FrozenNorm(epsilon=0.1)
  apply_fn = jax.jit(norm.apply)
  result = apply_fn({"params": params}, x)
  expected = (x - mean) / np.sqrt(variance + 0.1) * scale + bias
  np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)
  # Alone, a row is what it is among others; and nothing is kept.
  alone = apply_fn({"params": params}, np.repeat(x[:1], 5, axis=0))
  np.testing.assert_array_equal(alone, np.repeat(result[:1], 5, axis=0))
  assert set(jax.eval_shape(norm.init, jax.random.key(0), x)) == {"params"}


def test_mean_pool_ignores_padding():
  corner = np.zeros((1, 4, 4, 1), np.float32)
  corner[0, 0, 0] = 36
  result = np.asarray(frozen_networks.mean_pool(corner))[0, ..., 0]
  # Of the corner's neighbours there are 4; beside it 6, further in 9.
  expected = np.zeros((4, 4))
  expected[:2, :2] = [[9, 6], [6, 4]]
  np.testing.assert_allclose(result, expected)


def test_block_e_pools_maxima_only_in_the_last_block():
  image = jnp.zeros((1, 3, 3, 4))
  for largest in (False, True):
    block = frozen_networks.BlockE(largest=largest)
    program = str(jax.make_jaxpr(block.init_with_output)(jax.random.key(0), image))
    assert ("reduce_window_max" in program) == largest
    assert ("reduce_window_sum" in program) != largest


def test_dense_block_keeps_its_inputs():
  block = frozen_networks.DenseBlock(3, 2)
  image = np.random.default_rng(0).standard_normal((1, 4, 4, 3), np.float32)
  shapes = jax.eval_shape(block.init, jax.random.key(0), image)
  result = jax.jit(block.apply)(
    jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes), image
  )
  assert result.shape == (1, 4, 4, 9)
  np.testing.assert_array_equal(result[..., :3], image)
  assert np.abs(result[..., 3:]).min() > 0
  last = shapes["params"]["denselayer3"]
  assert last["conv1"]["kernel"].shape == (1, 1, 7, 8)
  assert last["conv2"]["kernel"].shape == (3, 3, 8, 2)
