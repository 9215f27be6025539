"""Writes the scalars and pictures of a run to TensorBoard events and the terminal.

train --write_scalars, write_images--> events in WORKDIR;  step 50/100  loss 1.63 ...
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import functools
from typing import TYPE_CHECKING, Any

from absl import logging
from etils import epath

from cxr_diffusion_jax import artifacts, disk, errors, staging
from cxr_diffusion_jax.cli import terminal

if TYPE_CHECKING:
  from clu import metric_writers

  from cxr_diffusion_jax import types


# Steps before a profile: the first one compiles, and some are dispatched ahead.
_WARM_UP = 8


def list_parameters(workdir: epath.Path, name: str, shapes: "types.Params") -> None:
  """Writes WORKDIR/parameters.txt and logs their number."""
  # Imports tensorflow, which takes seconds.
  from clu import parameter_overview
  import jax

  overview = parameter_overview.get_parameter_overview(shapes, include_stats=False)
  if jax.process_index() == 0:
    artifacts.write_text(workdir / "parameters.txt", overview + "\n")
  logging.info(
    "%s: %s parameters, listed in parameters.txt",
    name,
    f"{parameter_overview.count_parameters(shapes):,}",
  )


def write_scalars(
  workdir: artifacts.PathLike, step: int, scalars: Mapping[str, float]
) -> None:
  """Adds scalars, by their tags, to the events of a finished run."""
  from clu import metric_writers

  writer = metric_writers.SummaryWriter(str(workdir))
  with contextlib.closing(writer):
    writer.write_scalars(step, scalars)


class TerminalWriter:
  """Shows scalars as one line per report; implements the CLU writer methods in use."""

  def __init__(self, num_steps: int):
    self._num_steps = num_steps

  def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
    """Updates the step line, or writes the losses of a validation."""
    head = f"step {step:,}/{self._num_steps:,}"
    if "train/loss" in scalars:
      parts = [head, f"loss {scalars['train/loss']:.4g}"]
      rate = scalars.get("train/images_per_second", 0.0)
      if rate > 0:
        per_step = scalars["train/examples"] / step
        parts.append(f"{rate:,.3g} img/s")
        remaining = (self._num_steps - step) * per_step / rate
        parts.append(f"ETA {terminal.duration(remaining)}")
      last = step >= self._num_steps
      terminal.TERMINAL.update("  ".join(parts), last=last)
    elif "validation/loss" in scalars:
      parts = [head, f"validation loss {scalars['validation/loss']:.4g}"]
      if "validation/gap" in scalars:
        parts.append(f"above training patients' by {scalars['validation/gap']:.2g}")
      terminal.TERMINAL.write("  ".join(parts))

  def write_images(self, *_: object) -> None:
    """Shows nothing: the code that saves a picture logs its path."""

  def write_hparams(self, *_: object) -> None:
    """Shows nothing: config.json has the values."""

  def flush(self) -> None:
    """Has nothing to flush."""

  def close(self) -> None:
    """Has nothing to close."""


class Profile:
  """Writes a trace of a few steps, once, to FOLDER/plugins/profile.

  Args:
    num_steps: steps of the trace.
    last: number of the run's last step; a short run skips fewer first steps.
  """

  def __init__(self, folder: str, num_steps: int, *, last: int):
    self._folder, self._num_steps, self._last = folder, num_steps, last
    self._begin: int | None = None
    self._running = False

  def __call__(self, step: int) -> None:
    """Starts or ends the trace; called after each step with its number."""
    import jax

    if self._begin is None:
      self._begin = max(min(step + _WARM_UP, self._last - self._num_steps), step)
    if step == self._begin:
      jax.profiler.start_trace(self._folder)
      self._running = True
    elif step == self._begin + self._num_steps:
      self.close()

  def close(self) -> None:
    """Writes a trace that is still running."""
    import jax

    if self._running:
      self._running = False
      jax.profiler.stop_trace()
      logging.info("saved a profile below %s/plugins/profile", self._folder)


@contextlib.contextmanager
def opened(
  workdir: epath.Path,
  config: artifacts.JsonMapping,
  *,
  num_steps: int,
  profile_steps: int,
) -> "Iterator[tuple[metric_writers.MetricWriter, list[Callable[[int], object]]]]":
  """Opens the writer of a run, and always closes it.

  Args:
    config: flat config, written as hyperparameters.
    num_steps: number of steps of the run, for the remaining time.

  Yields:
    The writer, and functions to call after each step with its number.

  Raises:
    errors.InputError: events could not be written.
  """
  from clu import asynclib, metric_writers, periodic_actions
  import jax

  writers: list[Any] = []
  actions: list[Callable[[int], object]] = []
  stack = contextlib.ExitStack()
  if jax.process_index() == 0:
    folder = str(workdir)
    if artifacts.is_remote(workdir):
      folder = str(stack.enter_context(staging.temporary_folder(".cxr-events-")))
      upload = functools.partial(artifacts.copy_files, folder, workdir)
      stack.callback(upload)
      actions.append(
        periodic_actions.PeriodicCallback(
          every_secs=60, callback_fn=upload, pass_step_and_time=False
        )
      )
    events = metric_writers.SummaryWriter(folder)
    writers = [TerminalWriter(num_steps), metric_writers.AsyncWriter(events)]
  writer = metric_writers.MultiWriter(writers)
  if profile_steps:
    profile = Profile(str(workdir), profile_steps, last=num_steps)
    stack.callback(profile.close)
    actions.append(profile)
  try:
    with stack, contextlib.closing(writer):
      writer.write_hparams(dict(config))
      yield writer, actions
  except asynclib.AsyncError as error:
    if isinstance(error.__context__, errors.InputError):
      # Closing failed too; report the first error, which is the cause.
      raise error.__context__ from error
    raise errors.InputError(
      f"TensorBoard's events could not be written to {workdir}"
      f" ({str(error).split(';')[-1].split('[')[0].strip()})"
      + disk.free_space(workdir, disk.fault(error)),
      fix="make room, then repeat the command",
    ) from error
