"""Attention as one TPU kernel (Pallas): no scores in HBM, no copies of narrow heads.

s = q k^T / sqrt(d);  p = exp(s - max s) / sum;  out = p v
dv = p^T do;  ds = p (do v^T - sum(p do v^T)) / sqrt(d);  dq = ds k;  dk = ds^T q

A step of the grid holds all keys of one sample and of the heads that fill 128 lanes,
and one block of queries (Dao et al. 2022, 2205.14135, without its loop over keys). So
the forward pass saves nothing for the gradient, which is one kernel too: jax's own
`flash_attention` saves 1 KB of statistics for each query of each head, and pads heads
of 64 channels to 128. Heads that share lanes are separated by zeros in the queries,
which costs nothing: the matrix unit contracts 128 channels at a time.
"""

from collections.abc import Iterator
import dataclasses
import functools
import math

import jax
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from cxr_diffusion_jax.models import placement

LANES = 128

# Bytes of on-chip memory that a kernel may use, of 64 MiB or more; the default is 16.
VMEM_LIMIT = 40 * 2**20

# Scores in one block; a few arrays of this size are live at a time.
_BLOCK_SCORES = 2**18

# Added to nothing: a hidden key's score is this number, as in `attention_kernels.plain`.
_HIDDEN = float(jnp.finfo(jnp.float32).min)


def fits(num_keys: int, width: int, dtype: jnp.dtype) -> bool:
  """Whether all keys [k h d] of a group of heads of this width fit on the chip."""
  keys = _round_up(num_keys, LANES)
  lanes = max(LANES, _padded_width(width))
  # Keys, values and their gradients, twice for the copies in flight; the sums of the
  # gradients; and scores.
  needed = keys * lanes * (8 * jnp.dtype(dtype).itemsize + 8)
  needed += 6 * 4 * max(_BLOCK_SCORES, 16 * keys)
  return needed <= VMEM_LIMIT


