"""Compiles the functions of a run and places their arrays on its mesh.

  create() -> state   update(state, batch) -> state, metrics   evaluate(params, batch)

Parameters, averages and moments are sharded as in `parallel.sharding`, batches over
`data` and `fsdp`. Updates donate the state.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import ctypes
import dataclasses
from typing import Protocol

import jax
import numpy as np

from cxr_diffusion_jax import artifacts, types
from cxr_diffusion_jax.data import pipeline
from cxr_diffusion_jax.data import settings as data_settings
from cxr_diffusion_jax.encoders.latents import autoencoders
from cxr_diffusion_jax.models import placement
from cxr_diffusion_jax.parallel import batches as batches_lib
from cxr_diffusion_jax.parallel import mesh as mesh_lib
from cxr_diffusion_jax.parallel import sharding
from cxr_diffusion_jax.run import state as state_lib
from cxr_diffusion_jax.training import divergence, train_settings
from cxr_diffusion_jax.training import optimizer as optimizer_lib


class ExperimentLike(Protocol):
  """What training reads from an experiment, for any network."""

  @property
  def seed(self) -> int: ...

  @property
  def data(self) -> data_settings.DataSettings: ...

  @property
  def train(self) -> train_settings.TrainSettings: ...

  @property
  def optimizer(self) -> optimizer_lib.OptimizerSettings: ...

  @property
  def mesh(self) -> jax.sharding.Mesh: ...

  @property
  def config(self) -> artifacts.JsonMapping: ...

  @property
  def autoencoder(self) -> autoencoders.Autoencoder | None:
    """Encodes the latents that are denoised; copied into the run's folder."""
    ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Programs:
  """The functions of a network's training, compiled on first use.

  Attributes:
    init: () -> the state of step 0; depends only on the seed and pretrained weights.
    like: () -> shapes, dtypes and shardings of a state, for restoring.
    train_step: (state, batch) -> (state, metrics); donates the state.
    validation_step: (averaged parameters, batch) -> sums.
    examine: (state, batch, step) -> values [b] of the rows of that step's batch.
  """

  init: Callable[[], state_lib.TrainState]
  like: Callable[[], state_lib.TrainState]
  train_step: Callable[
    [state_lib.TrainState, types.Batch],
    tuple[state_lib.TrainState, dict[str, jax.Array]],
  ]
  validation_step: Callable[[types.Params, types.Batch], dict[str, jax.Array]]
  examine: Callable[[state_lib.TrainState, types.Batch, int], dict[str, jax.Array]]


class Compiler:
  """`jax.jit` with the shardings of one kind of training state.

  Args:
    example: arguments of `create`, to derive the state's shapes.
    tensor_parallel: the network's layers to split, see `models.network.Network`.
  """

  def __init__(
    self,
    create: Callable[..., state_lib.TrainState],
    *example: types.Params,
    mesh: jax.sharding.Mesh,
    tensor_parallel: Mapping[str, int],
  ):
    self._mesh = mesh
    self._whole = sharding.replicated(mesh)
    self._batch = sharding.batch_sharding(mesh)
    self.shapes = jax.eval_shape(create, *example)
    self.shardings = sharding.state_shardings(self.shapes, mesh, tensor_parallel)
    on_cpu = mesh_lib.platform(mesh) == "cpu"
    self.create = jax.jit(
      create,
      out_shardings=self.shardings,
      # It runs once. On a CPU, optimising it took four times as long as all the rest.
      compiler_options={"xla_backend_optimization_level": 0} if on_cpu else None,
    )

  def like(self) -> state_lib.TrainState:
    """Returns shapes, dtypes and shardings of a state, for restoring."""
    return jax.tree.map(
      lambda shape, place: jax.ShapeDtypeStruct(
        shape.shape, shape.dtype, sharding=place
      ),
      self.shapes,
      self.shardings,
    )

  def update(
    self,
    function: Callable[..., tuple[types.Params, types.Params]],
    *constants: types.Params,
  ) -> Callable[[types.Params, types.Batch], tuple[types.Params, types.Params]]:
    """Compiles (state, batch, *constants) -> (state, metrics), see `guarded`."""
    return self._with_constants(
      divergence.guarded(function),
      constants,
      in_shardings=(self.shardings, self._batch),
      out_shardings=(self.shardings, self._whole),
      donate_argnums=0,
    )

  def evaluate(
    self, function: Callable[..., types.Params], *constants: types.Params
  ) -> Callable[[types.Params, types.Params], types.Params]:
    """Compiles (averaged parameters, batch, *constants) -> arrays on every device."""
    return self._with_constants(
      function,
      constants,
      in_shardings=(self.shardings.ema_params, self._batch),
      out_shardings=self._whole,
    )

  def examine(
    self,
    function: Callable[..., dict[str, jax.Array]],
  ) -> Callable[[state_lib.TrainState, types.Batch, int], dict[str, jax.Array]]:
    """Compiles (state, batch, step) -> values [b] of each row, on every device."""
    function = placement.on_mesh(self._mesh)(divergence.with_inputs(function))
    return jax.jit(function, out_shardings=self._whole)

  def gather(self, params: types.Params) -> types.Params:
    """Copies averaged parameters to every device."""
    shardings = (self.shardings.ema_params,)
    copy = jax.jit(lambda p: p, in_shardings=shardings, out_shardings=self._whole)
    return copy(params)

  def _with_constants(self, function, constants, *, in_shardings, **options):
    # Pass them as arguments: large constants would be compiled into the program.
    placed = jax.device_put(constants, self._whole)
    in_shardings = (*in_shardings, *(self._whole for _ in constants))
    function = placement.on_mesh(self._mesh)(function)
    compiled = jax.jit(function, in_shardings=in_shardings, **options)
    return (lambda *given: compiled(*given, *placed)) if constants else compiled


