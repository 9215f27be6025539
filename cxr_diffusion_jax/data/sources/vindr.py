"""VinDr-CXR: 18,000 PA X-rays in DICOM, labels and boxes by radiologists.

annotations/{image_labels,annotations}_{train,test}.csv, {train,test}/*.dicom

Source: Nguyen et al., 2012.15029. Three radiologists read each training image: a
finding that two or three name is present, one that nobody names is absent, one that a
single reader names is unknown. Test images have the consensus of five. A box is the
median of the readers', each around all of a reader's boxes of the finding. Nothing says
which images are of one patient, so each counts as a patient; sex and age are not read.
"""

from collections import defaultdict
import os

from etils import epath
import numpy as np

from cxr_diffusion_jax.data import csv_table, dicom, file_search, images
from cxr_diffusion_jax.data.sources import base, labelled

PAGE = "https://physionet.org/content/vindr-cxr/"

# VinDr's name in lower case -> finding; 22 with boxes, then 5 diagnoses.
FINDINGS = {
  "aortic enlargement": "Aortic_Enlargement",
  "atelectasis": "Atelectasis",
  "calcification": "Calcification",
  "cardiomegaly": "Cardiomegaly",
  "clavicle fracture": "Clavicle_Fracture",
  "consolidation": "Consolidation",
  "edema": "Edema",
  "emphysema": "Emphysema",
  "enlarged pa": "Enlarged_Pulmonary_Artery",
  "ild": "Interstitial_Lung_Disease",
  "infiltration": "Infiltration",
  "lung opacity": "Lung_Opacity",
  "lung cavity": "Lung_Cavity",
  "lung cyst": "Lung_Cyst",
  "mediastinal shift": "Mediastinal_Shift",
  "nodule/mass": "Nodule_or_Mass",
  "pleural effusion": "Effusion",
  "pleural thickening": "Pleural_Thickening",
  "pneumothorax": "Pneumothorax",
  "pulmonary fibrosis": "Fibrosis",
  "rib fracture": "Rib_Fracture",
  "other lesion": "Other_Lesion",
  "copd": "COPD",
  "lung tumor": "Lung_Tumor",
  "pneumonia": "Pneumonia",
  "tuberculosis": "Tuberculosis",
  "other disease": "Other_Disease",
}

VOCABULARY = tuple(FINDINGS.values())

PARTS = ("train", "test")

_PLACES = {name: place for place, name in enumerate(FINDINGS)}
_CORNERS = ("x_min", "y_min", "x_max", "y_max")


def read_table(root: epath.Path, *, image_size: int) -> base.Table:
  """Reads VinDr-CXR, whole or in part, see `base.Source`."""
  del image_size  # There is one size only.
  folder = root / "annotations" if (root / "annotations").is_dir() else root
  names = [f"image_labels_{part}.csv" for part in PARTS]
  first = labelled.need_file(folder, *names, where=PAGE)
  votes: dict[str, list[np.ndarray]] = {}
  parts: dict[str, str] = {}
  for part, name in zip(PARTS, names, strict=True):
    path = labelled.first_file(folder, name)
    for image_id, row in [] if path is None else _votes(path):
      votes.setdefault(image_id, []).append(row)
      parts[image_id] = part
  ids = np.array(list(votes), np.str_)
  findings = np.stack([_consensus(np.stack(rows)) for rows in votes.values()])
  files = {
    csv_table.stem(path): path
    for part in PARTS
    if (root / part).is_dir()
    for path in file_search.find_files(root / part, labelled.IMAGES)
  }
  image = [files.get(name) for name in ids.tolist()]
  both = {*parts.values()} == {*PARTS}
  return base.Table(
    vocabulary=VOCABULARY,
    origin=os.fspath(first),
    id=ids,
    patient=base.patient_numbers(ids.tolist()),
    findings=findings,
    image=image,
    age=np.full(len(ids), np.nan, np.float32),
    sex=np.full(len(ids), -1, np.int8),
    view=np.zeros(len(ids), np.int8),
    boxes=_boxes(root, folder, files, dict(zip(ids.tolist(), findings, strict=True))),
    official=np.array(list(parts.values()), np.str_) if both else None,
    split_note=" and ".join(names),
    num_unlisted=len(files) - sum(path is not None for path in image),
  )


