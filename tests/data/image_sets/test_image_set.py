"""`data/image_sets/image_set.py`: unknown findings in groups and tables of labels."""

import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data import labels as labels_lib
from cxr_diffusion_jax.data.image_sets import image_set


def test_groups_of_unknown_findings_are_neither_present_nor_absent():
  findings = np.float32([[1, np.nan], [0, 0], [0, np.nan], [np.nan, 1]])
  images = image_set.ImageSet(
    name="some",
    images=np.zeros((4, 2, 2, 1), np.uint8),
    ids=np.array(list("abcd")),
    labels={"findings": findings},
    vocabulary=("Edema", "Mass"),
  )
  groups = {name: rows.tolist() for name, rows in image_set.groups(images).items()}
  assert groups == {
    "finding: Edema": [True, False, False, False],
    "finding: Mass": [False, False, False, True],
    "finding: No Finding": [False, True, False, False],
  }


def test_read_labels_reads_what_is_unknown(tmp_path):
  path = tmp_path / "labels.csv"
  text = (
    "file,findings,Unknown Labels\na,Edema|Fracture,Mass\nb,,Hernia\nc,No Finding,\n"
  )
  path.write_text(text, encoding="utf-8")
  table = image_set.read_labels(path)
  assert table.vocabulary[14:] == ("Airspace_Opacity", "Fracture")
  stated = [labels_lib.text_of(x, table.vocabulary) for x in table.labels["findings"]]
  assert stated == ["Edema|Mass=?|Fracture", "Hernia=?", "No Finding"]
  # A finding that is unknown in all rows is none of the table's.
  path.write_text(
    text.replace("Finding,\n", "Finding,Mass|Hernia\n").replace(
      "b,,Hernia", "b,,Hernia|Mass"
    ),
    encoding="utf-8",
  )
  assert "Mass" not in image_set.read_labels(path).vocabulary
  path.write_text(text.replace("Edema|", "Mass|"), encoding="utf-8")
  with pytest.raises(errors.InputError, match=r"line 2.*is not unknown"):
    image_set.read_labels(path)
  path.write_text(text.replace("Hernia", ""), encoding="utf-8")
  with pytest.raises(errors.InputError, match=r"line 3.*No Finding"):
    image_set.read_labels(path)
