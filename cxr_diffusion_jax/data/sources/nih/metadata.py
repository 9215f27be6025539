"""Reads NIH's tables: Data_Entry in all its forms, and BBox_List.

Data_Entry_2017.csv | Data_Entry_2017_v2020.csv | Kaggle's sample_labels.csv -> Entries
BBox_List_2017.csv -> id -> boxes as fractions of the image

The header holds commas inside brackets, `OriginalImage[Width,Height]`, which no quotes
protect: split at every comma, each bracket's halves become the names of two columns,
and that is how the rows are laid out.
"""

import dataclasses
import os
import re

import numpy as np

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data import csv_table, labels

# Wang et al., "ChestX-ray8", CVPR 2017, in alphabetical order.
FINDINGS = (
  "Atelectasis",
  "Cardiomegaly",
  "Consolidation",
  "Edema",
  "Effusion",
  "Emphysema",
  "Fibrosis",
  "Hernia",
  "Infiltration",
  "Mass",
  "Nodule",
  "Pleural_Thickening",
  "Pneumonia",
  "Pneumothorax",
)

# Findings beyond NIH's that a Data_Entry CSV with `Unknown Labels` may state.
MORE_FINDINGS = ("Airspace_Opacity", "Fracture")

# The file of the subset's expert labels, which `download.google_subset` writes.
SUBSET_LABELS = "cxr14_subset_validation_labels.csv"

# Column of the findings that are unknown, which the others of a row are then not.
UNKNOWN_LABELS = "Unknown Labels"

_COLUMNS = {
  "Image Index": ("image index",),
  "Finding Labels": ("finding labels",),
  "Patient Age": ("patient age",),
  "Patient Sex": ("patient sex", "patient gender"),
  "View Position": ("view position",),
}

# Boxes are in pixels of the 1024x1024 images that NIH publishes.
NIH_SIZE = 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entries:
  """One row an image, in the CSV's order; n rows.

  Attributes:
    id: [n] str, the image's name without extension.
    patient, age, sex, view: as in `base.Table`; ages above 120 are unknown.
    vocabulary: `FINDINGS`; of a CSV with a column `Unknown Labels` also
      `MORE_FINDINGS`.
    findings: [n k] uint8; with that column float32, nan unknown.
  """

  id: np.ndarray
  patient: np.ndarray
  age: np.ndarray
  sex: np.ndarray
  view: np.ndarray
  findings: np.ndarray
  has_reports: bool
  vocabulary: tuple[str, ...] = FINDINGS


def read_entries(path: str | os.PathLike) -> Entries:
  """Reads a Data_Entry CSV.

  Raises:
    InputError: see `csv_table.read_table`; or an image named twice, or a value that
      cannot be read; with the line's number.
  """
  optional = {
    "Patient ID": ("patient id",),
    "report": ("report",),
    UNKNOWN_LABELS: (UNKNOWN_LABELS.casefold(),),
  }
  table = csv_table.read_table(path, _COLUMNS, optional)
  ids = table.ids("Image Index", csv_table.stem)
  if "Patient ID" in table.places:
    patients = table.parse("Patient ID", _integer)
  else:
    patients = table.parse("Image Index", _patient)
  vocabulary = FINDINGS
  if UNKNOWN_LABELS in table.places:
    vocabulary = (*FINDINGS, *MORE_FINDINGS)
    findings = partly_known(table, "Finding Labels", vocabulary)
  else:
    parsed = table.parse("Finding Labels", lambda text: labels.parse(text, FINDINGS))
    findings = np.stack(parsed)
  return Entries(
    id=ids,
    patient=np.array(patients, np.int32),
    age=np.array(table.parse("Patient Age", parse_age), np.float32),
    sex=np.array(table.parse("Patient Sex", parse_sex), np.int8),
    view=np.array(table.parse("View Position", _view), np.int8),
    findings=findings,
    has_reports="report" in table.places,
    vocabulary=vocabulary,
  )


