"""The blocks of `AutoencoderKL`: resnets without time, halving, doubling, attention.

x + conv2(silu(norm2(conv1(silu(norm1(x))))))    x + attention of all places to all
"""

import dataclasses

from einops import rearrange
from flax import linen as nn
import jax
import jax.numpy as jnp

from cxr_diffusion_jax.models.attention import attend
from cxr_diffusion_jax.models.resblock import ResnetBlock, Upsample
from cxr_diffusion_jax.types import Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Style:
  """What all blocks of one autoencoder have in common; see `AutoencoderKL`."""

  norm_groups: int
  mid_attention: bool
  remat: bool
  dtype: jnp.dtype

  def resnet(self, channels: int, name: str) -> nn.Module:
    """A residual block of this style, without time."""
    kind = nn.remat(ResnetBlock) if self.remat else ResnetBlock
    return kind(
      channels,
      norm_groups=self.norm_groups,
      epsilon=1e-6,
      dtype=self.dtype,
      name=name,
    )

  def norm(self, name: str) -> nn.Module:
    """A normalisation of this style, float32."""
    return nn.GroupNorm(self.norm_groups, epsilon=1e-6, dtype=jnp.float32, name=name)


class PlacesAttention(nn.Module):
  """x + attention of every place to all places, one head over all channels.

  Attributes:
    style: shared by all blocks.
  """

  style: Style

  @nn.compact
  def __call__(self, x: Array) -> jax.Array:
    """[b h w c] -> [b h w c]."""
    height, channels = x.shape[1], x.shape[3]
    dtype = self.style.dtype
    h = self.style.norm("group_norm")(x).astype(dtype)
    h = rearrange(h, "b h w c -> b (h w) c")

    def project(name):
      out = nn.Dense(channels, dtype=dtype, name=name)(h)
      return rearrange(out, "b n c -> b n 1 c")

    out = attend(project("to_q"), project("to_k"), project("to_v"))
    out = nn.Dense(channels, dtype=dtype, name="to_out_0")(out[:, :, 0])
    return x + rearrange(out, "b (h w) c -> b h w c", h=height)


class Downsample(nn.Module):
  """[b h w c] -> [b h/2 w/2 c]; zeros on the right and below only.

  Not the UNet's, whose zeros are on all sides: the published encoders differ so.

  Attributes:
    dtype: of the computation.
  """

  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> jax.Array:
    return nn.Conv(
      x.shape[-1],
      (3, 3),
      strides=2,
      padding=((0, 1), (0, 1)),
      dtype=self.dtype,
      name="conv",
    )(x)


class Block(nn.Module):
  """Resnets of one resolution, then half or twice the size.

  Attributes:
    style: shared by all blocks.
    channels: of the output.
    num_layers: of resnets.
    resample: 'down', 'up' or '' for neither.
  """

  style: Style
  channels: int
  num_layers: int
  resample: str

  @nn.compact
  def __call__(self, x: Array) -> jax.Array:
    """[b h w c] -> [b h' w' channels]."""
    for i in range(self.num_layers):
      x = self.style.resnet(self.channels, f"resnets_{i}")(x)
    if self.resample == "down":
      x = Downsample(self.style.dtype, name="downsamplers_0")(x)
    elif self.resample == "up":
      x = Upsample(self.style.dtype, name="upsamplers_0")(x)
    return x


class MidBlock(nn.Module):
  """Resnet, attention, resnet at the lowest resolution.

  Attributes:
    style: shared by all blocks.
  """

  style: Style

  @nn.compact
  def __call__(self, x: Array) -> jax.Array:
    """[b h w c] -> [b h w c]."""
    channels = x.shape[-1]
    x = self.style.resnet(channels, "resnets_0")(x)
    if self.style.mid_attention:
      x = PlacesAttention(self.style, name="attentions_0")(x)
    return self.style.resnet(channels, "resnets_1")(x)
