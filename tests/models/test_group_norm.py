"""Group normalisation is Flax's, with silu, a modulation and both gradients."""

import functools
import math

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_diffusion_jax.models.group_norm import GroupNorm


@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("modulated", [True, False])
def test_group_norm_and_its_gradient_equal_those_of_flax(silu, modulated, draw):
  keys = jax.random.split(jax.random.key(0), 4)
  x, cotangent = (2 * jax.random.normal(key, (2, 3, 4, 8)) + 1 for key in keys[:2])
  scale, shift = (jax.random.normal(key, (2, 8)) for key in keys[2:])
  ours = GroupNorm(4, 1e-5, silu=silu)
  params = draw(ours, x)

  def own(params, x, scale, shift):
    return ours.apply(params, x, *((scale, shift) if modulated else ()))

  def flax(params, x, scale, shift):
    y = nn.GroupNorm(4, epsilon=1e-5).apply(params, x)
    if modulated:
      y = y * (1 + scale[:, None, None]) + shift[:, None, None]
    return nn.silu(y) if silu else y

  @jax.jit
  def both(*inputs):
    (y, pull), (y_flax, pull_flax) = (jax.vjp(fn, *inputs) for fn in (own, flax))
    return (y, pull(cotangent)), (y_flax, pull_flax(cotangent))

  got, want = both(params, x, scale, shift)
  assert jax.tree.structure(got) == jax.tree.structure(want)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(a, b, atol=2e-5)


def test_group_norm_keeps_no_float32_array_of_its_input_s_size():
  x = jax.ShapeDtypeStruct((2, 8, 8, 16), jnp.bfloat16)
  norm = GroupNorm(4, 1e-5, silu=True, dtype=jnp.bfloat16)
  params = jax.eval_shape(norm.init, jax.random.key(0), x)
  y, pull = jax.eval_shape(functools.partial(jax.vjp, norm.apply), params, x)
  assert y.dtype == jnp.bfloat16
  kept = [
    leaf.dtype for leaf in jax.tree.leaves(pull) if leaf.size >= math.prod(x.shape)
  ]
  assert kept == [jnp.bfloat16]
