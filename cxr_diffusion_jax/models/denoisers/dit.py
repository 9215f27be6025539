"""A transformer denoiser over patches (DiT), conditioned on any context.

x_t -> patches -> linear (+ positions) -> blocks -> norm, linear -> patches -> out
  (stem)                                              (head)
t (+ mean of the context) -> vector c -> scale, shift and gate of every block

Peebles and Xie 2022 (2212.09748). Gates and the output start at zero (adaLN-zero).
"""

from einops import rearrange
from flax import linen as nn
from jax import Array
import jax.numpy as jnp
import numpy as np

from cxr_diffusion_jax import errors, naming
from cxr_diffusion_jax.models import dit_blocks, embedding, network
from cxr_diffusion_jax.models.attention import TENSOR_PARALLEL
from cxr_diffusion_jax.models.block_scan import apply_blocks
from cxr_diffusion_jax.models.dit_blocks import Block, Condition, Style
from cxr_diffusion_jax.models.modulation import modulate
from cxr_diffusion_jax.types import Context, StreamSpec, TokenStream

# The gate of SwiGLU is split as `net_0`, see `attention.TENSOR_PARALLEL`.
GATE_PARALLEL = {"net_gate": 1}

# Sines and cosines of the time, as in the paper's code.
TIME_WIDTH = 256

CHOICES = {
  "context_mode": ("cross", "tokens"),
  "positions": ("rotary", "sincos"),
  "stem": ("linear", "conv"),
  "head": ("linear", "conv"),
}


