"""Measurements of all paths side by side: the rows of every table and figure.

Comparison -> [Row, ...]: a figure of each path, of real images, and its verdict
"frechet_distance" -> "Fréchet distance", "Distance between ..."
"""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses

from cxr_diffusion_jax.evaluation import metric as metric_lib
from cxr_diffusion_jax.evaluation.comparison import data as comparison_data
from cxr_diffusion_jax.evaluation.measurement import SUBJECTS, Measurement

ARROWS = {"lower": "↓", "higher": "↑"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
  """One metric by one judge, of all images or of a part of them.

  Attributes:
    subject: with `metric`, `judge` and `group` the `Measurement.key`.
    of_paths: path's name -> its measurement; paths without one are left out.
    real: the floor or ceiling; None for none.
    verdict: None where there is none.
  """

  subject: str
  metric: str
  judge: str
  group: str
  of_paths: Mapping[str, Measurement]
  real: Measurement | None
  verdict: comparison_data.Verdict | None

  @property
  def kind(self) -> str:
    """What the group is a value of: "finding", "sex", "age", "view", or "all"."""
    return self.group.split(":")[0]

  @property
  def all(self) -> Sequence[Measurement]:
    """Measurements of paths and real images."""
    return [*self.of_paths.values(), *([self.real] if self.real else [])]

  @property
  def better(self) -> str:
    """See `Measurement.better`."""
    return next((each.better for each in self.all if each.better), "")

  @property
  def limit(self) -> str:
    """What the figure of real images is."""
    return {"lower": "floor", "higher": "ceiling"}.get(self.better, "")

  @property
  def standin(self) -> bool:
    """Whether any judge of it was trained by this project."""
    return any(each.standin for each in self.all)

  @property
  def best(self) -> frozenset[str]:
    """Paths to mark: none unless some path is significantly worse than another."""
    if self.verdict is None or set(self.verdict.best) >= set(self.verdict.ranking):
      return frozenset()
    return frozenset(self.verdict.best)

  def mark(self, path: str) -> str:
    """ "best", "among best" or ""."""
    if path not in self.best:
      return ""
    return "best" if len(self.best) == 1 else "among best"

  @property
  def counts(self) -> tuple[str, str]:
    """Images and patients: generated, and real for comparison; "" for none."""
    each = [*self.of_paths.values()] or [self.all[0]]
    texts = []
    for num, patients in (("num", "patients"), ("num_real", "real_patients")):
      images = [getattr(one, num) for one in each if getattr(one, num)]
      known = [getattr(one, patients) for one in each if getattr(one, patients)]
      text = _range(images) if images else "" if num == "num_real" else "0"
      texts.append(f"{text} ({_range(known)} patients)" if known else text)
    return texts[0], texts[1]

  @property
  def primary(self) -> bool:
    """Whether the figure was named before the run."""
    return self.verdict is not None and self.verdict.primary

  def note(self, path: str) -> str:
    """The mark of a path, or why it is not ranked."""
    reason = self.verdict.unranked.get(path, "") if self.verdict else ""
    return f"not ranked, {reason}" if reason else self.mark(path)


def build(comparison: comparison_data.Comparison) -> list[Row]:
  """All figures, by subject and then in the order of measurement.

  Raises:
    ValueError: two different measurements of one key, a verdict about unknown paths.
  """
  tables = {
    path.name: _by_key(each for each in path.measurements if each.of == "generated")
    for path in comparison.paths
  }
  real = _by_key(comparison.real)
  verdicts = {verdict.key: verdict for verdict in comparison.verdicts}
  for verdict in comparison.verdicts:
    unknown = {*verdict.ranking, *verdict.best} - set(tables)
    if unknown:
      raise ValueError(f"verdict about unknown paths: {', '.join(sorted(unknown))}")
  keys = list(dict.fromkeys(key for table in (*tables.values(), real) for key in table))
  keys.sort(key=lambda key: list(SUBJECTS).index(key[0]))
  return [
    Row(
      **dict(zip(("subject", "metric", "judge", "group"), key, strict=True)),
      of_paths={name: table[key] for name, table in tables.items() if key in table},
      real=real.get(key),
      verdict=verdicts.get(key),
    )
    for key in keys
  ]


def main(rows: Sequence[Row]) -> list[Row]:
  """The rows of all images."""
  return [row for row in rows if row.group == "all"]


def grouped(rows: Sequence[Row]) -> list[Row]:
  """The rows of parts of the images."""
  return [row for row in rows if row.group != "all"]


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


def _by_key(
  measurements: Iterable[Measurement],
) -> dict[tuple[str, str, str, str], Measurement]:
  table: dict[tuple[str, str, str, str], Measurement] = {}
  for each in measurements:
    if table.get(each.key, each) != each:
      raise ValueError(f"measured twice: {', '.join(each.key)}")
    table[each.key] = each
  return table


def _range(numbers: Sequence[int]) -> str:
  low, high = min(numbers), max(numbers)
  return f"{low:,}" if low == high else f"{low:,} to {high:,}"
