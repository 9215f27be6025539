"""Trains a denoiser with `loop.train`.

experiment + statistics of the records --make_programs--> compiled functions
programs + dataset --> DenoiserTrainer, a `loop.Trainable`
"""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import functools
from typing import TYPE_CHECKING

from absl import logging
import jax

from cxr_diffusion_jax import artifacts, types
from cxr_diffusion_jax.data import balance, pipeline
from cxr_diffusion_jax.run import dataset as dataset_lib
from cxr_diffusion_jax.run import denoiser as denoiser_lib
from cxr_diffusion_jax.run import power_ema as power_ema_lib
from cxr_diffusion_jax.run import state as state_lib
from cxr_diffusion_jax.training import compiled
from cxr_diffusion_jax.training import experiment as experiment_lib
from cxr_diffusion_jax.training import optimizer as optimizer_lib
from cxr_diffusion_jax.training import pretrained as pretrained_lib
from cxr_diffusion_jax.training import step as step_lib

if TYPE_CHECKING:
  from PIL import Image


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenoiserTrainer:
  """A `loop.Trainable`.

  Attributes:
    show: (averaged parameters, step) -> a picture of samples, or None.
  """

  experiment: experiment_lib.Experiment
  dataset: dataset_lib.Dataset
  programs: compiled.Programs
  show: Callable[[types.Params, int], "Image.Image | None"]

  def batches(self, start_step: int) -> Iterator[types.Batch]:
    source = self._source("train")
    if cap := self.experiment.data.balance:
      vocabulary = self.dataset.records.vocabulary
      shares = balance.summary(source.findings, vocabulary, cap)
      logging.info("config.data.balance=%g, shares of findings: %s", cap, shares)
    return compiled.train_batches(source, self.experiment, start_step)

  def validate(self, params: types.Params) -> dict[str, float]:
    """The validation loss with and without the condition, and the gap to training.

    Times and noise are fixed for each row, so losses of different steps, and of
    different runs on the same records, are comparable example by example. `gap` is
    the loss of validation patients less that of training patients, one image of each,
    of a quarter as many: a gap that grows shows memorising.
    """
    num_batches = self.experiment.train.validation_batches

    def mean(source: pipeline.JoinedSource, max_batches: int) -> dict[str, float]:
      sums = compiled.summed(
        self.programs.validation_step,
        params,
        source,
        self.experiment,
        max_batches=max_batches,
      )
      count = sums.pop("count")
      return {name: total / count for name, total in sums.items()}

    validation = self._source("validation")
    losses = mean(validation, num_batches)
    seen, unseen = (
      mean(source.one_per_patient(), -(-num_batches // 4))["loss"]
      for source in (self._source("train"), validation)
    )
    return losses | {"gap": unseen - seen}

  def _source(self, split: str) -> pipeline.JoinedSource:
    return self.dataset.source(split, images=self.experiment.autoencoder is None)


def make(
  experiment: experiment_lib.Experiment,
  dataset: dataset_lib.Dataset,
  show: Callable[[types.Params, int], "Image.Image | None"] = lambda params, step: None,
) -> DenoiserTrainer:
  """Builds the trainer of an experiment; see `DenoiserTrainer` for the arguments."""
  programs = make_programs(experiment, dataset.card.statistics)
  return DenoiserTrainer(
    experiment=experiment, dataset=dataset, programs=programs, show=show
  )


def make_programs(
  experiment: experiment_lib.Experiment, statistics: artifacts.JsonMapping
) -> compiled.Programs:
  """Builds the compiled functions of an experiment."""
  objective = experiment.make_objective(statistics)
  optimizer = optimizer_lib.make_optimizer(
    experiment.optimizer, experiment.train.num_steps
  )
  powers = tuple(power_ema_lib.power(value) for value in experiment.train.power_ema)

  def create(pretrained: Mapping[str, jax.Array]) -> state_lib.TrainState:
    key = denoiser_lib.stream_key(experiment.seed, denoiser_lib.INIT_STREAM)
    projector = None
    if experiment.alignment is not None:
      projector = experiment.alignment.init_fn(jax.random.fold_in(key, 1))
    params = pretrained_lib.merge(experiment.recipe.init_fn(key), pretrained)
    return state_lib.create(params, optimizer.init, len(powers), projector)

  compiler = compiled.Compiler(
    create,
    {},
    mesh=experiment.mesh,
    tensor_parallel=experiment.recipe.network.tensor_parallel,
  )

  def init() -> state_lib.TrainState:
    places = (compiler.shapes.params, compiler.shardings.params)
    # Passed as arguments: as constants, gigabytes would be compiled into the program.
    return compiler.create(pretrained_lib.place(experiment.pretrained, *places))

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
  rows_step = functools.partial(step_lib.rows_step, objective, seed=experiment.seed)
  return compiled.Programs(
    init=init,
    like=compiler.like,
    train_step=compiler.update(train_step),
    validation_step=compiler.evaluate(validation_step),
    examine=compiler.examine(rows_step),
  )
