"""Rows as the text of a CSV file."""

from collections.abc import Iterable
import csv
import io

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def csv_text(rows: Iterable[Iterable[object]]) -> str:
  """Rows as CSV, one line each.

  Text that a spreadsheet would run as a formula begins with an apostrophe.
  """
  text = io.StringIO()
  writer = csv.writer(text, lineterminator="\n")
  writer.writerows([_harmless(cell) for cell in row] for row in rows)
  return text.getvalue()


def _harmless(cell: object) -> object:
  """The cell, or its text after an apostrophe if it begins as a formula does."""
  if not isinstance(cell, str) or not cell.startswith(_FORMULA):
    return cell
  try:
    float(cell)
  except ValueError:
    return f"'{cell}"
  return cell
