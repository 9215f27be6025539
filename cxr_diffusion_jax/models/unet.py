"""The denoiser: a UNet whose parameter tree is that of Stable Diffusion 1.x.

x_t -> conv_in -> down_blocks -> mid_block -> up_blocks -> conv_norm_out -> conv_out
                       |______ skips ______________^
t -> time_embedding -> every resnet;    context -> every cross-attention

A published PyTorch name becomes a path here by writing '_' for the '.' before a list
index: down_blocks.0.resnets.1.conv1.weight -> down_blocks_0/resnets_1/conv1/kernel.
`context_embedder` is the one submodule that Stable Diffusion does not have; it exists
only where `context_streams` are given.
"""

import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.models import embedding
from cxr_diffusion_jax.models.attention import SpatialTransformer
from cxr_diffusion_jax.models.resblock import Downsample, ResnetBlock, Upsample
from cxr_diffusion_jax.types import Array, Context, StreamSpec, TokenStream


@dataclasses.dataclass(frozen=True, kw_only=True)
class Style:
  """What all blocks of one UNet have in common; see `UNet`."""

  norm_groups: int
  time_conditioning: str
  query_positions: bool
  zero_init: bool
  remat: bool
  dtype: jnp.dtype

  def resnet(self, channels: int, name: str) -> nn.Module:
    """A residual block of this style."""
    kind = nn.remat(ResnetBlock) if self.remat else ResnetBlock
    return kind(
      channels,
      norm_groups=self.norm_groups,
      time_conditioning=self.time_conditioning,
      zero_init=self.zero_init,
      dtype=self.dtype,
      name=name,
    )

  def transformer(self, num_heads: int, name: str) -> nn.Module:
    """A spatial transformer of this style."""
    kind = nn.remat(SpatialTransformer) if self.remat else SpatialTransformer
    return kind(
      num_heads,
      norm_groups=self.norm_groups,
      query_positions=self.query_positions,
      zero_init=self.zero_init,
      dtype=self.dtype,
      name=name,
    )


class DownBlock(nn.Module):
  """Resnets, each followed by a transformer where there are heads, then half the size.

  Attributes:
    style: shared by all blocks.
    channels: of the output.
    num_layers: of resnets.
    num_heads: of the transformers; 0 for none.
    downsample: whether to halve the resolution at the end.
  """

  style: Style
  channels: int
  num_layers: int
  num_heads: int
  downsample: bool

  @nn.compact
  def __call__(self, x: Array, time: Array, context: TokenStream) -> list[jax.Array]:
    """[b h w c] -> what each layer made; the last is the block's output."""
    made = []
    for i in range(self.num_layers):
      x = self.style.resnet(self.channels, f"resnets_{i}")(x, time)
      if self.num_heads:
        x = self.style.transformer(self.num_heads, f"attentions_{i}")(x, context)
      made.append(x)
    if self.downsample:
      made.append(Downsample(self.style.dtype, name="downsamplers_0")(x))
    return made


class MidBlock(nn.Module):
  """Resnet, transformer, resnet at the lowest resolution.

  Attributes:
    style: shared by all blocks.
    channels: of input and output.
    num_heads: of the transformer.
  """

  style: Style
  channels: int
  num_heads: int

  @nn.compact
  def __call__(self, x: Array, time: Array, context: TokenStream) -> jax.Array:
    """[b h w c] -> [b h w c]."""
    x = self.style.resnet(self.channels, "resnets_0")(x, time)
    x = self.style.transformer(self.num_heads, "attentions_0")(x, context)
    return self.style.resnet(self.channels, "resnets_1")(x, time)


class UpBlock(nn.Module):
  """As `DownBlock`, with one skip joined before each resnet, then twice the size.

  Attributes:
    style: shared by all blocks.
    channels: of the output.
    num_heads: of the transformers; 0 for none.
    upsample: whether to double the resolution at the end.
  """

  style: Style
  channels: int
  num_heads: int
  upsample: bool

  @nn.compact
  def __call__(
    self, x: Array, time: Array, context: TokenStream, skips: list[Array]
  ) -> jax.Array:
    """[b h w c] and one skip for each resnet, in the order of use."""
    for i, skip in enumerate(skips):
      x = jnp.concatenate([x, skip], axis=-1)
      x = self.style.resnet(self.channels, f"resnets_{i}")(x, time)
      if self.num_heads:
        x = self.style.transformer(self.num_heads, f"attentions_{i}")(x, context)
    if self.upsample:
      x = Upsample(self.style.dtype, name="upsamplers_0")(x)
    return x


