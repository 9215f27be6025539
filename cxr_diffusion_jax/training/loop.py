"""The training run: from the newest checkpoint, or from nothing, to the last step.

  restore or init -> [batch -> update -> log, validate, sample, save]* -> last save

The same command started again goes on. A signal (SIGTERM, SIGINT) saves and ends the
run in good order; a loss that is not finite ends it with the last checkpoint whole.
"""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import pathlib
import signal
from typing import Any

from absl import logging
import jax
import numpy as np

from cxr_diffusion_jax import types
from cxr_diffusion_jax.encoders import opening as encoders
from cxr_diffusion_jax.parallel import distributed, sharding
from cxr_diffusion_jax.run import checkpoints, snapshots
from cxr_diffusion_jax.run import dataset as dataset_lib
from cxr_diffusion_jax.run import files as run_files
from cxr_diffusion_jax.run import state as state_lib
from cxr_diffusion_jax.training import compiled as programs_lib
from cxr_diffusion_jax.training import experiment as experiment_lib
from cxr_diffusion_jax.training import metrics_logger as meter_lib
from cxr_diffusion_jax.training import start as start_lib


@dataclasses.dataclass
class History:
  """What a run remembers of its validations; travels in each checkpoint.

  Attributes:
    best_loss: smallest validation loss so far.
    best_step: where.
    since_best: validations since then.
  """

  best_loss: float = float("inf")
  best_step: int = 0
  since_best: int = 0

  def add(self, step: int, loss: float) -> None:
    if loss < self.best_loss:
      self.best_loss, self.best_step, self.since_best = loss, step, 0
    else:
      self.since_best += 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
  """How a call of `train` ended.

  Attributes:
    state: after the last update done.
    history: of its validations.
    reason: 'finished', 'interrupted' or 'no improvement'.
    signal_number: the signal that interrupted it, or 0.
  """

  state: state_lib.TrainState
  history: History
  reason: str
  signal_number: int = 0


def train(
  experiment: experiment_lib.Experiment,
  dataset: dataset_lib.Dataset,
  workdir: pathlib.Path,
  *,
  writer: Any,
  actions: Sequence[Callable[[int], None]] = (),
  show: Callable[[types.Params, int], None] = lambda params, step: None,
  programs: programs_lib.Programs | None = None,
  measure: Callable[[types.Params, int], float] | None = None,
) -> Outcome:
  """Trains until the last step, a signal, or no improvement.

  Args:
    experiment: what to train.
    dataset: on what.
    workdir: holds `checkpoints/`; an unfinished run there is gone on with.
    writer: a CLU metric writer (`write_scalars`, `flush`).
    actions: called after each step with its number (CLU's periodic actions).
    show: called with averaged parameters and step to make a picture of samples.
    programs: of another network than a denoiser (see `autoencoder`), which comes with
      an experiment that has what this file reads of one.
    measure: (averaged parameters, step) -> validation loss, for such a network.

  Raises:
    errors.InputError: the checkpoints are of another config or other data, the loss
      is not finite, or a checkpoint cannot be written.
  """
  settings = experiment.train
  if programs is None:
    programs = programs_lib.make_programs(experiment, dataset.card.statistics)
  card = dataset.card
  run = {
    "format": run_files.FORMAT,
    "config": experiment.config,
    "data": card.to_json(),
  }
  with (
    checkpoints.open_manager(
      workdir, keep=settings.keep, keep_every=settings.keep_every
    ) as manager,
    snapshots.keeper(workdir, settings.power_ema) as keep_averages,
    distributed.signals() as received,
  ):
    state, saved = start_lib.start(experiment.config, programs, manager, card)
    history = History(**saved)
    checkpoints.check_space(manager, state)
    if jax.process_index() == 0:
      run_files.write(workdir, experiment.config, card)
      encoders.export(dataset.settings, dataset.columns, workdir)
    if int(state.step) == 0 and settings.sample_every:
      show(state.ema_params, 0)
    meter = meter_lib.Meter(experiment, writer, int(state.step))
    reason = "finished"
    if 0 < settings.patience <= history.since_best:
      # The same command again, after it ended so.
      reason = "no improvement"
    elif int(state.step) < settings.num_steps:

      def of_denoiser(ema_params: types.Params, step: int) -> float:
        return validate(experiment, programs, dataset, ema_params, writer, step)

      def save(state: state_lib.TrainState, loss: float | None) -> None:
        meter.check_finite()
        entry = {**run, "history": dataclasses.asdict(history)}
        checkpoints.save(manager, state, entry, loss)
        logging.info("saving checkpoints/%d", int(state.step))

      state, reason = _steps(
        experiment,
        programs,
        state,
        history,
        meter,
        batches=programs_lib.train_batches(
          experiment, dataset, start_step=int(state.step)
        ),
        stop=lambda step: bool(received) or manager.reached_preemption(step),
        measure=measure or of_denoiser,
        save=save,
        keep_averages=keep_averages,
        show=show,
        actions=actions,
      )
    checkpoints.wait(manager)
  writer.flush()
  # On several hosts, JAX's preemption service received it.
  number = [*received, signal.SIGTERM][0] if reason == "interrupted" else 0
  return Outcome(state=state, history=history, reason=reason, signal_number=number)


