"""Tables in CSV files, read by the names of their columns.

path -> text by its byte-order mark -> rows by the header's separator, none blank
     -> header in one spelling, rows as wide as it -> columns, parsed
"""

import codecs
from collections.abc import Callable, Mapping, Sequence
import csv
import dataclasses
import io
import os
from pathlib import PurePosixPath
import re
from typing import TypeVar
import zlib

from etils import epath
import numpy as np

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data import parquet_table

T = TypeVar("T")

SEPARATORS = (",", ";", "\t")

# What a compressed table may hold.
MAX_BYTES = 10**9

# UTF-32's mark begins with UTF-16's.
_MARKS = (
  (codecs.BOM_UTF8, "utf-8-sig"),
  (codecs.BOM_UTF32_LE, "utf-32"),
  (codecs.BOM_UTF32_BE, "utf-32"),
  (codecs.BOM_UTF16_LE, "utf-16"),
  (codecs.BOM_UTF16_BE, "utf-16"),
)

# Follows the last row, to see that no quote is open there.
_END = "\ue000"


def read_text(path: str | os.PathLike) -> str:
  """The text of a file in UTF-8, or in UTF-16 or UTF-32 with a byte-order mark.

  A file that is compressed by gzip is unpacked.

  Raises:
    errors.InputError: the file cannot be read or has another encoding; with the line.
  """
  name = os.fspath(path)
  try:
    content = epath.Path(path).read_bytes()
  except OSError as error:
    raise errors.InputError(
      f"cannot read {name}: {error.strerror or error}", "a text file"
    ) from error
  if content.startswith(b"\x1f\x8b"):
    try:
      content = _unpack(content)
    except (ValueError, zlib.error) as error:
      raise errors.InputError(
        f"cannot unpack {name}: {error}", "a whole file of gzip", "copy it again"
      ) from error
  encoding = next((x for mark, x in _MARKS if content.startswith(mark)), "utf-8")
  if encoding == "utf-8" and b"\0" in content:
    raise errors.InputError(
      f"{name} line {_line(content, content.index(0))} has zero bytes",
      "a text file in UTF-8, or in UTF-16 with a byte-order mark",
      "save it as text again",
    )
  try:
    return content.decode(encoding)
  except UnicodeDecodeError as error:
    raise errors.InputError(
      f"{name} line {_line(content, error.start)} is not text in {encoding.upper()}:"
      f" byte 0x{content[error.start]:02x}",
      "a text file in UTF-8, such as Excel's 'CSV UTF-8'",
      "save it so, or: iconv -f CP1252 -t UTF-8 FILE, for files of Windows",
    ) from error


def _unpack(content: bytes) -> bytes:
  """All members of a file of gzip; ValueError if one is cut or they hold too much."""
  parts, room = [], MAX_BYTES
  while content:
    unpacker = zlib.decompressobj(31)  # Of gzip.
    parts.append(unpacker.decompress(content, room + 1))
    room -= len(parts[-1])
    if room < 0:
      raise ValueError(f"it holds more than {MAX_BYTES / 1e6:,.0f} MB")
    if not unpacker.eof:
      raise ValueError("its end is missing")
    content = unpacker.unused_data.lstrip(b"\0")
  return b"".join(parts)


def _line(content: bytes, place: int) -> int:
  """The number of the line with a byte."""
  return content.count(b"\n", 0, place) + 1


def read_rows(path: str | os.PathLike) -> list[tuple[int, list[str]]]:
  """The rows of a CSV file with the number of each row's first line.

  Cells are separated by commas, semicolons or tabs: by what the first row has most of,
  or what a first line `sep=;` names. Rows that a program has put into quotes as a whole
  are unpacked. Rows without any text are left out. A file whose name ends in `.parquet`
  is read as if it were a CSV.

  Raises:
    errors.InputError: the file is absent, not text (see `read_text`) or not a CSV.
  """
  if os.fspath(path).lower().endswith(".parquet"):
    return parquet_table.read_rows(path)
  text = read_text(path)
  if named := re.match(r"sep=(.)(?=[\r\n])", text):
    # Excel's own line; a blank one in its place keeps the numbers.
    text, separator = text[named.end() :], named[1]
  else:
    head = re.split(r"[\r\n]", text.lstrip(), maxsplit=1)[0]
    # The first of several of one count.
    separator = max(SEPARATORS, key=head.count)
  rows = _split(path, text, separator)
  cells = [[cell for cell in row if cell.strip()] for _, row in rows]
  if all(len(row) == 1 and separator in row[0] for row in cells):
    return [
      (number, next(csv.reader([row[0]], delimiter=separator)))
      for (number, _), row in zip(rows, cells, strict=True)
    ]
  return rows


