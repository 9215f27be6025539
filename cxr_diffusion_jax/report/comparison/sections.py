"""The sections of a comparison's page, from what was compared to how to repeat it.

Comparison, rows -> [Section, ...]; one that has nothing to show says so or is left out
"""

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib

from cxr_diffusion_jax.evaluation.comparison.data import Comparison
from cxr_diffusion_jax.report.comparison import images, plots, tables, verdict_text
from cxr_diffusion_jax.report.comparison import names as names_lib
from cxr_diffusion_jax.report.comparison import rows as rows_lib
from cxr_diffusion_jax.report.comparison.markup import element, folded, listing, text
from cxr_diffusion_jax.report.comparison.palette import Look
from cxr_diffusion_jax.report.comparison.rows import Row

READER_STUDY = "reader_study"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
  """A part of the page.

  Attributes:
    name: its id.
    title: of its heading.
    body: markup; a section without any is left out.
  """

  name: str
  title: str
  body: str


def make(
  comparison: Comparison,
  rows: Sequence[Row],
  looks: Mapping[str, Look],
  out: pathlib.Path,
) -> list[Section]:
  """All sections in their order; writes figures to OUT/figures."""
  found = verdict_text.findings(rows)
  folder = out / "figures"
  samples = images.samples(comparison, folder)
  neighbours = images.neighbours(comparison, looks, folder)
  made = [
    ("compared", "What was compared and how", compared(comparison, looks)),
    ("summary", "Summary: what is significant", summary(comparison, found, looks)),
    ("metrics", "All metrics", all_metrics(rows, looks, folder)),
    ("groups", "Metrics by group", groups(rows, looks)),
    ("samples", "Samples side by side", samples),
    ("findings", "Adherence by finding", plots.findings(rows, looks, folder)),
    ("guidance", "Guidance scales", plots.guidance(comparison, looks, folder)),
    ("features", "Features on a plane", plots.features(comparison, looks, folder)),
    ("labels", "Label efficiency", plots.efficiency(comparison, looks, folder)),
    ("losses", "Training losses", plots.losses(comparison, looks, folder)),
    ("neighbours", "Nearest training images", neighbours),
    ("readers", "Blinded readers", readers(out)),
    ("limitations", "Limitations", limitations(comparison, rows)),
    ("repeat", "How to repeat it", repeat(comparison, out)),
  ]
  return [Section(name=a, title=b, body=body) for a, b, body in made if body]


def compared(comparison: Comparison, looks: Mapping[str, Look]) -> str:
  """Facts, paths, and how their configs differ; what is unequal comes first."""
  if comparison.warnings:
    title = element("h3", "Read with caution: this comparison is unequal or weak")
    told = title + listing(map(text, comparison.warnings))
    parts = [element("div", told, class_="caution", role="note")]
  else:
    parts = [element("p", "No inequality between the runs was found.")]
  parts.append(tables.facts(_facts(comparison)))
  parts.append(element("h3", "Paths"))
  parts.append(
    listing(
      f"{tables.chip(path.name, looks[path.name])}: {text(path.description)};"
      f" {'runs' if len(path.runs) > 1 else 'run'} {text(', '.join(path.runs))}"
      for path in comparison.paths
    )
  )
  if comparison.differences:
    num = len(comparison.differences)
    title = f"Settings that differ between paths ({num})"
    table = tables.configs(comparison.differences, looks)
    parts.append(folded(title, table, opened=num <= 6))
  return "".join(parts)


def summary(comparison: Comparison, found, looks: Mapping[str, Look]) -> str:
  """Words of the verdicts, those that tell nothing apart on one line."""
  parts = [element("p", text(verdict_text.overview(found)))]
  if found:
    wins = verdict_text.wins(found, [path.name for path in comparison.paths])
    parts.append(tables.wins(wins, looks))
  for subject, title in names_lib.SUBJECTS.items():
    own = [each for each in found if each.row.key[0] == subject]
    if own:
      parts.append(element("h3", title) + _verdicts(own))
  if any(verdict.differences for verdict in comparison.verdicts):
    table = tables.differences(comparison.verdicts, looks)
    parts.append(folded("The differences that this rests on", table))
  return "".join(parts)


