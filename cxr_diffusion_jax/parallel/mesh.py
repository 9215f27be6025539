"""The device mesh: axes `data`, `fsdp` and `tensor`, one of them filled up.

batch is split over data x fsdp; parameters over fsdp and tensor.
"""

from collections.abc import Sequence
import math

import jax
from jax.experimental import mesh_utils

from cxr_diffusion_jax import errors, naming, types

AXES = ("data", "fsdp", "tensor")


def make_mesh(
  *,
  data: int = -1,
  fsdp: int = 1,
  tensor: int = 1,
  num_devices: int = 0,
  mesh: str = "axes",
  devices: Sequence[types.Device] | None = None,
) -> jax.sharding.Mesh:
  """Builds the mesh of a run.

  The axis types are Auto: the compiler places what the code does not, and
  `nn.Conv` does not run under the Explicit axes that `jax.make_mesh` would choose.

  Args:
    data: copies of the parameters that each see another part of the batch.
    fsdp: parts that parameters, their averages and moments are split into.
    tensor: parts that the width of attention and feed-forward layers is split into.
    num_devices: devices to use; 0 for all. One of the axes may be -1: as many as
      the devices fill.
    mesh: 'axes' for the sizes above; 'auto' to let `main` choose data and fsdp by
      memory (`planning.mesh_choice`), which replaces them before this is called.
    devices: the devices to use, such as those of a topology that is compiled for;
      None for those of this run.

  Raises:
    errors.InputError: more devices are asked for than there are, or the axes do
      not multiply to the number of devices.
  """
  naming.check("config.parallel.mesh", mesh, ("auto", "axes"))
  available = list(jax.devices() if devices is None else devices)
  if num_devices > len(available) or num_devices < 0:
    raise errors.InputError(
      f"config.parallel.num_devices={num_devices}",
      f"0 (all) to {len(available)}, the {available[0].platform} devices of this run",
      "ask for fewer devices, or start on a machine with more",
    )
  chosen = available[:num_devices] if num_devices else available
  sizes = axis_sizes(len(chosen), data=data, fsdp=fsdp, tensor=tensor)
  shape = tuple(sizes[name] for name in AXES)
  # Only where no product of whole physical axes has the size does JAX split one.
  grid = mesh_utils.create_device_mesh(shape, chosen, allow_split_physical_axes=True)
  return jax.sharding.Mesh(
    grid, AXES, axis_types=(jax.sharding.AxisType.Auto,) * len(AXES)
  )


def axis_sizes(
  num_devices: int, *, data: int = -1, fsdp: int = 1, tensor: int = 1
) -> dict[str, int]:
  """Returns the size of each axis of a mesh; one may be -1, see `make_mesh`.

  Raises:
    errors.InputError: the axes do not multiply to the number of devices.
  """
  sizes = {"data": data, "fsdp": fsdp, "tensor": tensor}
  free = [name for name, size in sizes.items() if size == -1]
  fixed = math.prod(size for size in sizes.values() if size != -1)
  if len(free) > 1 or any(size == 0 or size < -1 for size in sizes.values()):
    raise errors.InputError(
      f"config.parallel axes {sizes}", "positive sizes, at most one of them -1"
    )
  fills = num_devices % fixed == 0 and (free or fixed == num_devices)
  if not fills:
    raise errors.InputError(
      f"config.parallel axes {sizes}, which make {fixed} of {num_devices} devices",
      "sizes whose product is the number of devices, or one of them -1",
      "change config.parallel, or set config.parallel.num_devices",
    )
  for name in free:
    sizes[name] = num_devices // fixed
  return sizes


def platform(mesh: jax.sharding.Mesh) -> str:
  """Returns the platform of a mesh's devices: 'cpu', 'gpu' or 'tpu'.

  It may differ from `jax.default_backend()`: programs are also compiled for other
  machines.
  """
  return mesh.devices.flat[0].platform
