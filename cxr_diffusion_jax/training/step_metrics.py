"""Collects scalars of training steps on the device; checks, averages, writes them."""

from collections.abc import Mapping
import time
from typing import Protocol

import jax
import numpy as np
import optax

from cxr_diffusion_jax import errors


class Writer(Protocol):
  """The methods of `clu.metric_writers.MetricWriter` that training calls."""

  def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None: ...
  def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None: ...
  def flush(self) -> None: ...


# Steps that may be dispatched ahead of the device.
_IN_FLIGHT = 4


def check_finite(name: str, value: float, step: int) -> None:
  """Raises errors.InputError for a scalar that is not finite."""
  if not np.isfinite(value):
    raise errors.InputError(
      f"{name} is {value} at step {step}",
      "a finite number",
      "the same command would repeat this: lower config.optimizer.learning_rate or"
      " config.optimizer.clip_norm in a new --workdir, with --config.train.init_from"
      " naming this one if it has a checkpoint to begin from",
    )


class StepMetrics:
  """Collects the scalars of steps on the device and writes their means.

  Args:
    step: number of updates before the first collected one.
  """

  def __init__(
    self, writer: Writer, step: int, *, batch_size: int, learning_rate: optax.Schedule
  ):
    self._writer = writer
    self._batch_size = batch_size
    self._learning_rate = learning_rate
    self._pending: list[tuple[int, dict[str, jax.Array]]] = []
    self._start = (step, time.monotonic())

  def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
    """Stores the scalars of a step; waits only if the device is far behind."""
    self._pending.append((step, metrics))
    if len(self._pending) > _IN_FLIGHT:
      # Each step in flight holds its batch on the device.
      jax.block_until_ready(self._pending[-1 - _IN_FLIGHT][1])

  def is_idle(self) -> bool:
    """Whether the device has done all steps, or will have in a moment."""
    last = [metrics for _, metrics in self._pending[-1:]]
    return all(leaf.is_ready() for leaf in jax.tree.leaves(last))

  def check_finite(self) -> None:
    """Raises errors.InputError naming the first step and scalar that is not finite."""
    for step, metrics in self._pending:
      for name, value in metrics.items():
        check_finite(f"train/{name}", float(value), step)

  def write(self, step: int, more: Mapping[str, float]) -> None:
    """Checks the scalars, and writes their means and the speed since the last call.

    Args:
      more: further scalars by tag.
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
    scalars["train/learning_rate"] = float(np.asarray(self._learning_rate(step - 1)))
    scalars["train/images_per_second"] = rate * self._batch_size
    scalars["train/examples"] = step * self._batch_size
    self._writer.write_scalars(step, {**scalars, **more})
    self._pending = []
    self._start = (step, now)
