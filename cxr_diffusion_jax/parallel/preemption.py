"""Signals that end a run in good order instead of killing it.

SIGTERM, SIGINT --> a list that the loop looks at after each step
"""

from collections.abc import Iterator
import contextlib
import signal
from typing import Any

import jax


@contextlib.contextmanager
def received() -> Iterator[list[int]]:
  """Collects SIGTERM and SIGINT instead of dying of them; a second one kills.

  On several hosts JAX's own preemption service takes them, so that all stop at one
  step.
  """
  numbers: list[int] = []
  if jax.process_count() > 1:
    yield numbers
    return

  def receive(number: int, frame: Any) -> None:
    del frame
    numbers.append(number)
    signal.signal(number, previous[number])

  previous = {
    number: signal.signal(number, receive) for number in (signal.SIGTERM, signal.SIGINT)
  }
  try:
    yield numbers
  finally:
    for number, handler in previous.items():
      signal.signal(number, handler)
