"""The two Pallas kernels of `flash_attention`: a block of queries, all keys.

s = q k^T / sqrt(d);  p = exp(s - max s) / sum;  out = p v
dv = p^T do;  ds = p (do v^T - sum(p do v^T)) / sqrt(d);  dq = ds k;  dk = ds^T q

Queries and keys are first normalised and rotated as by `heads.Preparation`.
References hold [1 n lanes] of one sample and one group of heads; `bias` [1 1 k]; `cos`
and `sin` [n lanes]; `query_scale` and `key_scale` [1 lanes].
"""

from collections.abc import Mapping, Sequence
import dataclasses

import jax
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp

from cxr_diffusion_jax.models import heads as heads_lib

Refs = Mapping[str, jax.Ref]
Rows = slice | pl.Slice


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tiling:
  """How a kernel divides queries and heads.

  Attributes:
    channels: of a head.
    width: channels of a head, padded.
    group: heads that are processed together.
    block: queries that are processed together.
  """

  channels: int
  width: int
  group: int
  block: int

  @property
  def lanes(self) -> int:
    """Channels of a group of heads."""
    return self.group * self.width

  @property
  def scale(self) -> float:
    """Factor on the scores."""
    return self.channels**-0.5

  def heads(self, x: Array) -> list[Array]:
    """For each head x [n lanes], with zeros in other heads' lanes."""
    if self.group == 1:
      return [x]
    zeros = jnp.zeros_like(x)
    return [jnp.where(self._own(i, x), x, zeros) for i in range(self.group)]

  def join(self, by_head: Sequence[Array]) -> Array:
    """From each head's array [n lanes] or [n 1] its lanes: [n lanes]."""
    whole = by_head[0]
    for i, of_head in enumerate(by_head[1:], start=1):
      own = self._own(i, jnp.broadcast_to(of_head, (len(of_head), self.lanes)))
      whole = jnp.where(own, of_head, whole)
    return whole

  def _own(self, i: int, x: Array) -> Array:
    lane = _lane(x)
    return (lane >= i * self.width) & (lane < (i + 1) * self.width)


def block_spec(name: str, shape: tuple[int, ...], tiling: Tiling) -> pl.BlockSpec:
  """The part of an array that a step (sample, group of heads, block of queries) has."""
  if name in ("query", "cotangent", "out", "d_query"):
    return pl.BlockSpec((1, tiling.block, tiling.lanes), lambda b, h, i: (b, i, h))
  if name in ("key", "value", "d_key", "d_value"):
    return pl.BlockSpec((1, shape[1], tiling.lanes), lambda b, h, i: (b, 0, h))
  if name == "bias":
    return pl.BlockSpec((1, 1, shape[2]), lambda b, h, i: (b, 0, 0))
  if name in ("d_query_scale", "d_key_scale"):
    return pl.BlockSpec((1, 1, 1, tiling.lanes), lambda b, h, i: (b, h, 0, 0))
  return pl.BlockSpec(shape, lambda b, h, i: (0, 0))


def scratch(
  tiling: Tiling, key: Array, prepared: bool, backward: bool
) -> dict[str, pl.MemoryRef]:
  """Buffers of a group of heads that live from its first block of queries on."""
  shape, buffers = (key.shape[1], tiling.lanes), {}
  if prepared:
    buffers["ready_key"] = pltpu.VMEM(shape, key.dtype)
  if backward:
    for name in ("key_sum", "value_sum"):
      buffers[name] = pltpu.VMEM(shape, jnp.float32)
  return buffers


def forward(tiling: Tiling, refs: Refs) -> None:
  """Writes `out`, of a block of queries."""
  bias, key, value = _bias(refs), _ready_key(tiling, refs), refs["value"][0]
  out = []
  for query in tiling.heads(_ready_query(tiling, refs)):
    exponents, total = _exponents(_scores(query, key, bias, tiling.scale))
    out.append(_dot(exponents.astype(value.dtype), value, 1, 0) / total)
  refs["out"][0] = tiling.join(out).astype(value.dtype)


