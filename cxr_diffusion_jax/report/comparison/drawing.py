"""Draws a figure once for two uses: as a file to print, and as a part of a page.

draw(figure) -> FOLDER/NAME.svg, FOLDER/NAME.png -> <svg> in the colours of the page
"""

from collections.abc import Callable
import io
import re
from typing import Any

from etils import epath
from markupsafe import Markup, escape
import matplotlib
import matplotlib.figure
import matplotlib.lines

from cxr_diffusion_jax import artifacts
from cxr_diffusion_jax.report.comparison import palette

# Dots per inch of the PNG: what journals ask of figures with text is 300 at 7 inches.
DPI = 200

# Pixels of a page by points of a figure, at most: text of 9 points has 14 pixels.
SCALE = 1.55

_STYLE: dict[Any, Any] = {
  "font.family": "sans-serif",
  "font.size": 9,
  "axes.titlesize": 9.5,
  "axes.titleweight": "bold",
  "axes.titlelocation": "left",
  "axes.edgecolor": palette.MUTED,
  "axes.labelcolor": palette.INK,
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.grid": True,
  "axes.axisbelow": True,
  "grid.color": palette.FAINT,
  "grid.linewidth": 0.6,
  "text.color": palette.INK,
  "xtick.color": palette.INK,
  "ytick.color": palette.INK,
  "xtick.labelsize": 8.5,
  "ytick.labelsize": 8.5,
  "legend.frameon": False,
  "legend.fontsize": 8.5,
  # Letters as shapes look alike on any machine.
  "svg.fonttype": "path",
  # A dollar sign in a user's name is a dollar sign.
  "text.parse_math": False,
}


def write(
  folder: epath.Path,
  name: str,
  size: tuple[float, float],
  draw: Callable[[matplotlib.figure.Figure], None],
  label: str = "",
) -> Markup:
  """Writes FOLDER/NAME.svg and .png and returns the SVG for a page.

  Args:
    folder: created if missing.
    name: without an ending; also that of the ids in the SVG.
    size: width and height in inches.
    draw: draws on an empty figure.
    label: of the SVG in the page, for readers who cannot see it.
  """
  svg = ""
  with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
    figure = matplotlib.figure.Figure(figsize=size, layout="constrained")
    draw(figure)
    for kind in ("png", "svg"):
      buffer = io.BytesIO()
      metadata = {"Date": None, "Creator": None} if kind == "svg" else None
      figure.savefig(buffer, format=kind, dpi=DPI, metadata=metadata)
      artifacts.write_bytes(folder / f"{name}.{kind}", buffer.getvalue())
      # The second format keeps the layout of the first, which takes half of the time.
      figure.set_layout_engine("none")
    svg = buffer.getvalue().decode()
  return _for_page(svg, name, label)


def _for_page(svg: str, name: str, label: str) -> Markup:
  """Removes what a page does not need and makes ids unique among its figures."""
  svg = svg[svg.index("<svg") :]
  # Styles would hold for the whole page; comments repeat the drawn text.
  for part in ("<metadata>.*?</metadata>", "<style.*?</style>", "<!--.*?-->"):
    svg = re.sub(part, "", svg, flags=re.DOTALL)
  svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
  width, height = re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)[0]
  # Letters of one size in all figures, however wide the page.
  start = (
    f'<svg role="img" aria-label="{escape(label)}" viewBox="0 0 {width} {height}"'
    f' style="--natural: {SCALE * float(width):.0f}px">'
  )
  svg = start + svg[svg.index(">") + 1 :]
  svg = svg.replace("xlink:href", "href")
  svg = re.sub(r'(\sid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
  return Markup(palette.in_page(re.sub(r"\s+", " ", svg)))


def legend_entry(name: str, **style: object) -> matplotlib.lines.Line2D:
  """Returns an artist that is drawn in a legend only; `style` is matplotlib's."""
  return matplotlib.lines.Line2D([], [], **{"label": name, "linestyle": "", **style})
