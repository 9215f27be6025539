"""The tables of a comparison as files: Markdown for people, CSV for programs.

[Row, ...] -> table.md (all images), table.csv (a line a figure, group and path)
"""

from collections.abc import Iterable, Sequence

from cxr_diffusion_jax.data import csv_text
from cxr_diffusion_jax.evaluation.comparison import data as comparison_data
from cxr_diffusion_jax.evaluation.measurement import Measurement
from cxr_diffusion_jax.report.comparison import rows as rows_lib
from cxr_diffusion_jax.report.comparison import verdict_text

COLUMNS = (
  *("subject", "metric", "judge", "standin", "group", "of", "path"),
  *("value", "low", "high", "num", "patients", "num_real", "real_patients"),
  *("better", "best", "reason"),
)


def markdown(
  comparison: comparison_data.Comparison, rows: Sequence[rows_lib.Row]
) -> str:
  """The figures of all images and the summary of their verdicts."""
  paths = [path.name for path in comparison.paths]
  heads = ["figure", "judge", "N (patients)", "real images", *paths]
  lines = [f"# {_plain(comparison.title)}", ""]
  lines += [f"> **Caution:** {_plain(warning)}\n" for warning in comparison.warnings]
  lines += [_line(map(_plain, heads)), _line(["---"] * len(heads))]
  for row in rows_lib.main(rows):
    arrow = rows_lib.ARROWS.get(row.better, "")
    cells = [
      f"{rows_lib.title(row.metric)} {arrow}".strip() + " (primary)" * row.primary,
      (row.judge or "pixels") + (" (stand-in)" if row.standin else ""),
      " against ".join(filter(None, row.counts)),
      row.real.text if row.real else "",
    ]
    lines.append(_line([*map(_plain, cells), *(_path_cell(row, p) for p in paths)]))
  lines += [
    "",
    "In brackets: 95 % intervals over patients. One figure is primary, named before the"
    " run; all others are exploratory. Bold: the best, where a path is significantly"
    " worse than another; several in bold cannot be distinguished. Nothing in bold: no"
    " significant difference, or neither direction is better.",
    "",
    verdict_text.overview(verdict_text.findings(rows)),
    "",
    *_scales(comparison),
  ]
  return "\n".join(lines)


def table(comparison: comparison_data.Comparison, rows: Sequence[rows_lib.Row]) -> str:
  """Every measurement with all of its digits; empty where there is no value."""
  lines: list[Sequence[object]] = [COLUMNS]
  for row in rows:
    for path, each in row.of_paths.items():
      ranked = row.verdict is not None and path in row.verdict.ranking
      best = ("yes" if path in row.best else "no") if ranked else ""
      lines.append(_values(each, path, best))
    if row.real:
      lines.append(_values(row.real, "", ""))
  return csv_text.csv_text(lines)


def _scales(comparison: comparison_data.Comparison) -> list[str]:
  """The table of the guidance scales; no lines without a sweep."""
  points = [(path.name, point) for path in comparison.paths for point in path.sweep]
  if not points:
    return []
  figures = [(p.primary, p.fidelity, p.adherence) for _, p in points]
  heads = ["path", "guidance", *(rows_lib.title(one.metric) for one in figures[0])]
  heads[2] = f"primary: {heads[2]}"
  lines = [
    f"Guidance, chosen by the primary figure of {points[0][1].primary.num:,} validation"
    " conditions (bold):",
    "",
    _line(map(_plain, heads)),
    _line(["---"] * len(heads)),
  ]
  for (name, point), measured in zip(points, figures, strict=True):
    scale = f"**{point.guidance:g}**" if point.chosen else f"{point.guidance:g}"
    cells = [_plain(name), scale, *(_plain(one.text) for one in measured)]
    lines.append(_line(cells))
  return [*lines, ""]


def _values(each: Measurement, path: str, best: str) -> list[object]:
  own = {"path": path, "best": best}
  values = [own[key] if key in own else getattr(each, key) for key in COLUMNS]
  return ["" if value is None else value for value in values]


def _path_cell(row: rows_lib.Row, path: str) -> str:
  each = row.of_paths.get(path)
  text = _plain(each.text if each else "not measured")
  if row.verdict is not None and path in row.verdict.unranked:
    text += f"; not ranked, {_plain(row.verdict.unranked[path].split(':')[0])}"
  return f"**{text}**" if path in row.best else text


def _plain(text: str) -> str:
  """Text that neither ends a cell nor is read as markup."""
  for sign in ("\\", "|", "*", "<", "[", "`"):
    text = text.replace(sign, f"\\{sign}")
  return " ".join(text.split())


def _line(cells: Iterable[str]) -> str:
  return f"| {' | '.join(cells)} |"
