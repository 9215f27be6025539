"""A table of labels of the images in a folder, joined by file name.

labels.csv -> Table -> its rows in the order of a set's images -> ImageSet.labels

Column names, in any case: file (also Image Index, image_id, id), findings (Finding
Labels, labels), and optionally age, sex, view, patient (as in NIH's table: Patient Age
...) and condition, the real image that a generated one was conditioned on.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
import csv
import dataclasses
import os
import pathlib

from absl import logging
import numpy as np

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data import labels as labels_lib
from cxr_diffusion_jax.data.image_sets import image_set
from cxr_diffusion_jax.data.sources.nih import metadata

DICOM_SUFFIXES = (".dcm", ".dicom")
SUFFIXES = (".png", ".jpg", ".jpeg", *DICOM_SUFFIXES)

# In NIH's own table, which lists all 112,120 images; a folder has few of them.
NIH_FILE = "image index"

ALIASES = {
  "file": ("file", NIH_FILE, "image_id", "id", "filename", "image"),
  "findings": ("findings", "finding labels", "labels"),
  "age": ("age", "patient age"),
  "sex": ("sex", "gender", "patient sex", "patient gender"),
  "view": ("view", "view position"),
  "patient": ("patient", "patient id", "patient_id", "subject_id"),
  "condition": ("condition",),
}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Table:
  """One row an image.

  Attributes:
    labels: [m ...] each, as `image_set.ImageSet.labels`, and condition [m] str.
    whole: whether each row must have an image; not so for NIH's table.
  """

  path: pathlib.Path
  rows: dict[str, int]
  labels: dict[str, np.ndarray]
  whole: bool


def stem(name: str | os.PathLike) -> str:
  """An image's id: its file name without the extension."""
  base = pathlib.PurePath(str(name).strip()).name
  for suffix in SUFFIXES:
    if base.lower().endswith(suffix):
      return base[: -len(suffix)]
  return base


def read_table(path: str | os.PathLike) -> Table:
  """Reads a CSV of labels.

  Findings are separated by `|` or by commas (in quotes), or `No Finding`; age is in
  years; sex F or M; view PA or AP; other values are unknown.

  Raises:
    errors.InputError: no such file, no rows, a column missing, an image named twice,
      an unknown finding, or a value that cannot be read; with counts and a line.
  """
  path = pathlib.Path(path)
  header, rows = _cells(path)
  places = _places(path, header)
  columns = {key: [row[i].strip() for row in rows] for key, i in places.items()}
  stems = [stem(name) for name in columns.pop("file")]
  twice = [name for name, count in Counter(stems).items() if count > 1]
  if twice:
    raise errors.InputError(
      f"{path} names {len(twice)} images twice{_such_as(twice)}", "one row an image"
    )
  parse_fns: dict[str, Callable[[str], object]] = {
    "findings": lambda text: labels_lib.parse(text, metadata.FINDINGS),
    "age": metadata.parse_age,
    "sex": lambda text: _code(text[:1], image_set.SEXES),
    "view": lambda text: _code(text, image_set.VIEWS),
    "patient": str,
    "condition": stem,
  }
  known = {
    key: np.array(_parsed(path, header[places[key]], texts, parse_fns[key]))
    for key, texts in columns.items()
  }
  for key in ("sex", "view"):
    if key in known and (known[key] < 0).all() and any(columns[key]):
      logging.warning("%s: no %s can be read, such as %r", path, key, columns[key][0])
  return Table(
    path=path,
    rows={name: row for row, name in enumerate(stems)},
    labels=known,
    whole=header[places["file"]].casefold() != NIH_FILE,
  )


def label(images: image_set.ImageSet, table: Table) -> image_set.ImageSet:
  """The set with its labels from the table."""
  ids = images.ids.tolist()
  lacking = [name for name in ids if name not in table.rows]
  if lacking:
    raise errors.InputError(
      f"{len(lacking)} of {len(ids)} images of {images.name} have no row in"
      f" {table.path}{_such_as(lacking)}",
      "a row for each image",
      f"add rows ({labels_lib.NO_FINDING!r} for none), or remove the images",
    )
  rows = np.array([table.rows[name] for name in ids], np.int64)
  known = {key: values[rows] for key, values in table.labels.items()}
  return dataclasses.replace(images, labels=known, vocabulary=metadata.FINDINGS)


