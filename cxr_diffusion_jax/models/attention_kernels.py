"""The implementations of attention in XLA and cuDNN; see `attention.attend`.

Scores are [b h q k]. `plain` has them all in memory, `chunked` those of some queries,
`blocked` those of some queries of one head, `cudnn` those of a block on the chip.
"""

import math

from einops import rearrange
import jax
from jax import Array
import jax.numpy as jnp

# Scores of one head that `chunked` computes at a time.
CHUNK_SCORES = 2**18


def plain(query: Array, key: Array, value: Array, mask: Array | None) -> Array:
  scale = 1 / math.sqrt(query.shape[-1])
  scores = jnp.einsum(
    "bqhd,bkhd->bhqk", query * scale, key, preferred_element_type=jnp.float32
  )
  if mask is not None:
    scores = _hide(scores, mask[:, None, None])
  weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
  return jnp.einsum("bhqk,bkhd->bqhd", weights, value)


def chunked(query: Array, key: Array, value: Array, mask: Array | None) -> Array:
  """`plain` for one block of queries of all heads at a time.

  Unlike `blocked`, it keeps samples and heads as axes, which accelerators compute side
  by side and which are split over a mesh.
  """
  num_queries, dtype = query.shape[1], value.dtype
  num_chunks = -(-num_queries // max(16, CHUNK_SCORES // key.shape[1]))
  size = -(-num_queries // num_chunks)
  query = _pad_tokens(query, num_chunks * size - num_queries)
  query = rearrange(query, "b (n s) h d -> n b s h d", s=size)
  # The gradients of keys and values are summed over chunks: in float32.
  key, value = key.astype(jnp.float32), value.astype(jnp.float32)

  @jax.checkpoint
  def chunk(query: Array) -> Array:
    return plain(query, key.astype(dtype), value.astype(dtype), mask)

  out = jax.lax.map(chunk, query)
  return rearrange(out, "n b s h d -> b (n s) h d")[:, :num_queries]


def _hide(scores: Array, mask: Array) -> Array:
  """Uses the lowest finite number, not -inf, so that an all-masked row stays finite."""
  return jnp.where(mask, scores, jnp.finfo(jnp.float32).min)


def blocked(
  query: Array, key: Array, value: Array, mask: Array | None, size: int
) -> Array:
  """`plain` for one sample, head and block of queries at a time.

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


def cudnn(query: Array, key: Array, value: Array, mask: Array | None) -> Array:
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
