"""Layers of published networks, exact enough to match other implementations.

y = (x - mean) / sqrt(variance + epsilon) * scale + bias     (Ioffe and Szegedy 2015)
"""

from typing import Any

from flax import linen as nn
import jax
from jax import Array


class FrozenNorm(nn.Module):
  """Batch normalisation with the statistics of its training.

  All four arrays are parameters: there is no state and no training mode, so an image's
  features do not depend on the rest of its batch.

  Attributes:
    epsilon: added to the variance.
  """

  epsilon: float = 1e-5

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[... c] -> [... c]."""
    ones, zeros = nn.initializers.ones, nn.initializers.zeros
    shape = x.shape[-1:]
    scale = self.param("scale", ones, shape)
    bias = self.param("bias", zeros, shape)
    mean = self.param("mean", zeros, shape)
    variance = self.param("var", ones, shape)
    factor = scale * jax.lax.rsqrt(variance + self.epsilon)
    return x * factor + (bias - mean * factor)


def conv(name: str, channels: int, window: tuple[int, int], **options: Any) -> nn.Conv:
  """A convolution without bias, in the highest precision, of the running module."""
  precision = jax.lax.Precision.HIGHEST
  return nn.Conv(
    channels, window, use_bias=False, precision=precision, name=name, **options
  )
