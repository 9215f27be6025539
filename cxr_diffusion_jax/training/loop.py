"""The training loop: from the newest checkpoint, or from step 0, to the last step.

  restore or init -> [batch -> update -> log, validate, sample, save]* -> last save

A signal (SIGTERM, SIGINT) saves and ends the run; the same command resumes it. A step
that is not finite is never applied; it ends the run or is skipped, see `divergence`.
"""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import functools
import math
from typing import TYPE_CHECKING, Protocol

from absl import logging
from etils import epath
import jax
import numpy as np

from cxr_diffusion_jax import artifacts, errors, pictures, types
from cxr_diffusion_jax.encoders import opening as encoders
from cxr_diffusion_jax.encoders.latents import autoencoders
from cxr_diffusion_jax.parallel import distributed, failures, store
from cxr_diffusion_jax.run import card as card_lib
from cxr_diffusion_jax.run import checkpoints, snapshots
from cxr_diffusion_jax.run import dataset as dataset_lib
from cxr_diffusion_jax.run import state as state_lib
from cxr_diffusion_jax.training import compiled, divergence, step_metrics
from cxr_diffusion_jax.training import goodput as goodput_lib
from cxr_diffusion_jax.training import optimizer as optimizer_lib
from cxr_diffusion_jax.training import start as start_lib

if TYPE_CHECKING:
  from PIL import Image


class Trainable(Protocol):
  """A network with its data, as the loop trains it."""

  @property
  def experiment(self) -> compiled.ExperimentLike: ...

  @property
  def dataset(self) -> dataset_lib.Dataset: ...

  @property
  def programs(self) -> compiled.Programs: ...

  def batches(self, start_step: int) -> Iterator[types.Batch]:
    """Yields batches from a step on, endlessly, placed on the devices."""
    ...

  def validate(self, params: types.Params) -> dict[str, float]:
    """Returns scalars for averaged parameters; the lowest `loss` is the best."""
    ...

  def show(self, params: types.Params, step: int, /) -> "Image.Image | None":
    """Returns a picture for averaged parameters; None if another host draws it."""
    ...


@dataclasses.dataclass
class History:
  """The validations of a run so far; saved in each checkpoint.

  Attributes:
    since_best: number of validations since the best one.
    changes: lines of rates that were changed when it was resumed.
  """

  best_loss: float = float("inf")
  best_step: int = 0
  since_best: int = 0
  changes: list[str] = dataclasses.field(default_factory=list)

  def add(self, step: int, loss: float) -> None:
    if loss < self.best_loss:
      self.best_loss, self.best_step, self.since_best = loss, step, 0
    else:
      self.since_best += 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
  """How a call of `train` ended.

  Attributes:
    reason: 'finished', 'interrupted' or 'no improvement'.
    signal_number: the signal that interrupted it, or 0.
  """

  state: state_lib.TrainState
  history: History
  reason: str
  signal_number: int = 0

  @property
  def step(self) -> int:
    return int(self.state.step)

  def check_complete(self) -> None:
    """Raises `errors.Interrupted` if a signal ended the run."""
    if self.reason == "interrupted":
      raise errors.Interrupted(
        self.signal_number,
        f"interrupted: saved at step {self.step}; repeat the same command to continue",
      )


