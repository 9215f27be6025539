"""PadChest: 160,868 X-rays of 67,625 patients, with Spanish reports and label lists.

PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv, images flat or in folders 0..54

Source: Bustos et al., 1901.07441. Each report has a list of 174 findings and 19
diagnoses; those that a list does not name are absent. They are unknown where there is
no list or it says `exclude`, and, beside the named ones, where it says `unchanged` or
`suboptimal study`, or a label that leaves one open. There is no published split.
"""

import os
import re

from etils import epath
import numpy as np

from cxr_diffusion_jax.data import csv_table, file_search, reports
from cxr_diffusion_jax.data.sources import base, labelled
from cxr_diffusion_jax.data.sources.nih import metadata

PAGE = "https://bimcv.cipf.es/bimcv-projects/padchest/"
TABLE = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"

# Finding -> PadChest's labels that state it: the label of that name and the narrower
# ones below it in PadChest's tree.
FINDINGS = {
  "Atelectasis": (
    *("atelectasis", "total atelectasis", "lobar atelectasis", "segmental atelectasis"),
    *("laminar atelectasis", "round atelectasis", "atelectasis basal"),
  ),
  "Cardiomegaly": ("cardiomegaly",),
  "Consolidation": ("consolidation", "air bronchogram"),
  "Edema": ("pulmonary edema",),
  "Effusion": (
    *("pleural effusion", "loculated pleural effusion", "loculated fissural effusion"),
    *("hydropneumothorax", "empyema", "hemothorax"),
  ),
  "Emphysema": ("emphysema",),
  "Fibrosis": ("pulmonary fibrosis",),
  "Hernia": ("hiatal hernia",),
  "Infiltration": (
    *("infiltrates", "interstitial pattern", "ground glass pattern"),
    *("reticular interstitial pattern", "reticulonodular interstitial pattern"),
    *("miliary opacities", "alveolar pattern", "consolidation", "air bronchogram"),
  ),
  "Mass": ("mass", "pulmonary mass"),
  "Nodule": ("nodule", "multiple nodules"),
  "Pleural_Thickening": (
    *("pleural thickening", "apical pleural thickening"),
    "calcified pleural thickening",
  ),
  "Pneumonia": ("pneumonia", "atypical pneumonia"),
  "Pneumothorax": ("pneumothorax", "hydropneumothorax"),
  "Aortic_Elongation": (
    *("aortic elongation", "descendent aortic elongation"),
    *("ascendent aortic elongation", "aortic button enlargement"),
    "supra aortic elongation",
  ),
  "Bronchiectasis": ("bronchiectasis",),
  "COPD": ("copd signs",),
  "Fracture": (
    *("fracture", "clavicle fracture", "humeral fracture", "vertebral fracture"),
    *("rib fracture", "callus rib fracture"),
  ),
  "Granuloma": ("granuloma", "calcified granuloma"),
  "Scoliosis": ("scoliosis",),
  "Support_Devices": (
    *("electrical device", "dual chamber device", "single chamber device", "pacemaker"),
    *("dai", "artificial heart valve", "artificial mitral heart valve"),
    *("artificial aortic heart valve", "catheter", "central venous catheter"),
    "central venous catheter via subclavian vein",
    "central venous catheter via jugular vein",
    "central venous catheter via umbilical vein",
    *("reservoir central venous catheter", "nsg tube", "chest drain tube"),
    *("endotracheal tube", "tracheostomy tube", "gastrostomy tube"),
    "ventriculoperitoneal drain tube",
  ),
  "Tuberculosis": ("tuberculosis", "tuberculosis sequelae"),
}

# Finding -> labels that leave it open: it is unknown beside them.
LEFT_OPEN = {
  "Edema": ("heart insufficiency", "kerley lines"),
  "Effusion": ("costophrenic angle blunting",),
  "Emphysema": ("copd signs", "air trapping", "bullas"),
  "Fibrosis": ("post radiotherapy changes", "asbestosis signs"),
  "Nodule": ("pseudonodule", "granuloma", "calcified granuloma"),
}

VOCABULARY = tuple(FINDINGS)

# A text of a list, as Python and numpy write it.
_QUOTED = re.compile(r"""(['"])(.*?)\1""", re.DOTALL)

_ALL_UNKNOWN = ("exclude",)
_REST_UNKNOWN = ("unchanged", "suboptimal study")


def read_table(root: epath.Path, *, image_size: int) -> base.Table:
  """Reads PadChest, whole or in part, see `base.Source`."""
  del image_size  # There is one size only.
  path = labelled.need_file(root, TABLE, where=PAGE)
  wanted = ("ImageID", "PatientID", "Projection", "Labels")
  others = ("StudyDate_DICOM", "PatientBirth", "PatientSex_DICOM", "Report")
  table = csv_table.read_table(
    path, *({key: (key.casefold(),) for key in keys} for keys in (wanted, others))
  )
  ids = table.ids("ImageID", csv_table.stem)
  files = {
    csv_table.stem(name): name
    for name in file_search.find_files(root, labelled.IMAGES, depth=4)
  }
  image = [files.get(name) for name in ids.tolist()]
  sex = [-1] * len(ids)
  if "PatientSex_DICOM" in table.places:
    sex = table.parse("PatientSex_DICOM", metadata.parse_sex)
  return base.Table(
    vocabulary=VOCABULARY,
    origin=os.fspath(path),
    id=ids,
    patient=base.patient_numbers(table.column("PatientID")),
    findings=np.array(table.parse("Labels", parse_labels), np.float32),
    image=image,
    age=_ages(table),
    sex=np.array(sex, np.int8),
    view=np.array(table.parse("Projection", labelled.parse_view), np.int8),
    num_unlisted=len(files) - sum(name is not None for name in image),
    report=reports.by_id(ids, map(reports.without_marks, table.column("Report")))
    if "Report" in table.places
    else None,
  )


def parse_labels(text: str) -> np.ndarray:
  """Findings [k] of a list such as `['pleural effusion', 'loc basal']`.

  numpy's form without commas, `['nodule' 'fracture']`, is a list too.

  Raises:
    ValueError: no list of texts.
  """
  unknown = np.full(len(FINDINGS), np.nan, np.float32)
  if text.casefold() in ("", "nan", "[]"):
    return unknown
  if not re.fullmatch(r"\[[\s,]*\]", _QUOTED.sub("", text)):
    raise ValueError("a list such as ['normal']")
  names = {" ".join(name.casefold().split()) for _, name in _QUOTED.findall(text)}
  names.discard("")
  if not names or names & {*_ALL_UNKNOWN}:
    return unknown
  present = np.array([bool(names & {*own}) for own in FINDINGS.values()])
  is_open = np.array([bool(names & {*LEFT_OPEN.get(name, ())}) for name in FINDINGS])
  rest = np.where(is_open | bool(names & {*_REST_UNKNOWN}), np.nan, 0.0)
  return np.where(present, 1.0, rest).astype(np.float32)


def _ages(table: csv_table.CsvTable) -> np.ndarray:
  """[n] years from the year of birth to that of the study; nan unknown."""
  keys = ("StudyDate_DICOM", "PatientBirth")
  if not {*keys} <= {*table.places}:
    return np.full(len(table.rows), np.nan, np.float32)
  study, birth = (np.array(table.parse(key, _year), np.float32) for key in keys)
  age = study - birth
  return np.where((age >= 0) & (age <= 120), age, np.float32(np.nan))


def _year(text: str) -> float:
  return float(text[:4]) if text[:4].isdigit() else float("nan")