class UNet(nn.Module):
  """Predicts from (x_t, t, context). The defaults are Stable Diffusion 1.5.

  Ronneberger et al. 2015 (1505.04597); Rombach et al. 2022 (2112.10752).

  Attributes:
    out_channels: of the prediction; the input's channels are taken as they come.
    block_channels: of each level, highest resolution first.
    num_layers: resnets a level on the way down; one more on the way up.
    attention: whether each level has transformers. The middle always has one.
    num_heads: of every attention, where `head_width` is None.
    head_width: channels of a head; heads = channels // head_width.
    context_width: of the tokens that cross-attention sees.
    context_streams: what the context holds, embedded by `context_embedder`. None for
      one stream handed on as it is, as Stable Diffusion has it.
    pooled: add a projection of the context's mean to the time embedding; only with
      `context_streams`.
    query_positions: see `SpatialTransformer`; adds no parameter.
    time_conditioning: 'additive' or 'scale_shift', see `ResnetBlock`.
    norm_groups: divides every level's channels.
    zero_init: start each residual branch and the output at zero. No effect on the
      tree.
    remat: make activations anew in the backward pass, for memory.
    dtype: of the computation; parameters, norms and softmax are float32.
  """

  out_channels: int = 4
  block_channels: tuple[int, ...] = (320, 640, 1280, 1280)
  num_layers: int = 2
  attention: tuple[bool, ...] = (True, True, True, False)
  num_heads: int = 8
  head_width: int | None = None
  context_width: int = 768
  context_streams: tuple[StreamSpec, ...] | None = None
  pooled: bool = True
  query_positions: bool = False
  time_conditioning: str = "additive"
  norm_groups: int = 32
  zero_init: bool = True
  remat: bool = False
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x_t: Array, t: Array, context: Context) -> jax.Array:
    """Denoises.

    Args:
      x_t: [b h w c]; h and w are multiples of 2^(levels - 1).
      t: [b] or a scalar, in Stable Diffusion's units [0, 1000).
      context: the streams of `context_streams`, or one of width `context_width`.

    Returns:
      The prediction [b h w out_channels], float32.

    Raises:
      InputError: sizes that do not fit each other, or a context not as promised.
    """
    self._check(x_t, context)
    style = Style(
      norm_groups=self.norm_groups,
      time_conditioning=self.time_conditioning,
      query_positions=self.query_positions,
      zero_init=self.zero_init,
      remat=self.remat,
      dtype=self.dtype,
    )
    time, context = self._condition(x_t, t, context)
    first = self.block_channels[0]
    last = len(self.block_channels) - 1

    x = nn.Conv(first, (3, 3), dtype=self.dtype, name="conv_in")(x_t)
    skips = [x]
    for i, channels in enumerate(self.block_channels):
      heads = self._heads(channels) if self.attention[i] else 0
      name = f"down_blocks_{i}"
      block = DownBlock(style, channels, self.num_layers, heads, i < last, name=name)
      skips += block(skips[-1], time, context)

    channels = self.block_channels[-1]
    mid = MidBlock(style, channels, self._heads(channels), name="mid_block")
    x = mid(skips[-1], time, context)

    for i, channels in enumerate(reversed(self.block_channels)):
      heads = self._heads(channels) if self.attention[last - i] else 0
      block = UpBlock(style, channels, heads, i < last, name=f"up_blocks_{i}")
      x = block(x, time, context, [skips.pop() for _ in range(self.num_layers + 1)])

    x = nn.GroupNorm(
      self.norm_groups, epsilon=1e-5, dtype=jnp.float32, name="conv_norm_out"
    )(x)
    init = nn.initializers.zeros if self.zero_init else nn.linear.default_kernel_init
    # Float32: the output's small differences are what the loss is made of.
    conv = nn.Conv(self.out_channels, (3, 3), kernel_init=init, name="conv_out")
    return conv(nn.silu(x))

  def _condition(
    self, x_t: Array, t: Array, context: Context
  ) -> tuple[jax.Array, TokenStream]:
    """The time embedding [b 4c] and the one stream that cross-attention sees."""
    batch, first = x_t.shape[0], self.block_channels[0]
    t = jnp.broadcast_to(jnp.asarray(t), (batch,))
    embed = embedding.TimestepEmbedding(4 * first, self.dtype, name="time_embedding")
    time = embed(embedding.sinusoids(t, first))
    if self.context_streams is None:
      stream = context[0]
      # A masked token is zero, so that even a row without any real token is clean.
      tokens = jnp.where(stream.mask[..., None], stream.tokens, 0)
      return time, stream.replace(tokens=tokens.astype(self.dtype))
    stream, pooled = embedding.ContextEmbedder(
      self.context_streams,
      self.context_width,
      4 * first if self.pooled else 0,
      self.dtype,
      name="context_embedder",
    )(context, batch)
    return (time if pooled is None else time + pooled), stream

  def _heads(self, channels: int) -> int:
    if self.head_width is None:
      return self.num_heads
    return channels // self.head_width

  def _check(self, x_t: Array, context: Context) -> None:
    levels = len(self.block_channels)
    if len(self.attention) != levels:
      raise errors.InputError(
        f"attention {self.attention} for block_channels {self.block_channels}",
        "one entry for each level",
      )
    if self.time_conditioning not in ("additive", "scale_shift"):
      raise errors.InputError(
        f"unknown time_conditioning {self.time_conditioning!r}",
        "one of ['additive', 'scale_shift']",
      )
    for channels in self.block_channels:
      heads = self._heads(channels)
      if channels % self.norm_groups or heads < 1 or channels % heads:
        raise errors.InputError(
          f"{channels} channels with {self.norm_groups} norm groups and {heads} heads",
          "groups and heads that divide the channels",
        )
    if any(side % 2 ** (levels - 1) for side in x_t.shape[1:3]):
      raise errors.InputError(
        f"an input of {x_t.shape[1]}x{x_t.shape[2]} for {levels} levels",
        f"sides that are multiples of {2 ** (levels - 1)}",
        "change the image size, the codec or the number of levels",
      )
    if self.context_streams is None and len(context) != 1:
      raise errors.InputError(
        f"a context of {len(context)} streams for a denoiser without context_streams",
        "one stream",
        "give the denoiser context_streams",
      )