def train(
  trainable: Trainable,
  workdir: artifacts.PathLike,
  *,
  writer: step_metrics.Writer,
  actions: Sequence[Callable[[int], object]] = (),
) -> Outcome:
  """Trains until the last step, a signal, or no improvement.

  Args:
    workdir: the run's folder; an unfinished run there is resumed.
    actions: functions called after each step with its number (CLU's periodic actions).

  Raises:
    errors.InputError: the checkpoints are of another config or other data, the loss
      is not finite, or a checkpoint cannot be written.
  """
  settings, dataset = trainable.experiment.train, trainable.dataset
  goodput = goodput_lib.Goodput()
  with (
    checkpoints.open_manager(
      workdir, keep=settings.keep, keep_every=settings.keep_every
    ) as manager,
    snapshots.keeper(workdir, settings.power_ema) as keep_averages,
    distributed.signals() as received,
    failures.announced(store.open_store()),
  ):
    with goodput.lost("start"):
      state, saved = start_lib.start(
        trainable.experiment.config, trainable.programs, manager, dataset.card
      )
    history = History(**saved)
    saves = math.ceil(settings.num_steps / settings.checkpoint_every)
    checkpoints.check_space(manager, state, min(settings.keep + 1, saves))
    if jax.process_index() == 0:
      card_lib.write(workdir, trainable.experiment.config, dataset.card)
      encoders.export(dataset.settings, dataset.columns, workdir)
      if trainable.experiment.autoencoder is not None:
        autoencoders.export(trainable.experiment.autoencoder, workdir)
    updates = _Updates(
      trainable=trainable,
      workdir=workdir,
      writer=writer,
      history=history,
      goodput=goodput,
      manager=manager,
      keep_averages=keep_averages,
      actions=actions,
      stop=functools.partial(distributed.stops, received),
    )
    if int(state.step) == 0 and settings.sample_every:
      updates.show(state, 0)
    reason = "finished"
    if 0 < settings.patience <= history.since_best:
      # The run had already ended this way before the command was repeated.
      reason = "no improvement"
    elif int(state.step) < settings.num_steps:
      state, reason = updates.run(state)
    with goodput.lost("checkpoints"):
      checkpoints.wait(manager)
  logging.info("%s", goodput.summary())
  writer.flush()
  number = distributed.stopped_by(received) if reason == "interrupted" else 0
  return Outcome(state=state, history=history, reason=reason, signal_number=number)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Updates:
  """The updates of one call of `train`, and what happens between them."""

  trainable: Trainable
  workdir: artifacts.PathLike
  writer: step_metrics.Writer
  history: History
  goodput: goodput_lib.Goodput
  manager: checkpoints.Manager
  keep_averages: Callable[[state_lib.TrainState], None]
  actions: Sequence[Callable[[int], object]]
  stop: Callable[[int], bool]

  def run(self, state: state_lib.TrainState) -> tuple[state_lib.TrainState, str]:
    """Trains until the run ends; returns the last state and why it ended."""
    settings, start = self.trainable.experiment.train, int(state.step)
    metrics = step_metrics.StepMetrics(
      self.writer,
      start,
      batch_size=settings.batch_size,
      learning_rate=optimizer_lib.learning_rate(
        self.trainable.experiment.optimizer, settings.num_steps
      ),
    )
    batches = self.trainable.batches(start)
    watch = divergence.Watch(
      workdir=self.workdir,
      settings=settings,
      examine=self.examine,
      ids=lambda: self.trainable.dataset.records.ids("train"),
    )
    train_step = self.goodput.first_call("compile", self.trainable.programs.train_step)
    for step in range(start + 1, settings.num_steps + 1):
      with self.goodput.lost("input", metrics.is_idle):
        batch = next(batches)
      state, scalars = train_step(state, batch)
      if step == start + 1:
        compiled.release_memory()
      metrics.add(step, scalars)
      for action in self.actions:
        action(step)
      last = step == settings.num_steps
      stop = self.stop(step)
      writes = stop or last or step % settings.log_every == 0
      due = last or step % settings.checkpoint_every == 0
      validates = due or step % settings.validate_every == 0
      shows, keeps = (
        bool(period) and (last or step % period == 0)
        for period in (
          settings.sample_every,
          settings.power_ema_every if settings.power_ema else 0,
        )
      )
      if writes or validates or shows or keeps:
        # It also waits for the steps, whose time is theirs.
        for of_step, values in metrics.unchecked():
          watch.check(state, of_step, values)
      if writes:
        metrics.write(step, self.goodput.scalars())
      # Before a stop too: a resumed run starts at the next step.
      loss = self.validate(state, step) if validates else None
      stale = not last and 0 < settings.patience <= self.history.since_best
      if shows or (stale and settings.sample_every):
        self.show(state, step)
      if keeps or (stale and settings.power_ema):
        self.keep(state)
      if due or stale or stop:
        # An uninterrupted run has no checkpoint of another step to choose as the best.
        self.save(state, loss if due or stale else None)
      if stale:
        return state, "no improvement"
      if stop and not last:
        return state, "interrupted"
    return state, "finished"

  def validate(self, state: state_lib.TrainState, step: int) -> float:
    """Computes, checks, writes and records the validation loss."""
    with self.goodput.lost("validation"):
      scalars = self.trainable.validate(state.ema_params)
    if not np.isfinite(scalars["loss"]):
      checkpoints.wait(self.manager)
      raise divergence.not_finite(
        "validation/loss", scalars["loss"], step, self.workdir
      )
    named = {f"validation/{name}": value for name, value in scalars.items()}
    self.writer.write_scalars(step, named)
    self.history.add(step, scalars["loss"])
    return scalars["loss"]

  def examine(self, state: state_lib.TrainState, step: int) -> dict[str, np.ndarray]:
    """Values of the rows of a step's batch with these parameters."""
    # The error that may follow names the newest checkpoint.
    checkpoints.wait(self.manager)
    batch = next(self.trainable.batches(step - 1))
    examine = self.trainable.programs.examine
    return jax.device_get(examine(state, batch, step))

  def save(self, state: state_lib.TrainState, loss: float | None) -> None:
    """Starts to save a checkpoint."""
    entry = {
      "format": card_lib.FORMAT,
      "config": self.trainable.experiment.config,
      "data": self.trainable.dataset.card.to_json(),
      "history": dataclasses.asdict(self.history),
    }
    with self.goodput.lost("checkpoints"):
      checkpoints.save(self.manager, state, entry, loss)
    logging.info("saving checkpoints/%d", int(state.step))

  def keep(self, state: state_lib.TrainState) -> None:
    """Saves a snapshot of the averages of power profiles."""
    with self.goodput.lost("checkpoints"):
      self.keep_averages(state)

  def show(self, state: state_lib.TrainState, step: int) -> None:
    """Writes WORKDIR/samples/step_STEP.png, and the same to TensorBoard."""
    with self.goodput.lost("samples"):
      picture = self.trainable.show(state.ema_params, step)
    if picture is None:
      return
    path = epath.Path(self.workdir) / "samples" / f"step_{step:07d}.png"
    pictures.save(picture, path)
    logging.info("saved %s", path)
    self.writer.write_images(step, {"samples": np.asarray(picture)[None, :, :, None]})
