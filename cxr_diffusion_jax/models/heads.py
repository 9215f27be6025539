"""What is done to queries and keys of each head before attention.

x [b n h d] --normalise--> x / rms(x) scale --rotate by position--> x

Rotary positions: the product of a query rotated by a and a key rotated by b depends
only on a - b (Su et al. 2021, 2104.09864). Normalised queries and keys bound the logits
in 16 bits and at high learning rates (Henry et al. 2020, 2010.04245).
"""

import flax.struct
import jax
from jax import Array
import jax.numpy as jnp
import numpy as np

EPSILON = 1e-6


@flax.struct.dataclass
class Preparation:
  """How queries and keys are prepared.

  Attributes:
    scales: factors [d] of normalised queries and of keys; None for no normalisation.
    angles: [n d/2] in radians, of positions that queries and keys share; None for no
      rotation.
  """

  scales: tuple[Array, Array] | None = None
  angles: Array | np.ndarray | None = None

  def __call__(self, query: Array, key: Array) -> tuple[Array, Array]:
    """Prepares queries [b q h d] and keys [b k h d]."""
    if self.scales is not None:
      query, key = (
        normalise(x, scale) for x, scale in zip((query, key), self.scales, strict=True)
      )
    if self.angles is not None:
      query, key = rotate(query, self.angles), rotate(key, self.angles)
    return query, key


def normalise(x: Array, scale: Array) -> Array:
  """x [... d] over its root mean square, times scale [d]; computed in float32."""
  wide = x.astype(jnp.float32)
  mean = jnp.mean(wide * wide, axis=-1, keepdims=True)
  return (wide * (jax.lax.rsqrt(mean + EPSILON) * scale)).astype(x.dtype)


def rotate(x: Array, angles: Array | np.ndarray) -> Array:
  """Rotates the pairs (i, i + d/2) of x [b n h d] by angles [n d/2] in radians."""
  cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
  first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  rotated = [first * cos - second * sin, second * cos + first * sin]
  return jnp.concatenate(rotated, axis=-1).astype(x.dtype)