def release_memory() -> None:
  """Returns what the allocator kept after compiling to the system, with glibc.

  750 MB after the step of a UNet with 35 M parameters.
  """
  with contextlib.suppress(OSError, AttributeError):
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def train_batches(
  source: pipeline.JoinedSource, experiment: ExperimentLike, start_step: int
) -> Iterator[types.Batch]:
  """Yields training batches from a step on, endlessly, placed on the devices."""
  index, count = sharding.batch_part(experiment.mesh)
  batches = pipeline.train_batches(
    source,
    batch_size=experiment.train.batch_size,
    seed=experiment.seed,
    start_step=start_step,
    process_index=index,
    process_count=count,
    balance=experiment.data.balance,
    num_workers=experiment.data.num_workers,
  )
  for batch in batches:
    yield sharding.place_batch(batch, experiment.mesh)


def summed(
  function: Callable[[types.Params, types.Batch], Mapping[str, jax.Array]],
  params: types.Params,
  source: pipeline.JoinedSource,
  experiment: ExperimentLike,
  *,
  max_batches: int,
) -> dict[str, float]:
  """Adds up the results of a compiled function over the batches of a split.

  Args:
    function: (parameters, batch with `valid`) -> sums over the batch.
    max_batches: number of batches to use; 0 for all.
  """
  sums: dict[str, float] = {}
  index, count = sharding.batch_part(experiment.mesh)
  batches = pipeline.epoch_batches(
    source,
    batch_size=experiment.train.batch_size,
    process_index=index,
    process_count=count,
  )
  for number, batch in enumerate(batches):
    if 0 < max_batches <= number:
      break
    placed = sharding.place_batch(batch, experiment.mesh)
    for name, value in function(params, placed).items():
      sums[name] = sums.get(name, 0.0) + float(value)
  return sums


def of_rows(
  function: Callable[[types.Params, types.Batch], jax.Array],
  params: types.Params,
  source: pipeline.JoinedSource,
  mesh: jax.sharding.Mesh,
  *,
  batch_size: int,
  progress: types.Progress = types.no_progress,
) -> np.ndarray:
  """The values of a function (parameters, batch) -> [b ...] for all rows: [n ...].

  Every process reads all rows.
  """
  function = placement.on_mesh(mesh)(function)
  compiled = jax.jit(function, out_shardings=sharding.replicated(mesh))
  parts = mesh.shape["data"] * mesh.shape["fsdp"]
  b = -(-min(batch_size, len(source)) // parts) * parts
  values = []
  for rows, count in batches_lib.batch_rows(len(source), b):
    placed = sharding.place_whole_batch(source.batch(rows.tolist()), mesh)
    values.append(np.asarray(jax.device_get(compiled(params, placed)))[:count])
    progress("losses of rows", int(rows[-1]) + 1, len(source))
  return np.concatenate(values)