def refuse_unmatched(table: Table, sets: Sequence[image_set.ImageSet]) -> None:
  """Raises `errors.InputError` for rows without an image.

  NIH's table is refused only if no row has an image.
  """
  there = {name for images in sets for name in images.ids.tolist()}
  spare = [name for name in table.rows if name not in there]
  if spare and (table.whole or len(spare) == len(table.rows)):
    folders = " or ".join(images.name for images in sets)
    raise errors.InputError(
      f"{len(spare)} of {len(table.rows)} rows of {table.path} match no file of"
      f" {folders}{_such_as(spare)}; files there{_such_as(sorted(there))}",
      "names of files, with or without extension",
      "correct the names, or leave these rows out",
    )
  if spare:
    logging.info("%s: %d rows are of other images", table.path, len(spare))


def _cells(path: pathlib.Path) -> tuple[list[str], list[list[str]]]:
  """The header and the rows, each at least as long."""
  try:
    # utf-8-sig: Excel writes a byte-order mark first.
    with path.open(newline="", encoding="utf-8-sig") as file:
      header, *rows = [row for row in csv.reader(file) if row] or [[]]
  except (OSError, UnicodeDecodeError, csv.Error) as error:
    raise errors.InputError(
      f"cannot read the labels {path}: {error}", "a CSV file in UTF-8"
    ) from error
  if not rows:
    raise errors.InputError(f"{path} has no rows", "a header and a row for each image")
  if len(header) < len(rows[0]):
    # NIH's `OriginalImage[Width,Height]` in quotes is one cell over two columns.
    header = ",".join(header).split(",")
  header = [name.strip() for name in header]
  ragged = [i for i, row in enumerate(rows) if len(row) != len(header)]
  # NIH's rows may end in a comma.
  ragged = [
    i for i in ragged if len(rows[i]) < len(header) or any(rows[i][len(header) :])
  ]
  if ragged:
    raise errors.InputError(
      f"{path}: {len(ragged)} of {len(rows)} rows, first {','.join(rows[ragged[0]])!r},"
      f" have other than {len(header)} cells",
      "as many as the first line",
      "separate findings by |, or put cells with commas in quotes",
    )
  return header, rows


def _places(path: pathlib.Path, header: Sequence[str]) -> dict[str, int]:
  """Key of `ALIASES` -> its column."""
  known = [name.casefold() for name in header]
  places = {}
  for key, names in ALIASES.items():
    columns = [known.index(name) for name in names if name in known]
    if columns:
      places[key] = columns[0]
    elif key in ("file", "findings"):
      raise errors.InputError(
        f"{path} lacks the column {key!r}; it has {', '.join(header)}",
        f"a column named {', '.join(names)}",
      )
  return places


def _parsed(
  path: pathlib.Path,
  column: str,
  texts: Iterable[str],
  parse_fn: Callable[[str], object],
) -> list[object]:
  """Parses a column, each distinct text once."""
  parsed: dict[str, object] = {}
  refused: dict[str, str] = {}
  texts = list(texts)
  for text in dict.fromkeys(texts):
    try:
      parsed[text] = parse_fn(text)
    except (ValueError, errors.InputError) as error:
      refused[text] = str(error)
  if refused:
    count = sum(text in refused for text in texts)
    first = next(i for i, text in enumerate(texts) if text in refused)
    raise errors.InputError(
      f"{path}: {count} of {len(texts)} rows have a {column!r} that cannot be read,"
      f" first line {first + 2}: {texts[first]!r}: {refused[texts[first]]}"
    )
  return [parsed[text] for text in texts]


def _code(text: str, names: Sequence[str]) -> int:
  return names.index(text.upper()) if text.upper() in names else -1


def _such_as(names: Sequence[str]) -> str:
  return f", such as {', '.join(names[:3])}"
