"""Layers of normal numbers in give normal numbers' magnitude out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_diffusion_jax.models import edm2_layers as layers


def _normal(seed, *shape) -> np.ndarray:
  return np.float32(np.random.default_rng(seed).standard_normal(shape))


def _rms(x) -> float:
  return float(np.sqrt(np.mean(np.square(x))))


@pytest.mark.parametrize("t", [0.0, 0.3, 0.5, 1.0])
def test_mix_and_join_keep_the_magnitude(t):
  a, b = _normal(0, 4000, 8), _normal(1, 4000, 24)
  assert abs(_rms(layers.join(a, b, t)) - 1) < 0.02
  assert abs(_rms(layers.mix(a, b[:, :8], t)) - 1) < 0.02
  # Each has its part, whatever its width.
  joined = np.asarray(layers.join(a, b, t))
  parts = np.array([np.sum(joined[:, :8] ** 2), np.sum(joined[:, 8:] ** 2)])
  want = np.array([(1 - t) ** 2, t**2]) / ((1 - t) ** 2 + t**2)
  np.testing.assert_allclose(parts / parts.sum(), want, atol=0.01)


def test_silu_and_fourier_features_keep_the_magnitude():
  assert abs(_rms(layers.silu(_normal(0, 100_000))) - 1) < 0.01
  waves = np.asarray(layers.fourier(np.linspace(0, 2.65, 500), 64))
  assert waves.shape == (500, 64)
  assert abs(_rms(waves) - 1) < 0.02
  # Different times are distinguished, near ones less.
  distance = np.linalg.norm(waves[:, None] - waves[None], axis=-1)
  assert distance[0, 1] < 0.5
  assert distance[0, 50:].min() > 2


@pytest.mark.parametrize("window", [(), (1, 1), (3, 3)])
def test_linear_keeps_the_magnitude_of_inputs(window):
  layer = layers.Linear(48, window)
  x = _normal(0, 8, 16, 16, 32)
  weight = _normal(1, *window, 32, 48)
  apply = jax.jit(lambda weight, x: layer.apply({"params": {"weight": weight}}, x))
  out = apply(weight, x)
  assert out.shape == (8, 16, 16, 48)
  assert abs(_rms(out[:, 1:-1, 1:-1]) - 1) < 0.05
  (result,) = jax.tree.leaves(jax.eval_shape(layer.init, jax.random.key(0), x))
  assert result.shape == weight.shape
  # Each output's weights have a size of their own that does not matter.
  sizes = np.exp(_normal(2, 48))
  scaled = apply(weight * sizes, x)
  np.testing.assert_allclose(out, scaled, atol=1e-5)
  # Nor does a step along the weight: its gradient is across it.
  grad = jax.jit(jax.grad(lambda w: jnp.sum(jnp.sin(apply(w, x[:2])))))(weight)
  axes = tuple(range(weight.ndim - 1))
  grad, weight = np.asarray(grad), np.asarray(weight)
  along = np.sum(grad * weight, axis=axes)
  size = np.sqrt(np.sum(grad**2, axis=axes) * np.sum(weight**2, axis=axes))
  np.testing.assert_allclose(along / size, 0.0, atol=1e-4)


def test_pixel_norm_is_finite_at_zero():
  x = np.array([[0, 0, 0], [3, 0, -3]], np.float32)
  np.testing.assert_allclose(
    layers.pixel_norm(x), [[0, 0, 0], [1.5**0.5, 0, -(1.5**0.5)]], atol=1e-6
  )
  grad = jax.jit(jax.grad(lambda x: jnp.sum(layers.pixel_norm(x))))(x)
  assert np.all(np.isfinite(grad))


def test_cosine_attention_depends_only_on_angles():
  module = layers.CosineAttention(num_heads=2, balance=1.0)
  x, source = _normal(0, 2, 3, 3, 8), _normal(1, 2, 5, 8)
  shapes = jax.eval_shape(module.init, jax.random.key(2), x, source)
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda s: np.float32(rng.standard_normal(s.shape)), shapes)
  apply = jax.jit(module.apply)
  out = apply(params, x, source)
  larger = apply(params, 9 * x, 5 * source)
  np.testing.assert_allclose(out, larger, atol=1e-5)
  # One key alone is handed on at its full magnitude.
  alone = apply(params, x, source, np.arange(5)[None].repeat(2, 0) == 2)
  np.testing.assert_allclose(
    np.asarray(alone), np.broadcast_to(alone[:, :1, :1], alone.shape), atol=1e-6
  )
  assert abs(_rms(alone) - 1) < 0.5
