"""A UNet denoiser with the parameter tree of Stable Diffusion.

x_t -> conv_in -> down_blocks -> mid_block -> up_blocks -> conv_norm_out -> conv_out
                       |______ skips ______________^
t -> time_embedding -> every resnet
context -> every cross-attention

A published PyTorch name becomes a path here by writing '_' for the '.' before a list
index: down_blocks.0.resnets.1.conv1.weight -> down_blocks_0/resnets_1/conv1/kernel.
`context_embedder` is the only submodule that Stable Diffusion lacks. It exists where
`context_streams` is set.
"""

import dataclasses

from flax import linen as nn
from jax import Array
import jax.numpy as jnp

from cxr_diffusion_jax import artifacts, errors, naming
from cxr_diffusion_jax.models import embedding, network
from cxr_diffusion_jax.models.attention import TENSOR_PARALLEL
from cxr_diffusion_jax.models.unet_blocks import DownBlock, MidBlock, Style, UpBlock
from cxr_diffusion_jax.types import Context, StreamSpec, TokenStream

CHOICES = {
  "time_conditioning": ("additive", "scale_shift"),
  "resample": ("conv", "resnet"),
}


class UNet(network.LevelFeatures, nn.Module):
  """Predicts from (x_t, t, context). The defaults are Stable Diffusion 1.5.

  Stable Diffusion 2.x is `num_heads=(5, 10, 20, 20)`, `context_width=1024` and
  `linear_projection=True`. ADM's layers (Dhariwal and Nichol 2021, 2105.05233) are
  `head_width=64`, `time_conditioning='scale_shift'` and `resample='resnet'`. Those of
  EDM's DDPM++ (Karras et al. 2022, 2206.00364) add `skip_scale=0.5**0.5`.

  Ronneberger et al. 2015 (1505.04597); Rombach et al. 2022 (2112.10752).

  Attributes:
    out_channels: channels of the prediction; the input may have any number.
    block_channels: channels of each level, highest resolution first.
    num_layers: resnets per level on the way down; one more on the way up.
    attention: whether each level has transformers. The middle always has one.
    num_heads: heads of every attention, or of each level's. Ignored with `head_width`.
    head_width: channels of a head; heads = channels // head_width.
    transformer_blocks: blocks of every transformer, or of each level's.
    linear_projection: project tokens into and out of transformers with a matrix, not
      a 1x1 convolution. Only the kernel's shape differs.
    context_width: width of the tokens that cross-attention sees.
    context_streams: the context's streams, embedded by `context_embedder`. None passes
      one stream through unchanged, as Stable Diffusion does.
    pooled: add a projection of the context's mean to the time embedding. Needs
      `context_streams`.
    query_positions: see `SpatialTransformer`; adds no parameter.
    time_conditioning: 'additive' or 'scale_shift', see `ResnetBlock`.
    resample: how levels change the resolution: 'conv' (a strided or repeated
      convolution) or 'resnet' (a residual block with the time embedding).
    skip_scale: factor on the output of every residual block and transformer.
    norm_groups: groups of every normalisation; divides every level's channels.
    zero_init: start each residual branch and the output at zero.
    dropout: rate in the resnets while training.
    remat: recompute activations in the backward pass, to save memory.
    scan_blocks: compile one block of a transformer as a loop's body; see `block_scan`.
    feature_layer: the down block, from 0, whose output is sown as features; the number
      of levels for the middle block.
  """

  out_channels: int = 4
  block_channels: tuple[int, ...] = (320, 640, 1280, 1280)
  num_layers: int = 2
  attention: tuple[bool, ...] = (True, True, True, False)
  num_heads: int | tuple[int, ...] = 8
  head_width: int | None = None
  transformer_blocks: int | tuple[int, ...] = 1
  linear_projection: bool = False
  context_width: int = 768
  context_streams: tuple[StreamSpec, ...] | None = None
  pooled: bool = True
  query_positions: bool = False
  time_conditioning: str = "additive"
  resample: str = "conv"
  skip_scale: float = 1.0
  norm_groups: int = 32
  zero_init: bool = True
  dropout: float = 0.0
  remat: bool = False
  scan_blocks: bool = False
  feature_layer: int | None = None
  dtype: jnp.dtype = jnp.float32

  tensor_parallel = TENSOR_PARALLEL

  @staticmethod
  def published_fields(streams: tuple[StreamSpec, ...]) -> artifacts.Json:
    """Fields that follow from the streams where the weights are published ones.

    Published cross-attention reads a single stream directly.
    """
    if len(streams) != 1:
      return {}
    return {"context_streams": None, "context_width": streams[0].width}

  @nn.compact
  def __call__(self, x_t: Array, t: Array, context: Context) -> Array:
    """See `network.Network`; h and w are multiples of 2^(levels - 1).

    Without `context_streams`, the context is one stream of width `context_width`.
    """
    self._check(x_t, context)
    style = network.shared_fields(Style, self)
    time, stream = self._condition(x_t, t, context)
    levels = list(enumerate(self.block_channels))
    heads, depths = self.heads(), self._each_level(self.transformer_blocks)
    last = len(levels) - 1

    conv = nn.Conv(levels[0][1], (3, 3), dtype=self.dtype, name="conv_in")
    x = network.convolve(conv, x_t)
    skips = [x]
    for i, channels in levels:
      block = DownBlock(
        style,
        channels,
        num_layers=self.num_layers,
        num_heads=heads[i] if self.attention[i] else 0,
        num_blocks=depths[i],
        downsample=i < last,
        name=f"down_blocks_{i}",
      )
      skips += block(skips[-1], time, stream)
      network.sow_features(self, i, skips[-1])

    mid = MidBlock(style, levels[-1][1], heads[-1], depths[-1], name="mid_block")
    x = mid(skips[-1], time, stream)
    network.sow_features(self, len(levels), x)

    for i, channels in reversed(levels):
      block = UpBlock(
        style,
        channels,
        num_heads=heads[i] if self.attention[i] else 0,
        num_blocks=depths[i],
        upsample=i > 0,
        name=f"up_blocks_{last - i}",
      )
      x = block(x, time, stream, [skips.pop() for _ in range(self.num_layers + 1)])
    return self._project_out(x)

  def heads(self) -> tuple[int, ...]:
    """Heads of each level's attention, whether or not it has transformers."""
    if self.head_width is None:
      return self._each_level(self.num_heads)
    return tuple(channels // self.head_width for channels in self.block_channels)

  def _each_level(self, value: int | tuple[int, ...]) -> tuple[int, ...]:
    return (value,) * len(self.block_channels) if isinstance(value, int) else value

  def _project_out(self, x: Array) -> Array:
    """Features [b h w c] -> prediction [b h w out_channels] float32."""
    x = nn.GroupNorm(
      self.norm_groups, epsilon=1e-5, dtype=jnp.float32, name="conv_norm_out"
    )(x)
    init = nn.initializers.zeros if self.zero_init else nn.linear.default_kernel_init
    # Float32, because the loss depends on small differences of the output.
    conv = nn.Conv(self.out_channels, (3, 3), kernel_init=init, name="conv_out")
    return network.convolve(conv, nn.silu(x))

  def _condition(
    self, x_t: Array, t: Array, context: Context
  ) -> tuple[Array, TokenStream]:
    """The embedding [b 4c] of the time, and the tokens for cross-attention."""
    batch, first = x_t.shape[0], self.block_channels[0]
    t = jnp.broadcast_to(jnp.asarray(t), (batch,))
    embed = embedding.TimestepEmbedding(4 * first, self.dtype, name="time_embedding")
    time = embed(embedding.sinusoids(t, first))
    if self.context_streams is None:
      stream = context[0]
      # Zero masked tokens, so that a row without any real token stays clean.
      tokens = jnp.where(stream.mask[..., None], stream.tokens, 0)
      return time, dataclasses.replace(stream, tokens=tokens.astype(self.dtype))
    stream, pooled = embedding.embed_context(
      self, context, batch, self.context_width, 4 * first
    )
    return (time if pooled is None else time + pooled), stream

  def _check(self, x_t: Array, context: Context) -> None:
    levels = len(self.block_channels)
    for name in ("attention", "num_heads", "transformer_blocks"):
      value = getattr(self, name)
      if not isinstance(value, int) and len(value) != levels:
        raise errors.InputError(
          f"{name} {value} for block_channels {self.block_channels}",
          "one entry for each level",
        )
    for name, choices in CHOICES.items():
      naming.check(f"unknown {name}", getattr(self, name), choices)
    network.check_least(
      self, block_channels=1, num_layers=0, head_width=1, context_width=1, norm_groups=1
    )
    for channels, heads in zip(self.block_channels, self.heads(), strict=True):
      if channels % self.norm_groups or heads < 1 or channels % heads:
        raise errors.InputError(
          f"{channels} channels with {self.norm_groups} norm groups and {heads} heads",
          "groups and heads that divide the channels",
        )
    network.check_sides(x_t.shape[1:3], 2 ** (levels - 1), f"{levels} levels")
    if self.context_streams is None and len(context) != 1:
      raise errors.InputError(
        f"a context of {len(context)} streams for a denoiser without context_streams",
        "one stream",
        "set context_streams",
      )


NETWORK = UNet
