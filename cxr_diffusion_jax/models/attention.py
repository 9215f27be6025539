"""Attention with masked keys, fast on each backend, and the transformer around it.

attend(q, k, v) = softmax(q k^T / sqrt(d)) v,  softmax in float32

plain    the formula; the scores [b h q k] exist in memory
blocked  one head and one block of queries at a time, recomputed for the gradient: a
         few MB, which fit a CPU's cache (Rabe and Staats 2021, 2112.05682)
cudnn    the fused kernel of NVIDIA GPUs, for 16-bit inputs
"""

import functools
import math

from einops import rearrange
from flax import linen as nn
import jax
from jax import Array
import jax.numpy as jnp

from cxr_diffusion_jax.models import embedding
from cxr_diffusion_jax.models.block_scan import apply_blocks
from cxr_diffusion_jax.types import TokenStream

# Layer name -> axis of its kernel that is split over the mesh's axis `tensor`: the
# output into attention and feed-forward layers, the input out of them.
TENSOR_PARALLEL = {
  **dict.fromkeys(("to_q", "to_k", "to_v", "net_0"), 1),
  **dict.fromkeys(("to_out_0", "net_2"), 0),
}


def attend(
  query: Array,
  key: Array,
  value: Array,
  mask: Array | None = None,
  implementation: str = "auto",
  block_size: int | None = None,
) -> Array:
  """Attention of every query [b q h d] to all unmasked keys [b k h d]: [b q h d].

  A row with all keys masked gets the plain mean of the values, never NaN.

  Args:
    mask: [b k] bool, True for visible keys; None for all.
    implementation: 'plain', 'blocked', 'cudnn', or 'auto' for the fastest one for these
      shapes on the default backend.
    block_size: queries per block of 'blocked'; by default `block_size_for(q, k)`.
  """
  if implementation == "auto":
    implementation = _fastest(query)
  match implementation:
    case "plain":
      return _plain(query, key, value, mask)
    case "blocked":
      size = block_size or block_size_for(query.shape[1], key.shape[1])
      return _blocked(query, key, value, mask, size)
    case "cudnn":
      return _cudnn(query, key, value, mask)
  raise ValueError(f"unknown implementation {implementation!r}")


def _fastest(query: Array) -> str:
  """The implementation for these shapes; see tests/benchmarks/attention.py."""
  num_queries, width = query.shape[1], query.shape[3]
  backend = jax.default_backend()
  if backend == "cpu":
    return "blocked" if num_queries >= 256 else "plain"
  sixteen_bit = query.dtype in (jnp.bfloat16, jnp.float16)
  if backend == "gpu" and sixteen_bit and width % 8 == 0 and width <= 128:
    return "cudnn"
  return "plain"


def _plain(query: Array, key: Array, value: Array, mask: Array | None) -> Array:
  scale = 1 / math.sqrt(query.shape[-1])
  scores = jnp.einsum(
    "bqhd,bkhd->bhqk", query * scale, key, preferred_element_type=jnp.float32
  )
  if mask is not None:
    scores = _hide(scores, mask[:, None, None])
  weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
  return jnp.einsum("bhqk,bkhd->bqhd", weights, value)


def _hide(scores: Array, mask: Array) -> Array:
  """Uses the lowest finite number, not -inf, so that an all-masked row stays finite."""
  return jnp.where(mask, scores, jnp.finfo(jnp.float32).min)


def _blocked(
  query: Array, key: Array, value: Array, mask: Array | None, size: int
) -> Array:
  """`_plain` for one sample, head and block of queries at a time.

  Keys and values are transposed to [d k]. Their gradients are then products with a
  long last axis, which XLA computes seven times faster than the other order.
  """
  batch, num_queries, num_heads, width = query.shape
  padding = -num_queries % size
  query = jnp.pad(query, ((0, 0), (0, padding), (0, 0), (0, 0)))
  query = query * (1 / math.sqrt(width))

  @jax.checkpoint
  def block(query, key, value, mask):
    scores = jnp.matmul(query, key, preferred_element_type=jnp.float32)
    if mask is not None:
      scores = _hide(scores, mask)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    return weights @ value.T

  def one_head(operands):
    query, key, value, mask = operands
    return jax.lax.map(lambda q: block(q, key, value, mask), query)

  query = rearrange(query, "b (n s) h d -> (b h) n s d", s=size)
  key, value = (rearrange(x, "b k h d -> (b h) d k") for x in (key, value))
  if mask is not None:
    mask = jnp.repeat(mask, num_heads, axis=0)
  out = jax.lax.map(one_head, (query, key, value, mask))
  out = rearrange(out, "(b h) n s d -> b (n s) h d", b=batch)
  return out[:, :num_queries]


def block_size_for(num_queries: int, num_keys: int) -> int:
  """Queries per block, such that its float32 scores fit 4 MB of a core's cache."""
  size = 2**20 // num_keys
  size = max(32, min(512, 2 ** int(math.log2(max(size, 1)))))
  return min(size, num_queries)


