"""Modulation has the gradient of its formula and keeps only its input for it."""

import jax
import jax.numpy as jnp
import numpy as np

from cxr_diffusion_jax.models.modulation import modulate


def _formula(x, shift, scale):
  x = x - jnp.mean(x, axis=-1, keepdims=True)
  x = x / jnp.sqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6)
  return x * (1 + scale[:, None]) + shift[:, None]


def test_modulate_and_its_gradient_equal_the_formula():
  keys = jax.random.split(jax.random.key(0), 4)
  x, cotangent = (3 * jax.random.normal(key, (2, 5, 16)) + 1 for key in keys[:2])
  shift, scale = (jax.random.normal(key, (2, 16)) for key in keys[2:])

  @jax.jit
  def both(*inputs):
    ours, pull = jax.vjp(lambda *inputs: modulate(*inputs, jnp.float32), *inputs)
    theirs, pull_formula = jax.vjp(_formula, *inputs)
    return (ours, *pull(cotangent)), (theirs, *pull_formula(cotangent))

  for got, want in zip(*both(x, shift, scale), strict=True):
    np.testing.assert_allclose(got, want, atol=1e-5)
  got = modulate(x, None, None, jnp.float32)
  np.testing.assert_allclose(got, _formula(x, 0 * shift, 0 * scale), atol=1e-6)


def test_modulate_keeps_no_float32_array_of_its_input_s_size():
  x = jnp.ones((2, 64, 16), jnp.bfloat16)
  vector = jnp.ones((2, 16), jnp.bfloat16)
  _, pull = jax.vjp(lambda *inputs: modulate(*inputs, jnp.bfloat16), x, vector, vector)
  kept = [leaf for leaf in jax.tree.leaves(pull) if leaf.size >= x.size]
  assert [leaf.dtype for leaf in kept] == [jnp.bfloat16]
