"""Batch normalisation of a trained network: with the statistics of its training.

y = (x - mean) / sqrt(variance + epsilon) * scale + bias     (Ioffe and Szegedy 2015)

All four are parameters, so that there is no state and no other mode: what a network
sees in an image does not depend on the images beside it.
"""

from flax import linen as nn
import jax

from cxr_diffusion_jax.types import Array


class FrozenNorm(nn.Module):
  """Batch normalisation that never looks at its batch.

  Attributes:
    epsilon: added to the variance.
  """

  epsilon: float = 1e-5

  @nn.compact
  def __call__(self, x: Array) -> jax.Array:
    """[... c] -> [... c]."""
    ones, zeros = nn.initializers.ones, nn.initializers.zeros
    shape = x.shape[-1:]
    scale = self.param("scale", ones, shape)
    bias = self.param("bias", zeros, shape)
    mean = self.param("mean", zeros, shape)
    variance = self.param("var", ones, shape)
    factor = scale * jax.lax.rsqrt(variance + self.epsilon)
    return x * factor + (bias - mean * factor)
