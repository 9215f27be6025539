"""Where a run's scalars and pictures go: CLU's writer, opened late and closed always.

train --write_scalars, write_images--> TensorBoard's events in WORKDIR, and the log
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import pathlib
from typing import Any

from absl import logging
import jax

from cxr_diffusion_jax import errors, types


def list_parameters(workdir: pathlib.Path, name: str, shapes: types.Params) -> None:
  """Writes WORKDIR/parameters.txt and logs how many there are.

  Args:
    workdir: of the run.
    name: of the network, for the log.
    shapes: of its parameters.
  """
  # Imports tensorflow, which takes seconds: not before wrong input had its say.
  from clu import parameter_overview

  overview = parameter_overview.get_parameter_overview(shapes, include_stats=False)
  if jax.process_index() == 0:
    (workdir / "parameters.txt").write_text(overview + "\n")
  logging.info(
    "%s: %s parameters, listed in parameters.txt",
    name,
    f"{parameter_overview.count_parameters(shapes):,}",
  )


def write_scalars(
  workdir: pathlib.Path, step: int, scalars: Mapping[str, float]
) -> None:
  """Adds scalars to the events of a run that is over.

  Args:
    workdir: of the run.
    step: of its checkpoint.
    scalars: tag -> value.
  """
  from clu import metric_writers

  writer = metric_writers.SummaryWriter(str(workdir))
  with contextlib.closing(writer):
    writer.write_scalars(step, scalars)


@contextlib.contextmanager
def opened(
  workdir: pathlib.Path,
  config: Mapping[str, Any],
  *,
  num_steps: int,
  profile_steps: int,
) -> Iterator[tuple[Any, list[Callable[[int], None]]]]:
  """Opens the writer of a run, and closes it whatever happens.

  What it was told before explains an error.

  Args:
    workdir: of the run.
    config: flat, written as hyperparameters.
    num_steps: of the run, for the time to go.
    profile_steps: see `TrainSettings`.

  Yields:
    The writer, and what is to be called after each step with its number.

  Raises:
    errors.InputError: events could not be written.
  """
  from clu import asynclib, metric_writers, periodic_actions

  writer = metric_writers.create_default_writer(
    workdir, just_logging=jax.process_index() > 0
  )
  actions = [
    periodic_actions.ReportProgress(
      num_train_steps=num_steps, writer=writer, every_secs=20
    )
  ]
  if profile_steps:
    actions.append(
      periodic_actions.Profile(logdir=str(workdir), num_profile_steps=profile_steps)
    )
  try:
    with contextlib.closing(writer):
      writer.write_hparams(config)
      yield writer, actions
  except asynclib.AsyncError as error:
    if isinstance(error.__context__, errors.InputError):
      # Closing failed too; what came first is what is told.
      raise error.__context__ from error
    raise errors.InputError(
      f"TensorBoard's events could not be written to {workdir}"
      f" ({str(error).split(';')[-1].split('[')[0].strip()})",
      fix="make room, then repeat the command",
    ) from error
