"""What is drawn of a comparison in one piece: metrics, findings, losses, images.

rows, paths, images -> draw(figure), as `drawing.write` takes it
"""

from collections.abc import Mapping, Sequence
import math

import matplotlib.figure
import numpy as np

from cxr_diffusion_jax.evaluation.comparison import data as comparison_data
from cxr_diffusion_jax.evaluation.measurement import Measurement
from cxr_diffusion_jax.report.comparison import legend
from cxr_diffusion_jax.report.comparison import names as names_lib
from cxr_diffusion_jax.report.comparison.palette import FAINT, INK, MUTED, PAPER, Look
from cxr_diffusion_jax.report.comparison.rows import Row

Figure = matplotlib.figure.Figure
Looks = Mapping[str, Look]

_STYLES = {"validation/loss": "-", "validation/loss_unconditional": "--"}


def dots(figure: Figure, rows: Sequence[Row], looks: Looks) -> None:
  """A panel a figure: its value by each path with its interval, real images a line."""
  columns = min(4, len(rows))
  panels = figure.subplots(math.ceil(len(rows) / columns), columns, squeeze=False)
  for axes, row in zip(panels.flat, rows, strict=False):
    for place, (path, look) in enumerate(looks.items()):
      each = row.of_paths.get(path)
      if each is not None and each.value is not None:
        _point(axes, place, each, look, filled=not row.best or path in row.best)
    if row.real and row.real.value is not None:
      axes.axhline(row.real.value, color=INK, linewidth=1, linestyle=(0, (4, 2)))
    arrow = {"lower": " ↓", "higher": " ↑"}.get(row.better, "")
    axes.set_title(names_lib.title(row.key[1]) + arrow, pad=17)
    judge = row.key[2] or "pixels"
    told = judge if len(judge) <= 34 else judge[:33] + "…"
    axes.text(0, 1.03, told, transform=axes.transAxes, fontsize=7.5, color=MUTED)
    axes.set_xticks([])
    axes.set_xlim(-0.6, len(looks) - 0.4)
    axes.grid(axis="x", visible=False)
  for axes in panels.flat[len(rows) :]:
    axes.set_axis_off()
  handles = [legend.path(path, look) for path, look in looks.items()]
  handles.append(legend.line("real images: floor or ceiling", INK, (0, (4, 2))))
  ncols = 4 if columns > 2 else 2
  figure.legend(handles=handles, loc="outside lower center", ncols=ncols)


def bars(figure: Figure, rows: Sequence[Row], looks: Looks) -> None:
  """A group a row, a bar a path from chance level on; real images as a line above.

  Args:
    figure: empty.
    rows: of one metric and judge, of groups "finding: NAME".
    looks: of the paths.
  """
  axes = figure.add_subplot()
  chance = 0.5 if "auroc" in rows[0].key[1] else 0.0
  width = 0.82 / len(looks)
  for place, (path, look) in enumerate(looks.items()):
    offset = (place - (len(looks) - 1) / 2) * width
    for x, row in enumerate(rows):
      each = row.of_paths.get(path)
      if each is None or each.value is None:
        continue
      axes.bar(x + offset, each.value - chance, width, chance, color=look.color)
      if each.low is not None and each.high is not None:
        ends = [each.low, each.high]
        axes.plot([x + offset] * 2, ends, color=INK, linewidth=0.9)
  for x, row in enumerate(rows):
    if row.real and row.real.value is not None:
      span = [x - 0.45, x + 0.45]
      axes.plot(span, [row.real.value] * 2, color=INK, linewidth=1.6)
      if row.real.low is not None and row.real.high is not None:
        axes.fill_between(span, row.real.low, row.real.high, color=FAINT, zorder=0)
  axes.axhline(chance, color=MUTED, linewidth=0.9)
  shown = [row.key[3].split(": ")[-1].replace("_", " ") for row in rows]
  axes.set_xticks(range(len(rows)), shown, rotation=30, ha="right")
  axes.grid(axis="x", visible=False)
  axes.set_xlim(-0.6, len(rows) - 0.4)
  name = names_lib.title(rows[0].key[1])
  axes.set_ylabel(f"{name} (0.5 is chance)" if chance else name)
  handles = [legend.bar(path, look) for path, look in looks.items()]
  handles.append(legend.line("real images", INK, "-"))
  figure.legend(handles=handles, loc="outside upper center", ncols=4)


def losses(figure: Figure, paths: Sequence[comparison_data.PathResult], looks) -> None:
  """Validation losses of all runs, training's where there are none; by their log."""
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
  handles = [legend.path(path.name, looks[path.name], line=True) for path in paths]
  handles += [legend.line(tag, MUTED, _STYLES.get(tag, "-")) for tag in shown]
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
  axes = figure.add_subplot()
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


def _point(axes, place: int, each: Measurement, look: Look, *, filled: bool) -> None:
  if each.low is not None and each.high is not None:
    axes.plot([place] * 2, [each.low, each.high], color=look.color, linewidth=1.4)
  axes.plot(
    *(place, each.value),
    look.marker,
    color=look.color,
    markerfacecolor=look.color if filled else PAPER,
    markersize=6,
  )
