"""Figures with a panel a path: guidance, label efficiency, features on a plane.

paths, planes -> draw(figure), as `drawing.write` takes it; all panels have one scale
"""

from collections.abc import Sequence
import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure
import numpy as np

from cxr_diffusion_jax.evaluation.comparison.data import PathResult, SweepPoint
from cxr_diffusion_jax.evaluation.measurement import Measurement
from cxr_diffusion_jax.report.comparison import projection
from cxr_diffusion_jax.report.comparison import rows as rows_lib
from cxr_diffusion_jax.report.comparison.drawing import legend_entry
from cxr_diffusion_jax.report.comparison.figures import Looks, interval, path_legend
from cxr_diffusion_jax.report.comparison.palette import INK, MUTED, Look

# Points of a cloud that are drawn at most: more hide each other and take megabytes.
POINTS = 150


def sweeps(figure: Figure, paths: Sequence[PathResult], looks: Looks) -> None:
  """A panel a path: adherence over distance, a point a scale; the others in grey.

  A ring marks the chosen scale.
  """
  panels = _panels(figure, len(paths))
  for axes, path in zip(panels, paths, strict=True):
    for other in paths:
      points = defined(other)
      xs = np.array([point.fidelity.value for point in points])
      ys = np.array([point.adherence.value for point in points])
      if other is not path:
        axes.plot(xs, ys, color=MUTED, linewidth=1.4, alpha=0.45, zorder=1)
        continue
      look = looks[path.name]
      axes.plot(xs, ys, color=look.color, linewidth=1.6, zorder=3)
      for point in points:
        _cross(axes, point, look)
    axes.set_title(path.name)
  first = next(point for path in paths for point in path.sweep)
  _outer_labels(
    panels,
    f"{rows_lib.title(first.fidelity.metric)} (lower is better)",
    f"{rows_lib.title(first.adherence.metric)} (higher is better)",
  )


def efficiency(figure: Figure, paths: Sequence[PathResult], looks: Looks) -> None:
  """A panel an arm: macro AUROC over the share of real images; real alone in grey."""
  arms = list(dict.fromkeys(arm for path in paths for _, arm, _ in path.curve))
  shown = [arm for arm in arms if arm != "real"] or arms
  panels = _panels(figure, len(shown))
  for axes, arm in zip(panels, shown, strict=True):
    real = [point for point in paths[0].curve if point[1] == "real"]
    _curve(axes, real, MUTED, "o", "--")
    for path in paths:
      own = [point for point in path.curve if point[1] == arm]
      if arm != "real":
        _curve(axes, own, looks[path.name].color, looks[path.name].marker, "-")
    axes.set_title(rows_lib.title(arm))
  _outer_labels(panels, "share of the real training images", "macro AUROC")
  handles = path_legend({p.name: looks[p.name] for p in paths}, linestyle="-")
  handles.append(legend_entry("real images alone", color=MUTED, linestyle="--"))
  figure.legend(handles=handles, loc="outside upper center", ncols=4)


def clouds(figure: Figure, plane: projection.Plane, looks: Looks) -> None:
  """A panel a path: its images over the real ones, on the real ones' plane."""
  panels = _panels(figure, len(plane.of_paths))
  for axes, (path, points) in zip(panels, plane.of_paths.items(), strict=True):
    real, look = _thinned(plane.real), looks[path]
    axes.plot(*real.T, "o", color=MUTED, markersize=2.6, alpha=0.35, markeredgewidth=0)
    axes.plot(
      *_thinned(points).T,
      look.marker,
      color=look.color,
      markersize=3.6,
      alpha=0.8,
      markeredgewidth=0,
    )
    axes.set_title(path)
  _outer_labels(panels, *plane.axes)
  real = legend_entry("real images", color=MUTED, marker="o", markersize=4)
  panels[0].legend(handles=[real], loc="lower right")


def _cross(axes: Axes, point: SweepPoint, look: Look) -> None:
  """A point with the intervals of both figures, and its scale beside it."""
  x, y = point.fidelity.value, point.adherence.value
  if x is None or y is None:
    return
  low, high = point.fidelity.low, point.fidelity.high
  if low is not None and high is not None:
    axes.plot([low, high], [y, y], color=look.color, linewidth=0.7)
  interval(axes, x, point.adherence, look.color, 0.7)
  axes.plot(x, y, look.marker, color=look.color, markersize=5, zorder=4)
  if point.chosen:
    ring = {"markerfacecolor": "none", "markeredgewidth": 1.2, "markersize": 11}
    axes.plot(x, y, "o", color=INK, zorder=5, **ring)
  axes.annotate(
    f"{point.guidance:g}", (x, y), xytext=(4, 4), textcoords="offset points", fontsize=8
  )


def _curve(
  axes: Axes,
  points: Sequence[tuple[float, str, Measurement]],
  color: str,
  marker: str,
  style: str,
) -> None:
  """Defined values over shares with their intervals."""
  values: dict[float, float] = {}
  for x, _, each in sorted(points, key=lambda point: point[0]):
    if each.value is not None:
      values[x] = each.value
      interval(axes, x, each, color, 0.7)
  axes.plot(
    list(values.keys()),
    list(values.values()),
    color=color,
    marker=marker,
    linestyle=style,
    markersize=4.5,
  )


def _panels(figure: Figure, num: int) -> list[Axes]:
  """Axes of one scale, three a row."""
  columns = min(3, num)
  shape = math.ceil(num / columns), columns
  grid = figure.subplots(*shape, squeeze=False, sharex=True, sharey=True)
  for axes in grid.flat[num:]:
    axes.set_axis_off()
  for axes in grid.flat[max(0, num - columns) : num]:
    axes.tick_params(labelbottom=True)
  return list(grid.flat[:num])


def _outer_labels(panels: Sequence[Axes], x: str, y: str) -> None:
  figure = panels[0].figure
  figure.supxlabel(x, fontsize=9)
  figure.supylabel(y, fontsize=9)


def defined(path: PathResult) -> list[SweepPoint]:
  """Points of a sweep that have both figures, by their scale."""
  points = [
    point
    for point in path.sweep
    if point.fidelity.value is not None and point.adherence.value is not None
  ]
  return sorted(points, key=lambda point: point.guidance)


def _thinned(points: np.ndarray) -> np.ndarray:
  """At most `POINTS`, evenly spaced."""
  if len(points) <= POINTS:
    return points
  return points[np.linspace(0, len(points) - 1, POINTS).astype(int)]