def all_metrics(rows: Sequence[Row], looks, folder: pathlib.Path) -> str:
  """The main table, what the figures mean, and the same drawn."""
  shown = rows_lib.main(rows)
  if not shown:
    return element("p", "Nothing was measured over all images.")
  caption = (
    "In small: 95 % intervals. Marked: the path that is best, or those among the best"
    " that cannot be told apart, where a path is significantly worse than another."
    " Nothing is marked where no difference is significant. Real images: the same"
    " metric of other real images, as many of them; the floor of what is better lower,"
    " the ceiling of what is better higher. A stand-in judge was trained by this"
    " project."
  )
  table = tables.results(shown, looks, name="all", caption=caption)
  meanings = folded("What the metrics mean", tables.glossary(shown))
  return table + meanings + plots.dots(shown, looks, folder)


def groups(rows: Sequence[Row], looks) -> str:
  """The second table: parts of the images."""
  shown = rows_lib.grouped(rows)
  if not shown:
    return ""
  caption = (
    "As above, of parts of the images. Fewer images: wider intervals, and distances"
    " that compare with no other number of images but their own."
  )
  table = tables.results(shown, looks, name="parts", caption=caption)
  return folded(f"Table of {len(shown)} metrics by finding, sex, age and view", table)


def readers(out: pathlib.Path) -> str:
  """What the blinded sheet is for, and where it lies."""
  told = element(
    "p",
    "Real and generated images are shuffled, without names, for people who say which"
    " are real and which findings they see. The key lies in a file apart: do not open"
    " it before all answers are in. The scorer tells accuracy with its interval against"
    " one half, and kappa between readers.",
  )
  # The sheet alone: nobody may come to the key by a link.
  sheet = f"{READER_STUDY}/sheet/sheet.html"
  if not (out / sheet).is_file():
    return told + element("p", "No reader study was made with this comparison.")
  link = element("a", text(sheet), href=sheet)
  command = (
    "python -m cxr_diffusion_jax.score_readers"
    f" --key {READER_STUDY}/key.csv --answers a.csv,b.csv"
  )
  return (
    told
    + element("p", f"The sheet, in the folder of this page: {link}. Its answers:")
    + element("pre", element("code", text(command)), tabindex=0)
  )


def limitations(comparison: Comparison, rows: Sequence[Row]) -> str:
  """What the figures do not say."""
  return listing(map(text, verdict_text.limits(comparison, rows)))


def repeat(comparison: Comparison, out: pathlib.Path) -> str:
  """Commands, of the facts or of the runs' names."""
  told = [str(value) for key, value in comparison.facts.items() if _is_command(key)]
  if not told:
    runs = ",".join(run for path in comparison.paths for run in path.runs)
    names = ",".join(path.name for path in comparison.paths)
    given = f"compare --workdirs {runs}" if runs else f"evaluate --synthetic {names}"
    told = [f"python -m cxr_diffusion_jax.{given} --out {out.name}"]
  return (
    element("p", "With the folders where the command looks for them:")
    + element("pre", element("code", text("\n".join(told))), tabindex=0)
    + element(
      "p",
      "The same images, seeds and scales give the same figures. Beside this page lie"
      " <code>table.csv</code> with every figure in all digits, <code>table.md</code>,"
      " and the drawn figures as SVG and PNG in <code>figures/</code>.",
    )
  )


def _facts(comparison: Comparison) -> dict[str, str]:
  return {key: told for key, told in comparison.facts.items() if not _is_command(key)}


def _is_command(key: str) -> bool:
  return key.casefold().startswith("command")


def _verdicts(found) -> str:
  """A line a figure that tells paths apart, one line for all others."""
  told = []
  for each in found:
    if each.kind != "none":
      name = tables.figure_name(each.row.key, standin=each.row.standin)
      told.append(f"{name}: {text(each.sentence)}")
  silent = [_short(each.row) for each in found if each.kind == "none"]
  if silent:
    told.append(f"Not significant by: {text('; '.join(silent))}.")
  return listing(told, class_="verdicts")


def _short(row: Row) -> str:
  _, metric, judge, _ = row.key
  return f"{names_lib.title(metric)} ({judge or 'pixels'})"
