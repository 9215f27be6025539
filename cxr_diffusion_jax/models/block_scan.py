"""Applies equal blocks one after the other, or in a loop that is compiled once.

x <- block_i(x, *inputs), i = 0 ... n - 1

unrolled   n copies of the block in the program: compile time grows with n
scanned    stack(params_0 ... params_n-1) --jax.lax.scan--> one copy

Each block has its own subtree of parameters either way, so that checkpoints, sharding
rules and published weights do not depend on the choice. On CPUs, XLA computes gradients
of convolutions in loops on a slow path, and a loop of matrix products gains nothing.
"""

from collections.abc import Callable, Sequence
import functools

from flax import linen as nn
import jax
from jax import Array, ad_checkpoint
import jax.numpy as jnp

from cxr_diffusion_jax import types
from cxr_diffusion_jax.models import placement

_KEPT = "kept"


def apply_blocks(
  parent: nn.Module,
  kind: Callable[..., nn.Module],
  fields: tuple[object, ...],
  names: Sequence[str],
  x: Array,
  *inputs: types.Params,
  scan: bool,
  remat: bool,
  dtype: jnp.dtype,
) -> Array:
  """Applies blocks of equal fields and shapes, from within a compact method.

  Initialisation is always unrolled, and so are fewer than two blocks. Dropout of
  scanned blocks draws other masks than that of unrolled ones. A scanned block cannot
  sow.

  Args:
    parent: the module that has the blocks as children.
    kind: the class of the blocks.
    fields: of every block.
    names: of the blocks, in their order.
    x: of any shape, which each block preserves, as it does the dtype.
    inputs: of every block besides x.
    remat: keep only each block's input for the backward pass. Otherwise, a loop keeps
      the results of linear layers and what is marked as `kept`; without a choice, it
      would keep every intermediate result.
    dtype: to which the blocks cast kernels. Only these are cast before they are
      stacked, to save memory and communication.
  """
  if not scan or len(names) < 2 or parent.is_initializing():
    kind = nn.remat(kind) if remat else kind
    for name in names:
      x = kind(*fields, name=name)(placement.split_rows(x), *inputs)
    return x
  params = [parent.variables["params"][name] for name in names]
  block = kind(*fields, parent=None)
  keys = None
  if parent.has_rng("dropout"):
    keys = jax.random.split(parent.make_rng("dropout"), len(names))

  @functools.partial(
    jax.checkpoint,
    # Rounds of a loop are never merged with their recomputation.
    prevent_cse=False,
    policy=None if remat else _kept(),
  )
  def body(x: Array, own: types.Params) -> tuple[Array, None]:
    params, key = _gather(own[0]), own[1]
    rngs = {} if key is None else {"dropout": key}
    x = placement.split_rows(x)
    x = jnp.asarray(block.apply({"params": params}, x, *inputs, rngs=rngs))
    return placement.split_rows(x), None

  return jax.lax.scan(body, x, (_stack(params, dtype), keys))[0]


def _gather(params: types.Params) -> types.Params:
  """One block's parameters, whole on every device if none is split over `tensor`.

  Otherwise the partitioner takes a loop's `fsdp` for tensor parallelism: it would
  gather the activations of the whole batch in place of an MLP's kernels.
  """
  mesh = placement.current()
  if mesh is None or mesh.size == 1 or mesh.shape.get("tensor", 1) > 1:
    return params
  whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  return jax.lax.with_sharding_constraint(params, whole)


def kept(x: Array) -> Array:
  """Marks what a scanned block keeps for the backward pass, besides its layers."""
  return ad_checkpoint.checkpoint_name(x, _KEPT)


def _kept() -> Callable[..., bool]:
  """Which results a loop keeps without `remat`."""
  policies = jax.checkpoint_policies
  return policies.save_from_both_policies(
    policies.dots_with_no_batch_dims_saveable, policies.save_only_these_names(_KEPT)
  )


def _stack(trees: Sequence[types.Params], dtype: jnp.dtype) -> types.Params:
  """Arrays [...] of n trees -> [n ...], kernels in `dtype`."""

  def stack(path, *leaves):
    if path[-1].key == "kernel":
      leaves = [leaf.astype(dtype) for leaf in leaves]
    return jnp.stack(leaves)

  return jax.tree_util.tree_map_with_path(stack, *trees)
