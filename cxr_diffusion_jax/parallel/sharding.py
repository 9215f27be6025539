"""The placement of a run's arrays on the mesh.

A parameter is split by its path and shape: first the layers that the network names
over `tensor` (column-parallel into a wide layer, row-parallel out of it: Megatron-LM,
1909.08053), then its largest free dimension over `fsdp` (ZeRO, 1910.02054). The paths
of the average and of the optimiser's moments end in the parameters' paths, so the same
rules apply to them.
"""

from collections.abc import Collection, Mapping
import math

import jax
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np

from cxr_diffusion_jax import errors, types

AnyMesh = jax.sharding.Mesh | jax.sharding.AbstractMesh

# Arrays below this many elements cost more to gather than to keep whole.
FSDP_FLOOR = 2**14


def parameter_spec(
  path: tuple[str, ...],
  shape: tuple[int, ...],
  mesh: AnyMesh,
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
  tree: types.Params, mesh: AnyMesh, tensor_parallel: Mapping[str, int]
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


def batch_part(mesh: jax.sharding.Mesh) -> tuple[int, int]:
  """Returns which part of each batch this process reads, and how many parts there are.

  Processes that hold the same rows, as where the axis `tensor` spans hosts, read the
  same part.

  Raises:
    errors.InputError: a process has no device in the mesh, or holds some rows of
      another's part but not all.
  """
  size = mesh.shape["data"] * mesh.shape["fsdp"]
  rows: dict[int, set[int]] = {}
  for device, (row,) in batch_sharding(mesh).devices_indices_map((size,)).items():
    rows.setdefault(device.process_index, set()).update(range(size)[row])
  return part_of(rows, jax.process_index(), jax.process_count())


def part_of(
  rows: Mapping[int, Collection[int]], index: int, count: int
) -> tuple[int, int]:
  """The same from the rows of a batch that each process holds.

  Args:
    rows: process -> its rows, of which each is held by at least one process.
    index: number of a process, of `count`.
  """
  idle = [process for process in range(count) if process not in rows]
  if idle:
    raise errors.InputError(
      f"a mesh without a device of process {', '.join(map(str, idle[:16]))}",
      "devices of every process",
      "set config.parallel.num_devices=0, or start fewer processes",
    )
  parts = sorted({tuple(sorted(part)) for part in rows.values()})
  num_rows = len(set().union(*parts))
  if any(len(part) * len(parts) != num_rows for part in parts):
    raise errors.InputError(
      "a mesh whose axis tensor ends within a host",
      "one that spans whole hosts, or none",
      "make config.parallel.tensor a divisor or a multiple of the devices of a host",
    )
  return parts.index(tuple(sorted(rows[index]))), len(parts)


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
  """Returns the sharding of arrays that every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())


def place_batch(batch: dict[str, np.ndarray], mesh: jax.sharding.Mesh) -> types.Batch:
  """Makes global arrays [b ...] of the rows that this process has read.

  Args:
    batch: the part of the batch that `batch_part` names, [b/parts ...].
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
