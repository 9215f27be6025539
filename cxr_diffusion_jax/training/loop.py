"""The training run: from the newest checkpoint, or from nothing, to the last step.

  restore or init -> [batch -> update -> log, validate, sample, save]* -> last save

The same command started again goes on. A signal (SIGTERM, SIGINT) saves and ends the
run in good order; a loss that is not finite ends it with the last checkpoint whole.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import pathlib
import signal
import time
from typing import Any

from absl import logging
import jax
import numpy as np

from cxr_diffusion_jax import errors, types
from cxr_diffusion_jax.data import pipeline
from cxr_diffusion_jax.parallel import sharding
from cxr_diffusion_jax.preparation import dataset as dataset_lib
from cxr_diffusion_jax.training import checkpoint, compatibility, run_files
from cxr_diffusion_jax.training import experiment as experiment_lib
from cxr_diffusion_jax.training import optimizer as optimizer_lib
from cxr_diffusion_jax.training import programs as programs_lib
from cxr_diffusion_jax.training import state as state_lib


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
  """

  state: state_lib.TrainState
  history: History
  reason: str


def train(
  experiment: experiment_lib.Experiment,
  dataset: dataset_lib.Dataset,
  workdir: pathlib.Path,
  *,
  writer: Any,
  actions: Sequence[Callable[[int], None]] = (),
  show: Callable[[types.Params, int], None] = lambda params, step: None,
) -> Outcome:
  """Trains until the last step, a signal, or no improvement.

  Args:
    experiment: what to train.
    dataset: on what.
    workdir: holds `checkpoints/`; an unfinished run there is gone on with.
    writer: a CLU metric writer (`write_scalars`, `flush`).
    actions: called after each step with its number (CLU's periodic actions).
    show: called with averaged parameters and step to make a picture of samples.

  Raises:
    errors.InputError: the checkpoints are of another config or other data, the loss
      is not finite, or a checkpoint cannot be written.
  """
  settings = experiment.train
  programs = programs_lib.make_programs(experiment, dataset.description["statistics"])
  run = {"config": experiment.config, "data": dataset.description}
  with (
    checkpoint.open_manager(
      workdir, keep=settings.keep, keep_every=settings.keep_every
    ) as manager,
    _signals() as received,
  ):
    state, history = _start(experiment, programs, manager, run)
    checkpoint.check_space(manager, state)
    if jax.process_index() == 0:
      run_files.write(workdir, experiment.config, dataset.description)
    first = int(state.step)
    if first == 0 and settings.sample_every:
      show(state.ema_params, 0)
    batches = programs_lib.train_batches(experiment, dataset, start_step=first)
    meter = _Meter(experiment, writer, first)
    reason, steps = "finished", range(first + 1, settings.num_steps + 1)
    if 0 < settings.patience <= history.since_best:
      # The same command again, after it ended so.
      reason, steps = "no improvement", range(0)
    for step in steps:
      batch = sharding.place_batch(next(batches), experiment.mesh)
      state, metrics = programs.train_step(state, batch)
      meter.add(step, metrics)
      for action in actions:
        action(step)
      last = step == settings.num_steps
      stop = bool(received) or manager.reached_preemption(step)
      if stop or last or step % settings.log_every == 0:
        meter.write(step)
      save = stop or last or step % settings.checkpoint_every == 0
      loss = None
      # A machine about to be taken away leaves no time to validate.
      if not stop and (save or step % settings.validate_every == 0):
        meter.check_finite()
        loss = validate(experiment, programs, dataset, state.ema_params, writer, step)
        history.add(step, loss)
        last = last or 0 < settings.patience <= history.since_best
        save = save or last
        reason = reason if step == settings.num_steps or not last else "no improvement"
      due = settings.sample_every and (last or step % settings.sample_every == 0)
      if due and not stop:
        show(state.ema_params, step)
      if save:
        meter.check_finite()
        entry = {**run, "history": dataclasses.asdict(history)}
        checkpoint.save(manager, state, entry, loss)
      if stop or last:
        reason = "interrupted" if stop and step < settings.num_steps else reason
        break
    checkpoint.wait(manager)
  writer.flush()
  return Outcome(state=state, history=history, reason=reason)


