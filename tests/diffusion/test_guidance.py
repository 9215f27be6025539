"""Guidance: closed forms, ends, one call, intervals, contrast and cost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_diffusion_jax.diffusion import guidance
from cxr_diffusion_jax.types import TokenStream


@pytest.fixture
def denoiser():
  """x_t t + the sums a, b of both streams' real tokens + a b, and a list of calls."""
  calls = []

  def denoise_fn(x_t, t, context):
    calls.append(x_t.shape[0])
    a, b = (jnp.sum(s.tokens * s.mask[..., None], axis=(1, 2)) for s in context)
    return x_t * t[:, None] + (a + b + a * b)[:, None] * jnp.array([1.0, 2.0, -1.0])

  return denoise_fn, calls


@pytest.fixture
def inputs():
  """x_t [2 3], t [2] and a context of two streams, whose sums are 3, 7 and 2, -1."""
  first = jnp.array([[[1.0], [2.0]], [[3.0], [4.0]]])
  second = jnp.array([[[2.0]], [[-1.0]]])
  context = tuple(
    TokenStream(tokens=tokens, mask=jnp.ones(tokens.shape[:2], bool))
    for tokens in (first, second)
  )
  return jnp.arange(6.0).reshape(2, 3), jnp.array([0.5, 0.5]), context


def _masked(stream):
  return stream.replace(mask=jnp.zeros_like(stream.mask))


def _drop(context):
  return tuple(_masked(stream) for stream in context)


def _first(context):
  return context[0], _masked(context[1])


def _second(context):
  return _masked(context[0]), context[1]


KEEP = (_first, _second)


def test_classifier_free_of_one_is_conditional_and_of_zero_unconditional(
  denoiser, inputs
):
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
    np.testing.assert_allclose(guided(x_t, t, context), want, atol=1e-5)


def test_classifier_free_evaluates_both_branches_in_one_call(denoiser, inputs):
  denoise_fn, calls = denoiser
  x_t, t, context = inputs
  got = guidance.classifier_free(denoise_fn, _drop, 2.5)(x_t, t, context)
  assert calls == [4]
  said = np.array([[3 + 2 + 6], [7 - 1 - 7]]) * np.array([1.0, 2.0, -1.0])
  np.testing.assert_allclose(got, x_t * 0.5 + 2.5 * said, rtol=1e-6)


def test_guidance_takes_a_scale_for_each_sample(denoiser, inputs):
  denoise_fn, _ = denoiser
  x_t, t, context = inputs
  for make in (
    lambda scale: guidance.classifier_free(denoise_fn, _drop, scale, None, 0.7),
    lambda scale: guidance.composed(denoise_fn, _drop, KEEP, [scale, 2.0], None, 0.7),
    lambda scale: guidance.autoguidance(denoise_fn, _weak, scale, None, 0.7),
  ):
    got = make(jnp.array([0.0, 3.0]))(x_t, t, context)
    np.testing.assert_allclose(got[:1], make(0.0)(x_t, t, context)[:1], atol=1e-5)
    np.testing.assert_allclose(got[1:], make(3.0)(x_t, t, context)[1:], atol=1e-5)


def test_composed_adds_the_effect_of_each_stream(denoiser, inputs):
  denoise_fn, calls = denoiser
  x_t, t, context = inputs
  got = guidance.composed(denoise_fn, _drop, KEEP, (3.0, 1.5))(x_t, t, context)
  assert calls == [6]
  said = np.array([[3 * 3 + 1.5 * 2], [3 * 7 - 1.5]]) * np.array([1.0, 2.0, -1.0])
  np.testing.assert_allclose(got, x_t * 0.5 + said, rtol=1e-6)


