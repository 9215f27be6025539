"""A table of labels of the images in a folder, joined by file name.

labels.csv -> Table -> its rows in the order of a set's images -> ImageSet.labels

Column names, in any case: file (also Image Index, image_id, id), findings (Finding
Labels, labels), and optionally age, sex, view, patient (as in NIH's table: Patient Age
...) and condition, the real image that a generated one was conditioned on.
"""

from collections.abc import Callable, Sequence
import dataclasses
import os
import pathlib

from absl import logging
import numpy as np

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data import csv_table
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
  required = {key: ALIASES[key] for key in ("file", "findings")}
  cells = csv_table.read_table(path, required, ALIASES)
  ids = cells.ids("file", stem).tolist()
  parse_fns: dict[str, Callable[[str], object]] = {
    "findings": lambda text: labels_lib.parse(text, metadata.FINDINGS),
    "age": metadata.parse_age,
    "sex": lambda text: _code(text[:1], image_set.SEXES),
    "view": lambda text: _code(text, image_set.VIEWS),
    "patient": str,
    "condition": stem,
  }
  known = {
    key: np.array(cells.parse(key, parse_fn))
    for key, parse_fn in parse_fns.items()
    if key in cells.places
  }
  for key in ("sex", "view"):
    if key in known and (known[key] < 0).all() and any(cells.column(key)):
      first = cells.column(key)[0]
      logging.warning("%s: no %s can be read, such as %r", path, key, first)
  return Table(
    path=pathlib.Path(path),
    rows={name: row for row, name in enumerate(ids)},
    labels=known,
    whole=cells.header[cells.places["file"]].casefold() != NIH_FILE,
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


def _code(text: str, names: Sequence[str]) -> int:
  return names.index(text.upper()) if text.upper() in names else -1


def _such_as(names: Sequence[str]) -> str:
  return f", such as {', '.join(names[:3])}"
