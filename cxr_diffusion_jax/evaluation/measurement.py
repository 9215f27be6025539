"""One measured figure and all that it depends on: tables and files are made of these.

measure(arrays) -> [Measurement, ...] -> metrics.json, tables, figures, CLU scalars

A figure alone says nothing: it depends on the number of images, on the network that
looked at them, on whose images they were compared with. A figure that could not be
measured has no value, and a reason.
"""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

# Raised when a field changes its meaning; readers refuse others.
SCHEMA = 1

SUBJECTS = (
  "fidelity",
  "adherence",
  "utility",
  "diversity",
  "privacy",
  "embeddings",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measurement:
  """A figure.

  Attributes:
    subject: one of `SUBJECTS`.
    metric: its name in the literature, such as "frechet_distance".
    value: None where it is undefined or could not be measured.
    reason: why there is no value; "" where there is.
    low: of its 95 % interval; None for none.
    high: as above.
    num: images that were judged.
    num_real: real images that they were compared with; 0 for none.
    judge: the network that looked at them and its layer, such as "rad_dino, class token
      after the norm"; "" for pixels.
    standin: whether the judge was trained by this project in place of a published one.
    group: "all", or a part of the images: "finding: Effusion", "sex: F", "age: 40-59",
      "view: PA".
    of: "generated", or "real": what real images reach with as many images, which is the
      floor of a distance and the ceiling of a share.
    better: "lower", "higher", or "" where neither is.
  """

  subject: str
  metric: str
  value: float | None
  num: int
  reason: str = ""
  low: float | None = None
  high: float | None = None
  num_real: int = 0
  judge: str = ""
  standin: bool = False
  group: str = "all"
  of: str = "generated"
  better: str = ""

  def __post_init__(self):
    if self.subject not in SUBJECTS:
      raise ValueError(f"subject {self.subject!r}, not one of {', '.join(SUBJECTS)}")
    if (self.value is None) != bool(self.reason):
      raise ValueError(f"{self.metric}: a value, or a reason why there is none")
    for value in (self.value, self.low, self.high):
      if value is not None and not math.isfinite(value):
        raise ValueError(f"{self.metric} of {value}; undefined is None with a reason")

  @property
  def key(self) -> tuple[str, str, str, str]:
    """What the same figure of other images has too: subject, metric, judge, group."""
    return self.subject, self.metric, self.judge, self.group

  @property
  def text(self) -> str:
    """The value and its interval for people, such as '0.913 (0.889 to 0.932)'."""
    if self.value is None:
      return f"undefined: {self.reason}"
    if self.low is None or self.high is None:
      return number(self.value)
    return f"{number(self.value)} ({number(self.low)} to {number(self.high)})"


def number(value: float) -> str:
  """A figure of three to four digits that say something."""
  if value == 0:
    return "0"
  if abs(value) < 1e-3 or abs(value) >= 1e5:
    return f"{value:.2e}"
  return f"{value:.3f}" if abs(value) < 10 else f"{value:.4g}"


def to_json(measurement: Measurement) -> dict[str, Any]:
  """Plain values of a measurement."""
  return dataclasses.asdict(measurement)


def from_json(values: Mapping[str, Any]) -> Measurement:
  """Reads what `to_json` wrote.

  Raises:
    ValueError: values that are not of a measurement.
  """
  return Measurement(**values)
