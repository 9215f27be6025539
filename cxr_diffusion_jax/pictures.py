"""Grids of grey images with labels, as PNG."""

from collections.abc import Sequence
import io

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cxr_diffusion_jax import artifacts

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

MARGIN = 4
BACKGROUND = 16
INK = 235


def grid(
  rows: Sequence[Sequence[np.ndarray]],
  *,
  row_labels: Sequence[str] = (),
  column_labels: Sequence[str] = (),
  title: str = "",
  cell: int = 128,
) -> Image.Image:
  """Draws images in rows and columns.

  Args:
    rows: images uint8 [h w] or [h w 1]; rows may differ in length.
    row_labels: one a row, drawn to its left; none if empty.
    column_labels: one a column, drawn above; none if empty. Lines end at "\\n".
    title: drawn on top.
    cell: side of one image in the picture, in pixels.
  """
  font = ImageFont.load_default(size=13)
  left = max((_width(font, text) for text in row_labels), default=0)
  left += MARGIN * 3 if row_labels else MARGIN
  lines = max((text.count("\n") + 1 for text in column_labels), default=0)
  title_height = 20 if title else 0
  top = MARGIN + title_height + 17 * lines
  columns = max(len(row) for row in rows)
  width = left + columns * (cell + MARGIN)
  width = max(width, _width(font, title) + 2 * MARGIN)
  picture = Image.new("L", (width, top + len(rows) * (cell + MARGIN)), BACKGROUND)
  draw = ImageDraw.Draw(picture)
  draw.text((MARGIN, MARGIN), title, fill=INK, font=font)
  for c, text in enumerate(column_labels):
    place = (left + c * (cell + MARGIN), MARGIN + title_height)
    draw.multiline_text(place, _fitted(font, text, cell), fill=INK, font=font)
  for r, row in enumerate(rows):
    y = top + r * (cell + MARGIN)
    if row_labels:
      draw.text((MARGIN, y + cell // 2 - 8), row_labels[r], fill=INK, font=font)
    for c, image in enumerate(row):
      scaled = Image.fromarray(np.asarray(image, np.uint8).reshape(image.shape[:2]))
      scaled = scaled.resize((cell, cell), Image.Resampling.BICUBIC)
      picture.paste(scaled, (left + c * (cell + MARGIN), y))
  return picture


def save(picture: Image.Image, path: artifacts.PathLike) -> None:
  """Writes a PNG, whole or not at all."""
  buffer = io.BytesIO()
  picture.save(buffer, "PNG")
  artifacts.write_bytes(path, buffer.getvalue())


def _width(font: Font, text: str) -> int:
  return max((int(font.getlength(line)) for line in text.split("\n")), default=0)


def _fitted(font: Font, text: str, width: int) -> str:
  """Cuts each line to the width of a cell."""
  lines = []
  for line in text.split("\n"):
    cut = line
    while cut and font.getlength(cut) > width:
      cut = cut[:-2] + "…" if cut.endswith("…") else cut[:-1] + "…"
    lines.append(cut)
  return "\n".join(lines)
