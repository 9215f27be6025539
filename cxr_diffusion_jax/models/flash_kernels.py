"""The two Pallas kernels of `flash_attention`: a block of queries, all keys.

s = q k^T / sqrt(d);  p = exp(s - max s) / sum;  out = p v
dv = p^T do;  ds = p (do v^T - sum(p do v^T)) / sqrt(d);  dq = ds k;  dk = ds^T q

References hold [1 n lanes] of one sample and one group of heads, the bias [1 1 k].
"""

from collections.abc import Iterator
import dataclasses

import jax
from jax import Array
from jax.experimental import pallas as pl
import jax.numpy as jnp

Ref = jax.Ref


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tiling:
  """How a kernel divides queries and heads.

  Attributes:
    width: channels of a head, padded.
    group: heads that are processed together.
    block: queries that are processed together.
    scale: factor on the scores.
  """

  width: int
  group: int
  block: int
  scale: float

  @property
  def lanes(self) -> int:
    """Channels of a group of heads."""
    return self.group * self.width

  def heads(self, x: Array) -> Iterator[tuple[Array | None, Array]]:
    """Each head's lanes [1 lanes] bool, and x [n lanes] with zeros elsewhere."""
    if self.group == 1:
      yield None, x
      return
    lane = jax.lax.broadcasted_iota(jnp.int32, (1, x.shape[1]), 1)
    for i in range(self.group):
      own = (lane >= i * self.width) & (lane < (i + 1) * self.width)
      yield own, jnp.where(own, x, jnp.zeros_like(x))


def forward(tiling: Tiling, masked: bool, *refs: Ref) -> None:
  """Writes the output of a block of queries, from bias if masked, q, k, v."""
  query, key, value, out_ref = refs[masked:]
  bias = refs[0][0] if masked else None
  key, value, out = key[0], value[0], None
  for own, query_of_head in tiling.heads(query[0]):
    scores = _scores(query_of_head, key, bias, tiling.scale)
    exponents, total = _exponents(scores)
    out_of_head = _dot(exponents.astype(value.dtype), value, 1, 0) / total
    out = out_of_head if out is None else jnp.where(own, out_of_head, out)
  out_ref[0] = out.astype(out_ref.dtype)


def backward(tiling: Tiling, masked: bool, *refs: Ref) -> None:
  """Writes dq of a block of queries, and after the last one dk and dv."""
  query, key, value, cotangent, d_query, d_key, d_value, key_sum, value_sum = refs[
    masked:
  ]
  bias = refs[0][0] if masked else None
  step, dtype = pl.program_id(2), d_query.dtype
  key, value, query_sum = key[0], value[0], None

  @pl.when(step == 0)
  def _():
    key_sum[...] = jnp.zeros_like(key_sum)
    value_sum[...] = jnp.zeros_like(value_sum)

  by_head = zip(tiling.heads(query[0]), tiling.heads(cotangent[0]), strict=True)
  for (own, query_of_head), (_, cotangent_of_head) in by_head:
    scores = _scores(query_of_head, key, bias, tiling.scale)
    exponents, total = _exponents(scores)
    weights = exponents / total
    value_sum[...] += _dot(weights.astype(dtype), cotangent_of_head, 0, 0)
    d_weights = _dot(cotangent_of_head, value, 1, 1)
    mean = jnp.sum(weights * d_weights, axis=1, keepdims=True)
    d_scores = tiling.scale * weights * (d_weights - mean)
    if bias is not None:
      d_scores = jnp.where(bias < 0, 0.0, d_scores)
    d_scores = d_scores.astype(dtype)
    key_sum[...] += _dot(d_scores, query_of_head, 0, 0)
    product = _dot(d_scores, key, 1, 0)
    query_sum = product if query_sum is None else jnp.where(own, product, query_sum)
  d_query[0] = query_sum.astype(dtype)

  @pl.when(step == pl.num_programs(2) - 1)
  def _():
    d_key[0] = key_sum[...].astype(d_key.dtype)
    d_value[0] = value_sum[...].astype(d_value.dtype)


def _scores(query: Array, key: Array, bias: Array | None, scale: float) -> Array:
  scores = scale * _dot(query, key, 1, 1)
  return scores if bias is None else jnp.where(bias < 0, bias, scores)


def _exponents(scores: Array) -> tuple[Array, Array]:
  """exp(s - max s) and its sum [q 1]."""
  exponents = jnp.exp(scores - jnp.max(scores, axis=1, keepdims=True))
  return exponents, jnp.sum(exponents, axis=1, keepdims=True)


def _dot(left: Array, right: Array, left_axis: int, right_axis: int) -> Array:
  """The product over an axis of each, in float32."""
  return jax.lax.dot_general(
    left,
    right,
    (((left_axis,), (right_axis,)), ((), ())),
    preferred_element_type=jnp.float32,
  )
