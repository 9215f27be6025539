"""Any table of images: a CSV or parquet file beside a folder of PNG, JPEG or DICOM.

image, patient, findings, age, sex, view, report, split, boxes --columns--> Table

Only `image` and findings must be there. `config.data.columns` names columns that are
called otherwise: `image=Path,patient=Subject,findings=Edema|Effusion`.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import os

from etils import epath
import numpy as np

from cxr_diffusion_jax import errors, naming
from cxr_diffusion_jax.data import csv_table, labels, reports, settings
from cxr_diffusion_jax.data.sources import base, labelled
from cxr_diffusion_jax.data.sources.nih import metadata

VOCABULARY = ()
OPTIONS = ("columns",)

COLUMNS = (
  *("image", "patient", "findings", "age", "sex", "view", "report", "split", "boxes"),
)
TABLES = (".csv", ".csv.gz", ".tsv", ".parquet")

SPLITS = {
  **dict.fromkeys(("train", "training"), "train"),
  **dict.fromkeys(("validation", "validate", "valid", "val", "dev"), "validation"),
  **dict.fromkeys(("test", "testing"), "test"),
  "": "",
}

_EVERY = "*"

# Texts of a column of sexes that mean unknown or other, in lower case.
_NO_SEX = (
  *("u", "unk", "unknown", "o", "other", "x", "d", "n", "na", "n/a", "nan", "none"),
  *("-", "?", "not specified", "-1"),
)

_NO_PATIENTS = (
  "no column of patients: each image counts as one, so images of one person may be in"
  " two splits"
)


def read_vocabulary(root: epath.Path, *, columns: str = "") -> tuple[str, ...]:
  """The findings of a table, in its order of columns, or sorted from a list."""
  names, findings = _findings(_open(_find_table(root), columns))
  stated = zip(names, base.stated(findings), strict=True)
  return tuple(name for name, known in stated if known)


def read_table(root: epath.Path, *, image_size: int, columns: str = "") -> base.Table:
  """Reads a table and lists the images beside it, see `base.Source`.

  Args:
    root: the table, or a folder with one table.
    columns: assignments of columns, see `settings.DataSettings`.
  """
  del image_size  # There is one size only.
  path = _find_table(root)
  opened = _open(path, columns)
  table = opened.table
  cells = table.parse("image", _image)
  paths, num_files = labelled.find_images(path.parent, cells)
  vocabulary, findings = _findings(opened)
  ids = labelled.image_ids(cells)

  def parsed(key: str, parse_fn, default: object, dtype: type) -> np.ndarray:
    if key not in table.places:
      return np.full(len(ids), default, dtype)
    return np.array(table.parse(key, parse_fn), dtype)

  sex = parsed("sex", metadata.parse_sex, -1, np.int8)
  view, unread = labelled.views_of(table, "view")
  _check_codes(table, "sex", sex, "F or M", _NO_SEX)
  _check_codes(table, "view", view, "PA, AP or lateral")
  split = parsed("split", _split, "", np.str_)
  report, lost = None, ()
  if "report" in table.places:
    report, lost = reports.reports_of(table, "report", ids)
  return base.Table(
    vocabulary=vocabulary,
    origin=os.fspath(path),
    id=ids,
    patient=_patients(table, ids),
    findings=findings,
    image=paths,
    age=parsed("age", metadata.parse_age, np.nan, np.float32),
    sex=sex,
    view=view,
    boxes=_boxes(table, ids, vocabulary),
    official=split if "split" in table.places else None,
    split_note=f"column {opened.names.get('split', 'split')} of {path.name}",
    notes=_notes(opened, vocabulary) + unread + lost,
    num_unlisted=num_files - len({path for path in paths if path}),
    report=report,
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Opened:
  """A table, and the names that the config gives its columns."""

  table: csv_table.CsvTable
  names: Mapping[str, str]


def _find_table(root: epath.Path) -> epath.Path:
  if root.name.lower().endswith(TABLES):
    return root
  if not root.is_dir():
    kind = "not a folder" if root.exists() else "no such folder"
    raise errors.InputError(
      f"{kind}: data root {root}",
      "a CSV or parquet file, or a folder with one",
      "--config.data.root=FOLDER",
    )
  found = sorted(
    path
    for path in root.iterdir()
    if path.name.lower().endswith(TABLES) and not path.name.startswith(".")
  )
  if len(found) != 1:
    names = ", ".join(path.name for path in found) or "none"
    if not found and (sheets := sorted(root.glob("*.xls*"))):
      raise errors.InputError(
        f"{root} holds no table but {sheets[0].name}",
        f"one file that ends in {', '.join(TABLES)}",
        "save it by Excel's 'CSV UTF-8'",
      )
    raise errors.InputError(
      f"{root} holds {len(found)} tables: {names}",
      f"one file that ends in {', '.join(TABLES)}",
      "name the file itself: --config.data.root=FOLDER/NAME.csv",
    )
  return found[0]


def _open(path: epath.Path, columns: str) -> _Opened:
  names = settings.assignments("config.data.columns", columns)
  for key in names:
    naming.check("column of config.data.columns", key, COLUMNS)
  wanted = {key: (names.get(key, key).casefold(),) for key in COLUMNS}
  table = csv_table.read_table(path, {}, wanted)
  header = ", ".join(filter(None, table.header))
  absent = [key for key in names if key not in table.places and key != "findings"]
  if absent:
    raise errors.InputError(
      f"config.data.columns: {path} has no column {names[absent[0]]!r}",
      f"one of {header}",
      naming.nearest(names[absent[0]], table.header),
    )
  if "image" not in table.places:
    raise errors.InputError(
      f"{path} lacks the column 'image'; it has {header}",
      "a column of the names of images",
      f"if it is called {table.header[0]!r}:"
      f" --config.data.columns='image={table.header[0]}'",
    )
  return _Opened(table=table, names=names)


def _notes(opened: _Opened, vocabulary: Sequence[str]) -> tuple[str, ...]:
  """What the log says of columns."""
  table = opened.table
  notes = () if "patient" in table.places else (_NO_PATIENTS,)
  read = {table.header[place] for place in table.places.values()}
  asked = opened.names.get("findings", "").replace(_EVERY, labels.NO_FINDING)
  known = {labels.plain(name) for name in (*vocabulary, *asked.split("|"))}
  unread = (name for name in table.header if name and name not in read)
  rest = [name for name in unread if labels.plain(name) not in known]
  if rest:
    notes += (f"columns not read: {', '.join(rest)} (see config.data.columns)",)
  return notes


def _findings(opened: _Opened) -> tuple[tuple[str, ...], np.ndarray]:
  """The vocabulary, and findings [n k]."""
  table = opened.table
  text = opened.names.get("findings", "")
  if "findings" in table.places and not (text and _has_labels(table)):
    return labelled.findings_of_lists(table, "findings")
  if text == _EVERY:
    names = _columns_of_labels(table)
  else:
    names = [name.strip() for name in text.split("|") if name.strip()]
  if not names:
    found = _columns_of_labels(table)
    raise errors.InputError(
      f"{table.path} has no column 'findings'",
      "one with lists such as Edema|Effusion, or one column for each finding",
      f"--config.data.columns='findings={'|'.join(found) or 'NAME|NAME'}'",
    )
  known = [name.casefold() for name in table.header]
  for name in names:
    naming.check("finding of config.data.columns", name.casefold(), known)
  all_ = [*table.header, *known]
  places = {n: all_.index(n if n in all_ else n.casefold()) % len(known) for n in names}
  return labelled.findings_of_columns(dataclasses.replace(table, places=places))


def _has_labels(table: csv_table.CsvTable) -> bool:
  """Whether the column `findings` is one finding's labels, in place of lists."""
  cells = {text.casefold() for text in table.column("findings")}
  return cells <= {*labelled.LABELS} and cells != {""}


