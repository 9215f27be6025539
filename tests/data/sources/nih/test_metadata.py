"""`data/metadata.py`: all forms of the CSV read alike; bad lines are named."""

import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data.sources.nih import layout, metadata

FORM_2017 = (
  "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,"
  "View Position,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],\n"
  "00000001_000.png,Edema|Effusion,0,1,058,M,PA,2682,2749,0.143,0.171,\n"
  "00000002_003.png,No Finding,3,2,414,F,AP,2682,2749,0.143,0.171,\n"
)
FORM_2020 = FORM_2017.replace("Gender", "Sex").replace(",\n", "\n")
FORM_QUOTED = FORM_2020.replace(
  "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]",
  '"OriginalImage[Width,Height]","OriginalImagePixelSpacing[x,y]"',
)
FORM_KAGGLE = (
  FORM_2017.replace("[Width,Height]", "Width,OriginalImageHeight")
  .replace("Spacing[x,y]", "Spacing_x,OriginalImagePixelSpacing_y")
  .replace(",058,", ",058Y,")
)


def write(tmp_path, text: str):
  path = tmp_path / "Data_Entry_2017.csv"
  path.write_text(text)
  return path


@pytest.mark.parametrize(
  "text",
  [FORM_2017, FORM_2020, FORM_QUOTED, FORM_KAGGLE, "\ufeff" + FORM_2017],
  ids=["2017", "2020", "quoted", "kaggle", "byte-order mark"],
)
def test_all_forms_read_alike(tmp_path, text):
  entries = metadata.read_entries(write(tmp_path, text))
  assert entries.id.tolist() == ["00000001_000", "00000002_003"]
  assert entries.patient.tolist() == [1, 2]
  np.testing.assert_array_equal(entries.age, np.float32([58, np.nan]))
  assert entries.sex.tolist() == [1, 0]
  assert entries.view.tolist() == [0, 1]
  assert entries.follow_up.tolist() == [0, 3]
  assert entries.findings.shape == (2, 14)
  assert np.flatnonzero(entries.findings[0]).tolist() == [3, 4]
  assert not entries.findings[1].any()
  assert entries.width.tolist() == [2682, 2682]
  assert entries.height.tolist() == [2749, 2749]
  np.testing.assert_allclose(entries.spacing, [[0.143, 0.171]] * 2)


def test_columns_that_may_lack(tmp_path):
  text = (
    "Image Index,Finding Labels,Patient Age,Patient Sex,View Position\n"
    "00000007_001.png,Mass,60,U,LL\n"
  )
  entries = metadata.read_entries(write(tmp_path, text))
  assert entries.patient.tolist() == [7]
  assert (entries.sex[0], entries.view[0], entries.follow_up[0]) == (-1, -1, -1)
  assert np.isnan(entries.width[0])
  assert np.isnan(entries.spacing).all()


@pytest.mark.parametrize(
  ("text", "years"),
  [
    ("58", 58),
    ("058Y", 58),
    ("006M", 0.5),
    ("120", 120),
    ("414", np.nan),
    ("", np.nan),
    (" 7 ", 7),
  ],
)
def test_ages(text, years):
  np.testing.assert_allclose(metadata.parse_age(text), years)


def test_entries_take_rows_by_index_and_by_mask(tmp_path):
  entries = metadata.read_entries(write(tmp_path, FORM_2017))
  assert entries.take(np.array([1, 0])).id.tolist() == ["00000002_003", "00000001_000"]
  kept = entries.take(np.array([False, True]))
  assert len(kept) == 1
  assert kept.findings.shape == (1, 14)


@pytest.mark.parametrize(
  ("old", "new", "message"),
  [
    ("View Position", "Position", "lacks the column 'View Position'"),
    ("Finding Labels", "Labels", "lacks the column 'Finding Labels'"),
    ("Edema|Effusion", "Edema|Influenza", "line 2: 'Finding Labels'.*Influenza"),
    ("No Finding", "No Finding|Mass", "line 3: 'Finding Labels'"),
    (",058,", ",old,", "line 2: 'Patient Age' is 'old'"),
    (",1,058", ",one,058", "line 2: 'Patient ID' is 'one'"),
    ("00000002_003", "00000001_000", "names 1 images twice, first 00000001_000"),
    (",F,AP,2682,2749,0.143,0.171,", "", "line 3 has 5 cells"),
  ],
)
def test_bad_lines_are_named(tmp_path, old, new, message):
  assert old in FORM_2017
  path = write(tmp_path, FORM_2017.replace(old, new))
  with pytest.raises(errors.InputError, match=message):
    metadata.read_entries(path)


def test_empty_csv(tmp_path):
  with pytest.raises(errors.InputError, match="has no rows"):
    metadata.read_entries(write(tmp_path, FORM_2017.splitlines()[0] + "\n"))


def test_image_that_tells_no_patient(tmp_path):
  text = (
    "Image Index,Finding Labels,Patient Age,Patient Sex,View Position\n"
    "chest.png,Mass,60,M,PA\n"
  )
  with pytest.raises(errors.InputError, match="'chest' tells no patient"):
    metadata.read_entries(write(tmp_path, text))


def test_real_csv(nih_cxr_mini):
  entries = metadata.read_entries(layout.find_tree(nih_cxr_mini).data_entry)
  assert len(entries) == 799
  named = np.array([int(image_id[:8]) for image_id in entries.id])
  np.testing.assert_array_equal(entries.patient, named)
  assert np.nanmax(entries.age) <= 95
  assert set(entries.view.tolist()) == {0, 1}
  assert set(entries.sex.tolist()) == {0, 1}
  # About half are `No Finding`, half carry `Pneumonia`, as the tree's README says.
  assert 0.4 < entries.findings.any(axis=1).mean() < 0.6
