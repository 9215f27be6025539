"""The nearest setting of a run that fits its chips' memory, by arithmetic.

own mesh, then more `fsdp`, then `remat`, then `accumulation` --fits--> Setting
"""

from collections.abc import Iterable, Iterator
import dataclasses

from absl import logging
import jax

from cxr_diffusion_jax import errors, types
from cxr_diffusion_jax.parallel import mesh as mesh_lib
from cxr_diffusion_jax.planning import arithmetic, topologies
from cxr_diffusion_jax.run import recipe as recipe_lib
from cxr_diffusion_jax.run import sections

# The estimate's margin: the compiler's figures were up to this much higher on the
# programs of docs/results/plan.md.
MARGIN = 1.15


def meshes(own: arithmetic.Setting) -> Iterator[arithmetic.Setting]:
  """Yields meshes of as many chips, with ever more `fsdp`: less memory, more links."""
  shared = own.data * own.fsdp
  for fsdp in range(own.fsdp, shared + 1):
    if shared % fsdp == 0:
      yield dataclasses.replace(own, data=shared // fsdp, fsdp=fsdp)


def candidates(
  own: arithmetic.Setting, batch_size: int, can_remat: bool
) -> Iterator[arithmetic.Setting]:
  """Yields settings, from the own one to those that need ever less memory.

  More fsdp costs links, remat a third of the FLOPs, accumulation smaller products.
  """
  *_, widest = meshes(own)
  yield from meshes(own)
  if can_remat and not own.remat:
    yield from meshes(dataclasses.replace(own, remat=True))
    widest = dataclasses.replace(widest, remat=True)
  accumulation = own.accumulation * 2
  while batch_size % (own.data * own.fsdp * accumulation) == 0:
    yield dataclasses.replace(widest, accumulation=accumulation)
    accumulation *= 2


def first_that_fits(
  planner: arithmetic.Planner,
  settings: Iterable[arithmetic.Setting],
  memory: float,
  *,
  factor: float = MARGIN,
) -> tuple[arithmetic.Setting, arithmetic.Step] | None:
  """Returns the first setting that fits into a chip's memory, or None.

  Args:
    factor: by which estimated temporaries are multiplied.
  """
  for setting in settings:
    step = planner.step(setting)
    if step.state + step.batch + factor * step.temporaries <= memory:
      return setting, step
  return None


def nearest(
  planner: arithmetic.Planner,
  own: arithmetic.Setting,
  memory: float,
  *,
  factor: float = MARGIN,
) -> tuple[arithmetic.Setting, arithmetic.Step] | None:
  """Returns the first of the `candidates` that fits, or None."""
  settings = list(candidates(own, planner.batch_size, planner.can_remat))
  # Tracing takes seconds: where the last one does not fit, no other does.
  if not first_that_fits(planner, settings[-1:], memory, factor=factor):
    return None
  return first_that_fits(planner, settings, memory, factor=factor)


def smallest_slice(
  planner: arithmetic.Planner, own: arithmetic.Setting, topology: topologies.Topology
) -> topologies.Topology | None:
  """Returns the smallest larger topology of the same chip where a setting fits."""
  for other in topologies.larger(topology):
    if planner.batch_size % other.num_chips or other.num_chips % own.tensor:
      continue
    wider = dataclasses.replace(own, data=other.num_chips // own.tensor, fsdp=1)
    if nearest(planner, wider, topology.chip.memory):
      return other
  return None


def settle(config: recipe_lib.Config) -> recipe_lib.Config:
  """Returns the config of a run, with a mesh that fits if `parallel.mesh` is 'auto'.

  The choice follows from the config and the devices alone, so that all hosts of a run
  make the same one.

  Raises:
    errors.InputError: no mesh fits.
  """
  plain = recipe_lib.read_config(config)
  parallel = plain["parallel"]
  if parallel.get("mesh", "axes") != "auto":
    return config
  mesh = sections.make(
    mesh_lib.make_mesh, "parallel", parallel, given={"devices": None}
  )
  device = mesh.devices.flat[0]
  memory = _memory(device)
  if memory is None:
    logging.info("config.parallel.mesh=auto: the memory of a device is unknown")
    return config
  planner = arithmetic.Planner(
    plain, accelerator=device.platform != "cpu", device=jax.local_devices()[0]
  )
  setting = choose_mesh(planner, planner.setting(mesh.shape), memory)
  axes = {axis: getattr(setting, axis) for axis in mesh_lib.AXES}
  return {**plain, "parallel": {**parallel, **axes}}


def choose_mesh(
  planner: arithmetic.Planner, own: arithmetic.Setting, memory: float
) -> arithmetic.Setting:
  """Returns the first of the `meshes` that fits, and logs it.

  Raises:
    errors.InputError: none fits.
  """
  chosen = first_that_fits(planner, meshes(own), memory)
  if chosen is None:
    other = nearest(planner, own, memory)
    raise errors.InputError(
      f"config.parallel.mesh='auto': no mesh of {own.num_chips} devices fits their"
      f" {memory / 1e9:.1f} GB each",
      "more devices, or a smaller config.train.batch_size",
      "" if other is None else other[0].flags_from(own),
    )
  setting, step = chosen
  logging.info(
    "config.parallel.mesh=auto chose %s: about %.1f of %.1f GB a device",
    setting.axes_text,
    step.memory / 1e9,
    memory / 1e9,
  )
  return setting


def _memory(device: types.Device) -> float | None:
  """Bytes that a device's programs may use, the same on all hosts; None if unknown."""
  chip = topologies.chip_of(device.device_kind)
  if chip is not None:
    return chip.memory
  statistics = device.memory_stats() if device.platform != "cpu" else None
  # Hosts may report slightly different limits.
  return statistics["bytes_limit"] // 2**30 * 2**30 if statistics else None
