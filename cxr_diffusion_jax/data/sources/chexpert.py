"""CheXpert: 224,316 X-rays of 65,240 patients, labels 1, 0, -1 (uncertain) or blank.

train.csv, valid.csv, test.csv (Path, Sex, Age, Frontal/Lateral, AP/PA, 14 labels)

Source: Irvin et al., 1901.07031; CheXpert Plus (2405.19538) adds reports. Uncertain and
blank labels are unknown. `No Finding` is labelled where no pathology is mentioned as
present or uncertain; the paper intends it "to capture the absence of all pathologies".
So blanks beside it are absences, except of `Support Devices`. Where a pathology is
present beside it, that counts, and blanks stay unknown.
"""

from collections.abc import Sequence
import re

from etils import epath
import numpy as np

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data import csv_table, reports
from cxr_diffusion_jax.data.sources import base, labelled
from cxr_diffusion_jax.data.sources.nih import metadata

PAGE = "https://stanfordmlgroup.github.io/competitions/chexpert/"

NO_FINDING = "No Finding"

# Label of CheXpert and MIMIC-CXR -> finding.
FINDINGS = {
  "Atelectasis": "Atelectasis",
  "Cardiomegaly": "Cardiomegaly",
  "Consolidation": "Consolidation",
  "Edema": "Edema",
  "Enlarged Cardiomediastinum": "Enlarged_Cardiomediastinum",
  "Fracture": "Fracture",
  "Lung Lesion": "Lung_Lesion",
  "Lung Opacity": "Lung_Opacity",
  "Pleural Effusion": "Effusion",
  "Pleural Other": "Other_Pleural_Abnormality",
  "Pneumonia": "Pneumonia",
  "Pneumothorax": "Pneumothorax",
  "Support Devices": "Support_Devices",
}

VOCABULARY = tuple(FINDINGS.values())

# Part of the published split -> names of its table.
_PARTS = {
  "train": ("train.csv",),
  "validation": ("valid.csv",),
  "test": ("test.csv", "test_labels.csv", "groundtruth.csv"),
}


def read_table(root: epath.Path, *, image_size: int) -> base.Table:
  """Reads `CheXpert-v1.0`, its small copy, or a part of either, see `base.Source`."""
  del image_size  # There is one size only.
  first = labelled.need_file(root, "train.csv", "valid.csv", where=PAGE)
  found = {part: labelled.first_file(root, *names) for part, names in _PARTS.items()}
  tables = {part: _read(path) for part, path in found.items() if path is not None}
  paths = [path for table in tables.values() for path in _paths(table)]
  parts = [part for part, table in tables.items() for _ in table.rows]
  if "test" not in tables and "train" in tables:
    # Its labels are three radiologists', and all that is held out of most downloads.
    parts = ["test" if part == "validation" else part for part in parts]
  ids = np.array([_id(path) for path in paths], np.str_)

  def column(key: str, parse_fn, default: float) -> list[float]:
    values: list[float] = []
    for table in tables.values():
      known = key in table.places
      values += table.parse(key, parse_fn) if known else [default] * len(table.rows)
    return values

  frontal = np.array(column("Frontal/Lateral", labelled.parse_view, -1))
  view = np.array(column("AP/PA", labelled.parse_view, -1))
  in_name = np.array([path.endswith("lateral") for path in map(_stem, paths)])
  is_lateral = (frontal == base.LATERAL) | in_name
  labels = [findings_of(table) for table in tables.values()]
  files = " and ".join(path.name for path in found.values() if path is not None)
  return base.Table(
    vocabulary=VOCABULARY,
    origin=str(first),
    id=ids,
    patient=np.array([_patient(path) for path in paths], np.int32),
    findings=np.concatenate([findings for findings, _ in labels]),
    image=labelled.existing(root, paths),
    age=np.array(column("Age", metadata.parse_age, np.nan), np.float32),
    sex=np.array(column("Sex", metadata.parse_sex, -1), np.int8),
    view=np.where(is_lateral, base.LATERAL, view).astype(np.int8),
    official=np.array(parts, np.str_) if {*parts} != {"validation"} else None,
    split_note=f"{files}{'' if 'test' in tables else ', valid.csv as test'}",
    notes=tuple(note for _, notes in labels for note in notes),
    report=_reports(root, ids, paths),
  )


