"""Tables in CSV files, read by the names of their columns.

path -> lines -> header in one spelling, rows as wide as it -> columns, parsed
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import csv
import dataclasses
import io
import os
from pathlib import PurePath
from typing import TypeVar

from etils import epath
import numpy as np

from cxr_diffusion_jax import errors

T = TypeVar("T")


def csv_text(rows: Iterable[Iterable[object]]) -> str:
  """Rows as CSV, one line each."""
  text = io.StringIO()
  csv.writer(text, lineterminator="\n").writerows(rows)
  return text.getvalue()


def read_csv(path: str | os.PathLike) -> list[list[str]]:
  """All lines of a CSV file in UTF-8, with or without a byte-order mark.

  Raises:
    errors.InputError: the file is absent, not UTF-8 or not a CSV.
  """
  try:
    # Excel puts a byte-order mark before the first column's name.
    text = epath.Path(path).read_bytes().decode("utf-8-sig")
    return list(csv.reader(io.StringIO(text, newline="")))
  except (OSError, UnicodeDecodeError, csv.Error) as error:
    raise errors.InputError(
      f"cannot read {os.fspath(path)}: {error}", "a CSV file in UTF-8"
    ) from error


@dataclasses.dataclass(frozen=True, kw_only=True)
class CsvTable:
  """A table with at least one row.

  Attributes:
    header: names as in the file.
    places: key -> place of its column.
    rows: (number of the line, cells), without empty lines.
  """

  path: str
  header: list[str]
  places: dict[str, int]
  rows: list[tuple[int, list[str]]]

  def column(self, key: str) -> list[str]:
    """The cells of a column, without blanks around them."""
    return [row[self.places[key]].strip() for _, row in self.rows]

  def ids(self, key: str, stem: Callable[[str], str]) -> np.ndarray:
    """[n] str, names of images without extension; InputError if one comes twice."""
    ids = np.array([stem(name) for name in self.column(key)], np.str_)
    unique, counts = np.unique(ids, return_counts=True)
    twice = unique[counts > 1]
    if twice.size:
      raise errors.InputError(
        f"{self.path} names {twice.size} images twice, first {twice[0]}",
        "one row an image",
      )
    return ids

  def parse(self, key: str, parse_fn: Callable[[str], T]) -> list[T]:
    """Parses a column, each distinct text once.

    Raises:
      errors.InputError: texts that `parse_fn` refuses with it or a ValueError.
    """
    texts = self.column(key)
    parsed: dict[str, T] = {}
    refused: dict[str, Exception] = {}
    for text in dict.fromkeys(texts):
      try:
        parsed[text] = parse_fn(text)
      except (ValueError, errors.InputError) as error:
        refused[text] = error
    if refused:
      text, error = next(iter(refused.items()))
      count = sum(text in refused for text in texts)
      raise errors.InputError(
        f"{self.path} line {self.rows[texts.index(text)][0]}:"
        f" {self.header[self.places[key]]!r} is {text!r}"
        f" ({count} of {len(texts)} rows cannot be read)",
        str(error),
      ) from error
    return [parsed[text] for text in texts]


def read_table(
  path: str | os.PathLike,
  required: Mapping[str, Sequence[str]],
  optional: Mapping[str, Sequence[str]],
) -> CsvTable:
  """Reads a CSV with a header.

  Args:
    required: key -> names of its column, in lower case; the first one present counts.
    optional: the same of columns that may be absent.

  Raises:
    errors.InputError: no such file, a required column missing, no rows, or a row with
      fewer or more cells than the header.
  """
  lines = [(i, row) for i, row in enumerate(read_csv(path), start=1) if row]
  header, rows = (lines[0][1] if lines else []), lines[1:]
  if rows and len(header) < len(rows[0][1]):
    # NIH's `OriginalImage[Width,Height]` in quotes is one cell over two columns.
    header = ",".join(header).split(",")
  header = [name.strip() for name in header]
  while header and not header[-1]:
    header.pop()
  known = [name.casefold() for name in header]
  places = {
    key: next(known.index(name) for name in names if name in known)
    for key, names in {**required, **optional}.items()
    if {*names} & {*known}
  }
  missing = [key for key in required if key not in places]
  if missing:
    raise errors.InputError(
      f"{os.fspath(path)} lacks the column {' and '.join(map(repr, missing))};"
      f" it has {', '.join(filter(None, header))}",
      "; ".join(f"a column named {', '.join(required[key])}" for key in missing),
      "name the columns so in the first line",
    )
  if not rows:
    raise errors.InputError(f"{path} has no rows", "a header and a row for each image")
  for number, row in rows:
    # Rows may end in commas; a text with commas and no quotes would lose its end.
    if len(row) < len(header) or any(map(str.strip, row[len(header) :])):
      raise errors.InputError(
        f"{path} line {number} has {len(row)} cells",
        f"{len(header)}, as the first line",
        "quote cells that contain commas or line ends; separate findings by |",
      )
  return CsvTable(path=os.fspath(path), header=header, places=places, rows=rows)


def stem(name: str) -> str:
  """The name of a file without its folder and extension."""
  return PurePath(name.strip()).stem
