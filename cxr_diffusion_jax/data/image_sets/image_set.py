"""A set of images to judge, with their known labels.

records(split), a folder of pictures, generated parts -> ImageSet -> features, metrics
labels.csv -> LabelTable -> its rows in the order of a set's images -> ImageSet.labels
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import itertools
import os
import pathlib

from absl import logging
import numpy as np

from cxr_diffusion_jax import errors, types
from cxr_diffusion_jax.data import csv_table
from cxr_diffusion_jax.data import labels as labels_lib
from cxr_diffusion_jax.data.records import records as records_lib
from cxr_diffusion_jax.data.sources import base
from cxr_diffusion_jax.data.sources.nih import metadata

# Names of stored codes, as the records number them.
SEXES, VIEWS = ("F", "M"), ("PA", "AP")

# Years, from the first to before the second.
AGE_BANDS = ((0, 20), (20, 40), (40, 60), (60, 80), (80, 120))


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
  metadata.UNKNOWN_LABELS: (metadata.UNKNOWN_LABELS.casefold(),),
}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ImageSet:
  """n images; row i of everything belongs together.

  Attributes:
    images: [i] -> uint8 [h w 1], all of one size; an array, or read on access.
    ids: [n] str, each once.
    labels: any of: findings [n k] 0 or 1, nan unknown; patient [n]; age [n] in years,
      nan unknown; sex and view [n] int, indices of `SEXES` and `VIEWS`, -1 unknown. Of
      generated images: what was requested.
  """

  name: str
  images: types.Arrays
  ids: np.ndarray
  labels: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
  vocabulary: tuple[str, ...] = ()

  def __len__(self) -> int:
    return len(self.ids)

  @property
  def patients(self) -> np.ndarray:
    """Names [n] of patients; each image is one where they are not known."""
    if "patient" in self.labels:
      return np.asarray(self.labels["patient"]).astype(str)
    return np.array([f"{self.name}, image {name}" for name in self.ids])

  @property
  def num_patients(self) -> int:
    """How many patients; 0 where they are not known."""
    return len(np.unique(self.patients)) if "patient" in self.labels else 0

  def take(self, rows: Sequence[int] | np.ndarray, name: str = "") -> "ImageSet":
    """The images at these rows."""
    rows = np.asarray(rows, np.int64)
    images = self.images
    return ImageSet(
      name=name or self.name,
      images=images[rows] if isinstance(images, np.ndarray) else subset(images, rows),
      ids=self.ids[rows],
      labels={key: value[rows] for key, value in self.labels.items()},
      vocabulary=self.vocabulary,
    )


class OnAccess(Sequence):
  """Images that are read on each access: [i] -> uint8 [h w 1], without a cache.

  Metrics read a set in order, which a small cache would not help.
  """

  def __init__(self, num: int, read_fn: Callable[[int], np.ndarray]):
    self._num, self._read_fn = num, read_fn

  def __len__(self) -> int:
    return self._num

  def __getitem__(self, index: int) -> np.ndarray:  # pyright: ignore[reportIncompatibleMethodOverride]
    return self._read_fn(range(self._num)[index])


def record_images(records: records_lib.Records, split: str) -> OnAccess:
  """The images of a split."""
  source = records_lib.RecordSource(records, split)
  return OnAccess(len(source), lambda row: source[row]["image"])


def subset(images: types.Arrays, rows: np.ndarray) -> OnAccess:
  """Some images of a sequence: [i] is images[rows[i]]."""
  return OnAccess(len(rows), lambda i: images[int(rows[i])])


def chain(parts: Sequence[types.Arrays]) -> OnAccess:
  """Several sequences, one after the other."""
  starts = np.cumsum([0, *map(len, parts)])

  def read(row: int) -> np.ndarray:
    part = int(np.searchsorted(starts, row, side="right")) - 1
    return parts[part][row - int(starts[part])]

  return OnAccess(int(starts[-1]), read)


def of_records(records: records_lib.Records, split: str) -> ImageSet:
  """The images of a split and their labels."""
  fields = dict(records.fields(split))
  return ImageSet(
    name=split,
    images=record_images(records, split),
    ids=fields.pop("id"),
    labels=fields,
    vocabulary=records.vocabulary,
  )


def groups(images: ImageSet) -> dict[str, np.ndarray]:
  """Parts of a set by its labels: name -> [n] bool.

  Names are as in `Measurement.group`: "finding: NAME" (with "No Finding"), "sex: F",
  "age: 40-59", "view: PA". Parts may be empty and overlap; absent labels make none. An
  image is of "No Finding" where every finding is known to be absent, and in no part of
  a finding that is unknown.
  """
  labels = images.labels
  parts: dict[str, np.ndarray] = {}
  if "findings" in labels:
    present = np.asarray(labels["findings"]) > 0.5
    named = zip(images.vocabulary, present.T, strict=True)
    parts |= {f"finding: {name}": column for name, column in named}
    none = labels_lib.is_none(labels["findings"], images.vocabulary)
    parts[f"finding: {labels_lib.NO_FINDING}"] = none
  for key, names in (("sex", SEXES), ("view", VIEWS)):
    if key in labels:
      parts |= {f"{key}: {x}": labels[key] == i for i, x in enumerate(names)}
  if "age" in labels:
    age = np.asarray(labels["age"], np.float64)
    for low, high in AGE_BANDS:
      parts[f"age: {low}-{high - 1}"] = (age >= low) & (age < high)
  return parts


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LabelTable:
  """One row an image.

  Attributes:
    labels: [m ...] each, as `ImageSet.labels`, and condition [m] str.
    whole: whether each row must have an image; not so for NIH's table.
  """

  path: pathlib.Path
  rows: dict[str, int]
  labels: dict[str, np.ndarray]
  whole: bool
  vocabulary: tuple[str, ...] = metadata.FINDINGS


def stem(name: str | os.PathLike) -> str:
  """An image's id: its file name without the extension."""
  base = pathlib.PurePath(str(name).strip()).name
  for suffix in SUFFIXES:
    if base.lower().endswith(suffix):
      return base[: -len(suffix)]
  return base


