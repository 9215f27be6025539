"""The mesh that a program is being traced for.

with on_mesh(mesh): trace a program -> platform(), mesh_axes(...)

Kernels depend on the devices that a program is compiled for. Those need not be the
process's own: a program for a TPU slice can be compiled on any machine.
"""

from collections.abc import Iterator
import contextlib
import contextvars

import jax
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# Set only while a program is traced.
_current: contextvars.ContextVar[Mesh | None] = contextvars.ContextVar(
  "mesh", default=None
)


@contextlib.contextmanager
def on_mesh(mesh: Mesh) -> Iterator[None]:
  """Sets the mesh for a block, or as a decorator for each call of a function.

  Decorate a function inside `jax.jit`, so that the mesh is set whenever it is traced.
  """
  token = _current.set(mesh)
  try:
    yield
  finally:
    _current.reset(token)


def current() -> Mesh | None:
  """The mesh of the innermost `on_mesh`, or None."""
  return _current.get()


def platform() -> str | None:
  """'cpu', 'gpu' or 'tpu', of the mesh's devices; None outside `on_mesh`."""
  mesh = _current.get()
  return None if mesh is None else mesh.devices.flat[0].platform


def axes_of(
  mesh: Mesh, num_rows: int, num_columns: int
) -> tuple[tuple[str, ...] | None, str | None]:
  """The axes that rows and columns of equal size are split over; None for neither.

  Rows are split over all axes but `tensor`, columns over `tensor`, if they divide.
  """
  sizes = dict(mesh.shape)
  tensor = sizes.pop("tensor", 1)
  rows = tuple(sizes) if num_rows % (mesh.size // tensor) == 0 else None
  return rows, "tensor" if tensor > 1 and num_columns % tensor == 0 else None


def split_rows(x: Array) -> Array:
  """x [b ...], a sample whole on one device; the compiler might split it otherwise.

  With parameters split over `fsdp`, it gathers activations of the whole batch instead
  of the parameters of one layer.
  """
  mesh = current()
  if mesh is None or mesh.size == 1:
    return x
  rows, _ = axes_of(mesh, x.shape[0], 1)
  if rows is None:
    return x
  free = (PartitionSpec.UNCONSTRAINED,) * (x.ndim - 1)
  place = NamedSharding(mesh, PartitionSpec(rows, *free))
  return jax.lax.with_sharding_constraint(x, place)
