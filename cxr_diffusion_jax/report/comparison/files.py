"""The tables of a comparison as files: Markdown for people, CSV for programs.

[Row, ...] -> table.md (all images), table.csv (a line a figure, group and path)
"""

from collections.abc import Sequence
import csv
import io

from cxr_diffusion_jax.evaluation.comparison import data as comparison_data
from cxr_diffusion_jax.evaluation.measurement import Measurement
from cxr_diffusion_jax.report.comparison import names as names_lib
from cxr_diffusion_jax.report.comparison import rows as rows_lib
from cxr_diffusion_jax.report.comparison import verdict_text
from cxr_diffusion_jax.report.comparison.rows import Row

COLUMNS = (
  "subject",
  "metric",
  "judge",
  "standin",
  "group",
  "of",
  "path",
  "value",
  "low",
  "high",
  "num",
  "num_real",
  "better",
  "best",
  "reason",
)


def markdown(comparison: comparison_data.Comparison, rows: Sequence[Row]) -> str:
  """The figures of all images, with what they say in words."""
  paths = [path.name for path in comparison.paths]
  heads = ["figure", "judge", "N", "real images", *paths]
  lines = [f"# {comparison.title}", ""]
  lines += [f"> **Caution:** {_plain(warning)}\n" for warning in comparison.warnings]
  lines += [_line(map(_plain, heads)), _line(["---"] * len(heads))]
  for row in rows_lib.main(rows):
    _, metric, judge, _ = row.key
    arrow = {"lower": " ↓", "higher": " ↑"}.get(row.better, "")
    cells = [
      names_lib.title(metric) + arrow,
      (judge or "pixels") + (" (stand-in)" if row.standin else ""),
      " against ".join(filter(None, row.counts)),
      row.real.text if row.real else "",
    ]
    of_paths = [_plain(_told(row.of_paths.get(path))) for path in paths]
    marked = [
      f"**{told}**" if path in row.best else told
      for path, told in zip(paths, of_paths, strict=True)
    ]
    lines.append(_line([*map(_plain, cells), *marked]))
  lines += [
    "",
    "In brackets: 95 % intervals. Bold: the best, where a path is significantly worse"
    " than another; several in bold cannot be told apart. Nothing in bold: no"
    " significant difference, or none that is better.",
    "",
    verdict_text.overview(verdict_text.findings(rows)),
    "",
  ]
  return "\n".join(lines)


def table(comparison: comparison_data.Comparison, rows: Sequence[Row]) -> str:
  """Every measurement with all of its digits; empty where there is no value."""
  buffer = io.StringIO()
  writer = csv.writer(buffer, lineterminator="\n")
  writer.writerow(COLUMNS)
  for row in rows:
    for path, each in row.of_paths.items():
      best = "" if row.verdict is None else "yes" if path in row.best else "no"
      writer.writerow(_values(each, path, best))
    if row.real:
      writer.writerow(_values(row.real, "", ""))
  return buffer.getvalue()


def _values(each: Measurement, path: str, best: str) -> list[object]:
  own = {"path": path, "best": best}
  values = [own[key] if key in own else getattr(each, key) for key in COLUMNS]
  return ["" if value is None else value for value in values]


def _told(each: Measurement | None) -> str:
  return "not measured" if each is None else each.text


def _plain(told: str) -> str:
  """Text that neither ends a cell nor is read as markup."""
  for sign in ("\\", "|", "*", "<", "[", "`"):
    told = told.replace(sign, f"\\{sign}")
  return " ".join(told.split())


def _line(cells) -> str:
  return f"| {' | '.join(cells)} |"
