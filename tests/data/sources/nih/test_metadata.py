"""NIH's tables: all forms read alike, bad lines are named."""

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


BOX_HEADER = "Image Index,Finding Label,Bbox [x,y,w,h],,,\n"


def write(tmp_path, text: str):
  path = tmp_path / "Data_Entry_2017.csv"
  path.write_text(text)
  return path


@pytest.mark.parametrize(
  "text",
  [FORM_2017, FORM_2020, FORM_QUOTED, FORM_KAGGLE, "\ufeff" + FORM_2017],
  ids=["2017", "2020", "quoted", "kaggle", "byte-order mark"],
)
def test_read_entries_reads_all_forms_alike(tmp_path, text):
  entries = metadata.read_entries(write(tmp_path, text))
  assert entries.id.tolist() == ["00000001_000", "00000002_003"]
  assert entries.patient.tolist() == [1, 2]
  np.testing.assert_array_equal(entries.age, np.float32([58, np.nan]))
  assert entries.sex.tolist() == [1, 0]
  assert entries.view.tolist() == [0, 1]
  assert entries.findings.shape == (2, 14)
  assert np.flatnonzero(entries.findings[0]).tolist() == [3, 4]
  assert not entries.findings[1].any()


def test_columns_that_are_optional_may_be_missing(tmp_path):
  text = (
    "Image Index,Finding Labels,Patient Age,Patient Sex,View Position\n"
    "00000007_001.png,Mass,60,U,LL\n"
  )
  entries = metadata.read_entries(write(tmp_path, text))
  assert entries.patient.tolist() == [7]
  assert (entries.sex[0], entries.view[0]) == (-1, -1)


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
def test_parse_age_reads_all_units(text, years):
  np.testing.assert_allclose(metadata.parse_age(text), years)


@pytest.mark.parametrize(
  ("sex", "texts"),
  [
    (0, ("F", " female ", "Woman")),
    (1, ("m", "MALE", "man")),
    (-1, ("", "Missing", "FALSE", "masked")),
  ],
)
def test_parse_sex_reads_whole_words_alone(sex, texts):
  assert {metadata.parse_sex(text) for text in texts} == {sex}


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
def test_read_entries_names_bad_lines(tmp_path, old, new, message):
  assert old in FORM_2017
  path = write(tmp_path, FORM_2017.replace(old, new))
  with pytest.raises(errors.InputError, match=message):
    metadata.read_entries(path)


def test_read_entries_refuses_an_empty_csv(tmp_path):
  with pytest.raises(errors.InputError, match="has no rows"):
    metadata.read_entries(write(tmp_path, FORM_2017.splitlines()[0] + "\n"))


def test_read_entries_refuses_images_without_a_patient(tmp_path):
  text = (
    "Image Index,Finding Labels,Patient Age,Patient Sex,View Position\n"
    "chest.png,Mass,60,M,PA\n"
  )
  with pytest.raises(errors.InputError, match=r"'chest\.png'.*the patient's 8 digits"):
    metadata.read_entries(write(tmp_path, text))


def test_read_entries_reads_the_real_csv(nih_cxr_mini):
  entries = metadata.read_entries(layout.find_tree(nih_cxr_mini).data_entry)
  assert len(entries.id) == 799
  named = np.array([int(image_id[:8]) for image_id in entries.id])
  np.testing.assert_array_equal(entries.patient, named)
  assert np.nanmax(entries.age) <= 95
  assert set(entries.view.tolist()) == {0, 1}
  assert set(entries.sex.tolist()) == {0, 1}
  # About half are `No Finding`, half carry `Pneumonia`, as the tree's README says.
  assert 0.4 < entries.findings.any(axis=1).mean() < 0.6


def test_read_boxes_orders_them_by_finding(tmp_path):
  path = tmp_path / "BBox_List_2017.csv"
  path.write_text(
    f"{BOX_HEADER}00000001_000.png,Infiltrate,1.5,2,30,40,,,\n"
    "00000001_000.png,Mass,5,6,7,8\n\n00000002_000.png,Mass,100,100,50,50\n"
    "00000002_000.png,Mass,200,80,10,10\n"
  )
  read = metadata.read_boxes(path)
  assert sorted(read) == ["00000001_000", "00000002_000"]
  infiltration = metadata.FINDINGS.index("Infiltration")
  mass = metadata.FINDINGS.index("Mass")
  assert read["00000001_000"][infiltration].tolist() == [
    1.5 / 1024,
    2 / 1024,
    30 / 1024,
    40 / 1024,
  ]
  assert read["00000001_000"][mass].tolist() == [5 / 1024, 6 / 1024, 7 / 1024, 8 / 1024]
  assert np.isnan(read["00000001_000"]).all(axis=1).sum() == 12
  # Two of one finding: the box around both.
  np.testing.assert_allclose(
    read["00000002_000"][mass] * 1024, [100, 80, 110, 70], rtol=1e-6
  )


@pytest.mark.parametrize("line", ["a.png,Mass,1,2,3", "a.png,Flu,1,2,3,4", "a.png"])
def test_read_boxes_names_bad_lines(tmp_path, line):
  path = tmp_path / "boxes.csv"
  path.write_text(BOX_HEADER + line + "\n")
  with pytest.raises(errors.InputError, match=r"boxes.csv line 2"):
    metadata.read_boxes(path)


def test_read_boxes_reads_the_real_file(nih_cxr_mini):
  read = metadata.read_boxes(layout.find_tree(nih_cxr_mini).boxes)
  assert sum(np.isfinite(boxes).all(axis=1).sum() for boxes in read.values()) == 45
  for boxes in read.values():
    assert np.nanmin(boxes) >= 0
    assert np.nanmax(boxes[:, :2] + boxes[:, 2:]) <= 1 + 1e-6