def test_composed_of_one_stream_is_classifier_free(denoiser, inputs):
  denoise_fn, _ = denoiser
  x_t, t, context = inputs
  for scale in (0.0, 0.3, 1.0, 4.0, jnp.float32(2.0)):
    one = guidance.composed(denoise_fn, _drop, [_first], [scale], (0.2, 0.8), 0.5)

    def first_only(x_t, t, context):
      return denoise_fn(x_t, t, _first(context))

    free = guidance.classifier_free(first_only, _drop, scale, (0.2, 0.8), 0.5)
    np.testing.assert_allclose(
      one(x_t, t, context), free(x_t, t, context), rtol=1e-6, atol=1e-6
    )


def _weak(x_t, t, context):
  del t, context
  return 0.1 * x_t - 1


def test_autoguidance_leads_away_from_the_weak_network(denoiser, inputs):
  denoise_fn, calls = denoiser
  x_t, t, context = inputs
  good, weak = denoise_fn(x_t, t, context), _weak(x_t, t, context)
  calls.clear()
  for scale, num_good in ((0.0, 0), (1.0, 1), (2.0, 1), (jnp.float32(1.0), 1)):
    guided = guidance.autoguidance(denoise_fn, _weak, scale)
    want = weak + scale * (good - weak)
    np.testing.assert_allclose(guided(x_t, t, context), want, atol=1e-5)
    assert calls == [2] * num_good
    calls.clear()


@pytest.mark.parametrize(("t", "within"), [(0.1, False), (0.3, True), (0.9, False)])
def test_guidance_acts_only_within_its_interval(denoiser, inputs, t, within):
  denoise_fn, _ = denoiser
  x_t, _, context = inputs
  t = jnp.full(2, t)
  plain = denoise_fn(x_t, t, context)
  for make in (
    lambda *limits: guidance.classifier_free(denoise_fn, _drop, 4.0, *limits),
    lambda *limits: guidance.classifier_free(denoise_fn, _drop, 0.0, *limits),
    lambda *limits: guidance.composed(denoise_fn, _drop, KEEP, (3.0, 1.0), *limits),
    lambda *limits: guidance.composed(denoise_fn, _drop, KEEP, (1.0, 0.0), *limits),
    lambda *limits: guidance.autoguidance(denoise_fn, _weak, 3.0, *limits),
  ):
    full = make()(x_t, t, context)
    assert np.abs(full - plain).min(axis=1).max() > 0.1
    got = make((0.2, 0.8))(x_t, t, context)
    np.testing.assert_allclose(got, full if within else plain, rtol=1e-6)


def test_composed_evaluates_one_branch_outside_the_interval(inputs):
  x_t, _, context = inputs
  rows = []

  def denoise_fn(x_t, t, context):
    jax.debug.callback(lambda x_t: rows.append(len(x_t)), x_t)
    return x_t

  guided = guidance.composed(denoise_fn, _drop, KEEP, (3.0, 2.0), (0.2, 0.8))
  for t in (0.1, 0.2, 0.5, 0.8, 0.9):
    jax.block_until_ready(guided(x_t, jnp.full(2, t), context))
    jax.effects_barrier()
  assert rows == [2, 6, 6, 6, 2]


@pytest.fixture
def contrasts():
  """Denoisers of pictures [3 4 4 1] by condition, and such pictures."""
  keys = jax.random.split(jax.random.key(0), 3)
  x_t = jax.random.normal(keys[0], (3, 4, 4, 1))
  patterns = jax.random.normal(keys[1], (2, 4, 4, 1))

  def denoise_fn(x_t, t, context):
    said = sum(
      jnp.sum(s.tokens * s.mask[..., None], axis=(1, 2))[:, None, None, None] * pattern
      for s, pattern in zip(context, patterns, strict=True)
    )
    return x_t + said + 2

  tokens = jax.random.uniform(keys[2], (2, 3, 1, 1), minval=0.5)
  context = tuple(TokenStream(tokens=x, mask=jnp.ones((3, 1), bool)) for x in tokens)
  return denoise_fn, (x_t, jnp.full(3, 0.5), context)


