"""Attention with masked keys, fast on each platform, and the transformer around it.

attend(q, k, v) = softmax(q k^T / sqrt(d)) v,  softmax in float32

plain    the formula; the scores [b h q k] exist in memory
chunked  one block of queries at a time, recomputed for the gradient
blocked  one head and one block of queries at a time: a few MB, which fit a CPU's cache
         (Rabe and Staats 2021, 2112.05682)
cudnn    the fused kernel of NVIDIA GPUs, for 16-bit inputs
flash    a fused kernel for TPUs, see `flash_attention`
"""

from einops import rearrange
from flax import linen as nn
import jax
from jax import Array
import jax.numpy as jnp

from cxr_diffusion_jax.models import attention_kernels, embedding, placement
from cxr_diffusion_jax.models import heads as heads_lib
from cxr_diffusion_jax.models.block_scan import apply_blocks, kept
from cxr_diffusion_jax.models.group_norm import GroupNorm
from cxr_diffusion_jax.types import TokenStream

# Layer name -> axis of its kernel that is split over the mesh's axis `tensor`: the
# output into attention and feed-forward layers, the input out of them.
TENSOR_PARALLEL = {
  **dict.fromkeys(("to_q", "to_k", "to_v", "net_0"), 1),
  **dict.fromkeys(("to_out_0", "net_2"), 0),
}

# The most scores of a head that accelerators keep in memory: 1 MB.
PLAIN_SCORES = 2**18


def attend(
  query: Array,
  key: Array,
  value: Array,
  mask: Array | None = None,
  implementation: str = "auto",
  block_size: int | None = None,
  preparation: heads_lib.Preparation | None = None,
) -> Array:
  """Attention of every query [b q h d] to all unmasked keys [b k h d]: [b q h d].

  A row with all keys masked gets the plain mean of the values, never NaN.

  Args:
    mask: [b k] bool, True for visible keys; None for all.
    implementation: a name from above, or 'auto' for `choose` on the platform of
      `placement.on_mesh`.
    block_size: queries per block of 'blocked'; by default `block_size_for(q, k)`.
    preparation: of queries and keys; 'flash' does it on the chip.
  """
  if implementation == "auto":
    implementation = choose(query, key.shape[1], placement.platform())
  if implementation == "flash":
    # Pallas takes 0.4 s to import, and only TPUs need it.
    from cxr_diffusion_jax.models import flash_attention

    return flash_attention.attend(query, key, value, mask, preparation)
  if preparation is not None:
    query, key = preparation(query, key)
  operands = query, key, value, mask
  match implementation:
    case "plain":
      return attention_kernels.plain(*operands)
    case "chunked":
      return attention_kernels.chunked(*operands)
    case "blocked":
      size = block_size or attention_kernels.block_size_for(
        query.shape[1], key.shape[1]
      )
      return attention_kernels.blocked(*operands, size)
    case "cudnn":
      return attention_kernels.cudnn(*operands)
  raise ValueError(f"unknown implementation {implementation!r}")


def choose(
  query: Array | jax.ShapeDtypeStruct, num_keys: int, platform: str | None
) -> str:
  """The implementation for queries [b q h d]; see tests/benchmarks/attention.py.

  None has an array [.. q k] of more than `PLAIN_SCORES` in memory. Without a platform,
  it is one that runs on all.
  """
  num_queries, width = query.shape[1], query.shape[3]
  if platform in ("cpu", None):
    return "blocked" if num_queries >= 256 else "plain"
  sixteen_bit = query.dtype in (jnp.bfloat16, jnp.float16)
  if platform == "gpu" and sixteen_bit and width % 8 == 0 and width <= 128:
    return "cudnn"
  if platform == "tpu" and query.dtype in (jnp.bfloat16, jnp.float32):
    from cxr_diffusion_jax.models import flash_attention

    if flash_attention.fits(num_keys, width, query.dtype):
      return "flash"
  return "plain" if num_queries * num_keys <= PLAIN_SCORES else "chunked"


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
    out = kept(attend(query, project("to_k", source), project("to_v", source), mask))
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
    h = GroupNorm(self.norm_groups, 1e-6, dtype=self.dtype, name="norm")(x)
    h = self._project(channels, "proj_in", nn.linear.default_kernel_init)(h)
    h = rearrange(h, "b h w c -> b (h w) c")
    h = apply_blocks(
      self,
      TransformerBlock,
      (self.num_heads, self.dtype),
      [f"transformer_blocks_{i}" for i in range(self.num_blocks)],
      h,
      context,
      positions,
      scan=self.scan_blocks,
      # Of a UNet, `remat` recomputes whole transformers.
      remat=False,
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
