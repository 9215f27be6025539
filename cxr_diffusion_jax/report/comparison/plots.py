"""Drawn figures on a comparison's page, each with a caption.

rows, Comparison -> figures/NAME.{svg,png} and, by section, SVGs with captions
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import functools
import re

from etils import epath
from markupsafe import Markup
from matplotlib.figure import Figure

from cxr_diffusion_jax.evaluation.comparison.data import Comparison
from cxr_diffusion_jax.evaluation.measurement import SUBJECTS
from cxr_diffusion_jax.report.comparison import drawing, figures, panels, projection
from cxr_diffusion_jax.report.comparison import rows as rows_lib
from cxr_diffusion_jax.report.comparison.figures import Looks
from cxr_diffusion_jax.report.comparison.rows import Row

# Panels of one figure: what a page of paper holds.
PANELS = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plot:
  """A figure on the page, or why there is none.

  Attributes:
    caption: text below the figure; without a figure, the reason.
    svg: for the page; None for none.
    label: what it shows, for readers who cannot see it.
    heading: text above it; "" for none.
  """

  caption: str
  svg: Markup | None = None
  label: str = ""
  heading: str = ""


def draw(
  comparison: Comparison, rows: Sequence[Row], looks: Looks, folder: epath.Path
) -> Mapping[str, Sequence[Plot]]:
  """Draws everything; returns the plots of each section of the page."""
  return {
    "metrics": list(_metrics(rows_lib.main(rows), looks, folder)),
    "findings": list(_findings(rows, looks, folder)),
    "guidance": list(_guidance(comparison, looks, folder)),
    "features": list(_features(comparison, looks, folder)),
    "labels": list(_efficiency(comparison, looks, folder)),
    "losses": list(_losses(comparison, looks, folder)),
  }


def _metrics(rows: Sequence[Row], looks: Looks, folder: epath.Path) -> Iterator[Plot]:
  """The metrics of all images, a figure a subject."""
  for subject, title in SUBJECTS.items():
    own = [row for row in rows if row.subject == subject and _has_value(row)]
    for number, first in enumerate(range(0, len(own), PANELS), start=1):
      shown = own[first : first + PANELS]
      yield _plot(
        folder,
        f"all_{subject}_{number}" if len(own) > PANELS else f"all_{subject}",
        (2.4 * min(4, max(2, len(shown))), 0.7 + 1.95 * -(-len(shown) // 4)),
        functools.partial(figures.dots, rows=shown, looks=looks),
        label=f"Metrics of {title} by path.",
        caption=f"{title}. A panel a metric; bars are 95 % intervals; dashed: real"
        " images. Where a difference is significant, filled markers are the best and"
        " hollow ones are not; where none is, all are filled.",
      )


def _findings(rows: Sequence[Row], looks: Looks, folder: epath.Path) -> Iterator[Plot]:
  """Bars of each classifier's AUROC and average precision by finding."""
  own: dict[tuple[str, str], list[Row]] = {}
  for row in rows:
    if (
      row.subject == "adherence"
      and row.kind == "finding"
      and row.metric.endswith(("auroc", "average_precision"))
    ):
      own.setdefault((row.metric, row.judge), []).append(row)
  for metric, judge in sorted(own, key=lambda key: "auroc" not in key[0]):
    group = own[metric, judge]
    shown = [row for row in group if _has_value(row)]
    if not shown:
      continue
    name = rows_lib.title(metric)
    caption = (
      f"{name} of each finding, judged by {judge or 'pixels'}; thin lines are 95 %"
      " intervals; the broad line is the value of real images, its band their"
      " interval."
    )
    missing = [text for text in map(_undefined, group) if text]
    if missing:
      caption += f" Undefined: {'; '.join(missing)}."
    yield _plot(
      folder,
      f"findings_{_file_name(metric, judge)}",
      (max(6.0, 1.0 + 0.75 * len(shown)), 3.7),
      functools.partial(figures.bars, rows=shown, looks=looks),
      label=f"Bars: {name} by finding and path.",
      caption=caption,
    )


