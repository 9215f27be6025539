"""The scalars of a run: collected on the device, checked, averaged and written.

metrics of each step --add--> pending --write--> means, rates, learning rate
"""

import time
from typing import Any

import jax
import numpy as np

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.training import experiment as experiment_lib
from cxr_diffusion_jax.training import optimizer as optimizer_lib

# Steps that may be dispatched ahead of the device.
_IN_FLIGHT = 4


def not_finite(name: str, value: float, step: int) -> errors.InputError:
  """Returns the error that stops a run whose numbers are no longer numbers."""
  return errors.InputError(
    f"{name} is {value} at step {step}",
    "a finite number",
    "lower config.optimizer.learning_rate or config.optimizer.clip_norm; the"
    " checkpoints before this step are whole",
  )


class Meter:
  """Collects the scalars of steps on the device, and writes their means.

  Args:
    experiment: gives batch size and learning rate.
    writer: a CLU metric writer.
    step: updates done before the first one collected.
  """

  def __init__(self, experiment: experiment_lib.Experiment, writer: Any, step: int):
    self._experiment = experiment
    self._writer = writer
    self._learning_rate = optimizer_lib.learning_rate(
      experiment.optimizer, experiment.train.num_steps
    )
    self._pending: list[tuple[int, dict[str, jax.Array]]] = []
    self._start = (step, time.monotonic())

  def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
    """Keeps the scalars of a step; waits for the device only if it is far behind."""
    self._pending.append((step, metrics))
    if len(self._pending) > _IN_FLIGHT:
      # Each step in flight holds its batch on the device.
      jax.block_until_ready(self._pending[-1 - _IN_FLIGHT][1])

  def check_finite(self) -> None:
    """Raises errors.InputError naming the first step and metric that is not finite."""
    for step, metrics in self._pending:
      for name, value in metrics.items():
        if not np.isfinite(value):
          raise not_finite(f"train/{name}", float(value), step)

  def write(self, step: int) -> None:
    """Writes the means since the last call, and how fast the steps were.

    Raises:
      errors.InputError: as `check_finite`.
    """
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
