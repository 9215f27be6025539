"""What a comparison says in words, and no more than its verdicts say.

[Row, ...] -> sentences: who is best by which figure, what is not significant, limits
"""

from collections.abc import Sequence
import dataclasses

from cxr_diffusion_jax.evaluation.comparison import data as comparison_data
from cxr_diffusion_jax.report.comparison import names as names_lib
from cxr_diffusion_jax.report.comparison.rows import Row
from cxr_diffusion_jax.report.comparison.rows import main as main_rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
  """What one figure says about the paths.

  Attributes:
    row: the figure.
    kind: "one" path best, "some" not distinguishable as best, "none" significant.
    sentence: plain text that follows the figure's name.
  """

  row: Row
  kind: str
  sentence: str


def findings(rows: Sequence[Row]) -> list[Finding]:
  """Of all images, for each figure with a verdict about two paths or more."""
  return [
    _finding(row)
    for row in main_rows(rows)
    if row.verdict is not None and len(row.verdict.ranking) > 1
  ]


def overview(found: Sequence[Finding]) -> str:
  """How many metrics say something."""
  if not found:
    return (
      "No metric has a verdict, so nothing here says that one path is better than"
      " another."
    )
  num = {
    kind: sum(each.kind == kind for each in found) for kind in ("one", "some", "none")
  }
  return (
    f"Of {len(found)} metrics over all images, one path is best by {num['one']};"
    f" several that cannot be told apart are best by {num['some']}; by {num['none']} no"
    " difference between any two paths is significant. Significant: the 95 % interval"
    " of the difference excludes zero. Two paths that do not differ pass that by chance"
    " about once in twenty metrics."
  )


def wins(found: Sequence[Finding], names: Sequence[str]) -> dict[str, tuple[int, int]]:
  """Path -> figures by which it alone is best, and by which it is among the best."""
  return {
    name: (
      sum(each.kind == "one" and name in each.row.best for each in found),
      sum(each.kind == "some" and name in each.row.best for each in found),
    )
    for name in names
  }


def limits(comparison: comparison_data.Comparison, rows: Sequence[Row]) -> list[str]:
  """What to keep in mind, after what the comparison itself says."""
  told = list(comparison.limitations)
  standins = list(dict.fromkeys(row.key[2] or "pixels" for row in rows if row.standin))
  if standins:
    told.append(
      "Judged by stand-ins that this project trained on its own data, whose figures"
      f" cannot be compared with published ones: {'; '.join(standins)}."
    )
  single = [path.name for path in comparison.paths if len(path.runs) == 1]
  if single:
    told.append(
      "Trained once, so that what another training seed would change is not in the"
      f" intervals: {names_lib.join(single)}."
    )
  return told


def _finding(row: Row) -> Finding:
  verdict = row.verdict
  best = [name for name in verdict.ranking if name in row.best]
  rest = [name for name in verdict.ranking if name not in row.best]
  if not best:
    kind = "none"
    sentence = f"no significant difference between {names_lib.join(rest)}"
  elif len(best) > 1:
    kind = "some"
    sentence = (
      f"{names_lib.join(best)} are best and cannot be told apart;"
      f" {'each of ' if len(rest) > 1 else ''}{names_lib.join(rest)} is significantly"
      " worse than some other path"
    )
  else:
    kind, first = "one", verdict.ranking[0]
    apart = {
      name for name, low, high in verdict.differences if low > 0 or high < 0
    } >= set(rest)
    sentence = (
      f"{first} is significantly better than {names_lib.join(rest)}"
      if apart and best == [first]
      else f"{best[0]} alone has no path that is significantly better"
    )
  without = [
    name
    for name, each in row.of_paths.items()
    if name not in verdict.ranking and each.value is None
  ]
  if without:
    sentence += f" (undefined for {names_lib.join(without)})"
  return Finding(row=row, kind=kind, sentence=f"{sentence}.")