@pytest.mark.parametrize("rescale", [0.0, 0.4, 1.0])
def test_rescale_restores_the_contrast_of_the_prediction(contrasts, rescale):
  denoise_fn, (x_t, t, context) = contrasts
  axes = (1, 2, 3)
  conditional = denoise_fn(x_t, t, context)

  def weak_fn(x_t, t, context):
    return 0.5 * denoise_fn(x_t, t, context)

  for make, plain in (
    (lambda w: guidance.classifier_free(denoise_fn, _drop, 5.0, None, w), conditional),
    (lambda w: guidance.autoguidance(denoise_fn, weak_fn, 5.0, None, w), conditional),
    # Of a composition the sum with scales of 1; these patterns simply add.
    (
      lambda w: guidance.composed(denoise_fn, _drop, KEEP, (5.0, 3.0), None, w),
      conditional,
    ),
    (
      lambda w: guidance.composed(denoise_fn, _drop, KEEP, (5.0, 0.0), None, w),
      denoise_fn(x_t, t, _first(context)),
    ),
  ):
    guided, got = make(0.0)(x_t, t, context), make(rescale)(x_t, t, context)
    assert (jnp.std(guided, axes) > 1.2 * jnp.std(plain, axes)).all()
    mixed = rescale * jnp.std(plain, axes) + (1 - rescale) * jnp.std(guided, axes)
    np.testing.assert_allclose(jnp.std(got, axes), mixed, rtol=1e-5)
    ratio = (mixed / jnp.std(guided, axes))[:, None, None, None]
    np.testing.assert_allclose(got, ratio * guided, rtol=1e-4, atol=1e-5)


def test_rescale_keeps_the_ends_and_constant_predictions(contrasts):
  denoise_fn, (x_t, t, context) = contrasts
  for number in (0.0, 1.0):
    for scale in (number, jnp.float32(number)):
      full = guidance.classifier_free(denoise_fn, _drop, scale, None, 1.0)
      none = guidance.classifier_free(denoise_fn, _drop, scale)
      want = none(x_t, t, context)
      np.testing.assert_allclose(full(x_t, t, context), want, rtol=1e-5, atol=1e-5)

  def constant(x_t, t, context):
    return jnp.ones_like(x_t)

  guided = guidance.classifier_free(constant, _drop, 3.0, None, 0.5)
  assert np.isfinite(guided(x_t, t, context)).all()


@pytest.mark.parametrize(
  ("scales", "cost"),
  [
    ((0.0, 0.0), 1),
    ((1.0, 0.0), 1),
    ((0, 1), 1),
    ((0.0, 2.0), 2),
    ((1.0, 1.0), 3),
    ((3.0, 1.5), 3),
    ((np.float32(0), np.float32(1)), 3),
  ],
)
def test_num_evaluations_counts_what_is_evaluated(denoiser, inputs, scales, cost):
  denoise_fn, calls = denoiser
  x_t, t, context = inputs
  guided = guidance.composed(denoise_fn, _drop, KEEP, scales)
  assert guided(x_t, t, context).shape == x_t.shape
  assert calls == [2 * cost]
  assert guidance.num_evaluations(scales) == cost


@pytest.mark.parametrize(("scale", "cost"), [(0, 1), (1.0, 1), (2.0, 2), (0.5, 2)])
def test_num_evaluations_of_a_single_scale(denoiser, inputs, scale, cost):
  denoise_fn, calls = denoiser
  guidance.classifier_free(denoise_fn, _drop, scale)(*inputs)
  assert calls == [2 * cost]
  calls.clear()
  guidance.autoguidance(denoise_fn, denoise_fn, scale)(*inputs)
  assert calls == [2] * cost
  assert guidance.num_evaluations([scale]) == cost


def test_composed_refuses_another_number_of_scales(denoiser):
  with pytest.raises(ValueError, match="zip"):
    guidance.composed(denoiser[0], _drop, KEEP, (1.0, 2.0, 3.0))
