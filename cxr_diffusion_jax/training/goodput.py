"""Goodput: the share of a run's time in which it trains.

goodput = 1 - (start + compile + input + validation + samples + checkpoints) / time

The time runs from the start of the loop in this process. Steps are dispatched ahead of
the device: what is counted as lost is time in which the device has nothing to do, or
does something else.
"""

from collections.abc import Callable, Iterator
import contextlib
import functools
import time
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# What a run does beside training, in the order of the closing line.
CAUSES = ("start", "compile", "input", "validation", "samples", "checkpoints")


class Goodput:
  """Adds up the time lost to each cause.

  Args:
    time_fn: seconds of a clock that never goes back.
  """

  def __init__(self, time_fn: Callable[[], float] = time.monotonic):
    self._time_fn = time_fn
    self._start = time_fn()
    self._lost: dict[str, float] = dict.fromkeys(CAUSES, 0.0)

  @contextlib.contextmanager
  def lost(self, cause: str, count_fn: Callable[[], bool] = lambda: True) -> Iterator:
    """Counts the time of a block as lost.

    Args:
      cause: one of `CAUSES`.
      count_fn: called at the end; False if nothing was lost.
    """
    before = self._time_fn()
    try:
      yield
    finally:
      if count_fn():
        self._lost[cause] += self._time_fn() - before

  def first_call(self, cause: str, function: Callable[P, T]) -> Callable[P, T]:
    """Returns the function with the time of its first call counted as lost."""
    pending = [cause]

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
      if not pending:
        return function(*args, **kwargs)
      with self.lost(pending.pop()):
        return function(*args, **kwargs)

    return call

  def shares(self) -> dict[str, float]:
    """Shares of the time so far, 0 to 1: `steps`, and of each cause."""
    total = max(self._time_fn() - self._start, 1e-9)
    lost = {cause: seconds / total for cause, seconds in self._lost.items()}
    return {"steps": max(1 - sum(lost.values()), 0.0), **lost}

  def scalars(self) -> dict[str, float]:
    """The shares by tags: `train/goodput`, and `lost/CAUSE`."""
    shares = self.shares()
    steps = shares.pop("steps")
    named = {f"lost/{cause}": share for cause, share in shares.items()}
    return {"train/goodput": steps, **named}

  def summary(self) -> str:
    """One line for the log."""
    shares = self.shares()
    steps = shares.pop("steps")
    parts = [f"{cause} {share:.1%}" for cause, share in shares.items() if share >= 5e-4]
    rest = f"; {', '.join(parts)}" if parts else ""
    return f"goodput: {steps:.1%} of the time in training steps{rest}"
