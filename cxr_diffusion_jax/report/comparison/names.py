"""Metrics on a page: their names, and a sentence about each.

"frechet_distance" -> "Fréchet distance", "Distance of ..."
"""

from collections.abc import Sequence

from cxr_diffusion_jax.evaluation import metric as metric_lib
from cxr_diffusion_jax.evaluation.measurement import SUBJECTS

__all__ = ("ARROWS", "SUBJECTS", "join", "meaning", "title")

ARROWS = {"lower": "↓", "higher": "↑"}


def title(metric: str) -> str:
  """The title of a metric, or its name in words."""
  record = metric_lib.find_all().get(metric)
  return record.title if record else metric_lib.title_of(metric)


def meaning(metric: str) -> str:
  """A sentence about a metric; "" for an unknown one."""
  record = metric_lib.find_all().get(metric)
  return record.meaning if record else ""


def join(words: Sequence[str]) -> str:
  """'a', 'a and b', 'a, b and c'."""
  *first, last = words
  return f"{', '.join(first)} and {last}" if first else last