def _steps(
  experiment: experiment_lib.Experiment,
  programs: programs_lib.Programs,
  state: state_lib.TrainState,
  history: History,
  meter: meter_lib.Meter,
  *,
  batches: Iterator[dict[str, np.ndarray]],
  stop: Callable[[int], bool],
  measure: Callable[[types.Params, int], float],
  save: Callable[[state_lib.TrainState, float | None], None],
  keep_averages: Callable[[state_lib.TrainState], None],
  show: Callable[[types.Params, int], None],
  actions: Sequence[Callable[[int], None]],
) -> tuple[state_lib.TrainState, str]:
  """Updates until the run ends; returns the last state and why it ended."""
  settings = experiment.train
  for step in range(int(state.step) + 1, settings.num_steps + 1):
    batch = sharding.place_batch(next(batches), experiment.mesh)
    state, metrics = programs.train_step(state, batch)
    meter.add(step, metrics)
    for action in actions:
      action(step)
    if stop(step):
      # A machine about to be taken away leaves no time to validate or to draw.
      meter.write(step)
      save(state, None)
      return state, "finished" if step == settings.num_steps else "interrupted"
    last = step == settings.num_steps
    if last or step % settings.log_every == 0:
      meter.write(step)
    due = last or step % settings.checkpoint_every == 0
    loss = None
    if due or step % settings.validate_every == 0:
      meter.check_finite()
      loss = measure(state.ema_params, step)
      history.add(step, loss)
    tired = not last and 0 < settings.patience <= history.since_best
    if settings.sample_every and (last or tired or step % settings.sample_every == 0):
      show(state.ema_params, step)
    snap = last or tired or step % settings.power_ema_every == 0
    if settings.power_ema and snap:
      meter.check_finite()
      keep_averages(state)
    if due or tired:
      save(state, loss)
    if tired:
      return state, "no improvement"
  return state, "finished"


def validate(
  experiment: experiment_lib.Experiment,
  programs: programs_lib.Programs,
  dataset: dataset_lib.Dataset,
  ema_params: types.Params,
  writer: Any,
  step: int,
) -> float:
  """Measures the validation loss, with the condition and without, and writes both.

  Times and noise belong to the rows, so losses of different steps and of different
  runs on the same records compare example by example.
  """
  sums = programs_lib.summed(
    programs.validation_step,
    ema_params,
    dataset.source("validation", images=experiment.autoencoder is None),
    experiment,
    max_batches=experiment.train.validation_batches,
  )
  loss = sums["total"] / sums["count"]
  if not np.isfinite(loss):
    raise meter_lib.not_finite("validation/loss", loss, step)
  writer.write_scalars(
    step,
    {
      "validation/loss": loss,
      "validation/loss_unconditional": sums["total_unconditional"] / sums["count"],
    },
  )
  return loss