def partly_known(
  table: csv_table.CsvTable, key: str, vocabulary: tuple[str, ...]
) -> np.ndarray:
  """Reads findings of a table with a column `UNKNOWN_LABELS`.

  Args:
    key: of the column of the findings that are present; either cell may be blank.

  Returns:
    [n k] float32, nan unknown.

  Raises:
    InputError: an unknown name, or a row whose columns do not agree; with its line.
  """

  def parse(text: str) -> np.ndarray:
    return labels.parse(text or labels.NO_FINDING, vocabulary)

  present = np.stack(table.parse(key, parse)).astype(np.float32)
  unknown = np.stack(table.parse(UNKNOWN_LABELS, parse)) > 0.5
  blank = np.array([not text for text in table.column(key)])
  for wrong, why in (
    ((present > 0.5) & unknown, "a finding that is present is not unknown"),
    ((blank & ~unknown.any(axis=1))[:, None], f"findings, or {labels.NO_FINDING}"),
  ):
    if wrong.any():
      number, _ = table.rows[int(np.flatnonzero(wrong.any(axis=1))[0])]
      raise errors.InputError(
        f"{table.path} line {number}, columns {table.header[table.places[key]]!r} and"
        f" {UNKNOWN_LABELS!r}",
        why,
      )
  return np.where(unknown, np.nan, present)


def has_unknown(path: str | os.PathLike) -> bool:
  """Whether a Data_Entry CSV may have the column `Unknown Labels`, by its beginning."""
  return UNKNOWN_LABELS.casefold() in csv_table.read_text(path)[:4096].casefold()


def read_boxes(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Reads a box file: `Image Index,Finding Label,Bbox [x,y,w,h],,,`.

  Several boxes of one finding on one image become the smallest box around all of them.

  Returns:
    Image name without extension -> [14 4] float32, (x, y, width, height) as fractions
    of the image; nan where a finding has no box.

  Raises:
    InputError: a line that cannot be read.
  """
  boxes: dict[str, np.ndarray] = {}
  for number, row in csv_table.read_rows(path)[1:]:
    try:
      finding = labels.finding_index(row[1], FINDINGS)
      x, y, width, height = (float(cell) / NIH_SIZE for cell in row[2:6])
    except (ValueError, IndexError, errors.InputError) as error:
      raise errors.InputError(
        f"{path} line {number} is {','.join(row)!r}",
        "an image, a finding, and x, y, width, height",
      ) from error
    image_id = csv_table.stem(row[0])
    of_image = boxes.setdefault(
      image_id, np.full((len(FINDINGS), 4), np.nan, np.float32)
    )
    old = of_image[finding]
    if np.isnan(old).any():
      of_image[finding] = x, y, width, height
      continue
    low = np.minimum(old[:2], [x, y])
    high = np.maximum(old[:2] + old[2:], [x + width, y + height])
    of_image[finding] = np.concatenate([low, high - low])
  return boxes


def parse_age(text: str) -> float:
  """Reads an age: `58`, `058Y`, `011M` (months), `003W`, `009D`.

  Returns:
    Years; nan where the text is empty or the age impossible (above 120, such as 414).

  Raises:
    ValueError: not an age.
  """
  text = text.strip().upper()
  if text in ("", "NAN", "UNKNOWN"):
    return float("nan")
  match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([YMWD]?)", text)
  if match is None:
    raise ValueError("an age in years, such as 58 or 058Y")
  units = {"": 1.0, "Y": 1.0, "M": 12.0, "W": 52.18, "D": 365.25}
  years = float(match[1]) / units[match[2]]
  return years if years <= 120.0 else float("nan")


def parse_sex(text: str) -> int:
  """0 for F, female or woman, 1 for M, male or man, in any case; -1 for other texts."""
  words = {"F": 0, "FEMALE": 0, "WOMAN": 0, "M": 1, "MALE": 1, "MAN": 1}
  return words.get(text.strip().upper(), -1)


def _patient(name: str) -> int:
  if not re.match(r"\d{8}", name):
    raise ValueError(
      "names that begin with the patient's 8 digits, or a column 'Patient ID'"
    )
  return int(name[:8])


def _view(text: str) -> int:
  return {"PA": 0, "AP": 1}.get(text.upper(), -1)


def _integer(text: str) -> int:
  if not re.fullmatch(r"\d{1,10}", text.strip()) or int(text) >= 2**31:
    raise ValueError("a whole number below 2147483648")
  return int(text)
