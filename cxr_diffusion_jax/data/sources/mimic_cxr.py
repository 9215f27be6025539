"""MIMIC-CXR-JPG: 377,110 X-rays of 65,379 patients, with reports and labels of them.

mimic-cxr-2.0.0-{metadata,chexpert,split}.csv.gz, files/p10/p10000032/s50414267/*.jpg
reports: files/p10/p10000032/s50414267.txt, or mimic_cxr_sectioned.csv
age and sex: patients.csv.gz of MIMIC-IV, as MIMIC-CXR has neither

Source: Johnson et al., 1901.07042. Labels are CheXpert's, of a study's report: all of
its images share them; see `chexpert` for what they say.
"""

from collections.abc import Sequence
import os

from etils import epath
import numpy as np

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data import csv_table, images, reports
from cxr_diffusion_jax.data.sources import base, chexpert, labelled
from cxr_diffusion_jax.data.sources.nih import metadata

PAGE = "https://physionet.org/content/mimic-cxr-jpg/"
VOCABULARY = chexpert.VOCABULARY

_EXTENSIONS = (".jpg", ".png", ".dcm")
_PARTS = {"train": "train", "validate": "validation", "test": "test"}

# What some images have in place of `ViewPosition`, such as `postero-anterior`.
_VIEW_CODE = "ViewCodeSequence_CodeMeaning"

# Studies at which it is looked whether reports are there.
_SAMPLED = 256


def read_table(root: epath.Path, *, image_size: int) -> base.Table:
  """Reads a tree of PhysioNet, whole or in part, see `base.Source`."""
  del image_size  # There is one size only.
  path = labelled.need_file(root, _name("metadata"), where=PAGE)
  wanted = ("dicom_id", "subject_id", "study_id", "ViewPosition")
  optional = {key: (key.casefold(),) for key in ("StudyDate", _VIEW_CODE)}
  table = csv_table.read_table(
    path, {key: (key.casefold(),) for key in wanted}, optional
  )
  ids = table.ids("dicom_id", str)
  subjects, studies = table.column("subject_id"), table.column("study_id")
  folders = [
    f"p{subject[:2]}/p{subject}/s{study}"
    for subject, study in zip(subjects, studies, strict=True)
  ]
  age, sex = _people(root, table)
  findings, notes = _findings(root, studies)
  return base.Table(
    vocabulary=VOCABULARY,
    origin=os.fspath(path),
    id=ids,
    patient=np.array(table.parse("subject_id", _integer), np.int32),
    findings=findings,
    image=_images(root, folders, ids),
    age=age,
    sex=sex,
    view=_views(table),
    official=_split(root, ids),
    split_note=_name("split"),
    notes=notes,
    report=_reports(root, ids, folders),
  )


def _integer(text: str) -> int:
  number = labelled.integer(text)
  if number is None:
    raise ValueError("a whole number below 2147483648")
  return number


def _name(part: str) -> str:
  return f"mimic-cxr-2.0.0-{part}.csv"


def _images(
  root: epath.Path, folders: Sequence[str], ids: np.ndarray
) -> list[str | None]:
  """JPEGs as published, or copies as PNG or DICOM in the same folders."""
  files = root / "files" if (root / "files").is_dir() else root
  stems = [f"{folder}/{name}" for folder, name in zip(folders, ids, strict=True)]
  found: list[str | None] = [None] * len(stems)
  for extension in _EXTENSIONS:
    rows = [row for row, path in enumerate(found) if path is None]
    paths = labelled.existing(files, [f"{stems[row]}{extension}" for row in rows])
    for row, path in zip(rows, paths, strict=True):
      found[row] = path
  return found


def _views(table: csv_table.CsvTable) -> np.ndarray:
  view = np.array(table.parse("ViewPosition", labelled.parse_view), np.int8)
  if _VIEW_CODE not in table.places:
    return view
  coded = np.array(table.parse(_VIEW_CODE, labelled.parse_view), np.int8)
  return np.where(view < 0, coded, view)