def _split(
  path: str | os.PathLike, text: str, separator: str
) -> list[tuple[int, list[str]]]:
  """Rows that hold any text, and where they begin."""
  # A row of its own at the end, unless a quote that is never closed contains it.
  reader = csv.reader(io.StringIO(f"{text}\n{_END}", newline=""), delimiter=separator)
  rows, number, row = [], 1, []
  try:
    for row in reader:
      if any(map(str.strip, row)):
        rows.append((number, row))
      number = reader.line_num + 1
  except csv.Error as error:
    raise errors.InputError(
      f"{os.fspath(path)} line {number} cannot be read: {error}", "a row of a CSV file"
    ) from error
  last, _ = rows.pop()
  if row != [_END]:
    raise errors.InputError(
      f"{os.fspath(path)} line {last} has a quote that is never closed",
      "quotes around whole cells, doubled within them",
    )
  return rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class CsvTable:
  """A table with at least one row; InputError if a column of `places` comes twice.

  Attributes:
    header: names as in the file.
    places: key -> place of its column.
    rows: (number of the first line, cells), without rows of blanks.
  """

  path: str
  header: list[str]
  places: dict[str, int]
  rows: list[tuple[int, list[str]]]

  def __post_init__(self):
    known = [name.casefold() for name in self.header]
    for place in self.places.values():
      if known.count(known[place]) > 1:
        raise errors.InputError(
          f"{self.path} has two columns named {self.header[place]!r}",
          "one",
          "rename the other",
        )

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
      got = (
        f"{self.path} line {self.rows[texts.index(text)][0]}:"
        f" {self.header[self.places[key]]!r} is {text!r}"
        f" ({count} of {len(texts)} rows cannot be read)"
      )
      if isinstance(error, errors.InputError):
        raise errors.InputError(
          f"{got}: {error.got}", error.expected, error.fix
        ) from error
      raise errors.InputError(got, str(error)) from error
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
    errors.InputError: no such file, a required column missing or a column that comes
      twice, no rows, or a row with fewer or more cells than the header.
  """
  lines = read_rows(path)
  header, rows = (lines[0][1] if lines else []), lines[1:]
  if rows and any(map(str.strip, rows[0][1][len(header) :])):
    # NIH's `OriginalImage[Width,Height]` in quotes is one cell over two columns.
    parts = (name.split(",") if "[" in name else [name] for name in header)
    header = [part for names in parts for part in names]
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
  check_cells(path, header, rows)
  return CsvTable(path=os.fspath(path), header=header, places=places, rows=rows)


def check_cells(
  path: str | os.PathLike, header: Sequence[str], rows: Sequence[tuple[int, list[str]]]
) -> None:
  """Raises errors.InputError for a row with fewer or more cells than the header."""
  for number, row in rows:
    # Rows may end in commas; a text with commas and no quotes would lose its end.
    if len(row) < len(header) or any(map(str.strip, row[len(header) :])):
      raise errors.InputError(
        f"{path} line {number} has {len(row)} cells",
        f"{len(header)}, as the first line",
        "quote cells that contain commas or line ends; separate findings by |",
      )


def stem(name: str) -> str:
  """The name of a file without its folder and extension.

  Digits behind a dot are no extension: DICOM's identifiers are such as `1.2.840.113`.
  """
  path = PurePosixPath(name.strip().replace("\\", "/"))
  return path.name if path.suffix[1:].isdigit() else path.stem
