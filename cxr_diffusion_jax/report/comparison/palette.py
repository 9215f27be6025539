"""A colour and a marker for each path, the same wherever the path is shown.

Six colours differ by 11 or more (CIE76) to any kind of colour vision (Machado et al.,
2009) and by 3:1 or more in contrast to the paper; the seventh is a spare, and beyond it
only the markers differ. In a page the dark theme has lighter ones.
"""

from collections.abc import Sequence
import dataclasses

LIGHT = ("#114b8b", "#d9600a", "#149478", "#c65aa5", "#5c4300", "#3f9ad6", "#7b0f2f")
DARK = ("#5a8cf0", "#f5822a", "#1fb295", "#f3a3d3", "#efe08a", "#a6dcff", "#c9627c")

# Of figures: text, secondary text, guide lines, background.
INK, MUTED, FAINT, PAPER = "#1c2027", "#5b636f", "#cdd2da", "#ffffff"

# Of matplotlib, and the same as letters.
_MARKERS = tuple(zip("os^DvPX*h", "●■▲◆▼✚✖★⬢", strict=True))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Look:
  """How a path looks.

  Attributes:
    index: of its colour.
    color: on paper, as "#114b8b".
    marker: matplotlib's. glyph: the same as a letter.
  """

  index: int
  color: str
  marker: str
  glyph: str


def looks(names: Sequence[str]) -> dict[str, Look]:
  """Path's name -> its look, by its place."""
  result = {}
  for place, name in enumerate(names):
    marker, glyph = _MARKERS[place % len(_MARKERS)]
    index = place % len(LIGHT)
    result[name] = Look(index=index, color=LIGHT[index], marker=marker, glyph=glyph)
  return result


def in_page(svg: str) -> str:
  """Replaces the colours of a figure by those of the page around it."""
  for index, color in enumerate(LIGHT):
    svg = svg.replace(color, f"var(--path-{index})")
  named = ((INK, "currentColor"), (MUTED, "var(--muted)"), (FAINT, "var(--line)"))
  for color, name in (*named, (PAPER, "var(--card)")):
    svg = svg.replace(color, name)
  return svg
