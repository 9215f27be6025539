"""Reads radiologists' reports from a column of the user's CSV.

Data_Entry_2017.csv with a column `report`, or any CSV with `Image Index` and `report`
-> {image name without extension: text}
"""

from collections.abc import Iterator, Sequence
import csv
import os
import pathlib

from cxr_diffusion_jax import errors

COLUMNS = ("Image Index", "report")


def read_reports(path: str | os.PathLike) -> dict[str, str]:
  """Reads the reports of a CSV.

  Args:
    path: of the CSV, with the columns `Image Index` and `report` in upper or lower case
      and any others; a report of several lines stands in quotes.

  Returns:
    Image name without extension -> report, in the file's order; line ends and runs of
    blanks are one blank each.

  Raises:
    InputError: no such file, no table in UTF-8, a column missing, a row too short,
      empty reports, or an image named twice.
  """
  path = pathlib.Path(path)
  reports: dict[str, str] = {}
  twice, empty = [], []
  for name, text in _cells(path):
    image_id = pathlib.Path(name.strip()).stem
    report = " ".join(text.split())
    if image_id in reports:
      twice.append(image_id)
    elif not report:
      empty.append(image_id)
    reports[image_id] = report
  _refuse(path, twice, "named twice", "one row an image")
  _refuse(path, empty, "without a report", "a text for every image of the file")
  if not reports:
    raise errors.InputError(f"{path} has no rows", "a header and a row for each image")
  return reports


def _cells(path: pathlib.Path) -> Iterator[tuple[str, str]]:
  """The two cells of each row."""
  try:
    # utf-8-sig: Excel puts a byte-order mark before the first column's name.
    with path.open(newline="", encoding="utf-8-sig") as file:
      reader = csv.reader(file)
      header = next(reader, [])
      names = _names(header, len(header))
      positions = _positions(path, names)
      for number, row in enumerate(filter(None, reader)):
        if number == 0:
          names = _names(header, len(row))
          positions = _positions(path, names)
        # A report with commas and no quotes would lose all but its beginning.
        if len(row) <= max(positions) or any(map(str.strip, row[len(names) :])):
          raise errors.InputError(
            f"{path} line {reader.line_num} has {len(row)} cells",
            f"{len(names)}, as the first line",
            "put a report that has commas or line ends in quotes",
          )
        yield row[positions[0]], row[positions[1]]
  except (OSError, UnicodeDecodeError, csv.Error) as error:
    raise errors.InputError(
      f"cannot read the reports of {path}: {error}", "a CSV file in UTF-8"
    ) from error


def _names(header: Sequence[str], num_cells: int) -> list[str]:
  """The names of the columns of rows of `num_cells`."""
  if len(header) != num_cells:
    # NIH's `OriginalImage[Width,Height]` in quotes is one cell over two columns.
    header = ",".join(header).split(",")
  return [name.strip() for name in header]


def _positions(path: pathlib.Path, names: Sequence[str]) -> list[int]:
  """Where the columns of `COLUMNS` stand."""
  known = [name.casefold() for name in names]
  missing = [name for name in COLUMNS if name.casefold() not in known]
  if missing:
    raise errors.InputError(
      f"{path} lacks the column {' and '.join(map(repr, missing))}",
      f"{' and '.join(COLUMNS)}; it has {', '.join(sorted(filter(None, names)))}",
      "name the columns so in the CSV's first line",
    )
  return [known.index(name.casefold()) for name in COLUMNS]


def _refuse(path: pathlib.Path, ids: Sequence[str], what: str, expected: str) -> None:
  if ids:
    count = "1 image" if len(ids) == 1 else f"{len(ids)} images"
    first = ", ".join(ids[:3])
    raise errors.InputError(f"{path} has {count} {what}, first {first}", expected)