def findings_of(table: csv_table.CsvTable) -> tuple[np.ndarray, tuple[str, ...]]:
  """Reads the labels of a table.

  Returns:
    Findings [n k] of `FINDINGS`, and a note on rows that contradict themselves.

  Raises:
    InputError: no column of labels, or a cell that is no label.
  """
  if not {*FINDINGS} & {*table.places}:
    raise errors.InputError(
      f"{table.path} has no labels", f"columns such as {', '.join(list(FINDINGS)[:3])}"
    )
  values = [
    table.parse(name, labelled.parse_label)
    if name in table.places
    else [float("nan")] * len(table.rows)
    for name in FINDINGS
  ]
  findings = np.array(values, np.float32).T
  if NO_FINDING not in table.places:
    return findings, ()
  none = np.array(table.parse(NO_FINDING, labelled.parse_label)) == 1
  pathology = np.array([name != "Support Devices" for name in FINDINGS])
  wrong = none & (findings[:, pathology] == 1).any(axis=1)
  for column in np.flatnonzero(pathology):
    absent = none & ~wrong
    if (name := list(FINDINGS)[column]) in table.places:
      absent &= np.array(table.parse(name, labelled.is_blank))
    findings[absent, column] = 0
  if not wrong.any():
    return findings, ()
  note = (
    f"{table.path} has {np.count_nonzero(wrong)} rows with {NO_FINDING} and a"
    f" pathology, first line {table.rows[np.argmax(wrong)][0]}: the pathology counts,"
    " and blanks stay unknown"
  )
  return findings, (note,)


def label_columns() -> dict[str, tuple[str, ...]]:
  """Key -> name in lower case of the columns that `findings_of` reads."""
  return {name: (name.casefold(),) for name in (*FINDINGS, NO_FINDING)}


def _read(path: epath.Path) -> csv_table.CsvTable:
  others = ("Sex", "Age", "Frontal/Lateral", "AP/PA")
  optional = {name: (name.casefold(),) for name in others} | label_columns()
  return csv_table.read_table(path, {"Path": ("path",)}, optional)


def _paths(table: csv_table.CsvTable) -> list[str]:
  """Paths below the root: without the name of the version's folder."""

  def parse(text: str) -> str:
    path = _VERSION.sub("", text)
    if _PATH.search(path) is None:
      raise ValueError("FOLDER/patientNUMBER/studyNUMBER/NAME.jpg")
    return path

  return table.parse("Path", parse)


_VERSION = re.compile(r"^CheXpert[^/]*/")
_PATH = re.compile(r"patient(\d{1,9})/(study\d+)/([^/]+)$")


def _id(path: str) -> str:
  """`patient00001-study1-view1_frontal`."""
  return "-".join(path.rsplit("/", 3)[1:]).rpartition(".")[0]


def _stem(path: str) -> str:
  return path.rpartition(".")[0]


def _patient(path: str) -> int:
  match = _PATH.search(path)
  assert match is not None
  return int(match[1])


def _reports(
  root: epath.Path, ids: np.ndarray, paths: Sequence[str]
) -> dict[str, str] | None:
  """Reports of CheXpert Plus, if its table is beside the others."""
  found = sorted(root.glob("df_chexpert_plus*.csv"))
  if not found:
    return None
  keys = ("findings", "impression")
  table = csv_table.read_table(
    found[-1],
    {"path": ("path_to_image",), **{key: (f"section_{key}",) for key in keys}},
    {},
  )
  rows = zip(*(table.column(key) for key in keys), strict=True)
  texts = {
    _stem(_VERSION.sub("", path)): reports.without_marks(" ".join(filter(None, row)))
    for path, row in zip(table.column("path"), rows, strict=True)
  }
  return reports.by_id(ids, [texts.get(_stem(path), "") for path in paths])
