"""Group normalisation with what follows it in a resnet (Wu and He 2018, 1803.08494).

y = f(n gain + offset),  n = (x - mean) r,  r = (var + epsilon)^-1/2,  f = silu or id
dx = r (h - mean h - n mean(h n)),  h = dy f'(.) gain; means over a group

All in float32, and only x and the moments are kept for the gradient: derived
automatically, it would keep the sigmoid of silu as a float32 array of x's size. The
means in dx are sums over channels of the gradients of gain and offset.
"""

import functools

from flax import linen as nn
import jax
from jax import Array
import jax.numpy as jnp


class GroupNorm(nn.Module):
  """`nn.GroupNorm` in float32, modulated, activated and cast.

  Attributes:
    num_groups: divides the channels.
    silu: whether silu follows.
    dtype: of the result.
  """

  num_groups: int
  epsilon: float
  silu: bool = False
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: Array, scale: Array | None = None, shift: Array | None = None
  ) -> Array:
    """norm(x [b ... c]) (1 + scale [b c]) + shift [b c] -> [b ... c]."""
    width = x.shape[-1]
    gain = self.param("scale", nn.initializers.ones, (width,))[None]
    offset = self.param("bias", nn.initializers.zeros, (width,))[None]
    if scale is not None:
      gain, offset = gain * (1 + scale), offset * (1 + scale)
    if shift is not None:
      offset = offset + shift
    options = self.num_groups, self.epsilon, self.silu, self.dtype
    return jnp.asarray(_normalise_groups(x, gain, offset, *options))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5, 6))
def _normalise_groups(x, gain, offset, num_groups, epsilon, silu, dtype):
  """x [b ... c], gain and offset [b c] or [1 c] in float32 -> [b ... c]."""
  return _forward(x, gain, offset, num_groups, epsilon, silu, dtype)[0]


def _forward(x, gain, offset, num_groups, epsilon, silu, dtype):
  wide = x.astype(jnp.float32)
  # As Flax computes it: one pass over x.
  mean = _mean_of_groups(jnp.mean(wide, axis=_inner(x)), num_groups)
  square = _mean_of_groups(jnp.mean(wide * wide, axis=_inner(x)), num_groups)
  variance = jnp.maximum(0.0, square - mean * mean)
  moments = mean, jax.lax.rsqrt(variance + epsilon)
  y = _affine(_normal(x, moments), gain, offset)
  y = nn.silu(y) if silu else y
  return y.astype(dtype), (x, gain, offset, moments)


def _backward(num_groups, epsilon, silu, dtype, residuals, cotangent):
  del epsilon, dtype
  x, gain, offset, moments = residuals
  normal, gradient = _normal(x, moments), cotangent.astype(jnp.float32)
  if silu:
    y = _affine(normal, gain, offset)
    sigmoid = jax.nn.sigmoid(y)
    gradient = gradient * sigmoid * (1 + y * (1 - sigmoid))
  places = x.size // (x.shape[0] * x.shape[-1])
  d_offset = jnp.sum(gradient, axis=_inner(x))
  d_gain = jnp.sum(gradient * normal, axis=_inner(x))
  mean = _mean_of_groups(gain * d_offset / places, num_groups)
  along = _mean_of_groups(gain * d_gain / places, num_groups)
  mean, along, spread, inverse = (_like(v, x) for v in (mean, along, gain, moments[1]))
  d_x = inverse * (gradient * spread - mean - normal * along)
  if len(gain) == 1:
    d_gain, d_offset = (jnp.sum(v, axis=0, keepdims=True) for v in (d_gain, d_offset))
  return d_x.astype(x.dtype), d_gain, d_offset


_normalise_groups.defvjp(_forward, _backward)


def _inner(x: Array) -> tuple[int, ...]:
  return tuple(range(1, x.ndim - 1))


def _like(vector: Array, x: Array) -> Array:
  """[b c] with axes of size 1 between, as x [b ... c] has."""
  return jnp.expand_dims(vector, _inner(x))


def _normal(x: Array, moments: tuple[Array, Array]) -> Array:
  mean, inverse = (_like(v, x) for v in moments)
  return (x.astype(jnp.float32) - mean) * inverse


def _affine(normal: Array, gain: Array, offset: Array) -> Array:
  return normal * _like(gain, normal) + _like(offset, normal)


def _mean_of_groups(of_channels: Array, num_groups: int) -> Array:
  """[b c] -> [b c], each channel the mean of its group."""
  batch, channels = of_channels.shape
  grouped = of_channels.reshape(batch, num_groups, -1)
  mean = jnp.mean(grouped, axis=-1, keepdims=True)
  return jnp.broadcast_to(mean, grouped.shape).reshape(batch, channels)
