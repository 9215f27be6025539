"""The placement of a run's arrays on the mesh.

A parameter is split by its path and shape: first the layers that the network names
over `tensor` (column-parallel into a wide layer, row-parallel out of it: Megatron-LM,
1909.08053), then its largest free dimension over `fsdp` (ZeRO, 1910.02054). The paths
of the average and of the optimiser's moments end in the parameters' paths, so the same
rules apply to them.
"""

from collections.abc import Mapping
import math

import jax
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np

from cxr_diffusion_jax import types

# Arrays below this many elements cost more to gather than to keep whole.
FSDP_FLOOR = 2**14


def parameter_spec(
  path: tuple[str, ...],
  shape: tuple[int, ...],
  mesh: jax.sharding.Mesh,
  tensor_parallel: Mapping[str, int],
) -> PartitionSpec:
  """Returns how one parameter is split.

  Args:
    tensor_parallel: layer name -> axis of its matrix that is split over `tensor`.
  """
  axes: list[str | None] = [None] * len(shape)
  tensor, fsdp = mesh.shape["tensor"], mesh.shape["fsdp"]
  if tensor > 1 and path[-1] in ("kernel", "weight") and len(shape) == 2:
    named = (tensor_parallel[name] for name in path if name in tensor_parallel)
    dimension = next(named, None)
    if dimension is not None and shape[dimension] % tensor == 0:
      axes[dimension] = "tensor"
  if fsdp > 1 and math.prod(shape) >= FSDP_FLOOR:
    free = [i for i, axis in enumerate(axes) if axis is None and shape[i] % fsdp == 0]
    if free:
      axes[max(free, key=lambda i: shape[i])] = "fsdp"
  return PartitionSpec(*axes)


def state_shardings(
  tree: types.Params, mesh: jax.sharding.Mesh, tensor_parallel: Mapping[str, int]
) -> types.Params:
  """Returns the sharding of every array of a tree (parameters, moments, averages)."""

  def place(path, leaf) -> NamedSharding:
    names = tuple(
      str(getattr(entry, "key", getattr(entry, "name", getattr(entry, "idx", ""))))
      for entry in path
    )
    return NamedSharding(
      mesh, parameter_spec(names, np.shape(leaf), mesh, tensor_parallel)
    )

  return jax.tree_util.tree_map_with_path(place, tree)


def batch_sharding(mesh: jax.sharding.Mesh) -> NamedSharding:
  """Returns the sharding of a batch: its leading axis over `data` and `fsdp`."""
  return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
  """Returns the sharding of arrays that every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())


def place_batch(batch: dict[str, np.ndarray], mesh: jax.sharding.Mesh) -> types.Batch:
  """Makes global arrays [b ...] of the rows [b_local ...] that this process has read.

  Every process has read the same number.
  """
  sharding = batch_sharding(mesh)
  return {
    name: jax.make_array_from_process_local_data(sharding, value)
    for name, value in batch.items()
  }


def place_whole_batch(
  batch: dict[str, np.ndarray], mesh: jax.sharding.Mesh
) -> types.Batch:
  """Makes global arrays [b ...] of rows [b ...] that every process holds all of."""
  sharding = batch_sharding(mesh)
  # Not `device_put`: it compares the processes' values, and nan is never equal.
  return {
    name: jax.make_array_from_callback(np.shape(value), sharding, value.__getitem__)
    for name, value in batch.items()
  }
