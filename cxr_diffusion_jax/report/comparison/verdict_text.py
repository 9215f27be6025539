"""A comparison in sentences that claim no more than its verdicts.

[Row, ...] -> sentences: who is best by which figure, what is not significant, limits
"""

from collections.abc import Iterable, Sequence
import dataclasses

from cxr_diffusion_jax.evaluation.comparison import data as comparison_data
from cxr_diffusion_jax.report.comparison import rows as rows_lib
from cxr_diffusion_jax.report.comparison.rows import Row
from cxr_diffusion_jax.report.comparison.rows import main as main_rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
  """The verdict of one figure in words.

  Attributes:
    row: the figure.
    kind: "one" path best, "some" not distinguishable as best, "none" significant.
    sentence: plain text that follows the figure's name.
  """

  row: Row
  kind: str
  sentence: str


def findings(rows: Sequence[Row]) -> list[Finding]:
  """Of all images, for each figure with a verdict about at least two paths."""
  return [
    _finding(row, row.verdict)
    for row in main_rows(rows)
    if row.verdict is not None and len(row.verdict.ranking) > 1
  ]


def overview(results: Sequence[Finding]) -> str:
  """How many metrics distinguish paths."""
  if not results:
    return (
      "No metric has a verdict, so nothing here says that one path is better than"
      " another."
    )
  num = {
    kind: sum(each.kind == kind for each in results) for kind in ("one", "some", "none")
  }
  return (
    f"Of {len(results)} metrics over all images, one path is best by {num['one']};"
    f" several that cannot be distinguished are best by {num['some']}; by"
    f" {num['none']} no difference between any two paths is significant. Significant:"
    " the interval of the difference excludes zero; the intervals of all pairs of paths"
    " hold together in 95 % of comparisons, so equal paths pass by chance about once in"
    f" twenty metrics. {_primary(results)}"
  )


def _primary(results: Sequence[Finding]) -> str:
  """What the figure says that was named before the run."""
  for each in results:
    if each.row.primary:
      name = rows_lib.title(each.row.metric)
      return f"The primary figure, {name} ({each.row.judge}): {each.sentence}"
  return "The primary figure has no verdict: all of these are exploratory."


def wins(
  results: Sequence[Finding], names: Iterable[str]
) -> dict[str, tuple[int, int]]:
  """Path -> figures by which it alone is best, and by which it is among the best."""
  return {
    name: (
      sum(each.kind == "one" and name in each.row.best for each in results),
      sum(each.kind == "some" and name in each.row.best for each in results),
    )
    for name in names
  }


def limits(comparison: comparison_data.Comparison, rows: Sequence[Row]) -> list[str]:
  """Limitations: those of the comparison, then those that its rows imply."""
  sentences = list(comparison.limitations)
  standins = list(dict.fromkeys(row.judge or "pixels" for row in rows if row.standin))
  if standins:
    sentences.append(
      "Judged by stand-ins that this project trained on its own data, so the figures"
      f" cannot be compared with published ones: {'; '.join(standins)}."
    )
  single = [path.name for path in comparison.paths if len(path.runs) == 1]
  if single:
    sentences.append(
      "Trained once, so the intervals do not include the variation between training"
      f" seeds: {rows_lib.join(single)}."
    )
  return sentences


def _finding(row: Row, verdict: comparison_data.Verdict) -> Finding:
  best = [name for name in verdict.ranking if name in row.best]
  rest = [name for name in verdict.ranking if name not in row.best]
  if not best:
    kind = "none"
    sentence = f"no significant difference between {rows_lib.join(rest)}"
  elif len(best) > 1:
    kind = "some"
    sentence = (
      f"{rows_lib.join(best)} are best and cannot be distinguished;"
      f" {'each of ' if len(rest) > 1 else ''}{rows_lib.join(rest)} is significantly"
      " worse than some other path"
    )
  else:
    kind, first = "one", verdict.ranking[0]
    apart = {
      name for name, low, high in verdict.differences if low > 0 or high < 0
    } >= set(rest)
    sentence = (
      f"{first} is significantly better than {rows_lib.join(rest)}"
      if apart and best == [first]
      else f"{best[0]} alone has no path that is significantly better"
    )
  without = [
    name
    for name, each in row.of_paths.items()
    if name not in verdict.ranking and each.value is None
  ]
  if without:
    sentence += f" (undefined for {rows_lib.join(without)})"
  if verdict.unranked:
    sentence += f" (not ranked: {rows_lib.join(list(verdict.unranked))})"
  return Finding(row=row, kind=kind, sentence=f"{sentence}.")
