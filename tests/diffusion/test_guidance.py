"""Guidance: its ends, its one call, and its interval."""

import jax.numpy as jnp
import numpy as np
import pytest

from cxr_diffusion_jax.diffusion import guidance
from cxr_diffusion_jax.types import TokenStream


@pytest.fixture
def denoiser():
  """A denoiser that adds the mean of its real tokens, and the list of its calls."""
  calls = []

  def denoise_fn(x_t, t, context):
    calls.append(x_t.shape[0])
    (stream,) = context
    weights = stream.mask[..., None]
    total = jnp.sum(stream.tokens * weights, axis=(1, 2))
    return x_t * t[:, None] + total[:, None]

  return denoise_fn, calls


@pytest.fixture
def inputs():
  """x_t [2 3], t [2] and a context of one stream."""
  tokens = jnp.array([[[1.0], [2.0]], [[3.0], [4.0]]])
  context = (TokenStream(tokens=tokens, mask=jnp.ones((2, 2), bool)),)
  return jnp.arange(6.0).reshape(2, 3), jnp.array([0.5, 0.5]), context


def _drop(context):
  return tuple(s.replace(mask=jnp.zeros_like(s.mask)) for s in context)


def test_one_is_conditional_and_zero_unconditional(denoiser, inputs):
  denoise_fn, calls = denoiser
  x_t, t, context = inputs
  conditional = denoise_fn(x_t, t, context)
  unconditional = denoise_fn(x_t, t, _drop(context))
  calls.clear()
  for scale, want in ((1.0, conditional), (0.0, unconditional)):
    got = guidance.classifier_free(denoise_fn, _drop, scale)(x_t, t, context)
    np.testing.assert_array_equal(got, want)
  assert calls == [2, 2]
  for scale, want in ((1.0, conditional), (0.0, unconditional)):
    guided = guidance.classifier_free(denoise_fn, _drop, jnp.float32(scale))
    np.testing.assert_allclose(guided(x_t, t, context), want, atol=1e-6)


def test_extrapolates_in_one_call_of_both_branches(denoiser, inputs):
  denoise_fn, calls = denoiser
  x_t, t, context = inputs
  got = guidance.classifier_free(denoise_fn, _drop, 2.5)(x_t, t, context)
  assert calls == [4]
  np.testing.assert_allclose(got, x_t * 0.5 + 2.5 * jnp.array([[3.0], [7.0]]))


def test_a_scale_for_each_sample(denoiser, inputs):
  denoise_fn, _ = denoiser
  x_t, t, context = inputs
  guided = guidance.classifier_free(denoise_fn, _drop, jnp.array([0.0, 3.0]))
  want = x_t * 0.5 + jnp.array([[0.0], [21.0]])
  np.testing.assert_allclose(guided(x_t, t, context), want)


@pytest.mark.parametrize(("t", "guided"), [(0.1, False), (0.3, True), (0.9, False)])
def test_only_within_the_interval(denoiser, inputs, t, guided):
  denoise_fn, _ = denoiser
  x_t, _, context = inputs
  t = jnp.full(2, t)
  plain = denoise_fn(x_t, t, context)
  full = guidance.classifier_free(denoise_fn, _drop, 4.0)(x_t, t, context)
  within = guidance.classifier_free(denoise_fn, _drop, 4.0, (0.2, 0.8))
  np.testing.assert_allclose(within(x_t, t, context), full if guided else plain)
