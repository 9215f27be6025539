"""Normalisation of tokens with a shift and a scale from a condition (adaLN).

y = n (1 + scale) + shift,  n = (x - mean x) r,  r = (var x + 1e-6)^-1/2
dx = r (g - mean g - n mean(g n)),  g = dy (1 + scale)

All in float32, and only x and its two moments are kept for the gradient: derived
automatically, it would keep several float32 arrays of x's size.
"""

import functools

import jax
from jax import Array
import jax.numpy as jnp


def modulate(
  x: Array, shift: Array | None, scale: Array | None, dtype: jnp.dtype
) -> Array:
  """norm(x [b n c]) (1 + scale [b c]) + shift [b c] in `dtype`; None for 0.

  Peebles and Xie 2022 (2212.09748), section 3.2.
  """
  return jnp.asarray(_modulate(x, shift, scale, dtype))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _modulate(x, shift, scale, dtype):
  return _apply(_normalise(x)[0], shift, scale).astype(dtype)


def _normalise(x: Array) -> tuple[Array, tuple[Array, Array]]:
  """x with mean 0 and variance 1 in float32, and its mean and 1 / std [b n 1]."""
  x = x.astype(jnp.float32)
  mean = jnp.mean(x, axis=-1, keepdims=True)
  x = x - mean
  inverse = jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6)
  return x * inverse, (mean, inverse)


def _apply(normal: Array, shift: Array | None, scale: Array | None) -> Array:
  if scale is not None:
    normal = normal * (1 + scale.astype(jnp.float32)[:, None])
  return normal if shift is None else normal + shift.astype(jnp.float32)[:, None]


def _forward(x, shift, scale, dtype):
  normal, moments = _normalise(x)
  return _apply(normal, shift, scale).astype(dtype), (x, shift, scale, moments)


def _backward(dtype, residuals, cotangent):
  del dtype
  x, shift, scale, (mean, inverse) = residuals
  cotangent = cotangent.astype(jnp.float32)
  normal = (x.astype(jnp.float32) - mean) * inverse
  d_shift = d_scale = None
  if shift is not None:
    d_shift = jnp.sum(cotangent, axis=1).astype(shift.dtype)
  if scale is not None:
    d_scale = jnp.sum(cotangent * normal, axis=1).astype(scale.dtype)
    cotangent = cotangent * (1 + scale.astype(jnp.float32)[:, None])
  mean_cotangent = jnp.mean(cotangent, axis=-1, keepdims=True)
  along = jnp.mean(cotangent * normal, axis=-1, keepdims=True)
  d_x = inverse * (cotangent - mean_cotangent - normal * along)
  return d_x.astype(x.dtype), d_shift, d_scale


_modulate.defvjp(_forward, _backward)
