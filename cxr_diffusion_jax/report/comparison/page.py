"""The page of a comparison: one file that opens from disk and loads nothing else.

Comparison -> rows -> OUT/report.html, OUT/table.md, OUT/table.csv, OUT/figures/
"""

from collections.abc import Mapping, Sequence

from etils import epath

from cxr_diffusion_jax import artifacts
from cxr_diffusion_jax.evaluation import measurement
from cxr_diffusion_jax.evaluation.comparison import groups
from cxr_diffusion_jax.evaluation.comparison.data import Comparison
from cxr_diffusion_jax.evaluation.measurement import SUBJECTS
from cxr_diffusion_jax.report import templates
from cxr_diffusion_jax.report.comparison import (
  files,
  images,
  palette,
  plots,
  projection,
  verdict_text,
)
from cxr_diffusion_jax.report.comparison import rows as rows_lib

# The sheet alone is linked, never the key beside its folder.
SHEET = "reader_study/sheet/sheet.html"


def write(comparison: Comparison, out: artifacts.PathLike) -> epath.Path:
  """Writes the page, its figures and its tables.

  The folder `out` receives report.html, table.md, table.csv and figures/. Returns the
  path of the page.

  Raises:
    ValueError: no paths, two of one name, measurements or images that do not fit.
  """
  out = epath.Path(out)
  paths = [path.name for path in comparison.paths]
  if not paths or len(set(paths)) < len(paths):
    raise ValueError(f"paths {paths}: one or more, of different names")
  rows = rows_lib.build(comparison)
  figures = plots.draw(comparison, rows, palette.looks(paths), out / "figures")
  images.draw(comparison, out / "figures")
  artifacts.write_text(out / "table.md", files.markdown(comparison, rows))
  artifacts.write_text(out / "table.csv", files.table(comparison, rows))
  page = out / "report.html"
  sheet = SHEET if (out / SHEET).exists() else ""
  text = render(comparison, rows, figures, sheet=sheet, folder=out.name)
  artifacts.write_text(page, text)
  return page


def render(
  comparison: Comparison,
  rows: Sequence[rows_lib.Row],
  figures: Mapping[str, Sequence[plots.Plot]],
  *,
  sheet: str = "",
  folder: str = "out",
) -> str:
  """Returns the page.

  Args:
    comparison: the data.
    rows: `rows.build` of it.
    figures: section -> its plots, see `plots.draw`; a section without any is left out.
    sheet: address of the readers' sheet, relative to the page; "" for none.
    folder: name of the page's folder, for the command that repeats the comparison.
  """
  near = [path for path in comparison.paths if len(path.neighbours)]
  return templates.render(
    "comparison.html",
    title=comparison.title,
    comparison=comparison,
    facts={k: v for k, v in comparison.facts.items() if not _is_command(k)},
    commands=_commands(comparison, folder),
    looks=palette.looks([path.name for path in comparison.paths]),
    main=rows_lib.main(rows),
    grouped=rows_lib.grouped(rows),
    groups_of={
      path.name: groups.figures(path.measurements, comparison.real)
      for path in comparison.paths
    },
    findings=verdict_text.findings(rows),
    limits=verdict_text.limits(comparison, rows),
    figures=figures,
    shown=images.by_name(comparison),
    shown_side=images.side(len(comparison.shown) * (len(comparison.paths) + 1)),
    near=near,
    near_side=images.side(4 * images.PAIRS * len(near)),
    pairs=images.PAIRS,
    sheet=sheet,
    arrows=rows_lib.ARROWS,
    names=rows_lib,
    subjects=SUBJECTS,
    number=measurement.number,
    palette=palette,
    umap=projection.has_umap(),
    verdicts=verdict_text,
  )


def _is_command(fact: str) -> bool:
  return fact.casefold().startswith("command")


def _commands(comparison: Comparison, folder: str) -> list[str]:
  """The commands among the facts; without any, one from the names of the runs."""
  commands = [value for key, value in comparison.facts.items() if _is_command(key)]
  if commands:
    return commands
  runs = ",".join(run for path in comparison.paths for run in path.runs)
  paths = ",".join(path.name for path in comparison.paths)
  inputs = f"compare --workdirs {runs}" if runs else f"evaluate --synthetic {paths}"
  return [f"python -m cxr_diffusion_jax.{inputs} --out {folder}"]