def _findings(
  root: epath.Path, studies: Sequence[str]
) -> tuple[np.ndarray, tuple[str, ...]]:
  """[n k] the labels of each image's study, unknown where it has none; notes."""
  path = labelled.need_file(root, _name("chexpert"), where=PAGE)
  table = csv_table.read_table(
    path, {"study_id": ("study_id",)}, chexpert.label_columns()
  )
  unknown = np.full((1, len(VOCABULARY)), np.nan, np.float32)
  findings, notes = chexpert.findings_of(table)
  values = np.concatenate([findings, unknown])
  rows = {study: row for row, study in enumerate(table.column("study_id"))}
  if not {*studies} & {*rows}:
    raise errors.InputError(
      f"{path} names none of the studies of {_name('metadata')}, first {studies[0]}",
      f"its own study_id for each study; it begins with {next(iter(rows))}",
      "take both files as published",
    )
  return values[[rows.get(study, -1) for study in studies]], notes


def _split(root: epath.Path, ids: np.ndarray) -> np.ndarray | None:
  path = labelled.first_file(root, _name("split"))
  if path is None:
    return None
  wanted = {key: (key,) for key in ("dicom_id", "split")}
  table = csv_table.read_table(path, wanted, {})

  def parse(text: str) -> str:
    if text not in _PARTS:
      raise ValueError("train, validate or test")
    return _PARTS[text]

  names = table.column("dicom_id")
  parts = dict(zip(names, table.parse("split", parse), strict=True))
  return np.array([parts.get(name, "") for name in ids.tolist()], np.str_)


def _people(
  root: epath.Path, table: csv_table.CsvTable
) -> tuple[np.ndarray, np.ndarray]:
  """Age [n] and sex [n]; unknown without MIMIC-IV's table of patients."""
  age = np.full(len(table.rows), np.nan, np.float32)
  sex = np.full(len(table.rows), -1, np.int8)
  path = labelled.first_file(root, "patients.csv")
  if path is None:
    return age, sex
  wanted = ("subject_id", "gender", "anchor_age", "anchor_year")
  people = csv_table.read_table(path, {key: (key,) for key in wanted}, {})
  genders = people.parse("gender", metadata.parse_sex)
  births = np.subtract(
    people.parse("anchor_year", _integer), people.parse("anchor_age", _integer)
  )
  known = {
    subject: (gender, birth)
    for subject, gender, birth in zip(
      people.column("subject_id"), genders, births.tolist(), strict=True
    )
  }
  dates = table.column("StudyDate") if "StudyDate" in table.places else [""] * len(age)
  for row, subject in enumerate(table.column("subject_id")):
    if subject in known:
      sex[row], birth = known[subject]
      if dates[row][:4].isdigit():
        age[row] = max(0, int(dates[row][:4]) - birth)
  return age, sex


def _reports(
  root: epath.Path, ids: np.ndarray, folders: Sequence[str]
) -> dict[str, str] | None:
  """The report of each image's study."""
  if path := labelled.first_file(root, "mimic_cxr_sectioned.csv"):
    by_study = _sectioned(path)
  else:
    by_study = _texts(root, sorted({*folders}))
  if by_study is None:
    return None
  studies = [folder.rpartition("/")[2] for folder in folders]
  return reports.by_id(ids, [by_study.get(study, "") for study in studies])


def _sectioned(path: epath.Path) -> dict[str, str]:
  """Reports that the authors' program has cut into sections: study -> text."""
  keys = ("findings", "impression", "last_paragraph")
  table = csv_table.read_table(
    path, {"study": ("study",)}, {key: (key,) for key in keys}
  )
  columns = [
    table.column(key) if key in table.places else [""] * len(table.rows) for key in keys
  ]
  return {
    study: reports.without_marks(" ".join(filter(None, (findings, impression))) or last)
    for study, findings, impression, last in zip(
      table.column("study"), *columns, strict=True
    )
  }


def _texts(root: epath.Path, folders: Sequence[str]) -> dict[str, str] | None:
  """Reports in files of their own: study -> text; None if there seem to be none."""
  sample = folders[:: max(1, len(folders) // _SAMPLED)]
  for place in ("mimic-cxr-reports/files", "files", ""):
    if any((root / place / f"{folder}.txt").exists() for folder in sample):
      break
  else:
    return None

  def read(folder: str) -> str:
    path = root / place / f"{folder}.txt"
    return reports.report_text(csv_table.read_text(path)) if path.exists() else ""

  texts = images.in_threads(read, folders)
  return {
    folder.rpartition("/")[2]: text for folder, text in zip(folders, texts, strict=True)
  }