class DiT(nn.Module):
  """Predicts from (x_t, t, context). The defaults are the paper's DiT-S/2.

  Attributes:
    out_channels: channels of the prediction; the input may have any number.
    patch_size: p; a token is a patch of p x p.
    depth: number of blocks.
    width: channels of every token.
    num_heads: heads of every attention; divides the width.
    mlp_ratio: hidden width of a block's MLP over the width. SwiGLU uses two thirds of
      it, for an equal number of parameters.
    context_mode: 'cross' for a cross-attention in each block, 'tokens' to prepend the
      context's tokens to the patches in one self-attention.
    positions: 'rotary' rotates queries and keys of self-attention; 'sincos' adds the
      positions of `embedding.grid_positions` to the patches. With 'rotary', those are
      added to the queries of cross-attention, which have no other position, and
      tokens of a map in the context are rotated by their place in the image.
    swiglu: gate the MLP's hidden units (Shazeer 2020, 2002.05202) instead of GELU.
    qk_norm: normalise queries and keys per head (Henry et al. 2020, 2010.04245). This
      bounds attention logits in 16 bits and at high learning rates.
    dropout: rate of the MLPs' hidden units while training.
    pooled: add a projection of the context's mean to the time's vector.
    stem: 'linear' sees each patch alone; 'conv' is a convolution whose windows reach
      half a patch into each neighbour.
    head: 'linear' predicts each patch from its own token; 'conv' adds a 3x3 convolution
      of features of all patches, so that the prediction is continuous across their
      borders. It starts at zero.
    context_streams: the context's streams; may be empty.
    remat: recompute activations in the backward pass, to save memory.
    scan_blocks: compile one block as a loop's body; see `block_scan`.
    feature_layer: the block, from 0, whose output is sown as features.
  """

  out_channels: int = 4
  patch_size: int = 2
  depth: int = 12
  width: int = 384
  num_heads: int = 6
  mlp_ratio: float = 4.0
  context_mode: str = "cross"
  positions: str = "rotary"
  swiglu: bool = False
  qk_norm: bool = False
  dropout: float = 0.0
  pooled: bool = True
  stem: str = "linear"
  head: str = "linear"
  context_streams: tuple[StreamSpec, ...] = ()
  remat: bool = False
  scan_blocks: bool = False
  feature_layer: int | None = None
  dtype: jnp.dtype = jnp.float32

  tensor_parallel = TENSOR_PARALLEL | GATE_PARALLEL

  @property
  def num_feature_layers(self) -> int:
    """One for each block."""
    return self.depth

  @property
  def default_feature_layer(self) -> int:
    """The end of the first third of the blocks, as in REPA."""
    return max(self.depth // 3 - 1, 0)

  @nn.compact
  def __call__(self, x_t: Array, t: Array, context: Context) -> Array:
    """See `network.Network`; h and w are multiples of `patch_size`."""
    self._check(x_t)
    batch, rows, columns = x_t.shape[0], *(n // self.patch_size for n in x_t.shape[1:3])
    vector, stream = self._condition(batch, t, context)
    x = self._embed_patches(x_t)
    places = embedding.grid_positions(rows, columns, self.width).astype(self.dtype)
    if self.positions == "sincos":
      x = x + places
    num_before = stream.tokens.shape[1] if self.context_mode == "tokens" else 0
    mask = None
    if num_before:
      mask = jnp.concatenate([stream.mask, jnp.ones(x.shape[:2], bool)], axis=1)
      x = jnp.concatenate([stream.tokens, x], axis=1)
    condition = Condition(
      vector=vector,
      stream=stream,
      mask=mask,
      angles=self._angles((rows, columns)),
      query_positions=places if self.positions == "rotary" else None,
    )
    layer = self.depth - 1 if self.feature_layer is None else self.feature_layer
    x = self._apply_blocks(range(layer + 1), x, condition)
    features = x[:, num_before:].reshape(batch, rows, columns, self.width)
    network.sow_features(self, layer, features)
    x = self._apply_blocks(range(layer + 1, self.depth), x, condition)
    return self._project_out(x[:, num_before:], vector, rows)

  def _apply_blocks(self, which: range, x: Array, condition: Condition) -> Array:
    return apply_blocks(
      self,
      Block,
      (self._style(),),
      [f"blocks_{i}" for i in which],
      x,
      condition,
      scan=self.scan_blocks,
      remat=self.remat,
      dtype=self.dtype,
    )

  def _embed_patches(self, x_t: Array) -> Array:
    """[b h w c] -> a token [b n width] for each patch."""
    size, init = self.patch_size, nn.initializers.xavier_uniform()
    if self.stem == "conv":
      overlap = -(-size // 2)
      conv = nn.Conv(
        self.width,
        (size + 2 * overlap,) * 2,
        strides=size,
        padding=overlap,
        kernel_init=init,
        dtype=self.dtype,
        name="patch_in",
      )
      return rearrange(network.convolve(conv, x_t), "b h w c -> b (h w) c")
    x = rearrange(x_t, "b (h p) (w q) c -> b (h w) (p q c)", p=size, q=size)
    return nn.Dense(self.width, kernel_init=init, dtype=self.dtype, name="patch_in")(x)

  def _condition(
    self, batch: int, t: Array, context: Context
  ) -> tuple[Array, TokenStream]:
    """The vector c [b width] of the blocks, and the context as one stream."""
    t = jnp.broadcast_to(jnp.asarray(t), (batch,))
    embed = embedding.TimestepEmbedding(self.width, self.dtype, name="time_embedding")
    vector = embed(embedding.sinusoids(t, TIME_WIDTH))
    stream, pooled = embedding.embed_context(
      self, context, batch, self.width, self.width
    )
    return nn.silu(vector if pooled is None else vector + pooled), stream

  def _style(self) -> Style:
    return Style(
      num_heads=self.num_heads,
      hidden=round(self.width * self.mlp_ratio),
      cross=self.context_mode == "cross",
      swiglu=self.swiglu,
      qk_norm=self.qk_norm,
      dropout=self.dropout,
      dtype=self.dtype,
    )

  def _angles(self, grid: tuple[int, int]) -> np.ndarray | None:
    """Rotary angles [n d/2] of all tokens in self-attention, or None.

    Among context tokens, only those of a map have a place; the others get 0.
    """
    if self.positions != "rotary":
      return None
    head = self.width // self.num_heads
    patches = dit_blocks.grid_angles(grid, head)
    if self.context_mode == "cross":
      return patches

    def nowhere(num_tokens: int) -> np.ndarray:
      return np.zeros((num_tokens, head // 2), np.float32)

    before = [nowhere(1)]
    for spec in self.context_streams:
      before.append(nowhere(spec.num_leading if spec.grid else spec.num_tokens))
      if spec.grid is not None:
        before.append(dit_blocks.grid_angles(spec.grid, head, spread=grid))
    return np.concatenate([*before, patches])

  def _project_out(self, x: Array, vector: Array, rows: int) -> Array:
    """Tokens [b n width] -> prediction [b h w out_channels] float32."""
    zeros = nn.initializers.zeros
    modulation = nn.Dense(
      2 * self.width, kernel_init=zeros, dtype=self.dtype, name="modulation"
    )
    shift, scale = jnp.split(modulation(vector), 2, axis=-1)
    x = jnp.asarray(modulate(x, shift, scale, jnp.float32))
    size = self.patch_size

    def to_map(x):
      return rearrange(x, "b (h w) (p q c) -> b (h p) (w q) c", h=rows, p=size, q=size)

    # Float32, because the loss depends on small differences of the output.
    dense = nn.Dense(size**2 * self.out_channels, kernel_init=zeros, name="patch_out")
    out = to_map(dense(x))
    if self.head == "linear":
      return out
    features = max(self.width // size**2, 1) * size**2
    x = nn.Dense(features, dtype=self.dtype, name="head_in")(x)
    conv = nn.Conv(self.out_channels, (3, 3), kernel_init=zeros, name="head_out")
    return out + network.convolve(conv, nn.silu(to_map(x)))

  def _check(self, x_t: Array) -> None:
    for name, choices in CHOICES.items():
      naming.check(f"unknown {name}", getattr(self, name), choices)
    network.check_least(self, depth=1, width=1, patch_size=1)
    # One hidden unit at least.
    network.check_least(self, mlp_ratio=1 / self.width)
    if self.num_heads < 1 or self.width % (4 * self.num_heads):
      raise errors.InputError(
        f"a width of {self.width} with {self.num_heads} heads",
        "heads whose width is a multiple of 4, for positions in two dimensions",
      )
    size = self.patch_size
    network.check_sides(x_t.shape[1:3], size, f"patches of {size}")
    if self.feature_layer is not None and not 0 <= self.feature_layer < self.depth:
      raise errors.InputError(
        f"feature_layer {self.feature_layer} of {self.depth} blocks",
        f"0 to {self.depth - 1}, or None",
      )


NETWORK = DiT
