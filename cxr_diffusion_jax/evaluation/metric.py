"""What a figure is: one `Metric` record states its name, meaning, range and function.

modules of metrics/ and judges/ --their METRICS--> {name: Metric}
  -> flags (`--metrics`), measurements, pooling, tables, the report page

A new metric is one record in one module of `evaluation/metrics/`: nothing lists them.
"""

from collections.abc import Callable, Iterable
import dataclasses
import functools
import importlib
import math
from typing import TYPE_CHECKING, Unpack

from cxr_diffusion_jax import errors, naming
from cxr_diffusion_jax.evaluation.measurement import SUBJECTS, Fields, Measurement
from cxr_diffusion_jax.evaluation.statistics import Estimate, Influences

if TYPE_CHECKING:
  from cxr_diffusion_jax.evaluation.metrics.fidelity import FeaturePair

ALL = "all"

_PACKAGES = (
  "cxr_diffusion_jax.evaluation.metrics",
  "cxr_diffusion_jax.evaluation.judges",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric:
  """One figure.

  Attributes:
    direction: "lower" or "higher" is better; "" if neither.
    bounds: smallest and largest possible value; intervals are clipped to them.
    minimum_n: minimum number of images of each set; with fewer it is undefined.
    fn: of fidelity: features of both sets -> the figure, with the influence of each
      image or deviations over patients where an interval is wanted. None for figures
      that a judge measures together with others.
  """

  name: str
  subject: str
  title: str = ""
  meaning: str = ""
  direction: str = ""
  bounds: tuple[float, float] = (-math.inf, math.inf)
  minimum_n: int = 1
  fn: "Callable[[FeaturePair], Influences | Estimate | float] | None" = None

  def __post_init__(self):
    if not self.title:
      object.__setattr__(self, "title", title_of(self.name))

  def measurement(
    self, *parts: Fields | Estimate, **fields: Unpack[Fields]
  ) -> Measurement:
    """A measurement of this figure; later fields replace earlier ones."""
    merged = Fields()
    for part in (*parts, fields):
      merged |= part.fields(self.bounds) if isinstance(part, Estimate) else part
    return Measurement(
      subject=self.subject, metric=self.name, better=self.direction, **merged
    )


def title_of(name: str) -> str:
  """A title for a name: words, with the usual abbreviations in capitals."""
  capitals = ("auroc", "tstr", "ssim", "iou")
  words = " ".join(
    word.upper() if word in capitals else word
    for word in name.replace("_", " ").split()
  )
  return words[:1].upper() + words[1:]


def find_all() -> dict[str, Metric]:
  """Every metric, by name, in the order of the modules that declare them."""
  places = tuple(tuple(importlib.import_module(name).__path__) for name in _PACKAGES)
  return dict(_records(places))


@functools.cache
def _records(places: tuple[tuple[str, ...], ...]) -> dict[str, Metric]:
  """The records in the folders of `_PACKAGES`, which are listed once."""
  del places
  records: dict[str, Metric] = {}
  for package in _PACKAGES:
    for name in naming.modules(package):
      module = importlib.import_module(f"{package}.{name}")
      for record in getattr(module, "METRICS", ()):
        if record.name in records:
          raise ValueError(f"two metrics named {record.name}")
        records[record.name] = record
  return records


def select(names: Iterable[str]) -> tuple[Metric, ...]:
  """Metrics by their own names, by the names of subjects, or "all"."""
  names, records = tuple(names), find_all()
  known = {ALL, *SUBJECTS, *records}
  unknown = sorted({*names} - known)
  if unknown or not names:
    raise errors.InputError(
      f"metrics {', '.join(unknown) or '(none)'}",
      f"{ALL}, some of {', '.join(SUBJECTS)}, or names of single metrics",
      naming.nearest(unknown[0], known) if unknown else "",
    )
  return tuple(
    record
    for record in records.values()
    if {ALL, record.subject, record.name} & {*names}
  )
