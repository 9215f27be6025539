"""The tables beside a phantom tree's images, in the very forms that NIH and Google use.

facts of every image -> Data_Entry, BBox_List, google-labels, split lists, README
"""

import pathlib
from typing import TYPE_CHECKING

import numpy as np

from cxr_diffusion_jax import artifacts
from cxr_diffusion_jax.data.sources.base import EXPERT_FINDINGS
from cxr_diffusion_jax.data.sources.nih import metadata

if TYPE_CHECKING:
  from cxr_diffusion_jax.extras.phantom import tree as phantom_tree

Facts = list[artifacts.Json]

# The brackets' commas are not quoted in NIH's file, and a comma ends each line.
ENTRY_HEADER = (
  "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,"
  "View Position,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
BOX_HEADER = "Image Index,Finding Label,Bbox [x,y,w,h],,,"
READER_COLUMNS = (*EXPERT_FINDINGS[:3], "Nodule/mass")

_OPACITIES = {"Atelectasis", "Consolidation", "Edema", "Infiltration"}
_YES = {True: "YES", False: "NO"}

_README = """\
# Phantoms, not patients

These {num_images} chest X-rays of {size} x {size} pixels were computed from formulas,
seed {seed}, rendering {rendering}. No image, person, age, label or reader here is \
real. They exist to
try the software with; nothing about medicine can be learned from them, and they
are of no clinical use.

The layout and the tables have the form of NIH ChestX-ray14 and of Google's
expert labels, so that what reads this tree reads those too. Boxes are in pixels
of a 1024 x 1024 image, as NIH's are. Each PNG carries its facts in its text
`phantom`."""


def write_tables(
  root: pathlib.Path, plan: "phantom_tree.Plan", facts: Facts, settings: artifacts.Json
) -> None:
  """Writes all text files of a tree of n images with n facts, each whole or not."""
  rows = range(len(facts))
  entries = [_entry(plan, facts, row, settings["size"]) for row in rows]
  experts = root / "google-labels" / "four_findings_expert_labels"
  experts.mkdir(parents=True, exist_ok=True)
  files = {
    root / "Data_Entry_2017.csv": [f"{ENTRY_HEADER},", *(f"{e}," for e in entries)],
    root / "BBox_List_2017.csv": [BOX_HEADER, *_box_lines(plan, facts)],
    root / "train_val_list.txt": [plan.name(i) for i in rows if not plan.is_test[i]],
    root / "test_list.txt": [plan.name(i) for i in rows if plan.is_test[i]],
    experts / "individual_readers.csv": _reader_lines(plan, facts, settings["seed"]),
    root / "README.md": [_README.format(**settings)],
  }
  for name, set_id in (("validation", "val"), ("test", "test")):
    files[experts / f"{name}_labels.csv"] = [
      f"{ENTRY_HEADER},{','.join(EXPERT_FINDINGS)},Set Id",
      *(
        f"{entries[i]},{','.join(_YES[x] for x in _four_findings(facts[i]))},{set_id}"
        for i in rows
        if plan.expert[i] == name
      ),
    ]
  for path, lines in files.items():
    artifacts.write_text(path, "\n".join(lines) + "\n")


def _entry(plan: "phantom_tree.Plan", facts: Facts, row: int, size: int) -> str:
  fact = facts[row]
  spacing = round(10 * fact["pixel_cm"], 3)
  names = (plan.name(row), "|".join(fact["findings"]) or "No Finding")
  person = (plan.follow_up[row], plan.patient[row], fact["age"], fact["sex"])
  cells = (*names, *person, fact["view"], size, size, spacing, spacing)
  return ",".join(map(str, cells))


def _box_lines(plan: "phantom_tree.Plan", facts: Facts) -> list[str]:
  lines = []
  for row, fact in enumerate(facts):
    for finding, *box in fact["boxes"]:
      label = {"Infiltration": "Infiltrate"}.get(finding, finding)
      pixels = ",".join(f"{value * metadata.NIH_SIZE:.3f}" for value in box)
      lines.append(f"{plan.name(row)},{label},{pixels}")
  return lines


def _four_findings(fact: artifacts.Json) -> tuple[bool, bool, bool, bool]:
  """Columns as in `EXPERT_FINDINGS`; phantoms have no fractures."""
  present = set(fact["findings"])
  nodules = bool(present & {"Mass", "Nodule"})
  return False, "Pneumothorax" in present, bool(present & _OPACITIES), nodules


def _reader_lines(plan: "phantom_tree.Plan", facts: Facts, seed: int) -> list[str]:
  """Three readers an image, who err in 4 % and hedge in 4 % of their answers."""
  rng = np.random.default_rng([seed, 2**31 + 2])
  lines = [f"Reader ID,Image ID,Patient ID,{','.join(READER_COLUMNS)}"]
  for row in np.flatnonzero(plan.expert != "").tolist():
    for reader in rng.choice(11, 3, replace=False):
      answers = []
      for column, value in enumerate(_four_findings(facts[row])):
        draw = rng.random()
        # Only pneumothorax and nodules could be hedged.
        hedged = draw > 0.96 and column in (1, 3)
        answers.append("HEDGE" if hedged else _YES[value ^ (draw < 0.04)])
      cells = (4343880001 + reader, plan.name(row), plan.patient[row], *answers)
      lines.append(",".join(str(cell) for cell in cells))
  return lines