def read_labels(path: str | os.PathLike) -> LabelTable:
  """Reads a CSV of labels.

  Findings are separated by `|` or by commas (in quotes), or `No Finding`; `Mass=?` is
  unknown, as are those in a column `Unknown Labels`; age is in years; sex F, M, or a
  word (`metadata.parse_sex`); view PA or AP; other values are unknown.

  Raises:
    errors.InputError: no such file, no rows, a column missing, an image named twice,
      an unknown finding, or a value that cannot be read; with counts and a line.
  """
  required = {key: ALIASES[key] for key in ("file", "findings")}
  cells = csv_table.read_table(path, required, ALIASES)
  ids = cells.ids("file", stem).tolist()
  vocabulary = metadata.FINDINGS
  parse_fns: dict[str, Callable[[str], object]] = {
    "findings": lambda text: labels_lib.parse(text, metadata.FINDINGS),
    "age": metadata.parse_age,
    "sex": metadata.parse_sex,
    "view": lambda text: _code(text, VIEWS),
    "patient": str,
    "condition": stem,
  }
  known: dict[str, np.ndarray] = {}
  if metadata.UNKNOWN_LABELS in cells.places:
    vocabulary = (*metadata.FINDINGS, *metadata.MORE_FINDINGS)
    findings = metadata.partly_known(cells, "findings", vocabulary)
    stated = base.stated(findings)
    known["findings"] = findings[:, stated]
    vocabulary = tuple(itertools.compress(vocabulary, stated))
    del parse_fns["findings"]
  known |= {
    key: np.array(cells.parse(key, parse_fn))
    for key, parse_fn in parse_fns.items()
    if key in cells.places
  }
  for key in ("sex", "view"):
    if key in known and (known[key] < 0).all() and any(cells.column(key)):
      first = cells.column(key)[0]
      logging.warning("%s: no %s can be read, such as %r", path, key, first)
  return LabelTable(
    path=pathlib.Path(path),
    rows={name: row for row, name in enumerate(ids)},
    labels=known,
    whole=cells.header[cells.places["file"]].casefold() != NIH_FILE,
    vocabulary=vocabulary,
  )


def label(images: ImageSet, table: LabelTable) -> ImageSet:
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
  return dataclasses.replace(images, labels=known, vocabulary=table.vocabulary)


def refuse_unmatched(table: LabelTable, sets: Sequence[ImageSet]) -> None:
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
