"""Draws a figure once and keeps it twice: as a file to print, and as a part of a page.

draw(figure) -> FOLDER/NAME.svg, FOLDER/NAME.png -> <svg> in the colours of the page
"""

from collections.abc import Callable
import pathlib
import re

import matplotlib
import matplotlib.figure

from cxr_diffusion_jax.report.comparison import palette

# Dots per inch of the PNG: what journals ask of figures with text is 300 at 7 inches.
DPI = 200

# Pixels of a page by points of a figure, at most: text of 9 points has 14 pixels.
SCALE = 1.55

_STYLE = {
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
}


def write(
  folder: pathlib.Path,
  name: str,
  size: tuple[float, float],
  draw: Callable[[matplotlib.figure.Figure], None],
) -> str:
  """Writes a figure's files.

  Args:
    folder: made if missing.
    name: of the files, and of the ids in the SVG, without an ending.
    size: width and height in inches.
    draw: draws on an empty figure.

  Returns:
    The SVG as markup for a page, without a label.
  """
  folder.mkdir(parents=True, exist_ok=True)
  with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
    figure = matplotlib.figure.Figure(figsize=size, layout="constrained")
    draw(figure)
    for kind in ("png", "svg"):
      partial = folder / f"{name}.{kind}.partial"
      metadata = {"Date": None, "Creator": None} if kind == "svg" else None
      figure.savefig(partial, format=kind, dpi=DPI, metadata=metadata)
      partial.replace(folder / f"{name}.{kind}")
      # What has been laid out stays so; it takes half of the time.
      figure.set_layout_engine("none")
  return _for_page((folder / f"{name}.svg").read_text(encoding="utf-8"), name)


def _for_page(svg: str, name: str) -> str:
  """Leaves out what a page needs not and makes ids its own among other figures."""
  svg = svg[svg.index("<svg") :]
  svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
  # Its rules would hold for the whole page.
  svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
  svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
  width, height = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups()
  # Letters of one size in all figures, however wide the page.
  start = (
    f'<svg viewBox="0 0 {width} {height}"'
    f' style="--natural: {SCALE * float(width):.0f}px">'
  )
  svg = re.sub(r"<svg[^>]*>", start, svg, count=1)
  svg = svg.replace("xlink:href", "href")
  svg = re.sub(r'(\sid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
  return palette.in_page(re.sub(r"\s+", " ", svg))
