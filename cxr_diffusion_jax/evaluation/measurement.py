"""One measured figure and everything it depends on.

measure(arrays) -> [Measurement, ...] -> metrics.json, tables, figures, CLU scalars

A figure depends on the number of images, on the network that scored them, and on the
real images they are compared with. An undefined figure has no value, and a reason.
"""

import dataclasses
import math
from typing import TypedDict

from cxr_diffusion_jax import artifacts

# Raised when a field changes its meaning; readers refuse others.
SCHEMA = 1

SUBJECTS = {
  "fidelity": "Fidelity",
  "adherence": "Adherence to the condition",
  "utility": "Utility for training",
  "diversity": "Diversity",
  "privacy": "Privacy",
  "embeddings": "Embeddings",
}

# Subject, metric, judge, group.
Key = tuple[str, str, str, str]


class Fields(TypedDict, total=False):
  """Fields of a `Measurement` that a metric does not state itself."""

  value: float | None
  num: int
  reason: str
  low: float | None
  high: float | None
  num_real: int
  patients: int
  real_patients: int
  judge: str
  standin: bool
  group: str
  of: str
  deviations: tuple[float, ...]
  degrees: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measurement:
  """A figure.

  Attributes:
    reason: why there is no value; "" where there is one.
    num_real: real images that they were compared with; 0 for none.
    patients: of the images, and of those that they were compared with; 0 where they
      are not known, and each image counts as a patient.
    deviations: of the figure of each half of the patients, see `statistics`; empty for
      no interval.
    degrees: of freedom of the standard error; 0 without one.
    judge: the network that scored them and its layer, such as "rad_dino, class token
      after the norm"; "" for pixels.
    group: "all", or a part of the images: "finding: Effusion", "sex: F", "age: 40-59",
      "view: PA".
    of: "generated"; or "real", the same figure of as many real images, which is the
      floor of a distance and the ceiling of a share.
  """

  subject: str
  metric: str
  value: float | None
  num: int
  reason: str = ""
  low: float | None = None
  high: float | None = None
  num_real: int = 0
  patients: int = 0
  real_patients: int = 0
  judge: str = ""
  standin: bool = False
  group: str = "all"
  of: str = "generated"
  better: str = ""
  deviations: tuple[float, ...] = dataclasses.field(
    default=(), compare=False, repr=False
  )
  degrees: int = 0

  def __post_init__(self):
    if self.subject not in SUBJECTS:
      raise ValueError(f"subject {self.subject!r}, not one of {', '.join(SUBJECTS)}")
    if (self.value is None) != bool(self.reason):
      raise ValueError(f"{self.metric}: a value, or a reason why there is none")
    for value in (self.value, self.low, self.high):
      if value is not None and not math.isfinite(value):
        raise ValueError(f"{self.metric} of {value}; undefined is None with a reason")

  @property
  def key(self) -> Key:
    """Identifies the same figure of other images."""
    return self.subject, self.metric, self.judge, self.group

  @property
  def facts(self) -> artifacts.Json:
    """All fields but the deviations, for files that people read."""
    facts = dataclasses.asdict(self)
    del facts["deviations"]
    return facts

  @property
  def text(self) -> str:
    """The value and its interval, such as '0.913 (0.889 to 0.932)'."""
    if self.value is None:
      return f"undefined: {self.reason}"
    if self.low is None or self.high is None:
      return number(self.value)
    return f"{number(self.value)} ({number(self.low)} to {number(self.high)})"


def number(value: float) -> str:
  """A number with three or four significant digits."""
  if value == 0:
    return "0"
  if abs(value) < 1e-3 or abs(value) >= 1e5:
    return f"{value:.2e}"
  return f"{value:.3f}" if abs(value) < 10 else f"{value:.4g}"