def _cudnn(query: Array, key: Array, value: Array, mask: Array | None) -> Array:
  """The fused kernel; pads odd lengths, because its masked gradient needs even ones."""
  num_queries, num_keys = query.shape[1], key.shape[1]
  if mask is None and (num_queries % 2 or num_keys % 2):
    mask = jnp.ones(key.shape[:2], bool)
  if mask is not None:
    query = _pad_tokens(query, -num_queries % 2)
    key, value = (_pad_tokens(x, -num_keys % 8) for x in (key, value))
    mask = jnp.pad(mask, ((0, 0), (0, -num_keys % 8)))
    shape = (mask.shape[0], 1, query.shape[1], mask.shape[1])
    mask = jnp.broadcast_to(mask[:, None, None], shape)
  out = jax.nn.dot_product_attention(
    query, key, value, mask=mask, implementation="cudnn"
  )
  return out[:, :num_queries]


def _pad_tokens(x: Array, num: int) -> Array:
  return jnp.pad(x, ((0, 0), (0, num), (0, 0), (0, 0)))


class Attention(nn.Module):
  """Multi-head attention of x [b q c] to a context [b k d], or to x if None."""

  num_heads: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: Array, context: Array | None = None, mask: Array | None = None
  ) -> Array:
    source = x if context is None else context
    width = x.shape[-1]

    def project(name, inputs):
      out = nn.Dense(width, use_bias=False, dtype=self.dtype, name=name)(inputs)
      return rearrange(out, "b n (h d) -> b n h d", h=self.num_heads)

    query = project("to_q", x)
    out = attend(query, project("to_k", source), project("to_v", source), mask)
    out = rearrange(out, "b n h d -> b n (h d)")
    return nn.Dense(width, dtype=self.dtype, name="to_out_0")(out)


class GatedGELU(nn.Module):
  """[... c] -> [... width]: a projection times the GELU of another (2002.05202)."""

  width: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    x = nn.Dense(2 * self.width, dtype=self.dtype, name="proj")(x)
    x, gate = jnp.split(x, 2, axis=-1)
    return x * nn.gelu(gate, approximate=False)


class FeedForward(nn.Module):
  """[... c] -> [... c] through 4 c gated units."""

  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    width = x.shape[-1]
    x = GatedGELU(4 * width, dtype=self.dtype, name="net_0")(x)
    return nn.Dense(width, dtype=self.dtype, name="net_2")(x)


class TransformerBlock(nn.Module):
  """x + self-attention, + cross-attention, + feed-forward, each normalised first."""

  num_heads: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array, context: TokenStream, positions: Array | None) -> Array:
    """x [b n c], context, positions [n c] of the queries or None -> [b n c]."""

    def norm(name, x):
      return nn.LayerNorm(epsilon=1e-5, dtype=jnp.float32, name=name)(x).astype(
        self.dtype
      )

    x = x + Attention(self.num_heads, self.dtype, name="attn1")(norm("norm1", x))
    query = norm("norm2", x)
    if positions is not None:
      query = query + positions.astype(self.dtype)
    attention = Attention(self.num_heads, self.dtype, name="attn2")
    x = x + attention(query, context.tokens, context.mask)
    return x + FeedForward(self.dtype, name="ff")(norm("norm3", x))


class SpatialTransformer(nn.Module):
  """Transformer blocks over the places of an image, as a residual.

  Rombach et al. 2022 (2112.10752), appendix E.2.1.

  Attributes:
    num_heads: divides the channels, as `norm_groups` does.
    linear_projection: project into and out of the blocks with matrices, not with 1x1
      convolutions. Only the kernels' shapes differ.
    query_positions: add positions to the queries of cross-attention, so that they can
      find the same place in a grid stream.
    zero_init: start as the identity.
    skip_scale: factor on the output.
    scan_blocks: compile one block as a loop's body; see `block_scan`.
  """

  num_heads: int
  num_blocks: int = 1
  linear_projection: bool = False
  norm_groups: int = 32
  query_positions: bool = False
  zero_init: bool = False
  skip_scale: float = 1.0
  scan_blocks: bool = False
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array, context: TokenStream) -> Array:
    """x [b h w c] -> [b h w c]."""
    _, height, width, channels = x.shape
    positions = None
    if self.query_positions:
      positions = embedding.grid_positions(height, width, channels)
    norm = nn.GroupNorm(self.norm_groups, epsilon=1e-6, dtype=jnp.float32, name="norm")
    h = norm(x).astype(self.dtype)
    h = self._project(channels, "proj_in", nn.linear.default_kernel_init)(h)
    h = rearrange(h, "b h w c -> b (h w) c")
    h = apply_blocks(
      self,
      functools.partial(TransformerBlock, self.num_heads, self.dtype),
      [f"transformer_blocks_{i}" for i in range(self.num_blocks)],
      h,
      context,
      positions,
      scan=self.scan_blocks,
      dtype=self.dtype,
    )
    h = rearrange(h, "b (h w) c -> b h w c", h=height)
    init = nn.initializers.zeros if self.zero_init else nn.linear.default_kernel_init
    x = x + self._project(channels, "proj_out", init)(h)
    return x if self.skip_scale == 1 else x * self.skip_scale

  def _project(
    self, channels: int, name: str, init: nn.initializers.Initializer
  ) -> nn.Module:
    if self.linear_projection:
      return nn.Dense(channels, kernel_init=init, dtype=self.dtype, name=name)
    return nn.Conv(channels, (1, 1), kernel_init=init, dtype=self.dtype, name=name)
