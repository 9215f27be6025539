"""Collects scalars of training steps on the device; averages and writes them."""

from collections.abc import Iterator, Mapping
import time
from typing import Protocol

import jax
import numpy as np
import optax


class Writer(Protocol):
  """The methods of `clu.metric_writers.MetricWriter` that training calls."""

  def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None: ...
  def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None: ...
  def flush(self) -> None: ...


# Steps that may be dispatched ahead of the device.
_IN_FLIGHT = 4


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
    self._checked = step

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

  def unchecked(self) -> Iterator[tuple[int, dict[str, float]]]:
    """Yields each step and its scalars once; waits for the device."""
    new = [entry for entry in self._pending if entry[0] > self._checked]
    for step, metrics in jax.device_get(new):
      self._checked = step
      yield step, {name: float(value) for name, value in metrics.items()}

  def write(self, step: int, more: Mapping[str, float]) -> None:
    """Writes the means of the scalars and the speed since the last call.

    Means are over steps whose scalars are finite; `train/skipped` counts the others.

    Args:
      more: further scalars by tag.
    """
    steps = [values for _, values in jax.device_get(self._pending)]
    finite = [s for s in steps if all(np.isfinite(value) for value in s.values())]
    now = time.monotonic()
    rate = (step - self._start[0]) / max(now - self._start[1], 1e-9)
    scalars = {
      f"train/{name}": float(np.mean([values[name] for values in finite]))
      for name in (steps[0] if finite else ())
    }
    if len(finite) < len(steps):
      scalars["train/skipped"] = float(len(steps) - len(finite))
    scalars["train/learning_rate"] = float(np.asarray(self._learning_rate(step - 1)))
    scalars["train/images_per_second"] = rate * self._batch_size
    scalars["train/examples"] = step * self._batch_size
    self._writer.write_scalars(step, {**scalars, **more})
    self._pending = []
    self._start = (step, now)