def _votes(path: epath.Path) -> list[tuple[str, np.ndarray]]:
  """(image, findings [k]) of every row: one a reader, or a consensus."""
  # The two files differ in the spelling of the last.
  columns = {
    name: (name, f"{name}s") if name == "other disease" else (name,)
    for name in FINDINGS
  }
  table = csv_table.read_table(path, {"image_id": ("image_id",), **columns}, {})
  values = [table.parse(name, labelled.parse_label) for name in FINDINGS]
  rows = np.array(values, np.float32).T
  return list(zip(table.column("image_id"), rows, strict=True))


def _consensus(votes: np.ndarray) -> np.ndarray:
  """Findings [k] of readers' votes [r k]."""
  share = votes.mean(axis=0)
  result = np.full(votes.shape[1], np.nan, np.float32)
  result[share > 0.5] = 1
  result[share == 0] = 0
  return result


def _boxes(
  root: epath.Path,
  folder: epath.Path,
  files: dict[str, str],
  findings: dict[str, np.ndarray],
) -> dict[str, np.ndarray]:
  """Boxes of findings that are present, as fractions of the image."""
  by_reader: dict[str, dict[tuple[int, str], list[np.ndarray]]] = defaultdict(dict)
  for part in PARTS:
    path = labelled.first_file(folder, f"annotations_{part}.csv")
    for image_id, place, reader, box in [] if path is None else _rows(path):
      # Without the image, its size is unknown.
      known = image_id in files and image_id in findings
      if known and findings[image_id][place] == 1:
        by_reader[image_id].setdefault((place, reader), []).append(box)
  sizes = _sizes(root, {image_id: files[image_id] for image_id in by_reader})
  boxes = {}
  for image_id, readers in by_reader.items():
    of_finding: dict[int, list[np.ndarray]] = defaultdict(list)
    for (place, _), own in readers.items():
      around = labelled.boxes_of([(0, box) for box in own], 1)[0]
      of_finding[place].append(around)
    result = np.full((len(FINDINGS), 4), np.nan, np.float32)
    for place, own in of_finding.items():
      result[place] = np.median(own, axis=0) / np.tile(sizes[image_id], 2)
    boxes[image_id] = result
  return boxes


def _rows(path: epath.Path) -> list[tuple[str, int, str, np.ndarray]]:
  """(image, place of the finding, reader, box in pixels) of every box."""
  wanted = {key: (key,) for key in ("image_id", "class_name", *_CORNERS)}
  table = csv_table.read_table(path, wanted, {"rad_id": ("rad_id",)})
  readers = [""] * len(table.rows)
  if "rad_id" in table.places:
    readers = table.column("rad_id")
  corners = np.array([table.parse(key, labelled.number) for key in _CORNERS]).T
  rows = zip(
    *(table.column("image_id"), table.column("class_name"), readers, corners),
    strict=True,
  )
  return [
    (image_id, _PLACES[name], reader, np.concatenate([box[:2], box[2:] - box[:2]]))
    for image_id, name, reader, box in (
      (image_id, name.casefold(), reader, box) for image_id, name, reader, box in rows
    )
    if name in _PLACES and not np.isnan(box).any()
  ]


def _sizes(root: epath.Path, files: dict[str, str]) -> dict[str, tuple[float, float]]:
  """(width, height) in pixels of the DICOM files, to which boxes refer.

  Copies as PNG come with `train_meta.csv` and `test_meta.csv`, the sizes before.
  """
  sizes: dict[str, tuple[float, float]] = {}
  for part in PARTS:
    if path := labelled.first_file(root, f"{part}_meta.csv"):
      wanted = {key: (key,) for key in ("image_id", "dim0", "dim1")}
      table = csv_table.read_table(path, wanted, {})
      heights, widths = table.parse("dim0", float), table.parse("dim1", float)
      pairs = zip(widths, heights, strict=True)
      sizes.update(zip(table.column("image_id"), pairs, strict=True))
  rest = [image_id for image_id in files if image_id not in sizes]
  read = images.in_threads(lambda image_id: dicom.image_size(files[image_id]), rest)
  return sizes | dict(zip(rest, read, strict=True))
