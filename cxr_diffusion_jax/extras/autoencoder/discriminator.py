"""Discriminates real patches of an image from reconstructed ones.

image -> strided convolutions -> one logit for each overlapping patch

Isola et al. 2017 (1611.07004), section 3.2.2, with group instead of batch normalisation
(Wu and He 2018, 1803.08494): logits do not depend on the rest of the batch, nor on its
placement on devices.
"""

from flax import linen as nn
import jax
import jax.numpy as jnp

from cxr_diffusion_jax.types import Array


class PatchDiscriminator(nn.Module):
  """Classifies patches, of 70 pixels with three layers.

  Attributes:
    channels: channels of the first layer; they double per layer, up to eight times.
    num_layers: number of layers that halve the side.
    norm_groups: divides `channels`.
    dtype: of the convolutions; norms and logits are float32.
  """

  channels: int = 64
  num_layers: int = 3
  norm_groups: int = 8
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, image: Array) -> jax.Array:
    """Image [b h w c] in [-1, 1] -> logits [b h' w' 1] float32, high where real."""

    def conv(name, x, channels, stride, dtype=self.dtype):
      module = nn.Conv(channels, (4, 4), stride, padding=1, dtype=dtype, name=name)
      return module(x.astype(dtype))

    def active(x):
      return nn.leaky_relu(x, 0.2)

    x = active(conv("conv_in", image, self.channels, 2))
    for i in range(1, self.num_layers + 1):
      stride = 2 if i < self.num_layers else 1
      x = conv(f"convs_{i}", x, self.channels * 2 ** min(i, 3), stride)
      norm = nn.GroupNorm(self.norm_groups, dtype=jnp.float32, name=f"norms_{i}")
      x = active(norm(x))
    return conv("conv_out", x, 1, 1, jnp.float32)
