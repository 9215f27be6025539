"""Dropout of every network: active in training alone, and without a parameter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_diffusion_jax import types
from cxr_diffusion_jax.models.denoisers import dit, edm2, unet

STREAM = types.StreamSpec(name="hint", num_tokens=2, width=8)
SMALL = {"context_streams": (STREAM,), "out_channels": 1}
NETWORKS = {
  "unet": unet.UNet(
    block_channels=(8, 8),
    num_layers=1,
    attention=(False, True),
    num_heads=2,
    context_width=8,
    norm_groups=4,
    dropout=0.5,
    **SMALL,
  ),
  "dit": dit.DiT(depth=2, width=16, num_heads=2, dropout=0.5, **SMALL),
  "edm2": edm2.EDM2(
    block_channels=(8, 8),
    num_layers=1,
    attention=(False, True),
    head_width=4,
    context_width=8,
    dropout=0.5,
    **SMALL,
  ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_dropout_acts_only_with_a_key(name, draw):
  network = NETWORKS[name]
  x_t = jnp.asarray(np.random.default_rng(1).standard_normal((2, 8, 8, 1)), jnp.float32)
  t = jnp.full(2, 300.0)
  stream = types.TokenStream(tokens=jnp.ones((2, 2, 8)), mask=jnp.ones((2, 2), bool))
  variables = draw(network, x_t, t, (stream,))
  plain = network.clone(dropout=0.0)
  assert jax.tree.structure(variables) == jax.tree.structure(
    draw(plain, x_t, t, (stream,))
  )
  inputs = (variables, x_t, t, (stream,))
  without = jax.jit(plain.apply)(*inputs)
  np.testing.assert_array_equal(jax.jit(network.apply)(*inputs), without)
  dropping = jax.jit(lambda key, *inputs: network.apply(*inputs, rngs={"dropout": key}))
  outputs = [dropping(jax.random.key(seed), *inputs) for seed in (0, 0, 1)]
  np.testing.assert_array_equal(outputs[0], outputs[1])
  assert not np.allclose(outputs[0], outputs[2], atol=1e-3)
  assert not np.allclose(outputs[0], without, atol=1e-3)
