"""Figures of a comparison in one piece: metrics, findings, losses, images.

rows, paths, images -> draw(figure), as `drawing.write` takes it
"""

from collections.abc import Mapping, Sequence
import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure
import numpy as np

from cxr_diffusion_jax.evaluation.comparison.data import PathResult
from cxr_diffusion_jax.evaluation.measurement import Measurement
from cxr_diffusion_jax.report.comparison import rows as rows_lib
from cxr_diffusion_jax.report.comparison.drawing import legend_entry
from cxr_diffusion_jax.report.comparison.palette import FAINT, INK, MUTED, PAPER, Look
from cxr_diffusion_jax.report.comparison.rows import Row

Looks = Mapping[str, Look]

_STYLES = {"validation/loss": "-", "validation/loss_unconditional": "--"}
_DASHES = (0, (4, 2))


def path_legend(looks: Looks, **style: object) -> list:
  """Legend entries of the paths; `style` is matplotlib's."""
  return [
    legend_entry(path, **{"color": look.color, "marker": look.marker, **style})
    for path, look in looks.items()
  ]


def interval(axes: Axes, x: float, each: Measurement, color: str, width: float) -> None:
  """Draws the interval of a measurement at x, where it has one."""
  if each.low is not None and each.high is not None:
    axes.plot([x, x], [each.low, each.high], color=color, linewidth=width)


def dots(figure: Figure, rows: Sequence[Row], looks: Looks) -> None:
  """A panel a metric: its value by path with its interval, real images as a line."""
  columns = min(4, len(rows))
  panels = figure.subplots(math.ceil(len(rows) / columns), columns, squeeze=False)
  for axes, row in zip(panels.flat, rows, strict=False):
    for x, (path, look) in enumerate(looks.items()):
      each = row.of_paths.get(path)
      if each is not None and each.value is not None:
        interval(axes, x, each, look.color, 1.4)
        filled = not row.best or path in row.best
        axes.plot(
          *(x, each.value),
          look.marker,
          color=look.color,
          markerfacecolor=look.color if filled else PAPER,
          markersize=6,
        )
    if row.real and row.real.value is not None:
      axes.axhline(row.real.value, color=INK, linewidth=1, linestyle=_DASHES)
    arrow = rows_lib.ARROWS.get(row.better, "")
    axes.set_title(f"{rows_lib.title(row.metric)} {arrow}".strip(), pad=17)
    judge = row.judge or "pixels"
    judge = judge if len(judge) <= 34 else judge[:33] + "…"
    axes.text(0, 1.03, judge, transform=axes.transAxes, fontsize=7.5, color=MUTED)
    axes.set_xticks([])
    axes.set_xlim(-0.6, len(looks) - 0.4)
    axes.grid(axis="x", visible=False)
  for axes in panels.flat[len(rows) :]:
    axes.set_axis_off()
  real = legend_entry("real images: floor or ceiling", color=INK, linestyle=_DASHES)
  figure.legend(
    handles=[*path_legend(looks), real],
    loc="outside lower center",
    ncols=4 if columns > 2 else 2,
  )


def bars(figure: Figure, rows: Sequence[Row], looks: Looks) -> None:
  """A group a row, a bar a path from chance level on; real images as a line above.

  The rows are of one metric and judge, of groups "finding: NAME".
  """
  axes = figure.add_subplot()
  chance = 0.5 if "auroc" in rows[0].metric else 0.0
  width = 0.82 / len(looks)
  for place, (path, look) in enumerate(looks.items()):
    offset = (place - (len(looks) - 1) / 2) * width
    for x, row in enumerate(rows):
      each = row.of_paths.get(path)
      if each is None or each.value is None:
        continue
      axes.bar(x + offset, each.value - chance, width, chance, color=look.color)
      interval(axes, x + offset, each, INK, 0.9)
  for x, row in enumerate(rows):
    if row.real and row.real.value is not None:
      span = [x - 0.45, x + 0.45]
      axes.plot(span, [row.real.value] * 2, color=INK, linewidth=1.6)
      if row.real.low is not None and row.real.high is not None:
        axes.fill_between(span, row.real.low, row.real.high, color=FAINT, zorder=0)
  axes.axhline(chance, color=MUTED, linewidth=0.9)
  labels = [row.group.split(": ")[-1].replace("_", " ") for row in rows]
  axes.set_xticks(range(len(rows)), labels, rotation=30, ha="right")
  axes.grid(axis="x", visible=False)
  axes.set_xlim(-0.6, len(rows) - 0.4)
  name = rows_lib.title(rows[0].metric)
  axes.set_ylabel(f"{name} (0.5 is chance)" if chance else name)
  handles = path_legend(looks, marker="s", markersize=7)
  handles.append(legend_entry("real images", color=INK, linestyle="-"))
  figure.legend(handles=handles, loc="outside upper center", ncols=4)


def losses(figure: Figure, paths: Sequence[PathResult], looks: Looks) -> None:
  """Validation losses of all runs, or training losses without them; log scale."""
  axes = figure.add_subplot()
  tags = sorted({tag for path in paths for run in path.losses.values() for tag in run})
  shown = [tag for tag in tags if tag in _STYLES] or tags
  for path in paths:
    look = looks[path.name]
    for curves in path.losses.values():
      for tag in (tag for tag in shown if tag in curves):
        steps, values = curves[tag]
        axes.plot(
          *(steps, values),
          color=look.color,
          linestyle=_STYLES.get(tag, "-"),
          linewidth=1.3,
          marker=look.marker,
          markersize=4,
          markevery=max(1, len(steps) // 8),
        )
  axes.set_xlabel("step")
  axes.set_ylabel("loss")
  axes.set_yscale("log")
  handles = path_legend(looks, linestyle="-")
  for tag in shown:
    handles.append(legend_entry(tag, color=MUTED, linestyle=_STYLES.get(tag, "-")))
  figure.legend(handles=handles, loc="outside right upper")


def pictures(
  figure: Figure,
  grid: Sequence[Sequence[np.ndarray]],
  row_names: Sequence[str],
  column_names: Sequence[str],
) -> None:
  """Images uint8 [h w 1], all of one size, in rows and columns with their names."""
  h, w, _ = np.shape(grid[0][0])
  gap = max(2, w // 24)
  white = [(0, gap), (0, gap), (0, 0)]
  sheet = [[np.pad(image, white, constant_values=255) for image in row] for row in grid]
  # At the right, as room that the aspect ratio leaves is for names of rows.
  axes = figure.add_subplot(anchor="E")
  axes.imshow(
    np.block([[image[..., 0] for image in row] for row in sheet]),
    cmap="gray",
    vmin=0,
    vmax=255,
    interpolation="none",
  )
  axes.set_frame_on(False)
  axes.grid(visible=False)
  rows = h / 2 + (h + gap) * np.arange(len(grid))
  axes.set_yticks(rows, row_names)
  columns = w / 2 + (w + gap) * np.arange(len(column_names))
  axes.set_xticks(columns, column_names, fontsize=7.5)
  axes.tick_params(length=0, labeltop=True, labelbottom=False)