def _columns_of_labels(table: csv_table.CsvTable) -> list[str]:
  """Columns of 1, 0, -1 and blanks, but not of blanks alone."""
  taken = set(table.places.values())
  found = []
  for place, name in enumerate(table.header):
    values = {row[place].strip().casefold() for _, row in table.rows}
    known = values <= {*labelled.LABELS} and values & {"1", "1.0", "true"}
    if place not in taken and known:
      found.append(name)
  return found


def _patients(table: csv_table.CsvTable, ids: np.ndarray) -> np.ndarray:
  """Integers as they are, other names by a hash; a blank is a patient of its own."""
  if "patient" not in table.places:
    return base.patient_numbers([f"image {name}" for name in ids.tolist()])
  names = table.column("patient")
  numbers = {name: labelled.integer(name) for name in names}
  if None not in numbers.values() and len({*numbers.values()}) == len(numbers):
    return np.array([numbers[name] for name in names], np.int32)
  pairs = zip(names, ids.tolist(), strict=True)
  return base.patient_numbers([name or f"image {image_id}" for name, image_id in pairs])


def _image(text: str) -> str:
  if not text:
    raise ValueError("the name of an image in every row")
  return text


def _check_codes(
  table: csv_table.CsvTable,
  key: str,
  codes: np.ndarray,
  expected: str,
  unknown: Sequence[str] | None = None,
) -> None:
  """Refuses a column with text of which no cell is understood.

  Args:
    unknown: all texts that may mean unknown; with them, each other cell is refused
      that is not understood: beside `H`, `M` may mean `mujer`.
  """
  texts = table.column(key) if key in table.places else []
  header = table.header[table.places[key]] if texts else ""
  pairs = zip(texts, codes.tolist(), strict=False)
  rest = [text for text, code in pairs if code < 0 and text]
  if unknown is not None:
    rest = [text for text in rest if text.casefold() not in unknown]
  elif (codes >= 0).any():
    rest = []
  if rest:
    raise errors.InputError(
      f"{table.path}: {len(rest)} cells of {header!r} are not known, first {rest[0]}",
      expected,
      "translate the column, or name another: --config.data.columns",
    )


def _split(text: str) -> str:
  if text.casefold() not in SPLITS:
    raise ValueError("train, validation or test")
  return SPLITS[text.casefold()]


def _boxes(
  table: csv_table.CsvTable, ids: np.ndarray, vocabulary: Sequence[str]
) -> dict[str, np.ndarray]:
  """Boxes of cells such as `Mass 0.1 0.2 0.3 0.3|Nodule 0.5 0.5 0.1 0.1`."""
  if "boxes" not in table.places:
    return {}

  def parse(text: str) -> np.ndarray | None:
    rows = []
    for part in filter(str.strip, text.split("|")):
      name, *numbers = part.rsplit(maxsplit=4)
      box = np.array([labelled.number(text) for text in numbers])
      if len(box) != 4 or not ((box >= 0) & (box <= 1)).all():
        raise ValueError(
          "FINDING X Y WIDTH HEIGHT, separated by |, as fractions of the image"
        )
      rows.append((labels.finding_index(name, vocabulary), box))
    return labelled.boxes_of(rows, len(vocabulary)) if rows else None

  parsed = zip(ids.tolist(), table.parse("boxes", parse), strict=True)
  return {image_id: boxes for image_id, boxes in parsed if boxes is not None}
