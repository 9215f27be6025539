"""The blocks of the UNet: one per resolution on the way down and up, one in the middle.

down    [resnet, transformer] x layers, half the size
middle  resnet, transformer, resnet
up      [join a skip, resnet, transformer] x (layers + 1), twice the size

A convolution or one more resnet changes the size.
"""

import dataclasses

from flax import linen as nn
from jax import Array
import jax.numpy as jnp

from cxr_diffusion_jax.models.attention import SpatialTransformer
from cxr_diffusion_jax.models.resblock import Downsample, ResnetBlock, Upsample
from cxr_diffusion_jax.types import TokenStream


@dataclasses.dataclass(frozen=True, kw_only=True)
class Style:
  """Settings that all blocks of one UNet share; see `UNet`."""

  norm_groups: int
  time_conditioning: str
  linear_projection: bool
  query_positions: bool
  zero_init: bool
  resample: str
  skip_scale: float
  dropout: float
  remat: bool
  dtype: jnp.dtype

  def resnet(self, channels: int, name: str, resample: str = "keep") -> nn.Module:
    """A residual block of this style."""
    kind = nn.remat(ResnetBlock) if self.remat else ResnetBlock
    return kind(
      channels,
      norm_groups=self.norm_groups,
      time_conditioning=self.time_conditioning,
      zero_init=self.zero_init,
      resample=resample,
      skip_scale=self.skip_scale,
      dropout=self.dropout,
      dtype=self.dtype,
      name=name,
    )

  def transformer(self, num_heads: int, num_blocks: int, name: str) -> nn.Module:
    """A spatial transformer of this style."""
    kind = nn.remat(SpatialTransformer) if self.remat else SpatialTransformer
    return kind(
      num_heads,
      num_blocks=num_blocks,
      linear_projection=self.linear_projection,
      norm_groups=self.norm_groups,
      query_positions=self.query_positions,
      zero_init=self.zero_init,
      skip_scale=self.skip_scale,
      dtype=self.dtype,
      name=name,
    )

  def downsampled(self, x: Array, time: Array) -> Array:
    """[b h w c] -> [b h/2 w/2 c]."""
    if self.resample == "resnet":
      return self.resnet(x.shape[-1], "downsamplers_0", "down")(x, time)
    return Downsample(dtype=self.dtype, name="downsamplers_0")(x)

  def upsampled(self, x: Array, time: Array) -> Array:
    """[b h w c] -> [b 2h 2w c]."""
    if self.resample == "resnet":
      return self.resnet(x.shape[-1], "upsamplers_0", "up")(x, time)
    return Upsample(self.dtype, name="upsamplers_0")(x)


class DownBlock(nn.Module):
  """Resnets, each followed by a transformer if there are heads, then half the size.

  Attributes:
    num_layers: number of resnets.
    num_heads: heads of the transformers; 0 for no transformers.
    num_blocks: blocks of each transformer.
  """

  style: Style
  channels: int
  num_layers: int
  num_heads: int
  num_blocks: int
  downsample: bool

  @nn.compact
  def __call__(self, x: Array, time: Array, context: TokenStream) -> list[Array]:
    """[b h w c] -> the output of each layer; the last is the block's output."""
    outputs = []
    for i in range(self.num_layers):
      x = self.style.resnet(self.channels, f"resnets_{i}")(x, time)
      if self.num_heads:
        name = f"attentions_{i}"
        x = self.style.transformer(self.num_heads, self.num_blocks, name)(x, context)
      outputs.append(x)
    if self.downsample:
      outputs.append(self.style.downsampled(x, time))
    return outputs


class MidBlock(nn.Module):
  """Resnet, transformer, resnet at the lowest resolution; fields as of `DownBlock`."""

  style: Style
  channels: int
  num_heads: int
  num_blocks: int

  @nn.compact
  def __call__(self, x: Array, time: Array, context: TokenStream) -> Array:
    """[b h w c] -> [b h w c]."""
    style, heads, blocks = self.style, self.num_heads, self.num_blocks
    x = style.resnet(self.channels, "resnets_0")(x, time)
    x = style.transformer(heads, blocks, "attentions_0")(x, context)
    return style.resnet(self.channels, "resnets_1")(x, time)


class UpBlock(nn.Module):
  """A `DownBlock` that joins a skip before each resnet, and then doubles the size."""

  style: Style
  channels: int
  num_heads: int
  num_blocks: int
  upsample: bool

  @nn.compact
  def __call__(
    self, x: Array, time: Array, context: TokenStream, skips: list[Array]
  ) -> Array:
    """[b h w c] and one skip per resnet, in the order of use."""
    for i, skip in enumerate(skips):
      x = jnp.concatenate([x, skip], axis=-1)
      x = self.style.resnet(self.channels, f"resnets_{i}")(x, time)
      if self.num_heads:
        name = f"attentions_{i}"
        x = self.style.transformer(self.num_heads, self.num_blocks, name)(x, context)
    return self.style.upsampled(x, time) if self.upsample else x