def backward(tiling: Tiling, refs: Refs) -> None:
  """Writes `d_query` of a block, and after the last one `d_key`, `d_value`."""
  bias, key, value = _bias(refs), _ready_key(tiling, refs), refs["value"][0]
  key_sum, value_sum, dtype = refs["key_sum"], refs["value_sum"], value.dtype

  @pl.when(pl.program_id(2) == 0)
  def _():
    for name in ("key_sum", "value_sum", "d_query_scale"):
      if name in refs:
        refs[name][...] = jnp.zeros(refs[name].shape, jnp.float32)

  d_queries = []
  for query, cotangent in zip(
    tiling.heads(_ready_query(tiling, refs)),
    tiling.heads(refs["cotangent"][0]),
    strict=True,
  ):
    exponents, total = _exponents(_scores(query, key, bias, tiling.scale))
    weights = exponents / total
    value_sum[...] += _dot(weights.astype(dtype), cotangent, 0, 0)
    d_weights = _dot(cotangent, value, 1, 1)
    mean = jnp.sum(weights * d_weights, axis=1, keepdims=True)
    d_scores = tiling.scale * weights * (d_weights - mean)
    if bias is not None:
      d_scores = jnp.where(bias < 0, 0.0, d_scores)
    d_scores = d_scores.astype(dtype)
    key_sum[...] += _dot(d_scores, query, 0, 0)
    d_queries.append(_dot(d_scores, key, 1, 0))

  rows = _rows_of_block(tiling)
  d_query, d_scale = _unprepare(tiling, refs, "query", rows, tiling.join(d_queries))
  refs["d_query"][0] = d_query.astype(dtype)
  if d_scale is not None:
    refs["d_query_scale"][0, 0] += d_scale

  @pl.when(pl.program_id(2) == pl.num_programs(2) - 1)
  def _():
    rows = pl.ds(0, key.shape[0])
    d_key, d_scale = _unprepare(tiling, refs, "key", rows, key_sum[...])
    refs["d_key"][0] = d_key.astype(dtype)
    refs["d_value"][0] = value_sum[...].astype(dtype)
    if d_scale is not None:
      refs["d_key_scale"][0, 0] = d_scale


def _ready_query(tiling: Tiling, refs: Refs) -> Array:
  return _prepare(tiling, refs, "query", _rows_of_block(tiling))


def _ready_key(tiling: Tiling, refs: Refs) -> Array:
  """All keys, prepared with the first block of queries."""
  if "ready_key" not in refs:
    return refs["key"][0]

  @pl.when(pl.program_id(2) == 0)
  def _():
    rows = pl.ds(0, refs["key"].shape[1])
    refs["ready_key"][...] = _prepare(tiling, refs, "key", rows)

  return refs["ready_key"][...]


def _rows_of_block(tiling: Tiling) -> Rows:
  start = pl.multiple_of(pl.program_id(2) * tiling.block, 16)
  return pl.ds(start, tiling.block)


def _prepare(tiling: Tiling, refs: Refs, name: str, rows: Rows) -> Array:
  raw = refs[name][0]
  x = raw.astype(jnp.float32)
  if f"{name}_scale" in refs:
    x = x * _inverse_rms(tiling, x) * refs[f"{name}_scale"][...]
  if "cos" in refs:
    x = x * refs["cos"][rows, :] + _partners(tiling, x) * refs["sin"][rows, :]
  return x.astype(raw.dtype)


def _unprepare(
  tiling: Tiling, refs: Refs, name: str, rows: Rows, gradient: Array
) -> tuple[Array, Array | None]:
  """The gradients of the unprepared x [n lanes] and, if normalised, its scale."""
  if "cos" in refs:
    partners = _partners(tiling, gradient)
    gradient = gradient * refs["cos"][rows, :] - partners * refs["sin"][rows, :]
  if f"{name}_scale" not in refs:
    return gradient, None
  x = refs[name][0].astype(jnp.float32)
  inverse = _inverse_rms(tiling, x)
  normal = x * inverse
  d_scale = jnp.sum(gradient * normal, axis=0, keepdims=True)
  gradient = gradient * refs[f"{name}_scale"][...]
  along = _mean_of_head(tiling, gradient * normal)
  return inverse * (gradient - normal * along), d_scale


def _inverse_rms(tiling: Tiling, x: Array) -> Array:
  return jax.lax.rsqrt(_mean_of_head(tiling, x * x) + heads_lib.EPSILON)


def _mean_of_head(tiling: Tiling, x: Array) -> Array:
  """In every lane the mean over its head's channels; padding must be zero."""
  return tiling.join(
    [jnp.sum(part, axis=1, keepdims=True) / tiling.channels for part in tiling.heads(x)]
  )


def _partners(tiling: Tiling, x: Array) -> Array:
  """x [n lanes] with channels i and i + d/2 of each head swapped."""
  half = tiling.channels // 2
  first = _lane(x) % tiling.width < half
  return jnp.where(first, pltpu.roll(x, x.shape[1] - half, 1), pltpu.roll(x, half, 1))


def _lane(x: Array) -> Array:
  return jax.lax.broadcasted_iota(jnp.int32, (1, x.shape[1]), 1)


def _bias(refs: Refs) -> Array | None:
  return refs["bias"][0] if "bias" in refs else None


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
