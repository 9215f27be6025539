"""A small dataset tree with the oddities of NIH's files, for tests of `data/`."""

from collections.abc import Callable
import dataclasses
from pathlib import Path

import numpy as np
from PIL import Image
import pytest

HEADER_2017 = (
  "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,"
  "View Position,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)
HEADER_2020 = HEADER_2017.replace("Gender", "Sex").removesuffix(",")
LABELS = (
  "No Finding",
  "Edema|Effusion",
  "Pleural_Thickening",
  "Hernia|Infiltration|Mass",
  "Cardiomegaly",
)
GOOGLE_HEADER = (
  f"{HEADER_2020},Fracture,Pneumothorax,Airspace opacity,Nodule or mass,Set Id"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SmallTree:
  """A tree on disk and what is in it.

  Attributes:
    root: its folder.
    ids: image names without extension, in the CSV's order.
    rows: the CSV's lines, without its header.
  """

  root: Path
  ids: tuple[str, ...]
  rows: tuple[str, ...]


def grey_image(index: int, size: int) -> np.ndarray:
  """[size size] uint8, another one for every index: a ramp with noise."""
  noise = np.random.default_rng(index).integers(0, 40, (size, size))
  ramp = np.linspace(0, 200, size)[:, np.newaxis] * (index % 7 + 1) / 7
  return (ramp + noise).astype(np.uint8)


@pytest.fixture
def make_tree(tmp_path: Path) -> Callable[..., SmallTree]:
  """Writes a tree below `tmp_path`: `make_tree(num_patients=10, per_patient=2, ...)`.

  Lists and Google labels (validation: patient 1, test: patient 2) on request.
  """

  def make(
    *,
    name: str = "tree",
    num_patients: int = 10,
    per_patient: int = 2,
    size: int = 24,
    lists: bool = True,
    google: bool = True,
    folder: str = "original/images_001/images",
  ) -> SmallTree:
    root = tmp_path / name
    images = root / folder
    images.mkdir(parents=True)
    ids, rows = [], []
    for index in range(num_patients * per_patient):
      patient, follow_up = divmod(index, per_patient)
      patient += 1
      ids.append(f"{patient:08d}_{follow_up:03d}")
      Image.fromarray(grey_image(index, size)).save(images / f"{ids[-1]}.png")
      rows.append(
        f"{ids[-1]}.png,{LABELS[index % 5]},{follow_up},{patient},{40 + index},"
        f"{'FM'[index % 2]},{['PA', 'AP'][patient % 2]},2500,2048,0.168,0.168,"
      )
    (root / "Data_Entry_2017.csv").write_text("\n".join([HEADER_2017, *rows, ""]))
    if lists:
      num_test = per_patient * (num_patients // 5)
      names = [f"{image_id}.png\n" for image_id in ids]
      (root / "test_list.txt").write_text("".join(names[-num_test:]))
      (root / "train_val_list.txt").write_text("".join(names[:-num_test]))
    if google:
      write_google_labels(root, rows[:1], rows[per_patient : per_patient + 1])
    return SmallTree(root=root, ids=tuple(ids), rows=tuple(rows))

  return make


def write_google_labels(root: Path, validation: list[str], test: list[str]) -> None:
  folder = root / "google-labels" / "four_findings_expert_labels"
  folder.mkdir(parents=True)
  for name, of_set in (("val", validation), ("test", test)):
    lines = [f"{row}NO,YES,NO,YES,{name}" for row in of_set]
    file = {"val": "validation_labels.csv", "test": "test_labels.csv"}[name]
    (folder / file).write_text("\n".join([GOOGLE_HEADER, *lines, ""]))
