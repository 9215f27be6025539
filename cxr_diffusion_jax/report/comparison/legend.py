"""What stands in legends: a path, real images, a kind of line.

name, look -> an artist that is drawn in a legend alone
"""

import matplotlib.lines

from cxr_diffusion_jax.report.comparison.palette import Look


def path(name: str, look: Look, *, line: bool = False):
  """A path's marker, on a line where it is drawn so."""
  style = "-" if line else ""
  return _artist(name, color=look.color, marker=look.marker, linestyle=style)


def dot(name: str, color: str):
  """A point of a cloud."""
  return _artist(name, color=color, marker="o", linestyle="", markersize=4)


def bar(name: str, look: Look):
  """A path's bars."""
  return _artist(name, color=look.color, marker="s", linestyle="", markersize=7)


def line(name: str, color: str, style):
  """A line; `style` is matplotlib's."""
  return _artist(name, color=color, linestyle=style)


def _artist(name: str, **style) -> matplotlib.lines.Line2D:
  return matplotlib.lines.Line2D([], [], label=name, **style)