def attend(query: Array, key: Array, value: Array, mask: Array | None) -> Array:
  """`attention.attend` as a kernel: [b q h d], [b k h d], [b k h d], [b k] -> [b q h d].

  Split over the mesh of `placement.on_mesh`; interpreted, slowly, where that is not of
  TPUs.
  """
  batch, num_queries, heads, width = query.shape
  num_keys = key.shape[1]
  mesh = placement.current()
  rows, columns = placement.axes_of(mesh, batch, heads) if mesh else (None, None)
  parts = mesh.shape["tensor"] if mesh and columns else 1
  padded_width = _padded_width(width)
  group = max(1, LANES // padded_width)
  num_blocks = -(-num_queries // _most_queries(num_keys))
  block = _round_up(-(-num_queries // num_blocks), 16)
  more = (
    (0, _round_up(heads // parts, group) * parts - heads),
    (0, padded_width - width),
  )

  def lay_out(x: Array, length: int) -> Array:
    x = jnp.pad(x, ((0, 0), (0, length - x.shape[1]), *more))
    return x.reshape(*x.shape[:2], -1)

  padded_keys = _round_up(num_keys, LANES)
  bias = _bias(mask, batch, num_keys, padded_keys)
  static = _Static(
    width=padded_width,
    group=group,
    block=block,
    scale=1 / math.sqrt(width),
    interpret=placement.platform() != "tpu",
    mesh=mesh,
    spec=PartitionSpec(rows, None, columns),
  )
  out = _attend(
    static,
    bias,
    lay_out(query, block * num_blocks),
    lay_out(key, padded_keys),
    lay_out(value, padded_keys),
  )
  out = out.reshape(*out.shape[:2], -1, padded_width)
  return out[:, :num_queries, :heads, :width]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Static:
  """What a kernel is compiled for.

  Attributes:
    width: channels of a head, padded.
    group: heads that are processed together; group * width lanes.
    block: queries that are processed together.
    spec: of [b n c] on the mesh.
  """

  width: int
  group: int
  block: int
  scale: float
  interpret: bool
  mesh: Mesh | None
  spec: PartitionSpec

  def heads(self, x: Array) -> Iterator[tuple[Array | None, Array]]:
    """Each head's lanes [1 lanes] bool, and x [n lanes] with zeros elsewhere."""
    if self.group == 1:
      yield None, x
      return
    lane = jax.lax.broadcasted_iota(jnp.int32, (1, x.shape[1]), 1)
    for i in range(self.group):
      own = (lane >= i * self.width) & (lane < (i + 1) * self.width)
      yield own, jnp.where(own, x, jnp.zeros_like(x))


def _padded_width(width: int) -> int:
  """A power of two below 128, from 16; a multiple of 128 above."""
  if width > LANES // 2:
    return _round_up(width, LANES)
  return max(16, 2 ** math.ceil(math.log2(width)))


def _most_queries(num_keys: int) -> int:
  most = _BLOCK_SCORES // _round_up(num_keys, LANES)
  return max(16, min(512, most))


def _round_up(n: int, multiple: int) -> int:
  return -(-n // multiple) * multiple


def _bias(
  mask: Array | None, batch: int, num_keys: int, padded_keys: int
) -> Array | None:
  """[b 1 k]: 0 for visible keys, the lowest number for hidden ones, -inf for padding.

  A row whose keys are all hidden gets the mean of those that are not padding.
  """
  if mask is None and padded_keys == num_keys:
    return None
  if mask is None:
    bias = jnp.zeros((batch, num_keys), jnp.float32)
  else:
    bias = jnp.where(mask, 0.0, _HIDDEN).astype(jnp.float32)
  padding = ((0, 0), (0, padded_keys - num_keys))
  return jnp.pad(bias, padding, constant_values=-jnp.inf)[:, None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(
  static: _Static, bias: Array | None, query: Array, key: Array, value: Array
) -> Array:
  """[b q c] over all heads' channels, whose lengths the blocks divide."""
  (out,) = _call(static, _forward_kernel, (bias, query, key, value), (query,), ())
  return out


def _forward(static, *operands):
  return _attend(static, *operands), operands


def _backward(static, operands, cotangent):
  bias, query, key, value = operands
  lanes = static.group * static.width
  sums = pltpu.VMEM((key.shape[1], lanes), jnp.float32)
  gradients = _call(
    static, _backward_kernel, (*operands, cotangent), (query, key, value), (sums, sums)
  )
  return None, *gradients


_attend.defvjp(_forward, _backward)


def _call(static, kernel, operands, outputs, scratch) -> tuple[Array, ...]:
  """Runs a kernel on each device's samples and heads.

  Args:
    operands: bias or None, query, key, value, and for the gradient the output's.
    outputs: arrays like the results.
  """
  masked = operands[0] is not None
  operands = operands if masked else operands[1:]

  def local(*operands):
    query, key = operands[masked : masked + 2]
    batch, num_queries, channels = query.shape
    num_keys, lanes = key.shape[1], static.group * static.width
    queries = pl.BlockSpec((1, static.block, lanes), lambda b, h, i: (b, i, h))
    keys = pl.BlockSpec((1, num_keys, lanes), lambda b, h, i: (b, 0, h))
    bias = pl.BlockSpec((1, 1, num_keys), lambda b, h, i: (b, 0, 0))
    places = [*([bias] if masked else []), queries, keys, keys, queries]
    backward = len(outputs) > 1
    results = [
      jax.ShapeDtypeStruct(like.shape, like.dtype)
      for like in ((query, key, key) if backward else (query,))
    ]
    heads = channels // static.width
    products = (5 if backward else 2) * batch * heads * num_queries * num_keys
    moved = sum(x.size * x.dtype.itemsize for x in (*operands, *results))
    return pl.pallas_call(
      functools.partial(kernel, static, masked),
      out_shape=results,
      grid=(batch, channels // lanes, num_queries // static.block),
      in_specs=places[: len(operands)],
      out_specs=[queries, keys, keys] if backward else [queries],
      scratch_shapes=scratch,
      compiler_params=pltpu.CompilerParams(
        dimension_semantics=("parallel", "parallel", "arbitrary"),
        vmem_limit_bytes=VMEM_LIMIT,
      ),
      cost_estimate=pl.CostEstimate(
        flops=2 * products * static.width,
        transcendentals=batch * heads * num_queries * num_keys,
        bytes_accessed=moved,
      ),
      interpret=static.interpret,
    )(*operands)

  if static.mesh is None or static.mesh.size == 1:
    return tuple(local(*operands))
  specs = [static.spec] * len(operands)
  if masked:
    specs[0] = PartitionSpec(static.spec[0])
  split = jax.shard_map(
    local,
    mesh=static.mesh,
    in_specs=tuple(specs),
    out_specs=[static.spec] * len(outputs),
    check_vma=False,
  )
  return tuple(split(*operands))


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


def _forward_kernel(static, masked, *refs):
  query, key, value, out_ref = refs[masked:]
  bias = refs[0][0] if masked else None
  key, value, out = key[0], value[0], None
  for own, query_of_head in static.heads(query[0]):
    scores = _scores(query_of_head, key, bias, static.scale)
    exponents, total = _exponents(scores)
    out_of_head = _dot(exponents.astype(value.dtype), value, 1, 0) / total
    out = out_of_head if out is None else jnp.where(own, out_of_head, out)
  out_ref[0] = out.astype(out_ref.dtype)


def _backward_kernel(static, masked, *refs):
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

  by_head = zip(static.heads(query[0]), static.heads(cotangent[0]), strict=True)
  for (own, query_of_head), (_, cotangent_of_head) in by_head:
    scores = _scores(query_of_head, key, bias, static.scale)
    exponents, total = _exponents(scores)
    weights = exponents / total
    value_sum[...] += _dot(weights.astype(dtype), cotangent_of_head, 0, 0)
    d_weights = _dot(cotangent_of_head, value, 1, 1)
    mean = jnp.sum(weights * d_weights, axis=1, keepdims=True)
    d_scores = static.scale * weights * (d_weights - mean)
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
