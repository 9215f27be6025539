"""EDM2's denoiser: a UNet in which every layer preserves the magnitude of its input.

[x_t, 1] -> conv_in -> enc_0 ... enc_n -> mid -> dec_n ... dec_0 -> conv_out x out_gain
                         |______ skips, joined _____^
t -> fourier -> linear, mixed with the context's mean -> silu -> scale of every block

enc   x <- normalise(x);  y = conv(silu(scale conv(silu(x))));  x <- mix(x, y, 0.3)
dec   the same without the normalisation; blocks with heads add self-attention and
      cross-attention to the context, each mixed in at 0.3

Karras et al. 2024 (2312.02696), configuration G, plus cross-attention. The forward pass
normalises weights; the optimiser's `unit_weights` also rescales the stored ones.
"""

import dataclasses
import math

from flax import linen as nn
from jax import Array
import jax.numpy as jnp

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.models import edm2_layers as layers
from cxr_diffusion_jax.models import embedding, network
from cxr_diffusion_jax.models.attention import TENSOR_PARALLEL
from cxr_diffusion_jax.models.unet_blocks import resampled
from cxr_diffusion_jax.types import Context, StreamSpec, TokenStream

# Range of the Fourier features' argument over all times: a quarter of the logarithm of
# EDM's largest noise level over its smallest (80 / 0.002), the paper's c_noise.
TIME_RANGE = math.log(80 / 0.002) / 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Style:
  """Settings that all blocks of one network share; see `EDM2`."""

  residual_balance: float
  attention_balance: float
  query_positions: bool
  dropout: float
  remat: bool
  dtype: jnp.dtype

  def block(
    self,
    channels: int,
    name: str,
    decoder: bool = False,
    resample: str = "keep",
    num_heads: int = 0,
  ) -> nn.Module:
    """A block of this style."""
    kind = nn.remat(Block) if self.remat else Block
    return kind(self, channels, decoder, resample, num_heads, name=name)


class Block(nn.Module):
  """Two convolutions with the embedding, then attention, each mixed with its input.

  Attributes:
    decoder: a block on the way up: not normalised, and widened last instead of first.
    resample: 'down' for half the size, 'up' for twice, 'keep' for the same.
    num_heads: heads of the attentions; 0 for none.
  """

  style: Style
  channels: int
  decoder: bool = False
  resample: str = "keep"
  num_heads: int = 0

  @nn.compact
  def __call__(self, x: Array, vector: Array, context: TokenStream) -> Array:
    """x [b h w c], vector [b d] -> [b h' w' channels]."""

    def linear(name: str, x: Array, window: tuple[int, ...]) -> Array:
      return layers.Linear(self.channels, window, self.style.dtype, name=name)(x)

    def widened(x: Array) -> Array:
      return x if x.shape[-1] == self.channels else linear("conv_skip", x, (1, 1))

    x = resampled(x, self.resample)
    if not self.decoder:
      x = layers.pixel_norm(widened(x))
    y = linear("conv_res0", layers.silu(x), (3, 3))
    gain = self.param("emb_gain", nn.initializers.zeros, ())
    scale = 1 + gain.astype(y.dtype) * linear("emb_linear", vector, ())
    y = layers.silu(y * scale[:, None, None])
    y = network.dropped(self, self.style.dropout, y)
    y = linear("conv_res1", y, (3, 3))
    x = layers.mix(widened(x), y, self.style.residual_balance)
    if self.num_heads:
      x = self._attended(x, context)
    # Beyond what training reaches; it keeps rare outliers from overflowing 16 bits.
    return jnp.clip(x, -256, 256)

  def _attended(self, x: Array, context: TokenStream) -> Array:
    positions = None
    if self.style.query_positions:
      positions = embedding.grid_positions(*x.shape[1:]) * math.sqrt(2)

    def attention(name: str) -> layers.CosineAttention:
      balance, dtype = self.style.attention_balance, self.style.dtype
      return layers.CosineAttention(self.num_heads, balance, dtype, name=name)

    x = attention("attn1")(x)
    return attention("attn2")(x, context.tokens, context.mask, positions)


