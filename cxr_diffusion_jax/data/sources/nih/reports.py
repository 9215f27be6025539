"""Reads radiologists' reports from a column of the user's CSV.

Data_Entry_2017.csv with a column `report`, or any CSV with `Image Index` and `report`
-> {image name without extension: text}
"""

from collections.abc import Iterator, Sequence
import os
import pathlib

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data.sources import base

COLUMNS = ("Image Index", "report")


def read_reports(path: str | os.PathLike) -> dict[str, str]:
  """Reads the reports of a CSV.

  Args:
    path: of the CSV, with the columns `Image Index` and `report` in upper or lower case
      and any others; a report of several lines is quoted.

  Returns:
    Image name without extension -> report, in the file's order; line ends and runs of
    blanks are one blank each. Images without a report are left out.

  Raises:
    InputError: no such file, no table in UTF-8, a column missing, a row too short, or
      an image named twice.
  """
  reports: dict[str, str] = {}
  duplicates = []
  for name, text in _cells(os.fspath(path)):
    image_id = pathlib.PurePath(name.strip()).stem
    if image_id in reports:
      duplicates.append(image_id)
    reports[image_id] = " ".join(text.split())
  if duplicates:
    raise errors.InputError(
      f"{path} names {len(duplicates)} images twice, first {', '.join(duplicates[:3])}",
      "one row an image",
    )
  if not reports:
    raise errors.InputError(f"{path} has no rows", "a header and a row for each image")
  return {image_id: report for image_id, report in reports.items() if report}


def _cells(path: str) -> Iterator[tuple[str, str]]:
  """The name and the report of each row."""
  lines = base.read_csv(path)
  header = lines[0] if lines else []
  rows = [(number, row) for number, row in enumerate(lines[1:], start=2) if row]
  names = _names(header, len(rows[0][1]) if rows else len(header))
  positions = _positions(path, names)
  for number, row in rows:
    # A report with commas and no quotes would lose all but its beginning.
    if len(row) <= max(positions) or any(map(str.strip, row[len(names) :])):
      raise errors.InputError(
        f"{path} line {number} has {len(row)} cells",
        f"{len(names)}, as the first line",
        "quote reports that contain commas or line ends",
      )
    yield row[positions[0]], row[positions[1]]


def _names(header: Sequence[str], num_cells: int) -> list[str]:
  """The names of the columns of rows of `num_cells`."""
  if len(header) != num_cells:
    # NIH's `OriginalImage[Width,Height]` in quotes is one cell over two columns.
    header = ",".join(header).split(",")
  return [name.strip() for name in header]


def _positions(path: str, names: Sequence[str]) -> list[int]:
  """The positions of `COLUMNS`."""
  known = [name.casefold() for name in names]
  missing = [name for name in COLUMNS if name.casefold() not in known]
  if missing:
    raise errors.InputError(
      f"{path} lacks the column {' and '.join(map(repr, missing))}",
      f"{' and '.join(COLUMNS)}; it has {', '.join(sorted(filter(None, names)))}",
      "name the columns so in the CSV's first line",
    )
  return [known.index(name.casefold()) for name in COLUMNS]
