"""Attention as one TPU kernel (Pallas): no scores in HBM, no copies of narrow heads.

A step of the grid holds all keys of one sample and of the heads that fill 128 lanes,
and one block of queries (Dao et al. 2022, 2205.14135, without its loop over keys). So
the forward pass saves nothing for the gradient, which is one kernel too: jax's own
`flash_attention` saves 1 KB of statistics for each query of each head, and pads heads
of 64 channels to 128. Heads that share lanes are separated by zeros in the queries,
which costs nothing: the matrix unit contracts 128 channels at a time.
"""

from collections.abc import Callable, Mapping
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
from cxr_diffusion_jax.models import heads as heads_lib

LANES = 128
SCALES = ("query_scale", "key_scale")

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
  # Keys, values and their gradients, twice for the copies in flight, and prepared keys;
  # sums of the gradients and twice the tables of positions; and scores.
  needed = keys * lanes * (9 * jnp.dtype(dtype).itemsize + 6 * 4)
  needed += 6 * 4 * max(BLOCK_SCORES, 16 * keys)
  return needed <= VMEM_LIMIT


def attend(
  query: Array,
  key: Array,
  value: Array,
  mask: Array | None = None,
  preparation: heads_lib.Preparation | None = None,
) -> Array:
  """`attention.attend` of queries [b q h d] to keys [b k h d] with mask [b k].

  Split over the mesh of `placement.on_mesh`; interpreted, slowly, where that is not of
  TPUs.
  """
  batch, num_queries, heads, channels = query.shape
  mesh = placement.current()
  rows, columns = placement.axes_of(mesh, batch, heads) if mesh else (None, None)
  parts = mesh.shape["tensor"] if mesh and columns else 1
  width = _padded_width(channels)
  group = max(1, LANES // width)
  num_blocks = -(-num_queries // _most_queries(key.shape[1]))
  block = _round_up(-(-num_queries // num_blocks), 16)
  tiling = flash_kernels.Tiling(
    channels=channels, width=width, group=group, block=block
  )
  more = _round_up(heads // parts, group) * parts - heads
  padded = block * num_blocks, _round_up(key.shape[1], LANES)

  def lay_out(x: Array, length: int) -> Array:
    padding = ((0, 0), (0, length - x.shape[1]), (0, more), (0, width - channels))
    return jnp.pad(x, padding).reshape(batch, length, -1)

  constants = _tables(preparation, tiling, max(padded))
  bias = _bias(mask, batch, key.shape[1], padded[1])
  if bias is not None:
    constants["bias"] = bias
  static = _Static(
    tiling=tiling,
    interpret=placement.platform() != "tpu",
    mesh=mesh,
    spec=PartitionSpec(rows, None, columns),
  )
  out = _attend(
    static,
    constants,
    _scales(preparation, tiling),
    lay_out(query, padded[0]),
    lay_out(key, padded[1]),
    lay_out(value, padded[1]),
  )
  out = jnp.asarray(out).reshape(batch, padded[0], -1, width)
  return out[:, :num_queries, :heads, :channels]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Static:
  """What the kernels are compiled for; `spec` is that of [b n c] on the mesh."""

  tiling: flash_kernels.Tiling
  interpret: bool
  mesh: Mesh | None
  spec: PartitionSpec


def _tables(
  preparation: heads_lib.Preparation | None, tiling: flash_kernels.Tiling, length: int
) -> dict[str, Array]:
  """`cos` and `sin` [length lanes] of the angles; 0 for padding."""
  if preparation is None or preparation.angles is None:
    return {}
  cos, sin = jnp.cos(preparation.angles), jnp.sin(preparation.angles)
  halves = {"cos": (cos, cos), "sin": (-sin, sin)}
  padding = ((0, length - len(cos)), (0, tiling.width - tiling.channels))
  return {
    name: jnp.tile(jnp.pad(jnp.concatenate(pair, axis=1), padding), (1, tiling.group))
    for name, pair in halves.items()
  }


def _scales(
  preparation: heads_lib.Preparation | None, tiling: flash_kernels.Tiling
) -> dict[str, Array]:
  """`query_scale` and `key_scale` [1 lanes] of normalised heads."""
  if preparation is None or preparation.scales is None:
    return {}
  padding = (0, tiling.width - tiling.channels)
  return {
    name: jnp.tile(jnp.pad(scale.astype(jnp.float32), padding), tiling.group)[None]
    for name, scale in zip(
      ("query_scale", "key_scale"), preparation.scales, strict=True
    )
  }


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
  static: _Static,
  constants: dict[str, Array],
  scales: dict[str, Array],
  query: Array,
  key: Array,
  value: Array,
) -> Array:
  """[b q c] over all heads' channels, whose lengths the blocks divide."""
  inputs = {**constants, **scales, "query": query, "key": key, "value": value}
  return _call(static, flash_kernels.forward, inputs, {"out": "query"})["out"]


def _forward(static, *operands):
  return _attend(static, *operands), operands


def _backward(static, operands, cotangent):
  constants, scales, query, key, value = operands
  inputs = {"query": query, "key": key, "value": value, "cotangent": cotangent}
  inputs = {**constants, **scales, **inputs}
  like = {f"d_{name}": name for name in (*scales, "query", "key", "value")}
  gradients = _call(static, flash_kernels.backward, inputs, like)
  # Each sample and group of heads has its own part.
  of_scales = {name: jnp.sum(gradients[f"d_{name}"], axis=(0, 1)) for name in scales}
  of_arrays = (gradients[f"d_{name}"] for name in ("query", "key", "value"))
  return None, of_scales, *of_arrays


_attend.defvjp(_forward, _backward)


def _cost(
  tiling: flash_kernels.Tiling,
  inputs: Mapping[str, Array],
  results: Mapping[str, jax.ShapeDtypeStruct],
) -> pl.CostEstimate:
  """Of the formula: without padding of heads and without scores computed again."""
  batch, num_queries, channels = inputs["query"].shape
  pairs = num_queries * inputs["key"].shape[1]
  scores = batch * (channels // tiling.lanes * tiling.group) * pairs
  products = 4 if "d_query" in results else 2
  arrays = (*inputs.values(), *results.values())
  moved = sum(x.size * jnp.dtype(x.dtype).itemsize for x in arrays)
  flops = 2 * products * scores * tiling.channels
  return pl.CostEstimate(flops=flops, transcendentals=scores, bytes_accessed=moved)


def _call(
  static: _Static,
  kernel: Callable[[flash_kernels.Tiling, flash_kernels.Refs], None],
  inputs: dict[str, Array],
  outputs: dict[str, str],
) -> dict[str, Array]:
  """Runs a kernel on each device's samples and heads.

  Args:
    outputs: name of a result -> that of the input whose shape it has, or of a scale.
  """
  tiling = static.tiling

  def local(inputs: dict[str, Array]) -> dict[str, Array]:
    query = inputs["query"]
    batch, num_queries, channels = query.shape
    groups = channels // tiling.lanes
    results = {
      name: jax.ShapeDtypeStruct(inputs[like].shape, query.dtype)
      if inputs[like].ndim == 3
      else jax.ShapeDtypeStruct((batch, groups, 1, tiling.lanes), jnp.float32)
      for name, like in outputs.items()
    }
    scratch = flash_kernels.scratch(
      tiling,
      inputs["key"],
      prepared=bool(inputs.keys() & {"cos", "key_scale"}),
      backward="d_query" in outputs,
    )

    def blocks(
      arrays: Mapping[str, Array | jax.ShapeDtypeStruct],
    ) -> list[pl.BlockSpec]:
      return [
        flash_kernels.block_spec(name, x.shape, tiling) for name, x in arrays.items()
      ]

    def body(*refs: jax.Ref) -> None:
      kernel(tiling, dict(zip((*inputs, *results, *scratch), refs, strict=True)))

    call = pl.pallas_call(
      body,
      out_shape=list(results.values()),
      grid=(batch, groups, num_queries // tiling.block),
      in_specs=blocks(inputs),
      out_specs=blocks(results),
      scratch_shapes=list(scratch.values()),
      compiler_params=pltpu.CompilerParams(
        dimension_semantics=("parallel", "parallel", "arbitrary"),
        vmem_limit_bytes=VMEM_LIMIT,
      ),
      cost_estimate=_cost(tiling, inputs, results),
      interpret=static.interpret,
    )
    return dict(zip(results, call(*inputs.values()), strict=True))

  if static.mesh is None or static.mesh.size == 1:
    return local(inputs)
  rows, _, columns = static.spec

  def spec(name: str) -> PartitionSpec:
    if name.endswith("_scale") and name in outputs:
      return PartitionSpec(rows, columns)
    if name == "bias":
      return PartitionSpec(rows)
    replicated = name in ("cos", "sin", *SCALES)
    return PartitionSpec() if replicated else static.spec

  split = jax.shard_map(
    local,
    mesh=static.mesh,
    in_specs=({name: spec(name) for name in inputs},),
    out_specs={name: spec(name) for name in outputs},
    check_vma=False,
  )
  return split(inputs)
