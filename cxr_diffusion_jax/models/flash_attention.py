"""Attention as one TPU kernel (Pallas): no scores in HBM, no copies of narrow heads.

A step of the grid holds all keys of one sample and of the heads that fill 128 lanes,
and one block of queries (Dao et al. 2022, 2205.14135, without its loop over keys). So
the forward pass saves nothing for the gradient, which is one kernel too: jax's own
`flash_attention` saves 1 KB of statistics for each query of each head, and pads heads
of 64 channels to 128. Heads that share lanes are separated by zeros in the queries,
which costs nothing: the matrix unit contracts 128 channels at a time.
"""

import dataclasses
import functools
import math

import jax
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from cxr_diffusion_jax.models import flash_kernels, placement

LANES = 128

# Bytes of on-chip memory that a kernel may use, of 64 MiB or more; the default is 16.
VMEM_LIMIT = 40 * 2**20

# Scores in one block; a few arrays of this size are live at a time.
BLOCK_SCORES = 2**18

# The score of a hidden key, as in `attention_kernels.plain`.
_HIDDEN = float(jnp.finfo(jnp.float32).min)


def fits(num_keys: int, width: int, dtype: jnp.dtype) -> bool:
  """Whether all keys [k h d] of a group of heads of this width fit on the chip."""
  keys = _round_up(num_keys, LANES)
  lanes = max(LANES, _padded_width(width))
  # Keys, values and their gradients, twice for the copies in flight; the sums of the
  # gradients; and scores.
  needed = keys * lanes * (8 * jnp.dtype(dtype).itemsize + 8)
  needed += 6 * 4 * max(BLOCK_SCORES, 16 * keys)
  return needed <= VMEM_LIMIT


def attend(query: Array, key: Array, value: Array, mask: Array | None) -> Array:
  """`attention.attend` of queries [b q h d] to keys [b k h d] with mask [b k].

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
    tiling=flash_kernels.Tiling(
      width=padded_width, group=group, block=block, scale=1 / math.sqrt(width)
    ),
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
  """What the kernels are compiled for; `spec` is that of [b n c] on the mesh."""

  tiling: flash_kernels.Tiling
  interpret: bool
  mesh: Mesh | None
  spec: PartitionSpec


def _padded_width(width: int) -> int:
  """A power of two below 128, from 16; a multiple of 128 above."""
  if width > LANES // 2:
    return _round_up(width, LANES)
  return max(16, 2 ** math.ceil(math.log2(width)))


def _most_queries(num_keys: int) -> int:
  most = BLOCK_SCORES // _round_up(num_keys, LANES)
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
  (out,) = _call(static, flash_kernels.forward, (bias, query, key, value), (query,), ())
  return out


def _forward(static, *operands):
  return _attend(static, *operands), operands


def _backward(static, operands, cotangent):
  _, query, key, value = operands
  sums = pltpu.VMEM((key.shape[1], static.tiling.lanes), jnp.float32)
  gradients = _call(
    static,
    flash_kernels.backward,
    (*operands, cotangent),
    (query, key, value),
    (sums, sums),
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
  tiling = static.tiling

  def local(*operands):
    query, key = operands[masked : masked + 2]
    batch, num_queries, channels = query.shape
    num_keys, lanes = key.shape[1], tiling.lanes
    queries = pl.BlockSpec((1, tiling.block, lanes), lambda b, h, i: (b, i, h))
    keys = pl.BlockSpec((1, num_keys, lanes), lambda b, h, i: (b, 0, h))
    bias = pl.BlockSpec((1, 1, num_keys), lambda b, h, i: (b, 0, 0))
    places = [*([bias] if masked else []), queries, keys, keys, queries]
    backward = len(outputs) > 1
    results = [
      jax.ShapeDtypeStruct(like.shape, like.dtype)
      for like in ((query, key, key) if backward else (query,))
    ]
    heads = channels // tiling.width
    # The estimate is of the formula: without padding of heads and the scores that the
    # backward pass computes again.
    products = (4 if backward else 2) * batch * heads * num_queries * num_keys
    moved = sum(x.size * x.dtype.itemsize for x in (*operands, *results))
    call = pl.pallas_call(
      functools.partial(kernel, tiling, masked),
      out_shape=results,
      grid=(batch, channels // lanes, num_queries // tiling.block),
      in_specs=places[: len(operands)],
      out_specs=[queries, keys, keys] if backward else [queries],
      scratch_shapes=scratch,
      compiler_params=pltpu.CompilerParams(
        dimension_semantics=("parallel", "parallel", "arbitrary"),
        vmem_limit_bytes=VMEM_LIMIT,
      ),
      cost_estimate=pl.CostEstimate(
        flops=round(2 * products / tiling.scale**2),
        transcendentals=batch * heads * num_queries * num_keys,
        bytes_accessed=moved,
      ),
      interpret=static.interpret,
    )
    return tuple(call(*operands))

  if static.mesh is None or static.mesh.size == 1:
    return local(*operands)
  specs = [static.spec] * len(operands)
  if masked:
    specs[0] = PartitionSpec(static.spec[0])
  split = jax.shard_map(
    local,
    mesh=static.mesh,
    in_specs=tuple(specs),
    out_specs=(static.spec,) * len(outputs),
    check_vma=False,
  )
  return split(*operands)
