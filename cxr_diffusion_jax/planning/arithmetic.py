"""What a training step needs on a mesh, by arithmetic: seconds, on any machine.

state      the sharding rules applied to parameters, averages and moments: exact
FLOPs      products of the traced step, at one chip's share of the batch: exact, but
           for `tensor`, whose layers are known by the shapes of their kernels
memory, traffic   of `traced`: estimates
links      gradients reduced over `data`, parameters gathered and scattered over `fsdp`;
           activations summed over `tensor` are not counted
"""

from collections.abc import Callable, Sequence
import dataclasses
import math

import jax
from jax.extend import core

from cxr_diffusion_jax import artifacts, errors, types
from cxr_diffusion_jax.parallel import mesh as mesh_lib
from cxr_diffusion_jax.parallel import sharding
from cxr_diffusion_jax.planning import inputs, traced
from cxr_diffusion_jax.run import recipe as recipe_lib
from cxr_diffusion_jax.run import state as state_lib
from cxr_diffusion_jax.training import denoiser_trainer
from cxr_diffusion_jax.training import experiment as experiment_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
  """What may be changed to make a step fit: the mesh, and how gradients are made."""

  data: int
  fsdp: int = 1
  tensor: int = 1
  remat: bool = False
  accumulation: int = 1

  @property
  def num_chips(self) -> int:
    return self.data * self.fsdp * self.tensor

  @property
  def axes_text(self) -> str:
    """The mesh, such as 'data=2,fsdp=8'."""
    sizes = {axis: getattr(self, axis) for axis in mesh_lib.AXES}
    return ",".join(f"{k}={v}" for k, v in sizes.items() if v > 1) or "data=1"

  def flags_from(self, own: "Setting") -> str:
    """The flags of a command that turn the setting `own` into this one."""
    keys = {
      **{axis: f"parallel.{axis}" for axis in mesh_lib.AXES},
      "remat": "model.remat",
      "accumulation": "optimizer.accumulation",
    }
    return " ".join(
      f"--config.{key}={getattr(self, name)}"
      for name, key in keys.items()
      if getattr(self, name) != getattr(own, name)
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
  """What one chip needs for a step; bytes, FLOPs.

  Attributes:
    parameters: number of the whole network's.
    state: bytes of parameters, averages and moments.
    batch: bytes of its part of a batch.
    sent: bytes that it sends to others, without activations over `tensor`.
    operations: of the traced program, by which its compilation takes longer.
  """

  parameters: int
  state: float
  batch: float
  temporaries: float
  traffic: float
  flops: float
  sent: float
  operations: int

  @property
  def memory(self) -> float:
    """Bytes at the peak."""
    return self.state + self.batch + self.temporaries


class Planner:
  """The training step of a config on any mesh; programs are traced once.

  Args:
    config: its mesh is ignored.
    accelerator: whether 'auto' means what it does on accelerators: bfloat16, and equal
      blocks as one loop.
    batch_size: examples of a step; 0 for the config's.
    device: a device to trace for; nothing runs on it.
  """

  def __init__(
    self,
    config: recipe_lib.Config,
    *,
    accelerator: bool,
    batch_size: int = 0,
    device: types.Device | None = None,
  ):
    self.config = recipe_lib.read_config(config)
    if batch_size:
      train = {**self.config["train"], "batch_size": batch_size}
      self.config = {**self.config, "train": train}
    self._devices = [device or jax.devices()[0]]
    if accelerator:
      model = self.config["model"]
      chosen = {"dtype": "bfloat16", "scan_blocks": "True"}
      self.config["model"] = {
        key: chosen.get(key, value) if value == "auto" else value
        for key, value in model.items()
      }
    self._steps: dict[tuple[int, bool, int], _Traced] = {}

  @property
  def batch_size(self) -> int:
    """Examples of a step, over all chips."""
    return self.config["train"]["batch_size"]

  @property
  def can_remat(self) -> bool:
    """Whether the network has the setting `remat`."""
    return "remat" in self.config["model"]

  def setting(self, mesh_shape: artifacts.JsonMapping) -> Setting:
    """The config's own setting on a mesh."""
    return Setting(
      **{axis: mesh_shape[axis] for axis in mesh_lib.AXES},
      remat=bool(self.config["model"].get("remat", False)),
      accumulation=self.config["optimizer"].get("accumulation", 1),
    )

  def step(self, setting: Setting) -> Step:
    """Estimates a step.

    Raises:
      errors.InputError: the batch does not divide by the mesh.
    """
    parts = setting.data * setting.fsdp
    if self.batch_size % (parts * setting.accumulation):
      raise errors.InputError(
        f"a batch of {self.batch_size}",
        f"a multiple of {parts * setting.accumulation}: {parts} chips that share it,"
        f" {setting.accumulation} parts each",
      )
    traced_step = self._traced(self.batch_size // parts, setting)
    mesh = jax.sharding.AbstractMesh(
      tuple(getattr(setting, axis) for axis in mesh_lib.AXES), mesh_lib.AXES
    )
    state, tensor_parallel = traced_step.state, traced_step.tensor_parallel
    placed = jax.tree.map(
      lambda shape, place: jax.ShapeDtypeStruct(
        shape.shape, shape.dtype, sharding=place
      ),
      state,
      sharding.state_shardings(state, mesh, tensor_parallel),
    )
    shapes = {leaf.shape for leaf in jax.tree.leaves(state.params)}
    split = {
      shape
      for shape in shapes
      if math.prod(shape) >= sharding.FSDP_FLOOR
      and any(side % setting.fsdp == 0 for side in shape)
    }
    estimate = traced.estimate(
      traced_step.program,
      donated=True,
      share=lambda shape: 1 / setting.fsdp if shape in split else 1.0,
      part=_tensor_part(placed.params, setting.tensor),
    )
    whole = sum(
      inputs.num_bytes(leaf) / (setting.tensor if _over_tensor(leaf) else 1)
      for leaf in jax.tree.leaves(placed.params)
    )
    return Step(
      parameters=sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state.params)),
      state=inputs.chip_bytes(placed),
      batch=traced_step.batch,
      temporaries=estimate.temporaries,
      traffic=estimate.traffic,
      flops=estimate.flops,
      sent=_sent(whole, setting),
      operations=estimate.operations,
    )

  def sampling(self, setting: Setting, num_images: int) -> traced.Estimate:
    """Estimates one chip's work on `num_images`, as `sample` draws them."""
    b = -(-num_images // (setting.data * setting.fsdp))
    alone = dataclasses.replace(setting, data=1, fsdp=1, tensor=1, accumulation=1)
    experiment = build(self.config, alone, b, self._devices)
    key = jax.eval_shape(lambda: jax.random.key(0))
    params = jax.eval_shape(experiment.recipe.init_fn, key)
    program = jax.make_jaxpr(inputs.generator(experiment))(
      params, inputs.condition(experiment, b), inputs.keys(b)
    )
    return traced.estimate(program)

  def _traced(self, batch_size: int, setting: Setting) -> "_Traced":
    """The step at one chip's share of the batch."""
    key = (batch_size, setting.remat, setting.accumulation)
    if key not in self._steps:
      alone = dataclasses.replace(setting, data=1, fsdp=1, tensor=1)
      experiment = build(self.config, alone, batch_size, self._devices)
      programs = denoiser_trainer.make_programs(experiment, {})
      state, batch = programs.like(), inputs.train_batch(experiment, batch_size)
      self._steps[key] = _Traced(
        program=jax.make_jaxpr(programs.train_step)(state, batch),
        state=state,
        batch=inputs.num_bytes(batch),
        tensor_parallel=dict(experiment.recipe.network.tensor_parallel),
      )
    return self._steps[key]


def build(
  config: artifacts.JsonMapping,
  setting: Setting,
  batch_size: int,
  devices: Sequence[types.Device],
) -> experiment_lib.Experiment:
  """Builds a config's experiment with a setting and a batch on given devices."""
  model = dict(config["model"])
  if "remat" in model:
    model["remat"] = setting.remat
  changes = {
    "model": model,
    "parallel": {axis: getattr(setting, axis) for axis in mesh_lib.AXES},
    "train": {**config["train"], "batch_size": batch_size},
    "optimizer": {**config["optimizer"], "accumulation": setting.accumulation},
  }
  return experiment_lib.build({**config, **changes}, devices)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Traced:
  """A step at one chip's share of the batch."""

  program: core.ClosedJaxpr
  state: state_lib.TrainState
  batch: float
  tensor_parallel: dict[str, int]


def _over_tensor(parameter: jax.ShapeDtypeStruct) -> bool:
  return "tensor" in parameter.sharding.spec


def _tensor_part(params: types.Params, tensor: int) -> Callable[[core.JaxprEqn], float]:
  """Product -> the part of it that a chip of the axis `tensor` computes."""
  kernels = [leaf for leaf in jax.tree.leaves(params) if len(leaf.shape) == 2]
  divided = {leaf.shape for leaf in kernels if _over_tensor(leaf)}
  whole = {leaf.shape for leaf in kernels} - divided
  whole |= {shape[::-1] for shape in whole}

  def part(product: core.JaxprEqn) -> float:
    shapes = {getattr(v.aval, "shape", ()) for v in (*product.invars, *product.outvars)}
    convolution = product.primitive.name == "conv_general_dilated"
    return 1.0 if convolution or shapes & whole else 1 / tensor

  return part


def _sent(parameters: float, setting: Setting) -> float:
  """Bytes that a chip sends of its part of `tensor`: see `collectives`."""
  data, fsdp = setting.data, setting.fsdp
  held = parameters / fsdp
  reduced = 2 * (data - 1) / data * held
  # Gathered for the prediction and for its gradient, which is then scattered.
  shared = 3 * (fsdp - 1) * held
  # The most: a compiler may gather once for all parts of a batch.
  return setting.accumulation * (reduced + shared)
