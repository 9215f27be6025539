"""Drawn figures on a comparison's page, each with what it shows in words.

rows, Comparison -> figures/NAME.{svg,png} and <figure> with a caption
"""

from collections.abc import Mapping, Sequence
import pathlib
import re

from cxr_diffusion_jax.evaluation.comparison.data import Comparison
from cxr_diffusion_jax.report.comparison import drawing, figures, panels, projection
from cxr_diffusion_jax.report.comparison import names as names_lib
from cxr_diffusion_jax.report.comparison.markup import element, region, text
from cxr_diffusion_jax.report.comparison.palette import Look
from cxr_diffusion_jax.report.comparison.rows import Row

Looks = Mapping[str, Look]

# Panels of one figure: what a page of paper holds.
PANELS = 16


def dots(rows: Sequence[Row], looks: Looks, folder: pathlib.Path) -> str:
  """A figure a subject, of the figures of all images."""
  made = []
  for subject, title in names_lib.SUBJECTS.items():
    own = [row for row in rows if row.key[0] == subject and _has_value(row)]
    if not own:
      continue
    caption = (
      f"{title}. A panel a metric; bars are 95 % intervals; dashed: real images. Where"
      " a difference is significant, filled markers are the best and hollow ones are"
      " not; where none is, all are filled."
    )
    for number, first in enumerate(range(0, len(own), PANELS)):
      shown = own[first : first + PANELS]
      svg = drawing.write(
        folder,
        f"all_{subject}_{number + 1}" if len(own) > PANELS else f"all_{subject}",
        (2.4 * min(4, max(2, len(shown))), 0.7 + 1.95 * -(-len(shown) // 4)),
        lambda figure, shown=shown: figures.dots(figure, shown, looks),
      )
      made.append(_figure(svg, f"Metrics of {title} by path.", caption))
  return "".join(made)


def findings(rows: Sequence[Row], looks: Looks, folder: pathlib.Path) -> str:
  """Bars of each classifier's AUROC and average precision; others are in the table."""
  own = [
    row
    for row in rows
    if row.key[0] == "adherence"
    and row.key[1].endswith(("auroc", "average_precision"))
    and row.key[3].startswith("finding: ")
  ]
  kinds = list(dict.fromkeys(row.key[:3] for row in own))
  kinds.sort(key=lambda key: "auroc" not in key[1])
  made = []
  for kind in kinds:
    group = [row for row in own if row.key[:3] == kind]
    shown = [row for row in group if _has_value(row)]
    if not shown:
      continue
    _, metric, judge = kind
    caption = (
      f"{names_lib.title(metric)} of each finding, judged by {judge or 'pixels'}; thin"
      " lines are 95 % intervals; the broad line is what real images reach, its band"
      " the interval of that."
    )
    missing = [_undefined(row) for row in group]
    if any(missing):
      caption += f" Undefined: {'; '.join(filter(None, missing))}."
    svg = drawing.write(
      folder,
      f"findings_{_file_name(metric, judge)}",
      (max(6.0, 1.0 + 0.75 * len(shown)), 3.7),
      lambda figure, shown=shown: figures.bars(figure, shown, looks),
    )
    label = f"Bars: {names_lib.title(metric)} by finding and path."
    made.append(_figure(svg, label, caption))
  return "".join(made)


def guidance(comparison: Comparison, looks: Looks, folder: pathlib.Path) -> str:
  """Fidelity against adherence over scales."""
  paths = [path for path in comparison.paths if panels.defined(path)]
  if not paths:
    return ""
  svg = drawing.write(
    folder,
    "guidance",
    _panels_size(len(paths)),
    lambda figure: panels.sweeps(figure, paths, looks),
  )
  point = panels.defined(paths[0])[0]
  caption = (
    "A point a guidance scale, told beside it, with 95 % intervals; the other paths in"
    f" grey. Distance judged by {point.fidelity.judge or 'pixels'}, adherence by"
    f" {point.adherence.judge or 'pixels'}. The upper left corner is best."
  )
  return _figure(svg, "Curves: adherence over distance for each path.", caption)


def features(comparison: Comparison, looks: Looks, folder: pathlib.Path) -> str:
  """Clouds of each extractor's features, by each method at hand."""
  made = []
  for name, real in comparison.real_features.items():
    own = {p.name: p.features[name] for p in comparison.paths if name in p.features}
    if not own:
      continue
    made.append(element("h3", text(name)))
    if len(real) < projection.MINIMUM:
      told = f"{len(real)} real images; {projection.MINIMUM} are needed for a plane."
      made.append(element("p", told))
      continue
    for plane in projection.planes(real, own):
      svg = drawing.write(
        folder,
        f"{plane.method.lower()}_{_file_name(name)}",
        _panels_size(len(own)),
        lambda figure, plane=plane: panels.clouds(figure, plane, looks),
      )
      caption = (
        f"{plane.method} of {name} features, fitted on {len(real):,} real images (grey)"
        f" alone; at most {panels.POINTS} points of each are drawn. What lies where no"
        " real image lies looks unlike them; what is missing was not generated."
      )
      label = f"{plane.method} of {name} features: real and generated images by path."
      made.append(_figure(svg, label, caption))
  if made and not projection.has_umap():
    made.append(element("p", "UMAP is shown where umap-learn is installed."))
  return "".join(made)


def efficiency(comparison: Comparison, looks: Looks, folder: pathlib.Path) -> str:
  """What synthetic images are worth beside fewer real ones."""
  paths = [path for path in comparison.paths if path.curve]
  if not paths:
    return ""
  arms = {arm for path in paths for _, arm, _ in path.curve} - {"real"}
  width, height = _panels_size(max(1, len(arms)))
  svg = drawing.write(
    folder,
    "label_efficiency",
    (width, height + 0.7),
    lambda figure: panels.efficiency(figure, paths, looks),
  )
  caption = (
    "Macro AUROC on real test images of classifiers that were trained with a share of"
    " the real training images, and with the synthetic images of each path. Thin"
    " lines are 95 % intervals. Dashed: with real images alone."
  )
  return _figure(svg, "Curves: macro AUROC over the share of real images.", caption)


def losses(comparison: Comparison, looks: Looks, folder: pathlib.Path) -> str:
  """Curves of all runs in one figure."""
  if not any(curves for path in comparison.paths for curves in path.losses.values()):
    return ""
  svg = drawing.write(
    folder,
    "losses",
    (8.5, 3.6),
    lambda figure: figures.losses(figure, comparison.paths, looks),
  )
  caption = (
    "A line a run, the loss by its logarithm. Losses of paths compare only between runs"
    " of equal data, codec and weighting; a lower one need not make better images."
  )
  return _figure(svg, "Curves: loss over steps of each run.", caption)


def _figure(svg: str, label: str, caption: str) -> str:
  shown = svg.replace("<svg ", f'<svg role="img" aria-label="{text(label)}" ', 1)
  return element("figure", region(shown, label) + element("figcaption", text(caption)))


def _panels_size(num: int) -> tuple[float, float]:
  return 2.9 * min(3, max(2, num)) + 0.3, 2.5 * -(-num // 3) + 0.5


def _has_value(row: Row) -> bool:
  return any(each.value is not None for each in row.of_paths.values())


def _undefined(row: Row) -> str:
  """The group's name, who has no value, and why; "" where all have."""
  missing = {p: each for p, each in row.of_paths.items() if each.value is None}
  if not missing:
    return ""
  name = row.key[3].split(": ")[-1]
  who = "" if len(missing) == len(row.of_paths) else f" for {', '.join(missing)}"
  reasons = "; ".join(dict.fromkeys(each.reason for each in missing.values()))
  return f"{name}{who} ({reasons})"


def _file_name(*parts: str) -> str:
  return re.sub(r"[^a-z0-9]+", "_", "_".join(parts).casefold()).strip("_")
