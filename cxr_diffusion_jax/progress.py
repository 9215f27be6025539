"""How long work reports its progress: a function of a label and two counts."""

from collections.abc import Callable

# (label, done, total), called often during long work; total 0 means unknown.
Progress = Callable[[str, int, int], None]


def no_progress(label: str, done: int, total: int) -> None:
  """A `Progress` that reports nothing."""
  del label, done, total