class EDM2(network.LevelFeatures, nn.Module):
  """Predicts from (x_t, t, context). The defaults are the paper's size XS.

  The output starts at exactly zero, and so does every gradient except that of its
  gain: the other parameters learn from the second update on.

  Attributes:
    out_channels: channels of the prediction; the input may have any number.
    block_channels: channels of each level, highest resolution first. Use ten times a
      UNet's learning rate (the paper: 0.01, and Adam with b2 = 0.99).
    num_layers: blocks per level on the way down; one more on the way up.
    attention: whether the blocks of each level attend. The middle always does.
    head_width: channels of a head; divides the channels of levels that attend.
    context_width: width of the tokens that cross-attention sees.
    context_streams: the context's streams; may be empty.
    pooled: mix a projection of the context's mean with the time's vector, half and
      half, where the paper has its class.
    query_positions: add positions to the queries of cross-attention, so that they can
      find the same place in a grid stream; adds no parameter.
    unit_context: normalise the weights of the condition's layers like all others. Off
      in runs of earlier versions: one update turned these by up to 0.4, others by 0.01.
    residual_balance: share of a block's convolutions in its output.
    attention_balance: share of an attention in its output.
    skip_balance: share of a skip in the joined output.
    dropout: rate between the convolutions of a block while training.
    remat: recompute activations in the backward pass, to save memory.
    feature_layer: the level, from 0, whose output on the way down is sown as features;
      the number of levels for the middle.
  """

  out_channels: int = 4
  block_channels: tuple[int, ...] = (128, 256, 384, 512)
  num_layers: int = 3
  attention: tuple[bool, ...] = (False, False, True, True)
  head_width: int = 64
  context_width: int = 512
  context_streams: tuple[StreamSpec, ...] = ()
  pooled: bool = True
  query_positions: bool = False
  unit_context: bool = False
  residual_balance: float = 0.3
  attention_balance: float = 0.3
  skip_balance: float = 0.5
  dropout: float = 0.0
  remat: bool = False
  feature_layer: int | None = None
  dtype: jnp.dtype = jnp.float32

  tensor_parallel = TENSOR_PARALLEL

  @nn.compact
  def __call__(self, x_t: Array, t: Array, context: Context) -> Array:
    """See `network.Network`; h and w are multiples of 2^(levels - 1).

    x_t has a standard deviation of about 1, which EDM's preconditioning ensures.
    """
    self._check(x_t)
    style = network.shared_fields(Style, self)
    vector, stream = self._condition(x_t.shape[0], t, context)
    levels = list(enumerate(self.block_channels))

    # A channel of ones replaces the biases, which no layer has.
    x = jnp.concatenate([x_t, jnp.ones_like(x_t[..., :1])], axis=-1)
    x = layers.Linear(levels[0][1], (3, 3), self.dtype, name="conv_in")(x)
    skips = [x]
    for i, channels in levels:
      if i:
        down = style.block(levels[i - 1][1], f"enc_{i}_down", resample="down")
        x = down(x, vector, stream)
        skips.append(x)
      for j in range(self.num_layers):
        block = style.block(channels, f"enc_{i}_{j}", num_heads=self._heads(i))
        x = block(x, vector, stream)
        skips.append(x)
      network.sow_features(self, i, x)

    last, channels = levels[-1]
    heads = channels // self.head_width
    middle = style.block(channels, "mid_0", decoder=True, num_heads=heads)
    x = middle(x, vector, stream)
    x = style.block(channels, "mid_1", decoder=True)(x, vector, stream)
    network.sow_features(self, len(levels), x)

    for i, channels in reversed(levels):
      if i < last:
        up = style.block(x.shape[-1], f"dec_{i}_up", decoder=True, resample="up")
        x = up(x, vector, stream)
      for j in range(self.num_layers + 1):
        x = layers.join(x, skips.pop(), self.skip_balance)
        block = style.block(
          channels, f"dec_{i}_{j}", decoder=True, num_heads=self._heads(i)
        )
        x = block(x, vector, stream)
    gain = self.param("out_gain", nn.initializers.zeros, ())
    # Float32, because the loss depends on small differences of the output.
    return gain * layers.Linear(self.out_channels, (3, 3), name="conv_out")(x)

  def _heads(self, level: int) -> int:
    attends = self.attention[level]
    return self.block_channels[level] // self.head_width if attends else 0

  def _condition(
    self, batch: int, t: Array, context: Context
  ) -> tuple[Array, TokenStream]:
    """The vector [b d] of every block, and the tokens for cross-attention."""
    width = max(self.block_channels)
    t = jnp.broadcast_to(jnp.asarray(t), (batch,))
    waves = layers.fourier(t * (TIME_RANGE / 1000), self.block_channels[0])
    vector = layers.Linear(width, dtype=self.dtype, name="time_embedding")(waves)
    stream, pooled = embedding.embed_context(
      self, context, batch, self.context_width, width, self.unit_context
    )
    if pooled is not None:
      vector = layers.mix(vector, layers.pixel_norm(pooled), 0.5)
    tokens = layers.pixel_norm(stream.tokens)
    return layers.silu(vector), dataclasses.replace(stream, tokens=tokens)

  def _check(self, x_t: Array) -> None:
    levels = len(self.block_channels)
    if len(self.attention) != levels:
      raise errors.InputError(
        f"attention {self.attention} for block_channels {self.block_channels}",
        "one entry for each level",
      )
    network.check_least(
      self, block_channels=1, num_layers=0, head_width=1, context_width=1
    )
    attending = (*self.attention[:-1], True)
    for channels, attends in zip(self.block_channels, attending, strict=True):
      if attends and channels % self.head_width:
        raise errors.InputError(
          f"{channels} channels with heads of {self.head_width}",
          "a head_width that divides the channels of all levels that attend",
        )
    network.check_sides(x_t.shape[1:3], 2 ** (levels - 1), f"{levels} levels")


NETWORK = EDM2
