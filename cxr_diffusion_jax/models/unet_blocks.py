"""The blocks of the UNet: one per resolution on the way down and up, one in the middle.

down    [resnet, transformer] x layers, half the size
middle  resnet, transformer, resnet
up      [join a skip, resnet, transformer] x (layers + 1), twice the size

A convolution or one more resnet changes the size. With the time's embedding, a resnet
is

x + conv2(silu(norm2(conv1(silu(norm1(x))) + time)))               additive
x + conv2(silu(norm2(conv1(silu(norm1(x)))) (1 + scale) + shift))  scale_shift
"""

import dataclasses

from einops import reduce, repeat
from flax import linen as nn
from jax import Array
import jax.numpy as jnp

from cxr_diffusion_jax.models import convolution, network
from cxr_diffusion_jax.models.attention import SpatialTransformer
from cxr_diffusion_jax.models.group_norm import GroupNorm
from cxr_diffusion_jax.types import TokenStream


class ResnetBlock(nn.Module):
  """A residual block (He et al. 2015) that mixes in the time embedding.

  `additive` is Ho et al. 2020 (2006.11239) and Stable Diffusion, `scale_shift`
  Nichol and Dhariwal 2021 (2102.09672).

  Attributes:
    norm_groups: divides the channels of the input and the output.
    zero_init: start as the identity (or the 1x1 shortcut).
    resample: 'keep' the resolution, 'down' to half by means, 'up' to twice by repeated
      pixels (Dhariwal and Nichol 2021, 2105.05233, section 3); x and silu(norm1(x)).
    skip_scale: factor on the output; 1 / sqrt(2) preserves its variance (Song et al.
      2020, 2011.13456).
    dropout: rate before the last convolution; see `network.dropped`.
  """

  channels: int
  norm_groups: int = 32
  time_conditioning: str = "additive"
  zero_init: bool = False
  epsilon: float = 1e-5
  resample: str = "keep"
  skip_scale: float = 1.0
  dropout: float = 0.0
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array, time: Array | None = None) -> Array:
    """x [b h w c], time [b d] or None -> [b h w channels]."""

    def norm_silu(name: str, x: Array, *modulation: Array | None) -> Array:
      norm = GroupNorm(
        self.norm_groups, self.epsilon, silu=True, dtype=self.dtype, name=name
      )
      return norm(x, *modulation)

    def conv(name, x, size, init=nn.linear.default_kernel_init):
      module = nn.Conv(
        self.channels,
        size,
        kernel_init=init,
        dtype=self.dtype,
        conv_general_dilated=convolution.conv_general_dilated,
        name=name,
      )
      return network.convolve(module, x)

    last_init = (
      nn.initializers.zeros if self.zero_init else nn.linear.default_kernel_init
    )
    scale_shift = self.time_conditioning == "scale_shift"
    if time is not None:
      width = self.channels * (2 if scale_shift else 1)
      dense = nn.Dense(width, dtype=self.dtype, name="time_emb_proj")
      time = jnp.asarray(dense(nn.silu(time)))

    h = resampled(norm_silu("norm1", x), self.resample)
    x = resampled(x, self.resample)
    h = conv("conv1", h, (3, 3))
    if time is not None and scale_shift:
      h = norm_silu("norm2", h, *jnp.split(time.astype(jnp.float32), 2, axis=-1))
    else:
      h = norm_silu("norm2", h if time is None else h + time[:, None, None])
    h = network.dropped(self, self.dropout, h)
    h = conv("conv2", h, (3, 3), last_init)
    if x.shape[-1] != self.channels:
      x = conv("conv_shortcut", x, (1, 1))
    return x + h if self.skip_scale == 1 else (x + h) * self.skip_scale


def resampled(x: Array, resample: str) -> Array:
  """x [b h w c] at the resolution that 'keep', 'down' or 'up' says."""
  match resample:
    case "keep":
      return x
    case "down":
      return reduce(x, "b (h p) (w q) c -> b h w c", "mean", p=2, q=2)
    case "up":
      return repeat(x, "b h w c -> b (h p) (w q) c", p=2, q=2)
  raise ValueError(f"unknown resample {resample!r}")


class Downsample(nn.Module):
  """[b h w c] -> [b h/2 w/2 c] by a strided convolution.

  The default padding with zeros is PyTorch's padding=1; 'SAME' would pad the end only.
  """

  padding: tuple[tuple[int, int], tuple[int, int]] = ((1, 1), (1, 1))
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    conv = nn.Conv(
      x.shape[-1], (3, 3), 2, padding=self.padding, dtype=self.dtype, name="conv"
    )
    return network.convolve(conv, x)


class Upsample(nn.Module):
  """[b h w c] -> [b 2h 2w c]: repeated pixels, then a convolution."""

  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    conv_fn, repeated = convolution.conv_of_repeated, x.astype(self.dtype)
    if not convolution.on_cpu():
      conv_fn, repeated = None, resampled(x, "up")
    conv = nn.Conv(
      x.shape[-1],
      (3, 3),
      dtype=self.dtype,
      conv_general_dilated=conv_fn,
      name="conv",
    )
    return network.convolve(conv, repeated)


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
  scan_blocks: bool
  dtype: jnp.dtype

  def resnet(self, channels: int, name: str, resample: str = "keep") -> nn.Module:
    """A residual block of this style."""
    kind = nn.remat(ResnetBlock) if self.remat else ResnetBlock
    return network.shared_fields(
      kind, self, channels=channels, resample=resample, name=name
    )

  def transformer(self, num_heads: int, num_blocks: int, name: str) -> nn.Module:
    """A spatial transformer of this style."""
    kind = nn.remat(SpatialTransformer) if self.remat else SpatialTransformer
    return network.shared_fields(
      kind, self, num_heads=num_heads, num_blocks=num_blocks, name=name
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
