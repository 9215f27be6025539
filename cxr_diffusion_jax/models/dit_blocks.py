"""The block of a DiT: attention, attention to the context, MLP, each under gates.

x <- x + gate_1 attention(modulate(x, shift_1, scale_1))
x <- x + cross_attention(norm(x), context)                       if cross
x <- x + gate_2 mlp(modulate(x, shift_2, scale_2))

Rotary positions (see `heads`) in two dimensions: half of a head's pairs of channels
rotate with the row, half with the column, at the frequencies for images of Heo et al.
2024 (2403.13298).
"""

import dataclasses

from einops import rearrange
from flax import linen as nn
import flax.struct
from jax import Array
import jax.numpy as jnp
import numpy as np

from cxr_diffusion_jax.models import network
from cxr_diffusion_jax.models.attention import attend
from cxr_diffusion_jax.models.block_scan import kept
from cxr_diffusion_jax.models.heads import Preparation
from cxr_diffusion_jax.models.modulation import modulate
from cxr_diffusion_jax.types import TokenStream

# The slowest pair's period over the fastest's.
_LONGEST = 100.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Style:
  """Settings that all blocks of one DiT share; see `dit.DiT`.

  Attributes:
    hidden: units of an MLP without gates.
    cross: whether there is cross-attention.
  """

  num_heads: int
  hidden: int
  cross: bool
  swiglu: bool
  qk_norm: bool
  dropout: float
  dtype: jnp.dtype

  def dense(
    self, width: int, name: str, init: nn.initializers.Initializer | None = None
  ) -> nn.Dense:
    """A linear layer of this style; Glorot's uniform kernel by default."""
    init = nn.initializers.xavier_uniform() if init is None else init
    return nn.Dense(width, kernel_init=init, dtype=self.dtype, name=name)


@flax.struct.dataclass
class Condition:
  """The inputs of every block besides its tokens [b n c].

  Attributes:
    vector: [b c], from time and context.
    stream: the context's tokens [b m c], for cross-attention.
    mask: [b n] bool, the tokens visible to self-attention; None for all.
    angles: [n d/2] of rotary positions for heads of width d, or None.
    query_positions: [n c] added to cross-attention's queries, or None.
  """

  vector: Array
  stream: TokenStream
  mask: Array | None
  angles: Array | np.ndarray | None
  query_positions: Array | None


def grid_angles(
  grid: tuple[int, int], width: int, spread: tuple[float, float] | None = None
) -> np.ndarray:
  """Angles [rows*columns width/2] float32 of a grid's cells in row-major order, in
  radians.

  `width` of a head is a multiple of 4. `spread` is (rows, columns) of a grid over the
  same area that has the unit as its cell, so that maps of different resolution agree on
  places; None for `grid`.
  """
  pairs = width // 4
  frequencies = _LONGEST ** (-np.arange(pairs) / pairs)
  spread = grid if spread is None else spread
  down, right = (
    np.outer((np.arange(cells) + 0.5) * extent / cells, frequencies)
    for cells, extent in zip(grid, spread, strict=True)
  )
  shape = (*grid, pairs)
  angles = np.concatenate(
    [np.broadcast_to(down[:, None], shape), np.broadcast_to(right, shape)], axis=-1
  )
  return angles.reshape(-1, 2 * pairs).astype(np.float32)


class HeadScale(nn.Module):
  """The factors [d] of a normalised head, ones before training."""

  width: int

  @nn.compact
  def __call__(self) -> Array:
    return self.param("scale", nn.initializers.ones, (self.width,))


class Attention(nn.Module):
  """Multi-head attention of tokens to themselves or to a context."""

  style: Style
  zero_init: bool = False

  @nn.compact
  def __call__(
    self,
    x: Array,
    source: Array,
    mask: Array | None = None,
    angles: Array | np.ndarray | None = None,
  ) -> Array:
    """x [b n c] to source [b m c] with mask [b m], rotated by angles -> [b n c]."""
    style, width = self.style, x.shape[-1]

    def project(name, inputs):
      out = style.dense(width, name)(inputs)
      return rearrange(out, "b n (h d) -> b n h d", h=style.num_heads)

    query, key = project("to_q", x), project("to_k", source)
    scales = None
    if style.qk_norm:
      size = query.shape[-1]
      scales = HeadScale(size, name="norm_q")(), HeadScale(size, name="norm_k")()
    preparation = Preparation(scales=scales, angles=angles)
    value = project("to_v", source)
    out = kept(attend(query, key, value, mask, preparation=preparation))
    init = nn.initializers.zeros if self.zero_init else None
    return style.dense(width, "to_out_0", init)(rearrange(out, "b n h d -> b n (h d)"))


class MLP(nn.Module):
  """[... c] -> [... c] through GELUs, or through two thirds as many gated units."""

  style: Style

  @nn.compact
  def __call__(self, x: Array) -> Array:
    style, width = self.style, x.shape[-1]
    if style.swiglu:
      # Accelerators need multiples of 8.
      hidden = 8 * -(-2 * style.hidden // 24)
      h = nn.silu(style.dense(hidden, "net_gate")(x)) * style.dense(hidden, "net_0")(x)
    else:
      h = nn.gelu(style.dense(style.hidden, "net_0")(x))
    return style.dense(width, "net_2")(network.dropped(self, style.dropout, h))


class Block(nn.Module):
  """One block, the identity before training."""

  style: Style

  @nn.compact
  def __call__(self, x: Array, condition: Condition) -> Array:
    """[b n c] -> [b n c]."""
    style, width = self.style, x.shape[-1]
    modulation = style.dense(6 * width, "modulation", nn.initializers.zeros)
    shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = jnp.split(
      modulation(condition.vector), 6, axis=-1
    )
    h = modulate(x, shift_1, scale_1, style.dtype)
    h = Attention(style, name="attn1")(h, h, condition.mask, condition.angles)
    x = x + gate_1[:, None] * h
    if style.cross:
      query = modulate(x, None, None, style.dtype)
      if condition.query_positions is not None:
        query = query + condition.query_positions
      attention = Attention(style, zero_init=True, name="attn2")
      x = x + attention(query, condition.stream.tokens, condition.stream.mask)
    h = modulate(x, shift_2, scale_2, style.dtype)
    return x + gate_2[:, None] * MLP(style, name="mlp")(h)
