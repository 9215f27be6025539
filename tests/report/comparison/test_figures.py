from matplotlib.backends.backend_agg import FigureCanvasAgg
import matplotlib.figure
import numpy as np
import pytest

from cxr_diffusion_jax.report.comparison import figures


@pytest.mark.parametrize("rows", [2, 5, 13])
def test_names_of_pictures_lie_within_the_figure(rows):
  names = ["real", *(f"reference of elixr_c-same_findings {i}" for i in range(1, rows))]
  size = (11 + 0.4 + 0.085 * max(map(len, names)), 1.15 * rows + 0.4)
  figure = matplotlib.figure.Figure(figsize=size, layout="constrained")
  image = np.zeros((64, 64, 1), np.uint8)
  figures.pictures(figure, [[image] * 10] * rows, names, ["Mass,\nEdema"] * 10)
  FigureCanvasAgg(figure).draw()
  (axes,) = figure.axes
  labels = [*axes.get_yticklabels(), *axes.get_xticklabels()]
  boxes = [label.get_window_extent() for label in labels]
  width, height = figure.bbox.size
  assert min(box.x0 for box in boxes) >= 0
  assert max(box.x1 for box in boxes) <= width
  assert max(box.y1 for box in boxes) <= height
