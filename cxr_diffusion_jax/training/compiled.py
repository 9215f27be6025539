"""The compiled programs of a run, placed on its mesh: init, update, validation.

  init() -> state        train_step(state, batch) -> state, metrics
  validation_step(params, batch) -> sums

This is the place where `jax.jit` meets the mesh (what `pjit` was): parameters,
averages and moments lie as `parallel.sharding` says, batches over `data` and `fsdp`;
the state is donated.
"""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from cxr_diffusion_jax import types
from cxr_diffusion_jax.data import pipeline
from cxr_diffusion_jax.parallel import sharding
from cxr_diffusion_jax.run import dataset as dataset_lib
from cxr_diffusion_jax.run import denoiser as denoiser_lib
from cxr_diffusion_jax.run import power_ema as power_ema_lib
from cxr_diffusion_jax.run import state as state_lib
from cxr_diffusion_jax.training import experiment as experiment_lib
from cxr_diffusion_jax.training import optimizer as optimizer_lib
from cxr_diffusion_jax.training import pretrained as pretrained_lib
from cxr_diffusion_jax.training import step as step_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class Programs:
  """Compiled on first use.

  Attributes:
    objective: what is minimised.
    init: () -> the state of step 0, of the seed and pretrained weights alone.
    like: () -> shapes, types and shardings of a state, for restoring.
    train_step: (state, batch) -> (state, metrics); the first is donated.
    validation_step: (averaged parameters, batch) -> sums.
  """

  objective: step_lib.Objective
  init: Callable[[], state_lib.TrainState]
  like: Callable[[], state_lib.TrainState]
  train_step: Callable[
    [state_lib.TrainState, types.Batch],
    tuple[state_lib.TrainState, dict[str, jax.Array]],
  ]
  validation_step: Callable[[types.Params, types.Batch], dict[str, jax.Array]]


def make_programs(
  experiment: experiment_lib.Experiment, statistics: Mapping[str, Any]
) -> Programs:
  """Builds the programs of a run.

  Args:
    experiment: what to train.
    statistics: of the records, for the codec.
  """
  objective = experiment.make_objective(statistics)
  optimizer = optimizer_lib.make_optimizer(
    experiment.optimizer, experiment.train.num_steps
  )

  powers = tuple(power_ema_lib.power(value) for value in experiment.train.power_ema)

  def create(taken: Mapping[str, jax.Array]) -> state_lib.TrainState:
    key = denoiser_lib.stream_key(experiment.seed, denoiser_lib.INIT_STREAM)
    projector = None
    if experiment.alignment is not None:
      projector = experiment.alignment.init_fn(jax.random.fold_in(key, 1))
    params = pretrained_lib.merge(experiment.recipe.init_fn(key), taken)
    return state_lib.create(params, optimizer.init, len(powers), projector)

  on_cpu = experiment.mesh.devices.flat[0].platform == "cpu"
  shapes = jax.eval_shape(create, {})
  shardings = sharding.state_shardings(shapes, experiment.mesh)
  whole = sharding.replicated(experiment.mesh)
  split = sharding.batch_sharding(experiment.mesh)
  train_step = functools.partial(
    step_lib.train_step,
    objective,
    optimizer,
    seed=experiment.seed,
    ema_decay=experiment.train.ema_decay,
    accumulation=experiment.optimizer.accumulation,
    powers=powers,
  )
  validation_step = functools.partial(
    step_lib.validation_step, objective, seed=experiment.seed
  )
  create = jax.jit(
    create,
    out_shardings=shardings,
    # It runs once: on a CPU, optimising it took four times as long as all the rest.
    compiler_options={"xla_backend_optimization_level": 0} if on_cpu else None,
  )

  def init() -> state_lib.TrainState:
    places = (shapes.params, shardings.params)
    # Arguments: as constants, gigabytes would be compiled into the program.
    return create(pretrained_lib.place(experiment.pretrained, *places))

  return Programs(
    objective=objective,
    init=init,
    like=lambda: jax.tree.map(
      lambda shape, place: jax.ShapeDtypeStruct(
        shape.shape, shape.dtype, sharding=place
      ),
      shapes,
      shardings,
    ),
    train_step=jax.jit(
      train_step,
      in_shardings=(shardings, split),
      out_shardings=(shardings, whole),
      donate_argnums=0,
    ),
    validation_step=jax.jit(
      validation_step,
      in_shardings=(shardings.ema_params, split),
      out_shardings=whole,
    ),
  )


def train_batches(
  experiment: experiment_lib.Experiment,
  dataset: dataset_lib.Dataset,
  *,
  start_step: int,
) -> Iterator[dict[str, np.ndarray]]:
  """Yields this process's part of the batches from a step on, without end."""
  return pipeline.train_batches(
    dataset.source("train", images=experiment.autoencoder is None),
    batch_size=experiment.train.batch_size,
    seed=experiment.seed,
    start_step=start_step,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
    num_workers=experiment.data.num_workers,
  )


def summed(
  function: Callable[[types.Params, types.Batch], Mapping[str, jax.Array]],
  params: types.Params,
  source: pipeline.JoinedSource,
  experiment: experiment_lib.Experiment,
  *,
  max_batches: int,
) -> dict[str, float]:
  """Sums what a program tells of each batch of a split, or of its first batches.

  Args:
    function: compiled, (parameters, batch with `valid`) -> sums.
    params: of it.
    source: of the split.
    experiment: gives the batch's size and the mesh.
    max_batches: 0 for all.
  """
  sums: dict[str, float] = {}
  batches = pipeline.epoch_batches(
    source,
    batch_size=experiment.train.batch_size,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
  )
  for number, batch in enumerate(batches):
    if 0 < max_batches <= number:
      break
    placed = sharding.place_batch(batch, experiment.mesh)
    for name, value in function(params, placed).items():
      sums[name] = sums.get(name, 0.0) + float(value)
  return sums