def check_resumable(workdir: pathlib.Path, config: Mapping[str, Any]) -> None:
  """Refuses early, before any data is prepared, to go on from another run.

  Raises:
    errors.InputError: the checkpoints in the folder are of another config.
  """
  if not (workdir / "checkpoints").is_dir():
    return
  with checkpoint.open_manager(workdir, read_only=True) as manager:
    step = manager.latest_step()
    if step is not None:
      saved = checkpoint.restore_run(manager, step)
      compatibility.check_config(saved["config"], config)


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
  sums: dict[str, float] = {}
  batches = pipeline.epoch_batches(
    dataset.source("validation"),
    batch_size=experiment.train.batch_size,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
  )
  for number, batch in enumerate(batches):
    if 0 < experiment.train.validation_batches <= number:
      break
    placed = sharding.place_batch(batch, experiment.mesh)
    for name, value in programs.validation_step(ema_params, placed).items():
      sums[name] = sums.get(name, 0.0) + float(value)
  loss = sums["total"] / sums["count"]
  if not np.isfinite(loss):
    raise _not_finite("validation/loss", loss, step)
  writer.write_scalars(
    step,
    {
      "validation/loss": loss,
      "validation/loss_unconditional": sums["total_unconditional"] / sums["count"],
    },
  )
  return loss


def _start(
  experiment: experiment_lib.Experiment,
  programs: programs_lib.Programs,
  manager: Any,
  run: dict[str, Any],
) -> tuple[state_lib.TrainState, History]:
  step = manager.latest_step()
  if step is None:
    return programs.init(), History()
  saved = checkpoint.restore_run(manager, step)
  compatibility.check_config(saved["config"], run["config"])
  compatibility.check_data(saved["data"], run["data"])
  state, saved = checkpoint.restore(manager, programs.like())
  logging.info("going on from the checkpoint of step %d", step)
  return state, History(**saved["history"])


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
  """Collects SIGTERM and SIGINT instead of dying of them; a second one kills.

  On several hosts JAX's own preemption service takes them, so that all stop at one
  step.
  """
  received: list[int] = []
  if jax.process_count() > 1:
    yield received
    return

  def receive(number: int, frame: Any) -> None:
    del frame
    received.append(number)
    signal.signal(number, previous[number])

  previous = {
    number: signal.signal(number, receive) for number in (signal.SIGTERM, signal.SIGINT)
  }
  try:
    yield received
  finally:
    for number, handler in previous.items():
      signal.signal(number, handler)


def _not_finite(name: str, value: float, step: int) -> errors.InputError:
  return errors.InputError(
    f"{name} is {value} at step {step}",
    "a finite number",
    "lower config.optimizer.learning_rate or config.optimizer.clip_norm; the"
    " checkpoints before this step are whole",
  )


class _Meter:
  """Collects the scalars of steps on the device, and writes their means."""

  def __init__(self, experiment: experiment_lib.Experiment, writer: Any, step: int):
    self._experiment = experiment
    self._writer = writer
    self._learning_rate = optimizer_lib.learning_rate(
      experiment.optimizer, experiment.train.num_steps
    )
    self._pending: list[tuple[int, dict[str, jax.Array]]] = []
    self._start = (step, time.monotonic())

  def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
    self._pending.append((step, metrics))

  def check_finite(self) -> None:
    """Raises errors.InputError naming the first step and metric that is not finite."""
    for step, metrics in self._pending:
      for name, value in metrics.items():
        if not np.isfinite(value):
          raise _not_finite(f"train/{name}", float(value), step)

  def write(self, step: int) -> None:
    self._pending = jax.device_get(self._pending)
    self.check_finite()
    now = time.monotonic()
    rate = (step - self._start[0]) / max(now - self._start[1], 1e-9)
    names = self._pending[0][1]
    scalars = {
      f"train/{name}": float(np.mean([metrics[name] for _, metrics in self._pending]))
      for name in names
    }
    scalars["train/learning_rate"] = float(self._learning_rate(step - 1))
    scalars["train/images_per_second"] = rate * self._experiment.train.batch_size
    scalars["train/examples"] = step * self._experiment.train.batch_size
    self._writer.write_scalars(step, scalars)
    self._pending = []
    self._start = (step, now)
