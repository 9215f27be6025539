"""Reads NIH's tables: Data_Entry in all its forms, and BBox_List.

Data_Entry_2017.csv | Data_Entry_2017_v2020.csv | Kaggle's sample_labels.csv -> Entries
BBox_List_2017.csv -> id -> boxes as fractions of the image

The header holds commas inside brackets, `OriginalImage[Width,Height]`, which no quotes
protect: split at every comma, each bracket's halves become the names of two columns,
and that is how the rows are laid out.
"""

from collections.abc import Callable, Sequence
import dataclasses
import os
from pathlib import PurePath
import re

import numpy as np

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data import labels
from cxr_diffusion_jax.data.sources import base

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

# Boxes are in pixels of the 1024x1024 images that NIH publishes.
NIH_SIZE = 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entries:
  """One row an image, in the CSV's order; n rows.

  Attributes:
    id: [n] str, the image's name without extension.
    patient, age, sex, view: as in `base.Table`; ages above 120 are unknown.
    findings: [n 14] uint8, columns as in `FINDINGS`.
    has_reports: whether the CSV has a column `report`.
  """

  id: np.ndarray
  patient: np.ndarray
  age: np.ndarray
  sex: np.ndarray
  view: np.ndarray
  findings: np.ndarray
  has_reports: bool


def read_entries(path: str | os.PathLike) -> Entries:
  """Reads a Data_Entry CSV.

  Raises:
    InputError: no rows, a column or a cell missing, an image named twice, or a value
      that cannot be read; with the line's number.
  """
  rows = base.read_csv(path)
  if len(rows) < 2:
    raise errors.InputError(f"{path} has no rows", "a header and a row for each image")
  table = _Table(path=os.fspath(path), header=_header(rows[0]), rows=rows[1:])
  names = table.column("Image Index")
  ids = np.array([PurePath(name.strip()).stem for name in names], np.str_)
  refuse_duplicates(table.path, ids)
  return Entries(
    id=ids,
    patient=_patients(table, ids),
    age=np.array(table.parse("Patient Age", parse_age), np.float32),
    sex=np.array(table.parse("Patient Sex", _sex), np.int8),
    view=np.array(table.parse("View Position", _view), np.int8),
    findings=np.concatenate(table.parse("Finding Labels", _findings)),
    has_reports="report" in map(str.casefold, table.header),
  )


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
  for number, row in enumerate(base.read_csv(path)[1:], start=2):
    if not row:
      continue
    try:
      finding = labels.finding_index(row[1], FINDINGS)
      x, y, width, height = (float(cell) / NIH_SIZE for cell in row[2:6])
    except (ValueError, IndexError, errors.InputError) as error:
      raise errors.InputError(
        f"{path} line {number} is {','.join(row)!r}",
        "an image, a finding, and x, y, width, height",
      ) from error
    image_id = PurePath(row[0].strip()).stem
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Table:
  path: str
  header: dict[str, int]
  rows: list[list[str]]

  def column(self, name: str) -> list[str]:
    if name not in self.header:
      raise errors.InputError(
        f"{self.path} lacks the column {name!r}",
        f"NIH's Data_Entry columns; it has {', '.join(sorted(self.header))}",
        "take the CSV as NIH publishes it",
      )
    position = self.header[name]
    for number, row in enumerate(self.rows, start=2):
      if len(row) <= position:
        raise errors.InputError(
          f"{self.path} line {number} has {len(row)} cells",
          f"at least {position + 1}, up to {name!r}",
        )
    return [row[position] for row in self.rows]

  def parse(self, name: str, parse_fn: Callable[[str], object]) -> Sequence:
    values = []
    # Columns repeat few texts: each is parsed once.
    parsed: dict[str, object] = {}
    for number, text in enumerate(self.column(name), start=2):
      if text not in parsed:
        try:
          parsed[text] = parse_fn(text)
        except (ValueError, errors.InputError) as error:
          raise errors.InputError(
            f"{self.path} line {number}: {name!r} is {text!r}", str(error)
          ) from error
      values.append(parsed[text])
    return values


def _header(cells: list[str]) -> dict[str, int]:
  # Tools that quote the header keep `OriginalImage[Width,Height]` in one cell.
  names = ",".join(cells).split(",")
  known = "Image Index,Finding Labels,Patient ID,Patient Age,Patient Sex,View Position"
  aliases = {name.casefold(): name for name in known.split(",")}
  aliases["patient gender"] = "Patient Sex"
  header: dict[str, int] = {}
  for position, name in enumerate(names):
    name = name.strip()
    if name:
      header.setdefault(aliases.get(name.casefold(), name), position)
  return header


def refuse_duplicates(path: str | os.PathLike, ids: np.ndarray | Sequence[str]) -> None:
  """Raises InputError unless all ids of a table differ."""
  unique, counts = np.unique(ids, return_counts=True)
  if (counts > 1).any():
    raise errors.InputError(
      f"{path} names {(counts > 1).sum()} images twice, first {unique[counts > 1][0]}",
      "one row an image",
    )


def _patients(table: _Table, ids: np.ndarray) -> np.ndarray:
  if "Patient ID" in table.header:
    return np.array(table.parse("Patient ID", _integer), np.int32)
  patients = []
  for number, image_id in enumerate(ids.tolist(), start=2):
    if not re.match(r"\d{8}", image_id):
      raise errors.InputError(
        f"{table.path} line {number}: image {image_id!r} names no patient",
        "a column 'Patient ID', or names that begin with the patient's 8 digits",
      )
    patients.append(int(image_id[:8]))
  return np.array(patients, np.int32)


def _findings(text: str) -> np.ndarray:
  return labels.multi_hot([text], FINDINGS)


def _sex(text: str) -> int:
  return {"F": 0, "M": 1}.get(text.strip().upper()[:1], -1)


def _view(text: str) -> int:
  return {"PA": 0, "AP": 1}.get(text.strip().upper(), -1)


def _integer(text: str) -> int:
  try:
    return int(text)
  except ValueError as error:
    raise ValueError("an integer") from error