def _guidance(
  comparison: Comparison, looks: Looks, folder: epath.Path
) -> Iterator[Plot]:
  """Fidelity against adherence over guidance scales."""
  paths = [path for path in comparison.paths if panels.defined(path)]
  if paths:
    point = panels.defined(paths[0])[0]
    yield _plot(
      folder,
      "guidance",
      _panels_size(len(paths)),
      functools.partial(panels.sweeps, paths=paths, looks=looks),
      label="Curves: adherence over distance for each path.",
      caption="A point a guidance scale, labelled with it, with 95 % intervals, of"
      f" {point.fidelity.num:,} validation conditions; the other paths in grey. A ring:"
      " the scale that was chosen by the primary figure, at which all other figures of"
      f" the path are. Distance judged by {point.fidelity.judge or 'pixels'}, adherence"
      f" by {point.adherence.judge or 'pixels'}. The upper left corner is best.",
    )


def _features(
  comparison: Comparison, looks: Looks, folder: epath.Path
) -> Iterator[Plot]:
  """Clouds of each extractor's features, by each available method."""
  for name, real in comparison.real_features.items():
    own = {p.name: p.features[name] for p in comparison.paths if name in p.features}
    if own and len(real) < projection.MINIMUM:
      text = f"{len(real)} real images; a plane needs {projection.MINIMUM}."
      yield Plot(heading=name, caption=text)
      continue
    for number, plane in enumerate(projection.planes(real, own) if own else ()):
      yield _plot(
        folder,
        f"{plane.method.lower()}_{_file_name(name)}",
        _panels_size(len(own)),
        functools.partial(panels.clouds, plane=plane, looks=looks),
        label=f"{plane.method} of {name} features: real and generated images by path.",
        caption=f"{plane.method} of {name} features, fitted on {len(real):,} real"
        f" images (grey) alone; at most {panels.POINTS} points of each are drawn."
        " Points where no real image lies are unlike real images; real points without"
        " generated ones near them were missed.",
        heading="" if number else name,
      )


def _efficiency(
  comparison: Comparison, looks: Looks, folder: epath.Path
) -> Iterator[Plot]:
  """The worth of synthetic images when there are fewer real ones."""
  paths = [path for path in comparison.paths if path.curve]
  arms = {arm for path in paths for _, arm, _ in path.curve} - {"real"}
  width, height = _panels_size(max(1, len(arms)))
  if paths:
    yield _plot(
      folder,
      "label_efficiency",
      (width, height + 0.7),
      functools.partial(panels.efficiency, paths=paths, looks=looks),
      label="Curves: macro AUROC over the share of real images.",
      caption="Macro AUROC on real test images of classifiers that were trained with a"
      " share of the real training images, and with the synthetic images of each path."
      " Thin lines are 95 % intervals. Dashed: with real images alone.",
    )


def _losses(comparison: Comparison, looks: Looks, folder: epath.Path) -> Iterator[Plot]:
  """The loss curves of all runs in one figure."""
  if any(curves for path in comparison.paths for curves in path.losses.values()):
    yield _plot(
      folder,
      "losses",
      (8.5, 3.6),
      functools.partial(figures.losses, paths=comparison.paths, looks=looks),
      label="Curves: loss over steps of each run.",
      caption="A line a run, on a logarithmic scale. Losses compare only between runs"
      " with the same data, codec and weighting; a lower loss need not mean better"
      " images.",
    )


def _plot(
  folder: epath.Path,
  name: str,
  size: tuple[float, float],
  draw: Callable[[Figure], None],
  *,
  label: str,
  caption: str,
  heading: str = "",
) -> Plot:
  """Draws a figure; see `drawing.write`."""
  svg = drawing.write(folder, name, size, draw, label)
  return Plot(svg=svg, label=label, caption=caption, heading=heading)


def _panels_size(num: int) -> tuple[float, float]:
  return 2.9 * min(3, max(2, num)) + 0.3, 2.5 * -(-num // 3) + 0.5


def _has_value(row: Row) -> bool:
  return any(each.value is not None for each in row.of_paths.values())


def _undefined(row: Row) -> str:
  """The group's name, the paths without a value, and the reason; "" for none."""
  missing = {p: each for p, each in row.of_paths.items() if each.value is None}
  if not missing:
    return ""
  name = row.group.split(": ")[-1]
  who = "" if len(missing) == len(row.of_paths) else f" for {', '.join(missing)}"
  reasons = "; ".join(dict.fromkeys(each.reason for each in missing.values()))
  return f"{name}{who} ({reasons})"


def _file_name(*parts: str) -> str:
  return re.sub(r"[^a-z0-9]+", "_", "_".join(parts).casefold()).strip("_")
