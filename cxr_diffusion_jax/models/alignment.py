"""A denoiser's features compared with a frozen encoder's: representation alignment.

  features [b h w c] --to the target's grid--> --Projector--> y [b n d]
  loss = - mean over places of cos(y, target),   in [-1, 1]

Yu et al. 2024 (REPA, 2410.06940), eq. 8. A target without places is one vector, which
is compared with the mean of the features.
"""

from flax import linen as nn
import jax
from jax import Array
import jax.numpy as jnp


class Projector(nn.Module):
  """Linear, SiLU, linear, SiLU, linear: the same at every place."""

  width: int
  out_width: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, features: Array) -> Array:
    """[... c] -> [... out_width] float32."""
    x = nn.silu(nn.Dense(self.width, dtype=self.dtype, name="layers_0")(features))
    x = nn.silu(nn.Dense(self.width, dtype=self.dtype, name="layers_1")(x))
    return nn.Dense(self.out_width, name="layers_2")(x)


def to_grid(features: Array, grid: tuple[int, int] | None) -> Array:
  """Resizes features [b h w c] to a target's places: [b rows*columns c] float32.

  Means of blocks if the sides divide, else linear interpolation with antialiasing.
  `grid` is (rows, columns), or None for one vector, [b 1 c].
  """
  features = jnp.asarray(features, jnp.float32)
  b, h, w, c = features.shape
  rows, columns = grid or (1, 1)
  if h % rows == 0 and w % columns == 0:
    blocks = features.reshape(b, rows, h // rows, columns, w // columns, c)
    features = blocks.mean(axis=(2, 4))
  else:
    features = jax.image.resize(features, (b, rows, columns, c), "linear")
  return features.reshape(b, rows * columns, c)


def negative_cosine(projected: Array, target: Array) -> Array:
  """The loss [b] in [-1, 1] of projected features [b n d] for a target [b n d].

  A place of zeros has no target and does not count; an example without any has loss 0.
  """
  projected, target = (jnp.asarray(x, jnp.float32) for x in (projected, target))
  real = jnp.any(target != 0, axis=-1)
  cosine = jnp.sum(_unit(projected) * _unit(target), axis=-1)
  count = jnp.maximum(real.sum(axis=-1), 1)
  return -jnp.where(real, cosine, 0.0).sum(axis=-1) / count


def _unit(x: Array) -> Array:
  """[... d] of length 1. Smooth at zero, where a norm has no gradient."""
  return x * jax.lax.rsqrt(jnp.sum(x**2, axis=-1, keepdims=True) + 1e-12)
